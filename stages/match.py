"""Stage: descriptors of the analysis view + query points -> matches and attention of every step, layer and head."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from rich.progress import track
from torch import Tensor

from difftrack.correspondence import (
    AttentionRows,
    Convention,
    Matches,
    MatchingParams,
    attention_of_points,
    attention_of_points_per_head,
    match_features,
    match_points,
    match_points_with_heads,
    points_to_tokens,
    tokens_to_points,
)
from difftrack.datasets import read_tracks
from difftrack.geometry import rescale_points
from difftrack.params import parse
from difftrack.store import DescriptorSpec, Store, open_store, write_results
from stages._run import Paths, run


@dataclass(frozen=True, slots=True)
class MatchSection:
    """`match`: everything between stored descriptors and matches."""

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

    @property
    def params(self) -> MatchingParams:
        """The convention with its overrides."""
        return MatchingParams.preset(self.convention, self.matching, section="match.matching")


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Read `descriptors` and `tracks`; write a group of `matches` per clip."""
    section = parse(MatchSection, params, "match")
    store = open_store(deps["descriptors"])
    failures: dict[str, str] = {}
    for clip in track(store.groups(), "match", disable=not sys.stderr.isatty()):
        try:
            matcher = _ClipMatcher.open(store, clip, deps["tracks"], section)
            write_results(outs["matches"], clip, matcher.dataset(), matcher.provenance())
        except (ValueError, OSError) as error:
            failures[clip] = str(error)
    if failures:
        listed = "\n".join(f"  {clip}: {cause}" for clip, cause in failures.items())
        sys.exit(f"match: {len(failures)} of {len(store.groups())} clips failed\n{listed}")


@dataclass(frozen=True, slots=True)
class _ClipMatcher:
    """Introduces one clip's descriptors to the points that are queried in its first frame."""

    store: Store
    clip: str
    spec: DescriptorSpec
    section: MatchSection
    device: str
    points: np.ndarray
    """Indices of the points in the clip's tracks."""
    points_xy_px: np.ndarray
    """[point, xy] in pixels of the size that the backbone saw."""

    @classmethod
    def open(cls, store: Store, clip: str, tracks_folder: Path, section: MatchSection) -> "_ClipMatcher":
        tracks, spec = read_tracks(tracks_folder, clip), store.spec(clip)
        points = np.flatnonzero(tracks.query_points[:, 0] == spec.frames[0])
        points_xy_px = rescale_points(
            tracks.query_points[points, 1:], from_size=(tracks.height, tracks.width), to_size=spec.size
        )
        device = ("cuda" if torch.cuda.is_available() else "cpu") if section.device == "auto" else section.device
        return cls(store, clip, spec, section, device, points, points_xy_px)

    def dataset(self) -> xr.Dataset:
        """Match every step and layer, and label what comes out."""
        spec = self.spec
        cells = [[dict(self._cell(step, layer)) for layer in spec.layers] for step in spec.steps]
        arrays = {name: np.stack([[cell[name][1] for cell in row] for row in cells]) for name in cells[0][0]}
        axes = {name: ("step", "layer", *axes) for name, (axes, _) in cells[0][0].items()}
        return xr.Dataset(
            {
                **{name: (axes[name], array) for name, array in arrays.items()},
                "query_xy_px": (("point", "xy"), self.points_xy_px),
            },
            coords={
                "step": list(spec.steps),
                "timestep": ("step", list(spec.timesteps)),
                "layer": list(spec.layers),
                "head": list(spec.heads),
                "frame": ("latent_frame", list(spec.frames)),
                "point": self.points,
                "xy": ["x", "y"],
            },
        )

    def provenance(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "convention": self.section.convention,
            "matching": asdict(self.section.params),
            "descriptors": self.store.fingerprint(self.clip),
            "size": list(self.spec.size),
            "temporal_stride": self.spec.grid.temporal_stride,
        }

    def _cell(self, step: int, layer: int) -> Iterator[tuple[str, tuple[tuple[str, ...], np.ndarray]]]:
        """Name, axes and values of everything that one step and layer gives."""
        params, stride_px = self.section.params, self.spec.grid.stride_px
        points = points_to_tokens(
            torch.from_numpy(self.points_xy_px).to(self.device), stride_px=stride_px, params=params
        )
        if "query_key" in self.section.kinds:
            query, key = (self._read(step, layer, kind) for kind in ("query", "key"))
            text = (*self._text(step, layer, key), points)
            yield from _named("", self._attention(attention_of_points(query, key, *text, params=params)))
            if self.section.per_head:
                mean, heads = match_points_with_heads(query, key, points, params=params)
                yield from _named("head_", self._matches(heads))
                of_heads = attention_of_points_per_head(query, key, *text, params=params)
                yield from _named("head_", self._attention(of_heads))
            else:
                mean = match_points(query, key, points, params=params)
            yield from _named("", self._matches(mean))
        if "feature" in self.section.kinds:
            matches = match_features(self._read(step, layer, "feature"), points, params=params)
            yield from _named("feature_", self._matches(matches))

    def _matches(self, matches: Matches) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        xy_px = tokens_to_points(
            matches.points_xy_token, stride_px=self.spec.grid.stride_px, params=self.section.params
        )
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

    def _read(self, step: int, layer: int, kind: str) -> Tensor:
        return torch.from_numpy(self.store.sel(clip=self.clip, step=step, layer=layer, kind=kind)).to(self.device)

    def _text(self, step: int, layer: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the text tokens and which of them count; none where the store keeps none."""
        mask = torch.tensor(self.spec.text_mask, dtype=torch.bool, device=self.device)
        if not len(mask):
            return key.new_zeros(len(key), 0, key.shape[-1]), mask
        return self._read(step, layer, "text_key"), mask


def _named(
    prefix: str, values: Mapping[str, tuple[tuple[str, ...], Tensor]]
) -> Iterator[tuple[str, tuple[tuple[str, ...], np.ndarray]]]:
    """Put the prefix before each name, and an axis `head` before those of heads alone."""
    for name, (axes, tensor) in values.items():
        yield prefix + name, (("head", *axes) if prefix == "head_" else axes, tensor.cpu().numpy())


if __name__ == "__main__":
    run("match", main)
