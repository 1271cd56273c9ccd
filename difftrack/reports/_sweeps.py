"""Results of a sweep: a table for the terminal, a CSV, and a picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from difftrack.reports._style import MISSING, MUTED, SERIES, finish_axes, number, save_png, save_svg, styled
from difftrack.sweeps import MEASURES, SweepAxis, SweepRow, SweptStage, show_value

__all__ = ["draw_sweep", "sweep_table", "write_sweep_files"]

BEST = "*"
"""Mark of the best number in a column."""
MOST_LINES = len(SERIES)
"""Maximum number of lines in a panel; the table holds the rest of a larger grid."""


def write_sweep_files(folder: Path, rows: Sequence[SweepRow], axes: Sequence[SweepAxis]) -> list[Path]:
    """Write sweep.csv, sweep.png and sweep.svg.

    Args:
        folder: Existing output folder.
        rows: Every point of the grid, for every backbone.
        axes: Axes of the grid.
    """
    table, png, svg = (folder / f"sweep.{suffix}" for suffix in ("csv", "png", "svg"))
    of_rows = [row.row() for row in rows]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in of_rows for name in row)))
        writer.writeheader()
        writer.writerows(of_rows)
    figure = draw_sweep(rows, axes)
    save_png(figure, png)
    save_svg(figure, svg)
    return [table, png, svg]


def sweep_table(rows: Sequence[SweepRow]) -> list[str]:
    """Format a sweep as lines of text, in percent; the best number of each column is marked.

    Args:
        rows: Every point of the grid, for every backbone.
    """
    several = len({row.backbone for row in rows}) > 1
    keys = list(rows[0].point)
    columns = [(stage, name) for stage in rows[0].measures for name in MEASURES[stage]]
    titles = [*(["backbone"] if several else []), *keys, *(MEASURES[stage][name] for stage, name in columns), ""]
    best = {column: _best(rows, *column) for column in columns}
    lines = [titles]
    for row in rows:
        values = [show_value(row.point[key]) for key in keys]
        measures = [_cell(row, stage, name, best[stage, name]) for stage, name in columns]
        lines.append(
            [*([row.backbone] if several else []), *values, *measures, "as in params.yaml" if row.as_in_params else ""]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _best(rows: Sequence[SweepRow], stage: SweptStage, name: str) -> float | None:
    """Return the best number of a column; None if all are equal or missing."""
    values = {value for row in rows if (value := row.measures[stage].get(name)) is not None}
    return max(values) if len(values) > 1 else None


def _cell(row: SweepRow, stage: SweptStage, name: str, best: float | None) -> str:
    value = row.measures[stage].get(name)
    if value is None:
        return MISSING
    layer = row.measures[stage].get(f"{name}.layer")
    place = "" if layer is None else f" (layer {layer:.0f})"
    return f"{number(value)}{BEST if value == best else ''}{place}"


@styled
def draw_sweep(rows: Sequence[SweepRow], axes: Sequence[SweepAxis]) -> Figure:
    """Plot every measure against the first axis, one panel each, with a line per value of the others and per backbone.

    Args:
        rows: Every point of the grid, for every backbone.
        axes: Axes of the grid; the first is horizontal.
    """
    columns = [(stage, name) for stage in rows[0].measures for name in MEASURES[stage]]
    num_rows = -(-len(columns) // 3)
    figure = Figure(figsize=(11.2, 0.6 + 2.9 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, 3, squeeze=False, sharex=True).ravel()
    first, lines = axes[0], _lines(rows, axes)
    places = np.asarray(first.values, float) if first.is_numeric else np.arange(len(first.values), dtype=float)
    order = np.argsort(places, kind="stable")
    for panel, (stage, name) in zip(panels, columns, strict=False):
        for color, (label, of_line) in zip(SERIES, lines.items(), strict=False):
            heights = _percent(of_line, stage, name)
            panel.plot(places[order], heights[order], color=color, marker="o", markersize=4.5, label=label)
        finish_axes(panel, title=f"{MEASURES[stage][name]} (%)", xlabel=first.key, grid=True)
        _mark_now(panel, first, places, rows)
        if not first.is_numeric:
            panel.set_xticks(places, [show_value(value) for value in first.values])
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    if len(lines) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9, labelcolor=MUTED)
    return figure


def _lines(rows: Sequence[SweepRow], axes: Sequence[SweepAxis]) -> dict[str, list[SweepRow]]:
    """Group rows along the first axis by the other axes and the backbone."""
    several = len({row.backbone for row in rows}) > 1
    lines: dict[str, list[SweepRow]] = {}
    for row in rows:
        others = [f"{axis.key.partition('.')[2]} {show_value(row.point[axis.key])}" for axis in axes[1:]]
        label = ", ".join([*([row.backbone] if several else []), *others])
        lines.setdefault(label, []).append(row)
    return dict(list(lines.items())[:MOST_LINES])


def _percent(rows: Sequence[SweepRow], stage: SweptStage, name: str) -> Any:  # noqa: ANN401 - an array of any length
    """Return a measure along a line; NaN where it is missing."""
    values: list[float | None] = [row.measures[stage].get(name) for row in rows]
    return 100 * np.asarray([np.nan if value is None else value for value in values])


def _mark_now(panel: Axes, first: SweepAxis, places: Any, rows: Sequence[SweepRow]) -> None:  # noqa: ANN401
    """Draw a line at the value in params.yaml."""
    now: Mapping[str, Any] | None = next((row.point for row in rows if row.as_in_params), None)
    if now is not None:
        panel.axvline(places[list(first.values).index(now[first.key])], color=MUTED, linewidth=0.9, linestyle=":")
