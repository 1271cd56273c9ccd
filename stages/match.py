"""Stage: descriptors of the analysis view + query points -> matches and attention of every step, layer and head."""

from difftrack.pipeline.match import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
