"""The clips of a report; frames are read when they are drawn, so that many clips fit into memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from difftrack.datasets import Clip, Tracks

__all__ = ["ReportClips"]


@dataclass(frozen=True, slots=True, eq=False)
class ReportClips:
    """Clips by name with their truth."""

    truth: Mapping[str, Tracks]
    """Clip name -> its tracks, in the order of the report."""
    read: Callable[[str], Clip]
    """Clip name -> the clip."""
    kind: Callable[[str], str]
    """Clip name -> its source, such as `rendered/easy` or `generated`, without reading frames."""
