"""Stage: descriptors of the tracking view -> tracks, and their TAP-Vid metrics beside those of baselines."""

from difftrack.pipeline.track import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
