"""One clip's query points matched in one (step, layer) after another, and everything that gives under labels.

Where descriptors come from is the caller's business: from a store, or from a backbone that runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from difftrack.correspondence._attention import AttentionRows, attention_of_points, attention_of_points_with_heads
from difftrack.correspondence._features import match_features
from difftrack.correspondence._matches import Matches
from difftrack.correspondence._matching import match_points, match_points_with_heads
from difftrack.correspondence._params import Convention, MatchingParams
from difftrack.correspondence._points import points_to_tokens, tokens_to_points

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
    """Introduces one clip's query points to descriptors, one (step, layer) at a time."""

    section: MatchSection
    points_xy_px: Float[np.ndarray, "point xy"]
    """In the first latent frame, pixels of the size that the backbone saw."""
    stride_px: int
    text_mask: tuple[bool, ...]
    """True at text tokens that count; empty where the text's keys are not kept."""

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
        return _on_host(self._results(read))

    def _results(self, read: Read) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Axes and values by name, on the device."""
        params = self.section.params
        points = points_to_tokens(torch.from_numpy(self.points_xy_px), stride_px=self.stride_px, params=params)
        results: dict[str, tuple[tuple[str, ...], Tensor]] = {}
        if "query_key" in self.section.kinds:
            query, key = (read(kind).to(self.device) for kind in ("query", "key"))
            text = (*self._text(read, key), points)
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
            matches = match_features(read("feature").to(self.device), points, params=params)
            results |= _named("feature_", self._matches(matches))
        return results

    def _matches(self, matches: Matches) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        xy_px = tokens_to_points(matches.points_xy_token, stride_px=self.stride_px, params=self.section.params)
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

    def _text(self, read: Read, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the text tokens and which of them count; none where they are not kept."""
        mask = torch.tensor(self.text_mask, dtype=torch.bool)
        if not len(mask):
            return key.new_zeros(len(key), 0, key.shape[-1]), mask
        return read("text_key").to(self.device), mask


def _on_host(results: Mapping[str, tuple[tuple[str, ...], Float[Tensor, "..."]]]) -> Cell:
    """Bring results home in one piece: a GPU is waited for once."""
    numbers = torch.cat([tensor.flatten() for _, tensor in results.values()]).cpu().numpy()
    parts = np.split(numbers, np.cumsum([tensor.numel() for _, tensor in results.values()])[:-1])
    named = zip(results.items(), parts, strict=True)
    return {name: (axes, part.reshape(tuple(tensor.shape))) for (name, (axes, tensor)), part in named}


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
