"""Draw how this folder's weights came to be: figures/emergence.png, from curves/*.jsonl, and say what it took.

    python curves.py

Runs that continued each other are joined in the order of their numbers; steps and seconds add up.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).resolve().parent
CLEANEST = 19
PANELS = (("whole", "easy"), ("whole", "hard"), ("apart", "easy"), ("apart", "hard"))
TITLES = {"whole": "encoded whole", "apart": "frames encoded alone", "easy": "easy clips", "hard": "hard clips"}


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
    for name, lines in (("autoencoder", autoencoder), ("transformer", transformer)):
        if lines:
            sys.stdout.write(f"{name}: {lines[-1]['step']} steps, {lines[-1]['seconds']:.0f} s\n")


def read(name: str) -> list[dict[str, Any]]:
    """All runs of one network, one after the other."""
    lines: list[dict[str, Any]] = []
    for file in sorted((HERE / "curves").glob(f"{name}-*.jsonl"), key=lambda file: int(file.stem.split("-")[-1])):
        before = lines[-1] if lines else {"step": 0, "seconds": 0.0}
        for text in file.read_text().splitlines():
            line = json.loads(text)
            moved = {key: line[key] + before[key] for key in ("step", "seconds")}
            lines.append({**line, **moved})
    return lines


def draw_autoencoder(axes: Axes, lines: list[dict[str, Any]]) -> None:
    """PSNR of training batches, whole clips apart from single frames."""
    for alone, label in ((False, "whole clips"), (True, "single frames")):
        points = [(line["step"], line["psnr_db"]) for line in lines if "psnr_db" in line and _single(line) == alone]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", ms=3, lw=0.8, label=label)
    axes.set(title="autoencoder", xlabel="step", ylabel="reconstruction PSNR, dB")
    axes.legend(frameon=False)


def draw_loss(axes: Axes, lines: list[dict[str, Any]]) -> None:
    """Training loss, smoothed over ten logged steps."""
    points = np.array([(line["step"], line["loss"]) for line in lines if "loss" in line])
    if len(points):
        width = min(10, len(points))
        smooth = np.convolve(points[:, 1], np.ones(width) / width, mode="valid")
        axes.plot(points[width - 1 :, 0], smooth)
    axes.set(title="transformer", xlabel="step", ylabel="velocity error", yscale="log")


def draw_accuracy(axes: Axes, lines: list[dict[str, Any]], view: str, split: str) -> None:
    """Share of points matched within one token at the cleanest step, one line per layer."""
    found = dict(_measured(lines, view, split))
    shares = np.array(list(found.values()))
    for layer in range(shares.shape[1] if found else 0):
        color = mpl.colormaps["viridis"](layer / max(shares.shape[1] - 1, 1))
        axes.plot(list(found), 100 * shares[:, layer], ".-", color=color, label=f"layer {layer}")
    axes.set(title=f"{TITLES[split]}, {TITLES[view]}", xlabel="step", ylabel="% within one token", ylim=(0, 100))
    if found and (view, split) == PANELS[0]:
        axes.legend(frameon=False, ncols=2, fontsize=8)


def _measured(lines: list[dict[str, Any]], view: str, split: str) -> Iterator[tuple[int, list[float]]]:
    """(step, shares per layer); the first run measured easy and hard clips together, which counts for both."""
    for line in lines:
        if "accuracy" in line and line["timestep"] == CLEANEST:
            shares = line["accuracy"][view]
            yield line["step"], shares[split] if isinstance(shares, dict) else shares


def _single(line: dict[str, Any]) -> bool:
    return bool(line.get("single", line.get("frames") == 1))


if __name__ == "__main__":
    main()
