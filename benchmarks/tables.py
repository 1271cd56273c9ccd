"""The numbers in the tables of README, docs and model card, filled in from benchmarks/results.

    python -m benchmarks.tables            fill in, and say which tables changed
    python -m benchmarks.tables --check    change nothing; exit with status 1 if a table differs

A comment names what fills the table after it: `<!-- numbers: tracking-study -->`. Rows and their titles are written by
hand, in the order of the results; the last cells of each row are filled in. Numbers in prose are not checked.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/*.md", "data/backbones/*/README.md")

Cells = Sequence[str | None]
"""The last cells of one row; None leaves a cell unchanged."""
Read = Callable[[str], Any]
"""A function that returns the content of a file of results, by its name without suffix."""


def main() -> None:
    """Fill in all tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    changed = []
    for page in sorted(page for pattern in PAGES for page in ROOT.glob(pattern)):
        before = page.read_text(encoding="utf-8")
        after = fill(before, read_results)
        changed += [f"{page.relative_to(ROOT)}: {line}" for line in _new_lines(before, after)]
        if not given.check:
            page.write_text(after, encoding="utf-8")
    print("\n".join(changed) or "all tables say what the results say")
    sys.exit(1 if given.check and changed else 0)


def read_results(name: str) -> Any:  # noqa: ANN401
    """Content of `benchmarks/results/<name>.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def fill(text: str, read: Read) -> str:
    """A page with its tables filled in.

    Args:
        text: Markdown.
        read: Where numbers come from.

    Raises:
        ValueError: a comment names no numbers known here, no table follows it, or the table has other rows or too few
            columns.
    """
    lines = text.split("\n")
    for place, line in enumerate(lines):
        found = re.fullmatch(r"<!-- numbers: (\S+) -->", line)
        if not found:
            continue
        name = found[1]
        if name not in TABLES:
            raise ValueError(f"numbers {name!r} are unknown; known are {', '.join(TABLES)}")
        begin = place + 3  # after the headings and the line below them
        end = next((at for at in range(begin, len(lines)) if not lines[at].startswith("|")), len(lines))
        rows = TABLES[name](read)
        if end - begin != len(rows):
            raise ValueError(f"the table {name} has {end - begin} rows, and there are numbers for {len(rows)}")
        lines[begin:end] = [_filled(old, cells) for old, cells in zip(lines[begin:end], rows, strict=True)]
    return "\n".join(lines)


def _filled(row: str, cells: Cells) -> str:
    old = [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]
    kept, replaced = old[: -len(cells)], old[-len(cells) :]
    if not kept:
        raise ValueError(f"the row {row!r} has {len(old)} cells: {len(cells)} numbers would leave no title")
    bold = kept[0].startswith("**")
    new = [was if cell is None else f"**{cell}**" if bold else cell for was, cell in zip(replaced, cells, strict=True)]
    return f"| {' | '.join([*kept, *new])} |"


def _new_lines(before: str, after: str) -> list[str]:
    return [new for old, new in zip(before.split("\n"), after.split("\n"), strict=True) if old != new]


def _percent(*shares: float) -> str:
    return ", ".join(f"{100 * share:.1f}" for share in shares)


def _signed(value: float, places: int) -> str:
    """Format a number with its sign, unless it is shown as zero."""
    shown = f"{value:+.{places}f}"
    return shown if float(shown) else shown[1:]


def _points(scores: Mapping[str, float]) -> str:
    return " / ".join(_percent(scores[name]) for name in ("delta_avg", "AJ", "OA"))


def _real(sets: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Name the set of clips that was not rendered."""
    [name] = set(sets) - {"easy", "hard"}
    real: Mapping[str, Mapping[str, float]] = sets[name]
    return real


def _tracks(read: Read, *, strided: bool) -> list[Cells]:
    small, large = (
        (results["strided"] if strided else results)["means"]
        for results in (read("tracking_study_160x240"), read("tracking_study_256x384"))
    )
    sets = (small["easy"], small["hard"], _real(small), _real(large))
    return [[_points(scores[method]) for scores in sets] for method in small["easy"]]


def _tracked_points(read: Read) -> list[Cells]:
    """Rows of the study: the methods that the first page compares."""
    small, large = read("tracking_study_160x240"), read("tracking_study_256x384")
    chosen = f"heads {', '.join(small['heads'])} alone"
    methods = ("no motion", "the same at the backbone's size", "released", chosen)
    sets = (small["means"]["easy"], small["means"]["hard"], _real(small["means"]), _real(large["means"]))
    return [[_points(scores[method]) for method in methods] for scores in sets]


TUNED = (
    *(f"displacements, window {radius}, 1.0" for radius in (0, 2)),
    *(f"displacements, window 1, {temperature}" for temperature in (0.5, 0.7)),
    *(f"temperature {divisor}" for divisor in (2.0, 4.0, 16.0)),
    *("support 1", "support 3", "agreement 2.0", "rows, window 1, 1.0", "one direction"),
    *("motion costs 0", "motion costs 0.3", "motion costs 1", "motion of up to 3", "motion of up to 8"),
    *("matches 2", "matches 3", "smoothing 0", "smoothing 1", "smoothing 3"),
    *("smoothing limit 0.15", "smoothing limit 0.25", "smoothing limit 0.5", "smoothing limit 1e+09"),
    *(f"confidence {least}" for least in (0.3, 0.4, 0.6, 0.7)),
    *(f"cycle {token}" for token in (1.0, 1.5, 3.0, 4.0)),
    *("margin 0.1", "margin 0.3"),
)
"""Changes of each option, in the order of the table of docs/tracking.md."""


def _tuning(read: Read) -> list[Cells]:
    means = read("tracking_tuning")["means"]

    def change(name: str, measure: str) -> str:
        worth = [np.mean([means[split][way][measure] for split in ("easy", "hard")]) for way in (name, "default")]
        return _signed(100 * (worth[0] - worth[1]), 2).replace("-", "\N{MINUS SIGN}")

    return [[change(name, measure) for measure in ("delta_avg", "AJ", "OA")] for name in TUNED]


def _shares(read: Read) -> list[Cells]:
    """Shares matched within one token, easy and hard."""
    results = read("backbone")
    splits = [results["splits"][split] for split in ("easy", "hard")]
    best = int(np.argmax(splits[0]["whole"]["query_key"][-1]))

    def both(value: Callable[[Mapping[str, Any]], Sequence[float]]) -> Cells:
        return [*(_percent(*value(split)) for split in splits), None]

    return [
        both(lambda split: [split["whole"]["query_key"][-1][best]]),
        both(lambda split: [shares[best] for shares in split["whole"]["query_key"][-2::-1]]),
        both(lambda split: [split["whole"]["query_key_displacements"][-1][best]]),
        both(lambda split: [max(split["whole"]["heads"][-1][best])]),
        both(lambda split: [split["apart"]["query_key"][-1][best]]),
        both(lambda split: [split["apart"]["query_key_displacements"][-1][best]]),
        both(lambda split: [max(split["whole"]["feature"][-1])]),
        both(lambda split: [split["baselines"]["no motion"]]),
        both(lambda split: [split["baselines"]["cosine of latents"]]),
        both(lambda split: [max(split["untrained"])]),
        both(lambda split: [split["baselines"]["Lucas-Kanade"]]),
    ]


def _backbone(read: Read) -> list[Cells]:
    """All other targets of the shipped backbone."""
    results = read("backbone")
    easy, hard = results["splits"]["easy"], results["splits"]["hard"]
    best = int(np.argmax(easy["whole"]["query_key"][-1]))
    whole, alone = ([split["reconstruction_db"][view] for split in (easy, hard)] for view in ("whole", "apart"))
    idle = next(row["value"] for row in results["targets"] if row["what"].startswith("layers that attend"))
    errors = np.array(results["prompt"]["wrong"]) / np.array(results["prompt"]["right"])
    seconds = results["seconds"]
    measured = (
        f"{whole[0]:.1f}, {whole[1]:.1f} (frames alone {alone[0]:.1f}, {alone[1]:.1f})",
        _percent(*easy["whole"]["heads"][-1][best]),
        f"{idle:.0f}",
        ", ".join(f"{error:.2f}" for error in errors),
        f"{seconds['forward']:.2f} s on one core",
        f"{seconds['encode']:.2f} s on one core",
    )
    return [*([value, None] for value in measured), [None, None]]


def _prompts(read: Read) -> list[Cells]:
    return [
        [
            f"{error:.2f} ({100 * share:.0f} %)"
            for error, share in zip(change["error_over_right"], change["share_of_clips_that_it_costs"], strict=True)
        ]
        for change in read("prompts")["changes"].values()
    ]


def _guidance(read: Read) -> list[Cells]:
    results = read("guidance_study/measures")
    digits = {"motion_px": 2, "sharpness": 1, "warped_error": 2, "cycle_error_px": 2, "dynamic_degree": 1}

    def difference(way: str, measure: str, scale: float) -> str:
        found = results["differences_from_plain"][way][measure]
        mean, low, high = (_signed(scale * found[name], digits[measure]) for name in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    rows = []
    for measure, places in digits.items():
        scale = 1e4 if measure == "warped_error" else 1.0
        plain = f"{scale * results['means']['plain'][measure]['mean']:.{places}f}"
        rows.append([plain, *(difference(way, measure, scale) for way in ("best_layers", "worst_layers"))])
    return rows


def _stored(read: Read, *, values: str, which: int) -> list[Cells]:
    """One unit in every format; `which` selects one of the measured shapes."""
    formats = {
        "write_mb_per_s": ".0f",
        "ratio": ".2f",
        "layer_read_mb_per_s": ".0f",
        "layer_of_memmap": ".2f",
        **dict.fromkeys(("layer_ms", "frame_ms", "head_ms", "point_ms"), ".2f"),
        "matches_kept": ".3f",
    }
    ways = list(read("store")[values]["results"].values())[which]
    return [[f"{row[name]:{form}}" for name, form in formats.items()] for row in ways.values()]


def _propagated(read: Read) -> list[Cells]:
    means = read("propagation_study_160x240")["means"].values()
    return [[_percent(scores[measure]) for measure in ("J&F", "J", "F")] for scores in means]


def _propagation_tuning(read: Read) -> list[Cells]:
    """Choices made on rendered clips, option by option, and their alternatives."""
    tuned = read("propagation_tuning")
    worths = tuned["worths"]
    of_kinds: dict[str, list[float]] = {}
    for label, worth in worths.items():
        if label.partition(", layer ")[2]:
            of_kinds.setdefault(label.partition(", layer ")[0], []).append(worth)
    kinds = [max(of_kinds[kind]) for kind in ("query_key", "feature", "query_query", "key_key")]
    options = [
        "layers (3, 4)",
        "temperature 0.1",
        "top_k 20",
        "top_k 5",
        "top_k None",
        "num_context 0",
        "num_context 4",
    ]
    layers, temperature, top_k, five, everything, none, four = (_percent(worths[label]) for label in options)
    return [
        [" / ".join(_percent(worth) for worth in kinds)],
        [layers],
        [temperature],
        [f"{top_k} ({five}; {everything})"],
        [f"{none} ({four})"],
        [f"{_percent(worths['spread over the clip'])} ({_percent(worths['consecutive'])})"],
    ]


_CAUSED = {
    "motion_px": (1.0, 2),
    "warped_error": (1e4, 2),
    "cycle_error_px": (1.0, 2),
    "matching_accuracy": (100.0, 2),
    "error": (100.0, 1),
}
"""Measures of what heads cause, with factor and decimal places."""


def _heads(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in summary["ways"] if row["intervention"] == "zero" and row["head"] is not None]


def _causes(read: Read) -> list[Cells]:
    """By measure: the plain value, heads whose interval leaves zero out, the largest change, and the correlations.

    These are with what heads match on the clips of the grid, and on those of the training's size that the probe has.
    """
    from difftrack.reports import cause_correlation  # draws figures, which most tables do not need

    summary = read("ablation/ablation")
    larger = read("probe")["layers"]["trained"]["head_matching_accuracy"]
    at_full_size = {
        **summary,
        "ways": [
            {**row, "own_matching_accuracy": larger[row["layer"]][row["head"]]}
            if "own_matching_accuracy" in row
            else row
            for row in summary["ways"]
        ],
    }
    (plain,) = (row for row in summary["ways"] if row["way"] == "plain")
    rows = []
    for measure, (unit, places) in _CAUSED.items():
        key = "value" if measure == "error" else "difference"
        found = {(row["layer"], row["head"]): row["measures"][measure][key] for row in _heads(summary)}
        clear = sum(1 for of in found.values() if of["low"] > 0 or of["high"] < 0)
        layer, head = max(found, key=lambda place: abs(found[place]["mean"]))
        largest = unit * found[layer, head]["mean"]
        said = f"{largest:.{places}f}" if measure == "error" else _signed(largest, places)
        correlations = []
        for of in (summary, at_full_size):
            rho, low, high = cause_correlation(of, "zero", measure)
            interval = "" if low is None or high is None else f" [{_signed(low, 2)}, {_signed(high, 2)}]"
            correlations.append(f"{_signed(rho, 2)}{interval}")
        rows.append(
            [
                f"{unit * plain['measures'][measure]['value']['mean']:.{places}f}",
                "" if measure == "error" else f"{clear} of {len(found)}",
                f"{said} ({layer}.{head})",
                *correlations,
            ]
        )
    return rows


def _causes_by_layer(read: Read) -> list[Cells]:
    """Means over the heads of each layer: what they match, and what changes when they are removed."""
    heads = _heads(read("ablation/ablation"))
    rows = []
    for layer in sorted({row["layer"] for row in heads}):
        own = [row for row in heads if row["layer"] == layer]
        row = [_percent(float(np.mean([of["own_matching_accuracy"] for of in own])))]
        for measure, (unit, places) in _CAUSED.items():
            key = "value" if measure == "error" else "difference"
            mean = unit * float(np.mean([of["measures"][measure][key]["mean"] for of in own]))
            row.append(f"{mean:.{places}f}" if measure == "error" else _signed(mean, places))
        rows.append(row)
    return rows


def _caused_by_guidance(read: Read) -> list[Cells]:
    """Ways of guidance beside plain samples: differences with their intervals, and the distance from plain."""
    ways = read("ablation/ablation")["ways"]
    rows = []
    for row in (row for row in ways if row["way"] == "plain" or row["guidance"] is not None):
        cells = []
        for measure in ("motion_px", "warped_error", "cycle_error_px", "sharpness", "prompt_following", "error"):
            unit, places = {**_CAUSED, "sharpness": (1.0, 0), "prompt_following": (1.0, 2)}[measure]
            found = row["measures"][measure]
            if row["way"] == "plain":
                cells.append(f"{unit * found['value']['mean']:.{places}f}")
                continue
            absolute = measure == "error"
            number = found["value" if absolute else "difference"]
            mean, low, high = (unit * number[name] for name in ("mean", "low", "high"))
            show = (lambda value, places=places: f"{value:.{places}f}") if absolute else partial(_signed, places=places)
            cells.append(f"{show(mean)} [{show(low)}, {show(high)}]")
        rows.append(cells)
    return rows


def _probe(read: Read) -> list[Cells]:
    """Layers of the shipped backbone as the probe measures them, at the start of a training and at its end."""
    layers = read("probe")["layers"]
    start, trained = layers["start"], layers["trained"]
    return [
        [
            _percent(start["matching_accuracy"][layer]),
            _percent(trained["matching_accuracy"][layer]),
            f"{_percent(max(heads))} ({int(np.argmax(heads))})",
            _percent(trained["confidence"][layer]),
            _percent(trained["attention_score"][layer]),
        ]
        for layer, heads in enumerate(trained["head_matching_accuracy"])
    ]


def _probe_cost(read: Read) -> list[Cells]:
    seconds = read("probe")["cpu_seconds"]
    share = 100 * seconds["share_at_one_step_a_second"]
    return [[f"{seconds['making']:.1f}"], [f"{seconds['measurement']:.1f}"], [f"{share:.2f} %"]]


_WORDS = (
    ("all heads of all layers", "noun", "text"),
    ("layer for nouns", "noun", "text"),
    ("all heads of all layers", "phrase", "text"),
    ("layer for phrases", "phrase", "text"),
    ("layer for phrases", "phrase", "attention"),
    ("head for phrases", "phrase", "text"),
)


def _words(read: Read) -> list[Cells]:
    """Maps of nouns and phrases on rendered clips, and chance."""
    study = read("words_study")
    rows = []
    for label, asked, share in _WORDS:
        scores = study["averaged"][label][asked][share]
        row = []
        for measure in ("pointing", "iou"):
            found = {name: 100 * np.asarray(values) for name, values in scores[measure].items()}
            low, high = found["interval"]
            row += [f"{found['right']:.0f} ({low:.0f}\u2013{high:.0f})", f"{found['wrong']:.0f}"]
        rows.append(row)
    chance = [f"{100 * study['chance'][measure]:.0f}" for measure in ("pointing", "iou")]
    return [*rows, [chance[0], "", chance[1], ""]]


def _explorer(read: Read) -> list[Cells]:
    """A click in the explorer, in stores of two shapes."""
    measured = read("explorer")
    return [
        [
            f"{row['click_ms']['median']:.0f}",
            f"{row['click_ms']['p90']:.0f}",
            f"{row['visited_layer_ms']['median']:.0f}",
            f"{row['server_mb']:.0f} ({row['server_peak_mb']:.0f})",
        ]
        for row in (measured["shipped backbone"], measured["CogVideoX-2B's shape"])
    ]


def _kinds(read: Read, *, band: str | None = None, kind: str | None = None) -> list[Cells]:
    """Every kind in one band, or every band of one kind: its best match, and what the best and all heads reach."""
    rows = [row for row in read("kinds")["rows"] if row["band"] == (band or row["band"])]
    return [
        [
            f"{row['layer']}, {'all' if row['heads'] == 'all' else 'head ' + row['heads']}",
            *(_percent(row["eval"][split]) for split in ("easy", "hard", "real", "mean")),
            _percent(row["all_heads"]["eval"]["mean"]),
        ]
        for row in rows
        if row["kind"] == (kind or row["kind"])
    ]


TABLES: Mapping[str, Callable[[Read], Sequence[Cells]]] = {
    "tracking-study": partial(_tracks, strided=False),
    "tracking-strided": partial(_tracks, strided=True),
    "tracking-tuning": _tuning,
    "tracked-points": _tracked_points,
    "backbone-shares": _shares,
    "backbone": _backbone,
    "prompts": _prompts,
    "propagation": _propagated,
    "propagation-tuning": _propagation_tuning,
    "causes": _causes,
    "causes-layers": _causes_by_layer,
    "causes-guidance": _caused_by_guidance,
    "probe": _probe,
    "probe-cost": _probe_cost,
    "words": _words,
    "guidance-study": _guidance,
    "store-cogvideox-2b": partial(_stored, values="synthetic", which=0),
    "explorer": _explorer,
    "kinds": partial(_kinds, band="all"),
    "kinds-query-key": partial(_kinds, kind="query_key"),
    "kinds-key-key": partial(_kinds, kind="key_key"),
    "store-shipped": partial(_stored, values="synthetic", which=1),
    "store-real": partial(_stored, values="real", which=0),
}


if __name__ == "__main__":
    main()
