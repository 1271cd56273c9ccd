"""Heatmaps over layers, steps and heads: show where in the network correspondence lies."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from difftrack.reports._style import QUIET, SEQUENTIAL, SERIES, STEP_AXIS, finish_axes, styled, thin_ticks

__all__ = ["draw_head_map", "draw_kind_comparison", "draw_score_maps"]


@styled
def draw_score_maps(maps: Mapping[str, xr.DataArray]) -> Figure:
    """Draw one heatmap layer x step per score, side by side, the best cell of each outlined.

    Args:
        maps: Title -> fractions over dimensions (layer, step), with both coordinates.
    """
    columns = 2 if len(maps) > 1 else 1
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.5 * rows), layout="constrained")
    for index, (title, values) in enumerate(maps.items()):
        ax = figure.add_subplot(rows, columns, index + 1)
        _heatmap(figure, ax, values.transpose("layer", "step"), title=title)
    return figure


@styled
def draw_kind_comparison(
    query_key: xr.DataArray, feature: xr.DataArray, *, measure: str = "matching accuracy"
) -> Figure:
    """Compare matching by query-key with matching by features: both maps on one scale, then layer by layer.

    Args:
        query_key: Matching accuracy over (layer, step), as fractions.
        feature: The same for the hidden state.
        measure: Name of the values.
    """
    figure = Figure(figsize=(11.2, 3.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    limits = (0.0, float(max(query_key.max(), feature.max())))
    for ax, values, title in zip(axes, (query_key, feature), ("Query-key", "Feature"), strict=False):
        _heatmap(figure, ax, values.transpose("layer", "step"), title=title, limits=limits, bar=ax is axes[1])
    ax = axes[2]
    layers = query_key.layer.values
    best_qk, best_feature = (100 * values.max("step").values for values in (query_key, feature))
    ax.vlines(layers, best_feature, best_qk, color=QUIET, linewidth=2.4, zorder=1)
    ax.scatter(layers, best_feature, s=52, color=SERIES[4], label="feature", zorder=2)
    ax.scatter(layers, best_qk, s=52, color=SERIES[0], label="query-key", zorder=3)
    ax.legend(loc="upper left", ncols=2, borderaxespad=0, handletextpad=0.1, columnspacing=1.0)
    ax.set_ylim(0, min(118.0, 1.3 * float(max(best_qk.max(), best_feature.max()))))
    positions, texts = thin_ticks([int(layer) for layer in layers])
    ax.set_xticks([int(layers[position]) for position in positions], texts)
    finish_axes(ax, title="Best step of each layer", xlabel="layer", ylabel=f"{measure} (%)", grid=True)
    return figure


@styled
def draw_head_map(maps: Mapping[str, xr.DataArray]) -> Figure:
    """Draw one heatmap head x layer per score, at one step.

    Args:
        maps: Title -> fractions over dimensions (head, layer), with both coordinates.
    """
    num_heads = next(iter(maps.values())).sizes["head"]
    figure = Figure(figsize=(11.2, 1.9 + min(0.32 * num_heads, 5.0)), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    for ax, (title, values) in zip(axes, maps.items(), strict=True):
        _heatmap(figure, ax, values.transpose("head", "layer"), title=title)
    return figure


def _heatmap(
    figure: Figure,
    ax: Axes,
    values: xr.DataArray,
    *,
    title: str,
    limits: tuple[float, float] | None = None,
    bar: bool = True,
) -> None:
    """Draw a labelled heatmap of fractions in percent; the first dimension is vertical."""
    vertical, horizontal = (str(dim) for dim in values.dims)
    percent = 100 * values.values
    finite = percent[np.isfinite(percent)]
    low, high = (100 * limits[0], 100 * limits[1]) if limits else (0.0, float(finite.max(initial=0.0)))
    image = ax.imshow(percent, cmap=SEQUENTIAL, aspect="auto", origin="lower", vmin=low, vmax=max(high, low + 1e-6))
    _tick_labels(ax, values, vertical, horizontal)
    names = {"layer": "layer", "head": "head", "step": STEP_AXIS}
    finish_axes(ax, title=title, xlabel=names[horizontal], ylabel=names[vertical])
    for spine in ax.spines.values():
        spine.set_visible(False)
    _print_values(ax, percent, high)
    if finite.size:
        row, col = np.unravel_index(int(np.nanargmax(percent)), percent.shape)
        ax.add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=SERIES[1], linewidth=2.4))
    if bar:
        colorbar = figure.colorbar(
            image, ax=ax, fraction=0.05, pad=0.02, aspect=24, format="%g%%", ticks=MaxNLocator(4)
        )
        colorbar.outline.set_visible(False)
        colorbar.ax.tick_params(length=0)


def _tick_labels(ax: Axes, values: xr.DataArray, vertical: str, horizontal: str) -> None:
    positions, texts = thin_ticks([int(value) for value in values[horizontal].values])
    ax.set_xticks(positions, texts)
    positions, texts = thin_ticks([int(value) for value in values[vertical].values])
    ax.set_yticks(positions, texts)


def _print_values(ax: Axes, percent: Float[np.ndarray, "row col"], high: float) -> None:
    """Write the numbers into the cells of a small heatmap; large ones only use colour."""
    if percent.shape[0] > 12 or percent.shape[1] > 12:
        return
    digits = 0 if high >= 10 else 1
    for (row, col), value in np.ndenumerate(percent):
        if np.isfinite(value):
            color = "white" if value < 0.62 * high else "black"
            ax.text(col, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=8.5, color=color)
