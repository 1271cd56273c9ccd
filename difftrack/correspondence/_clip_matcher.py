"""Matches one clip's query points in one (step, layer) after another, and labels all results.

The caller provides the descriptors, from a store or from a running backbone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from difftrack.correspondence._attention import AttentionRows, attention_of_points, attention_of_points_with_heads
from difftrack.correspondence._backends import choose_backend
from difftrack.correspondence._cuda_graphs import Recordings, side_by_side
from difftrack.correspondence._device import matching_device
from difftrack.correspondence._features import match_features
from difftrack.correspondence._kinds import pair_of_kind
from difftrack.correspondence._matches import Matches
from difftrack.correspondence._matching import match_points, match_points_with_heads
from difftrack.correspondence._params import MATCH_KINDS, MatchingParams, MatchKind, MatchSection, descriptors_of
from difftrack.correspondence._points import points_to_tokens, tokens_to_points
from difftrack.correspondence._tensor_cache import kept
from difftrack.rotary import RotaryLayout

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["UnitMatches", "ClipMatcher", "label_matches"]

UnitMatches = Mapping[str, tuple[tuple[str, ...], Num[np.ndarray, "..."]]]
"""Name -> axes and values of all results of one (step, layer)."""

_CHAINS = (MATCH_KINDS, ("attention",))
"""Chains that a GPU runs in parallel, each in sequence: two large matchings at once would need twice the memory."""

Read = Callable[[str], Float[Tensor, "..."]]
"""Reads a descriptor of one (step, layer) by its kind."""


@dataclass(frozen=True, slots=True)
class ClipMatcher:
    """Matches one clip's query points, one (step, layer) at a time.

    On a GPU, launching the kernels one by one takes longer than running them, so they are recorded and replayed
    (`Recordings`). Without points nothing is recorded.
    """

    section: MatchSection
    points_xy_px: Float[np.ndarray, "point xy"]
    """Query points in the first latent frame, in pixels of the size that the backbone saw."""
    stride_px: int
    text_mask: tuple[bool, ...]
    """True at text tokens that count; empty where the text's keys are not kept."""
    rotary: RotaryLayout | None = None
    """Channels that rotary positions turn; needed where the section chooses frequencies."""
    device: str = field(init=False)
    """Where matching runs."""
    _params: MatchingParams = field(init=False, repr=False, compare=False)
    _recordings: "Recordings[_Labels]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", matching_device(self.section.device))
        object.__setattr__(self, "_params", self.section.matching)
        object.__setattr__(self, "_recordings", Recordings())

    def match(self, read: Read) -> UnitMatches:
        """Match in one (step, layer).

        Args:
            read: Reads descriptors such as `query` `[head, latent_frame, row, col, channel]` and, where there is a text
                mask, `text_key` `[head, text_token, channel]`.
        """
        given = {kind: read(kind).to(self.device) for kind in self._kinds()}
        on_cuda = next(iter(given.values())).is_cuda
        if on_cuda and len(self.points_xy_px) and choose_backend(self._params, on_cuda=True) == "triton":
            return _named_arrays(*self._recordings(self._compute, given))
        labels, numbers = self._compute(given)
        return _named_arrays(labels, numbers.cpu().numpy())

    def _kinds(self) -> Iterator[str]:
        """The descriptors that matching needs, each once."""
        wanted = [own for kind in MATCH_KINDS if kind in self.section.kinds for own in descriptors_of(kind)]
        if "query_key" in self.section.kinds and self.text_mask:
            wanted.insert(2, "text_key")
        yield from dict.fromkeys(wanted)

    def _compute(self, given: Mapping[str, Tensor]) -> "tuple[_Labels, Float[Tensor, ' number']]":
        """All results in one tensor on the device, so that the host waits once for a GPU."""
        points = points_to_tokens(torch.from_numpy(self.points_xy_px), stride_px=self.stride_px, params=self._params)
        parts: dict[str, Callable[[], _Results]] = {}
        for kind in MATCH_KINDS:
            if kind in self.section.kinds:
                by = self._by_feature if kind == "feature" else partial(self._by_pair, kind)
                parts |= {kind: partial(by, given, points)}
            if kind == "query_key" and kind in self.section.kinds:
                parts |= {"attention": partial(self._by_attention, given, points)}

        def one_by_one(chain: Sequence[str]) -> dict[str, _Results]:
            return {name: parts[name]() for name in chain if name in parts}

        found: dict[str, _Results] = {}
        for of_chain in side_by_side([partial(one_by_one, chain) for chain in _CHAINS]):
            found |= of_chain
        results = {name: result for part in parts for name, result in found[part].items()}
        labels = {name: (axes, tuple(tensor.shape)) for name, (axes, tensor) in results.items()}
        return labels, torch.cat([tensor.flatten() for _, tensor in results.values()])

    def _by_pair(self, kind: MatchKind, given: Mapping[str, Tensor], points: Tensor) -> "_Results":
        turned = kind != "value"
        (query, key), params = pair_of_kind(
            given.__getitem__,
            kind,
            params=self._params,
            rotary=self.rotary,
            **({"frequencies": self.section.frequencies} if turned else {}),
        )
        prefix = "" if kind == "query_key" else f"{kind}_"
        if not self.section.per_head:
            return _named(prefix, self._matches(match_points(query, key, points, params=params)))
        mean, heads = match_points_with_heads(query, key, points, params=params)
        return {
            **_named(prefix, self._matches(mean)),
            **_named("head_", _named(prefix, self._matches(heads))),
        }

    def _by_attention(self, given: Mapping[str, Tensor], points: Tensor) -> "_Results":
        query, key = given["query"], given["key"]
        text_key = given.get("text_key", key.new_zeros(len(key), 0, key.shape[-1]))
        asked = (query, key, text_key, _mask_on(self.text_mask, str(key.device)), points)
        if not self.section.per_head:
            return self._attention(attention_of_points(*asked, params=self._params))
        mean, heads = attention_of_points_with_heads(*asked, params=self._params)
        return {**self._attention(mean), **_named("head_", self._attention(heads))}

    def _by_feature(self, given: Mapping[str, Tensor], points: Tensor) -> "_Results":
        matches = match_features(given["feature"], points, params=self._params)
        return _named("feature_", self._matches(matches))

    def _matches(self, matches: Matches) -> "_Results":
        xy_px = tokens_to_points(matches.points_xy_token, stride_px=self.stride_px, params=self._params)
        return {
            "match_xy_px": (("latent_frame", "point", "xy"), xy_px),
            "match_probability": (("latent_frame", "point"), matches.probability),
            "match_margin": (("latent_frame", "point"), matches.margin),
        }

    def _attention(self, rows: AttentionRows) -> "_Results":
        return {
            "attention_max": (("latent_frame", "point"), rows.frame_max),
            "attention_mass": (("latent_frame", "point"), rows.frame_mass),
            "text_max": (("point",), rows.text_max),
            "text_mass": (("point",), rows.text_mass),
        }


_Results = Mapping[str, tuple[tuple[str, ...], Tensor]]
"""Name -> axes and values, still on the device."""

_Labels = Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
"""Name -> axes and shape of every result; the results follow each other in one tensor."""


def _named_arrays(labels: _Labels, numbers: Float[np.ndarray, " number"]) -> UnitMatches:
    named, start = {}, 0
    for name, (axes, shape) in labels.items():
        end = start + math.prod(shape)
        named[name] = (axes, numbers[start:end].reshape(shape))
        start = end
    return named


@kept
def _mask_on(mask: tuple[bool, ...], device: str) -> Bool[Tensor, " text_token"]:
    with torch.inference_mode(False):
        return torch.tensor(mask, dtype=torch.bool).to(device)


@runtime_checkable
class Labels(Protocol):
    """Labels of a clip's descriptors; `DescriptorSpec` has all of them."""

    @property
    def steps(self) -> Sequence[int]:
        """Steps of the denoising schedule."""

    @property
    def timesteps(self) -> Sequence[float]:
        """The scheduler's value at each step."""

    @property
    def layers(self) -> Sequence[int]:
        """Layers."""

    @property
    def heads(self) -> Sequence[int]:
        """Heads."""

    @property
    def frames(self) -> Sequence[int]:
        """Video frame of each latent frame."""


def label_matches(
    cells: Mapping[tuple[int, int], UnitMatches],
    labels: Labels,
    *,
    points: Int[np.ndarray, " point"],
    points_xy_px: Float[np.ndarray, "point xy"],
) -> "xr.Dataset":
    """Collect all of a clip's matches in one dataset.

    Args:
        cells: Results for every (step, layer) that `labels` names.
        labels: Labels of the axes.
        points: Indices of the query points in the clip's tracks.
        points_xy_px: Their positions.
    """
    import xarray as xr  # importing xarray takes half a second

    first = next(iter(cells.values()))
    arrays = {
        name: np.stack([np.stack([cells[step, layer][name][1] for layer in labels.layers]) for step in labels.steps])
        for name in first
    }
    return xr.Dataset(
        {
            **{name: (("step", "layer", *first[name][0]), array) for name, array in arrays.items()},
            "query_xy_px": (("point", "xy"), points_xy_px),
        },
        coords={
            "step": list(labels.steps),
            "timestep": ("step", list(labels.timesteps)),
            "layer": list(labels.layers),
            "head": list(labels.heads),
            "frame": ("latent_frame", list(labels.frames)),
            "point": points,
            "xy": ["x", "y"],
        },
    )


def _named(prefix: str, values: "_Results") -> "_Results":
    """Put the prefix before each name, and an axis `head` before the axes of per-head results."""
    return {
        prefix + name: (("head", *axes) if prefix == "head_" else axes, tensor)
        for name, (axes, tensor) in values.items()
    }
