"""Stage: the results of all earlier stages -> one page with figures and videos."""

from difftrack.pipeline.report import main, run_stage

__all__ = ["main"]

if __name__ == "__main__":
    run_stage()
