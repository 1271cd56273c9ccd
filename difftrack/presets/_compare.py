"""Compare this project's numbers with the paper's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftrack.documents import read_json
from difftrack.presets._presets import Preset, PublishedNumber
from difftrack.wording import counted

__all__ = ["Comparison", "compare_with_published"]

Number = float | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published number and this project's value."""

    what: str
    published: Number
    ours: Number | None
    """This project's value in the paper's unit; None if it has not been measured."""
    source: str
    remark: str = ""
    """Why this project's value is missing; or, where they apply, the source of the pseudo-truth and the queries left
    out."""

    def __str__(self) -> str:
        ours = "-" if self.ours is None else _text(self.ours)
        ours += f" ({self.remark})" if self.remark else ""
        return f"{self.what}: ours {ours}, published {_text(self.published)} ({self.source})"


def compare_with_published(preset: Preset, params: Mapping[str, Any], root: Path) -> list[Comparison]:
    """Look up this project's values for all published numbers of a preset.

    Args:
        preset: Names the published numbers and the files of this project's values.
        params: All sections, with the preset applied; `paths` locates the results.
        root: Folder to which `paths` are relative.
    """
    return [_compare(number, params["paths"], root) for number in preset.published]


def _compare(published: PublishedNumber, paths: Mapping[str, str], root: Path) -> Comparison:
    def row(ours: Number | None, remark: str = "") -> Comparison:
        return Comparison(published.what, published.value, ours, published.source, remark)

    if published.file is None:
        return row(None, "no stage measures it")
    folder, _, rest = published.file.partition("/")
    if folder not in paths:
        return row(None, f"paths.{folder} is not set")
    file = root / paths[folder] / rest
    if not file.is_file():
        return row(None, f"{file.relative_to(root)} does not exist yet")
    content = read_json(file)
    found: Any = content
    for key in published.at.split():
        found = found.get(key) if isinstance(found, dict) else None
    remark = "; ".join(filter(None, (_about_truth(content), _about_queries(content))))
    if isinstance(published.value, tuple) and isinstance(found, list):
        return row(tuple(sorted(found[: len(published.value)])), remark)
    if not isinstance(found, int | float):
        return row(None, f"{file.relative_to(root)} has no {published.at}{f': {remark}' if remark else ''}")
    return row(float(found) * published.scale, remark)


def _about_truth(content: Mapping[str, Any]) -> str:
    """Name the trackers of the pseudo-truth if no clip has real truth, as recorded by the stages score and track."""
    group, _, tracker = str(content.get("group", "")).partition("/")
    trackers = [tracker] if group == "pseudo_truth" else []
    if not content.get("mean", True):
        trackers = list(content.get("pseudo_truth", {}))
    return f"the truth of every clip is pseudo-truth from {' or '.join(trackers)}" if trackers else ""


def _about_queries(content: Mapping[str, Any]) -> str:
    """Describe how many queries and clips are left out, as recorded by the stage track."""
    queries, left_out = content.get("queries", {}), content.get("left_out", {})
    others = (
        f"over {queries['scored']} queries; {queries['others']} others are left out" if queries.get("others") else ""
    )
    clips = f"{counted(len(left_out), 'clip')} left out" if left_out else ""
    return ", ".join(filter(None, (others, clips)))


def _text(number: Number) -> str:
    return ", ".join(map(str, number)) if isinstance(number, tuple) else f"{number:g}"
