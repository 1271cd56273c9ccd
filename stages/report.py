"""Stage: everything that earlier stages wrote -> one page, its figures and its videos."""

from difftrack.pipeline.report import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
