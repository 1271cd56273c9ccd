"""The sections on tracking: tracks beside the truth, and the TAP-Vid numbers with what to compare them with."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from difftrack.datasets import Clip, Tracks
from difftrack.media import write_video
from difftrack.metrics import THRESHOLDS_PX
from difftrack.reports._curves import draw_delta_by_threshold, draw_error_by_frame
from difftrack.reports._drawings import Drawings
from difftrack.reports._footage import Footage
from difftrack.reports._overlay import OverlayParams, draw_tracks, side_by_side, size_beside
from difftrack.reports._page import Gallery, GalleryClip, Headline, Section, Table
from difftrack.reports._save import save_figure
from difftrack.reports._style import number
from difftrack.tracking import PredictedTracks

__all__ = [
    "Method",
    "TapVidScores",
    "TrackedClip",
    "median_error_by_frame",
    "results_section",
    "tracking_headline",
    "tracks_section",
]

_METRIC_SIZE_PX = 256.0
_VIDEOS_AT_ONCE = 2


@dataclass(frozen=True, slots=True, eq=False)
class TrackedClip:
    """The truth of one clip and what each method made of it."""

    name: str
    truth: Tracks
    methods: Mapping[str, PredictedTracks]
    """Method name -> its tracks; the backbone's under its own name, first."""


@dataclass(frozen=True, slots=True)
class TapVidScores:
    """TAP-Vid metrics as fractions, at 256 x 256; NaN where nothing can be measured."""

    delta_avg: float
    average_jaccard: float
    occlusion_accuracy: float
    deltas: tuple[float, ...]
    """Share of visible points within each threshold."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the results table."""

    name: str
    mean: TapVidScores
    clips: Mapping[str, TapVidScores] = field(default_factory=dict)


def median_error_by_frame(clips: Sequence[TrackedClip], method: str) -> Float[np.ndarray, " frame"]:
    """Median distance to the truth over the visible points of all clips, by frames since the query.

    Args:
        clips: Clips, of any lengths and sizes.
        method: Which of their methods.

    Returns:
        Pixels at 256 x 256; NaN where no point is visible that long after its query.
    """
    longest = max(tracked.truth.num_frames for tracked in clips)
    ages, errors = [], []
    for tracked in clips:
        truth = tracked.truth
        scale = np.asarray([_METRIC_SIZE_PX / truth.width, _METRIC_SIZE_PX / truth.height])
        distance = np.linalg.norm((tracked.methods[method].points_xy_px - truth.points_xy_px) * scale, axis=-1)
        age = np.arange(truth.num_frames)[:, None] - truth.query_points[:, 0]
        counted = truth.visible & (age > 0)
        ages.append(age[counted])
        errors.append(distance[counted])
    age, error = np.concatenate(ages), np.concatenate(errors)
    medians = [np.median(error[age == since]) if (age == since).any() else np.nan for since in range(1, longest)]
    return np.asarray(medians, dtype=np.float64)


def tracking_headline(methods: Sequence[Method]) -> Headline:
    """How well the backbone tracks, beside the others; the backbone comes first."""
    best, *others = methods
    beside = ", ".join(f"{method.name} {number(method.mean.delta_avg)}" for method in others)
    return Headline(
        number(best.mean.delta_avg),
        "δ avg of zero-shot tracks",
        f"Mean share of points within 1, 2, 4, 8 and 16 px of the truth at 256x256. In comparison: {beside}."
        if beside
        else "Mean share of points within 1, 2, 4, 8 and 16 px of the truth at 256x256.",
    )


def tracks_section(
    backbone: str, clips: Sequence[TrackedClip], footage: Footage, *, drawings: Drawings, params: OverlayParams
) -> Section:
    """Draw every clip's truth and tracks side by side into one video each.

    Args:
        backbone: Whose tracks they are.
        clips: Clips whose methods include the backbone.
        footage: Their frames.
        drawings: Take the videos.
        params: How tracks are drawn.
    """

    def show(tracked: TrackedClip) -> GalleryClip:
        clip, truth = footage.read(tracked.name), tracked.truth
        video = f"videos/{backbone}-{clip.name}.mp4"
        drawings.draw(partial(_write_side_by_side, clip, truth, tracked.methods[backbone], params), video)
        detail = f"{clip.source}, {clip.num_frames} frames, {truth.num_points} points, truth: {truth.tracker}"
        height, width = (size + size % 2 for size in size_beside(clip.height, clip.width, 2, params))
        return GalleryClip(clip.name, detail, video, f"{width} / {height}")

    with ThreadPoolExecutor(_VIDEOS_AT_ONCE) as pool:  # most of the time goes into codecs, which let threads run
        shown = list(pool.map(show, clips))
    gallery = Gallery(
        title="Tracks drawn on the clips.",
        caption="One colour per point by where it starts; filled where the point is seen, hollow where it is held to "
        "be occluded; trails fade.",
        panels=["truth", backbone],
        clips=shown,
    )
    return Section(
        anchor=f"{backbone}-tracks",
        short="Tracks",
        title="Tracks beside the truth",
        lead="No part of the backbone was trained to track. Each point's position is read off the match between its "
        "query descriptor and the keys of every other frame.",
        blocks=[gallery],
        group=backbone,
    )


def results_section(
    backbone: str, methods: Sequence[Method], clips: Sequence[TrackedClip], *, drawings: Drawings
) -> Section:
    """Table of TAP-Vid metrics, the two curves behind it, and every clip's numbers."""
    table = _methods_table(methods)
    figures = [
        save_figure(
            drawings,
            partial(draw_delta_by_threshold, {method.name: method.mean.deltas for method in methods}, THRESHOLDS_PX),
            name=f"{backbone}-delta-by-threshold",
            title="Share of points within a distance.",
            caption="Mean over clips; their mean over the five distances is δ avg.",
            wide=False,
        )
    ]
    if clips:
        errors = {name: median_error_by_frame(clips, name) for name in clips[0].methods}
        figures.append(
            save_figure(
                drawings,
                partial(draw_error_by_frame, errors),
                name=f"{backbone}-error-by-frame",
                title="Error as time goes by.",
                caption="Median over the visible points of all clips.",
                wide=False,
            )
        )
    return Section(
        anchor=f"{backbone}-results",
        short="Results",
        title="How good the tracks are",
        lead=_comparison(methods),
        blocks=[table, *figures, _clips_table(methods)],
        group=backbone,
    )


def _write_side_by_side(clip: Clip, truth: Tracks, found: PredictedTracks, params: OverlayParams, path: Path) -> None:
    frames, query_frames = clip.frames[: truth.num_frames], truth.query_points[:, 0].astype(int).tolist()
    panels = [
        draw_tracks(frames, tracks.points_xy_px, tracks.visible, query_frames=query_frames, params=params)
        for tracks in (truth, found)
    ]
    write_video(path, side_by_side(panels), clip.fps, lossless=False)


def _comparison(methods: Sequence[Method]) -> str:
    best, *others = methods
    lead = f"{best.name} reaches δ avg {number(best.mean.delta_avg)}"
    beside = " and ".join(f"{number(other.mean.delta_avg)} by {other.name}" for other in others)
    return f"{lead}, against {beside}." if beside else f"{lead}."


def _methods_table(methods: Sequence[Method]) -> Table:
    values = [
        [method.mean.delta_avg, method.mean.average_jaccard, method.mean.occlusion_accuracy, *method.mean.deltas]
        for method in methods
    ]
    return Table(
        title="TAP-Vid metrics.",
        caption="Percent, at 256x256, mean over clips. δ avg: mean share of visible points within 1 to 16 px. AJ: "
        "Jaccard, which also asks for visibility. OA: share of frames in which visibility is right. Best of each "
        "column in bold.",
        head=["method", "δ avg", "AJ", "OA", *(f"δ {threshold:g} px" for threshold in THRESHOLDS_PX)],
        rows=[[method.name, *map(number, row)] for method, row in zip(methods, values, strict=True)],
        best=_best_of_columns(np.asarray(values)),
    )


def _clips_table(methods: Sequence[Method]) -> Table:
    names = list(methods[0].clips)
    head = ["clip", *(f"{method.name}: {metric}" for method in methods for metric in ("δ avg", "AJ", "OA"))]
    rows = []
    for name in names:
        cells = [name]
        for method in methods:
            scores = method.clips.get(name)
            values = (scores.delta_avg, scores.average_jaccard, scores.occlusion_accuracy) if scores else (np.nan,) * 3
            cells += [number(value) for value in values]
        rows.append(cells)
    return Table(title="Clip by clip", caption="The same metrics for each clip.", head=head, rows=rows, folded=True)


def _best_of_columns(values: Float[np.ndarray, "row col"]) -> frozenset[tuple[int, int]]:
    """(row, column) of the largest value of each column, one further right because of the names."""
    if len(values) < 2:
        return frozenset()
    best = np.nan_to_num(values, nan=-np.inf).argmax(axis=0)
    return frozenset((int(row), column + 1) for column, row in enumerate(best))
