"""Every choice in which matching can depart from the paper, and the two presets that name a whole set of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from difftrack.params import Convention, Conventional, by_convention, parse
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands

__all__ = ["CORRECTED", "MATCH_KINDS", "RELEASED", "MatchKind", "MatchSection", "MatchingParams", "descriptors_of"]

MatchKind = Literal[
    "query_key",
    "query_query",
    "key_key",
    "value",
    "feature",
    "query_key_pre_rotary",
    "query_query_pre_rotary",
    "key_key_pre_rotary",
]
"""Descriptors to match by: queries with keys as attention does, or one kind with itself; `pre_rotary`: as they were
before rotary positions turned them."""

MATCH_KINDS: tuple[MatchKind, ...] = get_args(MatchKind)


def descriptors_of(kind: MatchKind) -> tuple[str, str]:
    """Name the descriptors that a kind matches: those of the source frame, and those of the target frame."""
    if not kind.startswith(("query_", "key_")):
        return kind, kind
    source, target = kind.removesuffix("_pre_rotary").split("_")
    rotated = "_pre_rotary" if kind.endswith("_pre_rotary") else ""
    return source + rotated, target + rotated


Temperature = Literal["root_channel", "root_heads", "root_channel_per_head"]


@dataclass(frozen=True, slots=True)
class MatchingParams:
    """How descriptors become matches; the defaults are the `corrected` preset.

    Raises:
        ValueError: a number is out of its range.
    """

    directions: Literal["both", "forward"] = "both"
    """`both` averages source-to-target and target-to-source softmaxes (paper C.2); `forward` is eq. 5 alone."""
    temperature: Temperature | float = "root_channel"
    """Divides the query-key scores: the root of the channels of one head (paper eq. 5), of the number of heads
    (released tracking code, A3), of `channel // head` (released HunyuanVideo code, A5), or a number."""
    second_softmax: bool = False
    """Take another softmax over the finished probabilities, as the released code does (A1)."""
    token_origin: Literal["centre", "corner"] = "centre"
    """Pixel of token coordinate 0: the centre of the first token, or its corner as in the released code (A7)."""
    query_margin: Literal["none", "grid"] = "none"
    """`grid` squeezes query points by (n - 1) / (n - cols / 64) as the released read-out does (A6)."""
    read_out: Literal["rows", "argmax_map", "displacements"] = "rows"
    """Between tokens, mix the probabilities of the four tokens around a point and find the best match of the mixture
    (`rows`), mix the four best matches themselves as the released code does (`argmax_map`), or match every token
    within `support_radius` by itself and move the point by the mean displacement of those that agree
    (`displacements`)."""
    support_radius: int = 2
    """For `displacements`: voting tokens to each side, with weights falling linearly to 0; 1 takes four tokens."""
    support_agreement_token: float = 1.0
    """For `displacements`: a vote counts if it differs by less than this many tokens from the vote that most others
    agree with.
    """
    padding: Literal["border", "zeros"] = "border"
    """Value beyond the outermost token centres: the border's tokens, or position (0, 0) (A8)."""
    window_radius: int = 0
    """Soft-argmax over (2 r + 1)^2 tokens around the best match; 0 is the argmax of the paper (eq. 6)."""
    window_temperature: float = 1.0
    """Window weights are probability ** (1 / window_temperature)."""
    feature_similarity: Literal["cosine", "dot"] = "cosine"
    """How features are compared, and every other kind that is matched with itself; the released code takes the raw dot
    product (A11)."""
    feature_temperature: float = 0.05
    """Divides these similarities before the softmax; for features it changes probabilities, but no best match."""
    attention_axes: Literal["xy", "swapped"] = "xy"
    """`swapped` reads attention at row = x, column = y, as the released code does (A13)."""
    padded_text: Literal["masked", "counted"] = "masked"
    """Whether text tokens that the model's attention masks get attention here (A15)."""
    upsampling: Literal["causal", "half_pixel"] = "causal"
    """Latent frames to video frames: frame t reads latent t / temporal_stride, or a half-pixel resize (A9)."""
    backend: Literal["auto", "reference", "blocked", "triton"] = "auto"
    """`auto` is the Triton kernel on CUDA where Triton is installed, else blocked matrix products."""
    memory_limit_mb: int = 96
    """Approximate limit of score and probability buffers; they hold at least one latent frame's rows."""

    def __post_init__(self) -> None:
        if self.window_radius < 0:
            raise ValueError(f"window_radius is {self.window_radius}; it must be at least 0")
        if self.memory_limit_mb < 1:
            raise ValueError(f"memory_limit_mb is {self.memory_limit_mb}; it must be at least 1")
        if self.support_radius < 1:
            raise ValueError(f"support_radius is {self.support_radius}; it must be at least 1")
        for name in ("window_temperature", "feature_temperature", "temperature", "support_agreement_token"):
            value = getattr(self, name)
            if not isinstance(value, str) and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    @classmethod
    def preset(
        cls,
        convention: Convention,
        overrides: Mapping[str, Any] | None = None,
        *,
        section: str = "match.matching",
    ) -> "MatchingParams":
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

    def score_scale(self, *, num_heads: int, num_channels: int) -> float:
        """Give the factor on query-key scores, 1 / temperature.

        Args:
            num_heads: Attention heads of the backbone's layer.
            num_channels: Channels of one head.

        Raises:
            ValueError: `root_channel_per_head` with fewer channels than heads, where the released code divides by 0.
        """
        if not isinstance(self.temperature, str):
            return 1.0 / self.temperature
        radicand = {
            "root_channel": num_channels,
            "root_heads": num_heads,
            "root_channel_per_head": num_channels // num_heads,
        }[self.temperature]
        if radicand == 0:
            raise ValueError(
                f"temperature root_channel_per_head is 0 for {num_channels} channels and {num_heads} heads;"
                " use root_channel or a number"
            )
        return 1.0 / math.sqrt(radicand)


CORRECTED = MatchingParams()
RELEASED = MatchingParams(
    second_softmax=True,
    token_origin="corner",
    query_margin="grid",
    read_out="argmax_map",
    padding="zeros",
    feature_similarity="dot",
    feature_temperature=1.0,
    attention_axes="swapped",
    padded_text="counted",
    upsampling="half_pixel",
)


@dataclass(frozen=True, slots=True)
class MatchSection(Conventional):
    """`match`: everything between descriptors and matches."""

    convention: Convention = "corrected"
    """`corrected` does what the paper says, `released` what the released code does."""
    matching: MatchingParams = by_convention(CORRECTED, RELEASED)
    """How descriptors become matches; omitted keys take the convention's values."""
    kinds: tuple[MatchKind, ...] = ("query_key", "feature")
    """What to match by: queries with keys (attention is then scored too), or a kind with itself."""
    frequencies: FrequencyBands = ALL_FREQUENCIES
    """Bands of rotary frequencies used to match queries and keys; the scores of the model's own attention use all."""
    per_head: bool = True
    """Also match, and reduce attention, for each head alone."""
    device: str = "auto"
    """Device for matching: cpu, cuda, cuda:1 ...; auto is cuda where there is one."""

    def __post_init__(self) -> None:
        self._settle()
        if not self.kinds:
            raise ValueError(f"kinds is empty; expected at least one of {', '.join(MATCH_KINDS)}")
