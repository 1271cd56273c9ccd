"""Draw how this folder's weights came to be: figures/emergence.png, from curves.csv, and say what it took.

    python curves.py

curves.csv holds all runs, one after the other: steps and seconds add up. A row is one number that was logged: `loss`,
`psnr_db whole` and `psnr_db single`, or `accuracy VIEW SPLIT LAYER` (share of points matched within one token at the
cleanest step). A row `end` closes a run and has no value.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).resolve().parent
CLEANEST = 19
PANELS = (("whole", "easy"), ("whole", "hard"), ("apart", "easy"), ("apart", "hard"))
TITLES = {"whole": "encoded whole", "apart": "frames encoded alone", "easy": "easy clips", "hard": "hard clips"}


class Row(NamedTuple):
    """One number of a log."""

    step: int
    seconds: float
    what: str
    value: float


def main() -> None:
    """Draw and print."""
    autoencoder, transformer = read("autoencoder"), read("transformer")
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    draw_autoencoder(axes[0, 0], autoencoder)
    draw_loss(axes[1, 0], transformer)
    for place, (view, split) in zip(axes[:, 1:].flat, PANELS, strict=True):
        draw_accuracy(place, transformer, view, split)
    for place in axes.flat:
        place.xaxis.set_major_formatter(EngFormatter(sep=""))
    (HERE / "figures").mkdir(exist_ok=True)
    figure.savefig(HERE / "figures" / "emergence.png", dpi=110)
    for name, rows in (("autoencoder", autoencoder), ("transformer", transformer)):
        if rows:
            sys.stdout.write(f"{name}: {rows[-1].step} steps, {rows[-1].seconds:.0f} s\n")


def read(network: str) -> list[Row]:
    """Read all numbers of one network, in the order in which they were logged."""
    with (HERE / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == network]
    return [Row(int(row["step"]), float(row["seconds"]), row["what"], float(row["value"] or "nan")) for row in rows]


def last_run() -> int:
    """Number of the latest run, or 0 if there is none."""
    with (HERE / "curves.csv").open(encoding="utf-8", newline="") as file:
        return max((int(row["run"]) for row in csv.DictReader(file)), default=0)


def append(log: Path, network: str, *, run: int) -> None:
    """Add the log of a finished run.

    Args:
        log: What train.py wrote, a JSON object a line.
        network: `autoencoder` or `transformer`.
        run: Number of the run.
    """
    earlier = read(network)
    before = earlier[-1] if earlier else Row(0, 0.0, "end", float("nan"))
    with (HERE / "curves.csv").open("a", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        at = (network, run, before.step, f"{before.seconds:.1f}")
        for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
            at = (network, run, line["step"] + before.step, f"{line['seconds'] + before.seconds:.1f}")
            writer.writerows((*at, what, f"{value:.5g}") for what, value in _logged(line))
        writer.writerow(
            (network, run, line["step"] + before.step, f"{line['seconds'] + before.seconds:.1f}", "end", "")
        )


def _logged(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of one line of a log; the first run measured easy and hard clips together, so these count for both."""
    if "loss" in line and "psnr_db" not in line:
        yield "loss", line["loss"]
    if "psnr_db" in line:
        yield f"psnr_db {'single' if line.get('single', line.get('frames') == 1) else 'whole'}", line["psnr_db"]
    if "accuracy" in line and line["timestep"] == CLEANEST:
        for view, split in PANELS:
            shares = line["accuracy"][view]
            for layer, share in enumerate(shares[split] if isinstance(shares, dict) else shares):
                yield f"accuracy {view} {split} {layer}", share


def draw_autoencoder(axes: Axes, rows: list[Row]) -> None:
    """PSNR of training batches, whole clips apart from single frames."""
    for what, label in (("psnr_db whole", "whole clips"), ("psnr_db single", "single frames")):
        points = [(row.step, row.value) for row in rows if row.what == what]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", ms=3, lw=0.8, label=label)
    axes.set(title="autoencoder", xlabel="step", ylabel="reconstruction PSNR, dB")
    axes.legend(frameon=False)


def draw_loss(axes: Axes, rows: list[Row]) -> None:
    """Training loss, smoothed over ten logged steps."""
    points = np.array([(row.step, row.value) for row in rows if row.what == "loss"])
    if len(points):
        width = min(10, len(points))
        smooth = np.convolve(points[:, 1], np.ones(width) / width, mode="valid")
        axes.plot(points[width - 1 :, 0], smooth)
    axes.set(title="transformer", xlabel="step", ylabel="velocity error", yscale="log")


def draw_accuracy(axes: Axes, rows: list[Row], view: str, split: str) -> None:
    """Share of points matched within one token at the cleanest step, one line per layer."""
    found = _measured(rows, view, split)
    shares = np.array(list(found.values()))
    for layer in range(shares.shape[1] if found else 0):
        color = mpl.colormaps["viridis"](layer / max(shares.shape[1] - 1, 1))
        axes.plot(list(found), 100 * shares[:, layer], ".-", color=color, label=f"layer {layer}")
    axes.set(title=f"{TITLES[split]}, {TITLES[view]}", xlabel="step", ylabel="% within one token", ylim=(0, 100))
    if found and (view, split) == PANELS[0]:
        axes.legend(frameon=False, ncols=2, fontsize=8)


def _measured(rows: list[Row], view: str, split: str) -> dict[int, list[float]]:
    """Shares per layer by step."""
    shares: dict[int, list[float]] = {}
    for row in rows:
        if row.what.startswith(f"accuracy {view} {split} "):
            shares.setdefault(row.step, []).append(row.value)
    return shares


if __name__ == "__main__":
    main()
