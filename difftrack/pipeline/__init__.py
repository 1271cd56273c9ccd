"""The stages of the pipeline: each parses its params, opens what earlier stages wrote, calls the library and writes.

`python -m difftrack.pipeline STAGE ...` runs one; a checkout's dvc.yaml runs the same through `python -m stages.STAGE`.
Import the modules by name; this one imports none, so that a stage reaches the rooms that it needs and no more.
"""
