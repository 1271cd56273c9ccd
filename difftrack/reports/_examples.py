"""The sections on single points: maps of their match probability, and pictures of the descriptors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

from difftrack.correspondence import MatchingParams, MatchKind, stored_to_frames
from difftrack.datasets import Clip, Tracks
from difftrack.geometry import rescale_points
from difftrack.media import write_image, write_video
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._names import truth_name
from difftrack.reports._overlay import captioned, draw_tracks, size_beside
from difftrack.reports._page import Gallery, GalleryClip, Section, Strip, Strips
from difftrack.reports._params import OverlayParams, ReportParams
from difftrack.reports._strips import (
    draw_match_strip,
    frame_strip,
    pca_colors,
    pca_strip,
    spread_indices,
    without_position,
)
from difftrack.store import Store, clip_group
from difftrack.text_tokens import TextTokens

__all__ = ["ExampleClip", "ExampleView", "examples_sections", "match_strips", "moving_points", "stored_example"]

_MATCH_TILES = 5
_COLOR_TILES = 3
_MARGIN = 0.1
"""Share of the shorter side that an example point keeps from the edges."""
_TURNED_BY_POSITION = ("query", "key")
"""Kinds of descriptors that rotary positions act on."""

Descriptor = Float[np.ndarray, "head latent_frame row col channel"]


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One place in the network: layer, step and head."""

    layer: int
    step: int
    head: int | None
    """None for all heads together."""

    @property
    def label(self) -> str:
        """Return a display name, one line per part."""
        label = f"layer {self.layer}\nstep {self.step}"
        return label if self.head is None else f"{label}\nhead {self.head}"

    @property
    def slug(self) -> str:
        """Return a name for files."""
        return self.label.replace(" ", "").replace("\n", "-")


@dataclass(frozen=True, slots=True, eq=False)
class ExampleClip:
    """A clip and the stored descriptors to draw."""

    clip: Clip
    frames: tuple[int, ...]
    """Video frame that each latent frame describes."""
    size: tuple[int, int]
    """(height, width) at which the backbone saw the clip, pixels."""
    stride_px: float
    temporal_stride: int
    first_frames: int
    """Video frames of the first latent frame."""
    units: tuple[tuple[int, int], ...]
    """Stored (step, layer)."""
    kinds: tuple[str, ...]
    read: Callable[[str, ExampleView], Float[np.ndarray, "head *token channel"]] = field(compare=False)
    """(kind, view) -> descriptors, with a head axis of length 1 for a view of one head; `text_key` is a kind."""
    fingerprint: str
    """Fingerprint of the descriptors that are read."""
    points_xy_px: Float[np.ndarray, "point xy"]
    """Points to follow from frame 0, in pixels of the clip."""
    truth: Tracks | None
    """Their true tracks; None if unknown."""
    followed_xy_px: Float[np.ndarray, "followed xy"]
    """Points whose trajectories are drawn, from frame 0, in pixels of the clip."""
    heads: tuple[int, ...]
    """Stored heads, in the order of the head axis."""
    text: TextTokens | None = None
    """Words of the text tokens; None if they are not stored."""
    text_mask: tuple[bool, ...] = ()
    """True at text tokens that are attended to; empty if their keys are not stored."""


def moving_points(tracks: Tracks, *, num: int) -> Tracks:
    """Pick tracks of query points in frame 0 that stay inside the picture, move far and are far apart.

    Inside means at least a tenth of the shorter side away from every edge wherever the point is visible; if no point
    stays there, all are candidates. The first one moves farthest among those that stay visible longest; each further
    one is farthest from the earlier ones, among the half that moves more.
    """
    from_start = np.flatnonzero((tracks.query_points[:, 0] == 0) & tracks.visible.any(axis=0))
    if not len(from_start):
        return tracks.select(np.zeros(tracks.num_points, dtype=bool))
    inside = from_start[_stays_inside(tracks)[from_start]]
    from_start = inside if len(inside) else from_start
    seen = tracks.visible[:, from_start].mean(axis=0)
    from_start = from_start[seen == seen.max()]
    path = tracks.points_xy_px[:, from_start]
    moved = np.linalg.norm(path - path[:1], axis=-1).max(axis=0)
    chosen = [int(moved.argmax())]
    movers = np.flatnonzero(moved >= np.median(moved))
    while len(chosen) < min(num, len(movers)):
        apart = np.linalg.norm(path[0][movers][:, None] - path[0][chosen][None], axis=-1).min(axis=1)
        chosen.append(int(movers[apart.argmax()]))
    return tracks.select(np.isin(np.arange(tracks.num_points), from_start[chosen]))


def _stays_inside(tracks: Tracks) -> Bool[np.ndarray, " point"]:
    """Return whether each point keeps the margin in every frame in which it is visible."""
    size = np.asarray([tracks.width, tracks.height])
    margin = _MARGIN * size.min()
    points = tracks.points_xy_px
    inside = ((points >= margin) & (points <= size - margin)).all(axis=-1)
    return np.asarray((inside | ~tracks.visible).all(axis=0))


def stored_example(
    store: Store,
    clip: Clip,
    points_xy_px: Float[np.ndarray, "point xy"],
    *,
    truth: Tracks | None = None,
    chunk: int | None = None,
    followed_xy_px: Float[np.ndarray, "followed xy"] | None = None,
) -> ExampleClip:
    """Collect a clip's points and stored descriptors for drawing.

    Args:
        store: Descriptors of one backbone.
        clip: The clip's frames.
        points_xy_px: Points in its first stored frame, (x, y) in pixels of the clip.
        truth: Tracks of the same points.
        chunk: The chunk, in a tracking view.
        followed_xy_px: Points whose trajectories are drawn; the same points by default.

    Raises:
        ValueError: a point lies outside the clip.
        StoreError: the store lacks the clip.
    """
    spec = store.spec(clip_group(clip.name, chunk))
    for x, y in points_xy_px.tolist():
        if not (-1 <= x <= clip.width + 1 and -1 <= y <= clip.height + 1):
            raise ValueError(f"point ({x:g}, {y:g}) lies outside clip {clip.name} of {clip.width}x{clip.height} px")

    def read(kind: str, view: ExampleView) -> Float[np.ndarray, "head *token channel"]:
        values = store.sel(clip=clip.name, step=view.step, layer=view.layer, kind=kind, head=view.head, chunk=chunk)
        return values if view.head is None else values[None]

    return ExampleClip(
        clip=clip,
        frames=spec.frames,
        size=spec.size,
        stride_px=float(spec.grid.stride_px),
        temporal_stride=spec.grid.temporal_stride,
        first_frames=spec.grid.first_frames,
        units=tuple(spec.units),
        kinds=spec.kinds,
        read=read,
        fingerprint=store.fingerprint(clip_group(clip.name, chunk)),
        points_xy_px=points_xy_px,
        truth=truth,
        followed_xy_px=points_xy_px if followed_xy_px is None else followed_xy_px,
        heads=spec.heads,
        text=store.text_tokens(clip_group(clip.name, chunk)) if spec.text_mask else None,
        text_mask=spec.text_mask,
    )


def match_strips(
    example: ExampleClip,
    view: ExampleView,
    targets: Sequence[int],
    matching: MatchingParams,
    kind: MatchKind = "query_key",
) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
    """Draw one strip per point of an example.

    Args:
        example: The clip and its points.
        view: Layer, step and head of the descriptors.
        targets: Latent frames, one tile each.
        matching: How descriptors are matched.
        kind: Kind of matching.
    """
    from difftrack.reports._point_matches import match_maps  # loads torch

    frames, clip_size = example.clip.frames, (example.clip.height, example.clip.width)
    maps, best_px = match_maps(
        lambda name: example.read(name, view),
        rescale_points(example.points_xy_px, from_size=clip_size, to_size=example.size),
        targets,
        kind=kind,
        stride_px=example.stride_px,
        matching=matching,
    )
    best_px = rescale_points(best_px, from_size=example.size, to_size=clip_size)
    for point, point_xy in enumerate(example.points_xy_px):
        yield draw_match_strip(
            frames[example.frames[0]],
            frames[[example.frames[target] for target in targets]],
            maps[:, point],
            point_xy_px=point_xy,
            matches_xy_px=best_px[:, point],
            truth_xy_px=_true_positions(example, point, targets),
        )


def trajectories(
    example: ExampleClip, view: ExampleView, matching: MatchingParams, kind: MatchKind
) -> Float[np.ndarray, "frame followed xy"]:
    """Follow an example's points by matches of one layer at one step, in pixels of the clip.

    Args:
        example: The clip and its points.
        view: Layer, step and head of the descriptors.
        matching: How they are matched, and how positions per latent frame become positions per video frame.
        kind: Kind of matching.
    """
    from difftrack.reports._point_matches import matched_positions  # loads torch

    clip_size = (example.clip.height, example.clip.width)
    found = matched_positions(
        lambda name: example.read(name, view),
        rescale_points(example.followed_xy_px, from_size=clip_size, to_size=example.size),
        kind=kind,
        stride_px=example.stride_px,
        matching=matching,
    )
    to_frames = stored_to_frames(
        num_frames=example.frames[-1] + example.first_frames - example.frames[0],
        temporal_stride=example.temporal_stride,
        first_frames=example.first_frames,
        params=matching,
    )
    return rescale_points(to_frames(found), from_size=example.size, to_size=clip_size)


def trajectories_section(
    backbone: str,
    examples: Sequence[ExampleClip],
    views: Sequence[ExampleView],
    *,
    matching: MatchingParams,
    drawings: Drawings,
    params: ReportParams,
) -> Section:
    """Draw trajectories of a clip's points by one layer at one step, one video each.

    Args:
        backbone: Backbone of the descriptors.
        examples: Clips to draw.
        views: Layers, steps and heads, one video each.
        matching: How descriptors are matched.
        drawings: Receives the videos.
        params: `kinds` and `overlay` matter here.
    """
    shown = []
    for example in examples:
        height, width = (
            size + size % 2 for size in size_beside(example.clip.height, example.clip.width, 1, params.overlay)
        )
        for kind, view in ((kind, view) for kind in params.kinds for view in views):
            label, name = f"{view.label} {KIND_NAMES[kind]}".replace("\n", ", "), example.clip.name
            video = f"videos/{backbone}-{name}-{kind}-{view.slug}.mp4"
            drawings.draw(partial(_write_trajectories, example, view, matching, kind, label, params.overlay), video)
            detail = f"{len(example.followed_xy_px)} points, by {label}"
            shown.append(GalleryClip(name, detail, video, f"{width} / {height}", [label], example.clip.fps))
    return Section(
        anchor=f"{backbone}-trajectories",
        short="Trajectories",
        title="Points followed by one layer alone",
        lead="The best match of every point of frame 0 in each later latent frame, without chunks, paths or "
        "smoothing. The scores of that layer and step are measured on these matches.",
        blocks=[Gallery(title="Trajectories.", caption="All points are drawn as visible.", clips=shown)],
        group=backbone,
    )


def _write_trajectories(
    example: ExampleClip,
    view: ExampleView,
    matching: MatchingParams,
    kind: MatchKind,
    label: str,
    overlay: OverlayParams,
    path: Path,
) -> None:
    points = trajectories(example, view, matching, kind)
    frames = example.clip.frames[example.frames[0] : example.frames[0] + len(points)]
    seen = np.ones(points.shape[:2], dtype=bool)
    write_video(
        path, captioned(draw_tracks(frames, points, seen, params=overlay), label), example.clip.fps, lossless=False
    )


KIND_NAMES: Mapping[MatchKind, str] = {
    "query_key": "query-key",
    "query_query": "query-query",
    "key_key": "key-key",
    "value": "value",
    "feature": "feature",
    "query_key_pre_rotary": "query-key before rotary positions",
    "query_query_pre_rotary": "query-query before rotary positions",
    "key_key_pre_rotary": "key-key before rotary positions",
}


def examples_sections(
    backbone: str,
    examples: Sequence[ExampleClip],
    views: Sequence[ExampleView],
    *,
    matching: MatchingParams,
    drawings: Drawings,
    params: ReportParams | None = None,
) -> list[Section]:
    """Draw match-probability maps and colour pictures of descriptors, and trajectories if requested.

    Args:
        backbone: Backbone of the descriptors.
        examples: Clips to draw.
        views: Views of each clip, one row each.
        matching: How descriptors are matched.
        drawings: Receives the pictures.
        params: `kinds`, `frames`, `trajectories` and `overlay` matter here.
    """
    params = params or ReportParams()
    maps = [
        block
        for example in examples
        for kind in params.kinds
        for block in _match_blocks(backbone, example, views, matching, drawings, kind=kind, frames=params.frames)
    ]
    colors = [_color_block(backbone, example, views, drawings, frames=params.frames) for example in examples]
    sections = []
    if maps:
        sections.append(
            Section(
                anchor=f"{backbone}-maps",
                short="Points",
                title="One point, frame by frame",
                lead="The match probability of a single point. A layer that carries correspondence gives a narrow "
                "peak at the right place; in other layers the probability spreads out, or stays at the point's old "
                "place.",
                blocks=maps,
                group=backbone,
            )
        )
    if colors:
        sections.append(
            Section(
                anchor=f"{backbone}-colors",
                short="Colours",
                title="Pictures of the descriptors",
                lead="Three principal components of each descriptor shown as red, green and blue. Where an object "
                "keeps its colour while it moves, its descriptor moves with it. Queries and keys also encode "
                "positions: rotary positions turn them by frame, row and column, which would show as stripes. The "
                "means of rows, columns and frames are therefore subtracted. The rest is still turned, so an "
                "object's colour in a query or key may drift as it moves. Features have no rotation and are shown "
                "unchanged.",
                blocks=colors,
                group=backbone,
            )
        )
    if examples and views and params.trajectories:
        section = trajectories_section(backbone, examples, views, matching=matching, drawings=drawings, params=params)
        sections.insert(0, section)
    return sections


def _match_blocks(
    backbone: str,
    example: ExampleClip,
    views: Sequence[ExampleView],
    matching: MatchingParams,
    drawings: Drawings,
    *,
    kind: MatchKind,
    frames: Literal["auto", "all"],
) -> Iterator[Strips]:
    name, prefix = example.clip.name, "" if kind == "query_key" else f"{kind}-"
    most = len(example.frames) if frames == "all" else _MATCH_TILES
    targets = [1 + index for index in spread_indices(len(example.frames) - 1, most=most)]
    rows: list[list[Strip]] = [[] for _ in example.points_xy_px]
    for view in views:
        images = [f"strips/{backbone}-{name}-{prefix}point{point}-{view.slug}.png" for point in range(len(rows))]
        drawings.draw(partial(_write_match_strips, example, view, targets, matching, kind), *images)
        for row, image in zip(rows, images, strict=True):
            row.append(Strip(view.label, image))
    for (x, y), strips in zip(example.points_xy_px, rows, strict=True):
        yield Strips(
            title=f"{name}, point ({x:.0f}, {y:.0f}){_by(kind)}.",
            caption="First column: the point in frame 0. Then its match probability over the tokens of later frames, "
            f"each picture scaled to its own maximum. Ring: the most probable token{_about_cross(example)}.",
            columns=["query point", *(f"frame {example.frames[target]}" for target in targets)],
            rows=strips,
        )


def _by(kind: MatchKind) -> str:
    return {"query_key": "", "feature": ", by features"}.get(kind, f", by {KIND_NAMES[kind]}")


def _about_cross(example: ExampleClip) -> str:
    return (
        "" if example.truth is None else f"; cross: the {truth_name(example.truth.truth)}, where the point is visible"
    )


def _true_positions(example: ExampleClip, point: int, targets: Sequence[int]) -> Float[np.ndarray, "tile xy"] | None:
    """Return a point's true position in each target frame; NaN where it is not visible."""
    if example.truth is None:
        return None
    frames = [example.frames[target] for target in targets]
    return np.where(example.truth.visible[frames, point, None], example.truth.points_xy_px[frames, point], np.nan)


def _color_block(
    backbone: str,
    example: ExampleClip,
    views: Sequence[ExampleView],
    drawings: Drawings,
    *,
    frames: Literal["auto", "all"],
) -> Strips:
    most = len(example.frames) if frames == "all" else _COLOR_TILES
    shown, name = spread_indices(len(example.frames), most=most), example.clip.name
    rows = []
    for view in (None, *views):
        label, slug = ("clip", "frames") if view is None else (view.label, view.slug)
        image = f"strips/{backbone}-{name}-colors-{slug}.png"
        drawings.draw(partial(_write_color_strip, example, view, shown), image)
        rows.append(Strip(label, image))
    return Strips(
        title=f"{name}.",
        caption="Each row has its own basis per kind of descriptor, shared by all frames of the clip, so equal "
        "colours within a row and kind mean equal components. Queries and keys are shown without the means of their "
        "rows, columns and frames, features as stored.",
        columns=[f"frame {example.frames[index]}" for _ in example.kinds for index in shown],
        rows=rows,
        groups=[(kind, len(shown)) for kind in example.kinds],
    )


def _write_match_strips(
    example: ExampleClip,
    view: ExampleView,
    targets: Sequence[int],
    matching: MatchingParams,
    kind: MatchKind,
    *paths: Path,
) -> None:
    for path, strip in zip(paths, match_strips(example, view, targets, matching, kind), strict=True):
        write_image(path, strip)


def _write_color_strip(example: ExampleClip, view: ExampleView | None, shown: Sequence[int], path: Path) -> None:
    """Draw descriptors as colours; without a view, the frames themselves."""
    if view is None:
        strip = frame_strip(example.clip.frames[[example.frames[index] for index in shown] * len(example.kinds)])
    else:
        strip = pca_strip(np.concatenate([_colors(example.read(kind, view), kind)[shown] for kind in example.kinds]))
    write_image(path, strip)


def _colors(descriptor: Descriptor, kind: str) -> UInt8[np.ndarray, "latent_frame row col rgb"]:
    """Join heads as channels of one descriptor, without the part that depends only on position."""
    joined = np.moveaxis(descriptor, 0, -2)
    channels = joined.reshape(*joined.shape[:-2], -1).astype(np.float32)
    return pca_colors(without_position(channels) if kind in _TURNED_BY_POSITION else channels)
