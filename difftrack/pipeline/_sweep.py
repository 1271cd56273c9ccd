"""Run the stages that read descriptors at every point of a grid of their params, without running a video model.

A cell is one run of one stage. Its folder contains the files that the stage writes in the pipeline. The folder's key
covers the stage's params, code and inputs, so sweeps share cells, and an interrupted sweep resumes where it stopped:

    SWEEPS/cells/STAGE/BACKBONE/KEY/    cell.json, written last, and the stage's own files
    SWEEPS/NAME/                        sweep.json, sweep.csv, sweep.png, sweep.svg
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import yaml

from difftrack.configuration import Configuration, configuration_from
from difftrack.distribution import ClipWorker, Job, ProgressCallback, run_clips
from difftrack.documents import read_json
from difftrack.ownership import ArtifactKind, claim
from difftrack.provenance import code_of
from difftrack.store import open_store, stored_group
from difftrack.sweeps import MEASURES, SweepAxis, SweepError, SweepRow, SweptStage, grid, laid_over, show_value

__all__ = [
    "CellStage",
    "MARKER",
    "Sweep",
    "SweepCell",
    "SweepPlanner",
    "measured",
    "plan_sweep",
    "run_sweep",
    "write_sweep",
]

CellStage = Literal["match", "score", "track"]

MARKER = "cell.json"
_VERSION = 1
_OUTS: Mapping[CellStage, Mapping[str, str]] = {
    "match": {"matches": ""},
    "score": {
        "scores": "scores.json",
        "table": "scores.csv",
        "best_layers": "best_layers.json",
        "summary": "summary.json",
    },
    "track": {"predictions": ""},
}
"""Stage -> output -> its path in the cell."""
_SWEEP = ArtifactKind(
    "a sweep",
    "sweep.json",
    lambda content: content["difftrack"] == "sweep",
    tuple(f"sweep.{end}" for end in ("json", "csv", "png", "svg")),
)


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One run of one stage; small enough to be pickled to workers."""

    stage: CellStage
    backbone: str
    key: str
    """Digest of everything that its files depend on."""
    place: str
    """Folder of the cell."""
    section: str
    """The stage's section of the params, as YAML."""
    deps: tuple[tuple[str, str], ...]
    """(name, path) of the stage's inputs."""

    @property
    def is_done(self) -> bool:
        """Whether the folder is complete."""
        return (Path(self.place) / MARKER).is_file()

    @property
    def summary(self) -> Path:
        """File with the stage's summary numbers."""
        return Path(self.place) / "summary.json"


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a grid, and the rows of its table."""

    axes: tuple[SweepAxis, ...]
    folder: Path
    matches: Mapping[str, SweepCell]
    """Key -> cell of the stage match; these run first."""
    cells: Mapping[str, SweepCell]
    """Key -> cell whose numbers are requested."""
    rows: tuple[tuple[str, Mapping[str, Any], Mapping[SweptStage, str], bool], ...]
    """Backbone, point, stage -> key of its cell, and whether the point equals the current params.yaml."""

    @property
    def waiting(self) -> list[SweepCell]:
        """The unfinished cells, in an order in which they can run."""
        scored = [cell for cell in self.cells.values() if not cell.is_done]
        read = {place for cell in scored for _, place in cell.deps}
        return [cell for cell in self.matches.values() if not cell.is_done and cell.place in read] + scored


def plan_sweep(
    params: Mapping[str, Any],
    axes: Sequence[SweepAxis],
    on: Sequence[SweptStage],
    *,
    top: Path,
    file: Path,
    backbones: Sequence[str] = (),
    folder: Path | None = None,
    name: str | None = None,
) -> Sweep:
    """Determine and validate the cells of a grid, without running them.

    Args:
        params: All sections of params.yaml.
        axes: Axes of the grid.
        on: Stages whose results are requested.
        top: The project's folder, to which paths are relative.
        file: Name of the params file in messages.
        backbones: Names of backbones in the params; all by default.
        folder: Folder of all sweeps; `paths.sweeps` by default.
        name: Name of this sweep; by default its keys.

    Raises:
        ParamsError: a value of the grid is invalid.
        SweepError: a backbone is unknown, the name is invalid, or an input is missing.
        OwnershipError: the sweep's folder contains other files.
    """
    base = configuration_from(params, file=file)
    if unknown := [backbone for backbone in backbones if backbone not in base.backbones]:
        raise SweepError(f"{file} has no backbone {unknown[0]}; known: {', '.join(base.backbones)}")
    root = (top / base.paths.sweeps if folder is None else folder).resolve()
    planner = SweepPlanner(top.resolve(), base, root / "cells")
    named = tuple(backbones) or tuple(base.backbones)
    rows = []
    for backbone in named:
        now = {stage: planner.cell(stage, backbone, base, params).key for stage in on}
        for point in grid(axes):
            values = laid_over(params, point)
            assignments = ", ".join(f"{key}={show_value(value)}" for key, value in point.items())
            found = configuration_from(values, file=f"{file} with {assignments}")
            keys = {stage: planner.cell(stage, backbone, found, values).key for stage in on}
            rows.append((backbone, point, keys, keys == now))
    cells = {key: planner.cells[key] for _, _, keys, _ in rows for key in keys.values()}
    own = root / (name or "+".join(axis.key for axis in axes))
    if own == root / "cells" or own.parent != root:
        raise SweepError(f"a sweep cannot be named {name!r}; use a valid folder name")
    claim(own, _SWEEP)
    return Sweep(tuple(axes), own, planner.matches, cells, tuple(rows))


class SweepPlanner:
    """Creates the cells of one sweep, each once."""

    def __init__(self, top: Path, base: Configuration, folder: Path) -> None:
        self._top, self._paths, self._folder = top, base.paths, folder
        self._digests: dict[str, str] = {}
        self.matches: dict[str, SweepCell] = {}
        self.cells: dict[str, SweepCell] = {}

    def cell(self, stage: SweptStage, backbone: str, found: Configuration, values: Mapping[str, Any]) -> SweepCell:
        """Create the cell of a stage from params, given parsed and as YAML values."""
        if stage == "track":
            inputs = {
                "descriptors": self._store(backbone, "tracking"),
                "tracks": self._files("tracks", "*.npz"),
                "clips": self._files("clips", "*/*"),
            }
            if found.track.layers == "best":
                inputs["best_layers"] = self._files("scores", f"{backbone}/best_layers.json", file=True)
            cell = self._make("track", backbone, found.track, values, inputs)
        else:
            tracks = self._files("tracks", "*.npz")
            analysis = {"descriptors": self._store(backbone, "analysis"), "tracks": tracks}
            match = self._make("match", backbone, found.match, values, analysis)
            self.matches[match.key] = match
            inputs = {
                "matches": (match.place, match.key),
                "tracks": tracks,
                "clips": self._files("clips", "*/clip.json"),
            }
            cell = self._make("score", backbone, found.score, values, inputs)
        self.cells[cell.key] = cell
        return cell

    def _make(
        self,
        stage: CellStage,
        backbone: str,
        section: Any,  # noqa: ANN401 - one of the sections' dataclasses
        values: Mapping[str, Any],
        inputs: Mapping[str, tuple[str, str]],
    ) -> SweepCell:
        """Create a cell.

        Args:
            stage: The stage to run.
            backbone: The backbone whose descriptors are read.
            section: The stage's parsed params, which are independent of their notation in YAML.
            values: All params, as read from YAML.
            inputs: Name -> (path, digest) of each input.
        """
        covered = {
            "version": _VERSION,
            "stage": stage,
            "params": dataclasses.asdict(section),
            "code": dict(code_of(f"difftrack.pipeline.{stage}")),
            "inputs": {name: digest for name, (_, digest) in inputs.items()},
        }
        key = hashlib.sha256(json.dumps(covered, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return SweepCell(
            stage=stage,
            backbone=backbone,
            key=key,
            place=str(self._folder / stage / backbone / key),
            section=yaml.safe_dump(values.get(stage) or {}, sort_keys=False),
            deps=tuple((name, place) for name, (place, _) in inputs.items()),
        )

    def _store(self, backbone: str, view: str) -> tuple[str, str]:
        """Return a store of descriptors, and a digest of its groups' metadata."""
        path = f"{self._paths.descriptors}/{backbone}/{view}"
        place = path if "://" in path else str(self._top / path)
        if place not in self._digests:
            self._check(place, "extract")
            store = open_store(place)
            groups = {name: stored_group(place, name) for name in store.groups()}
            contents = {name: None if group is None else group.contents for name, group in groups.items()}
            self._digests[place] = _digest(json.dumps([store.manifest().to_text(), contents], sort_keys=True).encode())
        return place, self._digests[place]

    def _files(self, path: str, pattern: str, *, file: bool = False) -> tuple[str, str]:
        """Return a folder of the pipeline, and a digest of the files in it that a stage reads."""
        folder = self._top / getattr(self._paths, path)
        place = str(folder / pattern if file else folder)
        known = f"{folder}/{pattern}"
        if known not in self._digests:
            self._check(place, {"clips": "synthesize", "tracks": "annotate", "scores": "score"}[path])
            read = sorted({*folder.glob(pattern), *folder.glob("manifest.json")})
            lines = [f"{each.relative_to(folder)} {_digest(each.read_bytes())}" for each in read if each.is_file()]
            self._digests[known] = _digest("\n".join(lines).encode())
        return place, self._digests[known]

    def _check(self, place: str, stage: str) -> None:
        if "://" not in place and not Path(place).exists():
            raise SweepError(
                f"{place} does not exist; the stage {stage} writes it. Run `difftrack repro` first: a sweep only reads "
                "stored results and runs no video model"
            )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class SweepJob(Job):
    """Job that runs cells, identified by their keys."""

    cells: tuple[SweepCell, ...]

    def open(self) -> ClipWorker:
        """Return a worker; it loads nothing before the first cell."""
        return _CellWorker({cell.key: cell for cell in self.cells})


class _CellWorker(ClipWorker):
    def __init__(self, cells: Mapping[str, SweepCell]) -> None:
        self._cells = cells

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """Run the cell with this key."""
        done: Future[None] = Future()
        _run_cell(self._cells[clip])
        done.set_result(None)
        return done

    def close(self) -> None:
        """Do nothing, because `run` finishes its work."""


def _run_cell(cell: SweepCell) -> None:
    """Run a cell's stage into a temporary folder, and move it to its place when it is complete.

    Raises:
        ValueError: the stage failed; the message is the stage's.
    """
    place = Path(cell.place)
    partial = place.with_name(f"{place.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    output = StringIO()
    try:
        outs = {name: partial / file for name, file in _OUTS[cell.stage].items()}
        main: Callable[..., None] = import_module(f"difftrack.pipeline.{cell.stage}").main
        try:
            with redirect_stdout(output), redirect_stderr(output):
                main(yaml.safe_load(cell.section), {name: Path(path) for name, path in cell.deps}, outs)
        except SystemExit as error:  # a stage reports failed clips in this way
            raise ValueError(" ".join(str(error.code).split())) from error
        about = {"difftrack": "cell", "version": _VERSION, **dataclasses.asdict(cell)}
        (partial / MARKER).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if not place.exists():  # otherwise another sweep finished the same cell
            partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run_sweep(
    sweep: Sweep,
    *,
    workers: int | Literal["auto"] = 1,
    scheduler: str | None = None,
    say: Callable[[SweepCell, int, int], object] = lambda cell, number, of: None,
) -> dict[str, str]:
    """Run the unfinished cells.

    Args:
        sweep: From `plan_sweep`.
        workers: See `extract.workers`.
        scheduler: See `extract.scheduler`.
        say: Called with each finished cell, its number, and the number of cells.

    Returns:
        Key of a failed cell -> error message.

    Raises:
        ValueError: Dask is requested but not installed, or no scheduler answers.
    """
    waiting, failures, number = sweep.waiting, dict[str, str](), 0
    by_key = {cell.key: cell for cell in waiting}
    for first in (True, False):
        cells = [cell for cell in waiting if (cell.stage == "match") == first]
        cells = [cell for cell in cells if not _lacks_matches(cell, failures, sweep.matches)]
        if not cells:
            continue
        keys = [cell.key for cell in cells]
        for key, problem in run_clips(SweepJob(tuple(cells)), keys, workers=workers, scheduler=scheduler):
            number += 1
            failures |= {key: problem} if problem else {}
            say(by_key[key], number, len(waiting))
    for cell in waiting:
        if cell.key not in failures and (problem := _lacks_matches(cell, failures, sweep.matches)):
            failures[cell.key] = problem
    return failures


def _lacks_matches(cell: SweepCell, failures: Mapping[str, str], matches: Mapping[str, SweepCell]) -> str | None:
    """Return why the matches that a cell scores are missing; None if they exist."""
    places = {place for _, place in cell.deps}
    failed = (key for key, match in matches.items() if match.place in places and key in failures)
    return next((failures[key] for key in failed), None)


def measured(sweep: Sweep) -> list[SweepRow]:
    """Return the table of a sweep; a failed cell has no numbers."""
    return [
        SweepRow(
            backbone=backbone,
            point=point,
            measures={stage: dict(_numbers(stage, sweep.cells[key])) for stage, key in keys.items()},
            cells={str(stage): key for stage, key in keys.items()},
            as_in_params=now,
        )
        for backbone, point, keys, now in sweep.rows
    ]


def _numbers(stage: SweptStage, cell: SweepCell) -> Iterator[tuple[str, float | None]]:
    """Yield the numbers in a stage's summary; for scores, the value, layer and step of the best layer."""
    summary = read_json(cell.summary) if cell.is_done else {}
    if stage == "track":
        tracker = summary.get("tracker") or {}
        yield from ((name, tracker.get(name)) for name in MEASURES[stage])
        return
    for name in MEASURES[stage]:
        best = summary.get(name) or {}
        yield name, best.get("value")
        yield f"{name}.layer", best.get("layer")
        yield f"{name}.step", best.get("step")


def write_sweep(sweep: Sweep) -> list[Path]:
    """Write a sweep's table and figure; they replace those of an earlier sweep of the same name.

    Raises:
        OwnershipError: the sweep's folder contains other files.
    """
    from difftrack.reports import write_sweep_files

    rows = measured(sweep)
    claim(sweep.folder, _SWEEP)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    about = {
        "difftrack": "sweep",
        "axes": [{"key": axis.key, "values": list(axis.values)} for axis in sweep.axes],
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (sweep.folder / "sweep.json").write_text(json.dumps(about, indent=1, default=str) + "\n", encoding="utf-8")
    return write_sweep_files(sweep.folder, rows, sweep.axes)
