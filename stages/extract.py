"""Stage: clips -> descriptors of one backbone in one view; an interrupted run is resumed."""

from difftrack.pipeline.extract import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
