"""Scores and TAP-Vid metrics, worked by hand and by law."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from difftrack.datasets import Tracks
from difftrack.metrics import (
    ClipScores,
    ScoringParams,
    attention_score,
    combine_clips,
    confidence_score,
    harmonic_mean,
    matching_accuracy,
    mean_over_clips,
    rank_cells,
    rank_layers,
    score_clip,
    scores_by_truth,
    survival_rate,
    tapvid_metrics,
)
from difftrack.params import ParamsError

RELEASED = ScoringParams.preset("released")
COUNTED = ScoringParams(unseen_points="counted")


def tracks(*distances_px: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are off by given pixels, [frame][point], and the truth."""
    true = np.zeros((len(distances_px), len(distances_px[0]), 2))
    predicted = true.copy()
    predicted[..., 1] = distances_px
    return predicted, true


def test_accuracy_leaves_out_the_given_frame_and_what_is_hidden() -> None:
    predicted, true = tracks([0, 0, 0], [7.9, 8.0, 1.0], [3.0, 90.0, 0.0])
    visible = np.array([[True, True, True], [True, True, True], [True, True, False]])
    assert matching_accuracy(predicted, true, visible) == 3 / 5
    assert matching_accuracy(predicted, true, visible, params=RELEASED) == 0.75
    assert matching_accuracy(predicted, true, visible, params=ScoringParams(threshold_px=2.0)) == 1 / 5


def test_accuracy_of_many_cells_at_once_is_that_of_each_alone() -> None:
    random = np.random.default_rng(0)
    true, visible = random.uniform(0, 50, (5, 7, 2)), random.random((5, 7)) < 0.6
    predicted = true + random.normal(0, 8, (2, 3, 5, 7, 2))
    together = matching_accuracy(predicted, true, visible)
    assert together.shape == (2, 3)
    assert together[1, 2] == matching_accuracy(predicted[1, 2], true, visible)


def test_nothing_visible_after_the_first_frame_is_nan_not_zero() -> None:
    predicted, true = tracks([0.0], [0.0])
    visible = np.array([[True], [False]])
    assert np.isnan(matching_accuracy(predicted, true, visible))
    assert matching_accuracy(predicted, true, visible, params=RELEASED) == 1.0


def test_confidence_takes_only_latent_frames_that_show_the_point_throughout() -> None:
    frame_max = np.array([[0.9, 0.8, 0.7], [0.4, 0.6, 0.2], [0.2, 0.5, 0.1]])
    visible = np.ones((5, 3), dtype=bool)
    visible[4, 0] = False
    visible[1, 1] = visible[3, 1] = False
    found = confidence_score(frame_max, np.array([0.3, 0.2, 0.1]), visible, temporal_stride=2)
    assert found.cross == pytest.approx((0.4 + (0.2 + 0.1) / 2) / 2)
    assert found.self_frame == pytest.approx(0.8)
    counted = confidence_score(frame_max, np.array([0.3, 0.2, 0.1]), visible, temporal_stride=2, params=COUNTED)
    assert counted.cross == pytest.approx((0.4 + 0.0 + 0.15) / 3)


def test_confidence_counts_the_frames_that_a_latent_frame_folds() -> None:
    frame_max, text = np.array([[0.9], [0.4], [0.2]]), np.array([0.3])
    visible = np.ones((6, 1), dtype=bool)
    visible[3] = False  # the second latent frame's, if each holds two frames
    found = confidence_score(frame_max, text, visible, temporal_stride=2, first_frames=2)
    assert found.cross == pytest.approx(0.2)
    assert confidence_score(frame_max, text, visible[:5], temporal_stride=2).cross == pytest.approx(0.4)
    visible[3] = True
    assert confidence_score(frame_max, text, visible, temporal_stride=2, first_frames=2).cross == pytest.approx(0.3)


def test_points_hidden_at_first_leave_the_own_frame_and_the_text_unless_counted() -> None:
    frame_max, text = np.array([[0.9, 0.1], [0.5, 0.3]]), np.array([0.4, 0.2])
    visible = np.array([[True, False], [True, True]])
    found = confidence_score(frame_max, text, visible, temporal_stride=1)
    assert (found.self_frame, found.text) == (0.9, 0.4)
    assert found.cross == pytest.approx(0.4)
    counted = confidence_score(frame_max, text, visible, temporal_stride=1, params=COUNTED)
    assert (counted.self_frame, counted.text) == (pytest.approx(0.5), pytest.approx(0.3))


def test_attention_score_sums_over_the_other_frames() -> None:
    frame_mass = np.array([[0.5, 0.1], [0.2, 0.3], [0.1, 0.4]])
    visible = np.array([[True, False], [False, True], [True, True]])
    found = attention_score(frame_mass, np.array([0.2, 0.2]), visible)
    assert (found.cross, found.self_frame, found.text) == (pytest.approx(0.3), 0.5, 0.2)
    unseen = attention_score(frame_mass, np.array([0.2, 0.2]), np.zeros((3, 2), dtype=bool))
    assert np.isnan([unseen.cross, unseen.self_frame, unseen.text]).all()


def test_too_few_frames_for_the_latent_frames_are_named() -> None:
    with pytest.raises(ValueError, match="visible has 3 frames, but 2 latent frames with temporal_stride 4"):
        confidence_score(np.zeros((2, 1)), np.zeros(1), np.ones((3, 1), dtype=bool), temporal_stride=4)


def test_harmonic_mean_by_hand() -> None:
    accuracy, confidence, attention = np.array([0.0, 0.5, 1.0]), np.array([1.0, 3.0, 2.0]), np.array([0.0, 0.2, 0.4])
    np.testing.assert_allclose(harmonic_mean(accuracy, confidence, attention), [0.0, 3 / (2 + 1 + 2), 3 / (1 + 2 + 1)])


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100), offset=st.floats(-5, 5))
def test_harmonic_mean_depends_only_on_the_order_and_spread_of_each_table(
    seed: int, factor: float, offset: float
) -> None:
    tables = np.random.default_rng(seed).random((3, 5, 7))
    found = harmonic_mean(*tables)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(harmonic_mean(tables[0] * factor + offset, *tables[1:]), found, atol=1e-9)


def test_an_empty_cell_stays_empty_and_spreads_only_in_the_released_convention() -> None:
    table = np.array([[0.1, 0.4], [np.nan, 0.2]])
    full = np.array([[0.2, 0.9], [0.4, 0.7]])
    found = harmonic_mean(table, full, full)
    assert np.isnan(found[1, 0])
    assert found[0, 1] == 1.0
    assert not harmonic_mean(table, full, full, params=RELEASED).any()


def test_a_score_that_is_the_same_everywhere_tells_no_cell_apart() -> None:
    same, full = np.full((2, 2), 0.3), np.array([[0.2, 0.9], [0.4, 0.7]])
    assert not harmonic_mean(same, full, full).any()


def test_mean_over_clips_says_how_many_were_empty() -> None:
    values = np.array([[0.2, np.nan], [0.4, np.nan], [np.nan, np.nan]])
    found = mean_over_clips(values)
    np.testing.assert_allclose(found.mean, [0.3, np.nan])
    assert (found.num_clips, found.num_empty.tolist()) == (3, [1, 3])
    assert np.isnan(mean_over_clips(values, params=RELEASED).mean).all()
    with pytest.raises(ValueError, match="0 clips"):
        mean_over_clips(values[:0])


def test_cells_are_ranked_best_first_and_empty_ones_left_out() -> None:
    scores = np.array([[0.1, np.nan, 0.9], [0.5, 0.2, 0.9]])
    assert rank_cells(scores, num=3) == [(0, 2), (1, 2), (1, 0)]
    assert rank_cells(scores, num=2, worst=True) == [(0, 0), (1, 1)]
    assert len(rank_cells(scores, num=99)) == 5


def test_tapvid_by_hand() -> None:
    predicted, true = tracks([0, 0], [0.5, 3.0], [20.0, 3.0], [1.5, 0.0])
    visible = np.array([[True, True], [True, True], [True, False], [False, True]])
    claimed = np.array([[True, True], [True, False], [True, True], [False, True]])
    found = tapvid_metrics(predicted, claimed, true, visible, np.array([0, 1])).as_dict()
    assert found["occlusion_accuracy"] == pytest.approx(4 / 5)
    assert found["pts_within_1"] == pytest.approx(2 / 3)
    assert found["jaccard_16"] == pytest.approx(2 / (3 + 2))
    assert found["average_pts_within_thresh"] == pytest.approx(2 / 3)
    strided = tapvid_metrics(predicted, claimed, true, visible, np.array([0, 1]), query_mode="strided").as_dict()
    assert strided["occlusion_accuracy"] == pytest.approx(5 / 6)
    assert strided["pts_within_1"] == pytest.approx(3 / 4)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["first", "strided"]))
def test_perfect_tracks_score_one_and_jaccard_never_exceeds_position_accuracy(seed: int, mode: Any) -> None:
    random = np.random.default_rng(seed)
    true, visible = random.uniform(0, 256, (7, 5, 2)), random.random((7, 5)) < 0.8
    visible[[1, 6]] = True
    queries = random.integers(0, 5, 5)
    perfect = tapvid_metrics(true, visible, true, visible, queries, query_mode=mode)
    assert perfect.average_jaccard == perfect.average_points_within == perfect.occlusion_accuracy == 1
    predicted = true + random.normal(0, 4, true.shape)
    noisy = tapvid_metrics(predicted, random.random((7, 5)) < 0.5, true, visible, queries, query_mode=mode)
    assert (noisy.jaccard <= noisy.points_within).all()
    assert (np.diff(noisy.points_within) >= 0).all()


def test_a_track_survives_until_it_first_fails_and_failing_while_hidden_does_not_count() -> None:
    predicted, true = tracks([0, 0, 0, 0], [0, 60, 60, 60], [60, 0, 0, 60], [0, 0, 0, 60], [0, 0, 0, 60])
    visible = np.ones((5, 4), dtype=bool)
    visible[1, 2] = False
    queries = np.array([0, 0, 0, 4])
    assert survival_rate(predicted, true, visible, queries) == pytest.approx((1 / 4 + 0 / 4 + 4 / 4) / 3)
    assert np.isnan(survival_rate(predicted, true, visible, np.full(4, 4)))
    nowhere = np.full_like(predicted, np.nan)
    assert survival_rate(nowhere, true, np.ones_like(visible), np.zeros(predicted.shape[1], dtype=int)) == 0


def matches_of(steps: tuple[int, ...], xy: float, *, heads: int = 2) -> xr.Dataset:
    """Matches of three points over two layers, off by `xy` pixels in the second layer only."""
    num_layers, latent_frames, points = 2, 3, 3
    shape = (len(steps), num_layers)
    match_xy = np.zeros((*shape, latent_frames, points, 2))
    match_xy[:, 1] = xy
    attention = np.full((*shape, latent_frames, points), 0.1)
    attention[:, 0] = 0.2
    text = np.full((*shape, points), 0.1)
    axes, head_axes = ["step", "layer"], ["step", "layer", "head"]
    by_head = {
        "head_match_xy_px": ([*head_axes, "latent_frame", "point", "xy"], np.stack([match_xy] * heads, axis=2)),
    }
    return xr.Dataset(
        {
            "match_xy_px": ([*axes, "latent_frame", "point", "xy"], match_xy),
            "attention_max": ([*axes, "latent_frame", "point"], attention),
            "attention_mass": ([*axes, "latent_frame", "point"], attention),
            "text_max": ([*axes, "point"], text),
            "text_mass": ([*axes, "point"], text),
            **by_head,
        },
        coords={"step": list(steps), "layer": [4, 9], "head": list(range(heads))},
    )


def scores_of(steps: tuple[int, ...], *, visible: bool = True) -> xr.Dataset:
    return score_clip(
        matches_of(steps, 9.0),
        np.zeros((5, 3, 2)),
        np.full((5, 3), visible),
        to_frames=lambda xy: np.repeat(xy, 2, axis=-3)[..., 1:, :, :],
        temporal_stride=2,
    )


def test_a_clip_is_scored_in_every_cell_with_its_labels() -> None:
    scores = scores_of((0, 7))
    assert scores.matching_accuracy.sel(step=7, layer=4) == 1
    assert scores.matching_accuracy.sel(step=7, layer=9) == 0
    assert scores.head_matching_accuracy.dims == ("step", "layer", "head")
    assert scores.attention_score.sel(step=0, layer=4) == pytest.approx(0.4)
    assert scores.confidence.sel(step=0, layer=9) == pytest.approx(0.1)
    assert scores.text_mass.sel(step=0, layer=9) == pytest.approx(0.1)
    assert "feature_accuracy" not in scores


def test_clips_with_other_steps_are_averaged_where_they_have_any() -> None:
    means = combine_clips({"long": scores_of((0, 7)), "short": scores_of((7,)), "dark": scores_of((7,), visible=False)})
    assert means.num_clips.sel(layer=4).values.tolist() == [1, 2]
    assert means.attrs["empty_clips"] == ["dark"]
    np.testing.assert_allclose(means.harmonic_mean.sel(layer=4), 1.0)
    assert rank_layers(means.harmonic_mean) == [(4, 0, 1.0), (9, 0, 0.0)]
    assert rank_layers(means.matching_accuracy, worst=True)[0] == (9, 0, 0.0)
    with pytest.raises(ValueError, match="clips is empty"):
        combine_clips({})


def test_impossible_params_are_named() -> None:
    with pytest.raises(ParamsError, match=r"score\.scoring: threshold_px is 0\.0"):
        ScoringParams.preset("corrected", {"threshold_px": 0.0})
    with pytest.raises(ParamsError, match=r"unknown key score\.scoring\.pck"):
        ScoringParams.preset("corrected", {"pck": 8})
    assert ScoringParams.preset("released", {"decimals": None}).decimals == 4


# which clips count


@dataclass(frozen=True)
class Found:
    """Tracks as a tracker gives them."""

    points_xy_px: np.ndarray
    visible: np.ndarray


def compared(given_by: str, **off_px: float) -> ClipScores:
    """Two points over three frames; every tracker is off by the same distance everywhere.

    Of the five thresholds, an error of 0.5 px passes all, 3 px three, 9 px one and 20 px none.
    """
    points = np.tile(np.array([[40.0, 70.0], [110.0, 30.0]], np.float32), (3, 1, 1))
    visible = np.ones((3, 2), dtype=bool)
    queries = np.insert(points[0], 0, 0, axis=1)
    truth = Tracks(points, visible, queries, height=256, width=256, tracker=given_by)
    found = {name: Found(points + np.float32([0, distance]), visible) for name, distance in off_px.items()}
    return ClipScores.compare(found, truth)


def test_a_tracker_is_not_scored_where_it_gave_the_truth_and_the_reason_is_stated() -> None:
    own = compared("lucas_kanade", tracker=3.0, lucas_kanade=0.0, no_motion=9.0)
    assert {name: of["average_pts_within_thresh"] for name, of in own.scores.items()} == pytest.approx(
        {"tracker": 0.6, "no_motion": 0.2}
    )
    assert own.not_scored == {
        "lucas_kanade": "the pseudo-truth of this clip comes from lucas_kanade; a tracker is not compared with itself"
    }
    for given_by in ("exact", "annotated", "cotracker3"):
        assert set(compared(given_by, tracker=3.0, lucas_kanade=0.5).scores) == {"tracker", "lucas_kanade"}
    assert set(compared("cotracker3", tracker=3.0, cotracker3=0.0).scores) == {"tracker"}
    assert set(compared("difftrack", tracker=0.0, lucas_kanade=3.0).scores) == {"lucas_kanade"}


def test_means_are_over_exact_and_annotated_clips_and_pseudo_truth_is_listed_apart() -> None:
    clips = {
        "guessed": compared("lucas_kanade", tracker=20.0, lucas_kanade=0.0),
        "rendered": compared("exact", tracker=0.5, lucas_kanade=3.0),
        "marked": compared("annotated", tracker=3.0, lucas_kanade=9.0),
        "other": compared("cotracker3", tracker=3.0, lucas_kanade=0.5),
    }
    found = scores_by_truth(clips)

    def delta_avg(means: dict[str, Any]) -> dict[str, float | None]:
        return {name: None if own is None else own["average_pts_within_thresh"] for name, own in means.items()}

    assert delta_avg(found["mean"]) == pytest.approx({"tracker": 0.8, "lucas_kanade": 0.4})
    assert found["mean"]["lucas_kanade"]["num_clips"] == 2
    pseudo = found["pseudo_truth"]
    assert delta_avg(pseudo["lucas_kanade"]["mean"]) == {"tracker": 0.0, "lucas_kanade": None}
    assert delta_avg(pseudo["cotracker3"]["mean"]) == pytest.approx({"tracker": 0.6, "lucas_kanade": 1.0})
    assert pseudo["lucas_kanade"]["clips"] == ["guessed"]
    assert found["clips"]["guessed"]["lucas_kanade"] is None
    assert list(found["not_scored"]) == ["guessed"]
    assert found["truth"]["guessed"] == {"kind": "pseudo_truth", "tracker": "lucas_kanade"}
    assert found["truth"]["rendered"] == {"kind": "exact", "tracker": None}


def test_without_exact_or_annotated_truth_there_is_no_mean() -> None:
    found = scores_by_truth({"mine": compared("lucas_kanade", tracker=3.0, lucas_kanade=0.0)})
    assert found["mean"] == {}
    assert found["pseudo_truth"]["lucas_kanade"]["mean"]["tracker"]["num_clips"] == 1
