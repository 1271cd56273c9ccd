"""Every array and file of a golden set is read by a test that is named here, or a reason says why no test reads it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_sets import BUNDLED, FULL, described

TESTS = Path(__file__).parent

READ: dict[str, dict[str, str]] = {
    "01_matching.npz": {
        r"q|k|query_coords|grid_(fg|bg)|traj_qk_(coords|fg|bg)|margin_qk|corr_qk_f\d+_rows": (
            "test_the_real_grid_is_reproduced"
        ),
        r"traj_feat_(coords|fg|bg)|map_(qk|feat)|margin_feat": (
            "test_the_real_grid_is_reproduced_by_features_and_token_by_token"
        ),
        r"v|attn_out|corr_feat_f\d+_rows": "test_features_and_their_probabilities_on_the_real_grid_are_reproduced",
        r"score_qk_f\d+": "test_rounding_the_descriptors_to_bfloat16_moves_few_matches",
        r"traj_qk_fg_bf16_DO_NOT_MATCH": "test_the_released_code_in_bfloat16_matches_worse_than_in_float32",
    },
    "01b_matching_small.npz": {
        r"\w+_(q|k|v|text_len|query_coords|traj_(qk|feat)_coords)": "test_released_trajectories_are_reproduced",
        r"\w+_traj_(qk|feat)_bg": "test_released_trajectories_of_the_query_grid_are_reproduced",
        r"\w+_(map|margin)_(qk|feat)": ("test_released_best_matches_are_reproduced_wherever_the_margin_is_clear"),
        r"\w+_corr_qk": "test_probabilities_are_those_that_the_released_code_hands_to_its_argmax",
        r"\w+_corr_feat": "test_feature_probabilities_are_those_of_the_released_code",
        r"\w+_attn_out": "test_features_are_the_attentions_output_before_its_projection",
        r"\w+_attn_weight_coords": "test_attention_rows_follow_the_swapped_token_pick",
        r"\w+_attn_weight_bg": "test_attention_rows_of_the_query_grid_follow_it_too",
    },
    "02_attention_scores.npz": {
        r"(visibility|attn_rowmax|(max|sum)_text_self_cross|cell_(max|sum)|cross_valid_count)_(fg|bg)": (
            "test_confidence_and_attention_cells_of_the_real_grid_are_reproduced"
        ),
        r"attn_rows_(idx_|fixed_)?(fg|bg)": "test_attention_rows_of_the_real_grid_are_reproduced",
        r"attn_(rowmax|argmax)_coords": (
            "test_points_off_the_grid_pick_the_token_that_the_released_rounding_and_clipping_does"
        ),
        r"(max|sum)_text_self_cross_fixed_fg": "test_unswapped_axes_give_the_corrected_rows",
        r"small_\w+": "test_scores_of_the_small_table_are_reproduced_point_by_point",
    },
    "03_pck.npz": {
        r"exact_\w+|none_visible_pck": "test_accuracy_is_strict_and_empty_without_visible_points",
        r"gt_(tracks|vis)_(fg|bg)|random_offset_fg|pck_\w+": (
            "test_accuracy_of_the_released_trajectories_is_reproduced"
        ),
    },
    "04_harmonic.npz": {r".*": "test_harmonic_map_is_reproduced_from_rounded_cells"},
    "05_tapvid_track.npz": {
        r"base_[qk]|frames|\w+?(?<!FIXEDSCALE)(?<!real13)__pred_tracks256": (
            "test_released_tracks_are_those_of_the_released_code"
        ),
        r"query_points|gt_\w+|kept_\w+": (
            "test_queries_and_metrics_of_a_run_are_those_that_the_released_code_evaluates"
        ),
        r"\w+?(?<!FIXEDSCALE)(?<!real13)__(map|margin)": (
            "test_every_tokens_match_is_that_of_the_released_code_wherever_the_margin_is_clear"
        ),
        r"\w+__corr_frame\d+": ("test_match_probabilities_of_overlapping_chunks_are_combined_as_in_the_released_code"),
        r"\w+_FIXEDSCALE__\w+": "test_temperature_alone_is_corrected_by_its_own_override",
        r"real\d+__\w+": "test_released_tracks_at_real_geometry_are_those_of_the_released_code",
    },
    "07_tapvid_metrics.npz": {r".*": "test_every_metric_of_every_case_is_reproduced"},
    "08_tapvid_reader.npz": {
        r"video|resized|big_\w+": "test_the_released_resize_is_reproduced",
        r"q_\w+|first_\w+|strided_\w+": "test_both_query_protocols_agree_with_the_released_reader",
        r"ds_\w+": "test_a_whole_clip_through_the_released_reader_is_reproduced",
    },
    "09_interp_grid.npz": {
        r"(f|t)\d+(b\d+)?_(in|out\d*)": "test_released_upsampling_in_time_is_reproduced",
        r"ramp\d+_out\d+": (
            "test_released_upsampling_reads_latents_up_to_a_third_away_from_where_the_autoencoder_puts_them"
        ),
        r"grid_\d+(_\d+x\d+)?": "test_query_grids_are_those_of_the_released_code",
    },
    "10_cag.npz": {
        r"[qkv]|out_(post|pre|post_chunk\d+|boolmask)": "test_perturbed_attention_is_the_released_one",
        r"allowed|out_nomask": "test_attention_goes_where_the_released_mask_lets_it_and_nowhere_else",
        r"w[qkv]|hidden|text|(no)?cfg_\w+": ("test_whole_attention_is_the_released_one_in_the_perturbed_batch_element"),
        r"noise3|guided_\w+": "test_guided_predictions_are_the_released_ones",
    },
    "01_matching_stats.json": {r"": "test_the_sets_statistics_are_those_of_its_matches"},
    "03_pck_report.json": {r"": "test_accuracy_of_the_released_trajectories_is_reproduced"},
    "04_harmonic_behaviour.json": {r"": "test_one_cell_without_a_number_empties_the_released_table_as_the_set_records"},
    "05_tapvid_runs.json": {r"": "test_queries_and_metrics_of_a_run_are_those_that_the_released_code_evaluates"},
    "06_chunk_schedule.json": {r"": "test_released_schedule_visits_the_windows_of_the_released_code"},
    "07_metric_names.json": {r"": "test_every_metric_of_every_case_is_reproduced"},
    "07_evaluator_log.json": {r"": "test_means_of_the_released_log_are_those_of_the_released_convention"},
    "10_cag_layers.json": {r"": "test_layers_are_those_asked_for_and_none_whose_number_begins_alike"},
}
"""File -> pattern for whole names of its arrays -> the test that reads them. A JSON file has one unnamed entry."""

UNREAD: dict[str, dict[str, str]] = {
    "08_tapvid_reader.npz": {
        r"original\d+\w*": "a second copy of the video at a fixed 480x720, on which the released code draws (B13); "
        "here tracks are drawn on the clip's own frames",
    },
    "09_interp_grid.npz": {
        r"grid_\d+_(\d+x\d+_)?centered": "a grid about another centre than the picture's, which no command asks for",
    },
    "10_cag.npz": {
        r"out_causal": "a causal mask on top, which no video transformer has",
        r"out_finite_bias": "a finite bias blocks in the released code (C2); here no mask is handed in",
    },
}
"""The same for arrays and files that no test reads, with the reason."""


def arrays_of(folder: Path) -> Iterator[tuple[str, str]]:
    for file, own in described(folder).items():
        yield from ((file, name) for name in own.get("arrays", {"": None}))


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(BUNDLED, id="bundled"),
        pytest.param(
            FULL,
            id="full",
            marks=pytest.mark.skipif(
                not (FULL / "README.json").exists(), reason=f"no goldens in {FULL}: set DIFFTRACK_FIXTURES"
            ),
        ),
    ],
)
def test_every_array_of_a_set_is_read_once_or_has_a_reason(folder: Path) -> None:
    for file, name in arrays_of(folder):
        patterns = [*READ.get(file, {}), *UNREAD.get(file, {})]
        fitting = [pattern for pattern in patterns if re.fullmatch(pattern, name)]
        assert len(fitting) == 1, f"{file}: {name or 'all of it'} is read by {fitting or 'nothing'}"


def test_the_tests_that_are_named_exist() -> None:
    written = "".join(path.read_text() for path in TESTS.glob("test_*.py"))
    for tests in READ.values():
        for test in tests.values():
            assert f"def {test}(" in written


def test_what_travels_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir() if path.is_file()) < 600_000
