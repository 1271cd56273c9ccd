"""Prepares the two descriptors of a kind of matching, so that scores are their products."""

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
    """Read the descriptors of a kind of matching, ready for `match_points` and others that take a query and a key.

    Args:
        read: Reads a descriptor by its name.
        kind: Kind of matching.
        params: Conventions of matching.
        frequencies: Bands of rotary frequencies of queries and keys that take part.
        rotary: Which channels those are.

    Returns:
        The descriptors to use as query and key, and the params for them; see `comparable`.

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
    """Transform two descriptors so that their products, head by head, are the scores of a kind.

    Queries with keys stay as they are, but for channels outside the bands. A kind that is matched with itself is
    compared by the cosine (`feature_similarity`), head by head, at `feature_temperature`; a feature's heads are joined
    into one vector first. The temperature `root_channel` counts only the channels that take part.

    Args:
        pair: Descriptors of the source and of the target frames; the same object twice where a kind is matched with
            itself.
        kind: Kind of matching.
        params: Conventions of matching.
        frequencies: Bands of rotary frequencies of queries and keys that take part.
        rotary: Which channels those are.

    Returns:
        The pair, and the params with the temperature of the kind.

    Raises:
        ValueError: bands are chosen for a kind without rotary positions, or without a layout, or they leave no channel.

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
        raise ValueError(f"frequencies are chosen for {kind}, which has no rotary positions; match query or key")
    if rotary is None:
        raise ValueError(
            "frequencies are chosen, but these descriptors have no rotary layout: their backbone does not turn each "
            "channel by one axis (docs/kinds.md), or an older version stored them; run extract again to add it"
        )
    channels = _channels_on(rotary.channels(frequencies, pair[0].shape[-1]), str(pair[0].device))
    return _both(pair, lambda part: part.index_select(-1, channels))


def _both(pair: Descriptors, change: Callable[[Tensor], Tensor]) -> Descriptors:
    """Transform both; if they are the same object, transform it once."""
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
