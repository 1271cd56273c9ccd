"""Stage: descriptors of the tracking view -> tracks, with TAP-Vid metrics of the tracker and of baselines."""

from difftrack.pipeline.track import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
