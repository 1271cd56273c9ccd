"""Parity of matching and attention rows with the released code's numbers (goldens 01, 01b, 09).

Tolerances are those of the set's README: 2e-3 px, 5e-6 on probabilities, matches equal where the margin exceeds 1e-6.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import FULL, about, golden_files, load, numbers, token_stride_px
from torch import Tensor

from difftrack.annotation import query_grid
from difftrack.correspondence import (
    MatchingParams,
    attention_rows,
    feature_probabilities,
    latent_to_frames,
    match_features,
    match_points,
    match_rows,
    points_to_tokens,
    tokens_to_points,
)

CLEAR_MARGIN = 1e-6
PREFIXES = ("cog13_", "cog5_", "hun_")
"""Cases of 01b, which are all that its schema has; HunyuanVideo's keeps its text last."""


@dataclass(frozen=True)
class Layer:
    """Descriptors of one golden layer, text split off, on a grid of tokens."""

    query: Tensor
    key: Tensor
    feature: Tensor
    text_key: Tensor
    params: MatchingParams
    stride_px: int
    num_frames: int
    """Video frames of the trajectories."""

    @property
    def rows(self) -> int:
        return int(self.query.shape[2])

    @property
    def cols(self) -> int:
        return int(self.query.shape[3])

    @property
    def every_token(self) -> Tensor:
        return torch.arange(self.rows * self.cols)

    def pixels(self, points_xy_token: Tensor) -> np.ndarray:
        """Matches per latent frame as pixels per video frame."""
        points = tokens_to_points(points_xy_token, stride_px=self.stride_px, params=self.params)
        stride = (self.num_frames - 1) // (len(points_xy_token) - 1)
        frames = latent_to_frames(points, num_frames=self.num_frames, temporal_stride=stride, params=self.params)
        return frames.numpy()

    def tokens_of(self, points_xy_px: np.ndarray) -> Tensor:
        return points_to_tokens(torch.from_numpy(points_xy_px), stride_px=self.stride_px, params=self.params)


def text_length(arrays: Mapping[str, np.ndarray], prefix: str) -> int:
    if prefix + "text_len" in arrays:
        return int(arrays[prefix + "text_len"])
    return int(arrays[prefix + "q"].shape[1] % math.prod(arrays[prefix + "map_qk"].shape[1:3]))


def read_layer(path: Path, prefix: str = "", *, with_feature: bool = True) -> tuple[Layer, dict[str, np.ndarray]]:
    """Split text off, lay tokens out as a grid; HunyuanVideo divides by root(channels // heads), as the note says."""
    arrays = load(path)
    rows, cols = arrays[f"{prefix}map_qk"].shape[1:3]
    query, key, value = (torch.from_numpy(arrays[prefix + name].astype(np.float32)) for name in "qkv")
    num_text, text_last = text_length(arrays, prefix), prefix.startswith("hun")
    feature = value
    if with_feature:
        feature = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]

    def split(tokens: Tensor) -> tuple[Tensor, Tensor]:
        at = tokens.shape[1] - num_text if text_last else num_text
        first, last = tokens[:, :at], tokens[:, at:]
        video, text = (first, last) if text_last else (last, first)
        return video.reshape(len(tokens), -1, rows, cols, tokens.shape[-1]), text

    params = MatchingParams.preset("released", {"temperature": "root_channel_per_head" if text_last else None})
    num_frames = len(arrays[f"{prefix}traj_qk_coords"])
    layer = Layer(
        split(query)[0],
        split(key)[0],
        split(feature)[0],
        split(key)[1],
        params,
        token_stride_px(path),
        num_frames,
    )
    return layer, arrays


def small_cases(*arrays: str) -> pytest.MarkDecorator:
    file = "01b_matching_small.npz"
    cases = [
        pytest.param(prefix, *entry.values, marks=entry.marks, id=f"{prefix}-{entry.id}")
        for prefix in PREFIXES
        for entry in golden_files(file, *(prefix + array for array in ("q", *arrays)))
    ]
    return pytest.mark.parametrize(("prefix", "path"), cases)


def grid_of(layer: Layer, num_points: int) -> np.ndarray:
    """The released query grid of a number of points over the picture of the layer, float32 (x, y)."""
    height, width = layer.rows * layer.stride_px, layer.cols * layer.stride_px
    return query_grid(height, width, math.isqrt(num_points))[:, 1:]


@small_cases("query_coords", "traj_qk_coords", "traj_feat_coords")
def test_released_trajectories_are_reproduced(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    assert_trajectories(layer, arrays, arrays[prefix + "query_coords"][0], f"{prefix}traj_{{}}_coords")


@small_cases("traj_qk_bg", "traj_feat_bg")
def test_released_trajectories_of_the_query_grid_are_reproduced(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    grid = grid_of(layer, arrays[prefix + "traj_qk_bg"].shape[1])
    unclear = np.argwhere(~(arrays[prefix + "margin_qk"] > CLEAR_MARGIN))
    assert not len(unclear)
    assert_trajectories(layer, arrays, grid, f"{prefix}traj_{{}}_bg")


def assert_trajectories(layer: Layer, arrays: Mapping[str, np.ndarray], points_xy_px: np.ndarray, name: str) -> None:
    points = layer.tokens_of(points_xy_px)
    by_query_key = match_points(layer.query, layer.key, points, params=layer.params)
    by_feature = match_features(layer.feature, points, params=layer.params)
    for matches, kind in ((by_query_key, "qk"), (by_feature, "feat")):
        np.testing.assert_allclose(layer.pixels(matches.points_xy_token), arrays[name.format(kind)], atol=2e-3)


MAP_ARRAYS = ("map_qk", "map_feat", "margin_qk", "margin_feat")


@small_cases(*MAP_ARRAYS)
def test_released_best_matches_are_reproduced_wherever_the_margin_is_clear(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    assert_same_maps(layer, {name: arrays[f"{prefix}{name}"] for name in MAP_ARRAYS})


def assert_same_maps(layer: Layer, expected: Mapping[str, np.ndarray]) -> None:
    """Compare the match of every token, read at the tokens themselves and so without the query margin."""
    params = replace(layer.params, query_margin="none")
    row, col = torch.meshgrid(torch.arange(layer.rows), torch.arange(layer.cols), indexing="ij")
    every_token = torch.stack([col.flatten(), row.flatten()], dim=-1).float()
    by_query_key = match_points(layer.query, layer.key, every_token, params=params)
    by_feature = match_features(layer.feature, every_token, params=params)
    for matches, kind in ((by_query_key, "qk"), (by_feature, "feat")):
        found = matches.points_xy_token[1:].reshape(-1, layer.rows, layer.cols, 2).numpy()
        clear = expected[f"margin_{kind}"] > CLEAR_MARGIN
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(found[clear], expected[f"map_{kind}"][clear])


@small_cases("corr_qk")
def test_probabilities_are_those_that_the_released_code_hands_to_its_argmax(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    rows = every_row(layer, layer.params)
    np.testing.assert_allclose(rows.numpy(), arrays[prefix + "corr_qk"], atol=5e-6)


def every_row(layer: Layer, params: MatchingParams) -> Tensor:
    targets = range(1, layer.query.shape[1])
    described = [(layer.query, layer.key)]
    return match_rows(described, layer.every_token, source_frame=0, target_frames=targets, params=params)


@pytest.mark.parametrize("path", golden_files("01b_matching_small.npz", "hun_corr_qk"))
def test_probabilities_see_the_temperature_that_the_best_matches_do_not(path: Path) -> None:
    """HunyuanVideo's slip (A5) leaves the best match of most tokens unchanged, and trajectories use best matches."""
    layer, arrays = read_layer(path, "hun_")
    right = every_row(layer, replace(layer.params, temperature="root_channel"))
    expected = torch.from_numpy(arrays["hun_corr_qk"])
    assert (right - expected).abs().max() > 0.01
    assert (right.argmax(dim=-1) == expected.argmax(dim=-1)).float().mean() > 0.9


@small_cases("corr_feat")
def test_feature_probabilities_are_those_of_the_released_code(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    expected = arrays[prefix + "corr_feat"]
    tokens = np.stack(np.divmod(np.arange(expected.shape[1]), layer.cols)[::-1], axis=-1).astype(np.float32)
    params = replace(layer.params, query_margin="none", second_softmax=False)
    for frame, of_frame in enumerate(expected, start=1):
        found = feature_probabilities(layer.feature, torch.from_numpy(tokens), target_frame=frame, params=params)
        np.testing.assert_allclose(found.flatten(1).numpy(), of_frame, atol=5e-6)
        np.testing.assert_allclose(found.flatten(1).sum(dim=-1).numpy(), 1, atol=1e-5)


@small_cases("attn_out")
def test_features_are_the_attentions_output_before_its_projection(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    of_video = layer.feature.flatten(1, 3).transpose(0, 1).flatten(1)
    num_text = text_length(arrays, prefix)
    expected = arrays[prefix + "attn_out"]
    expected = expected[: len(of_video)] if prefix.startswith("hun") else expected[num_text:]
    np.testing.assert_allclose(of_video.numpy(), expected, atol=5e-6)


@small_cases("query_coords", "attn_weight_coords")
def test_attention_rows_follow_the_swapped_token_pick(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    rows = released_attention(layer, prefix, arrays[prefix + "query_coords"][0])
    np.testing.assert_allclose(rows, arrays[prefix + "attn_weight_coords"], atol=5e-6)


@small_cases("attn_weight_bg")
def test_attention_rows_of_the_query_grid_follow_it_too(prefix: str, path: Path) -> None:
    layer, arrays = read_layer(path, prefix)
    expected = arrays[prefix + "attn_weight_bg"].astype(np.float32)
    rows = released_attention(layer, prefix, grid_of(layer, len(expected)))
    np.testing.assert_allclose(rows, expected, atol=5e-6, rtol=1e-3)  # stored in float16


def released_attention(layer: Layer, prefix: str, points_xy_px: np.ndarray) -> np.ndarray:
    """Rows over text and video tokens in the order in which the backbone has them."""
    num_text = layer.text_key.shape[1]
    no_text_is_let_through = torch.zeros(num_text, dtype=torch.bool)
    points = layer.tokens_of(points_xy_px)
    rows = attention_rows(
        layer.query, layer.key, layer.text_key, no_text_is_let_through, points, params=layer.params
    ).numpy()
    return np.concatenate([rows[:, num_text:], rows[:, :num_text]], axis=1) if prefix.startswith("hun") else rows


@pytest.mark.parametrize("path", golden_files("01_matching.npz", "q"))
def test_the_real_grid_is_reproduced(path: Path) -> None:
    layer, arrays = read_layer(path, with_feature=False)
    unclear = np.argwhere(~(arrays["margin_qk"].astype(np.float32) > CLEAR_MARGIN))
    coords = np.concatenate([arrays["query_coords"][0], arrays["grid_bg"], arrays["grid_fg"]])
    for name in ("grid_bg", "grid_fg"):
        np.testing.assert_allclose(grid_of(layer, len(arrays[name])), arrays[name], atol=1e-4)
    expected = np.concatenate([arrays[f"traj_qk_{name}"] for name in ("coords", "bg", "fg")], axis=1)
    points = layer.tokens_of(coords)
    found = match_points(layer.query, layer.key, points, params=layer.params)
    excused = touches(points.numpy(), unclear, rows=layer.rows, cols=layer.cols)
    assert excused.mean() < 0.02
    np.testing.assert_allclose(layer.pixels(found.points_xy_token)[:, ~excused], expected[:, ~excused], atol=2e-3)
    frame, tokens = kept_rows(path, "corr_qk_f6_rows")
    rows = match_rows(
        [(layer.query, layer.key)],
        torch.tensor(tokens),
        source_frame=0,
        target_frames=range(frame, frame + 1),
        params=layer.params,
    )
    np.testing.assert_allclose(rows[0].numpy(), arrays["corr_qk_f6_rows"], atol=5e-6)


def kept_rows(path: Path, array: str) -> tuple[int, list[int]]:
    """Latent frame and tokens of frame 0 of an array of rows, as the README names them."""
    (frame,) = numbers(array, r"_f(\d+)_rows")
    return frame, list(numbers(about(path, "corr_qk_f6_rows"), r"flat index ([\d,]+)"))


def touches(points: np.ndarray, unclear: np.ndarray, *, rows: int, cols: int) -> np.ndarray:
    """True for points one of whose four tokens has a match that arithmetic alone may change, in any latent frame."""
    squeeze = np.array([(cols - 1) / (cols - cols / 64), (rows - 1) / (rows - cols / 64)])
    around = np.floor(points * squeeze)
    offset = unclear[:, [2, 1]][None] - around[:, None]
    return ((offset >= 0) & (offset <= 1)).all(axis=-1).any(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_files("01_matching.npz", "v"))
def test_the_real_grid_is_reproduced_by_features_and_token_by_token(path: Path) -> None:
    layer, arrays = read_layer(path)
    assert_same_maps(layer, {name: arrays[name].astype(np.float32) for name in MAP_ARRAYS if name in arrays})
    for name, coords in (("coords", arrays["query_coords"][0]), ("bg", arrays["grid_bg"]), ("fg", arrays["grid_fg"])):
        found = match_features(layer.feature, layer.tokens_of(coords), params=layer.params)
        np.testing.assert_allclose(layer.pixels(found.points_xy_token), arrays[f"traj_feat_{name}"], atol=2e-3)


@pytest.mark.parametrize("path", golden_files("01_matching.npz", "attn_out"))
def test_features_and_their_probabilities_on_the_real_grid_are_reproduced(path: Path) -> None:
    """Tokens of frame 0 and one more; attention is computed for these only."""
    arrays = load(path)
    rows, cols = arrays["map_qk"].shape[1:3]
    frame, tokens = kept_rows(path, "corr_feat_f6_rows")
    per_frame, num_text = rows * cols, text_length(arrays, "")
    wanted = np.concatenate([np.asarray(tokens), np.arange(per_frame) + frame * per_frame]) + num_text
    query, key, value = (torch.from_numpy(arrays[name].astype(np.float32)) for name in "qkv")
    attended = torch.nn.functional.scaled_dot_product_attention(query[None, :, wanted], key[None], value[None])[0]
    joined = attended.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(joined.numpy(), arrays["attn_out"][wanted].astype(np.float32), atol=2e-3, rtol=1e-3)
    feature = torch.zeros(len(attended), 2, per_frame, attended.shape[-1])
    feature[:, 0, tokens], feature[:, 1] = attended[:, : len(tokens)], attended[:, len(tokens) :]
    points = torch.tensor([[token % cols, token // cols] for token in tokens], dtype=torch.float32)
    params = MatchingParams.preset("released", {"query_margin": "none", "second_softmax": False})
    found = feature_probabilities(feature.unflatten(2, (rows, cols)), points, target_frame=1, params=params)
    np.testing.assert_allclose(found.flatten(1).numpy(), arrays["corr_feat_f6_rows"], atol=5e-6)


@pytest.mark.parametrize("path", golden_files("01_matching.npz", "q"))
def test_rounding_the_descriptors_to_bfloat16_moves_few_matches(path: Path) -> None:
    layer, arrays = read_layer(path, with_feature=False)
    (frame,) = numbers(next(name for name in arrays if name.startswith("score_qk_f")), r"_f(\d+)")
    rows, rounded = (
        match_rows([(query, key)], layer.every_token, source_frame=0, target_frames=range(frame, frame + 1))[0]
        for query, key in ((layer.query, layer.key), (layer.query.bfloat16(), layer.key.bfloat16()))
    )
    assert (rows.argmax(dim=-1) != rounded.argmax(dim=-1)).float().mean() <= 0.025
    twice = rows.softmax(dim=-1).amax(dim=-1).reshape(layer.rows, layer.cols)
    np.testing.assert_allclose(twice.numpy(), arrays[f"score_qk_f{frame}"], atol=1e-6)


def upsampled(arrays: Iterable[str]) -> list[tuple[str, str]]:
    """Inputs and outputs of 09 by their names: f13_in and f13_out49, t25_in and t25_out."""
    names = list(arrays)
    pairs = []
    for given in (name for name in names if name.endswith("_in")):
        (wanted,) = (name for name in names if name.startswith(f"{given.removesuffix('_in')}_out"))
        pairs.append((given, wanted))
    return pairs


@pytest.mark.parametrize("path", golden_files("09_interp_grid.npz"))
def test_released_upsampling_in_time_is_reproduced(path: Path) -> None:
    arrays = load(path)
    released = MatchingParams.preset("released")
    assert upsampled(arrays)
    for given, wanted in upsampled(arrays):
        expected = arrays[wanted]
        frames = latent_to_frames(
            torch.from_numpy(arrays[given]), num_frames=expected.shape[1], temporal_stride=4, params=released
        )
        np.testing.assert_allclose(frames.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("path", golden_files("09_interp_grid.npz"))
def test_released_upsampling_reads_latents_up_to_a_third_away_from_where_the_autoencoder_puts_them(path: Path) -> None:
    arrays = load(path)
    (name,) = (name for name in arrays if name.startswith("ramp"))
    num_latents, num_frames = numbers(name, r"ramp(\d+)_out(\d+)")
    stride = (num_frames - 1) // (num_latents - 1)
    ramp = torch.arange(float(num_latents)).reshape(-1, 1, 1).expand(-1, 1, 2)
    released, causal = (
        latent_to_frames(ramp, num_frames=num_frames, temporal_stride=stride, params=MatchingParams.preset(name))[
            :, 0, 0
        ]
        for name in ("released", "corrected")
    )
    np.testing.assert_allclose(released.numpy(), arrays[name], atol=1e-5)
    np.testing.assert_allclose(causal.numpy(), np.arange(num_frames) / stride, atol=1e-6)
    assert 0.3 < (released - causal).abs().max() < 0.4


@pytest.mark.skipif(not (FULL / "01_matching.npz").exists(), reason=f"no golden 01 in {FULL}: set DIFFTRACK_FIXTURES")
def test_the_sets_statistics_are_those_of_its_matches() -> None:
    import json

    stats = json.loads((FULL / "01_matching_stats.json").read_text())
    arrays, truth = load(FULL / "01_matching.npz"), load(FULL / "03_pck.npz")
    for kind, points in (("qk", "fg"), ("feat", "fg"), ("qk", "bg"), ("feat", "bg")):
        error = np.linalg.norm(arrays[f"traj_{kind}_{points}"] - truth[f"gt_tracks_{points}"], axis=-1)
        median = np.median(error[truth[f"gt_vis_{points}"]])
        assert median == pytest.approx(stats[f"median_px_error_{kind}_{points}_visible"], abs=1e-3)
    # In float32 the released second softmax changes no match, and its ties in bfloat16 are the README's evidence.
    assert stats["fraction_argmax_changed_by_second_softmax_fp32"]["qk"] == 0
    moved = np.abs(arrays["traj_qk_fg"] - arrays["traj_qk_fg_bf16_DO_NOT_MATCH"].astype(np.float32))
    assert moved.mean() == pytest.approx(stats["bf16"]["mean_abs_diff_traj_qk_px"], rel=0.1)
