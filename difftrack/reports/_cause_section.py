"""What removing heads does to samples, beside what the heads match: a section from a study that was run before."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from difftrack.documents import read_json
from difftrack.reports._causes import cause_figure, removals_of_heads
from difftrack.reports._figure_cache import Drawings, save_figure
from difftrack.reports._page import Section, Table
from difftrack.reports._style import MISSING
from difftrack.resources import CAUSE_STUDY, shipped
from difftrack.wording import counted

__all__ = ["CauseStudy", "causes_section", "read_cause_study"]

_COLUMNS = {
    "motion_px": ("motion, px a frame", 1.0, "{:+.2f}"),
    "warped_error": ("warped error, 1e-4", 1e4, "{:+.2f}"),
    "cycle_error_px": ("there and back, px", 1.0, "{:+.2f}"),
    "matching_accuracy": ("matched points, %", 100.0, "{:+.2f}"),
    "error": ("distance from plain, % of the range", 100.0, "{:.2f}"),
}
"""Measures of the table: heading, factor, form."""
_SAMPLED = ("num_inference_steps", "cfg_scale", "num_frames", "height", "width", "matching_clips")


@dataclass(frozen=True, slots=True, eq=False)
class CauseStudy:
    """A grid of interventions in single heads, as `difftrack ablate` summarizes it."""

    summary: Mapping[str, Any]
    """What ablation.json holds."""
    source: str
    """Where the study comes from, as the page says it."""

    @property
    def backbone(self) -> str:
        """Fingerprint of the weights that were sampled."""
        return str(self.summary["backbone"])


def read_cause_study(file: Path | None = None) -> CauseStudy:
    """Read what `difftrack ablate` wrote.

    Args:
        file: An ablation.json; None takes the study of the shipped backbone that comes with the package.

    Raises:
        ValueError: the file holds no study of single heads.
    """
    path = shipped(CAUSE_STUDY) if file is None else file
    source = "the study that comes with difftrack" if file is None else str(file)
    try:
        summary = read_json(path)
        study = CauseStudy(summary, source)
        known = bool(study.backbone) and bool(removals_of_heads(summary))
        _of_study(study)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a study of heads ({error!r}); `difftrack ablate` writes one") from error
    if not known:
        raise ValueError(f"{path} has no intervention in single heads that were matched; run `difftrack ablate` again")
    return study


def causes_section(name: str, study: CauseStudy, drawings: Drawings) -> Section:
    """Draw correlation against cause for the first intervention of a study, with a table of all heads.

    Args:
        name: The backbone's.
        study: Of this backbone.
        drawings: Take the figure.
    """
    word = removals_of_heads(study.summary)[0]
    rows = [row for row in study.summary["ways"] if row["intervention"] == word and "own_matching_accuracy" in row]
    pairs = min(row["pairs"] for row in rows)
    lines = f" Lines: 95 % bootstrap intervals over {counted(pairs, 'pair')} of prompt and seed." if pairs > 1 else ""
    figure = save_figure(
        drawings,
        partial(cause_figure, study.summary, word),
        name=f"{name}-causes",
        title="What a head matches, and what its removal changes.",
        caption=f"A dot is a head, under the intervention {word}. To the right: the head's own queries and keys match "
        f"more points. Up: a measure rises without the head.{lines} Spearman: rank correlation over heads.",
    )
    return Section(
        anchor=f"{name}-causes",
        short="Causes",
        title="What heads match and what they cause",
        lead="A head that matches points well correlates with the truth. Its removal shows whether the model needs it. "
        f"{_of_study(study)}{_baseline(study)}",
        blocks=[figure, _table(word, rows)],
        group=name,
    )


def _of_study(study: CauseStudy) -> str:
    """Say how large a study is, where it comes from and what made it."""
    params, summary = study.summary["params"], study.summary
    steps, scale, frames, height, width, clips = (params[key] for key in _SAMPLED)
    pairs = counted(min(row["pairs"] for row in summary["ways"]), "pair")
    machine = summary.get("machine", {})
    made = ", ".join(str(machine[key]) for key in ("device", "date") if key in machine)
    versions = ", ".join(f"{library} {version}" for library, version in summary.get("versions", {}).items())
    by = "; ".join(part for part in (made, versions) if part)
    return (
        f"Nothing ran for this section: it shows {study.source}, {pairs} of prompt and seed, sampled in {steps} steps "
        f"at scale {scale:g} as clips of {frames}x{height}x{width} px, and matched on "
        f"{counted(clips, 'rendered clip')}{f' ({by})' if by else ''}."
    )


def _baseline(study: CauseStudy) -> str:
    """Say what looking at the same place matches; only studies of `benchmarks.causes` know it."""
    still = study.summary.get("still_accuracy")
    return "" if still is None else f" A head that looks at the same place matches {100 * still:.0f} % of their points."


def _table(word: str, rows: list[Mapping[str, Any]]) -> Table:
    names = [name for name in _COLUMNS if any(name in row["measures"] for row in rows)]
    return Table(
        title=f"Every head under {word}",
        caption="Changes against the plain samples of the same prompts and seeds, with 95 % intervals where there are "
        "several pairs. They are per head and not corrected for the number of heads.",
        head=["layer", "head", "matches itself, %", *(_COLUMNS[name][0] for name in names)],
        rows=[
            [
                str(row["layer"]),
                str(row["head"]),
                f"{100 * row['own_matching_accuracy']:.1f}",
                *(_cell(name, row["measures"].get(name)) for name in names),
            ]
            for row in rows
        ],
        folded=True,
    )


def _cell(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return MISSING
    _, unit, form = _COLUMNS[name]
    number = found["value" if name == "error" else "difference"]
    mean = form.format(unit * number["mean"])
    if number["low"] is None:
        return mean
    return f"{mean} [{form.format(unit * number['low'])}, {form.format(unit * number['high'])}]"
