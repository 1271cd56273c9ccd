"""Distribute clips over parts, processes, GPUs and machines; the work on each clip is defined elsewhere."""

from difftrack.distribution._jobs import ClipWorker, Job, ProgressCallback
from difftrack.distribution._parts import PartError, part_of
from difftrack.distribution._run import run_clips

__all__ = ["ClipWorker", "Job", "PartError", "ProgressCallback", "part_of", "run_clips"]
