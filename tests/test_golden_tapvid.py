"""Parity of TAP-Vid metrics with the released code's numbers (golden 07)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from golden_sets import FULL, golden_files, load

from difftrack.metrics import ScoringParams, TapvidMetrics, mean_over_clips, tapvid_metrics

FILE = "07_tapvid_metrics.npz"


def evaluate(arrays: dict[str, np.ndarray], case: str, params: ScoringParams) -> TapvidMetrics:
    """Turn the set's [video, point, frame] and `occluded` into our [video, frame, point] and `visible`."""
    given = {name.removeprefix(f"{case}__"): array for name, array in arrays.items() if name.startswith(f"{case}__")}
    return tapvid_metrics(
        given["pred_tracks"].swapaxes(1, 2),
        ~given["pred_occluded"].swapaxes(1, 2),
        given["gt_tracks"].swapaxes(1, 2),
        ~given["gt_occluded"].swapaxes(1, 2),
        np.round(given["query_points"][..., 0]).astype(np.int64),
        query_mode="strided" if case.startswith("strided") else "first",
        params=params,
    )


def cases(path: Path) -> list[str]:
    return sorted({name.split("__")[0] for name in load(path)})


@pytest.mark.parametrize("path", golden_files(FILE))
def test_every_metric_of_every_case_is_reproduced(path: Path) -> None:
    arrays = load(path)
    names = json.loads((path.parent / "07_metric_names.json").read_text())
    for case in cases(path):
        found = evaluate(arrays, case, ScoringParams.preset("released")).as_dict()
        assert list(found)[:1] == names[:1]
        table = np.stack([found[name] for name in names])
        np.testing.assert_allclose(table, arrays[f"{case}__metrics"], atol=1e-12, err_msg=case)


@pytest.mark.parametrize("path", golden_files(FILE, "first_b3__metrics"))
def test_corrected_occlusion_accuracy_of_a_batch_is_that_of_each_video_alone(path: Path) -> None:
    arrays = load(path)
    corrected = ScoringParams.preset("corrected")
    together = evaluate(arrays, "first_b3", corrected)
    for video in range(len(together.occlusion_accuracy)):
        alone = {name: array[[video]] for name, array in arrays.items() if name.startswith("first_b3__g")}
        alone |= {
            name: array[[video]] for name, array in arrays.items() if name.startswith(("first_b3__p", "first_b3__q"))
        }
        expected = evaluate(alone, "first_b3", corrected).occlusion_accuracy[0]
        assert together.occlusion_accuracy[video] == expected
    released = evaluate(arrays, "first_b3", ScoringParams.preset("released"))
    assert (released.occlusion_accuracy < together.occlusion_accuracy).all()


@pytest.mark.parametrize("path", golden_files(FILE, "first_all_occluded__metrics"))
def test_a_video_without_visible_points_empties_only_the_released_mean(path: Path) -> None:
    arrays = load(path)
    per_video = evaluate(arrays, "first_all_occluded", ScoringParams.preset("corrected")).average_points_within
    corrected = mean_over_clips(per_video, params=ScoringParams.preset("corrected"))
    seen = ~np.isnan(per_video)
    assert seen.sum() == 1
    assert (corrected.mean, corrected.num_clips, corrected.num_empty) == (per_video[seen][0], len(per_video), 1)
    assert np.isnan(mean_over_clips(per_video, params=ScoringParams.preset("released")).mean)


@pytest.mark.skipif(not (FULL / FILE).exists(), reason=f"no goldens in {FULL}: set DIFFTRACK_FIXTURES")
def test_means_of_the_released_log_are_those_of_the_released_convention() -> None:
    """Two videos and their means, then one without visible points, which empties every mean."""
    lines = json.loads((FULL / "07_evaluator_log.json").read_text())
    videos: list[list[float]] = []
    means: list[float] = []
    for line in lines:
        values = [float(value) for value in re.findall(r": ([\d.]+|nan)", line)]
        if not line.startswith("Video"):
            means += values
            continue
        if means:  # the released report of the videos so far
            assert_means(videos, means)
            means = []
        videos.append(values)
    assert_means(videos, means)
    assert np.isnan(means).all()


def assert_means(videos: list[list[float]], printed: list[float]) -> None:
    released = mean_over_clips(np.asarray(videos) / 100, params=ScoringParams.preset("released")).mean * 100
    np.testing.assert_allclose(released, printed, atol=0.06)
    corrected = mean_over_clips(np.asarray(videos) / 100, params=ScoringParams.preset("corrected")).mean
    assert np.isfinite(corrected).all()
