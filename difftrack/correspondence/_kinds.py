"""What a kind of matching compares: two descriptors, made so that their products are what counts."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from difftrack.correspondence._match_probabilities import Descriptors
from difftrack.correspondence._params import MatchingParams, MatchKind, descriptors_of
from difftrack.correspondence._tensor_cache import kept
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands, RotaryLayout

__all__ = ["comparable", "pair_of_kind"]


def pair_of_kind(
    read: Callable[[str], Float[Tensor, "head latent_frame row col channel"]],
    kind: MatchKind,
    *,
    params: MatchingParams,
    frequencies: FrequencyBands = ALL_FREQUENCIES,
    rotary: RotaryLayout | None = None,
) -> tuple[Descriptors, MatchingParams]:
    """Read what a kind of matching compares, ready for `match_points` and all that take a query and a key.

    Args:
        read: Gives a descriptor by its name.
        kind: What is matched.
        params: How.
        frequencies: Bands of rotary frequencies of queries and keys that take part.
        rotary: Which channels those are.

    Returns:
        What takes the place of query and key, and the params that fit them; see `comparable`.

    Raises:
        ValueError: as `comparable`.
    """
    source, target = descriptors_of(kind)
    first = read(source)
    return comparable(
        (first, first if target == source else read(target)),
        kind,
        params=params,
        frequencies=frequencies,
        rotary=rotary,
    )


def comparable(
    pair: Descriptors,
    kind: MatchKind,
    *,
    params: MatchingParams,
    frequencies: FrequencyBands = ALL_FREQUENCIES,
    rotary: RotaryLayout | None = None,
) -> tuple[Descriptors, MatchingParams]:
    """Make two descriptors such that their products, head by head, are what a kind compares.

    Queries with keys stay as they are, but for channels outside the bands. A kind that is matched with itself is
    compared by the cosine (`feature_similarity`), head by head, at `feature_temperature`; a feature's heads are joined
    into one vector first. The temperature `root_channel` is that of the channels that take part.

    Args:
        pair: Of the source and of the target frames; one object twice where a kind is matched with itself.
        kind: What is matched.
        params: How.
        frequencies: Bands of rotary frequencies of queries and keys that take part.
        rotary: Which channels those are.

    Returns:
        The pair, and the params with the temperature of the kind.

    Raises:
        ValueError: bands are chosen for a kind that does not turn, or without a layout, or they leave no channel.

    Source:
        Key with key, by cosine, in a band of frequencies: HeFT (Yuan et al. 2025, arXiv 2512.04619).
    """
    if not frequencies.keeps_all:
        pair = _in_bands(pair, kind, frequencies, rotary)
    if kind in ("query_key", "query_key_pre_rotary"):
        return pair, params
    pair = _both(pair, _joined if kind == "feature" else lambda part: part)
    if params.feature_similarity == "cosine":
        pair = _both(pair, _unit)
    return pair, replace(params, temperature=params.feature_temperature)


def _in_bands(
    pair: Descriptors, kind: MatchKind, frequencies: FrequencyBands, rotary: RotaryLayout | None
) -> Descriptors:
    if kind in ("value", "feature"):
        raise ValueError(f"frequencies are chosen for {kind}, which rotary positions do not turn; match query or key")
    if rotary is None:
        raise ValueError(
            "frequencies are chosen, and these descriptors have no rotary layout: their backbone turns no channels by "
            "one axis each (docs/kinds.md), or they were stored before layouts were; run extract again, which adds it"
        )
    channels = _channels_on(rotary.channels(frequencies, pair[0].shape[-1]), str(pair[0].device))
    return _both(pair, lambda part: part.index_select(-1, channels))


def _both(pair: Descriptors, change: Callable[[Tensor], Tensor]) -> Descriptors:
    """Change both, the same object once."""
    first = change(pair[0])
    return first, first if pair[1] is pair[0] else change(pair[1])


def _joined(feature: Float[Tensor, "head latent_frame row col channel"]) -> Float[Tensor, "1 latent_frame row col _"]:
    return feature.movedim(0, -2).flatten(-2)[None]


def _unit(part: Float[Tensor, "*axes channel"]) -> Float[Tensor, "*axes channel"]:
    return normalize(part.float(), dim=-1)


@kept
def _channels_on(channels: tuple[int, ...], device: str) -> Int[Tensor, " channel"]:
    with torch.inference_mode(False):
        return torch.tensor(channels).to(device)
