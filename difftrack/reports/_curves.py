"""Plots along one axis: the denoising step, the threshold, or the frame."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from difftrack.reports._style import MUTED, QUIET, SERIES, STEP_AXIS, finish_axes, spread_labels, styled, thin_ticks

__all__ = ["draw_accuracy_by_step", "draw_attention_mass", "draw_delta_by_threshold", "draw_error_by_frame"]

MASSES = {"other frames": SERIES[1], "own frame": SERIES[0], "text": SERIES[3]}


@styled
def draw_accuracy_by_step(
    accuracy: xr.DataArray, *, highlight: Sequence[int], measure: str = "matching accuracy"
) -> Figure:
    """Draw matching accuracy against the denoising step, one line per layer; only the best layers in colour.

    Args:
        accuracy: Fractions over (layer, step).
        highlight: Layers drawn in colour and named, best first.
        measure: Name of the values.
    """
    figure = Figure(figsize=(11.2, 4.4), layout="constrained")
    ax = figure.subplots()
    steps = np.arange(accuracy.sizes["step"])
    percent = 100 * accuracy.transpose("layer", "step")
    for layer in percent.layer.values:
        if int(layer) not in highlight:
            ax.plot(steps, percent.sel(layer=layer), color=QUIET, linewidth=1.3, zorder=1)
    ends = {f"layer {layer}": percent.sel(layer=layer).values for layer in highlight}
    for color, values in zip(SERIES, ends.values(), strict=False):
        ax.plot(steps, values, color=color, marker="o", markersize=5, zorder=3)
    if len(highlight) < percent.sizes["layer"]:
        others = percent.sel(layer=[layer for layer in percent.layer.values if int(layer) not in highlight])
        ends["other layers"] = others.mean("layer").values
    ax.set_ylim(bottom=0)
    _label_ends(ax, steps, ends, colors=(*SERIES[: len(highlight)], MUTED))
    positions, texts = thin_ticks([int(step) for step in accuracy.step.values])
    ax.set_xticks(positions, texts)
    finish_axes(ax, xlabel=STEP_AXIS, ylabel=f"{measure} (%)", grid=True)
    return figure


@styled
def draw_attention_mass(masses: Mapping[str, xr.DataArray], *, layers: Sequence[int]) -> Figure:
    """Plot where query points attend to against the denoising step, one panel per layer.

    Args:
        masses: "own frame", "other frames", "text" -> fractions over (layer, step).
        layers: One panel each.
    """
    figure = Figure(figsize=(11.2, 3.5), layout="constrained")
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for ax, layer in zip(axes, layers, strict=True):
        curves = {name: 100 * values.sel(layer=layer).values for name, values in masses.items()}
        first = next(iter(masses.values()))
        steps = np.arange(first.sizes["step"])
        for name, values in curves.items():
            ax.plot(steps, values, color=MASSES[name], marker="o", markersize=4)
        ax.set_ylim(0, 100)
        if ax is axes[-1]:
            _label_ends(ax, steps, curves, colors=[MASSES[name] for name in curves])
        positions, texts = thin_ticks([int(step) for step in first.step.values], most=6)
        ax.set_xticks(positions, texts)
        finish_axes(ax, title=f"Layer {layer}", xlabel=STEP_AXIS, grid=True)
    axes[0].set_ylabel("share of attention (%)")
    return figure


@styled
def draw_delta_by_threshold(
    methods: Mapping[str, Sequence[float]], thresholds_px: Sequence[int], *, goal: str = "the truth"
) -> Figure:
    """Plot the share of points within a distance of the truth against that distance.

    Args:
        methods: Name -> fraction per threshold; the first one is the method under test.
        thresholds_px: Distances in pixels at 256 x 256.
        goal: Reference of the distances: the truth, or the tracks of a tracker.
    """
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    ax = figure.subplots()
    positions = np.arange(len(thresholds_px))
    colors = _method_colors(methods)
    for name, values in methods.items():
        ax.plot(positions, 100 * np.asarray(values), color=colors[name], marker="o", markersize=5)
    ax.set_ylim(0, 100)
    ends = {name: 100 * np.asarray(values) for name, values in methods.items()}
    _label_ends(ax, positions, ends, colors=list(colors.values()))
    ax.set_xticks(positions, [f"{threshold:g}" for threshold in thresholds_px])
    finish_axes(ax, xlabel=f"distance to {goal} (px at 256x256)", ylabel="points within it (%)", grid=True)
    return figure


@styled
def draw_error_by_frame(errors_px: Mapping[str, Float[np.ndarray, " frame"]], *, measure: str = "error") -> Figure:
    """Plot the median distance to the truth against frames since the query.

    Args:
        errors_px: Name -> error 1, 2, ... frames after the query, in pixels at 256 x 256; all of equal length, NaN
            where no point is visible.
        measure: Name of the distances: a distance to a pseudo-truth is not an error.
    """
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    ax = figure.subplots()
    colors = _method_colors(errors_px)
    since = np.arange(1, 1 + len(next(iter(errors_px.values()))))
    for name, values in errors_px.items():
        ax.plot(since, values, color=colors[name])
    ax.set_ylim(bottom=0)
    _label_ends(ax, since, errors_px, colors=list(colors.values()))
    finish_axes(ax, xlabel="frames since the query", ylabel=f"median {measure}\n(px at 256x256)", grid=True)
    return figure


def _method_colors(methods: Mapping[str, object]) -> dict[str, str]:
    """Assign colours: the leading one to the first method, grey to a method that does nothing, others in order."""
    others = iter(SERIES[1:] * len(methods))
    names = list(methods)
    return {name: SERIES[0] if name == names[0] else QUIET if name == "no motion" else next(others) for name in names}


def _label_ends(
    ax: Axes, positions: Int[np.ndarray, " at"], curves: Mapping[str, np.ndarray], *, colors: Sequence[str]
) -> None:
    """Name each curve at its right end, instead of a legend."""
    ends = np.asarray([_last_finite(values) for values in curves.values()], dtype=np.float64)
    low, high = ax.get_ylim()
    heights = spread_labels(ends, gap=0.075 * (high - low))
    right = positions[-1] + 0.03 * max(positions[-1] - positions[0], 1)
    for name, height, color in zip(curves, heights, colors, strict=False):
        ink = MUTED if color == QUIET else color
        ax.annotate(name, (right, height), color=ink, va="center", fontsize=9.5, annotation_clip=False)


def _last_finite(values: Float[np.ndarray, " at"]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else 0.0
