"""What `benchmarks.backbone` prints: tables, and the targets of the backbone next to what it reaches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

__all__ = ["print_results", "targets"]


def targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The targets of the backbone, and what it reaches."""
    easy, hard = results["splits"]["easy"], results["splits"]["hard"]
    by_step = np.array(easy["whole"]["query_key"])
    best = int(by_step[-1].argmax())
    falls = max(0.0, *(np.maximum.accumulate(by_step[:, best]) - by_step[:, best]).tolist())
    heads = np.array(easy["whole"]["heads"][-1])[best]
    idle = [
        layer
        for layer, mass in enumerate(easy["whole"]["cross_frame_mass"])
        if mass > 0.3 and by_step[-1, layer] < easy["baselines"]["no motion"] + 0.05
    ]
    seconds = results["seconds"]
    rows = [
        ("best layer, easy", max(easy["whole"]["query_key"][-1]), ">= 0.92", 0.92, 1),
        ("best layer, hard", max(hard["whole"]["query_key"][-1]), ">= 0.75", 0.75, 1),
        ("the same by displacements, easy", max(easy["whole"]["query_key_displacements"][-1]), ">= 0.92", 0.92, 1),
        ("the same by displacements, hard", max(hard["whole"]["query_key_displacements"][-1]), ">= 0.75", 0.75, 1),
        ("best layer, frames alone, easy", max(easy["apart"]["query_key"][-1]), ">= 0.92", 0.92, 1),
        ("largest fall from noise to clean", falls, "<= 0.02", 0.02, -1),
        ("layers that attend across frames without matching", len(idle), ">= 1", 1, 1),
        ("spread of heads in the best layer", float(np.ptp(heads)), ">= 0.1", 0.1, 1),
        ("reconstruction, dB", easy["reconstruction_db"]["whole"], ">= 30", 30, 1),
        ("one conditional forward, s", seconds["forward"], "<= 1", 1, -1),
        ("encoding 17 frames, s", seconds["encode"], "<= 2", 2, -1),
        ("wrong prompt's error over the right one's", _ratio(results["prompt"]), ">= 1.02", 1.02, 1),
    ]  # fmt: skip
    return [
        {"what": what, "value": float(value), "wanted": wanted, "reached": bool(sign * value >= sign * limit)}
        for what, value, wanted, limit, sign in rows
    ]


def _ratio(errors: Mapping[str, Sequence[float]]) -> float:
    return float(np.max(np.array(errors["wrong"]) / np.array(errors["right"])))


def print_results(results: Mapping[str, Any]) -> None:
    """Print everything that was measured."""
    console = Console(width=110)
    for split, found in results["splits"].items():
        console.print(_table(split, found, results["steps"]))
        best = int(np.argmax(found["whole"]["query_key"][-1]))
        lines = {
            "baselines": found["baselines"],
            f"heads of layer {best}": dict(enumerate(found["whole"]["heads"][-1][best])),
            "the same by displacements": dict(enumerate(found["whole"]["heads_displacements"][-1][best])),
        }
        for name, shares in lines.items():
            listed = ", ".join(f"{key} {100 * share:.1f}" for key, share in shares.items())
            console.print(f"{name}: {listed}")
        restored = ", ".join(f"{name} {ratio:.1f}" for name, ratio in found["reconstruction_db"].items())
        console.print(f"reconstruction, dB: {restored}\n")
    for row in results["other"]:
        shape = f"{row['frames']} frames of {row['size'][0]} x {row['size'][1]}{', alone' * row['frames_alone']}"
        console.print(
            f"{shape}: layer {row['best_layer']} {100 * row['share']:.1f}, no motion {100 * row['no_motion']:.1f}"
        )
    for name, errors in results["prompt"].items():
        console.print(f"velocity error with {name} prompt, noisy to clean: {', '.join(f'{e:.4f}' for e in errors)}")
    console.print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["seconds"].items()))
    for row in results["targets"]:
        verdict = "reached" if row["reached"] else "MISSED "
        console.print(f"{verdict} {row['what']}: {row['value']:.3g} (wanted {row['wanted']})")


def _table(split: str, found: Mapping[str, Any], steps: Sequence[int]) -> Table:
    """Shares per layer and step, in percent."""
    table = Table(title=f"{split}: % of visible points within 8 px, by layer", title_justify="left")
    for heading in ("", *map(str, range(len(found["untrained"]))), "best feature"):
        table.add_column(heading, justify="right", no_wrap=True)
    whole, apart = found["whole"], found["apart"]
    for step, shares, features in zip(steps, whole["query_key"], whole["feature"], strict=True):
        table.add_row(f"step {step}", *_percents([*shares, max(features)]))
    table.add_row("displacements", *_percents(whole["query_key_displacements"][-1]), "")
    table.add_row("frames alone", *_percents([*apart["query_key"][-1], max(apart["feature"][-1])]))
    table.add_row("displacements", *_percents(apart["query_key_displacements"][-1]), "")
    table.add_row("untrained", *_percents(found["untrained"]))
    table.add_row("cross-frame mass", *_percents(whole["cross_frame_mass"]))
    return table


def _percents(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]
