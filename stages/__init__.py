"""The pipeline: one thin module per DVC stage."""
