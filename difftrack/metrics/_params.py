"""Every choice in which scoring can depart from the paper, and the two presets that name a whole set of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from difftrack.params import parse

__all__ = ["CORRECTED", "RELEASED", "Convention", "ScoringParams"]

Convention = Literal["corrected", "released"]


@dataclass(frozen=True, slots=True)
class ScoringParams:
    """How matches become scores; the defaults are the `corrected` preset.

    Raises:
        ValueError: a number is out of its range.
    """

    threshold_px: float = 8.0
    """A match is right when it lies strictly closer to the truth, in pixels of the size that the backbone saw."""
    count_source_frame: bool = False
    """Count the frame of the query points, where the answer is given (B1)."""
    unseen_points: Literal["left_out", "counted"] = "left_out"
    """Points that are never visible when they would count: out of the mean, or in it, with 0 across frames (B3)."""
    decimals: int | None = None
    """Round every cell before anything is averaged, accuracy as percent; the released code keeps 4 decimals (B5)."""
    nan_cells: Literal["ignored", "spread"] = "ignored"
    """Cells without a value stay empty, or one of them empties a whole table or mean (B6, B7, B10)."""
    occlusion_accuracy: Literal["per_video", "per_batch"] = "per_video"
    """Whose evaluated points divide a video's right occlusions: its own, or those of all videos together (B9).
    `tapvid_metrics` alone reads it, and the track stage gives it one video at a time, where both are the same."""

    def __post_init__(self) -> None:
        if not self.threshold_px > 0:
            raise ValueError(f"threshold_px is {self.threshold_px}; it must be positive")
        if self.decimals is not None and self.decimals < 0:
            raise ValueError(f"decimals is {self.decimals}; it must be at least 0, or null for no rounding")

    @classmethod
    def preset(
        cls,
        convention: Convention,
        overrides: Mapping[str, Any] | None = None,
        *,
        section: str = "score.scoring",
    ) -> "ScoringParams":
        """Build the params of a convention, with some of them replaced.

        Args:
            convention: `corrected` does what the paper says, `released` what the released code does.
            overrides: Fields to replace; a null leaves the preset's value.
            section: Where the overrides stand in params.yaml, for messages.

        Raises:
            ParamsError: an override is unknown or has a wrong value.
            ValueError: the convention is unknown.
        """
        if convention not in _PRESETS:
            raise ValueError(f"convention is {convention!r}; known: {', '.join(_PRESETS)}")
        chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
        return parse(cls, {**_PRESETS[convention], **chosen}, section)


_PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {},
    "released": {
        "count_source_frame": True,
        "unseen_points": "counted",
        "decimals": 4,
        "nan_cells": "spread",
        "occlusion_accuracy": "per_batch",
    },
}

CORRECTED = ScoringParams.preset("corrected")
RELEASED = ScoringParams.preset("released")
