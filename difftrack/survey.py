"""Which part of the map of steps and layers is surveyed."""

from dataclasses import dataclass
from typing import Literal

from difftrack.correspondence import MatchKind
from difftrack.provenance import Reuse

__all__ = ["SurveySection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveySection:
    """`survey`: which part of the map; how clips are run is in `extract.analysis`, how they are matched in `match`."""

    backbones: tuple[str, ...] = ()
    """Those to survey; none by default, since it runs a model over every step."""
    steps: Literal["all"] | tuple[int, ...] = "all"
    """Steps of the schedule."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers."""
    kinds: tuple[MatchKind, ...] = ("query_key", "feature")
    """What to match by."""
    per_head: bool = False
    """Also match by each head alone: as many times the bytes as there are heads."""
    reuse: Reuse = "exact"
    """exact: take up matches that the same params, code, library versions and loaded weights made. params: the same
    params are enough; the stage names what differs, and the matches record it."""
    keep_bytes: float = 1e9
    """Of matches that nothing asks for any more, on disk; beyond it those that were used least recently go."""
