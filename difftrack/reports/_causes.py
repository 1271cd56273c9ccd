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

__all__ = ["cause_correlation", "cause_figure", "cause_table", "draw_causes", "rank_correlation", "removals_of_heads"]

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
    files = []
    for word in removals_of_heads(summary):
        file = folder / f"causes-{word.replace(':', '-')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_png(cause_figure(summary, word), file, dpi=110)
        files.append(file)
    return files


def removals_of_heads(summary: Mapping[str, Any]) -> list[str]:
    """Return the interventions, in words, that were of single heads whose own matching is known.

    Args:
        summary: What ablation.json holds.
    """
    return list(dict.fromkeys(row["intervention"] for row in summary["ways"] if "own_matching_accuracy" in row))


@styled
def cause_figure(summary: Mapping[str, Any], word: str) -> Figure:
    """Draw what one intervention in each head changes over what the head itself matches, a panel for each measure.

    Args:
        summary: What ablation.json holds.
        word: The intervention, one of `removals_of_heads`.
    """
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
    return figure


def _correlation(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Describe the rank correlation over heads, with its interval if there are several pairs of prompt and seed."""
    found = _correlated(summary, rows, name)
    if found is None:
        return ""
    rho, low, high = found
    if np.isnan(rho):
        return ""
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    return f"Spearman {rho:+.2f}{interval}, {len(rows)} heads"


def cause_correlation(summary: Mapping[str, Any], word: str, measure: str) -> tuple[float, float | None, float | None]:
    """Correlate what heads match with what an intervention in them changes, by ranks.

    Args:
        summary: What ablation.json holds.
        word: The intervention, one of `removals_of_heads`.
        measure: Such as motion_px.

    Returns:
        Spearman's correlation, and its 95 % bootstrap interval over pairs of prompt and seed: None where there is one
        pair alone, and for matching accuracy, which has clips in their place.

    Raises:
        ValueError: fewer than three heads have this measure.
    """
    rows = [row for row in summary["ways"] if row["intervention"] == word and "own_matching_accuracy" in row]
    found = _correlated(summary, rows, measure)
    if found is None:
        raise ValueError(
            f"{measure} under {word} was measured for {len(rows)} heads, or not for all of them; expected at least 3"
        )
    return found


def _correlated(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[float, float | None, float | None] | None:
    accuracy = np.array([row["own_matching_accuracy"] for row in rows])
    if name == "matching_accuracy" or len(rows) < 3:
        changes = np.array([[row["measures"][name]["difference"]["mean"]] for row in rows if name in row["measures"]])
    else:
        changes = _changes(summary, [row["way"] for row in rows], name)
    if len(changes) < 3 or len(changes) != len(accuracy):
        return None
    return rank_correlation(accuracy, changes)


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
        The correlation, and the interval: None if there is only one pair. Undefined (NaN, None) if all changes,
        or all accuracies, are equal.
    """
    (rho,) = _spearman(accuracy, changes.mean(axis=1)[None])
    num_pairs = changes.shape[1]
    if num_pairs < 2 or np.isnan(rho):
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
