"""Which foreign clips to read, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FolderFormat", "FolderParams", "PointUnits", "QueryMode"]

FolderFormat = Literal["auto", "tapvid", "kinetics", "rgb_stacking", "robotap", "videos"]
"""`tapvid` and `rgb_stacking`: one pickle; `kinetics`: a folder of shards; `robotap`: either; `videos`: own files."""

PointUnits = Literal["auto", "px", "fraction"]
"""Units of annotation beside a video: pixels of its frames, or fractions of the frame as in TAP-Vid."""

QueryMode = Literal["first", "strided"]
"""`first`: every point from the first frame in which it is visible; `strided`: from every fifth frame where it is."""


@dataclass(frozen=True, slots=True)
class FolderParams:
    """Which foreign clips to read, and how.

    Raises:
        ValueError: a number is out of range.
    """

    path: Path
    """A pickle, a video, or a folder of shards, videos or images."""
    format: FolderFormat = "auto"
    """What lies at `path`; auto goes by names and content."""
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: a point is asked for where it is first seen, or again in every fifth frame (`strided`)."""
    start: int = 0
    """Clips to leave out at the beginning; clips are in the order of their names."""
    end: int | None = None
    """Number of the first clip to leave out at the end."""
    max_frames: int | None = None
    """Most frames per clip."""
    first_frame: int = 0
    """Frames of each video to leave out at its beginning."""
    every: int = 1
    """Take every so many frames of each video; it plays as much slower as it has fewer."""
    longest_side: int | None = None
    """Most pixels of the longer side of a video's frames, which are made smaller while they are decoded; points beside
    it keep the pixels of the file. Null keeps their size."""
    fps: float | None = None
    """Frames per second to play at; None for what the file says, and 24 where it says nothing."""
    prompts: Path | None = None
    """A text file with one prompt a line, in the order of the clips; blank lines and lines that begin with `#` do not
    count. Without it prompts are empty."""
    point_units: PointUnits = "auto"
    """Units of npz and csv annotation; TAP-Vid's pickles are always fractions."""
    skip: tuple[str, ...] = ()
    """Names of clips to leave out, such as those that a run could not use; the others keep their numbers."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"start={self.start}, end={self.end}; wanted: 0 <= start < end")
        if self.max_frames is not None and self.max_frames < 2:
            raise ValueError(f"max_frames is {self.max_frames}; tracking needs at least 2")
        if self.first_frame < 0 or self.every < 1:
            raise ValueError(f"first_frame={self.first_frame}, every={self.every}; wanted: 0 or more, and 1 or more")
        if self.longest_side is not None and self.longest_side < 16:
            raise ValueError(f"longest_side is {self.longest_side}; it must be at least 16 pixels")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be positive")
