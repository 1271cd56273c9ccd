"""What DVC makes of dvc.yaml and params.yaml: words of commands, params, and the file that it writes back."""

import difflib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from typer.testing import CliRunner

from difftrack.backbones import KNOWN
from difftrack.cli import app
from difftrack.cli._dvc import check_lock_files, has_remote, without_hints
from difftrack.configuration import configuration_from
from difftrack.params import ParamsError
from difftrack.pipeline._experiments import borrow, end_with, is_orphan, running_dvc, workspace_of
from difftrack.pipeline._stage import run
from difftrack.pipeline._workspace import workspace_pipeline

# DVC's own dependencies warn when they are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

TOP = Path(__file__).parents[1]
HOSTILE = 'a b (c); touch x $HOME `id` & "q" * # é ${y} | > z \\'
"""Characters that a shell would read as commands, variables, comments and files."""
BACKBONE = HOSTILE.rstrip(" \\")
"""The same, restricted to what a folder's name may hold."""


def params_of(**changes: Any) -> dict[str, Any]:
    params: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text())
    return params | changes


def stages_of(folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The stages of the real dvc.yaml under some params, as DVC resolves them."""
    from dvc.repo import Repo

    shutil.copy(TOP / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    with chdir(folder):
        if not (folder / ".dvc").exists():
            Repo.init(no_scm=True).close()
        with Repo(".") as repo:
            return {stage.addressing: stage for stage in repo.index.stages}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `python` prints its arguments as JSON."""
    folder = tmp_path_factory.mktemp("bin")
    printing = "import json, sys; print(json.dumps(sys.argv[1:]))"
    (folder / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -S -c '{printing}' \"$@\"\n")
    (folder / "python").chmod(0o755)
    return folder


def words_of(command: str, shim: Path, folder: Path) -> list[str]:
    """The words that a stage's program receives from the shell."""
    environment = {"PATH": f"{shim}{os.pathsep}{os.environ['PATH']}", "HOME": "/home"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    words: list[str] = json.loads(done.stdout)
    return words


def test_a_hostile_name_reaches_every_stage_as_it_is(tmp_path: Path, shim: Path) -> None:
    params = params_of(backbones={BACKBONE: None})
    params["paths"] = {name: f"data/{name} {HOSTILE}" for name in params["paths"]}
    params["guide"] |= {"prompts": f"data/{HOSTILE}.txt", "backbone": BACKBONE}
    params["survey"] |= {"backbones": [BACKBONE]}
    assert configuration_from(params, file="params.yaml").guide is not None
    stages = stages_of(tmp_path, params)
    assert len(stages) == 10
    (tmp_path / "shell").mkdir()
    for name, stage in stages.items():
        words = words_of(stage.cmd, shim, tmp_path / "shell")
        values = [word.partition("=")[2] for word in words[2:] if word != "--"]
        assert words[1] == f"stages.{name.partition('@')[0]}"
        assert [value for value in values if BACKBONE not in value] == [
            v for v in ("analysis", "tracking") if v in values
        ]
        outs = {out.def_path for out in stage.outs}
        assert outs & set(values), name
    assert not any((tmp_path / "shell").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": {"clips": "it's"}}, r"paths\.clips is \"it's\", which contains \"'\""),
        ({"paths": {"kept": "a\nb"}}, r"paths\.kept is 'a\\nb', which contains '\\n'"),
        ({"guide": {"prompts": "it's.txt"}}, r"guide\.prompts is"),
        ({"backbones": {"a'; touch x; '": None}}, "a key of backbones is"),
        ({"backbones": {"a@b": None}}, r"a key of backbones is 'a@b', which contains '@'"),
        ({"backbones": {"org/model": None}}, "a backbone's name is used for stages and folders"),
        ({"backbones": {"..": None}}, "a folder's name must not begin or end with a dot"),
        ({"survey": {"backbones": ["a@b"]}}, r"survey\.backbones\[0\] is 'a@b'"),
    ],
)
def test_a_name_that_cannot_be_quoted_is_refused_on_one_line(change: dict[str, Any], message: str) -> None:
    params = params_of()
    for section, values in change.items():
        params[section] = {**params[section], **values} if section != "backbones" else values
    with pytest.raises(ParamsError, match=message) as error:
        configuration_from(params, file="params.yaml")
    assert "\n" not in str(error.value)


def test_dvc_finds_the_params_of_every_backbone_with_a_dot_in_its_name(tmp_path: Path) -> None:
    """A dot in a name, as in wan2.1-1.3b, once made DVC look for a section of that name."""
    from dvc.dependency.param import ParamsDependency

    stages = stages_of(tmp_path, params_of(backbones=dict.fromkeys(name for name in KNOWN if "." in name)))
    with chdir(tmp_path):
        for stage in stages.values():
            (read,) = (dep for dep in stage.deps if isinstance(dep, ParamsDependency))
            assert set(read.read_params()) == set(read.params)


def test_setting_a_number_by_dvc_changes_one_line_of_params_yaml(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    file, before = tmp_path / "params.yaml", (TOP / "params.yaml").read_text()
    shutil.copy(TOP / "params.yaml", file)
    apply_overrides(file, ["score.threshold_px=4"])
    changed = [line for line in difflib.ndiff(before.splitlines(), file.read_text().splitlines()) if line[0] in "+-"]
    assert changed == [
        "-   threshold_px: 8 # pixels of the backbone's input",
        "+   threshold_px: 4 # pixels of the backbone's input",
    ]


def test_every_metric_is_one_that_dvc_keeps_with_the_run_that_gave_it() -> None:
    """A metric that is neither in DVC's cache nor in Git appears as `!` beside every commit and experiment."""
    described = yaml.safe_load((TOP / "dvc.yaml").read_text())
    of_stages = [metric for stage in described["stages"].values() for metric in stage.get("metrics", ())]
    assert of_stages == ["${paths.scores}/${item.backbone}/summary.json"]  # a mapping would hold `cache: false`
    outs = [str(out) for out in described["stages"]["track"]["outs"]]
    assert all(metric.startswith(out.partition("/${item")[0]) for metric in described["metrics"] for out in outs)


@pytest.mark.parametrize("name", ["cogvideox-mini", "wan2.1-1.3b", "mine (2)"])
def test_metrics_and_plots_are_those_of_the_backbone_that_guides(tmp_path: Path, name: str) -> None:
    """What `dvc metrics show` and `dvc plots show` read, as DVC itself resolves it."""
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    params |= {"backbones": {"other": None, name: None}, "guide": {**params["guide"], "backbone": name}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_text(workspace_pipeline())
    repo = Repo.init(str(tmp_path), no_scm=True)
    try:
        (metrics,), (plots,) = repo.index._metrics.values(), repo.index._plots.values()
        assert metrics == [f"data/predictions/{name}/summary.json"]
        assert {Path(plot).name.removeprefix(f"{name}-") for plot in plots} >= {"scores.png", "heads.png"}
        outs = {Path(out.fs_path).relative_to(tmp_path).as_posix() for out in repo.index.outs}
        assert Path(metrics[0]).parent.as_posix() in outs
    finally:
        repo.close()


# Experiments elsewhere


@pytest.fixture
def experiment(tmp_path: Path) -> tuple[Path, Path]:
    """A workspace with a store, and the folder in which DVC runs one of its experiments."""
    workspace, here = tmp_path / "study", tmp_path / "study/.dvc/tmp/exps/standalone/tmp1234"
    store = workspace / "data/descriptors/mini/analysis"
    (store / "clip/query").mkdir(parents=True)
    (store / "clip/query/c.0").write_bytes(b"shard")
    (store / "clip/query/c.1.partial").write_bytes(b"half")
    (store / ".locks").mkdir()
    here.mkdir(parents=True)
    return workspace, here


def test_an_experiment_takes_over_what_the_workspace_has(experiment: tuple[Path, Path]) -> None:
    workspace, here = experiment
    out = Path("data/descriptors/mini/analysis")
    assert workspace_of(here) == workspace
    assert borrow(out, "links", here=here) == workspace / out
    taken = [path.relative_to(here / out).as_posix() for path in (here / out).rglob("*") if path.is_file()]
    assert taken == ["clip/query/c.0"]
    assert (here / out / "clip/query/c.0").samefile(workspace / out / "clip/query/c.0")
    assert borrow(out, "links", here=here) is None  # the experiment has its own now
    assert borrow(Path("data/descriptors"), "copies", here=here) is None


def test_copies_are_files_of_their_own(experiment: tuple[Path, Path]) -> None:
    workspace, here = experiment
    borrow(Path("data/descriptors"), "copies", here=here)
    (here / "data/descriptors/mini/analysis/clip/query/c.0").write_bytes(b"other")
    assert (workspace / "data/descriptors/mini/analysis/clip/query/c.0").read_bytes() == b"shard"


def test_outside_an_experiment_nothing_is_taken_over(experiment: tuple[Path, Path], tmp_path: Path) -> None:
    workspace, here = experiment
    assert workspace_of(workspace) is None
    assert borrow(Path("data/descriptors/mini/analysis"), "links", here=workspace) is None
    assert borrow(Path("data/clips"), "copies", here=here) is None  # the workspace has none
    assert borrow(tmp_path, "links", here=here) is None  # a path outside is the same in both


def test_a_stage_ends_once_the_dvc_that_runs_it_was_killed() -> None:
    import psutil

    ended = threading.Event()
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        end_with(psutil.Process(process.pid), every_s=0.02, then=ended.set)
        assert not ended.wait(0.1)
        process.kill()
        assert ended.wait(10)


def test_only_a_stage_of_dvc_looks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)  # a process whose parent was killed sees this
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert running_dvc() is None
    assert not is_orphan()
    monkeypatch.setenv("DVC_STAGE", "score@tiny")
    assert is_orphan()


def test_a_stage_whose_dvc_was_killed_meanwhile_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    shutil.copy(TOP / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["score", "--", "scores=scores"])
    monkeypatch.setattr(os, "getppid", lambda: 1)
    monkeypatch.setenv("DVC_STAGE", "score@tiny")
    with pytest.raises(SystemExit) as ended:
        run("score", lambda *given: begun.append(given))
    assert (ended.value.code, begun) == (143, [])


# What `difftrack repro` says of DVC

SAID = """Running stage 'report':
> python -m stages.report
Updating lock file 'dvc.lock'

To track the changes with git, run:

\tgit add dvc.lock

To enable auto staging, run:

\tdvc config core.autostage true
Use `dvc push` to send your updates to remote storage.
"""


def test_hints_that_lead_nowhere_are_left_out_and_nothing_else() -> None:
    lines = SAID.splitlines(keepends=True)
    assert list(without_hints(lines, remote=False)) == lines[:3]
    assert list(without_hints(lines, remote=True)) == [*lines[:3], lines[-1]]
    others = ["one\n", "\n", "\ttwo\n", "\n", "three\n"]
    assert "".join(without_hints(others, remote=False)) == "".join(others)


def test_a_remote_is_found_where_dvc_writes_it(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert not has_remote(tmp_path)
    (tmp_path / ".dvc/config.local").write_text("['remote \"shared\"']\n    url = /mnt/shared\n")
    assert has_remote(tmp_path)


@pytest.mark.parametrize(("content", "what"), [(b"", "empty"), (b"\n", "empty"), (b'{"write": {', "no JSON")])
@pytest.mark.parametrize("name", ["rwlock", "exps/rwlock"])
def test_a_lock_file_that_a_killed_run_left_is_said_before_dvc_starts(
    name: str, content: bytes, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".dvc/tmp" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    shutil.copy(TOP / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["repro"])
    place = Path(".dvc/tmp") / name
    assert done.exit_code == 1
    assert f"{place} is {what}: a run was killed while writing it" in done.stderr
    assert done.stderr.endswith(f"remove it: rm {place}\n")
    file.write_text("{}")
    check_lock_files(tmp_path)


def test_repro_of_the_real_dvc_says_how_to_compare_runs_and_nothing_of_a_push(tmp_path: Path) -> None:
    """The stage is a stand-in; DVC, Git and the verb are real."""
    (tmp_path / "params.yaml").write_text((TOP / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo made > made.txt\n    outs: [made.txt]\n")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-m", "difftrack.cli", "repro"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOP), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made.txt").read_text() == "made\n"
    assert done.stdout.index("Running stage 'one'") < done.stdout.index("git add dvc.lock && git commit")
    assert "dvc push" not in done.stdout
    assert "autostage" not in done.stdout
