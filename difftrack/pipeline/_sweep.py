"""A sweep: the stages that read descriptors, run at every point of a grid of their params; no video model runs.

A cell is one run of one stage. Its folder holds what the stage writes in the pipeline, under a key that covers the
stage's params, code and inputs, so that sweeps share cells, and an interrupted one goes on where it stopped:

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
"""By stage, what it writes, and where in the cell."""
_SWEEP = ArtifactKind(
    "a sweep",
    "sweep.json",
    lambda said: said["difftrack"] == "sweep",
    tuple(f"sweep.{end}" for end in ("json", "csv", "png", "svg")),
)


@dataclass(frozen=True, slots=True)
class SweepCell:
    """One run of one stage; small enough to be pickled to any worker."""

    stage: CellStage
    backbone: str
    key: str
    """Covers everything that its files depend on."""
    place: str
    """Its folder."""
    section: str
    """The stage's section of params, as YAML."""
    deps: tuple[tuple[str, str], ...]
    """What the stage reads, by the names that it gives to it."""

    @property
    def is_done(self) -> bool:
        """Whether its folder is whole."""
        return (Path(self.place) / MARKER).is_file()

    @property
    def summary(self) -> Path:
        """The numbers of the stage."""
        return Path(self.place) / "summary.json"


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells that a grid needs, and what its table will hold."""

    axes: tuple[SweepAxis, ...]
    folder: Path
    matches: Mapping[str, SweepCell]
    """By key; these run first."""
    cells: Mapping[str, SweepCell]
    """By key: those whose numbers are asked for."""
    rows: tuple[tuple[str, Mapping[str, Any], Mapping[SweptStage, str], bool], ...]
    """Backbone, point, key of the cell by stage, and whether params.yaml says so now."""

    @property
    def waiting(self) -> list[SweepCell]:
        """The cells that are not done, in the order in which they can run."""
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
    """Find the cells of a grid; nothing runs yet, and what cannot run is refused.

    Args:
        params: All sections of params.yaml.
        axes: Of the grid.
        on: Stages whose results are asked for.
        top: The project, to which paths are relative.
        file: What messages call the params.
        backbones: Of the params; all of them by default.
        folder: Of all sweeps; by default `paths.sweeps`.
        name: Of this one; by default its keys.

    Raises:
        ParamsError: a value of the grid is one that the stage cannot use.
        SweepError: there is no such backbone, or what the stages read is not there.
        OwnershipError: something else lies where the table is to be.
    """
    base = configuration_from(params, file=file)
    if unknown := [backbone for backbone in backbones if backbone not in base.backbones]:
        raise SweepError(f"{file} has no backbone {unknown[0]}; there are {', '.join(base.backbones)}")
    root = (top / base.paths.sweeps if folder is None else folder).resolve()
    planner = SweepPlanner(top.resolve(), base, root / "cells")
    named = tuple(backbones) or tuple(base.backbones)
    rows = []
    for backbone in named:
        now = {stage: planner.cell(stage, backbone, base, params).key for stage in on}
        for point in grid(axes):
            values = laid_over(params, point)
            said = ", ".join(f"{key}={show_value(value)}" for key, value in point.items())
            found = configuration_from(values, file=f"{file} with {said}")
            keys = {stage: planner.cell(stage, backbone, found, values).key for stage in on}
            rows.append((backbone, point, keys, keys == now))
    cells = {key: planner.cells[key] for _, _, keys, _ in rows for key in keys.values()}
    own = root / (name or "+".join(axis.key for axis in axes))
    if own == root / "cells" or own.parent != root:
        raise SweepError(f"a sweep cannot be called {name!r}; name it like a folder")
    claim(own, _SWEEP)
    return Sweep(tuple(axes), own, planner.matches, cells, tuple(rows))


class SweepPlanner:
    """Makes the cells of one sweep, each once."""

    def __init__(self, top: Path, base: Configuration, folder: Path) -> None:
        self._top, self._paths, self._folder = top, base.paths, folder
        self._digests: dict[str, str] = {}
        self.matches: dict[str, SweepCell] = {}
        self.cells: dict[str, SweepCell] = {}

    def cell(self, stage: SweptStage, backbone: str, found: Configuration, values: Mapping[str, Any]) -> SweepCell:
        """The cell of a stage under params, parsed and as YAML has them."""
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
        """A cell.

        Args:
            stage: What runs.
            backbone: Whose descriptors.
            section: The stage's params, parsed: what they are, however they were written.
            values: All params, as YAML has them.
            inputs: What it reads, each with a digest.
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
        """A store of descriptors, and a digest over what its groups say of themselves."""
        path = f"{self._paths.descriptors}/{backbone}/{view}"
        place = path if "://" in path else str(self._top / path)
        if place not in self._digests:
            self._check(place, "extract")
            store = open_store(place)
            groups = {name: stored_group(place, name) for name in store.groups()}
            said = {name: None if group is None else group.contents for name, group in groups.items()}
            self._digests[place] = _digest(json.dumps([store.manifest().to_text(), said], sort_keys=True).encode())
        return place, self._digests[place]

    def _files(self, path: str, pattern: str, *, file: bool = False) -> tuple[str, str]:
        """A folder of the pipeline, and a digest over those of its files that a stage reads."""
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
                f"there is no {place}, which the stage {stage} writes; run `difftrack repro` first: a sweep reads what "
                "is stored and runs no video model"
            )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class SweepJob(Job):
    """Runs cells by their keys."""

    cells: tuple[SweepCell, ...]

    def open(self) -> ClipWorker:
        """Nothing is loaded before the first cell."""
        return _CellWorker({cell.key: cell for cell in self.cells})


class _CellWorker(ClipWorker):
    def __init__(self, cells: Mapping[str, SweepCell]) -> None:
        self._cells = cells

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        """Run the cell of this key."""
        done: Future[None] = Future()
        _run_cell(self._cells[clip])
        done.set_result(None)
        return done

    def close(self) -> None:
        """Nothing is under way."""


def _run_cell(cell: SweepCell) -> None:
    """Run a cell's stage into a folder beside its place, and put it there once it is whole.

    Raises:
        ValueError: the stage says why it cannot.
    """
    place = Path(cell.place)
    partial = place.with_name(f"{place.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    said = StringIO()
    try:
        outs = {name: partial / file for name, file in _OUTS[cell.stage].items()}
        main: Callable[..., None] = import_module(f"difftrack.pipeline.{cell.stage}").main
        try:
            with redirect_stdout(said), redirect_stderr(said):
                main(yaml.safe_load(cell.section), {name: Path(path) for name, path in cell.deps}, outs)
        except SystemExit as error:  # a stage's way to name the clips that failed
            raise ValueError(" ".join(str(error.code).split())) from error
        about = {"difftrack": "cell", "version": _VERSION, **dataclasses.asdict(cell)}
        (partial / MARKER).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if not place.exists():  # else another sweep has been as fast
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
    """Run the cells that are not done.

    Args:
        sweep: From `plan_sweep`.
        workers: As `extract.workers`.
        scheduler: As `extract.scheduler`.
        say: Told of each cell that is done, which one it is, and of how many.

    Returns:
        By key of a cell that failed, why.

    Raises:
        ValueError: Dask is wanted but not installed, or no scheduler answers.
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
    """Why the matches that a cell scores are not there; None where they are."""
    places = {place for _, place in cell.deps}
    failed = (key for key, match in matches.items() if match.place in places and key in failures)
    return next((failures[key] for key in failed), None)


def measured(sweep: Sweep) -> list[SweepRow]:
    """The table of a sweep; a cell that failed has no numbers."""
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
    """What a stage's summary says; of scores, the best layer at its best step, and which these are."""
    said = read_json(cell.summary) if cell.is_done else {}
    if stage == "track":
        of_tracker = said.get("tracker") or {}
        yield from ((name, of_tracker.get(name)) for name in MEASURES[stage])
        return
    for name in MEASURES[stage]:
        best = said.get(name) or {}
        yield name, best.get("value")
        yield f"{name}.layer", best.get("layer")
        yield f"{name}.step", best.get("step")


def write_sweep(sweep: Sweep) -> list[Path]:
    """Write a sweep's table and picture, in place of those of an earlier sweep of that name.

    Raises:
        OwnershipError: something else lies in its folder.
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
