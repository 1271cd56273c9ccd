"""Measure the motion and consistency of frames without any network; independent of backbones and clips."""

from difftrack.quality._errors import QualityError
from difftrack.quality._intervals import Interval, mean_with_interval
from difftrack.quality._measures import VideoMeasures, measure_video
from difftrack.quality._vbench import VBENCH_DIMENSIONS, vbench_scores

__all__ = [
    "VBENCH_DIMENSIONS",
    "Interval",
    "QualityError",
    "VideoMeasures",
    "mean_with_interval",
    "measure_video",
    "vbench_scores",
]
