"""All of params.yaml: its check before the first stage, the description of its keys, and its JSON Schema."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from difftrack.backbones import ModelParams
from difftrack.cli import app
from difftrack.configuration import (
    SCHEMA_FILE,
    ArtifactPaths,
    Configuration,
    Entry,
    configuration_from,
    describe,
    entries,
    json_schema,
    page,
    read_configuration,
)
from difftrack.correspondence import MatchingParams, MatchSection
from difftrack.evaluation import TrackSection
from difftrack.geometry import TokenGrid
from difftrack.metrics import ScoreSection, ScoringParams
from difftrack.params import ParamsError
from difftrack.store import DescriptorSpec, fingerprint_of
from difftrack.tracking import TrackParams, VisibilityParams

TOP = Path(__file__).parents[1]
PARAMS: dict[str, Any] = yaml.safe_load((TOP / "params.yaml").read_text())

Change = Callable[[dict[str, Any]], object]


def written(folder: Path, change: Change) -> Path:
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    change(params)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def test_the_shipped_params_can_be_used() -> None:
    found = read_configuration(TOP / "params.yaml")
    assert found.track.heads == {6: (2, 3), 7: (3,)}
    assert found.paths == ArtifactPaths()
    assert found.backbones == {"cogvideox-mini": ModelParams()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["score"].update(treshold_px=6), r"unknown key score\.treshold_px; known: .*mean threshold_px\?"),
        (lambda p: p["extract"]["analysis"].update(hight=128), r"unknown key extract\.analysis\.hight"),
        (lambda p: p["report"].update(max_videos="three"), r"report\.max_videos is 'three'"),
        (lambda p: p["backbones"].update({"cogvideox-mini": {"dtyp": "float32"}}), r"backbones\.cogvideox-mini\.dtyp"),
        (
            lambda p: p["backbones"].update({"cogvideox-mini": {"device": "gpu"}}),
            r"device is 'gpu'; expected auto, cpu",
        ),
        (lambda p: p["backbones"].update({3: {}}), r"a key of backbones is 3; expected a string"),
        (lambda p: p["backbones"].clear(), r"backbones is empty; it needs at least one"),
        (lambda p: p["synthesize"]["rendered"].update(easy_object=-3), r"synthesize\.rendered: easy_object is -3"),
        (lambda p: p["synthesize"]["rendered"].update(fps=0), r"synthesize\.rendered: fps is 0"),
        (lambda p: p["synthesize"]["generated"].update(num_inference_steps=-3), r"num_inference_steps is -3"),
        (lambda p: p["extract"].update(max_bytes=-1), r"extract: max_bytes is -1"),
        (lambda p: p["track"].update(heads={6: [2, "3"]}), r"track\.heads\.6\[1\] is '3'; expected an integer"),
        (lambda p: p["track"].update(matching={"window_radius": -1}), r"track\.matching: window_radius is -1"),
        (lambda p: p["match"].update(matching={"widow_radius": 1}), r"match\.matching\.widow_radius;.*window_radius\?"),
        (
            lambda p: p["score"].update(scoring={"threshold_px": 4}),
            r"score\.scoring must not contain threshold_px; set score\.thr",
        ),
        (lambda p: p["paths"].update(clip="c"), r"unknown key paths\.clip; known: .*did you mean clips\?"),
        (lambda p: p.update(match=None), r"match is None; expected a mapping"),
        (lambda p: p.update(guide=None), r"guide is None; expected a mapping"),
        (lambda p: p.update(tracking={}), r"unknown section tracking; known: .*track; did you mean track\?"),
    ],
)
def test_what_no_stage_can_use_is_named_in_one_line(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=message) as refused:
        read_configuration(written(tmp_path, change))
    assert str(refused.value).startswith(f"{tmp_path / 'params.yaml'}: ")
    assert "\n" not in str(refused.value)


def test_sections_that_a_file_leaves_out_have_their_defaults() -> None:
    found = configuration_from({"track": {"convention": "released"}}, file="mine.yaml")
    assert (found.extract, found.paths.report) == (None, "data/report")
    assert found.track.motion_cost == 0.0


def test_repro_refuses_before_dvc_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, lambda p: p["score"].update(treshold_px=6))
    calls: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("difftrack.cli._pipeline._call", lambda command, **how: calls.append(command) or 3)
    result = CliRunner().invoke(app, ["repro"])
    assert result.exit_code == 1
    assert "treshold_px" in result.output
    assert not calls


def test_the_stages_themselves_still_refuse_their_own_section(tmp_path: Path) -> None:
    written(tmp_path, lambda p: p["score"].update(treshold_px=6))
    command = [sys.executable, "-m", "stages.score", "matches=m", "tracks=t", "clips=c", "--", "scores=s"]
    environment = {"PYTHONPATH": str(TOP), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "score: params.yaml: unknown key score.treshold_px" in done.stderr


def test_checking_params_and_presets_loads_no_library_that_computes() -> None:
    """Otherwise each call of `difftrack params`, `repro` and `preset` would wait for the import, some ten seconds."""
    code = (
        "import sys, pathlib, yaml; from difftrack.configuration import *; from difftrack.presets import *; "
        "read_configuration(pathlib.Path('params.yaml')); describe(''); json_schema(); "
        "base = yaml.safe_load(pathlib.Path('params.yaml').read_text()); "
        "[configuration_from(apply_preset(read_preset(name), base), file=name) for name in preset_names()]; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "zarr", "numpy", "xarray", "cv2"} & set(done.stdout.split())


RELEASED_MATCHING = MatchingParams(
    second_softmax=True,
    token_origin="corner",
    query_margin="grid",
    read_out="argmax_map",
    padding="zeros",
    feature_similarity="dot",
    feature_temperature=1.0,
    attention_axes="swapped",
    padded_text="counted",
    upsampling="half_pixel",
)
RELEASED_SCORING = ScoringParams(
    count_source_frame=True, unseen_points="counted", decimals=4, nan_cells="spread", occlusion_accuracy="per_batch"
)


def test_a_convention_is_settled_once_in_python_and_in_a_file_alike() -> None:
    given = {name: {"convention": "released"} for name in ("match", "score", "track")}
    parsed = configuration_from(given, file="mine.yaml")
    assert parsed.match == MatchSection(convention="released")
    assert parsed.match.matching == RELEASED_MATCHING
    assert parsed.score == ScoreSection(convention="released")
    assert parsed.score.scoring == RELEASED_SCORING
    assert parsed.track.matching == replace(RELEASED_MATCHING, temperature="root_heads")
    assert parsed.track.visibility == VisibilityParams(predict=False)
    assert (parsed.track.fusion, parsed.track.overlap) == ("channel", "first")
    assert (parsed.track.motion_cost, parsed.track.smoothing_radius) == (0.0, 0)
    corrected = configuration_from({}, file="mine.yaml")
    assert (corrected.match.matching, corrected.score.scoring) == (MatchingParams(), ScoringParams())
    assert corrected.track.matching == MatchingParams(read_out="displacements", window_radius=1)
    assert (corrected.track.fusion, corrected.track.overlap) == ("probability", "average")


def test_single_values_replace_those_of_the_convention_and_nulls_do_not() -> None:
    given = {
        "score": {"convention": "released", "threshold_px": 5, "scoring": {"decimals": 2, "nan_cells": None}},
        "track": {
            "convention": "released",
            "matching": {"support_radius": 3, "padding": None},
            "visibility": {"min_margin": 0.25},
            "motion_cost": None,
            "overlap": "average",
        },
    }
    parsed = configuration_from(given, file="mine.yaml")
    assert parsed.score.scoring == replace(RELEASED_SCORING, threshold_px=5.0, decimals=2)
    assert parsed.track.matching == replace(TrackParams(convention="released").matching, support_radius=3)
    assert (parsed.track.matching.padding, parsed.track.matching.temperature) == ("zeros", "root_heads")
    assert parsed.track.visibility == VisibilityParams(predict=False, min_margin=0.25)
    assert (parsed.track.motion_cost, parsed.track.overlap) == (0.0, "average")


@pytest.mark.parametrize("convention", ["corrected", "released"])
@pytest.mark.parametrize(("section", "kind"), [("match", MatchSection), ("track", TrackSection)])
def test_what_is_settled_can_be_written_to_a_file_and_read_again(section: str, kind: Any, convention: str) -> None:
    settled = kind(convention=convention)
    assert getattr(configuration_from({section: asdict(settled)}, file="mine.yaml"), section) == settled


def test_replacing_a_value_leaves_the_others_of_the_convention() -> None:
    changed = replace(TrackParams(convention="released"), motion_cost=0.5)
    assert (changed.motion_cost, changed.smoothing_radius) == (0.5, 0)
    assert changed.matching == TrackParams(convention="released").matching


@dataclass
class Inner:
    depth: int | None = None
    """How deep."""


@dataclass
class Base:
    names: tuple[str, ...] = ("a", "b")
    """Who,
    and where."""


@dataclass
class Section(Base):
    """A section."""

    size: float = 0.5
    """Pixels."""
    inner: Inner | None = None
    """What is inside."""


def test_keys_say_type_default_and_what_stands_under_them_in_the_class_inherited_and_nested_ones_too() -> None:
    assert list(entries("own", Section)) == [
        Entry("own.names", "a list of a string", "[a, b]", "Who, and where."),
        Entry("own.size", "a number", "0.5", "Pixels."),
        Entry("own.inner", "a mapping or null", "null", "What is inside."),
        Entry("own.inner.depth", "an integer or null", "null", "How deep."),
    ]


def test_the_page_is_the_one_in_docs() -> None:
    assert (TOP / "docs" / "params.md").read_text() == page()


def test_every_key_has_a_meaning() -> None:
    assert not [line for line in page().splitlines() if line.endswith("|  |")]


def test_every_key_of_the_shipped_params_is_on_the_page() -> None:
    text = page()
    for section in set(PARAMS) - {"backbones"}:
        (table,) = re.findall(rf"^## {section}\n(.*?)(?:^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        known = set(re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE))
        known |= {key.rpartition(".")[0] for key in known} | {key.partition(".")[0] for key in known}
        given = set(PARAMS[section])
        given |= {f"{key}.{own}" for key, value in PARAMS[section].items() if isinstance(value, dict) for own in value}
        assert {key for key in given if not key[-1].isdecimal()} <= known


def test_where_the_conventions_differ_both_values_are_there() -> None:
    assert "| `matching.window_radius` | an integer | `1 (0)` |" in page()
    assert "| `matching.second_softmax` | true or false | `false (true)` |" in page()
    assert "| `motion_cost` | a number | `0.1 (0.0)` |" in page()
    assert "| `visibility.predict` | true or false | `true (false)` |" in page()
    assert "`scoring.threshold_px`" not in page()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("track.heads", ["track.heads  [all or a list of an integer or a mapping; default: all]"]),
        ("extract.store", ["extract.store.dtype  [", "extract.store.chunk_bytes  [an integer; default: 1048576]"]),
        ("guide.backbone", ["guide.backbone  [a string; required]"]),
        ("paths.clips", ["paths.clips  [a string; default: data/clips]"]),
        ("backbones.NAME.dtype", ["backbones.NAME.dtype  [float32 | bfloat16 | float16; default: float32]"]),
    ],
)
def test_the_command_line_answers_for_one_key_or_a_section(key: str, said: list[str]) -> None:
    result = CliRunner().invoke(app, ["params", key])
    assert result.exit_code == 0
    assert all(line in result.output for line in said)
    assert all(line.startswith((key, " ")) for line in result.output.splitlines())


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("tracking.heads", "no key tracking.heads; similar: extract.analysis.heads, extract.tracking.heads"),
        ("trakc", "no key trakc; similar: track"),
        ("track.hedas", "no key track.hedas; similar: track.heads"),
        ("zzz", "no key zzz; sections: paths, backbones.NAME, synthesize"),
    ],
)
def test_an_unknown_key_is_answered_with_those_that_are_like_it(key: str, said: str) -> None:
    result = CliRunner().invoke(app, ["params", key])
    assert result.exit_code == 1
    assert said in result.output
    assert len(result.output.splitlines()) == 1


def test_without_a_key_all_are_described() -> None:
    keys = [line.partition(" ")[0] for line in describe("").splitlines() if not line.startswith(" ")]
    assert {key.partition(".")[0] for key in keys} == {field.name for field in fields(Configuration)}


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    assert SCHEMA_FILE.read_text() == json_schema()
    assert CliRunner().invoke(app, ["params", "--schema"]).output == json_schema()
    assert CliRunner().invoke(app, ["params", "track", "--schema"]).exit_code == 2


def test_params_yaml_names_its_schema_to_editors() -> None:
    first = (TOP / "params.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE.relative_to(TOP)}"


def _keys(values: Any, schema: dict[str, Any], whole: dict[str, Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a params file with its part of the schema."""
    for option in (schema, *schema.get("anyOf", ())):
        found = whole["$defs"][option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        if isinstance(values, dict) and found.get("type") == "object":
            for key, value in values.items():
                own = found.get("properties", {}).get(key) or found["additionalProperties"]
                yield f"{name}{key}", own
                yield from _keys(value, own, whole, f"{name}{key}.")


def test_the_schema_knows_every_key_of_the_shipped_params_and_says_what_it_means() -> None:
    schema = json.loads(json_schema())
    found = dict(_keys(PARAMS, schema, schema))
    assert len(found) > 100
    own = {name for name in found if name.startswith(("backbones.cogvideox-mini", "track.heads."))}
    assert not [name for name in set(found) - own if not found[name].get("description")]
    assert all(definition["additionalProperties"] is False for definition in schema["$defs"].values())
    assert schema["properties"]["guide"]["$ref"] == "#/$defs/GuideParams"
    assert found["track.heads"]["default"] == "all"
    assert found["track.heads"]["anyOf"][2]["propertyNames"] == {"pattern": r"^-?\d+$"}
    assert found["extract.tracking"]["$ref"] == "#/$defs/TrackingParams"
    matching = schema["$defs"]["TrackSection"]["properties"]["motion_cost"]
    assert matching["anyOf"] == [{"type": "number"}, {"type": "null"}]
    assert matching["description"].endswith("Default under `released`: 0.0.")
    assert "threshold_px" not in schema["$defs"]["ScoringParams"]["properties"]


DIFFERS = {
    "synthesize.rendered": {"easy_object", "easy_scene", "hard_object", "hard_scene", "seed"},
    "extract": {"max_bytes"},
    "extract.analysis": {"steps", "mode.generated"},
    "extract.tracking": {"steps", "layers", "descriptors"},
    "extract.tracking.mode": {"rendered", "generated", "folder"},
    "extract.tracking.chunks": {"chunk_len"},
    "track": {"layers", "heads"},
    "guide": {"num_best_layers", "scale", "num_inference_steps"},
}
"""Values of params.yaml that differ from the defaults: chosen for the shipped backbone, or for a laptop's time."""


def _values(values: dict[str, Any], section: str, known: set[str]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{section}.{name}" if section else name
        if isinstance(value, dict) and any(each.startswith(f"{key}.") for each in known):
            yield from _values(value, key, known)
        else:
            yield key, value


def test_params_yaml_repeats_the_defaults_but_for_what_is_listed_here() -> None:
    lines = [line for line in describe("").splitlines() if not line.startswith(" ")]
    said = [re.fullmatch(r"(\S+)  \[.*; default: (.*?)( \(.*\))?\]", line) for line in lines]
    defaults = {found[1]: yaml.safe_load(found[2]) for found in said if found}
    given = dict(_values(PARAMS, "", {line.partition(" ")[0] for line in lines}))
    differing = {key for key, value in given.items() if key in defaults and defaults[key] != value}
    assert differing == {f"{section}.{key}" for section, keys in DIFFERS.items() for key in keys}


@pytest.mark.parametrize(
    ("given", "fingerprint"),
    [
        ({}, "6b664d2157775e600b037712bf86af1c76bf4b5182c9a3b5314600c4f9448f9f"),
        ({"dtype": "int8", "level": 3}, "62af5e74c0f0ed28727f4e3e42a3453b304e0c8b110b3d72dd6ffc0c92d27a82"),
        ({"codec": "none", "chunk_bytes": 4096}, "409138ad4904c29931007e95a6d8c30b1a47c7b453aafadb3fca5e2fe482d10c"),
    ],
)
def test_fingerprints_of_stores_are_those_that_were_written_before(given: dict[str, Any], fingerprint: str) -> None:
    spec = DescriptorSpec(
        steps=(0, 7, 49),
        timesteps=(999.0, 839.0, 19.0),
        layers=(3, 5),
        heads=(0, 2),
        num_channels=11,
        grid=TokenGrid(num_latent_frames=5, rows=3, cols=7, stride_px=16, temporal_stride=4),
        frames=(0, 4, 8, 12, 16),
        clip_size=(131, 197),
        size=(48, 112),
        text_mask=(True, False),
        fingerprint_parts={"backbone": "abc", "mode": "add_noise", "noise_seed": 42},
    )
    extract = configuration_from({"extract": PARAMS["extract"] | {"store": given}}, file="mine.yaml").extract
    assert extract is not None
    assert fingerprint_of(spec, extract.store) == fingerprint
    assert fingerprint_of(DescriptorSpec.from_json(spec.to_json()), extract.store) == fingerprint
