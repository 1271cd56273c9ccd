"""Parity of scores with the released code's numbers (goldens 02, 03, 04)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import FULL, golden_files, load

from difftrack.correspondence import MatchingParams, attention_of_points, points_to_tokens
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
NO_TEXT_PADDING = torch.ones(5, dtype=torch.bool)


def real_attention(points: str, params: MatchingParams) -> dict[str, np.ndarray]:
    """Reduce the attention of the 480x720 fixture's grid points (5 text tokens, then 13 frames of 30x45)."""
    arrays = load(FULL / "01_matching.npz")
    query, key = (torch.from_numpy(arrays[name].astype(np.float32)) for name in "qk")
    text = query.shape[1] % 1350
    grid = points_to_tokens(torch.from_numpy(arrays[f"grid_{points}"]), stride_px=16, params=params)
    rows = attention_of_points(
        query[:, text:].reshape(3, 13, 30, 45, 16),
        key[:, text:].reshape(3, 13, 30, 45, 16),
        key[:, :text],
        NO_TEXT_PADDING,
        grid,
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
    confidence = confidence_score(rows["frame_max"], rows["text_max"], visible, temporal_stride=4, params=RELEASED)
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
    text, video = (attention[:, :7], attention[:, 7:]) if text_first else (attention[:, -7:], attention[:, :-7])
    frames = video.reshape(14, 5, 24)
    frame_max, frame_mass = frames.max(axis=-1).T, frames.sum(axis=-1).T
    maxima, masses = text.max(axis=-1), text.sum(axis=-1)
    for point in range(14):
        alone = confidence_score(
            frame_max[:, [point]], maxima[[point]], visible[:, [point]], temporal_stride=4, params=UNROUNDED
        )
        expected = arrays[f"small_max_{model}"][:, point]
        np.testing.assert_allclose([alone.text, alone.self_frame, alone.cross], expected, atol=5e-6)
    for column, point in enumerate(np.flatnonzero(visible[0])):
        mass = attention_score(frame_mass[:, [point]], masses[[point]], visible[:, [point]], params=UNROUNDED)
        expected = arrays[f"small_sum_{model}"][:, column]
        np.testing.assert_allclose([mass.text, mass.self_frame, mass.cross], expected, atol=5e-6)
    hidden_at_first = visible.copy()
    hidden_at_first[0] = False
    confidence = confidence_score(frame_max, maxima, hidden_at_first, temporal_stride=4, params=RELEASED)
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
    moved = arrays["gt_tracks_fg"][:, ::4] + arrays["random_offset_fg"]
    assert percent(moved, "fg", RELEASED, every=4) == pytest.approx(arrays["pck_random_subset"][0, 0], abs=1e-4)
    without_the_given_frame = percent(by_query_key, "fg", ScoringParams.preset("corrected"))
    assert without_the_given_frame < percent(by_query_key, "fg", RELEASED)


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
