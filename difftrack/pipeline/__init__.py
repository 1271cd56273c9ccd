"""The stages of the pipeline. Each parses its params, reads earlier results, calls the library and writes its results.

`python -m difftrack.pipeline STAGE ...` runs one stage; a checkout's dvc.yaml uses `python -m stages.STAGE` instead.
Import the modules by name. This package imports none of them, so that a stage only depends on the rooms that it uses.
"""
