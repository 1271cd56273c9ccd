"""Which of the user's clips to read, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FolderFormat", "FolderParams", "PointUnits", "QueryMode"]

FolderFormat = Literal["auto", "tapvid", "kinetics", "rgb_stacking", "robotap", "videos"]
"""`tapvid` and `rgb_stacking`: one pickle; `kinetics`: a folder of shards; `robotap`: either; `videos`: video files."""

PointUnits = Literal["auto", "px", "fraction"]
"""Units of a video's annotation: pixels of its frames, or fractions of the frame as in TAP-Vid."""

QueryMode = Literal["first", "strided"]
"""`first`: query each point in the first frame in which it is visible; `strided`: in every fifth frame if visible."""


@dataclass(frozen=True, slots=True)
class FolderParams:
    """Which of the user's clips to read, and how.

    Raises:
        ValueError: a number is out of range.
    """

    path: Path
    """A pickle, a video, or a folder of shards, videos or images."""
    format: FolderFormat = "auto"
    """Format of `path`; `auto` detects it from names and content."""
    query_mode: QueryMode = "first"
    """TAP-Vid's protocols: `first` queries a point in its first visible frame, `strided` in every fifth frame."""
    start: int = 0
    """Number of clips to skip at the beginning; clips are sorted by name."""
    end: int | None = None
    """Index of the first clip that is not read; null reads to the end."""
    max_frames: int | None = None
    """Maximum number of frames per clip."""
    first_frame: int = 0
    """Number of frames to skip at the beginning of each video."""
    every: int = 1
    """Read only every `every`-th frame of each video; the frame rate decreases accordingly."""
    longest_side: int | None = None
    """Maximum length of the frames' longer side in pixels; frames are shrunk while they are decoded. Annotations stay
    in pixels of the file. Null keeps the size."""
    fps: float | None = None
    """Frames per second for playback; null uses the file's rate, or 24 if the file states none."""
    prompts: Path | None = None
    """A text file with one prompt per line, in the order of the clips; blank lines and lines that begin with `#` are
    ignored. Null gives empty prompts."""
    point_units: PointUnits = "auto"
    """Units of npz and csv annotations; TAP-Vid's pickles always contain fractions."""
    skip: tuple[str, ...] = ()
    """Names of clips to leave out, for example clips that cannot be used; the others keep their numbers."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"start={self.start}, end={self.end}; expected 0 <= start < end")
        if self.max_frames is not None and self.max_frames < 2:
            raise ValueError(f"max_frames is {self.max_frames}; tracking needs at least 2")
        if self.first_frame < 0 or self.every < 1:
            raise ValueError(
                f"first_frame={self.first_frame}, every={self.every}; expected first_frame >= 0, every >= 1"
            )
        if self.longest_side is not None and self.longest_side < 16:
            raise ValueError(f"longest_side is {self.longest_side}; it must be at least 16 pixels")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}; it must be positive")
