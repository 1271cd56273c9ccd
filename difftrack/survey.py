"""Params of the survey over steps and layers."""

from dataclasses import dataclass
from typing import Literal

from difftrack.correspondence import MatchKind
from difftrack.provenance import Reuse

__all__ = ["SurveySection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveySection:
    """Section `survey`: steps and layers to survey. `extract.analysis` sets how clips are run, `match` how to match."""

    backbones: tuple[str, ...] = ()
    """Names of the backbones to survey; empty by default, because a survey runs a model over every step."""
    steps: Literal["all"] | tuple[int, ...] = "all"
    """Steps of the denoising schedule to survey."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers to survey."""
    kinds: tuple[MatchKind, ...] = ("query_key", "feature")
    """Descriptors to match."""
    per_head: bool = False
    """Also match each head separately; this multiplies the bytes by the number of heads."""
    reuse: Reuse = "exact"
    """exact: reuse matches made with equal params, code, library versions and loaded weights. params: equal params
    suffice; the stage reports the differences, and the matches record them."""
    keep_bytes: float = 1e9
    """Maximum number of bytes of kept, unused matches on disk; beyond it the least recently used are removed."""
