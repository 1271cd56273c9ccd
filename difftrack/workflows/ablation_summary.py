"""Summarises a grid of interventions: each variant against plain samples, with intervals."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from difftrack.artifacts import write_text
from difftrack.backbones import Backbone
from difftrack.documents import read_json
from difftrack.quality import mean_with_interval
from difftrack.workflows.ablate import MARKER, MEASURES, PLAIN, AblateParams, Cell, plan_ablation

__all__ = ["summarize"]

_MATCHING = "matching_accuracy"


def summarize(
    backbone: Backbone, prompts: Sequence[tuple[int, str]], params: AblateParams, folder: Path
) -> dict[str, Any]:
    """Collect the finished cells, and write ablation.json and ablation.csv.

    Every measure comes with its mean over pairs of prompt and seed, and with its mean difference from plain samples of
    the same pairs, each with a 95 % bootstrap interval over pairs. Matching accuracy is treated the same way over
    clips; it is the mean over all layers except those that the variant skips, also for plain samples.

    Returns:
        The contents of ablation.json.
    """
    cells = [cell for cell in plan_ablation(backbone, prompts, params, folder).cells if cell.done]
    said = {cell.file: read_json(cell.file) for cell in cells}
    samples: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    matching: dict[str, dict[str, Any]] = {}
    ways = {cell.way.name: cell.way for cell in cells}
    for cell in cells:
        if cell.prompt is None or cell.seed is None:
            matching[cell.way.name] = said[cell.file]["matching"]
        else:
            samples.setdefault(cell.way.name, {})[cell.prompt, cell.seed] = said[cell.file]["measures"]
    plain_heads = matching.get(PLAIN, {}).get("head_accuracy", {})
    heads = np.mean(list(plain_heads.values()), axis=0) if plain_heads else None
    rows = []
    for name, way in ways.items():
        row: dict[str, Any] = {
            "way": name,
            "intervention": way.intervention,
            "layer": way.layer,
            "head": way.head,
            "guidance": None if way.guidance is None else asdict(way.guidance),
            "pairs": len(samples.get(name, {})),
        }
        if heads is not None and way.layer is not None and way.head is not None:
            row["own_matching_accuracy"] = float(heads[way.layer][way.head])
        row["measures"] = _compared(samples.get(name, {}), samples.get(PLAIN, {}))
        if name in matching and PLAIN in matching:
            row["measures"][_MATCHING] = _matching_compared(matching[name], matching[PLAIN])
        rows.append(row)
    seconds = {"samples": _cpu(said, cells, of_samples=True), "matching": _cpu(said, cells, of_samples=False)}
    summary = {
        "params": json.loads(json.dumps(asdict(params))),
        "backbone": backbone.fingerprint,
        "prompts": dict(prompts),
        "measures": {**MEASURES, _MATCHING: "share of matched points, mean over the remaining layers"},
        "versions": _versions(said),
        "cpu_seconds": seconds,
        "ways": rows,
        "pairs": {
            name: [{"prompt": prompt, "seed": seed, **found} for (prompt, seed), found in pairs.items()]
            for name, pairs in samples.items()
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / MARKER, json.dumps(summary, indent=1) + "\n")
    _write_csv(folder / "ablation.csv", rows)
    return summary


def _compared(
    pairs: Mapping[tuple[int, int], Mapping[str, float]], plain: Mapping[tuple[int, int], Mapping[str, float]]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    both = [pair for pair in pairs if pair in plain]
    for name in MEASURES:
        if not both or name not in pairs[both[0]]:
            continue
        values = np.array([pairs[pair][name] for pair in both])
        differences = values - np.array([plain[pair][name] for pair in both])
        found[name] = {
            "value": asdict(mean_with_interval(values)),
            "difference": asdict(mean_with_interval(differences)),
        }
    return found


def _matching_compared(way: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    left = [plain["layers"].index(layer) for layer in way["layers"]]
    values: Float[np.ndarray, " clip"] = np.array([np.mean(layers) for layers in way["accuracy"].values()])
    before = np.array([np.mean(np.asarray(plain["accuracy"][clip])[left]) for clip in way["accuracy"]])
    return {
        "value": asdict(mean_with_interval(values)),
        "difference": asdict(mean_with_interval(values - before)),
    }


def _cpu(said: Mapping[Path, Any], cells: Sequence[Cell], *, of_samples: bool) -> float:
    wanted = (cell for cell in cells if (cell.prompt is not None) == of_samples)
    return round(float(sum(said[cell.file].get("cpu_seconds", 0.0) for cell in wanted)), 1)


def _versions(said: Mapping[Path, Any]) -> dict[str, str]:
    """Library -> its versions in the cells, several where a grid went on with another one."""
    found: dict[str, dict[str, None]] = {}
    for cell in said.values():
        for library, version in cell["made_by"]["versions"].items():
            found.setdefault(library, {})[version] = None
    return {library: ", ".join(sorted(versions)) for library, versions in sorted(found.items())}


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [*MEASURES, _MATCHING]
    columns = [f"{name}{part}" for name in names for part in ("", "_difference", "_low", "_high")]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(
            stream, ["way", "intervention", "layer", "head", "pairs", "own_matching_accuracy", *columns]
        )
        writer.writeheader()
        for row in rows:
            numbers: dict[str, Any] = {}
            for name, found in row["measures"].items():
                difference = found["difference"]
                numbers |= {
                    name: found["value"]["mean"],
                    f"{name}_difference": difference["mean"],
                    f"{name}_low": difference["low"],
                    f"{name}_high": difference["high"],
                }
            kept = ("way", "intervention", "layer", "head", "pairs", "own_matching_accuracy")
            writer.writerow({**{name: row.get(name) for name in kept}, **numbers})
