"""The sections on analysis: which layers, steps and heads match points across frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import xarray as xr

from difftrack.params import Convention
from difftrack.reports._curves import draw_accuracy_by_step, draw_attention_mass
from difftrack.reports._figure_cache import Drawings, save_figure
from difftrack.reports._heatmaps import draw_head_map, draw_kind_comparison, draw_score_maps
from difftrack.reports._names import pseudo_truth_warning, tracker_name
from difftrack.reports._page import Headline, Section, Table
from difftrack.reports._style import MISSING, number
from difftrack.wording import counted, listed

__all__ = ["GroupAccuracy", "ScoreMaps", "analysis_headlines", "analysis_sections", "best_cell"]


@dataclass(frozen=True, slots=True)
class GroupAccuracy:
    """Matching accuracy of one group of clips at its own best layer and step."""

    name: str
    num_clips: int
    layer: int
    step: int
    matching_accuracy: float
    feature_accuracy: float
    """Accuracy at the best layer and step of the features; NaN if they were not matched."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMaps:
    """Scores of one backbone over layers and steps; every array holds fractions with its coordinates.

    Raises:
        ValueError: `matching_accuracy` lacks the dimensions layer and step.
    """

    backbone: str
    matching_accuracy: xr.DataArray
    """Share of visible points matched within `threshold_px`, by query and key, over (layer, step)."""
    confidence: xr.DataArray
    """Attention of a query point to its best token in another latent frame, over (layer, step)."""
    attention_score: xr.DataArray
    """Attention of a query point to all other latent frames together, over (layer, step)."""
    harmonic_mean: xr.DataArray
    """Harmonic mean of the three above, each scaled to 0-1 over the map, over (layer, step)."""
    self_mass: xr.DataArray
    """Attention of a query point to its own latent frame, over (layer, step)."""
    text_mass: xr.DataArray
    """Attention of a query point to the prompt, over (layer, step)."""
    feature_accuracy: xr.DataArray | None
    """As `matching_accuracy`, for the hidden state; None if features were not kept."""
    head_accuracy: xr.DataArray | None
    """As `matching_accuracy`, for each head alone, over (layer, step, head); None if not computed."""
    head_attention_score: xr.DataArray | None
    """As `attention_score`, for each head alone, over (layer, step, head); None if not computed."""
    threshold_px: float
    convention: Convention
    """Convention of the scores."""
    match_convention: Convention
    """Convention of the matches."""
    groups: Sequence[GroupAccuracy]
    """First the group of clips that the maps average over, then others."""
    pseudo_truth: str | None = None
    """The tracker whose pseudo-truth the matches are compared with; None if the truth is exact or annotated."""

    def __post_init__(self) -> None:
        if set(self.matching_accuracy.dims) != {"layer", "step"}:
            raise ValueError(f"matching_accuracy has dimensions {self.matching_accuracy.dims}; expected layer, step")

    @property
    def measure(self) -> str:
        """Name of `matching_accuracy` in pictures: with a pseudo-truth it is an agreement."""
        if self.pseudo_truth is None:
            return "matching accuracy"
        return f"agreement with {tracker_name(self.pseudo_truth)}"

    @property
    def goal(self) -> str:
        """Name of the target of matches: the points, or a tracker's positions of them."""
        if self.pseudo_truth is None:
            return "the points"
        return f"the points of {tracker_name(self.pseudo_truth)}"

    @property
    def warning(self) -> str:
        """A sentence about a pseudo-truth for the end of a paragraph; empty for other truth."""
        return "" if self.pseudo_truth is None else f" {pseudo_truth_warning(self.pseudo_truth)}"

    def layers_by_accuracy(self) -> list[int]:
        """Layers ordered by their accuracy at their best step, best first."""
        best = self.matching_accuracy.max("step").fillna(-1.0)
        return [int(layer) for layer in best.sortby(-best, ascending=True).layer.values]

    def best_cell(self) -> tuple[int, int]:
        """(layer, step) of the highest matching accuracy."""
        return best_cell(self.matching_accuracy)


def best_cell(accuracy: xr.DataArray) -> tuple[int, int]:
    """Return (layer, step) of the largest value, ignoring empty cells."""
    stacked = accuracy.fillna(-1.0).stack(cell=("layer", "step"))
    layer, step = stacked.cell.values[int(stacked.argmax("cell"))]
    return int(layer), int(step)


def analysis_headlines(maps: ScoreMaps) -> list[Headline]:
    """Return the findings, one number each."""
    layer, step = maps.best_cell()
    curve = maps.matching_accuracy.sel(layer=layer)
    best, noisiest = float(curve.sel(step=step)), float(curve.isel(step=0))
    median = float(maps.matching_accuracy.max("step").median())
    pseudo = maps.pseudo_truth is not None
    headlines = [
        Headline(
            _percent(best),
            f"{maps.measure} of layer {layer}" if pseudo else f"of points matched by layer {layer}",
            f"within {maps.threshold_px:g} px, at step {step}, by query and key alone; the median layer reaches "
            f"{_percent(median)} at its best step.{maps.warning}",
        ),
        Headline(
            f"{_percent(noisiest)} → {_percent(float(curve.isel(step=-1)))}",
            f"{maps.measure} from noise to the cleanest step" if pseudo else "from noise to the cleanest step",
            f"Layer {layer}, from the first to the last step: correspondence exists before the picture does.",
        ),
    ]
    if maps.feature_accuracy is not None:
        feature = float(maps.feature_accuracy.max())
        headlines.append(
            Headline(
                f"{100 * (best - feature):+.0f} points",
                "query-key over features",
                f"Matching by the hidden state reaches {_percent(feature)} at its best layer and step"
                f"{f', as {maps.measure}' if pseudo else ''}.",
            )
        )
    return headlines


def analysis_sections(maps: ScoreMaps, *, drawings: Drawings) -> list[Section]:
    """Draw the scores of one backbone.

    Args:
        maps: Scores of the backbone.
        drawings: Receives the figures.
    """
    sections = [_where(maps, drawings), _when(maps, drawings)]
    if maps.feature_accuracy is not None:
        sections.append(_kinds(maps, maps.feature_accuracy, drawings))
    sections.append(_attention(maps, drawings))
    if maps.head_accuracy is not None:
        sections.append(_heads(maps, maps.head_accuracy, drawings))
    return sections


def _where(maps: ScoreMaps, drawings: Drawings) -> Section:
    layer, step = maps.best_cell()
    best = float(maps.matching_accuracy.max())
    close = maps.matching_accuracy.max("step") >= 0.9 * best
    figure = save_figure(
        drawings,
        partial(
            draw_score_maps,
            {
                _capital(maps.measure): maps.matching_accuracy,
                "Confidence": maps.confidence,
                "Attention score": maps.attention_score,
                "Harmonic mean": maps.harmonic_mean,
            },
        ),
        name=f"{maps.backbone}-scores",
        title="Four scores over layers and steps.",
        caption=f"{_capital(maps.measure)}: visible points matched within {maps.threshold_px:g} px.{maps.warning} "
        "Confidence: attention of a point to its best token in another frame. Attention score: its attention to all "
        "other frames together. "
        "Harmonic mean: the three, each scaled to its own range over the map. The best cell is outlined. "
        f"Mean over {counted(maps.groups[0].num_clips, 'clip')}, {maps.convention} convention.",
    )
    return Section(
        anchor=f"{maps.backbone}-where",
        short="Layers",
        title="Where correspondence lives",
        lead=f"{_within_a_tenth(maps, close)} The best is layer {layer} at step {step}. A layer with much attention "
        "to other frames need not match well; the harmonic mean requires both.",
        blocks=[figure, *([_groups_table(maps)] if len(maps.groups) > 2 else [])],
        group=maps.backbone,
    )


def _within_a_tenth(maps: ScoreMaps, close: xr.DataArray) -> str:
    """Name the layers close to the best."""
    layers = [str(int(layer)) for layer in close.layer.values[close.values]]
    of_all = counted(close.sizes["layer"], "layer")
    if len(layers) == 1:
        return f"Of {of_all}, one comes within a tenth of the best {maps.measure}: layer {layers[0]}."
    return f"Of {of_all}, {len(layers)} come within a tenth of the best {maps.measure}: {listed(layers)}."


def _groups_table(maps: ScoreMaps) -> Table:
    return Table(
        title="Matching by kind of clip.",
        caption="Percent, each group at its own best layer and step. With a pseudo-truth, the number is the "
        "agreement with a tracker, right or wrong; the group of all clips mixes both.",
        head=["clips", "number", "layer", "step", "query-key", "feature"],
        rows=[
            [
                group.name,
                str(group.num_clips),
                str(group.layer),
                str(group.step),
                number(group.matching_accuracy),
                number(group.feature_accuracy),
            ]
            for group in maps.groups
        ],
    )


def _when(maps: ScoreMaps, drawings: Drawings) -> Section:
    layers = maps.layers_by_accuracy()[:3]
    curve = maps.matching_accuracy.sel(layer=layers[0])
    figure = save_figure(
        drawings,
        partial(draw_accuracy_by_step, maps.matching_accuracy, highlight=layers, measure=maps.measure),
        name=f"{maps.backbone}-accuracy-by-step",
        title=f"{_capital(maps.measure)} against the denoising step.",
        caption="One line per layer, the three best in colour; the grey label marks the mean of the others. Step 0 "
        f"is pure noise.{maps.warning}",
    )
    return Section(
        anchor=f"{maps.backbone}-when",
        short="Steps",
        title="From noise to picture",
        lead=f"Layer {layers[0]} matches {_percent(float(curve.isel(step=0)))} of {maps.goal} at the first step and "
        f"{_percent(float(curve.isel(step=-1)))} at the last.",
        blocks=[figure],
        group=maps.backbone,
    )


def _kinds(maps: ScoreMaps, feature_accuracy: xr.DataArray, drawings: Drawings) -> Section:
    wins = int((maps.matching_accuracy.max("step") > feature_accuracy.max("step")).sum())
    figure = save_figure(
        drawings,
        partial(draw_kind_comparison, maps.matching_accuracy, feature_accuracy, measure=maps.measure),
        name=f"{maps.backbone}-query-key-against-feature",
        title="Matching by query and key, and by features.",
        caption="Same points, same threshold, one colour scale. On the right each layer at its best step: the bar is "
        f"the difference between the two descriptors.{maps.warning}",
    )
    return Section(
        anchor=f"{maps.backbone}-kinds",
        short="Features",
        title="Query-key against features",
        lead=f"Query-key is better in {wins} of {counted(feature_accuracy.sizes['layer'], 'layer')}; at their best, "
        f"{_percent(float(maps.matching_accuracy.max()))} against {_percent(float(feature_accuracy.max()))} of "
        f"{maps.goal} are matched.",
        blocks=[figure],
        group=maps.backbone,
    )


def _attention(maps: ScoreMaps, drawings: Drawings) -> Section:
    masses: Mapping[str, xr.DataArray] = {
        "other frames": maps.attention_score,
        "own frame": maps.self_mass,
        "text": maps.text_mass,
    }
    layers = _contrasting(maps.layers_by_accuracy())
    at = maps.attention_score.sel(layer=layers[0])
    figure = save_figure(
        drawings,
        partial(draw_attention_mass, masses, layers=layers),
        name=f"{maps.backbone}-attention-mass",
        title="Where a query point attends to.",
        caption="Its attention summed over the tokens of other frames, of its own frame, and of the prompt, for the "
        "best layers and the one that matches worst. The three add up to 100 %.",
    )
    return Section(
        anchor=f"{maps.backbone}-attention",
        short="Attention",
        title="Attention across frames",
        lead=f"In layer {layers[0]} other frames get {_percent(float(at.isel(step=0)))} of a point's attention at the "
        f"first step and {_percent(float(at.isel(step=-1)))} at the last.",
        blocks=[figure],
        group=maps.backbone,
    )


def _heads(maps: ScoreMaps, head_accuracy: xr.DataArray, drawings: Drawings) -> Section:
    layer, step = maps.best_cell()
    shown = {f"{_capital(maps.measure)} of each head": head_accuracy.sel(step=step)}
    if maps.head_attention_score is not None:
        shown["Its attention to other frames"] = maps.head_attention_score.sel(step=step)
    alone = head_accuracy.sel(step=step, layer=layer)
    figure = save_figure(
        drawings,
        partial(draw_head_map, shown),
        name=f"{maps.backbone}-heads",
        title=f"Single heads at step {step}.",
        caption=f"Each head matched alone, before the mean over heads that the other figures use.{maps.warning}",
    )
    return Section(
        anchor=f"{maps.backbone}-heads",
        short="Heads",
        title="Head by head",
        lead=f"In layer {layer} the best head alone matches {_percent(float(alone.max()))} of {maps.goal}, the "
        f"weakest {_percent(float(alone.min()))}; all heads together match "
        f"{_percent(float(maps.matching_accuracy.sel(layer=layer, step=step)))}.",
        blocks=[figure],
        group=maps.backbone,
    )


def _contrasting(layers: Sequence[int]) -> list[int]:
    """Return the two best layers and the worst one, each once."""
    return list(dict.fromkeys([*layers[:2], layers[-1]]))


def _capital(text: str) -> str:
    """Capitalise the first letter only."""
    return text[:1].upper() + text[1:]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if math.isfinite(fraction) else MISSING
