"""Matches points of one clip with stored descriptors of one step and layer."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence import (
    CORRECTED,
    ClipMatcher,
    MatchingParams,
    MatchKind,
    MatchSection,
    UnitMatches,
    label_matches,
    match_points,
    match_probabilities,
    pair_of_kind,
    points_to_tokens,
    tokens_to_points,
)
from difftrack.datasets import Tracks
from difftrack.geometry import rescale_points
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands
from difftrack.store import DescriptorSpec, Store, StoreError, clip_group

__all__ = [
    "clip_groups",
    "clip_points_to_tokens",
    "find_points",
    "match_heatmaps",
    "match_stored_clip",
    "only_clip",
    "stored_clip_names",
]

MOST_THREADS = 8
"""Matching threads on a CPU; each holds the descriptors of one (step, layer)."""


def stored_clip_names(store: Store) -> list[str]:
    """Return the sorted names of a store's clips, for any view."""
    return sorted({group.partition("/")[0] for group in store.groups()})


def only_clip(store: Store, clip: str | None) -> str:
    """Return the requested clip, or the only stored one.

    Raises:
        StoreError: the store lacks the clip, or holds several and none is named.
    """
    names = stored_clip_names(store)
    if clip is None and len(names) == 1:
        return names[0]
    if clip not in names:
        asked = "name one of its clips" if clip is None else f"clip {clip} is not stored"
        raise StoreError(f"{asked}; there are: {', '.join(names[:20]) or 'none'}")
    return clip


def clip_groups(store: Store, clip: str) -> list[tuple[str, int | None]]:
    """Return the groups of a clip with their chunk numbers; the number is None in an analysis view."""
    groups = [group for group in store.groups() if group.partition("/")[0] == clip]
    if groups in ([clip], []):  # the store's error for a missing clip lists its contents
        return [(clip, None)]
    return [(clip_group(clip, number), number) for number in range(len(groups))]


def find_points(
    store: Store,
    points_xy_px: Float[np.ndarray, "point xy"],
    *,
    clip: str,
    step: int,
    layer: int,
    frame: int = 0,
    heads: Sequence[int] | None = None,
    kind: MatchKind = "query_key",
    frequencies: FrequencyBands = ALL_FREQUENCIES,
    params: MatchingParams = CORRECTED,
) -> xr.Dataset:
    """Match points of one frame in every frame that ran through the backbone together with it.

    Args:
        store: Descriptors of one backbone.
        points_xy_px: (x, y) in pixels of the clip's own frames.
        clip: Name of the clip.
        step: Denoising step, 0 the noisiest.
        layer: Layer, 0-based.
        frame: Video frame of the points.
        heads: Only these heads; None takes all stored ones.
        kind: Kind of matching.
        frequencies: Bands of rotary frequencies of queries and keys that take part.
        params: How to match.

    Returns:
        `xy_px` (pixels of the clip), `probability`, `margin` and `cycle_error_px` over (frame, point), in ascending
        order of frames; a frame in several chunks is read from the first.

    Raises:
        StoreError: the store lacks one of these, or the frame.
        ValueError: a point lies outside the clip.
    """
    parts, specs = [], []
    for group, chunk in clip_groups(store, clip):
        spec = store.spec(group)
        specs.append(spec)
        if frame in spec.frames:
            (query, key), own = pair_of_kind(
                _reader(store, spec, clip, chunk, step, layer, heads),
                kind,
                params=params,
                frequencies=frequencies,
                rotary=spec.rotary,
            )
            parts.append(_matches(query, key, spec, points_xy_px, spec.frames.index(frame), own))
    if not parts:
        known = sorted({shown for spec in specs for shown in spec.frames})
        raise StoreError(f"no stored latent frame describes frame {frame} of {clip}; there are {known}")
    found = xr.concat(parts, dim="frame")
    _, first = np.unique(found.frame.values, return_index=True)
    found = found.isel(frame=first)
    found.attrs = {"clip": clip, "step": step, "layer": layer, "query_frame": frame, "kind": kind}
    return found


def match_heatmaps(
    store: Store,
    point_xy_px: tuple[float, float],
    *,
    clip: str,
    step: int,
    layer: int,
    frame: int = 0,
    heads: Sequence[int] | None = None,
    kind: MatchKind = "query_key",
    frequencies: FrequencyBands = ALL_FREQUENCIES,
    params: MatchingParams = CORRECTED,
) -> xr.DataArray:
    """Compute the match probabilities of one point over the tokens of every frame that shares a chunk with its own.

    Args:
        store: As in `find_points`.
        point_xy_px: (x, y) in pixels of the clip's own frames.
        clip: As in `find_points`.
        step: As in `find_points`.
        layer: As in `find_points`.
        frame: As in `find_points`.
        heads: As in `find_points`.
        kind: As in `find_points`.
        frequencies: As in `find_points`.
        params: As in `find_points`.

    Returns:
        Probabilities over (frame, row, col) of the token grid, as from `match_probabilities`.
    """
    maps: dict[int, np.ndarray] = {}
    for group, chunk in clip_groups(store, clip):
        spec = store.spec(group)
        if frame not in spec.frames:
            continue
        (query, key), own = pair_of_kind(
            _reader(store, spec, clip, chunk, step, layer, heads),
            kind,
            params=params,
            frequencies=frequencies,
            rotary=spec.rotary,
        )
        tokens = clip_points_to_tokens(np.asarray([point_xy_px], np.float32), spec, params)
        source = spec.frames.index(frame)
        for target, shown in enumerate(spec.frames):
            if target != source and shown not in maps:
                found = match_probabilities(query, key, tokens, target_frame=target, source_frame=source, params=own)
                maps[shown] = found[0].numpy()
    if not maps:
        raise StoreError(f"no stored latent frame describes frame {frame} of {clip}; name a stored frame")
    frames = sorted(maps)
    return xr.DataArray(
        np.stack([maps[shown] for shown in frames]), dims=("frame", "row", "col"), coords={"frame": frames}
    )


def _reader(
    store: Store,
    spec: DescriptorSpec,
    clip: str,
    chunk: int | None,
    step: int,
    layer: int,
    heads: Sequence[int] | None,
) -> Callable[[str], Tensor]:
    """Return a function that reads a descriptor of the requested heads by its name."""
    if unknown := sorted(set(heads or ()) - set(spec.heads)):
        raise StoreError(f"heads {unknown} of {clip} are not stored; there are {list(spec.heads)}")
    chosen = None if heads is None else [spec.heads.index(head) for head in heads]

    def read(entry: str) -> Tensor:
        values = torch.from_numpy(store.sel(clip=clip, step=step, layer=layer, kind=entry, chunk=chunk)).float()
        return values if chosen is None else values[chosen]

    return read


def clip_points_to_tokens(
    points_xy_px: Float[np.ndarray, "point xy"], spec: DescriptorSpec, params: MatchingParams
) -> Float[Tensor, "point xy"]:
    """Convert pixels of the clip's own frames to token coordinates of a stored group.

    Raises:
        ValueError: a point lies outside the clip.
    """
    height, width = spec.clip_size
    outside = (points_xy_px < 0).any(axis=1) | (points_xy_px > (width, height)).any(axis=1)
    for x, y in points_xy_px[outside | ~np.isfinite(points_xy_px).all(axis=1)][:1].tolist():
        raise ValueError(f"point ({x:g}, {y:g}) lies outside the clip of {width}x{height} px")
    seen = rescale_points(points_xy_px, from_size=spec.clip_size, to_size=spec.size)
    return points_to_tokens(torch.from_numpy(seen), stride_px=float(spec.grid.stride_px), params=params)


def _matches(
    query: Tensor,
    key: Tensor,
    spec: DescriptorSpec,
    points_xy_px: np.ndarray,
    source: int,
    params: MatchingParams,
) -> xr.Dataset:
    tokens = clip_points_to_tokens(points_xy_px, spec, params)
    matches = match_points(query, key, tokens, params=params, source_frame=source, cycle=True)
    stride = float(spec.grid.stride_px)
    seen = tokens_to_points(matches.points_xy_token, stride_px=stride, params=params).numpy()
    xy = rescale_points(seen, from_size=spec.size, to_size=spec.clip_size)
    per_px = stride * spec.clip_size[0] / spec.size[0]
    error = matches.cycle_error_token
    axes = ("frame", "point")
    return xr.Dataset(
        {
            "xy_px": ((*axes, "xy"), xy),
            "probability": (axes, matches.probability.numpy()),
            "margin": (axes, matches.margin.numpy()),
            **({} if error is None else {"cycle_error_px": (axes, error.numpy() * per_px)}),
        },
        coords={"frame": list(spec.frames), "point": np.arange(len(points_xy_px)), "xy": ["x", "y"]},
    )


def match_stored_clip(store: Store, clip: str, tracks: Tracks, section: MatchSection) -> xr.Dataset:
    """Match a clip's query points in every stored step and layer.

    Only points queried in the first stored frame count. In a tracking view every chunk is matched from its anchor, and
    the chunks' frames are sorted; a frame in several chunks is read from the first. Attention is the mean over chunks,
    since each chunk attends over its own frames only.

    Args:
        store: Descriptors of one backbone.
        clip: Name of the clip.
        tracks: Tracks over the whole clip.
        section: How to match.

    Returns:
        The result of `label_matches`.

    Raises:
        StoreError: the store lacks the clip, or a part of it is damaged.
        ValueError: the chunks of a tracking view start from different frames.
    """
    parts = [_match_group(store, group, chunk, clip, tracks, section) for group, chunk in clip_groups(store, clip)]
    if len(anchors := {int(part.frame.values[0]) for part in parts}) > 1:
        raise ValueError(f"{clip}: chunks start from frames {sorted(anchors)}; scores need a single anchor")
    return parts[0] if len(parts) == 1 else _joined(parts)


def _match_group(
    store: Store, group: str, chunk: int | None, clip: str, tracks: Tracks, section: MatchSection
) -> xr.Dataset:
    spec = store.spec(group)
    points = np.flatnonzero(tracks.query_points[:, 0] == spec.frames[0])
    points_xy_px = rescale_points(
        tracks.query_points[points, 1:], from_size=(tracks.height, tracks.width), to_size=spec.size
    )
    matcher = ClipMatcher(section, points_xy_px, spec.grid.stride_px, spec.joint_text_mask, spec.rotary)

    def match(unit: tuple[int, int]) -> UnitMatches:
        step, layer = unit
        return matcher.match(
            lambda kind: torch.from_numpy(store.sel(clip=clip, step=step, layer=layer, kind=kind, chunk=chunk))
        )

    cells = dict(zip(spec.units, _each(match, spec.units, on_cpu=matcher.device == "cpu"), strict=True))
    return label_matches(cells, spec, points=points, points_xy_px=points_xy_px)


def _each(
    match: Callable[[tuple[int, int]], UnitMatches], units: Sequence[tuple[int, int]], *, on_cpu: bool
) -> list[UnitMatches]:
    """Match in every (step, layer); on a CPU each on one core, so that no bit depends on the number of cores."""
    if not on_cpu:
        return [match(unit) for unit in units]
    with ThreadPoolExecutor(
        min(os.cpu_count() or 1, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        return list(pool.map(match, units))


def _joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put the matches of chunks with one anchor in the order of their frames."""
    whole = xr.concat(parts, dim="latent_frame", data_vars="minimal", coords="minimal", compat="override")
    _, first = np.unique(whole.frame.values, return_index=True)
    joined = whole.isel(latent_frame=first)
    for name in map(str, parts[0].data_vars):
        if name.endswith("attention_mass"):
            anchor = sum(part[name].isel(latent_frame=0) for part in parts) / len(parts)
            joined[name] = joined[name] / len(parts)
            joined[name][{"latent_frame": 0}] = anchor
        elif name.endswith(("text_max", "text_mass")):
            joined[name] = sum(part[name] for part in parts) / len(parts)
    return joined
