"""Compares correlation with cause: how well a head matches, and the effect of its removal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import rankdata

from difftrack.reports._style import MISSING, MUTED, finish_axes, save_png, styled

__all__ = ["cause_table", "draw_causes", "rank_correlation"]

_PANELS = {
    "motion_px": ("motion", "change, px per frame"),
    "warped_error": ("identity: warped error", "change, 1e-4"),
    "matching_accuracy": ("matching accuracy, all layers", "change, %"),
    "error": ("distance from the plain sample", "% of the range of pixels"),
}
_UNITS = {"motion_px": 1.0, "warped_error": 1e4, "matching_accuracy": 100.0, "error": 100.0}
_SHOWN = ("motion_px", "warped_error", "cycle_error_px", "sharpness", "prompt_following", "matching_accuracy", "error")
_RESAMPLES = 2000


def cause_table(summary: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a Markdown table: plain values, and differences from them with their intervals.

    Args:
        summary: Contents of ablation.json.
    """
    rows = summary["ways"]
    names = [name for name in _SHOWN if any(name in row["measures"] for row in rows)]
    yield "| way | pairs | " + " | ".join(f"`{name}`" for name in names) + " |"
    yield "| --- " * (len(names) + 2) + "|"
    for row in rows:
        plain = row["way"] == "plain"
        cells = [_said(row["measures"].get(name), plain=plain, absolute=name == "error") for name in names]
        yield f"| {row['way']} | {row['pairs']} | " + " | ".join(cells) + " |"


def _said(found: Mapping[str, Any] | None, *, plain: bool, absolute: bool) -> str:
    if found is None:
        return MISSING
    number = found["value"] if plain or absolute else found["difference"]
    form = "{:.4g}" if plain or absolute else "{:+.3g}"
    mean = form.format(number["mean"])
    if plain or number["low"] is None:
        return mean
    return f"{mean} [{form.format(number['low'])}, {form.format(number['high'])}]"


def draw_causes(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Plot the effect of removing a head against the head's own matching accuracy, for each single-head intervention.

    Args:
        summary: What ablation.json holds.
        folder: Receives a PNG per intervention.

    Returns:
        The files; none without single-head interventions or matches.
    """
    words = dict.fromkeys(row["intervention"] for row in summary["ways"] if "own_matching_accuracy" in row)
    return [_draw(summary, word, folder / f"causes-{word.replace(':', '-')}.png") for word in words]


@styled
def _draw(summary: Mapping[str, Any], word: str, file: Path) -> Path:
    rows = [row for row in summary["ways"] if row["intervention"] == word and "own_matching_accuracy" in row]
    panels = [name for name in _PANELS if any(name in row["measures"] for row in rows)]
    layers = sorted({row["layer"] for row in rows})
    colors = dict(zip(layers, mpl.colormaps["viridis"](np.linspace(0, 0.92, max(len(layers), 2))), strict=False))
    columns = min(2, len(panels))
    figure = Figure(figsize=(0.6 + 4.2 * columns, 0.6 + 3.3 * -(-len(panels) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for unused in grid[len(panels) :]:
        unused.set_visible(False)
    for axes, name in zip(grid, panels, strict=False):
        unit = _UNITS[name]
        for row in rows:
            found = row["measures"].get(name)
            if found is None:
                continue
            number = found["value" if name == "error" else "difference"]
            x, y = 100 * row["own_matching_accuracy"], unit * number["mean"]
            if number["low"] is not None:
                axes.plot([x, x], [unit * number["low"], unit * number["high"]], color=colors[row["layer"]], lw=0.8)
            label = f"{row['layer']}" if row is next(r for r in rows if r["layer"] == row["layer"]) else None
            axes.plot(x, y, "o", ms=4.5, color=colors[row["layer"]], label=label)
        if name != "error":
            axes.axhline(0, color=MUTED, lw=0.7, zorder=0)
        title, change = _PANELS[name]
        finish_axes(axes, title=title, xlabel="points that the head itself matches, %")
        axes.set_ylabel(change, color=MUTED, fontsize=9)
        axes.margins(0.08, 0.16)
        axes.text(0.02, 0.02, _correlation(summary, rows, name), transform=axes.transAxes, fontsize=8, color=MUTED)
    grid[0].legend(title="layer", frameon=False, fontsize=7, ncols=1 + len(layers) // 5)
    figure.suptitle(f"correlation and cause, head by head: {word}", fontsize=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, file, dpi=110)
    return file


def _correlation(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Describe the rank correlation over heads, with its interval if there are several pairs of prompt and seed."""
    accuracy = np.array([row["own_matching_accuracy"] for row in rows])
    if name == "matching_accuracy" or len(rows) < 3:
        changes = np.array([[row["measures"][name]["difference"]["mean"]] for row in rows if name in row["measures"]])
    else:
        changes = _changes(summary, [row["way"] for row in rows], name)
    if len(changes) < 3 or len(changes) != len(accuracy):
        return ""
    rho, low, high = rank_correlation(accuracy, changes)
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    return f"Spearman {rho:+.2f}{interval}, {len(rows)} heads"


def _changes(summary: Mapping[str, Any], ways: Sequence[str], name: str) -> Float[np.ndarray, "way pair"]:
    """Return differences from plain sampling, for the pairs that all variants share."""
    of_way = {
        way: {(pair["prompt"], pair["seed"]): pair[name] for pair in summary["pairs"].get(way, ()) if name in pair}
        for way in (*ways, "plain")
    }
    shared = sorted(set.intersection(*(set(pairs) for pairs in of_way.values())))
    return np.array([[of_way[way][pair] - of_way["plain"][pair] for pair in shared] for way in ways])


def rank_correlation(
    accuracy: Float[np.ndarray, " way"], changes: Float[np.ndarray, "way pair"], *, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """Compute Spearman's correlation of heads' accuracy with their mean change, and its 95 % bootstrap interval.

    Args:
        accuracy: Accuracy of each head.
        changes: Change for each head and pair of prompt and seed.
        seed: Seed of the bootstrap over pairs.

    Returns:
        The correlation, and the interval: None if there is only one pair.
    """
    (rho,) = _spearman(accuracy, changes.mean(axis=1)[None])
    num_pairs = changes.shape[1]
    if num_pairs < 2:
        return float(rho), None, None
    drawn = np.random.default_rng(seed).integers(num_pairs, size=(_RESAMPLES, num_pairs))
    low, high = np.nanquantile(_spearman(accuracy, changes.T[drawn].mean(axis=1)), [0.025, 0.975])
    return float(rho), float(low), float(high)


def _spearman(
    accuracy: Float[np.ndarray, " way"], changes: Float[np.ndarray, "resample way"]
) -> Float[np.ndarray, " resample"]:
    """Compute Pearson's correlation of ranks; NaN if all changes are equal."""
    ranks, of_changes = rankdata(accuracy), rankdata(changes, axis=1)
    ranks, of_changes = ranks - ranks.mean(), of_changes - of_changes.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        rho: np.ndarray = of_changes @ ranks / np.sqrt((ranks**2).sum() * (of_changes**2).sum(axis=1))
    return rho
