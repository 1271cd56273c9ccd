"""Stage: params -> clips, rendered, sampled from a backbone, or read from the user's files."""

from difftrack.pipeline.synthesize import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
