"""Parity of matching and attention rows with the released code's numbers (goldens 01, 01b, 02, 09).

Tolerances are those of the set's README: 2e-3 px, 5e-6 on probabilities, matches equal where the margin exceeds 1e-6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_sets import golden_files, load
from torch import Tensor

from difftrack.correspondence import (
    MatchingParams,
    attention_rows,
    latent_to_frames,
    match_features,
    match_points,
    match_rows,
    points_to_tokens,
    tokens_to_points,
)

STRIDE_PX = 16
NUM_FRAMES = 49
CLEAR_MARGIN = 1e-6


@dataclass(frozen=True)
class Layer:
    """Descriptors of one golden layer, text split off."""

    query: Tensor
    key: Tensor
    feature: Tensor
    text_key: Tensor
    params: MatchingParams

    @property
    def every_token(self) -> Tensor:
        return torch.arange(self.query.shape[2] * self.query.shape[3])


def read_layer(
    arrays: Mapping[str, np.ndarray], prefix: str, rows: int, cols: int, *, with_feature: bool = True
) -> Layer:
    """Split text off and lay tokens out as a grid; HunyuanVideo keeps its text last, and divides by root(c // h)."""
    text_last = prefix.startswith("hun")
    query, key, value = (torch.from_numpy(arrays[prefix + name].astype(np.float32)) for name in "qkv")
    num_text = query.shape[1] % (rows * cols)
    if prefix + "text_len" in arrays:
        num_text = int(arrays[prefix + "text_len"])
    feature = value
    if with_feature:
        feature = torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None])[0]

    def split(tokens: Tensor) -> tuple[Tensor, Tensor]:
        at = tokens.shape[1] - num_text if text_last else num_text
        first, last = tokens[:, :at], tokens[:, at:]
        video, text = (first, last) if text_last else (last, first)
        return video.reshape(len(tokens), -1, rows, cols, tokens.shape[-1]), text

    temperature = "root_channel_per_head" if text_last else None
    params = MatchingParams.preset("released", {"temperature": temperature})
    return Layer(split(query)[0], split(key)[0], split(feature)[0], split(key)[1], params)


def pixels(points_xy_token: Tensor, params: MatchingParams) -> np.ndarray:
    points = tokens_to_points(points_xy_token, stride_px=STRIDE_PX, params=params)
    frames = latent_to_frames(points, num_frames=NUM_FRAMES, temporal_stride=4, params=params)
    return frames.numpy()


def small_cases(*arrays: str) -> pytest.MarkDecorator:
    file = "01b_matching_small.npz"
    cases = [
        pytest.param(prefix, *entry.values, marks=entry.marks, id=f"{prefix}-{entry.id}")
        for prefix in ("cog13_", "cog5_", "hun_")
        for entry in golden_files(file, *(prefix + array for array in ("q", *arrays)))
    ]
    return pytest.mark.parametrize(("prefix", "path"), cases)


@small_cases("query_coords", "traj_qk_coords", "traj_feat_coords")
def test_released_trajectories_are_reproduced(prefix: str, path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, prefix, 6, 9)
    coords = torch.from_numpy(arrays[prefix + "query_coords"][0])
    points = points_to_tokens(coords, stride_px=STRIDE_PX, params=layer.params)
    by_query_key = match_points(layer.query, layer.key, points, params=layer.params)
    by_feature = match_features(layer.feature, points, params=layer.params)
    for matches, name in ((by_query_key, "traj_qk_coords"), (by_feature, "traj_feat_coords")):
        np.testing.assert_allclose(pixels(matches.points_xy_token, layer.params), arrays[prefix + name], atol=2e-3)


@small_cases("map_qk", "map_feat", "margin_qk", "margin_feat")
def test_released_best_matches_are_reproduced_wherever_the_margin_is_clear(prefix: str, path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, prefix, 6, 9)
    assert_same_maps(layer, {name: arrays[f"{prefix}{name}"] for name in MAP_ARRAYS})


MAP_ARRAYS = ("map_qk", "map_feat", "margin_qk", "margin_feat")


def assert_same_maps(layer: Layer, expected: Mapping[str, np.ndarray]) -> None:
    """Compare the match of every token, read at the tokens themselves (so without the query margin)."""
    _, num_latent_frames, rows, cols, _ = layer.query.shape
    released = {"query_margin": "none", "temperature": layer.params.temperature}
    params = MatchingParams.preset("released", released)
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    every_token = torch.stack([col.flatten(), row.flatten()], dim=-1).float()
    by_query_key = match_points(layer.query, layer.key, every_token, params=params)
    by_feature = match_features(layer.feature, every_token, params=params)
    for matches, kind in ((by_query_key, "qk"), (by_feature, "feat")):
        found = matches.points_xy_token[1:].reshape(num_latent_frames - 1, rows, cols, 2).numpy()
        clear = expected[f"margin_{kind}"] > CLEAR_MARGIN
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(found[clear], expected[f"map_{kind}"][clear])


@small_cases("corr_qk")
def test_probabilities_are_those_that_the_released_code_hands_to_its_argmax(prefix: str, path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, prefix, 6, 9)
    targets = range(1, layer.query.shape[1])
    rows = match_rows(
        [(layer.query, layer.key)], layer.every_token, source_frame=0, target_frames=targets, params=layer.params
    )
    np.testing.assert_allclose(rows.numpy(), arrays[prefix + "corr_qk"], atol=5e-6)


@small_cases("query_coords", "attn_weight_coords")
def test_attention_rows_follow_the_swapped_token_pick(prefix: str, path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, prefix, 6, 9)
    coords = torch.from_numpy(arrays[prefix + "query_coords"][0])
    points = points_to_tokens(coords, stride_px=STRIDE_PX, params=layer.params)
    num_text = layer.text_key.shape[1]
    no_text_is_let_through = torch.zeros(num_text, dtype=torch.bool)
    rows = attention_rows(
        layer.query, layer.key, layer.text_key, no_text_is_let_through, points, params=layer.params
    ).numpy()
    if prefix == "hun_":
        rows = np.concatenate([rows[:, num_text:], rows[:, :num_text]], axis=1)
    np.testing.assert_allclose(rows, arrays[prefix + "attn_weight_coords"], atol=5e-6)


@pytest.mark.parametrize("path", golden_files("01_matching.npz", "q"))
def test_the_real_grid_is_reproduced(path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, "", 30, 45, with_feature=False)
    unclear = np.argwhere(~(arrays["margin_qk"].astype(np.float32) > CLEAR_MARGIN))
    coords = np.concatenate([arrays["query_coords"][0], arrays["grid_bg"], arrays["grid_fg"]])
    expected = np.concatenate([arrays[f"traj_qk_{name}"] for name in ("coords", "bg", "fg")], axis=1)
    points = points_to_tokens(torch.from_numpy(coords), stride_px=STRIDE_PX, params=layer.params)
    found = match_points(layer.query, layer.key, points, params=layer.params)
    excused = touches(points.numpy(), unclear, rows=30, cols=45)
    assert excused.mean() < 0.02
    np.testing.assert_allclose(
        pixels(found.points_xy_token, layer.params)[:, ~excused], expected[:, ~excused], atol=2e-3
    )
    rows = match_rows(
        [(layer.query, layer.key)],
        torch.tensor([0, 44, 697, 1349]),
        source_frame=0,
        target_frames=range(6, 7),
        params=layer.params,
    )
    np.testing.assert_allclose(rows[0].numpy(), arrays["corr_qk_f6_rows"], atol=5e-6)


def touches(points: np.ndarray, unclear: np.ndarray, *, rows: int, cols: int) -> np.ndarray:
    """True for points one of whose four tokens has a match that arithmetic alone may change, in any latent frame."""
    squeeze = np.array([(cols - 1) / (cols - cols / 64), (rows - 1) / (rows - cols / 64)])
    around = np.floor(points * squeeze)
    offset = unclear[:, [2, 1]][None] - around[:, None]
    return ((offset >= 0) & (offset <= 1)).all(axis=-1).any(axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("path", golden_files("01_matching.npz", "v"))
def test_the_real_grid_is_reproduced_by_features_and_token_by_token(path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, "", 30, 45)
    assert_same_maps(layer, {name: arrays[name].astype(np.float32) for name in MAP_ARRAYS if name in arrays})
    for name, coords in (("coords", arrays["query_coords"][0]), ("bg", arrays["grid_bg"]), ("fg", arrays["grid_fg"])):
        points = points_to_tokens(torch.from_numpy(coords), stride_px=STRIDE_PX, params=layer.params)
        found = match_features(layer.feature, points, params=layer.params)
        np.testing.assert_allclose(pixels(found.points_xy_token, layer.params), arrays[f"traj_feat_{name}"], atol=2e-3)


@pytest.mark.parametrize("path", golden_files("01_matching.npz", "q"))
def test_rounding_the_descriptors_to_bfloat16_moves_few_matches(path: Path) -> None:
    arrays = load(path)
    layer = read_layer(arrays, "", 30, 45, with_feature=False)
    exact, rounded = (
        match_rows([(query, key)], layer.every_token, source_frame=0, target_frames=range(6, 7)).argmax(dim=-1)
        for query, key in ((layer.query, layer.key), (layer.query.bfloat16(), layer.key.bfloat16()))
    )
    assert (exact != rounded).float().mean() <= 0.025


@pytest.mark.parametrize("path", golden_files("09_interp_grid.npz", "f13_in", "t25_in"))
def test_released_upsampling_in_time_is_reproduced(path: Path) -> None:
    arrays = load(path)
    released = MatchingParams.preset("released")
    for given, wanted in (
        ("f13_in", "f13_out49"),
        ("f13b2_in", "f13b2_out49"),
        ("f5_in", "f5_out49"),
        ("f49_in", "f49_out49"),
        ("t25_in", "t25_out"),
    ):
        expected = arrays[wanted]
        frames = latent_to_frames(
            torch.from_numpy(arrays[given]), num_frames=expected.shape[1], temporal_stride=4, params=released
        )
        np.testing.assert_allclose(frames.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("path", golden_files("09_interp_grid.npz", "ramp13_out49"))
def test_released_upsampling_reads_latents_up_to_a_third_away_from_where_the_autoencoder_puts_them(path: Path) -> None:
    ramp = torch.arange(13.0).reshape(13, 1, 1).expand(13, 1, 2)
    released, causal = (
        latent_to_frames(ramp, num_frames=49, temporal_stride=4, params=MatchingParams.preset(name))[:, 0, 0]
        for name in ("released", "corrected")
    )
    np.testing.assert_allclose(released.numpy(), load(path)["ramp13_out49"], atol=1e-5)
    np.testing.assert_allclose(causal.numpy(), np.arange(49) / 4, atol=1e-6)
    assert 0.3 < (released - causal).abs().max() < 0.35
