"""A run's cost is known before it starts, and so is what no params file needs any more."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from typer.testing import CliRunner

from difftrack.cli import app
from difftrack.datasets import Clip, write_clip
from difftrack.extraction import ClipReader, ExtractParams
from difftrack.params import ParamsError, parse
from difftrack.pipeline import extract
from difftrack.planning import (
    ModelShape,
    Plan,
    Rates,
    Study,
    find_leftovers,
    outline_clips,
    plan_extraction,
    plan_params,
    recorded_ratio,
    study_table,
    uncertain_clips,
)
from difftrack.planning._params import store_of
from difftrack.store import StoreError, StoreParams, open_store, remove_group, stored_bytes

ROOT = Path(__file__).parents[1]

TEXT_TOKENS, HEADS, CHANNELS, TOKENS = 11, 2, 16, 3 * 5 * 7
UNIT_VALUES = HEADS * CHANNELS * (2 * TOKENS + TEXT_TOKENS)
"""Query, key and the text's keys of one (step, layer)."""


def params(root: Path, **analysis: Any) -> dict[str, Any]:
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 10, "descriptors": ["query", "key"]}
    chosen = {"steps": [2, 9], "layers": [0, 1, 3], "num_frames": NUM_FRAMES} | analysis
    return {
        "paths": {"clips": str(root / "clips"), "descriptors": str(root / "descriptors")},
        "backbones": {"tiny": {"path": str(root / "backbone")}},
        "extract": {
            "max_bytes": 1e6,
            "analysis": view | chosen,
            "tracking": view | {"steps": [9], "layers": [2], "chunks": {"chunk_len": 5}},
        },
    }


def write_inputs(root: Path) -> dict[str, Any]:
    """Two clips that can run, one that is too short for the analysis view, and a tiny backbone."""
    save_cogvideox(root / "backbone")
    for seed, (name, num_frames) in enumerate({"first": 11, "second": 9, "short": 3}.items()):
        frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 31, 37, 3), dtype=np.uint8)
        write_clip(root / "clips", Clip(name, frames, fps=8.0, prompt="a red disc moves", source="rendered"))
    return params(root)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_inputs(root)
    return root


def run_extract(given: dict[str, Any], view: str = "analysis", backbone: str = "tiny") -> None:
    item = {"item": {"backbone": backbone, "view": view}}
    outs = {"descriptors": Path(given["paths"]["descriptors"]) / backbone / view}
    outs |= {name: Path(path) for name, path in given["paths"].items() if name == "kept"}
    extract.main(given | item, {"clips": Path(given["paths"]["clips"])}, outs)


def written(given: dict[str, Any], root: Path) -> Path:
    file = root / "params.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def test_a_plan_counts_clips_chunks_units_forwards_and_bytes(inputs: Path) -> None:
    (analysis, problems), (tracking, none) = plan_params(params(inputs))
    assert (analysis.clips, analysis.groups, analysis.steps, analysis.layers) == (2, 2, 2, 3)
    assert (analysis.units, analysis.forwards) == (12, 4)
    overhead = 3 * (20 + 4)
    assert analysis.raw_bytes == 12 * (2 * UNIT_VALUES + overhead)
    assert analysis.there_bytes == 0
    assert problems == {}
    (name,) = analysis.left_out
    assert name == "short"
    assert "clip short has 3 frames, but extract.analysis.num_frames is 9" in analysis.left_out[name]
    chunks = 3 + 2 + 1  # of 4 new frames each: (11 - 1) / 4, (9 - 1) / 4, (3 - 1) / 4
    assert (tracking.clips, tracking.groups, tracking.units, tracking.forwards) == (3, chunks, chunks, chunks)
    assert (none, tracking.left_out) == ({}, {})


def test_inversion_pays_for_every_step_down_to_the_first_that_is_wanted(inputs: Path) -> None:
    given = params(inputs, steps=[4, 9], mode={"rendered": "ddim_inversion"})
    (plan, _), *_ = plan_params(given, views=["analysis"])
    per_clip = 2 + (10 - 4) * (1 + 5) + (10 - 4)
    assert plan.forwards == 2 * per_clip
    given["extract"]["analysis"]["inversion"] = {"form": "explicit", "report_round_trip": False}
    (plan, _), *_ = plan_params(given, views=["analysis"])
    assert plan.forwards == 2 * (2 + (10 - 4))


def plan_of(**changes: Any) -> Plan:
    plan = Plan(
        name="some, analysis",
        store="memory://nowhere",
        clips=7,
        groups=7,
        steps=3,
        layers=5,
        units=105,
        forwards=21,
        raw_bytes=210_000_000,
        there_bytes=0,
        ratio=1.5,
        ratio_source="recorded",
        max_bytes=1e9,
        free_bytes=None,
    )
    return replace(plan, **changes)


def test_time_is_clips_and_forwards_over_the_workers() -> None:
    rates = Rates(seconds_per_clip=2.0, seconds_per_forward=3.0)
    assert plan_of().seconds is None
    assert plan_of(rates=rates).seconds == 7 * 2 + 21 * 3
    assert plan_of(rates=rates, workers=7).seconds == 11
    assert "duration" in plan_of(rates=rates).lines()[-1]


def test_a_plan_says_what_it_knows_and_where_from() -> None:
    text = "\n".join(plan_of(there_bytes=30_000_000, free_bytes=5_000_000_000).lines())
    for said in ("7 clips x 3 steps x 5 layers = 105 units of 2 MB", "210 MB; extract.max_bytes allows 1 GB",
                 "about 140 MB (ratio 1.50, recorded)", "30 MB", "5 GB", "21 forwards"):  # fmt: skip
        assert said in text


def test_what_does_not_fit_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    plan_of(raw_bytes=999_999_999).check()
    with pytest.raises(
        StoreError, match=r"2\.1 GB planned, extract\.max_bytes allows 1 GB; keep fewer extract\.layers"
    ):
        plan_of(raw_bytes=2_100_000_000).check()
    with pytest.raises(StoreError, match=r"extract\.max_bytes"):
        plan_of(raw_bytes=600_000_000).check(share=0.5)
    huge = plan_of(store=str(tmp_path), raw_bytes=10**18, max_bytes=1e19)
    with pytest.raises(StoreError, match=r"GB planned, .* GB free; keep fewer extract\.layers"):
        huge.check()
    replace(huge, there_bytes=10**18).check()  # nothing left to write


def test_a_written_store_tells_its_own_ratio(tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    shutil.rmtree(tmp_path / "clips/short")
    (before, _), *_ = plan_params(given, views=["analysis"])
    assert (before.ratio, before.ratio_source) == (1.18, "recorded")
    run_extract(given)
    (after, _), *_ = plan_params(given, views=["analysis"])
    store = Path(given["paths"]["descriptors"]) / "tiny/analysis"
    small = {"step", "timestep", "layer", "head", "latent_frame", "frame", "text_mask"}
    shards = sum(
        file.stat().st_size for file in store.rglob("*") if file.name.startswith("c.") and not small & set(file.parts)
    )
    assert after.ratio == pytest.approx(after.raw_bytes / shards)
    assert after.ratio_source == f"measured in {store}"
    assert after.there_bytes == stored_bytes(store, ["first", "second"]) < stored_bytes(store)


def test_a_probe_times_a_step_and_measures_its_ratio(inputs: Path) -> None:
    (plan, _), *_ = plan_params(params(inputs), views=["analysis"], with_probe=True)
    assert plan.rates is not None
    assert plan.rates.seconds_per_forward > 0
    assert plan.ratio == plan.rates.ratio
    assert 0.9 < plan.ratio < 3
    assert "probed" in plan.lines()[-1]


def test_ratios_on_record_know_that_float32_has_more_to_keep() -> None:
    assert recorded_ratio(StoreParams(), computed_in="bfloat16") > recorded_ratio(StoreParams(), computed_in="float32")
    rounded = StoreParams(round_to_bf16=True)
    assert recorded_ratio(rounded, computed_in="float32") == recorded_ratio(StoreParams(), computed_in="bfloat16")
    assert recorded_ratio(StoreParams(codec="none"), computed_in="bfloat16") == 1.0


# A study on paper


def shape(**changes: Any) -> ModelShape:
    given = {"layers": 7, "heads": 3, "channels": 5, "height": 48, "width": 80, "num_frames": 9, "text_tokens": 13}
    return ModelShape(**{**given, "parameters": 1e6, **changes})


def test_the_arithmetic_of_a_forward_counts_weights_and_attention() -> None:
    tokens = 3 * 3 * 5 + 13
    assert shape().flops_per_forward == 2 * 1e6 * tokens + 4 * 7 * tokens**2 * 3 * 5
    # Two points need eight of the 15 tokens of a frame, seventeen need all; the first frame matches in two.
    assert shape().flops_per_match(2) == 2 * (3 * 5) * 2 * (3 * 8 + 15) * 15
    assert shape().flops_per_match(17) == 2 * (3 * 5) * 2 * (3 * 15 + 15) * 15 == 54_000


def test_a_study_adds_up_tiers_over_models() -> None:
    study = Study(
        models={"one": shape(seconds_per_forward=2.0), "two": shape(seconds_per_forward=4.0, seconds_per_clip=0.0)},
        clips=11,
        steps=50,
        points=17,
        kept_layers=2,
        kept_steps=3,
        tflops=1.0,
        matching_tflops=54_000e-12,  # a second per (layer, step)
        seconds_per_clip=100.0,
        encoded_bytes_per_s=1e6,
        store=StoreParams(codec="none"),
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in study_table(study).splitlines()[2:]]
    assert [row[:2] for row in rows][:4] == [
        ["one", "full descriptors, all"],
        ["one", "full descriptors, kept"],
        ["one", "survey, all"],
        ["two", "full descriptors, all"],
    ]
    hours = {(row[0], row[1]): float(row[4]) for row in rows}
    assert hours["one", "full descriptors, all"] == pytest.approx(11 * (50 * 2 + 100) / 3600, rel=0.01)
    assert hours["two", "survey, all"] == pytest.approx(11 * 50 * (4 + 7) / 3600, rel=0.01)
    assert hours["**all**", "full descriptors, kept"] == pytest.approx(11 * (3 * 2 + 100 + 3 * 4) / 3600, rel=0.01)
    survey_bytes = 11 * 50 * 7 * 17 * (6 * 3 + 2) * 4
    assert rows[2][2] == f"{survey_bytes / 1e6:.3g} MB"


def test_a_model_may_have_its_own_steps_and_a_study_its_own_ratio() -> None:
    given = yaml.safe_load((ROOT / "examples/study.yaml").read_text()) | {
        "models": {"whole": asdict(shape()), "half": asdict(shape(steps=5))},
        "steps": 10,
        "ratio": 2.0,
    }
    rows = [line.strip("| ").split(" | ") for line in study_table(parse(Study, given, "study")).splitlines()[2:8]]
    size_of = {(model, tier): (raw, stored) for model, tier, raw, stored, *_ in rows}
    for tier in ("full descriptors, all", "survey, all"):
        whole, half = (float(size_of[name, tier][0].split()[0]) for name in ("whole", "half"))
        assert whole == pytest.approx(2 * half, rel=0.01)
    assert size_of["whole", "full descriptors, kept"] == size_of["half", "full descriptors, kept"]
    raw, stored = (float(text.split()[0]) for text in size_of["half", "full descriptors, all"])
    assert raw == pytest.approx(2 * stored, rel=0.01)
    with pytest.raises(ValueError, match="steps is 0; it must be positive"):
        shape(steps=0)


def test_a_study_that_cannot_be_is_refused() -> None:
    given = yaml.safe_load((ROOT / "examples/study.yaml").read_text())
    with pytest.raises(ParamsError, match="study: clips is 0; it must be positive"):
        parse(Study, given | {"clips": 0}, "study")
    given["models"]["cogvideox-2b"]["heads"] = "thirty"
    with pytest.raises(ParamsError, match=r"study\.models\.cogvideox-2b\.heads is 'thirty'"):
        parse(Study, given, "study")


def test_the_shipped_study_gives_the_table_in_the_documentation() -> None:
    study = parse(Study, yaml.safe_load((ROOT / "examples/study.yaml").read_text()), "study")
    assert study_table(study) in (ROOT / "docs/scale.md").read_text()


# The command line


def test_plan_prints_every_store_and_fails_where_one_does_not_fit(inputs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--params", str(written(params(inputs), tmp_path))])
    assert result.exit_code == 0
    for said in ("tiny, analysis:", "tiny, tracking:", "left out        short: clip short has 3 frames"):
        assert said in result.stdout
    small = params(inputs)
    small["extract"]["max_bytes"] = 1000
    result = CliRunner().invoke(app, ["plan", "--params", str(written(small, tmp_path)), "--view", "tracking"])
    assert result.exit_code == 1
    assert "tiny, tracking:" in result.stdout
    assert "extract.max_bytes allows 1e-06 GB; keep fewer extract.layers" in result.stderr
    unknown = CliRunner().invoke(app, ["plan", "--params", str(tmp_path / "params.yaml"), "--backbone", "huge"])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "no backbones.huge; there are tiny" in unknown.stderr


@pytest.mark.parametrize("verb", ["plan", "gc"])
@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("backbones", {}, "backbones is empty; it needs at least one"),
        ("paths", {"clips": 3}, "paths.clips is 3; expected a string"),
        ("paths", {}, "paths.clips is missing"),
        ("extract", {"tracking": None}, "extract.analysis is missing"),
        ("extract", {"max_bytes": "much"}, "extract."),
    ],
)
def test_params_that_cannot_be_used_are_one_line_with_the_name_of_their_file(
    verb: str, section: str, values: object, named: str, tmp_path: Path
) -> None:
    file = written(params(tmp_path) | {section: values}, tmp_path)
    result = CliRunner().invoke(app, [verb, "--params", str(file)])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert f"difftrack: {file}: {named}" in result.stderr


@pytest.mark.parametrize("verb", ["plan", "gc"])
def test_clips_that_are_not_made_yet_are_asked_for(verb: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [verb, "--params", str(written(params(tmp_path), tmp_path))])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert f"there is no {tmp_path / 'clips'}; run `make repro` (or `difftrack repro`) first" in result.stderr


def test_a_study_and_a_backbone_that_cannot_be_are_named_with_their_file(inputs: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("")
    result = CliRunner().invoke(app, ["plan", "--study", str(study)])
    assert (result.exit_code, result.stderr) == (1, f"difftrack: {study}: study is None; expected a mapping\n")
    file = written(params(inputs), tmp_path)
    result = CliRunner().invoke(app, ["plan", "--params", str(file), "--backbone", "huge"])
    assert result.stderr == f"difftrack: {file}: no backbones.huge; there are tiny\n"


def test_gc_says_what_would_go_and_removes_it_only_when_told(tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    shutil.rmtree(tmp_path / "clips/short")
    run_extract(given)
    assert list(find_leftovers([given])) == []
    shutil.copytree(tmp_path / "descriptors/tiny", tmp_path / "descriptors/forgotten")
    shutil.rmtree(tmp_path / "clips/second")
    other = params(tmp_path, steps=[9])
    gone = {(left.root, left.group): left.why for left in find_leftovers([other])}
    store = f"{given['paths']['descriptors']}/tiny/analysis"
    assert gone == {
        (f"{given['paths']['descriptors']}/forgotten", ""): "no params file names the backbone forgotten",
        (store, "first"): "was written with other params",
        (store, "second"): "its clip or chunk no longer exists",
    }
    assert [left.group for left in find_leftovers([other, given])] == ["", "second"]

    arguments = ["gc", "--params", str(written(given, tmp_path))]
    dry = CliRunner().invoke(app, arguments)
    assert dry.exit_code == 0
    assert "would be removed" in dry.stdout
    assert open_store(store).groups() == ["first", "second"]
    done = CliRunner().invoke(app, [*arguments, "--delete"])
    assert "removed" in done.stdout
    assert open_store(store).groups() == ["first"]
    assert not (tmp_path / "descriptors/forgotten").exists()
    assert all(check.problem is None for check in open_store(store).verify())


def test_gc_lists_what_is_kept_but_for_what_one_of_several_params_files_needs(tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    given["paths"]["kept"] = str(tmp_path / "kept")
    shutil.rmtree(tmp_path / "clips/short")
    other = params(tmp_path, steps=[9]) | {"paths": given["paths"]}
    for each in (given, other):
        run_extract(each)
    kept = {f"{tmp_path}/kept/descriptors/tiny/analysis/{name}" for name in ("first", "second")}
    listed = list(find_leftovers([other]))
    assert {left.root.rpartition("/")[0] for left in listed} == kept
    assert all(left.num_bytes > 1000 and "not used since 20" in left.why for left in listed)
    assert list(find_leftovers([given, other])) == []
    arguments = ["gc", "--params", str(written(other, tmp_path)), "--delete"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert not list((tmp_path / "kept").rglob("kept.json"))
    assert open_store(store_of(other, "tiny", "analysis")).groups() == ["first", "second"]


def test_gc_keeps_everything_of_a_backbone_that_cannot_be_opened_here(tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    shutil.rmtree(tmp_path / "clips/short")
    run_extract(given)
    shutil.rmtree(tmp_path / "backbone")
    assert list(find_leftovers([params(tmp_path, steps=[9])])) == []


def test_what_other_parts_have_written_is_not_taken_for_a_part_s_own(tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    shutil.rmtree(tmp_path / "clips/short")
    run_extract(given)
    store = Path(given["paths"]["descriptors"]) / "tiny/analysis"
    remove_group(store, "second")
    source = ClipReader.open(given, backbone="tiny", view="analysis", folder=tmp_path / "clips")
    section = parse(ExtractParams, given["extract"], "extract")
    outlines, _ = outline_clips(source, ["second"])
    plan = plan_extraction(source, section, outlines, name="part", store=str(store))
    assert plan.there_bytes == 0
    assert plan.remaining_bytes == plan.expected_bytes > 0


@pytest.mark.parametrize("damage", ["lost", "cut", "empty"])
def test_gc_keeps_descriptors_of_a_clip_that_cannot_be_read_for_now_and_says_so(damage: str, tmp_path: Path) -> None:
    given = write_inputs(tmp_path)
    shutil.rmtree(tmp_path / "clips/short")
    run_extract(given)
    about = tmp_path / "clips/second/clip.json"
    match damage:
        case "lost":
            about.unlink()
        case "cut":
            about.write_text(about.read_text()[:20])
        case "empty":
            shutil.rmtree(about.parent)
            about.parent.mkdir()
    assert list(find_leftovers([given])) == []
    assert list(uncertain_clips([given])) == ["second"]
    done = CliRunner().invoke(app, ["gc", "--params", str(written(given, tmp_path)), "--delete"])
    assert done.exit_code == 0
    assert "kept descriptors of second, which cannot be read now" in done.stdout
    assert open_store(f"{given['paths']['descriptors']}/tiny/analysis").groups() == ["first", "second"]
