"""Measures all samples of a folder, and compares the variants."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from difftrack.datasets import read_clip
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._params import Guidance
from difftrack.quality import VideoMeasures, mean_with_interval, measure_video

__all__ = ["check_measures", "write_measures"]


_MARKER = "measures.json"
_TABLE = "measures.csv"


def check_measures(folder: Path) -> None:
    """Refuse a folder with other measures, which would be overwritten.

    Raises:
        GuidanceError: there is such a file; the message names it.
    """
    marker, table = folder / _MARKER, folder / _TABLE
    try:
        said = json.loads(marker.read_bytes()) if marker.exists() else {}
        ours = isinstance(said, dict) and ({"ways", "means", "clips"} <= said.keys() if marker.exists() else True)
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise GuidanceError(f"{marker} belongs to something else, so it is not overwritten; name another folder")
    if table.exists() and not marker.exists():
        raise GuidanceError(f"{table} exists without {_MARKER}, so it belongs to something else; name another folder")


def write_measures(folder: Path, prompts: Mapping[str, str], ways: Mapping[str, Guidance | None]) -> None:
    """Measure clips and write measures.csv (a row per clip) and measures.json (also means and paired differences).

    Args:
        folder: Folder of the samples.
        prompts: Prompts to measure, by the name of their folder.
        ways: Variants to measure; each is compared with the first.
    """
    rows = [
        {"name": name, "way": way, "prompt": prompt, **asdict(measure_video(read_clip(folder / name, way).frames))}
        for name, prompt in prompts.items()
        for way in ways
    ]
    names = [field.name for field in fields(VideoMeasures)]
    values = {way: {name: np.array([row[name] for row in rows if row["way"] == way]) for name in names} for way in ways}
    first, *others = ways
    differences = {way: {name: values[way][name] - values[first][name] for name in names} for way in others}
    summary = {
        "ways": {way: None if guidance is None else asdict(guidance) for way, guidance in ways.items()},
        "means": _with_intervals(values),
        f"differences_from_{first}": _with_intervals(differences),
        "clips": rows,
    }
    (folder / _MARKER).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with (folder / _TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "way", "prompt", *names])
        writer.writeheader()
        writer.writerows(rows)


def _with_intervals(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Return means over prompts with their 95 % intervals; empty if no prompt was sampled."""
    return {
        way: {name: asdict(mean_with_interval(of_prompts)) for name, of_prompts in measures.items() if len(of_prompts)}
        for way, measures in values.items()
    }
