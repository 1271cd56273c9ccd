"""The whole map without descriptors: matches made during the pass equal matches from a store."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox

from difftrack.backbones import Backbone
from difftrack.datasets import Clip, Tracks, write_clip, write_tracks
from difftrack.pipeline import extract, match, score, survey
from difftrack.store import open_store, read_results, result_groups

CLIPS = ("first", "second")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips with tracks, and a tiny backbone."""
    root = tmp_path_factory.mktemp("inputs")
    save_cogvideox(root / "backbone")
    for seed, name in enumerate(CLIPS):
        frames = np.random.default_rng(seed).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
        write_clip(root / "clips", Clip(name, frames, fps=8.0, prompt="a red disc moves", source="rendered"))
        starts = np.array([[5.0, 7.0], [20.0, 11.0], [30.0, 25.0]], dtype=np.float32) + seed
        points = np.repeat(starts[None], 11, axis=0)
        queries = np.column_stack([np.zeros(3, np.float32), starts])
        write_tracks(root / "tracks", name, Tracks(points, np.ones((11, 3), bool), queries, 31, 37, "exact"))
    return root


def params(inputs: Path, **survey_changes: Any) -> dict[str, Any]:
    view = {"height": HEIGHT, "width": WIDTH, "num_inference_steps": 10, "steps": [2, 9], "layers": [1, 3]}
    return {
        "item": {"backbone": "tiny", "view": "analysis"},
        "backbones": {"tiny": {"path": str(inputs / "backbone")}},
        "extract": {"analysis": {**view, "num_frames": NUM_FRAMES}, "tracking": view},
        "match": {"per_head": True, "device": "cpu"},
        "survey": {"steps": [2, 9], "layers": [1, 3], "per_head": True} | survey_changes,
    }


def run_survey(inputs: Path, out: Path, **survey_changes: Any) -> Path:
    deps = {"clips": inputs / "clips", "tracks": inputs / "tracks"}
    survey.main(params(inputs, **survey_changes), deps, {"matches": out})
    return out


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("stored_as", ["float16", "int8"])
def test_a_survey_finds_exactly_what_extract_and_match_find(inputs: Path, tmp_path: Path, stored_as: str) -> None:
    given = params(inputs)
    given["extract"]["store"] = {"dtype": stored_as}
    deps = {"clips": inputs / "clips", "tracks": inputs / "tracks"}
    extract.main(given, deps, {"descriptors": tmp_path / "descriptors"})
    match.main(given["match"], deps | {"descriptors": tmp_path / "descriptors"}, {"matches": tmp_path / "matches"})
    survey.main(given, deps, {"matches": tmp_path / "survey"})
    assert result_groups(tmp_path / "survey") == list(CLIPS)
    for clip in CLIPS:
        kept, surveyed = (read_results(tmp_path / name, clip) for name in ("matches", "survey"))
        xr.testing.assert_equal(surveyed, kept)
        assert {name: surveyed.attrs[name] for name in kept.attrs} == kept.attrs


def test_a_survey_covers_the_whole_map_by_default_and_score_reads_it(inputs: Path, tmp_path: Path) -> None:
    run_survey(inputs, tmp_path / "survey", steps="all", layers="all", per_head=False, kinds=["feature"])
    matches = read_results(tmp_path / "survey", "first")
    assert matches.step.values.tolist() == list(range(10))
    assert matches.layer.values.tolist() == [0, 1, 2, 3]
    assert "head_match_xy_px" not in matches
    outs = {name: tmp_path / name for name in ("scores", "table", "best_layers", "summary")}
    deps = {"clips": inputs / "clips", "tracks": inputs / "tracks", "matches": tmp_path / "survey"}
    score.main({}, deps, outs)
    assert len(outs["table"].read_text().splitlines()) == 1 + 3 * 10 * 4


def test_what_is_there_is_kept_and_what_changed_is_redone(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run_survey(inputs, tmp_path / "survey", kinds=["feature"])
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    run_survey(inputs, out, kinds=["feature"])
    assert {file: file.stat().st_mtime_ns for file in before} == before
    (out / "second" / "zarr.json").unlink()
    damaged = next(file for file in before if "first" in str(file) and file.stat().st_size > 500)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    undisturbed = run_survey(inputs, tmp_path / "again", kinds=["feature"])
    run_survey(inputs, out, kinds=["feature"])
    assert digest(out) == digest(undisturbed)
    run_survey(inputs, out, kinds=["feature"], steps=[9])
    assert read_results(out, "first").step.values.tolist() == [9]


def test_parts_cover_all_clips_and_a_clip_without_tracks_is_named(inputs: Path, tmp_path: Path) -> None:
    given, deps = params(inputs, kinds=["feature"]), {"clips": inputs / "clips", "tracks": inputs / "tracks"}
    for part in ("1/2", "2/2"):
        given["item"]["part"] = part
        survey.main(given, deps, {"matches": tmp_path / "parts"})
    assert digest(tmp_path / "parts") == digest(run_survey(inputs, tmp_path / "whole", kinds=["feature"]))
    with pytest.raises(SystemExit, match=r"1 of 1 clip failed\n  second: .*the tracks do not exist"):
        survey.main(given, deps | {"tracks": tmp_path}, {"matches": tmp_path / "none"})


def test_a_clip_that_changed_is_surveyed_again(inputs: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    frames = np.random.default_rng(0).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
    clip = Clip("first", frames, fps=8.0, prompt="a red disc moves", source="rendered")
    deps = {"clips": clips, "tracks": inputs / "tracks"}
    found = []
    for version in (clip, replace(clip, frames=255 - frames)):
        write_clip(clips, version)
        survey.main(params(inputs, kinds=["feature"]), deps, {"matches": tmp_path / "survey"})
        found.append(read_results(tmp_path / "survey", "first"))
    assert found[0].attrs["descriptors"] != found[1].attrs["descriptors"]
    assert not found[0]["feature_match_probability"].equals(found[1]["feature_match_probability"])


def test_points_that_lie_alike_but_are_numbered_otherwise_are_surveyed_again(inputs: Path, tmp_path: Path) -> None:
    starts = np.array([[0, 5, 7], [3, 20, 11], [0, 30, 25]], dtype=np.float32)
    deps = {"clips": inputs / "clips", "tracks": tmp_path / "tracks"}
    for order in ([0, 1, 2], [0, 2, 1]):
        queries = starts[order]
        points = np.repeat(queries[None, :, 1:], 11, axis=0)
        for clip in CLIPS:
            write_tracks(deps["tracks"], clip, Tracks(points, np.ones((11, 3), bool), queries, 31, 37, "exact"))
        survey.main(params(inputs, kinds=["feature"]), deps, {"matches": tmp_path / "survey"})
        found = read_results(tmp_path / "survey", "first")["point"].values.tolist()
        assert found == [place for place, number in enumerate(order) if number != 1]


def test_a_clip_that_is_gone_leaves_the_survey(inputs: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(inputs / "clips", clips)
    deps = {"clips": clips, "tracks": inputs / "tracks"}
    survey.main(params(inputs, kinds=["feature"]), deps, {"matches": tmp_path / "survey"})
    shutil.rmtree(clips / "second")
    survey.main(params(inputs, kinds=["feature"]), deps, {"matches": tmp_path / "survey"})
    assert result_groups(tmp_path / "survey") == ["first"]


# A clip that is too large for the card


@pytest.mark.parametrize(
    ("stage", "error", "said"),
    [
        ("extract", torch.OutOfMemoryError("CUDA out of memory.\nTried 9 GiB"), r"memory .* \(CUDA .* Tried 9 GiB\); "),
        ("survey", MemoryError(), r"memory has run out; "),
        ("extract", RuntimeError("Kernel size is 5"), r"failed with RuntimeError: Kernel size is 5; "),
    ],
    ids=["gpu", "host", "size"],
)
def test_a_clip_too_large_for_the_card_is_named_with_the_keys_and_the_others_go_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, error: Exception, said: str
) -> None:
    encode = Backbone.encode
    calls: list[int] = []

    def first_fails(self: Backbone, *args: Any, **choices: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return encode(self, *args, **choices)

    monkeypatch.setattr(Backbone, "encode", first_fails)
    given, deps = params(inputs, kinds=["feature"]), {"clips": inputs / "clips", "tracks": inputs / "tracks"}
    keys = r"set backbones.tiny.memory to auto, or make extract.analysis.num_frames, height or width smaller"
    run, out = {"extract": (extract.main, "descriptors"), "survey": (survey.main, "matches")}[stage]
    with pytest.raises(SystemExit, match=rf"1 of 2 clips failed\n  first: .*{said}.*{keys}$"):
        run(given, deps, {out: tmp_path / out})
    assert len(calls) == 2
    done = result_groups(tmp_path / out) if stage == "survey" else open_store(tmp_path / out).groups()
    assert "second" in done


def test_a_gpu_that_cannot_go_on_ends_the_stage(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Backbone, *args: Any, **choices: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Backbone, "encode", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_survey(inputs, tmp_path / "survey", kinds=["feature"])
