"""The sections on tracking: tracks next to the truth, and TAP-Vid metrics with baselines."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from difftrack.datasets import Clip, Tracks, Truth
from difftrack.media import write_video
from difftrack.metrics import THRESHOLDS_PX
from difftrack.reports._curves import draw_delta_by_threshold, draw_error_by_frame
from difftrack.reports._figure_cache import Drawings, save_figure
from difftrack.reports._names import explore_command, pseudo_truth_warning, tracker_name, truth_name
from difftrack.reports._overlay import captioned, draw_tracks, side_by_side, size_beside
from difftrack.reports._page import Figure, Gallery, GalleryClip, Headline, Section, Table
from difftrack.reports._params import OverlayParams
from difftrack.reports._report_clips import ReportClips
from difftrack.reports._style import number
from difftrack.tracking import PredictedTracks
from difftrack.wording import counted, listed

__all__ = [
    "Method",
    "TapVidScores",
    "TrackedClip",
    "TrackingResults",
    "median_error_by_frame",
    "results_section",
    "tracking_headline",
    "tracks_section",
]

_METRIC_SIZE_PX = 256.0
_VIDEOS_AT_ONCE = 2


@dataclass(frozen=True, slots=True, eq=False)
class TrackedClip:
    """The truth of one clip and the tracks of each method."""

    name: str
    truth: Tracks
    methods: Mapping[str, PredictedTracks]
    """Method name -> its tracks; the backbone's under its own name, first."""


@dataclass(frozen=True, slots=True)
class TapVidScores:
    """TAP-Vid metrics as fractions, at 256 x 256; NaN if nothing can be measured."""

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


@dataclass(frozen=True, slots=True)
class TrackingResults:
    """Results of all methods on clips that may be averaged together."""

    methods: Sequence[Method]
    """First the backbone's tracks, then the baselines, without the tracker of the pseudo-truth."""
    pseudo_truth: str | None = None
    """The tracker whose pseudo-truth the clips have; None for exact and annotated truth."""

    @property
    def goal(self) -> str:
        """Name of the reference that tracks are compared with."""
        return "the truth" if self.pseudo_truth is None else f"the tracks of {tracker_name(self.pseudo_truth)}"

    @property
    def clips(self) -> str:
        """Number of clips, and their kind of truth."""
        truth = "exact or annotated truth" if self.pseudo_truth is None else _pseudo_truth_name(self.pseudo_truth)
        return f"{counted(len(self.methods[0].clips), 'clip')} of {truth}"


def median_error_by_frame(clips: Sequence[TrackedClip], method: str) -> Float[np.ndarray, " frame"]:
    """Compute the median distance to the truth over the visible points of all clips, by frames since the query.

    Args:
        clips: Clips, of any lengths and sizes.
        method: Name of the method.

    Returns:
        Pixels at 256 x 256; NaN if no point is visible so long after its query.
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


def tracking_headline(results: TrackingResults) -> Headline:
    """Summarise the backbone's tracks and the baselines'; with a pseudo-truth, the agreement."""
    best, *others = results.methods
    within = f"Mean share of points within 1, 2, 4, 8 and 16 px of {results.goal} at 256x256, over {results.clips}."
    label = "δ avg of zero-shot tracks"
    if results.pseudo_truth is not None:
        label = f"agreement of zero-shot tracks with {tracker_name(results.pseudo_truth)}"
        within += f" {pseudo_truth_warning(results.pseudo_truth)}"
    beside = ", ".join(f"{method.name} {number(method.mean.delta_avg)}" for method in others)
    return Headline(number(best.mean.delta_avg), label, f"{within} In comparison: {beside}." if beside else within)


def tracks_section(
    backbone: str, clips: Sequence[TrackedClip], footage: ReportClips, *, drawings: Drawings, params: OverlayParams
) -> Section:
    """Draw every clip's truth and tracks side by side into one video each.

    Args:
        backbone: Backbone of the tracks.
        clips: Clips whose methods include the backbone.
        footage: Their frames.
        drawings: Receives the videos.
        params: How tracks are drawn.
    """

    def show(tracked: TrackedClip) -> GalleryClip:
        clip, truth = footage.read(tracked.name), tracked.truth
        video, panels = f"videos/{backbone}-{clip.name}.mp4", (truth_name(truth.truth), backbone)
        drawings.draw(partial(_write_side_by_side, clip, truth, tracked.methods[backbone], panels, params), video)
        detail = f"{clip.source}, {counted(clip.num_frames, 'frame')}, {counted(truth.num_points, 'point')}"
        height, width = (size + size % 2 for size in size_beside(clip.height, clip.width, 2, params))
        command = explore_command(clip.name)
        return GalleryClip(clip.name, detail, video, f"{width} / {height}", panels, clip.fps, command)

    with ThreadPoolExecutor(_VIDEOS_AT_ONCE) as pool:  # codecs take most of the time, and release the GIL
        shown = list(pool.map(show, clips))
    gallery = Gallery(
        title="Tracks drawn on the clips.",
        caption="One colour per point by its start; filled where the point is visible, hollow where it is predicted "
        f"to be occluded; trails fade.{_about_pseudo_truth(clips)}",
        clips=shown,
    )
    return Section(
        anchor=f"{backbone}-tracks",
        short="Tracks",
        title="Tracks next to the truth" if _any_known(clips) else "Tracks next to a pseudo-truth",
        lead="No part of the backbone was trained to track. Each point's position comes from the match between its "
        "query descriptor and the keys of every other frame.",
        blocks=[gallery],
        group=backbone,
    )


def results_section(
    backbone: str, results: Sequence[TrackingResults], clips: Sequence[TrackedClip], *, drawings: Drawings
) -> Section:
    """Tables of TAP-Vid metrics for each kind of truth, the two curves behind the first, and every clip's numbers.

    Args:
        backbone: Backbone of the tracks.
        results: At least one; first those for exact or annotated truth.
        clips: The tracks themselves.
        drawings: Receives the figures.
    """
    first, *others = results
    figures = _figures(backbone, first, clips, drawings)
    tables = [_methods_table(other) for other in others]
    return Section(
        anchor=f"{backbone}-results",
        short="Results",
        title="Accuracy of the tracks" if first.pseudo_truth is None else f"How far the tracks agree with {first.goal}",
        lead=" ".join(_comparison(own) for own in results),
        blocks=[_methods_table(first), *figures, *tables, *(_clips_table(own) for own in results)],
        group=backbone,
    )


def _figures(backbone: str, results: TrackingResults, clips: Sequence[TrackedClip], drawings: Drawings) -> list[Figure]:
    """Draw the results by threshold and by frame, over the clips of their kind of truth."""
    of_kind = [tracked for tracked in clips if tracked.truth.truth.tracker == results.pseudo_truth]
    deltas = {method.name: method.mean.deltas for method in results.methods}
    known = results.pseudo_truth is None
    figures = [
        save_figure(
            drawings,
            partial(draw_delta_by_threshold, deltas, THRESHOLDS_PX, goal=results.goal),
            name=f"{backbone}-delta-by-threshold",
            title="Share of points within a distance.",
            caption=f"Mean over {results.clips}; their mean over the five distances is "
            f"{'δ avg' if known else 'the agreement'}.",
            wide=False,
        )
    ]
    if of_kind:
        errors = {method.name: median_error_by_frame(of_kind, method.name) for method in results.methods}
        measure = "error" if results.pseudo_truth is None else f"distance to {tracker_name(results.pseudo_truth)}"
        figures.append(
            save_figure(
                drawings,
                partial(draw_error_by_frame, errors, measure=measure),
                name=f"{backbone}-error-by-frame",
                title=f"{'Error' if known else 'Distance'} over time.",
                caption=f"Median over the visible points of {results.clips}.",
                wide=False,
            )
        )
    return figures


def _write_side_by_side(
    clip: Clip, truth: Tracks, found: PredictedTracks, names: Sequence[str], params: OverlayParams, path: Path
) -> None:
    frames, query_frames = clip.frames[: truth.num_frames], truth.query_points[:, 0].astype(int).tolist()
    panels = [
        draw_tracks(frames, tracks.points_xy_px, tracks.visible, query_frames=query_frames, params=params)
        for tracks in (truth, found)
    ]
    named = [captioned(panel, name) for panel, name in zip(panels, names, strict=True)]
    write_video(path, side_by_side(named), clip.fps, lossless=False)


def _any_known(clips: Sequence[TrackedClip]) -> bool:
    return any(tracked.truth.truth.known for tracked in clips)


def _about_pseudo_truth(clips: Sequence[TrackedClip]) -> str:
    """Explain a pseudo-truth if one is shown."""
    trackers = dict.fromkeys(tracked.truth.tracker for tracked in clips if not tracked.truth.truth.known)
    if not trackers:
        return ""
    return (
        f" A pseudo-truth is the result of another tracker ({', '.join(map(tracker_name, trackers))}), right or wrong."
    )


def _pseudo_truth_name(tracker: str) -> str:
    return truth_name(Truth("pseudo_truth", tracker))


def _comparison(results: TrackingResults) -> str:
    best, *others = results.methods
    beside = listed([f"{number(other.mean.delta_avg)} by {other.name}" for other in others]) if others else ""
    end = f", against {beside}." if beside else "."
    if results.pseudo_truth is None:
        return f"Over {results.clips}, {best.name} reaches δ avg {number(best.mean.delta_avg)}{end}"
    return (
        f"Over {results.clips}, {best.name} agrees with {tracker_name(results.pseudo_truth)} to "
        f"{number(best.mean.delta_avg)} by δ avg{end}"
    )


def _methods_table(results: TrackingResults) -> Table:
    values = [
        [method.mean.delta_avg, method.mean.average_jaccard, method.mean.occlusion_accuracy, *method.mean.deltas]
        for method in results.methods
    ]
    return Table(
        title="TAP-Vid metrics." if results.pseudo_truth is None else f"Agreement with {results.goal}.",
        caption=f"Percent, at 256x256, mean over {results.clips}. {_columns(results)}",
        head=["method", "δ avg", "AJ", "OA", *(f"δ {threshold:g} px" for threshold in THRESHOLDS_PX)],
        rows=[[method.name, *map(number, row)] for method, row in zip(results.methods, values, strict=True)],
        best=_best_of_columns(np.asarray(values)) if results.pseudo_truth is None else frozenset(),
    )


def _columns(results: TrackingResults) -> str:
    """Explain the columns; with a pseudo-truth no method is marked as best."""
    if results.pseudo_truth is None:
        return (
            "δ avg: mean share of visible points within 1 to 16 px. AJ: Jaccard, which also counts visibility. OA: "
            "share of frames with correct visibility. The best of each column is bold."
        )
    name = tracker_name(results.pseudo_truth)
    return (
        f"The measures of TAP-Vid, against the tracks of {name}: {name} itself is not compared, and a method better "
        f"than {name} cannot be recognised."
    )


def _clips_table(results: TrackingResults) -> Table:
    methods = results.methods
    names = list(methods[0].clips)
    metrics = ("δ avg", "AJ", "OA")
    rows = []
    for name in names:
        cells = [name]
        for method in methods:
            scores = method.clips.get(name)
            values = (scores.delta_avg, scores.average_jaccard, scores.occlusion_accuracy) if scores else (np.nan,) * 3
            cells += [number(value) for value in values]
        rows.append(cells)
    known = results.pseudo_truth is None
    return Table(
        title="Clip by clip" if known else f"Clip by clip, against {_pseudo_truth_name(results.pseudo_truth or '')}",
        caption="The same metrics for each clip.",
        head=["clip", *(metric for _ in methods for metric in metrics)],
        rows=rows,
        folded=True,
        groups=[("", 1), *((method.name, len(metrics)) for method in methods)],
    )


def _best_of_columns(values: Float[np.ndarray, "row col"]) -> frozenset[tuple[int, int]]:
    """Return (row, column) of the largest value of each column, shifted right by the column of names."""
    if len(values) < 2:
        return frozenset()
    best = np.nan_to_num(values, nan=-np.inf).argmax(axis=0)
    return frozenset((int(row), column + 1) for column, row in enumerate(best))
