"""All choices in which scoring can differ from the paper, and the two presets of these choices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from difftrack.params import Convention, Conventional, by_convention, parse

__all__ = ["CORRECTED", "RELEASED", "ScoreSection", "ScoringParams"]


@dataclass(frozen=True, slots=True)
class ScoringParams:
    """How scores are computed from matches; the defaults are the `corrected` preset.

    Raises:
        ValueError: a number is out of range.
    """

    threshold_px: float = 8.0
    """A match is correct if its distance to the truth is strictly smaller, in pixels of the backbone's input."""
    count_source_frame: bool = False
    """Count the frame of the query points, in which the positions are given (B1)."""
    unseen_points: Literal["left_out", "counted"] = "left_out"
    """Points that are never visible in the frames that count: left out of the mean, or counted as 0 across frames
    (B3)."""
    decimals: int | None = None
    """Decimals to which every cell is rounded before averaging, accuracy as a percentage; the released code uses 4
    (B5)."""
    nan_cells: Literal["ignored", "spread"] = "ignored"
    """NaN cells are left out (`ignored`), or one NaN cell invalidates its whole table or mean (`spread`) (B6, B7,
    B10)."""
    occlusion_accuracy: Literal["per_video", "per_batch"] = "per_video"
    """Denominator of a video's occlusion accuracy: its own evaluated points, or those of all videos in the batch (B9).
    Only `tapvid_metrics` reads it. The track stage passes one video at a time, for which both values give the same."""

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
        """Build the params of a convention, with some fields replaced.

        Args:
            convention: `corrected` follows the paper, `released` follows the released code.
            overrides: Fields to replace; a null keeps the preset's value.
            section: Section of params.yaml that contains the overrides, for messages.

        Raises:
            ParamsError: an override is unknown or has an invalid value.
            ValueError: the convention is unknown.
        """
        if convention not in get_args(Convention):
            raise ValueError(f"convention is {convention!r}; known: {', '.join(get_args(Convention))}")
        chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
        base = RELEASED if convention == "released" else CORRECTED
        return parse(cls, asdict(base) | chosen, section) if chosen else base


CORRECTED = ScoringParams()
RELEASED = ScoringParams(
    count_source_frame=True,
    unseen_points="counted",
    decimals=4,
    nan_cells="spread",
    occlusion_accuracy="per_batch",
)


@dataclass(frozen=True, slots=True)
class ScoreSection(Conventional):
    """Section `score`: how matches are scored.

    Raises:
        ValueError: a number is out of range.
    """

    convention: Convention = "corrected"
    """`corrected` follows the paper, `released` follows the released code."""
    threshold_px: float = 8.0
    """A match is correct if its distance to the truth is strictly smaller, in pixels of the backbone's input."""
    scoring: ScoringParams = by_convention(CORRECTED, RELEASED, beside=("threshold_px",))
    """How scores are computed from matches, with this `threshold_px`; fields that are not set take the convention's
    value."""

    def __post_init__(self) -> None:
        self._settle()
        object.__setattr__(self, "scoring", replace(self.scoring, threshold_px=self.threshold_px))
