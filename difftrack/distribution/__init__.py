"""Spreads clips over parts, processes, GPUs and machines; knows nothing of what is done with a clip."""

from difftrack.distribution._jobs import ClipWorker, Job, ProgressCallback
from difftrack.distribution._parts import PartError, part_of
from difftrack.distribution._run import run_clips

__all__ = ["ClipWorker", "Job", "PartError", "ProgressCallback", "part_of", "run_clips"]
