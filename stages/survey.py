"""Stage: clips and tracks -> matches over the whole map of steps and layers, without storing descriptors.

The stage matches while the model runs and writes the same format as `match`, which `score` reads. The matches take
megabytes where descriptors would take terabytes.
"""

from difftrack.pipeline.survey import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
