"""One clip's query points matched in one (step, layer) after another, and everything that gives under labels.

Where descriptors come from is the caller's business: from a store, or from a backbone that runs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from difftrack.correspondence._attention import AttentionRows, attention_of_points, attention_of_points_with_heads
from difftrack.correspondence._backends import choose_backend
from difftrack.correspondence._features import match_features
from difftrack.correspondence._kept import kept
from difftrack.correspondence._matches import Matches
from difftrack.correspondence._matching import match_points, match_points_with_heads
from difftrack.correspondence._params import Convention, MatchingParams
from difftrack.correspondence._points import points_to_tokens, tokens_to_points
from difftrack.correspondence._recordings import Recordings

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Cell", "ClipMatcher", "MatchSection", "label_matches"]

Cell = Mapping[str, tuple[tuple[str, ...], Num[np.ndarray, "..."]]]
"""Name -> axes and values of everything that one (step, layer) gives."""

Read = Callable[[str], Float[Tensor, "..."]]
"""Gives a descriptor of one (step, layer) by its kind."""


@dataclass(frozen=True, slots=True)
class MatchSection:
    """`match`: everything between descriptors and matches."""

    convention: Convention = "corrected"
    """`corrected` does what the paper says, `released` what the released code does."""
    matching: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of single matching params; null keeps the convention's value."""
    kinds: tuple[Literal["query_key", "feature"], ...] = ("query_key", "feature")
    """What to match by: queries with keys (attention is then scored too), or features."""
    per_head: bool = True
    """Also match, and reduce attention, for each head alone."""
    device: str = "auto"
    """Where matching runs: cpu, cuda, cuda:1 ...; auto is cuda where there is one."""

    def __post_init__(self) -> None:
        _ = self.params
        if not self.kinds:
            raise ValueError("kinds is empty; query_key, feature or both are wanted")

    @property
    def params(self) -> MatchingParams:
        """The convention with its overrides."""
        return MatchingParams.preset(self.convention, self.matching, section="match.matching")


@dataclass(frozen=True, slots=True)
class ClipMatcher:
    """Introduces one clip's query points to descriptors, one (step, layer) at a time.

    On a GPU, where launching the kernels one by one takes longer than running them, they are recorded and replayed
    (`Recordings`); no points, for which no kernel is launched, are matched plainly.
    """

    section: MatchSection
    points_xy_px: Float[np.ndarray, "point xy"]
    """In the first latent frame, pixels of the size that the backbone saw."""
    stride_px: int
    text_mask: tuple[bool, ...]
    """True at text tokens that count; empty where the text's keys are not kept."""
    _params: MatchingParams = field(init=False, repr=False, compare=False)
    _recordings: "Recordings[_Labels]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_params", self.section.params)
        object.__setattr__(self, "_recordings", Recordings())

    @property
    def device(self) -> str:
        """Where matching runs."""
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        return automatic if self.section.device == "auto" else self.section.device

    def match(self, read: Read) -> Cell:
        """Match in one (step, layer).

        Args:
            read: Gives `query`, `key`, `feature` `[head, latent_frame, row, col, channel]` and, where there is a text
                mask, `text_key` `[head, text_token, channel]`.
        """
        given = {kind: read(kind).to(self.device) for kind in self._kinds()}
        on_cuda = next(iter(given.values())).is_cuda
        if on_cuda and len(self.points_xy_px) and choose_backend(self._params, on_cuda=True) == "triton":
            return _named_arrays(*self._recordings(self._compute, given))
        labels, numbers = self._compute(given)
        return _named_arrays(labels, numbers.cpu().numpy())

    def _kinds(self) -> Iterator[str]:
        """Descriptors that are asked for."""
        if "query_key" in self.section.kinds:
            yield from ("query", "key")
            if self.text_mask:
                yield "text_key"
        if "feature" in self.section.kinds:
            yield "feature"

    def _compute(self, given: Mapping[str, Tensor]) -> "tuple[_Labels, Float[Tensor, ' number']]":
        """Everything that is asked for, in one piece on the device: a GPU is then waited for once."""
        params = self._params
        points = points_to_tokens(torch.from_numpy(self.points_xy_px), stride_px=self.stride_px, params=params)
        results: dict[str, tuple[tuple[str, ...], Tensor]] = {}
        if "query_key" in self.section.kinds:
            query, key = given["query"], given["key"]
            text_key = given.get("text_key", key.new_zeros(len(key), 0, key.shape[-1]))
            text = (text_key, _mask_on(self.text_mask, str(key.device)), points)
            if self.section.per_head:
                mean, heads = match_points_with_heads(query, key, points, params=params)
                rows, rows_of_heads = attention_of_points_with_heads(query, key, *text, params=params)
                results |= _named("head_", self._matches(heads))
                results |= _named("head_", self._attention(rows_of_heads))
            else:
                mean = match_points(query, key, points, params=params)
                rows = attention_of_points(query, key, *text, params=params)
            results |= self._attention(rows)
            results |= self._matches(mean)
        if "feature" in self.section.kinds:
            matches = match_features(given["feature"], points, params=params)
            results |= _named("feature_", self._matches(matches))
        labels = {name: (axes, tuple(tensor.shape)) for name, (axes, tensor) in results.items()}
        return labels, torch.cat([tensor.flatten() for _, tensor in results.values()])

    def _matches(self, matches: Matches) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        xy_px = tokens_to_points(matches.points_xy_token, stride_px=self.stride_px, params=self._params)
        return {
            "match_xy_px": (("latent_frame", "point", "xy"), xy_px),
            "match_probability": (("latent_frame", "point"), matches.probability),
            "match_margin": (("latent_frame", "point"), matches.margin),
        }

    def _attention(self, rows: AttentionRows) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        return {
            "attention_max": (("latent_frame", "point"), rows.frame_max),
            "attention_mass": (("latent_frame", "point"), rows.frame_mass),
            "text_max": (("point",), rows.text_max),
            "text_mass": (("point",), rows.text_mass),
        }


_Labels = Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
"""Name -> axes and shape of every result; their numbers lie one behind the other."""


def _named_arrays(labels: _Labels, numbers: Float[np.ndarray, " number"]) -> Cell:
    ends = np.cumsum([math.prod(shape) for _, shape in labels.values()])
    named = zip(labels.items(), np.split(numbers, ends[:-1]), strict=True)
    return {name: (axes, part.reshape(shape)) for (name, (axes, shape)), part in named}


@kept
def _mask_on(mask: tuple[bool, ...], device: str) -> Bool[Tensor, " text_token"]:
    with torch.inference_mode(False):
        return torch.tensor(mask, dtype=torch.bool).to(device)


@runtime_checkable
class Labels(Protocol):
    """What a clip's descriptors are labelled with; `DescriptorSpec` has all of it."""

    @property
    def steps(self) -> Sequence[int]:
        """Of the denoising schedule."""

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
    cells: Mapping[tuple[int, int], Cell],
    labels: Labels,
    *,
    points: Int[np.ndarray, " point"],
    points_xy_px: Float[np.ndarray, "point xy"],
) -> "xr.Dataset":
    """All of a clip's matches in one dataset.

    Args:
        cells: By (step, layer), all that `labels` names.
        labels: Of the axes.
        points: Indices of the query points in the clip's tracks.
        points_xy_px: Where they are.
    """
    import xarray as xr  # takes half a second

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


def _named(
    prefix: str, values: Mapping[str, tuple[tuple[str, ...], Tensor]]
) -> dict[str, tuple[tuple[str, ...], Tensor]]:
    """Put the prefix before each name, and an axis `head` before those of heads alone."""
    return {
        prefix + name: (("head", *axes) if prefix == "head_" else axes, tensor)
        for name, (axes, tensor) in values.items()
    }
