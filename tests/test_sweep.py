"""Grids of params over stored descriptors: what runs, what is kept, what is reported; no video model runs."""

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_match_and_score_stages import CHANNELS, CLIP_SCALE, GRID, HEADS, SPEEDS, write_artifacts
from typer.testing import CliRunner

from difftrack.cli import app
from difftrack.configuration import configuration_from
from difftrack.interrupts import Interrupted
from difftrack.params import ParamsError
from difftrack.pipeline import match, score, track
from difftrack.pipeline._sweep import measured, plan_sweep, run_sweep
from difftrack.pipeline._sweep_leftovers import leftover_cells
from difftrack.provenance import code_of
from difftrack.reports import sweep_table
from difftrack.store import DescriptorSpec, clip_group, create_group
from difftrack.sweeps import (
    SweepAxis,
    SweepError,
    SweepRow,
    SweptStage,
    grid,
    laid_over,
    read_axes,
    show_value,
    stages_of,
)

PARAMS: dict[str, Any] = {
    "paths": {},
    "backbones": {"tiny": None},
    "match": {"kinds": ["query_key"], "per_head": False},
    "score": {"threshold_px": 8},
    "track": {"layers": [4], "baselines": ["no_motion"]},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two clips, one that stands still and one that moves by whole tokens, as its stages left it."""
    root = tmp_path_factory.mktemp("project")
    data = root / "data"
    write_artifacts(data)
    views = data / "descriptors/tiny"
    (data / "descriptors").rename(data / "moved")
    views.mkdir(parents=True)
    (data / "moved").rename(views / "analysis")
    for number, (name, speed) in enumerate(SPEEDS.items()):
        write_tracking_view(views / "tracking", name, speed, np.random.default_rng(number))
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    return root


def write_tracking_view(root: Path, name: str, speed: int, random: np.random.Generator) -> None:
    """Every other frame moves by `speed` tokens; a token's descriptors move with it, under noise."""
    frames = tuple(range(GRID.num_latent_frames))
    spec = DescriptorSpec(
        steps=(49,),
        timesteps=(19.0,),
        layers=(4,),
        heads=HEADS,
        num_channels=CHANNELS,
        grid=GRID,
        frames=frames,
        clip_size=(CLIP_SCALE * GRID.height, CLIP_SCALE * GRID.width),
        size=(GRID.height, GRID.width),
        kinds=("query", "key"),
        fingerprint_parts={"clip": name},
    )
    shape = (len(HEADS), 1, GRID.rows, GRID.cols, CHANNELS)
    scene = 3 * random.standard_normal(shape)
    moving = np.concatenate([np.roll(scene, speed * (frame // 2), axis=3) for frame in frames], axis=1)
    noisy = (moving + 4 * random.standard_normal(moving.shape)).astype(np.float16)
    writer = create_group(root, clip_group(name, 0), spec)
    writer.write(49, 4, {"query": noisy, "key": noisy})
    writer.finish()


@pytest.fixture
def project(stored: Path, tmp_path: Path) -> Path:
    """A project that the test may change."""
    shutil.copytree(stored, tmp_path / "project")
    return tmp_path / "project"


def sweep(project: Path, *words: str, on: str | None = None, **how: Any) -> list[SweepRow]:
    axes = read_axes(words)
    params = yaml.safe_load((project / "params.yaml").read_text())
    planned = plan_sweep(params, axes, stages_of(axes, on), top=project, file=Path("params.yaml"))
    assert run_sweep(planned, **how) == {}
    return measured(planned)


def cells_of(project: Path) -> dict[str, tuple[int, int]]:
    """Every file of every cell, with what reveals that a file was rewritten."""
    files = [file for file in (project / "data/sweeps/cells").rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


# The grid


def test_values_are_yaml_and_the_last_axis_changes_fastest() -> None:
    axes = read_axes(["track.motion_cost=0,0.5", "track.heads={6: [2, 3]},all", "match.per_head=true"])
    assert axes[1] == SweepAxis("track.heads", ({6: [2, 3]}, "all"))
    points = list(grid(axes))
    assert len(points) == 4
    assert points[1] == {"track.motion_cost": 0, "track.heads": "all", "match.per_head": True}
    assert [axis.is_numeric for axis in axes] == [True, False, False]
    assert [show_value(value) for value in ([6, 7], {6: [2]}, 0.1, True, "best", None)] == [
        "[6, 7]",
        "{6: [2]}",
        "0.1",
        "true",
        "best",
        "null",
    ]


def test_numbers_with_an_exponent_are_numbers_as_dvc_reads_them() -> None:
    (axis,) = read_axes(["track.motion_cost=1e-3,-2E+2,.5e1,1.e0"])
    assert axis.values == (0.001, -200.0, 5.0, 1.0)
    assert axis.is_numeric


def test_a_point_replaces_values_and_leaves_the_params_alone() -> None:
    params = {"track": {"heads": {6: [2], 7: [3]}}, "match": None}
    changed = laid_over(params, {"track.heads": {6: [1]}, "match.matching.temperature": 2})
    assert changed == {"track": {"heads": {6: [1]}}, "match": {"matching": {"temperature": 2}}}
    assert params == {"track": {"heads": {6: [2], 7: [3]}}, "match": None}
    with pytest.raises(SweepError, match="heads is 'all', which is not a section"):
        laid_over({"track": {"heads": "all"}}, {"track.heads.six": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to sweep"),
        (["track.motion_cost"], "is not a sweep; expected section.key=value,value"),
        (["track=1"], "is not a sweep"),
        (["track.motion_cost="], "has no value"),
        (["track.motion_cost=0,[1"], "not valid YAML"),
        (["track.motion_cost=0,0"], "repeats a value"),
        (["track.motion_cost=0", "track.motion_cost=1"], "given twice"),
        (["extract.tracking.height=64,128"], "only reads stored descriptors and supports match, score, track; change"),
        (
            ["score.threshold_px=" + ",".join(map(str, range(101))), "track.x=" + ",".join(map(str, range(101)))],
            "10201",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_by_its_word(words: list[str], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        read_axes(words)


def test_a_key_is_measured_on_the_stages_that_it_changes_unless_others_are_named() -> None:
    axes = read_axes(["match.per_head=true"])
    assert stages_of(axes) == ("score",)
    assert stages_of([*axes, *read_axes(["track.motion_cost=0"])]) == ("score", "track")
    assert stages_of(axes, "track, score") == ("score", "track")
    with pytest.raises(SweepError, match=r"--on names 'guide'; the stages are score, track"):
        stages_of(axes, "guide")


# The cells


def test_every_point_has_the_numbers_that_the_stages_give_with_these_params(project: Path) -> None:
    rows = sweep(project, "score.threshold_px=4,40")
    own, data = project / "own", project / "data"
    match.main(
        PARAMS["match"],
        {"descriptors": data / "descriptors/tiny/analysis", "tracks": data / "tracks"},
        {"matches": own},
    )
    values = []
    for threshold, row in zip((4, 40), rows, strict=True):
        outs = {name: own / f"{threshold}-{name}" for name in ("scores", "table", "best_layers", "summary")}
        deps = {"matches": own, "tracks": data / "tracks", "clips": data / "clips"}
        score.main({"threshold_px": threshold}, deps, outs)
        cell = data / "sweeps/cells/score/tiny" / row.cells["score"]
        for name, file in (("scores", "scores.json"), ("table", "scores.csv"), ("summary", "summary.json")):
            assert (cell / file).read_bytes() == outs[name].read_bytes()
        best = json.loads(outs["summary"].read_text())["matching_accuracy"]
        found = row.measures["score"]
        assert [found[f"matching_accuracy{part}"] for part in ("", ".layer", ".step")] == [
            best["value"],
            best["layer"],
            best["step"],
        ]
        values.append(json.loads(outs["scores"].read_text())["groups"]["all"]["scores"]["matching_accuracy"]["values"])
    assert (np.asarray(values[0]) <= np.asarray(values[1])).all()
    assert values[0] != values[1]


def test_what_was_computed_is_kept_for_every_later_sweep(project: Path) -> None:
    sweep(project, "track.heads={4: [0]},{4: [1]}")
    before = cells_of(project)
    assert len(list((project / "data/sweeps/cells/track/tiny").iterdir())) == 2
    rows = sweep(project, "track.heads={4: [0]},{4: [1]},all", on="score,track")
    after = cells_of(project)
    assert {file: after[file] for file in before} == before
    assert len(list((project / "data/sweeps/cells/track/tiny").iterdir())) == 3
    assert len(list((project / "data/sweeps/cells/score/tiny").iterdir())) == 1  # one for all three points
    assert len({row.cells["score"] for row in rows}) == 1
    of_tracks = [project / "data/sweeps/cells/track/tiny" / row.cells["track"] / "right.npz" for row in rows]
    assert len({file.read_bytes() for file in of_tracks}) == 3


def test_a_cell_is_another_one_where_its_inputs_or_what_the_params_mean_have_changed(project: Path) -> None:
    (first,) = sweep(project, "track.motion_cost=0.5", on="score,track")
    written = yaml.safe_load((project / "params.yaml").read_text())
    written["track"]["baselines"] = ["no_motion"]
    written["track"]["convention"] = "corrected"  # what it is by default
    (project / "params.yaml").write_text(yaml.safe_dump(written))
    (same,) = sweep(project, "track.motion_cost=0.5", on="score,track")
    assert same.cells == first.cells
    tracks = project / "data/tracks/still.npz"
    with np.load(tracks) as found:
        arrays = dict(found)
    arrays["points_xy_px"] = arrays["points_xy_px"] + np.float32(1)
    arrays["query_points"] = arrays["query_points"] + np.float32([0, 1, 1])
    np.savez(tracks, **arrays)
    (other,) = sweep(project, "track.motion_cost=0.5", on="score,track")
    assert other.cells["track"] != first.cells["track"]
    assert other.cells["score"] != first.cells["score"]


def test_params_of_matching_make_matches_of_their_own_that_are_scored(project: Path) -> None:
    rows = sweep(project, "match.per_head=false,true", "score.threshold_px=4,8")
    folder = project / "data/sweeps/cells"
    assert len({row.cells["score"] for row in rows}) == 4
    assert len(list((folder / "match/tiny").iterdir())) == 2
    with_heads = json.loads((folder / "score/tiny" / rows[2].cells["score"] / "scores.json").read_text())
    assert "head" in with_heads["groups"]["all"]["labels"]
    assert [row.as_in_params for row in rows] == [False, True, False, False]


def test_no_stage_of_a_sweep_reaches_code_that_runs_a_model() -> None:
    for stage in ("match", "score", "track"):
        assert not {"backbones", "extraction", "guidance"} & set(code_of(f"difftrack.pipeline.{stage}"))


def test_a_value_that_a_stage_cannot_use_is_refused_before_anything_runs(project: Path) -> None:
    for word, message in (
        ("track.motion_cots=1", "unknown key track.motion_cots"),
        ("score.threshold_px=4,-1", r"params\.yaml with score\.threshold_px=-1: score: threshold_px"),
    ):
        with pytest.raises(ParamsError, match=message):
            sweep(project, word)
    shutil.rmtree(project / "data/descriptors/tiny/tracking")
    with pytest.raises(
        SweepError, match=r"/tracking does not exist; the stage extract writes it. Run `difftrack repro` first"
    ):
        sweep(project, "track.motion_cost=1")
    assert not (project / "data/sweeps").exists()


def test_a_run_that_fails_is_named_and_leaves_nothing_that_looks_done(project: Path) -> None:
    for shard in (project / "data/descriptors/tiny/analysis/right/query").glob("c.*"):
        shard.write_bytes(b"damaged")
    axes = read_axes(["score.threshold_px=4,8"])
    params = yaml.safe_load((project / "params.yaml").read_text())
    planned = plan_sweep(params, axes, ("score", "track"), top=project, file=Path("params.yaml"))
    failures = run_sweep(planned)
    assert len(failures) == 3  # the matches, and both scores of them
    assert all("match: 1 of 2 clips failed" in why and "right" in why for why in failures.values())
    assert [path.name for path in (project / "data/sweeps/cells").iterdir() if any((path / "tiny").iterdir())] == [
        "track"
    ]
    rows = measured(planned)
    assert rows[0].measures["score"]["matching_accuracy"] is None
    assert rows[0].measures["track"]["average_jaccard"] is not None


def test_a_sweep_that_was_interrupted_goes_on_where_it_stopped(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = track.main, list[str]()

    def interrupted(params: dict[str, Any], deps: Any, outs: Any) -> None:
        begun.append(str(params["heads"]))
        if len(begun) == 2:
            raise Interrupted(signal.SIGINT)
        real(params, deps, outs)

    word, folder = "track.heads={4: [0]},{4: [1]},all", project / "data/sweeps/cells/track/tiny"
    monkeypatch.setattr(track, "main", interrupted)
    with pytest.raises(Interrupted):
        sweep(project, word)
    assert [path.name for path in folder.iterdir() if (path / "cell.json").is_file()] == [
        p.name for p in folder.iterdir()
    ]
    assert len(list(folder.iterdir())) == 1
    sweep(project, word)
    assert begun == ["{4: [0]}", "{4: [1]}", "{4: [1]}", "all"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
@pytest.mark.parametrize("how", [{"workers": 2}, {"scheduler": "dask", "workers": 2}])
def test_workers_give_the_same_files(project: Path, how: dict[str, Any]) -> None:
    words = ("match.per_head=false,true", "track.motion_cost=0,2")
    one = sweep(project, *words)
    names = {file: Path(file).read_bytes() for file in cells_of(project)}
    shutil.rmtree(project / "data/sweeps")
    assert sweep(project, *words, **how) == one
    assert {file: Path(file).read_bytes() for file in cells_of(project)} == names


# What it reports


def row(point: dict[str, Any], *, now: bool = False, backbone: str = "tiny", **measures: float | None) -> SweepRow:
    named: dict[SweptStage, dict[str, float | None]] = {"score": dict(measures)}
    return SweepRow(backbone=backbone, point=point, measures=named, cells={"score": "0123"}, as_in_params=now)


def test_the_table_marks_the_best_and_what_params_yaml_says() -> None:
    rows = [
        row({"a.b": 4}, matching_accuracy=0.25, **{"matching_accuracy.layer": 6}, now=True),
        row({"a.b": [1, 2]}, matching_accuracy=0.5, **{"matching_accuracy.layer": 11}),
        row({"a.b": 9}, matching_accuracy=None),
    ]
    table = sweep_table(rows)
    assert table[0].split("  ")[0] == "a.b"
    assert [" ".join(line.split()) for line in table[1:]] == [
        "4 25.0 (layer 6) — — as in params.yaml",
        "[1, 2] 50.0* (layer 11) — —",
        "9 — — —",
    ]
    assert "backbone" not in table[0]
    assert sweep_table([*rows, row({"a.b": 4}, backbone="other")])[0].startswith("backbone")


def test_the_verb_prints_a_table_and_writes_csv_and_picture(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    words = ["sweep", "track.motion_cost=0,30", "score.threshold_px=4", "--on", "track"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    folder = Path("data/sweeps/track.motion_cost+score.threshold_px")
    assert done.stdout.splitlines()[-3:] == [str((folder / f"sweep.{end}").resolve()) for end in ("csv", "png", "svg")]
    assert done.stderr.splitlines()[0] == "2 points: 2 runs of a stage to do, 0 done before"
    with (folder / "sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["track.motion_cost"] for line in table] == ["0", "30"]
    summary = Path("data/sweeps/cells/track/tiny") / table[1]["track.cell"] / "summary.json"
    assert float(table[1]["track.average_jaccard"]) == json.loads(summary.read_text())["tracker"]["average_jaccard"]
    assert CliRunner().invoke(app, words).stderr.splitlines() == ["2 points: 0 runs of a stage to do, 2 done before"]
    assert configuration_from(PARAMS, file="params.yaml").paths.sweeps == "data/sweeps"


def test_the_verb_writes_over_nothing_that_is_not_a_sweep(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    folder = Path("data/sweeps/mine")
    folder.mkdir(parents=True)
    (folder / "sweep.csv").write_text("mine\n")
    done = CliRunner().invoke(app, ["sweep", "track.motion_cost=0", "--name", "mine"])
    assert (done.exit_code, len(done.stderr.splitlines()[-1:])) == (1, 1)
    assert "contains sweep.csv but is not a sweep of this project" in done.stderr
    assert (folder / "sweep.csv").read_text() == "mine\n"
    for name in ("cells", "../elsewhere", "a/b"):
        done = CliRunner().invoke(app, ["sweep", "track.motion_cost=0", "--name", name])
        assert "a sweep cannot be named" in done.stderr


# What is left of sweeps


def leftovers(project: Path, *files: dict[str, Any]) -> dict[str, str]:
    """Why a cell can be removed, by stage and key, or by name."""
    found = leftover_cells(files or [yaml.safe_load((project / "params.yaml").read_text())], top=project)
    return {f"{Path(cell.root).parts[-3]}/{Path(cell.root).name[-7:]}": cell.why for cell in found}


def test_a_cell_stays_while_any_sweep_would_take_it_up(project: Path) -> None:
    """Today's params.yaml does not matter: a sweep may request the old values again."""
    sweep(project, "track.motion_cost=0,0.5", "match.per_head=true", on="score,track")
    assert leftovers(project) == {}
    written = yaml.safe_load((project / "params.yaml").read_text())
    written["track"]["layers"], written["score"]["threshold_px"] = [0], 3
    assert leftovers(project, written) == {}
    assert leftovers(project, {**written, "backbones": {"other": None}}).keys() == {
        f"{path.parts[-3]}/{path.name[-7:]}" for path in (project / "data/sweeps/cells").glob("*/*/*")
    }
    assert leftovers(project, {**written, "backbones": {"other": None}}, written) == {}
    (project / "data/descriptors").rename(project / "elsewhere")
    assert leftovers(project, written) == {}  # this cannot be known


def test_gc_removes_cells_of_other_inputs_and_of_killed_sweeps_and_leaves_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = sweep(project, "track.motion_cost=0.5", on="score,track")
    cells = project / "data/sweeps/cells"
    (match,) = (cells / "match/tiny").iterdir()
    killed, at_work, mine = (
        cells / "track/tiny" / name
        for name in (f"{'a' * 16}.{'0' * 32}.partial", f"{'a' * 16}.{'1' * 32}.partial", "b")
    )
    for place in (killed, at_work, mine):
        place.mkdir()
        (place / "metrics.json").write_text("{}")
    (mine / "cell.json").write_text('{"difftrack": "notes"}')
    long_ago = time.time() - 3 * 24 * 3600
    for path in (killed / "metrics.json", killed):
        os.utime(path, (long_ago, long_ago))
    assert leftovers(project) == {"track/partial": "a sweep was killed here"}
    moved = project / "data/tracks/still.npz"
    with np.load(moved) as found:
        arrays = dict(found)
    np.savez(moved, **{**arrays, "visible": ~arrays["visible"]})
    (other,) = sweep(project, "track.motion_cost=0.5", on="score,track")
    gone = leftovers(project)
    assert gone.keys() == {
        "track/partial",
        f"track/{row.cells['track'][-7:]}",
        f"score/{row.cells['score'][-7:]}",
        f"match/{match.name[-7:]}",
    }
    (match / "notes.txt").write_text("mine")
    assert f"match/{match.name[-7:]}" not in leftovers(project)
    for cell in leftover_cells([yaml.safe_load((project / "params.yaml").read_text())], top=project):
        cell.remove()
    left = {path.name for path in cells.glob("*/*/*")}
    (new_match,) = {path.name for path in (cells / "match/tiny").iterdir()} - {match.name}
    assert left == {other.cells["track"], other.cells["score"], new_match, match.name, at_work.name, "b"}
