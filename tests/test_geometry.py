"""Pixels, tokens, latent frames and video frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftrack.geometry import (
    TokenGrid,
    frames_of_latent_frame,
    latent_position_of_frames,
    px_to_token,
    rescale_points,
    token_to_px,
)


def test_a_token_centre_lies_half_a_stride_into_its_token() -> None:
    assert token_to_px(np.array([0.0, 2.0]), stride_px=16).tolist() == [8.0, 40.0]
    assert px_to_token(np.array([8.0, 40.0, 0.0]), stride_px=16).tolist() == [0.0, 2.0, -0.5]


@given(st.floats(-1e4, 1e4), st.sampled_from([8, 16, 32]))
def test_pixel_to_token_and_back_is_the_identity(px: float, stride_px: int) -> None:
    assert token_to_px(px_to_token(np.array([px]), stride_px=stride_px), stride_px=stride_px)[0] == pytest.approx(
        px, abs=1e-9
    )


def test_frames_of_49_fall_into_13_latent_frames_as_the_causal_autoencoder_folds_them() -> None:
    assert list(frames_of_latent_frame(0, temporal_stride=4)) == [0]
    assert list(frames_of_latent_frame(1, temporal_stride=4)) == [1, 2, 3, 4]
    assert list(frames_of_latent_frame(12, temporal_stride=4)) == [45, 46, 47, 48]


@given(st.integers(1, 13), st.integers(1, 8))
def test_every_frame_belongs_to_exactly_one_latent_frame(num_latent_frames: int, temporal_stride: int) -> None:
    folded = [f for k in range(num_latent_frames) for f in frames_of_latent_frame(k, temporal_stride=temporal_stride)]
    grid = TokenGrid(num_latent_frames, 3, 5, 8, temporal_stride)
    assert folded == list(range(grid.num_frames))


def test_frame_4_is_read_at_latent_frame_1() -> None:
    assert latent_position_of_frames(6, temporal_stride=4).tolist() == [0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_resizing_an_image_scales_its_coordinates_per_axis() -> None:
    points = np.array([[854.0, 480.0], [427.0, 120.0]], dtype=np.float32)
    scaled = rescale_points(points, from_size=(480, 854), to_size=(256, 256))
    assert scaled.tolist() == [[256.0, 256.0], [128.0, 64.0]]
    assert scaled.dtype == np.float32


def test_a_grid_counts_its_tokens() -> None:
    grid = TokenGrid(num_latent_frames=13, rows=30, cols=45, stride_px=16, temporal_stride=4)
    assert (grid.height, grid.width, grid.num_frames) == (480, 720, 49)
    assert (grid.tokens_per_frame, grid.num_tokens) == (1350, 17550)


def test_a_grid_without_rows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"TokenGrid\.rows is 0"):
        TokenGrid(3, 0, 5, 8, 4)


def test_an_autoencoder_that_folds_all_latent_frames_alike_reads_their_middles() -> None:
    alike = {"temporal_stride": 4, "first_frames": 4}
    assert [list(frames_of_latent_frame(k, **alike)) for k in (0, 1, 5)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [20, 21, 22, 23],
    ]
    positions = latent_position_of_frames(24, **alike)
    for k in range(6):
        assert positions[list(frames_of_latent_frame(k, **alike))].mean() == pytest.approx(k)
    grid = TokenGrid(num_latent_frames=6, rows=2, cols=3, stride_px=8, **alike)
    assert grid.num_frames == 24
    with pytest.raises(ValueError, match=r"TokenGrid\.first_frames is 0"):
        TokenGrid(num_latent_frames=6, rows=2, cols=3, stride_px=8, temporal_stride=4, first_frames=0)
