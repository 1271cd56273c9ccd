"""Builds a report: sections in order, then the page."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from difftrack.correspondence import MatchingParams
from difftrack.datasets import Clip, Tracks, TruthKind
from difftrack.geometry import rescale_points
from difftrack.reports._analysis import ScoreMaps, analysis_headlines, analysis_sections
from difftrack.reports._cause_section import CauseStudy, causes_section
from difftrack.reports._examples import ExampleClip, ExampleView, examples_sections, moving_points, stored_example
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._guidance import Samples, guidance_headlines, guidance_section
from difftrack.reports._names import pseudo_truth_warning
from difftrack.reports._page import Headline, Page, Section, Table, render_page
from difftrack.reports._params import ReportParams
from difftrack.reports._point_maps import MOST_BYTES, chooser_section
from difftrack.reports._provenance import provenance_section
from difftrack.reports._report_clips import ReportClips
from difftrack.reports._style import MISSING, number
from difftrack.reports._tracking import TrackedClip, TrackingResults, results_section, tracking_headline, tracks_section
from difftrack.reports._word_section import words_section
from difftrack.store import Store
from difftrack.wording import counted

__all__ = ["BackboneResults", "example_clips", "write_report"]

_EXAMPLE_POINTS = 2
_TRUSTED: tuple[TruthKind, ...] = ("exact", "annotated", "pseudo_truth")
"""Kinds of truth, most trusted first."""


@dataclass(frozen=True, slots=True, eq=False)
class BackboneResults:
    """All results of the pipeline for one backbone."""

    name: str
    scores: ScoreMaps | None
    """Scores; None if nothing was scored."""
    examples: Sequence[ExampleClip]
    """Clips whose descriptors are drawn."""
    tracked: Sequence[TrackedClip]
    results: Sequence[TrackingResults]
    """First results for exact or annotated truth, then those for each pseudo-truth; empty if nothing was tracked."""
    provenance: Mapping[str, Any]
    """Provenance of the descriptors, from the stores, and of all results."""
    causes: CauseStudy | None = None
    """What removing heads of these weights does to samples; None where that was not studied."""


def example_clips(store: Store, footage: ReportClips, params: ReportParams) -> list[ExampleClip]:
    """Choose the clips whose descriptors are drawn, and the points on them.

    By default it takes the first clip of each source: first clips with exact truth, then annotated ones, then clips
    with a pseudo-truth.

    Args:
        store: Analysis view of one backbone; clips that it lacks are not drawn.
        footage: All clips.
        params: `clips` and `positions` matter here.

    Raises:
        ValueError: a clip named in the params does not exist, or a position lies outside a clip.
    """
    groups = set(store.groups())
    known = [name for name in footage.truth if name in groups]
    if params.clips == "auto":
        ranked = sorted(known, key=lambda name: _TRUSTED.index(footage.truth[name].truth.kind))
        first = {footage.kind(name).partition("/")[0]: name for name in reversed(ranked)}
        names = [name for name in ranked if name in first.values()]
    elif params.clips == "all":
        names = known
    else:
        names = list(params.clips)
    for name in names:
        if name not in known:
            raise ValueError(f"report.clips: there is no clip {name!r}; known: {', '.join(known)}")
    return [_example(store, footage.read(name), footage.truth[name], params) for name in names]


def write_report(
    folder: Path,
    footage: ReportClips,
    backbones: Sequence[BackboneResults],
    *,
    params: ReportParams,
    samples: Samples | None = None,
    anew: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write `index.html`, its pictures and videos, and `headlines.json`.

    Args:
        folder: Output folder, created if missing; the page uses relative names only. Drawings of an earlier report are
            kept if they would not change, and removed if they are not shown.
        footage: All clips.
        backbones: One or more; the first one gives the headlines.
        params: What to show.
        samples: Samples with and without guidance; None if there are none, which the page then says.
        anew: Also draw existing files again.
        progress: Called with the name of each finished drawing.

    Returns:
        The page.

    Raises:
        ValueError: `backbones` is empty, or a layer, step or head to draw is not stored.
    """
    if not backbones:
        raise ValueError("there are no results of any backbone to report on")
    folder.mkdir(parents=True, exist_ok=True)
    first = backbones[0]
    headlines = [] if first.scores is None else analysis_headlines(first.scores)
    headlines += map(tracking_headline, first.results[:1])
    headlines += guidance_headlines(samples)
    sections = [_comparison(backbones)] if len(backbones) > 1 else []
    with Drawings(folder, anew=anew, progress=progress) as drawings:
        for backbone in backbones:
            share = MOST_BYTES // len(backbones)
            sections += _backbone_sections(backbone, footage, drawings, params, most_bytes=share)
        sections.append(
            guidance_section(samples, drawings=drawings, params=params.overlay, max_videos=params.max_videos)
        )
    stores = {backbone.name: backbone.provenance for backbone in backbones}
    sections.append(provenance_section(footage, stores, dataclasses.asdict(params)))
    page = folder / "index.html"
    page.write_text(render_page(Page(params.title, _lead(footage, backbones), headlines, sections)), encoding="utf-8")
    (folder / "headlines.json").write_text(_headlines_json(headlines), encoding="utf-8")
    return page


def _backbone_sections(
    backbone: BackboneResults, footage: ReportClips, drawings: Drawings, params: ReportParams, *, most_bytes: int
) -> list[Section]:
    scores, name = backbone.scores, backbone.name
    sections = [] if scores is None else analysis_sections(scores, drawings=drawings)
    if backbone.tracked:
        drawn = backbone.tracked[: params.max_videos]
        tracks = tracks_section(name, drawn, footage, drawings=drawings, params=params.overlay)
        sections.append(tracks)
        if backbone.results:
            sections.append(results_section(name, backbone.results, backbone.tracked, drawings=drawings))
    views = _chosen_views(scores, backbone.examples, params)
    matching = MatchingParams.preset("corrected" if scores is None else scores.match_convention)
    sections += chooser_section(
        name, backbone.examples, views, matching=matching, drawings=drawings, most_bytes=most_bytes
    )
    sections += examples_sections(name, backbone.examples, views, matching=matching, drawings=drawings, params=params)
    sections += words_section(name, backbone.examples, drawings)
    if backbone.causes is not None:
        sections.append(causes_section(name, backbone.causes, drawings))
    return sections


def _chosen_views(scores: ScoreMaps | None, examples: Sequence[ExampleClip], params: ReportParams) -> list[ExampleView]:
    """Choose the views to draw: the best layer at several steps, then the worst one at the last of them.

    Layers that the params name are drawn at every step instead. Without scores the stored layers are taken in order.
    Scored layers that are not stored are not drawn.
    """
    if not examples:
        return []
    units = examples[0].units
    kept = sorted({step for step, _ in units})
    steps = sorted({kept[0], kept[len(kept) // 2], kept[-1]}) if params.steps == "auto" else params.steps
    if params.layers == "auto":
        stored = sorted({layer for _, layer in units})
        ranked = stored if scores is None else [layer for layer in scores.layers_by_accuracy() if layer in stored]
        cells = [*((layer, step) for layer in ranked[:1] for step in steps)]
        cells += [(layer, steps[-1]) for layer in ranked[1:][-1:]]
    else:
        cells = [(layer, step) for layer in params.layers for step in steps]
    heads: Sequence[int | None] = [None] if params.heads == "all" else params.heads
    return [ExampleView(layer, step, head) for layer, step in cells for head in heads]


def _example(store: Store, clip: Clip, tracks: Tracks, params: ReportParams) -> ExampleClip:
    followed = tracks.query_points[(tracks.query_points[:, 0] == 0) & tracks.visible.any(axis=0), 1:]
    if params.token_positions is not None:
        points = _token_centres(store, clip, params.token_positions)
        return stored_example(store, clip, points, followed_xy_px=followed)
    if params.positions != "auto":
        points = np.asarray(params.positions, dtype=np.float32)
        return stored_example(store, clip, points, followed_xy_px=followed)
    truth = moving_points(tracks, num=_EXAMPLE_POINTS)
    return stored_example(store, clip, truth.query_points[:, 1:], truth=truth, followed_xy_px=followed)


def _token_centres(store: Store, clip: Clip, positions: Sequence[tuple[int, int]]) -> Float[np.ndarray, "point xy"]:
    """Return the centres of tokens (row, column) in pixels of the clip.

    Raises:
        ValueError: a token does not exist.
    """
    spec = store.spec(clip.name)
    for row, col in positions:
        if not (row < spec.grid.rows and col < spec.grid.cols):
            raise ValueError(
                f"report.token_positions: ({row}, {col}) is not a token of {clip.name}; there are "
                f"{spec.grid.rows} rows and {spec.grid.cols} columns"
            )
    xy_token = np.asarray([(col, row) for row, col in positions], dtype=np.float32)
    seen = (xy_token + np.float32(0.5)) * spec.grid.stride_px
    return rescale_points(seen, from_size=spec.size, to_size=(clip.height, clip.width))


def _comparison(backbones: Sequence[BackboneResults]) -> Section:
    rows = []
    for backbone in backbones:
        scores, nothing = backbone.scores, float("nan")
        layer, step = (MISSING, MISSING) if scores is None else map(str, scores.best_cell())
        of_features = None if scores is None else scores.feature_accuracy
        feature = nothing if of_features is None else float(of_features.max())
        accuracy = nothing if scores is None else float(scores.matching_accuracy.max())
        mean = backbone.results[0].methods[0].mean if backbone.results else None
        tracking = [mean.delta_avg, mean.average_jaccard, mean.occlusion_accuracy] if mean else [float("nan")] * 3
        rows.append([backbone.name, layer, step, *map(number, [accuracy, feature, *tracking])])
    return Section(
        anchor="backbones",
        short="Backbones",
        title="Backbones side by side",
        lead="The best layer and step of each backbone, and how well its descriptors track.",
        blocks=[
            Table(
                title="All backbones.",
                caption=f"Percent. {_compared_with(backbones)}",
                head=["backbone", "layer", "step", "query-key", "feature", "δ avg", "AJ", "OA"],
                rows=rows,
            )
        ],
    )


def _compared_with(backbones: Sequence[BackboneResults]) -> str:
    """Describe the numbers of all backbones: accuracies, or agreement if there is only a pseudo-truth."""
    scores = next((own.scores for own in backbones if own.scores is not None), None)
    tracked = next((own.results[0].pseudo_truth for own in backbones if own.results), None)
    pseudo = (None if scores is None else scores.pseudo_truth) or tracked
    warning = f" {pseudo_truth_warning(pseudo)}" if pseudo else ""
    measure = "Matching accuracy" if scores is None else scores.measure[:1].upper() + scores.measure[1:]
    return f"{measure} at the best layer and step; TAP-Vid metrics at 256x256.{warning}"


def _lead(footage: ReportClips, backbones: Sequence[BackboneResults]) -> str:
    scores = backbones[0].scores
    names = ", ".join(backbone.name for backbone in backbones)
    scored = ""
    if scores is not None:
        sizes = scores.matching_accuracy.sizes
        scored = f", {counted(sizes['layer'], 'layer')} and {counted(sizes['step'], 'denoising step')}"
    return (
        f"{names} on {counted(len(footage.truth), 'clip')}{scored}. All their pictures below come from stored "
        "queries, keys and features, without another run of the model."
    )


def _headlines_json(headlines: Sequence[Headline]) -> str:
    return json.dumps([dataclasses.asdict(headline) for headline in headlines], indent=2, ensure_ascii=False) + "\n"
