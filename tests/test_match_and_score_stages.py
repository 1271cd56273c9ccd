"""From a store of descriptors and tracks to matches, scores and the ranking of layers."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftrack.correspondence import MatchSection
from difftrack.datasets import Clip, Tracks, read_tracks, write_clip, write_tracks
from difftrack.geometry import TokenGrid
from difftrack.params import ParamsError
from difftrack.pipeline import match, score
from difftrack.store import DescriptorSpec, create_group, read_results

TOP = Path(__file__).parents[1]
GRID = TokenGrid(num_latent_frames=3, rows=5, cols=7, stride_px=8, temporal_stride=2)
STEPS, LAYERS, HEADS, CHANNELS = (0, 3), (1, 4), (0, 1), 64
GOOD_LAYER = 4
NUM_FRAMES = 5
CLIP_SCALE = 2
"""The clips are twice as large as the backbone's input."""
SPEEDS = {"still": 0, "right": 1}
"""Tokens by which everything moves to the right per latent frame."""


def write_artifacts(root: Path) -> dict[str, Path]:
    """Write two clips whose second layer matches perfectly, while the first attends to everything alike."""
    deps = {name: root / name for name in ("clips", "tracks", "descriptors")}
    for number, (name, speed) in enumerate(SPEEDS.items()):
        height, width = CLIP_SCALE * GRID.height, CLIP_SCALE * GRID.width
        frames = np.zeros((NUM_FRAMES, height, width, 3), dtype=np.uint8)
        details = {"render": {"split": "easy"}} if name == "still" else {}
        source = "rendered" if name == "still" else "generated"
        write_clip(deps["clips"], Clip(name=name, frames=frames, fps=8.0, prompt="", source=source, details=details))
        write_tracks(deps["tracks"], name, exact_tracks(speed, height, width))
        writer = create_group(deps["descriptors"], name, spec_of(name, height, width))
        random = np.random.default_rng(number)
        for step in STEPS:
            for layer in LAYERS:
                writer.write(step, layer, descriptors(speed if layer == GOOD_LAYER else None, random))
        writer.finish()
    return deps


def exact_tracks(speed: int, height: int, width: int) -> Tracks:
    """Two points queried in frame 0, one in frame 2."""
    starts = np.array([[24.0, 8.0], [8.0, 72.0], [40.0, 40.0]], dtype=np.float32)
    shift = np.arange(NUM_FRAMES, dtype=np.float32) * speed * GRID.stride_px * CLIP_SCALE / GRID.temporal_stride
    points = np.repeat(starts[None], NUM_FRAMES, axis=0)
    points[..., 0] += shift[:, None]
    queries = np.column_stack([[0, 0, 2], points[[0, 0, 2], [0, 1, 2]]]).astype(np.float32)
    return Tracks(points, np.ones(points.shape[:2], dtype=bool), queries, height, width, "exact")


def spec_of(name: str, height: int, width: int) -> DescriptorSpec:
    return DescriptorSpec(
        steps=STEPS,
        timesteps=(999.0, 19.0),
        layers=LAYERS,
        heads=HEADS,
        num_channels=CHANNELS,
        grid=GRID,
        frames=(0, 2, 4),
        clip_size=(height, width),
        size=(GRID.height, GRID.width),
        text_mask=(True, True, False),
        fingerprint_parts={"clip": name},
    )


def descriptors(speed: int | None, random: np.random.Generator) -> dict[str, np.ndarray]:
    """One distinct direction per token, carried along with the motion; or noise."""
    shape = (len(HEADS), GRID.num_latent_frames, GRID.rows, GRID.cols, CHANNELS)
    text = 0.1 * random.standard_normal((len(HEADS), 3, CHANNELS)).astype(np.float32)
    if speed is None:
        video = {kind: 0.1 * random.standard_normal(shape).astype(np.float32) for kind in ("query", "key", "feature")}
        return {**video, "text_key": text}
    tokens = 12 * np.eye(CHANNELS, dtype=np.float32)[: GRID.tokens_per_frame].reshape(GRID.rows, GRID.cols, CHANNELS)
    frames = [np.roll(tokens, frame * speed, axis=1) for frame in range(GRID.num_latent_frames)]
    moved = np.broadcast_to(np.stack(frames), shape).copy()
    return {"query": moved, "key": moved, "feature": moved, "text_key": text}


def run_match(deps: dict[str, Path], root: Path, **params: Any) -> Path:
    match.main(params, deps, {"matches": root / "matches"})
    return root / "matches"


def run_score(deps: dict[str, Path], matches: Path, root: Path, **params: Any) -> dict[str, Path]:
    files = {
        "scores": "scores.json",
        "summary": "summary.json",
        "table": "scores.csv",
        "best_layers": "best_layers.json",
    }
    outs = {name: root / file for name, file in files.items()}
    score.main(params, {**deps, "matches": matches}, outs)
    return outs


def test_matches_follow_the_motion_in_pixels_of_the_size_that_the_backbone_saw(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    matches = read_results(run_match(deps, tmp_path, device="cpu"), "right")
    assert matches.match_xy_px.dims == ("step", "layer", "latent_frame", "point", "xy")
    assert matches.point.values.tolist() == [0, 1]
    np.testing.assert_allclose(matches.query_xy_px, [[12, 4], [4, 36]])
    expected = np.array([[[12, 4], [4, 36]], [[20, 4], [12, 36]], [[28, 4], [20, 36]]])
    for name in ("match_xy_px", "feature_match_xy_px"):
        found = matches[name].sel(layer=GOOD_LAYER)
        np.testing.assert_allclose(found.values, np.broadcast_to(expected, found.shape), atol=1e-4)
    assert matches.head_match_xy_px.sizes["head"] == len(HEADS)
    mass = matches.attention_mass.sum("latent_frame") + matches.text_mass
    np.testing.assert_allclose(mass, np.ones(mass.shape), atol=1e-5)
    assert matches.attrs["convention"] == "corrected"
    assert matches.attrs["matching"]["temperature"] == "root_channel"


def test_scores_find_the_layer_that_knows_the_motion(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    outs = run_score(deps, run_match(deps, tmp_path, device="cpu"), tmp_path, threshold_px=4.0)
    scores = json.loads(outs["scores"].read_text())
    assert (scores["convention"], scores["match_convention"]) == ("corrected", ["corrected"])
    assert {name: group["clips"] for name, group in scores["groups"].items()} == {
        "all": ["right", "still"],
        "truth": ["right", "still"],
        "generated": ["right"],
        "rendered/easy": ["still"],
    }
    accuracy = scores["groups"]["all"]["scores"]["matching_accuracy"]
    assert accuracy["axes"] == ["step", "layer"]
    for bad_layer, good_layer in accuracy["values"]:
        assert bad_layer < 0.8
        assert good_layer == 1.0
    best = json.loads(outs["best_layers"].read_text())
    assert best["layers"][0] == GOOD_LAYER
    assert set(best) == {"ranked_by", "layers"}
    summary = json.loads(outs["summary"].read_text())
    assert summary["matching_accuracy"] == {
        "layer": GOOD_LAYER,
        "step": summary["matching_accuracy"]["step"],
        "value": 1.0,
    }
    with outs["table"].open() as file:
        rows = list(csv.DictReader(file))
    per_cell = 1 + len(HEADS)
    assert len(rows) == 4 * len(STEPS) * len(LAYERS) * per_cell
    assert sum(row["head"] == "" for row in rows) * per_cell == len(rows)


def test_the_ranking_and_the_summary_are_over_clips_of_exact_or_annotated_truth(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    matches = run_match(deps, tmp_path, device="cpu", per_head=False)
    guessed = read_tracks(deps["tracks"], "right")
    wrong = replace(guessed, points_xy_px=guessed.points_xy_px[::-1].copy(), tracker="lucas_kanade")
    write_tracks(deps["tracks"], "right", wrong)
    outs = run_score(deps, matches, tmp_path, threshold_px=4.0)
    scores, summary = (json.loads(outs[name].read_text()) for name in ("scores", "summary"))
    assert (scores["headline"], summary["group"], summary["num_clips"]) == ("truth", "truth", 1)
    assert scores["groups"]["truth"]["clips"] == ["still"]
    assert scores["groups"]["pseudo_truth/lucas_kanade"]["clips"] == ["right"]
    assert scores["truth"]["right"] == {"kind": "pseudo_truth", "tracker": "lucas_kanade"}
    assert summary["matching_accuracy"]["value"] == 1.0
    assert np.max(scores["groups"]["all"]["scores"]["matching_accuracy"]["values"]) < 1.0
    write_tracks(deps["tracks"], "still", replace(read_tracks(deps["tracks"], "still"), tracker="lucas_kanade"))
    only_guessed = json.loads(run_score(deps, matches, tmp_path)["summary"].read_text())
    assert (only_guessed["group"], only_guessed["num_clips"]) == ("pseudo_truth/lucas_kanade", 2)


def test_released_scores_count_the_given_frame_and_say_so(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    matches = run_match(deps, tmp_path, device="cpu", per_head=False)
    corrected, released = (
        json.loads(run_score(deps, matches, tmp_path / name, convention=name)["scores"].read_text())
        for name in ("corrected", "released")
    )
    assert released["convention"] == "released"
    tables = [scores["groups"]["all"]["scores"]["matching_accuracy"]["values"] for scores in (corrected, released)]
    assert tables[0][0][0] < tables[1][0][0]


def test_one_kind_and_no_heads_leave_the_rest_out(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    matches = run_match(deps, tmp_path, kinds=["feature"], device="cpu")
    assert set(read_results(matches, "still").data_vars) == {
        "feature_match_xy_px",
        "feature_match_probability",
        "feature_match_margin",
        "query_xy_px",
    }
    best = json.loads(run_score(deps, matches, tmp_path)["best_layers"].read_text())
    assert best["ranked_by"] == "feature_accuracy"
    assert best["layers"][0] == GOOD_LAYER


def test_a_clip_without_points_in_its_first_frame_is_empty_and_no_mean_counts_it(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    tracks = exact_tracks(0, CLIP_SCALE * GRID.height, CLIP_SCALE * GRID.width)
    write_tracks(deps["tracks"], "still", tracks.select(np.array([False, False, True])))
    outs = run_score(deps, run_match(deps, tmp_path, device="cpu"), tmp_path)
    groups = json.loads(outs["scores"].read_text())["groups"]
    assert groups["all"]["empty_clips"] == ["still"]
    assert groups["all"]["scores"]["matching_accuracy"] == groups["generated"]["scores"]["matching_accuracy"]
    assert groups["rendered/easy"]["scores"]["matching_accuracy"]["values"] == [[None, None], [None, None]]


def test_a_clip_without_tracks_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    (deps["tracks"] / "right.npz").unlink()
    with pytest.raises(SystemExit, match=r"1 of 2 clips failed.*\n  right: .*the tracks do not exist"):
        run_match(deps, tmp_path, device="cpu", per_head=False)
    assert read_results(tmp_path / "matches", "still").sizes["point"] == 2


def test_a_misspelt_override_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"unknown key match\.matching\.widow_radius"):
        match.main({"matching": {"widow_radius": 1}}, {}, {})
    with pytest.raises(ParamsError, match=r"score\.scoring\.decimals is 'four'"):
        score.main({"scoring": {"decimals": "four"}}, {}, {})


def test_matching_by_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kinds is empty; expected at least one of query_key"):
        MatchSection(kinds=())


def test_where_nothing_can_be_scored_the_ranking_is_empty_and_files_are_written(tmp_path: Path) -> None:
    deps = write_artifacts(tmp_path)
    tracks = exact_tracks(0, CLIP_SCALE * GRID.height, CLIP_SCALE * GRID.width)
    for name in ("still", "right"):
        write_tracks(deps["tracks"], name, tracks.select(np.array([False, False, True])))
    outs = run_score(deps, run_match(deps, tmp_path, device="cpu"), tmp_path)
    assert json.loads(outs["best_layers"].read_text())["layers"] == []
    summary = json.loads(outs["summary"].read_text())
    assert (summary.pop("group"), summary.pop("num_clips")) == ("truth", 2)
    assert set(summary.values()) == {None}


def test_a_threshold_stands_in_one_place() -> None:
    with pytest.raises(ParamsError, match=r"scoring must not contain threshold_px; set score\.threshold_px"):
        score.main({"scoring": {"threshold_px": 4.0}}, {}, {})


def test_stages_that_only_read_what_others_computed_wait_for_no_torch() -> None:
    code = (
        "import sys, stages.annotate, stages.score, stages.report; print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "zarr"} & set(done.stdout.split())
