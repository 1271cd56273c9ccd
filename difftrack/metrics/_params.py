"""Every choice in which scoring can depart from the paper, and the two presets that name a whole set of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from difftrack.params import Convention, Conventional, by_convention, parse

__all__ = ["CORRECTED", "RELEASED", "ScoreSection", "ScoringParams"]


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
    """`score`: everything between matches and their scores.

    Raises:
        ValueError: a number is out of its range.
    """

    convention: Convention = "corrected"
    """`corrected` does what the paper says, `released` what the released code does."""
    threshold_px: float = 8.0
    """A match is right when it lies strictly closer, in pixels of the size that the backbone saw."""
    scoring: ScoringParams = by_convention(CORRECTED, RELEASED, beside=("threshold_px",))
    """How matches become scores, `threshold_px` included; what a file does not name here is the convention's."""

    def __post_init__(self) -> None:
        self._settle()
        object.__setattr__(self, "scoring", replace(self.scoring, threshold_px=self.threshold_px))
