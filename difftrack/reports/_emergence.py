"""Curves over training: shows in which layers, and when, correspondence emerges."""

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from difftrack.reports._style import figure_pixels, finish_axes, save_png, styled

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["draw_emergence"]

_PANELS = {
    "matching_accuracy": "points matched, %",
    "confidence": "confidence, %",
    "attention_score": "attention score, %",
}


@styled
def draw_emergence(table: "pd.DataFrame", path: Path) -> UInt8[np.ndarray, "row col rgb"]:
    """Draw each measure over training, a line per layer (over all heads) and a row of panels per noise level.

    Args:
        table: Columns training_step, step, layer, head and the measures; `head` is empty over all heads.
        path: PNG to write.

    Returns:
        The same picture as pixels.
    """
    whole = table[table["head"].isna()]
    steps, layers = sorted(whole["step"].unique()), sorted(whole["layer"].unique())
    figure = Figure(figsize=(11, 0.8 + 2.9 * len(steps)), layout="constrained")
    grid = figure.subplots(len(steps), len(_PANELS), squeeze=False)
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(len(layers), 2)))
    for axes_of_step, step in zip(grid, steps, strict=True):
        for axes, (name, title) in zip(axes_of_step, _PANELS.items(), strict=True):
            for color, layer in zip(colors, layers, strict=False):
                line = whole[(whole["step"] == step) & (whole["layer"] == layer)]
                axes.plot(line["training_step"], 100 * line[name], ".-", ms=4, lw=1.1, color=color, label=f"{layer}")
            finish_axes(axes, title=f"{title}, step {step}", xlabel="training step")
    grid[0, -1].legend(title="layer", frameon=False, fontsize=7, ncols=1 + len(layers) // 12)
    save_png(figure, path, dpi=110)
    return figure_pixels(figure)
