"""Stage: clips -> tracks, visibility and query points of every clip."""

from difftrack.pipeline.annotate import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
