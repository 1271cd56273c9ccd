"""Stage: prompts + the best layers -> videos with and without cross-attention guidance, and their measures."""

from difftrack.pipeline.guide import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
