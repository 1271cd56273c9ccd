"""Stage: the whole map of steps and layers, matched as the model computes it; no descriptor is kept.

Writes what `match` writes, so that `score` reads it, in megabytes where the descriptors would take terabytes.
"""

from difftrack.pipeline.survey import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
