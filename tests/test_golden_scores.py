"""Parity of scores with the released code's numbers (goldens 02, 03, 04)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import FULL, about, golden_files, load, numbers, token_stride_px
from torch import Tensor

from difftrack.correspondence import MatchingParams, attention_of_points, attention_rows, points_to_tokens
from difftrack.metrics import (
    ScoringParams,
    attention_score,
    confidence_score,
    harmonic_mean,
    matching_accuracy,
    mean_over_clips,
    round_accuracy,
)

RELEASED = ScoringParams.preset("released")
UNROUNDED = ScoringParams.preset("released", {"decimals": 12})
MATCHING = FULL / "01_matching.npz"


@dataclass(frozen=True)
class RealGrid:
    """Queries and keys of golden 01, text tokens first, on the grid of its maps."""

    query: Tensor
    key: Tensor
    text_key: Tensor
    stride_px: int
    arrays: dict[str, np.ndarray]

    def tokens(self, points_xy_px: np.ndarray, params: MatchingParams) -> Tensor:
        return points_to_tokens(torch.from_numpy(points_xy_px), stride_px=self.stride_px, params=params)

    def rows(self, points_xy_px: np.ndarray, params: MatchingParams) -> np.ndarray:
        """Attention over all tokens, text first."""
        all_count = torch.ones(self.text_key.shape[1], dtype=torch.bool)
        points = self.tokens(points_xy_px, params)
        return attention_rows(self.query, self.key, self.text_key, all_count, points, params=params).numpy()


@cache
def real_grid() -> RealGrid:
    arrays = load(MATCHING)
    rows, cols = arrays["map_qk"].shape[1:3]
    query, key = (torch.from_numpy(arrays[name].astype(np.float32)) for name in "qk")
    text = query.shape[1] % (rows * cols)
    video = [tokens[:, text:].reshape(len(tokens), -1, rows, cols, tokens.shape[-1]) for tokens in (query, key)]
    return RealGrid(video[0], video[1], key[:, :text], token_stride_px(MATCHING), arrays)


def frames_per_latent(visible: np.ndarray, num_latent_frames: int) -> int:
    return (len(visible) - 1) // (num_latent_frames - 1)


def real_attention(points: str, params: MatchingParams) -> dict[str, np.ndarray]:
    """Reduce the attention of golden 01's grid points."""
    real = real_grid()
    rows = attention_of_points(
        real.query,
        real.key,
        real.text_key,
        torch.ones(real.text_key.shape[1], dtype=torch.bool),
        real.tokens(real.arrays[f"grid_{points}"], params),
        params=params,
    )
    return {
        "frame_max": rows.frame_max.numpy(),
        "frame_mass": rows.frame_mass.numpy(),
        "text_max": rows.text_max.numpy(),
        "text_mass": rows.text_mass.numpy(),
    }


@pytest.mark.parametrize("points", ["fg", "bg"])
@pytest.mark.parametrize("path", golden_files("02_attention_scores.npz", "cell_max_fg"))
def test_confidence_and_attention_cells_of_the_real_grid_are_reproduced(path: Path, points: str) -> None:
    arrays = load(path)
    rows = real_attention(points, MatchingParams.preset("released"))
    visible = arrays[f"visibility_{points}"]
    stride = frames_per_latent(visible, len(rows["frame_max"]))
    confidence = confidence_score(rows["frame_max"], rows["text_max"], visible, temporal_stride=stride, params=RELEASED)
    attention = attention_score(rows["frame_mass"], rows["text_mass"], visible, params=RELEASED)
    for scores, name in ((confidence, "cell_max"), (attention, "cell_sum")):
        np.testing.assert_allclose(
            [scores.text, scores.self_frame, scores.cross], arrays[f"{name}_{points}"], atol=1e-9
        )
    row_max = np.maximum(rows["frame_max"].max(axis=0), rows["text_max"])
    np.testing.assert_allclose(row_max, arrays[f"attn_rowmax_{points}"], atol=5e-6)
    text_self = np.stack([rows["text_max"], rows["frame_max"][0]])
    np.testing.assert_allclose(text_self, arrays[f"max_text_self_cross_{points}"][:2], atol=5e-6)
    masses = np.stack([rows["text_mass"], rows["frame_mass"][0], rows["frame_mass"][1:].sum(axis=0)])
    np.testing.assert_allclose(masses[:, visible[0]], arrays[f"sum_text_self_cross_{points}"], atol=5e-6)
    np.testing.assert_array_equal(latents_that_count(visible, stride), arrays[f"cross_valid_count_{points}"])


def latents_that_count(visible: np.ndarray, stride: int) -> np.ndarray:
    """Latent frames that enter each point's confidence; each alone gives more than 0 where it counts."""
    num_latent_frames, num_points = (len(visible) - 1) // stride + 1, visible.shape[1]
    count = np.zeros(num_points)
    for point in range(num_points):
        for latent in range(1, num_latent_frames):
            alone = np.zeros((num_latent_frames, 1))
            alone[latent] = 1
            score = confidence_score(
                alone, np.zeros(1), visible[:, [point]], temporal_stride=stride, params=UNROUNDED
            ).cross
            count[point] += score > 0
    return count


@pytest.mark.parametrize("points", ["fg", "bg"])
@pytest.mark.parametrize("path", golden_files("02_attention_scores.npz", "attn_rows_fg"))
def test_attention_rows_of_the_real_grid_are_reproduced(path: Path, points: str) -> None:
    arrays, real = load(path), real_grid()
    chosen = real.arrays[f"grid_{points}"][arrays[f"attn_rows_idx_{points}"]]
    found = real.rows(chosen, MatchingParams.preset("released"))
    np.testing.assert_allclose(found, arrays[f"attn_rows_{points}"], atol=5e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    if f"attn_rows_fixed_{points}" in arrays:
        fixed = arrays[f"attn_rows_fixed_{points}"]
        unswapped = MatchingParams.preset("released", {"attention_axes": "xy"})
        np.testing.assert_allclose(real.rows(chosen[: len(fixed)], unswapped), fixed, atol=5e-6)


@pytest.mark.parametrize("path", golden_files("02_attention_scores.npz", "attn_rowmax_coords"))
def test_points_off_the_grid_pick_the_token_that_the_released_rounding_and_clipping_does(path: Path) -> None:
    arrays, real = load(path), real_grid()
    found = real.rows(real.arrays["query_coords"][0], MatchingParams.preset("released"))
    np.testing.assert_allclose(found.max(axis=-1), arrays["attn_rowmax_coords"], atol=5e-6)
    np.testing.assert_array_equal(found.argmax(axis=-1), arrays["attn_argmax_coords"])


@pytest.mark.parametrize("path", golden_files("02_attention_scores.npz", "sum_text_self_cross_fixed_fg"))
def test_unswapped_axes_give_the_corrected_rows(path: Path) -> None:
    arrays = load(path)
    rows = real_attention("fg", MatchingParams.preset("released", {"attention_axes": "xy"}))
    masses = np.stack([rows["text_mass"], rows["frame_mass"][0], rows["frame_mass"][1:].sum(axis=0)])
    np.testing.assert_allclose(masses[:, arrays["visibility_fg"][0]], arrays["sum_text_self_cross_fixed_fg"], atol=5e-6)
    text_self = np.stack([rows["text_max"], rows["frame_max"][0]])
    np.testing.assert_allclose(text_self, arrays["max_text_self_cross_fixed_fg"][:2], atol=5e-6)


@pytest.mark.parametrize("text_first", [True, False], ids=["cogvideox", "hunyuan"])
@pytest.mark.parametrize("path", golden_files("02_attention_scores.npz", "small_attn"))
def test_scores_of_the_small_table_are_reproduced_point_by_point(path: Path, text_first: bool) -> None:
    arrays = load(path)
    model = "cogvideox" if text_first else "hunyuan"
    attention, visible = arrays["small_attn"], arrays["small_visibility"]
    num_text, num_latents, *_ = numbers(about(path, "small_attn"), r"(\d+) text \+ (\d+) frames x (\d+)x(\d+)")
    at = num_text if text_first else attention.shape[1] - num_text
    text, video = (attention[:, :at], attention[:, at:]) if text_first else (attention[:, at:], attention[:, :at])
    frames, stride = video.reshape(len(attention), num_latents, -1), frames_per_latent(visible, num_latents)
    frame_max, frame_mass = frames.max(axis=-1).T, frames.sum(axis=-1).T
    maxima, masses = text.max(axis=-1), text.sum(axis=-1)
    for point in range(len(attention)):
        alone = confidence_score(
            frame_max[:, [point]], maxima[[point]], visible[:, [point]], temporal_stride=stride, params=UNROUNDED
        )
        expected = arrays[f"small_max_{model}"][:, point]
        np.testing.assert_allclose([alone.text, alone.self_frame, alone.cross], expected, atol=5e-6)
    for column, point in enumerate(np.flatnonzero(visible[0])):
        mass = attention_score(frame_mass[:, [point]], masses[[point]], visible[:, [point]], params=UNROUNDED)
        expected = arrays[f"small_sum_{model}"][:, column]
        np.testing.assert_allclose([mass.text, mass.self_frame, mass.cross], expected, atol=5e-6)
    hidden_at_first = visible.copy()
    hidden_at_first[0] = False
    confidence = confidence_score(frame_max, maxima, hidden_at_first, temporal_stride=stride, params=RELEASED)
    mass = attention_score(frame_mass, masses, hidden_at_first, params=RELEASED)
    cells = [[scores.text, scores.self_frame, scores.cross] for scores in (confidence, mass)]
    np.testing.assert_allclose(cells, arrays[f"small_cells_none_visible_frame0_{model}"], atol=1e-9)


@pytest.mark.parametrize("path", golden_files("03_pck.npz", "exact_pred"))
def test_accuracy_is_strict_and_empty_without_visible_points(path: Path) -> None:
    arrays = load(path)
    predicted, visible = arrays["exact_pred"][0], arrays["exact_vis"][0]
    accuracy = matching_accuracy(predicted, np.zeros_like(predicted), visible, params=RELEASED)
    np.testing.assert_allclose(accuracy * 100, arrays["exact_pck"][0, 0], atol=1e-4)
    nothing = matching_accuracy(predicted, predicted, np.zeros_like(visible), params=RELEASED)
    np.testing.assert_array_equal(nothing, arrays["none_visible_pck"][0, 0])


@pytest.mark.parametrize("path", golden_files("03_pck.npz", "pck_table"))
def test_accuracy_of_the_released_trajectories_is_reproduced(path: Path) -> None:
    arrays, trajectories = load(path), load(path.parent / "01_matching.npz")

    def percent(predicted: np.ndarray, points: str, params: ScoringParams, every: int = 1) -> float:
        true, visible = arrays[f"gt_tracks_{points}"][:, ::every], arrays[f"gt_vis_{points}"][:, ::every]
        return 100 * float(matching_accuracy(predicted, true, visible, params=params))

    by_query_key, by_feature = trajectories["traj_qk_fg"], trajectories["traj_feat_fg"]
    assert percent(by_query_key, "fg", RELEASED) == pytest.approx(arrays["pck_table"][0, 0], abs=1e-4)
    assert percent(by_feature, "fg", RELEASED) == pytest.approx(arrays["pck_table"][1, 0], abs=1e-4)
    assert percent(trajectories["traj_qk_bg"], "bg", RELEASED) == pytest.approx(arrays["pck_bg"][0, 0], abs=1e-4)
    assert percent(trajectories["traj_feat_bg"], "bg", RELEASED) == pytest.approx(arrays["pck_bg"][0, 1], abs=1e-4)
    (every,) = numbers(about(path, "random_offset_fg"), r"every (\d+)th point")
    moved = arrays["gt_tracks_fg"][:, ::every] + arrays["random_offset_fg"]
    assert percent(moved, "fg", RELEASED, every=every) == pytest.approx(arrays["pck_random_subset"][0, 0], abs=1e-4)
    report = json.loads((path.parent / "03_pck_report.json").read_text())
    for points in ("fg", "bg"):
        without_the_given_frame = percent(trajectories[f"traj_qk_{points}"], points, ScoringParams.preset("corrected"))
        assert without_the_given_frame == pytest.approx(report[f"pck_without_frame0_qk_{points}"], abs=1e-4)
        assert without_the_given_frame < percent(trajectories[f"traj_qk_{points}"], points, RELEASED)
    for layer, (line, row) in enumerate(zip(report["lines"], arrays["pck_table"], strict=True)):
        assert line == f"Layer {layer}: " + ", ".join(f"{cell:.4f}" for cell in row)


@pytest.mark.parametrize("path", golden_files("03_pck.npz", "pck_table"))
def test_the_released_code_in_bfloat16_matches_worse_than_in_float32(path: Path) -> None:
    """Explains why scores of the released code, run in bfloat16 with its second softmax (A1), are below ours."""
    arrays, trajectories = load(path), load(path.parent / "01_matching.npz")
    exact, rounded = (
        float(matching_accuracy(found.astype(np.float32), arrays["gt_tracks_fg"], arrays["gt_vis_fg"]))
        for found in (trajectories["traj_qk_fg"], trajectories["traj_qk_fg_bf16_DO_NOT_MATCH"])
    )
    assert 0.005 < exact - rounded < 0.06


@pytest.mark.parametrize("path", golden_files("04_harmonic.npz", "harmonic"))
def test_harmonic_map_is_reproduced_from_rounded_cells(path: Path) -> None:
    arrays = load(path)
    accuracy = mean_over_clips(arrays["acc_raw"].round(4) / 100, params=RELEASED).mean
    accuracy = round_accuracy(accuracy, params=RELEASED)
    confidence = mean_over_clips(arrays["conf_raw"][:, 2].round(4), params=RELEASED).mean
    attention = mean_over_clips(arrays["attn_raw"][:, 2].round(4), params=RELEASED).mean
    np.testing.assert_allclose(accuracy * 100, arrays["acc_csv"][:, 1:], atol=1e-9)
    np.testing.assert_allclose(confidence.T, arrays["conf_mean_cross"], atol=1e-9)
    np.testing.assert_allclose(attention.T, arrays["attn_mean_cross"], atol=1e-9)
    harmonic = harmonic_mean(accuracy, confidence, attention, params=RELEASED)
    np.testing.assert_allclose(harmonic.T, arrays["harmonic"], atol=1e-9)
    confidence[3, 2] = np.nan
    assert not harmonic_mean(accuracy, confidence, attention, params=RELEASED).any()
    assert harmonic_mean(accuracy, confidence, attention, params=ScoringParams.preset("corrected")).any()


@pytest.mark.skipif(not MATCHING.exists(), reason=f"no goldens in {FULL}: set DIFFTRACK_FIXTURES")
def test_one_cell_without_a_number_empties_the_released_table_as_the_set_records() -> None:
    behaviour = json.loads((FULL / "04_harmonic_behaviour.json").read_text())
    assert behaviour["one NaN cell in the confidence table"] == "all zeros: True"
