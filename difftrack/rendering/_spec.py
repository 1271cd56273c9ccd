"""Specification of a rendered clip."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = ["ThingKind", "RenderSpec", "Role", "Split"]

Role = Literal["train", "tune", "eval"]
"""Purpose of a clip; two roles share no texture and no random stream."""
ThingKind = Literal["object", "scene"]
Split = Literal["easy", "hard"]


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """Complete specification of a rendered clip; the same spec gives the same frames and the same tracks.

    Raises:
        ValueError: a size is not positive, the seed is negative, or the role, kind or split is unknown.
    """

    seed: int
    role: Role = "eval"
    kind: ThingKind = "object"
    split: Split = "easy"
    num_frames: int = 17
    height: int = 128
    width: int = 192

    def __post_init__(self) -> None:
        if min(self.num_frames, self.height, self.width) < 1 or self.seed < 0:
            raise ValueError(f"RenderSpec: sizes must be positive and the seed must not be negative, got {self}")
        known = {"role": get_args(Role), "kind": get_args(ThingKind), "split": get_args(Split)}
        if any(getattr(self, name) not in values for name, values in known.items()):
            raise ValueError(f"RenderSpec: role, kind or split is unknown: {self.role}, {self.kind}, {self.split}")

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RenderSpec":
        """Read a mapping that `to_json` wrote.

        Raises:
            ValueError: a key is unknown or the seed is missing.
        """
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown or "seed" not in values:
            raise ValueError(
                f"RenderSpec: {dict(values)} has unknown keys {unknown} or no seed; was another version's file read?"
            )
        return cls(**values)
