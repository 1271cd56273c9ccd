"""Stage: matches + tracks -> matching accuracy, confidence, attention score and their harmonic mean."""

from difftrack.pipeline.score import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
