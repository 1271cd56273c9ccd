"""A stage's declared code is exactly the code that it reaches: room walls are cache walls."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


BY_MODULE = ("pipeline", "workflows")


def _imported(file: Path) -> set[str]:
    """Dotted names of the project's modules that a file imports, at its top or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("difftrack", "stages", "cli")}


def _room(name: str) -> str | None:
    """The file or folder of the room that a dotted name lies in, as dvc.yaml writes it."""
    package, *rest = name.split(".")
    if not rest:
        return None
    if rest[0] in BY_MODULE:  # each module serves one verb, and its package imports none
        module = ROOT.joinpath(package, *rest[:2]).with_suffix(".py")
        return f"{package}/{'/'.join(rest[:2])}.py" if module.is_file() else f"{package}/{rest[0]}/__init__.py"
    folder, module = ROOT / package / rest[0], ROOT / package / f"{rest[0]}.py"
    if folder.is_dir():
        return f"{package}/{rest[0]}"
    return f"{package}/{rest[0]}.py" if module.is_file() else None


def _reached(start: Path) -> set[str]:
    """Rooms that a stage's imports reach, through other rooms too."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for name in _imported(waiting.pop()):
            room = _room(name)
            if room and room not in reached:
                reached.add(room)
                path = ROOT / room
                waiting += list(path.rglob("*.py")) if path.is_dir() else [path]
    return reached


def _declared(stage: dict[str, object]) -> set[str]:
    deps = stage["deps"]
    assert isinstance(deps, list)
    return {dep for dep in deps if dep.startswith(("stages/", "difftrack/"))}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_exactly_the_rooms_that_its_imports_reach(name: str) -> None:
    script = f"stages/{name}.py"
    assert _declared(STAGES[name]) == _reached(ROOT / script) | {script}


@pytest.mark.parametrize(
    "room", ["difftrack/metrics", "difftrack/correspondence", "difftrack/tracking", "difftrack/reports"]
)
def test_editing_what_only_reads_descriptors_never_runs_the_model_again(room: str) -> None:
    assert room not in _declared(STAGES["extract"]) | _declared(STAGES["synthesize"])


def test_a_stage_is_called_like_its_script() -> None:
    for name, stage in STAGES.items():
        assert re.search(rf"python -m stages\.{name}\b", stage["cmd"])
        assert (ROOT / f"stages/{name}.py").is_file()


def test_every_stage_reads_only_its_own_section_or_says_which_others() -> None:
    others = {
        "synthesize": {"backbones"},
        "extract": {"backbones"},
        "guide": {"backbones"},
        "report": {"backbones"},
        "survey": {"backbones", "extract", "match"},
    }
    for name, stage in STAGES.items():
        sections = {param.split(".")[0] for param in stage["params"]}
        assert sections == {name} | others.get(name, set())


def test_the_command_line_and_the_stages_do_not_know_each_other() -> None:
    stages = {f"difftrack.pipeline.{name}" for name in STAGES}
    for file in (ROOT / "difftrack/cli").glob("*.py"):
        assert not stages & _imported(file)
    for script in [*(ROOT / "stages").glob("*.py"), *(ROOT / "difftrack/pipeline").glob("*.py")]:
        assert not [name for name in _imported(script) if f"{name}.".startswith(("cli.", "difftrack.cli."))]


def test_a_stage_file_is_thin() -> None:
    for script in (ROOT / "stages").glob("*.py"):
        assert len(script.read_text().splitlines()) <= 60


def test_paths_are_written_once() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    paths = yaml.safe_load((ROOT / "params.yaml").read_text())["paths"]
    assert not [path for path in paths.values() if re.search(rf"(?<![\w/]){path}\b", text)]


def _recipe(target: str) -> str:
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return str(lines)


def test_make_clean_removes_all_that_the_pipeline_writes_and_help_lists_it() -> None:
    written = {*yaml.safe_load((ROOT / "params.yaml").read_text())["paths"].values(), "data/presets"}
    assert written == {word for word in _recipe("clean").split() if word.startswith("data/")}
    assert '"make clean ' in _recipe("help")


def test_training_declares_exactly_the_rooms_that_its_scripts_reach() -> None:
    folder = ROOT / "data/backbones/cogvideox-mini"
    declared = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    reached = _reached(folder / "train.py") | _reached(folder / "samples.py")
    assert {dep.removeprefix("../../../") for dep in declared if dep.startswith("..")} == reached


def test_a_stage_that_reads_the_shipped_weights_reads_all_that_its_fingerprint_hashes() -> None:
    folder = "data/backbones/cogvideox-mini"
    parts = {f"{folder}/{part.name}" for part in (ROOT / folder).iterdir() if (part / "config.json").exists()}
    parts |= {f"{folder}/{name}" for name in ("scheduler", "tokenizer", "model_index.json")}
    readers = {name for name, stage in STAGES.items() if any(dep.startswith(folder) for dep in stage["deps"])}
    assert readers == {"synthesize", "extract", "survey", "guide"}
    for name in readers:
        assert {dep for dep in STAGES[name]["deps"] if dep.startswith(folder)} == parts


def test_shapes_are_checked_in_every_room_of_the_library() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    checked = re.search(r"--jaxtyping-packages=(\S+),beartype\.beartype", options)
    assert checked is not None
    entries = [path for path in (ROOT / "difftrack").iterdir() if not path.name.startswith("_")]
    rooms = {path.stem for path in entries if path.is_dir() or path.suffix == ".py"}
    assert set(checked[1].split(",")) == {f"difftrack.{room}" for room in rooms - {"cli", "pipeline"}}


def test_dvc_copies_nothing_that_the_stages_keep_themselves_or_make_again() -> None:
    """Large outputs take the disk once; small results come back from DVC's cache."""
    cached = {}
    for stage in STAGES.values():
        for out in stage["outs"]:
            path, how = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            cached[re.findall(r"paths\.(\w+)", path)[0]] = how.get("cache", True)
    assert {kind for kind, copied in cached.items() if copied} == {"tracks", "scores", "predictions"}
