"""Measures of motion and consistency, on videos whose motion is known."""

import stat
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from difftrack.quality import QualityError, mean_with_interval, measure_video, vbench_scores

FRAMES, HEIGHT, WIDTH = 7, 64, 96
SCALE = 256 / HEIGHT


def texture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]


def panned(pixels_per_frame: int) -> np.ndarray:
    wide = texture()
    return np.stack([wide[20 : 20 + HEIGHT, i * pixels_per_frame :][:, :WIDTH] for i in range(FRAMES)])


def test_a_still_video_neither_moves_nor_errs() -> None:
    measures = measure_video(panned(0))
    assert measures.motion_px == measures.dynamic_degree == measures.warped_error == 0
    assert measures.cycle_error_px < 1e-3


def test_motion_is_the_speed_at_a_shorter_side_of_256_px() -> None:
    for speed, is_dynamic in ((1, 0.0), (3, 1.0)):
        measures = measure_video(panned(speed))
        assert measures.motion_px == pytest.approx(speed * SCALE, rel=0.1)
        assert measures.dynamic_degree == is_dynamic


def test_one_moving_patch_counts_as_motion_of_the_fastest_pixels() -> None:
    frames, wide = panned(0).copy(), texture()
    for i in range(FRAMES):
        frames[i, 20:44, 10 + 3 * i : 34 + 3 * i] = wide[70:94, 50:74]
    measures = measure_video(frames)
    assert measures.motion_px == pytest.approx(3 * SCALE, rel=0.2)
    assert measures.dynamic_degree == 1


def test_moving_rigidly_is_consistent_and_boiling_is_not() -> None:
    rigid = measure_video(panned(2))
    noise = np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    boiling = measure_video(noise)
    assert rigid.warped_error < 1e-4 < 1e-2 < boiling.warped_error
    assert rigid.cycle_error_px < 2 < 16 < boiling.cycle_error_px <= 32


def test_points_that_leave_the_picture_are_no_errors() -> None:
    """Two thirds of the grid have left at the end; if they were errors, the mean would be above 20 px."""
    assert measure_video(panned(10)).cycle_error_px < 5


def test_blur_lowers_sharpness_and_little_else() -> None:
    sharp = panned(2)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in sharp])
    assert measure_video(blurred).sharpness < 0.5 * measure_video(sharp).sharpness
    assert measure_video(blurred).motion_px == pytest.approx(measure_video(sharp).motion_px, rel=0.1)


def test_videos_without_motion_to_speak_of_are_refused() -> None:
    with pytest.raises(QualityError, match="1 frames"):
        measure_video(panned(0)[:1])
    with pytest.raises(QualityError, match="96x31"):
        measure_video(panned(0)[:, :31])


def test_interval_holds_the_mean_and_shrinks_with_the_number_of_videos() -> None:
    values = np.random.default_rng(2).normal(5.0, 1.0, 400)
    few, many = mean_with_interval(values[:16]), mean_with_interval(values)
    for interval in (few, many):
        assert interval.low < interval.mean < interval.high  # type: ignore[operator]
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.15)  # type: ignore[operator]
    assert few.high - few.low > 2 * (many.high - many.low)  # type: ignore[operator]
    assert asdict(mean_with_interval(np.array([3.0]))) == {"mean": 3.0, "low": None, "high": None}
    with pytest.raises(QualityError, match="values is empty"):
        mean_with_interval(np.array([], dtype=np.float64))


def test_vbench_says_what_is_missing_where_it_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match="in a separate environment"):
        vbench_scores({"a": tmp_path / "a.mp4"}, executable=str(tmp_path / "vbench"))
    with pytest.raises(QualityError, match="loudness"):
        vbench_scores({"a": tmp_path / "a.mp4"}, dimensions=["loudness"])


def write_program(path: Path, body: str) -> str:
    path.write_text(f"#!/usr/bin/env python3\nimport json, pathlib, sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


LIKE_VBENCH = """
import argparse, os
parser = argparse.ArgumentParser()
evaluate = parser.add_subparsers(required=True).add_parser("evaluate")
evaluate.add_argument("--output_path", type=str, default="./evaluation_results/")
evaluate.add_argument("--videos_path", type=str, required=True)
evaluate.add_argument("--dimension", type=str, required=True)
evaluate.add_argument("--mode", choices=["custom_input", "vbench_standard"], default="vbench_standard")
asked = parser.parse_args()
assert asked.mode == "custom_input"
assert os.environ["PATH"].split(os.pathsep)[0] == str(pathlib.Path(__file__).parent)
out = pathlib.Path(asked.output_path)
out.mkdir()
videos = sorted(pathlib.Path(asked.videos_path).iterdir())
scores = [{"video_path": str(video), "video_results": len(video.read_bytes())} for video in videos]
results = {name: [0.5, scores] for name in asked.dimension.split()}
(out / "results_1_eval_results.json").write_text(json.dumps(results))
"""
"""Accepts what the parser of vbench 0.1.5 accepts, and like it looks for `python` in PATH: its own must come first."""


def test_vbench_is_given_the_videos_and_its_scores_come_back_by_name(tmp_path: Path) -> None:
    program = write_program(tmp_path / "vbench", LIKE_VBENCH)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * (3 if name == "a" else 5))
    dimensions = ["dynamic_degree", "imaging_quality"]
    found = vbench_scores({n: tmp_path / n for n in ("a", "b")}, dimensions=dimensions, executable=program)
    assert found == {"dynamic_degree": {"a": 3.0, "b": 5.0}, "imaging_quality": {"a": 0.03, "b": 0.05}}


def test_vbench_that_fails_is_told_with_its_own_words(tmp_path: Path) -> None:
    program = write_program(tmp_path / "vbench", "sys.exit('no weights for ' + json.dumps('raft'))")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(QualityError, match='no weights for "raft"'):
        vbench_scores({"a": tmp_path / "a.mp4"}, executable=program)
