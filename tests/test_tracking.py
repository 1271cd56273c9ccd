"""Chunks cover clips, and hand-made descriptors with known motion are tracked."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difftrack.annotation import TRACKERS, TrackerUnavailableError, make_tracker, register_tracker
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.datasets import Clip, Tracks, read_tracks, write_clip, write_tracks
from difftrack.geometry import TokenGrid, rescale_points
from difftrack.params import ParamsError, parse
from difftrack.scenes import Scenes
from difftrack.store import DescriptorSpec, clip_group, create_group
from difftrack.tracking import (
    CALIBRATION,
    ChunkDescriptors,
    FrameMatches,
    PredictedTracks,
    TrackParams,
    VisibilityParams,
    _fusion,
    decide_tracks,
    evidence_of,
    jitter_of,
    no_motion,
    read_predictions,
    select_heads,
    smooth_tracks,
    track_clip,
    typical_steps,
    viterbi_paths,
    write_predictions,
)


@given(st.integers(2, 131), st.integers(2, 17), st.booleans(), st.integers(0, 5))
def test_every_frame_is_in_some_chunk_and_every_chunk_is_full(
    num_frames: int, chunk_len: int, interleaved: bool, overlap: int
) -> None:
    stride = max(1, chunk_len - 1 - overlap)
    params = ChunkParams(chunk_len=chunk_len, interleaved=interleaved, chunk_stride=stride)
    chunks = chunk_schedule(num_frames, params)
    assert set().union(*chunks) == set(range(num_frames))
    for chunk in chunks:
        assert chunk[0] == 0
        assert len(chunk) == min(params.chunk_len, num_frames)
        assert list(chunk) == sorted(set(chunk))


@given(st.integers(2, 131), st.integers(2, 17), st.booleans())
def test_without_overlap_no_schedule_has_fewer_chunks(num_frames: int, chunk_len: int, interleaved: bool) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len, interleaved=interleaved))
    assert (len(chunks) - 1) * (chunk_len - 1) < num_frames - 1 <= len(chunks) * (chunk_len - 1)


@given(st.integers(20, 131), st.integers(3, 17))
def test_interleaved_chunks_span_the_clip(num_frames: int, chunk_len: int) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len))
    widest_gap = -(-(num_frames - 1) // (min(chunk_len, num_frames) - 1))
    for chunk in chunks:
        gaps = [later - earlier for earlier, later in pairwise(chunk[1:])]
        assert max(gaps, default=0) <= widest_gap


@given(st.integers(2, 61), st.integers(2, 13), st.sets(st.integers(-61, 60), max_size=3))
def test_every_anchor_inside_the_clip_reaches_every_frame(num_frames: int, chunk_len: int, extra: set[int]) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len, anchors=(0, *extra)))
    anchors = {0} | {a % num_frames for a in extra if -num_frames <= a < num_frames}
    assert {chunk[0] for chunk in chunks} == anchors
    for anchor in anchors:
        assert set().union(*(chunk for chunk in chunks if chunk[0] == anchor)) == set(range(num_frames))


def test_interleaving_worked_by_hand() -> None:
    assert chunk_schedule(8, ChunkParams(chunk_len=4)) == [(0, 1, 3, 5), (0, 1, 4, 6), (0, 2, 4, 7)]
    assert chunk_schedule(7, ChunkParams(chunk_len=4)) == [(0, 1, 3, 5), (0, 2, 4, 6)]
    assert chunk_schedule(7, ChunkParams(chunk_len=4, anchors=(3,))) == [(3, 0, 2, 5), (3, 1, 4, 6)]


def test_consecutive_chunks_worked_by_hand() -> None:
    params = ChunkParams(chunk_len=4, interleaved=False)
    assert chunk_schedule(8, params) == [(0, 1, 2, 3), (0, 4, 5, 6), (0, 5, 6, 7)]


def test_104_frames_take_nine_chunks_of_thirteen() -> None:
    assert len(chunk_schedule(104, ChunkParams())) == 9
    assert len(chunk_schedule(104, ChunkParams(schedule="released"))) == 15


def test_chunks_are_as_long_as_the_backbone_is_used_to_unless_told() -> None:
    assert chunk_schedule(8, ChunkParams(), native_len=4) == chunk_schedule(8, ChunkParams(chunk_len=4))
    assert chunk_schedule(8, ChunkParams(chunk_len=3), native_len=4) == chunk_schedule(8, ChunkParams(chunk_len=3))


def test_a_clip_is_cut_at_its_longest_allowed_length() -> None:
    assert chunk_schedule(40, ChunkParams(chunk_len=5, video_max_len=3)) == [(0, 1, 2)]


def test_impossible_cuts_are_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match=r"1 frame"):
        chunk_schedule(1, ChunkParams())
    with pytest.raises(ValueError, match=r"12 frames.*13.*covering"):
        chunk_schedule(12, ChunkParams(schedule="released"))
    with pytest.raises(ValueError, match=r"\[9\].*7 frames"):
        chunk_schedule(7, ChunkParams(anchors=(9,)))
    with pytest.raises(ParamsError, match=r"extract\.tracking.*chunk_stride is 13.*12"):
        parse(ChunkParams, {"chunk_len": 13, "chunk_stride": 13}, "extract.tracking")
    with pytest.raises(ValueError, match=r"chunk_stride is 6.*4"):
        chunk_schedule(7, ChunkParams(chunk_stride=6), native_len=5)


def test_a_stride_beyond_the_chunk_is_harmless_where_one_chunk_holds_the_clip_as_in_the_released_code() -> None:
    released = ChunkParams(chunk_len=9, schedule="released", interleaved=False, chunk_stride=12)
    assert chunk_schedule(9, released) == [tuple(range(9))]
    with pytest.raises(ValueError, match=r"chunk_stride is 12.*8, or frames are skipped"):
        chunk_schedule(10, released)
    interleaved = ChunkParams(chunk_len=5, schedule="released", chunk_stride=12)  # the script's own default
    assert chunk_schedule(7, interleaved) == chunk_schedule(7, replace(interleaved, chunk_stride=None))
    refused: tuple[dict[str, Any], ...] = (
        {"chunk_len": 1},
        {"anchors": []},
        {"video_max_len": 1},
        {"schedule": "released", "anchors": [3]},
    )
    for bad in refused:
        with pytest.raises(ParamsError, match=next(reversed(bad))):
            parse(ChunkParams, bad, "extract.tracking")


HEADS, ROWS, COLS, CHANNELS, STRIDE = 2, 7, 11, 58, 13
"""Frames of 91 x 143 px."""
TOKENS = TokenGrid(num_latent_frames=2, rows=ROWS, cols=COLS, stride_px=STRIDE, temporal_stride=1)

Field = Callable[[int, Tensor], Tensor]
"""A function from (frame, token positions [row, col, xy]) to the appearance there, [row, col, channel]."""


def texture(seed: int, wavelength_token: float) -> Callable[[Tensor], Tensor]:
    """A random field over the plane: nearby places look alike, up to about a wavelength apart."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(2, CHANNELS // 2, generator=generator) * (2 * torch.pi / wavelength_token)

    def look(places_xy_token: Tensor) -> Tensor:
        phase = places_xy_token @ waves
        return torch.cat([phase.cos(), phase.sin()], dim=-1)

    return look


def moving(velocity_xy_token: tuple[float, float], wavelength_token: float = 4.0) -> Field:
    look = texture(5, wavelength_token)
    return lambda frame, places: look(places - frame * torch.tensor(velocity_xy_token))


def with_hole(field: Field, frame_of_hole: int, columns: slice) -> Field:
    """Another object covers some columns in one frame."""
    other = texture(17, 4.0)

    def look(frame: int, places: Tensor) -> Tensor:
        seen = field(frame, places).clone()
        if frame == frame_of_hole:
            seen[:, columns] = other(places)[:, columns]
        return seen

    return look


def chunks_of(
    field: Field, chunks: list[tuple[int, ...]], sharpness: float = 12.0, noisy_head: bool = False
) -> list[ChunkDescriptors]:
    row, col = torch.meshgrid(torch.arange(ROWS), torch.arange(COLS), indexing="ij")
    places = torch.stack([col, row], dim=-1).float()

    def reader(frames: tuple[int, ...]) -> ChunkDescriptors:
        def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
            one = torch.stack([field(frame, places) for frame in frames])
            heads = one.expand(HEADS, *one.shape).clone()
            if noisy_head:
                heads[1] = 5 * torch.randn(one.shape, generator=torch.Generator().manual_seed(frames[1]))
            return heads * (sharpness / CHANNELS**0.5), heads

        return ChunkDescriptors(frames=frames, read=read)

    return [reader(frames) for frames in chunks]


def queries(*points: tuple[int, float, float]) -> np.ndarray:
    """Query points (frame, x token, y token), converted to pixels."""
    frame_xy = np.asarray(points, dtype=np.float32)
    return np.concatenate([frame_xy[:, :1], (frame_xy[:, 1:] + 0.5) * STRIDE], axis=1)


def track(chunks: list[ChunkDescriptors], query_points: np.ndarray, scenes: Scenes | None = None, **params: Any) -> Any:
    made = TrackParams(**params)
    return track_clip(chunks, query_points, sources=[(3, 1)], grid=TOKENS, params=made, scenes=scenes)


def expected_px(query_points: np.ndarray, num_frames: int, velocity_xy_token: tuple[float, float]) -> np.ndarray:
    elapsed = np.arange(num_frames)[:, None] - query_points[:, 0]
    return query_points[:, 1:] + elapsed[..., None] * np.asarray(velocity_xy_token) * STRIDE


def test_motion_by_whole_tokens_is_found_exactly() -> None:
    points = queries((0, 2, 1), (0, 3, 2), (0, 1, 3))
    chunks = chunks_of(moving((1, 0.0), wavelength_token=1.5), chunk_schedule(8, ChunkParams(chunk_len=4)), 60.0)
    tracks = track(chunks, points, matching=replace(TrackParams().matching, window_radius=0))
    np.testing.assert_allclose(tracks.points_xy_px, expected_px(points, 8, (1, 0)), atol=1e-3)
    assert tracks.visible.all()
    assert (tracks.confidence > 0.85).all()


def test_soft_argmax_finds_motion_below_a_token() -> None:
    velocity = (0.3, 0.2)
    points = queries((0, 3, 2), (0, 4.5, 2.25), (0, 5, 3))
    chunks = chunks_of(moving(velocity, wavelength_token=6.0), chunk_schedule(7, ChunkParams(chunk_len=5)))
    truth = expected_px(points, 7, velocity)
    error = np.abs(track(chunks, points).points_xy_px - truth).max()
    argmax = replace(TrackParams().matching, read_out="rows", window_radius=0)
    argmax_error = np.abs(track(chunks, points, matching=argmax).points_xy_px - truth).max()
    assert error < 0.25 * STRIDE
    assert argmax_error > 0.4 * STRIDE


def test_a_point_behind_something_else_is_invisible_and_returns() -> None:
    field = with_hole(moving((0.0, 0.0)), frame_of_hole=3, columns=slice(4, 8))
    points = queries((0, 5.5, 3), (0, 1, 3))
    tracks = track(chunks_of(field, chunk_schedule(7, ChunkParams(chunk_len=4))), points)
    assert tracks.visible[:, 0].tolist() == [True, True, True, False, True, True, True]
    assert tracks.visible[:, 1].all()
    assert tracks.confidence[3, 0] < tracks.confidence[[0, 1, 2, 4, 5, 6], 0].min()
    unasked = track(chunks_of(field, [tuple(range(7))]), points, visibility=VisibilityParams(predict=False))
    assert unasked.visible.all()


@pytest.mark.parametrize("anchors", [(0,), (0, 4), (4,)])
def test_queries_on_any_frame_are_tracked_forward_and_backward(anchors: tuple[int, ...]) -> None:
    velocity = (0.5, 0.25)
    points = queries((0, 3, 2), (4, 5, 3), (3, 4, 3), (6, 6, 3.5))
    chunks = chunks_of(moving(velocity), chunk_schedule(7, ChunkParams(chunk_len=4, anchors=anchors)))
    tracks = track(chunks, points)
    assert np.abs(tracks.points_xy_px - expected_px(points, 7, velocity)).max() < 0.5 * STRIDE
    assert tracks.visible.all()
    given_back = tracks.points_xy_px[points[:, 0].astype(int), np.arange(len(points))]
    np.testing.assert_array_equal(given_back, points[:, 1:])


def test_a_hop_over_an_anchor_where_the_point_is_hidden_is_not_called_visible() -> None:
    field = with_hole(moving((0.0, 0.0)), frame_of_hole=0, columns=slice(4, 8))
    chunks = chunks_of(field, [(0, 1, 3), (0, 2, 4)])
    tracks = track(chunks, queries((3, 5.5, 3)))
    assert tracks.visible[:, 0].tolist() == [False, True, False, True, False]


def test_points_do_not_see_each_other() -> None:
    points = queries((0, 3, 2), (4, 5, 3), (0, 4, 1), (3, 4, 3), (4, 2, 2))
    chunks = chunks_of(moving((0.4, 0.2)), chunk_schedule(7, ChunkParams(chunk_len=4)))
    together = track(chunks, points)
    order = [3, 0, 4, 1]
    apart = track(chunks, points[order])
    np.testing.assert_allclose(apart.points_xy_px, together.points_xy_px[:, order], atol=1e-4)
    np.testing.assert_array_equal(apart.visible, together.visible[:, order])


def test_tracking_twice_gives_the_same_numbers() -> None:
    chunks = chunks_of(moving((0.4, 0.2)), chunk_schedule(7, ChunkParams(chunk_len=4)), noisy_head=True)
    first, second = (track(chunks, queries((0, 3, 2), (2, 4, 1))) for _ in range(2))
    np.testing.assert_array_equal(first.points_xy_px, second.points_xy_px)
    np.testing.assert_array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize("choice", [{"heads": (0,)}, {"heads": {1: (0,)}}, {"head_weights": {1: (1.0, 0.0)}}])
def test_a_head_that_sees_nothing_can_be_left_out(choice: dict[str, Any]) -> None:
    field, schedule = moving((0.3, 0.0)), chunk_schedule(5, ChunkParams(chunk_len=3))
    points = queries((0, 3, 2), (0, 5, 4))
    clean, noisy = chunks_of(field, schedule), chunks_of(field, schedule, noisy_head=True)
    np.testing.assert_allclose(
        track(noisy, points, **choice).points_xy_px, track(clean, points).points_xy_px, atol=1e-3
    )
    assert np.abs(track(noisy, points).points_xy_px - track(clean, points).points_xy_px).max() > 1.0


def test_heads_are_chosen_by_what_they_add() -> None:
    worth = {(0,): 0.2, (1,): 0.5, (2,): 0.4, (0, 1): 0.45, (1, 2): 0.6, (0, 1, 2): 0.55}
    assert select_heads(worth.__getitem__, [0, 1, 2]) == (1, 2)
    assert select_heads(worth.__getitem__, [0, 1, 2], min_gain=0.2) == (1,)
    with pytest.raises(ValueError, match="heads is empty"):
        select_heads(worth.__getitem__, [])


def test_heads_are_learned_from_known_tracks() -> None:
    velocity, points = (0.3, 0.0), queries((0, 3, 2), (0, 5, 4))
    chunks = chunks_of(moving(velocity), chunk_schedule(5, ChunkParams(chunk_len=3)), noisy_head=True)

    def score(heads: tuple[int, ...]) -> float:
        found = track(chunks, points, heads=heads).points_xy_px
        return -float(np.abs(found - expected_px(points, 5, velocity)).mean())

    assert select_heads(score, range(HEADS)) == (0,)


def test_features_are_matched_by_cosine_whatever_their_length() -> None:
    points = queries((0, 3, 2), (0, 5, 3))
    schedule = chunk_schedule(5, ChunkParams(chunk_len=3))
    chunks = chunks_of(moving((0.5, 0.0)), schedule, sharpness=CHANNELS**0.5)

    def stretched(chunk: ChunkDescriptors) -> ChunkDescriptors:
        def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
            feature, again = chunk.read(step, layer)
            return 9 * feature, 9 * again

        return ChunkDescriptors(frames=chunk.frames, read=read)

    tracks = track(chunks, points, kind="feature")
    longer = track([stretched(chunk) for chunk in chunks], points, kind="feature")
    np.testing.assert_allclose(longer.points_xy_px, tracks.points_xy_px, atol=1e-3)
    assert np.abs(tracks.points_xy_px - expected_px(points, 5, (0.5, 0))).max() < 0.5 * STRIDE


def test_fusing_a_pair_with_itself_changes_nothing_unless_channels_are_concatenated() -> None:
    chunks = chunks_of(moving((0.4, 0.2)), [(0, 1, 2, 3, 4)], sharpness=3.0)
    points = queries((0, 3, 2))

    def fused(sources: list[tuple[int, int]], fusion: Any) -> np.ndarray:
        params = TrackParams(fusion=fusion, visibility=VisibilityParams(predict=False))
        tracks = track_clip(chunks, points, sources=sources, grid=TOKENS, params=params)
        return tracks.points_xy_px

    once, twice = [(0, 0)], [(0, 0), (0, 1)]
    np.testing.assert_allclose(fused(twice, "probability"), fused(once, "probability"), atol=1e-4)
    assert np.abs(fused(twice, "channel") - fused(once, "channel")).max() > 0.01


def test_no_frame_is_matched_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of n frames saves one n-th of its work, and a point is where it was requested."""
    asked: list[tuple[int, int]] = []
    matched = _fusion.match_rows

    def noted(*args: Any, source_frame: int, target_frames: range, **kwargs: Any) -> Tensor:
        asked.extend((source_frame, target) for target in target_frames)
        return matched(*args, source_frame=source_frame, target_frames=target_frames, **kwargs)

    monkeypatch.setattr(_fusion, "match_rows", noted)
    track(chunks_of(moving((0.5, 0.25)), [tuple(range(5))]), queries((2, 3, 2), (0, 5, 3)))
    assert {(source, target) for source in (0, 2) for target in range(5) if target != source} <= set(asked)
    assert all(source != target for source, target in asked)


def test_no_motion_stays() -> None:
    points = queries((0, 3, 2), (2, 5, 3))
    tracks = no_motion(points, num_frames=5)
    assert tracks.points_xy_px.shape == (5, 2, 2)
    np.testing.assert_array_equal(tracks.points_xy_px, np.broadcast_to(points[:, 1:], (5, 2, 2)))
    assert tracks.visible.all()


def smoothed(
    points_xy: np.ndarray,
    visible: np.ndarray,
    fixed: list[int],
    radius: int = 2,
    limit: float = np.inf,
    jitter: float = 0.0,
) -> np.ndarray:
    result = smooth_tracks(
        torch.tensor(points_xy, dtype=torch.float32),
        torch.tensor(visible),
        radius=radius,
        limit=limit,
        jitter=jitter,
        fixed_frames=torch.tensor(fixed),
    )
    return result.numpy()


def test_smoothing_worked_by_hand() -> None:
    x = np.array([0.0, 0.0, 4.0, 0.0, 0.0])[:, None, None] * np.ones(2)
    visible = np.ones((5, 1), dtype=bool)
    # Weights 1 2 1 over three frames; the ends have no partner on their other side.
    np.testing.assert_allclose(smoothed(x, visible, [0], radius=1)[:, 0, 0], [0, 1, 2, 1, 0])


def test_what_smoothing_would_move_too_far_stays() -> None:
    x = np.array([0.0, 0.0, 4.0, 0.0, 0.0])[:, None, None] * np.array([1.0, 0.0])
    visible = np.ones((5, 1), dtype=bool)
    # Alone, frames 1 and 3 would move by 1, frame 2 by 2.
    for limit, expected in ((0.9, [0, 0, 4, 0, 0]), (1.5, [0, 1, 4, 1, 0]), (2.5, [0, 1, 2, 1, 0])):
        np.testing.assert_allclose(smoothed(x, visible, [0], radius=1, limit=limit)[:, 0, 0], expected)


@given(st.integers(2, 13), st.integers(1, 5), st.data())
def test_smoothing_leaves_uniform_motion_and_queries_alone(num_frames: int, radius: int, data: st.DataObject) -> None:
    visible = np.array(data.draw(st.lists(st.booleans(), min_size=num_frames, max_size=num_frames)))[:, None]
    line = np.arange(num_frames)[:, None, None] * np.array([3.0, -2.0]) + 7.0
    np.testing.assert_allclose(smoothed(line, visible, [0], radius), line, atol=1e-3)


@given(st.integers(2, 13), st.integers(2, 5), st.floats(-2, 2))
def test_smoothing_leaves_even_acceleration_alone_where_nothing_jitters(
    num_frames: int, radius: int, acceleration: float
) -> None:
    visible = np.ones((num_frames, 1), dtype=bool)
    thrown = acceleration * np.arange(num_frames)[:, None, None] ** 2 * np.array([1.0, -2.0]) + 7.0
    np.testing.assert_allclose(smoothed(thrown, visible, [0], radius), thrown, atol=2e-3)


def test_what_jitter_can_explain_is_averaged_by_lines() -> None:
    x = np.array([0.0, 1, 4, 9, 16])[:, None, None] * np.array([1.0, 0.0])
    visible = np.ones((5, 1), dtype=bool)
    # In frame 2, the only one with five frames about it, weights 1 2 3 2 1 give 48 / 9 and the parabola 4. Per square
    # of an independent error that difference has the variance n: the squares of (8, -2, -12, -2, 8) / 45.
    straight, n = 48 / 9, 280 / 2025
    for jitter in (0.0, 0.7, 1.3, 5.0):
        share = min(1.0, 3 * n * jitter**2 / (straight - 4) ** 2)
        expected = 4 + share * (straight - 4)
        np.testing.assert_allclose(smoothed(x, visible, [0], jitter=jitter)[2, 0, 0], expected, atol=1e-5)


def test_a_point_that_turns_is_smoothed_by_itself() -> None:
    time = np.arange(17)
    noise = np.random.default_rng(5).normal(size=(17, 2, 2)) * 0.05
    turning = 3 * np.stack([np.cos(0.9 * time), np.sin(0.9 * time)], axis=-1)
    straight = np.stack([0.5 * time, -0.3 * time], axis=-1)
    true = np.stack([turning, straight], axis=1)
    both = smoothed(true + noise, np.ones((17, 2), dtype=bool), [0, 0])
    for point in (0, 1):
        alone = smoothed((true + noise)[:, [point]], np.ones((17, 1), dtype=bool), [0])
        np.testing.assert_allclose(alone[:, 0], both[:, point], atol=1e-6)
    errors = [np.linalg.norm(tracks - true, axis=-1)[2:-2].mean(axis=0) for tracks in (true + noise, both)]
    assert errors[1][1] < 0.7 * errors[0][1]  # weights 1 2 3 2 1 keep 0.48 of independent errors
    assert errors[1][0] < 0.3  # a line would cut corners by 1.3


def test_smoothing_never_crosses_an_occlusion() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(11, 1, 2))
    visible = np.ones((11, 1), dtype=bool)
    visible[5] = False
    moved = x.copy()
    moved[5:] += 100.0
    np.testing.assert_array_equal(smoothed(x, visible, [0])[:5], smoothed(moved, visible, [0])[:5])
    assert np.abs(smoothed(x, visible, [0]) - x).max() > 0.01


@given(st.integers(0, 10_000), st.floats(0, 3), st.floats(0.5, 7))
def test_no_path_is_likelier_than_the_chosen_one(seed: int, motion_cost: float, limit: float) -> None:
    num_frames, num_points, num_candidates = 5, 2, 3
    generator = np.random.default_rng(seed)
    xy = generator.normal(size=(num_frames, num_points, num_candidates, 2)).astype(np.float32) * 3
    share = generator.uniform(0.01, 1, xy.shape[:3]).astype(np.float32)
    found = viterbi_paths(torch.from_numpy(xy), torch.from_numpy(share), motion_cost=motion_cost, limit=limit).numpy()

    def worth(point: int, path: tuple[int, ...]) -> float:
        at = np.array([xy[frame, point, own] for frame, own in enumerate(path)])
        steps = np.minimum(np.linalg.norm(np.diff(at, axis=0), axis=-1), limit)
        said = sum(np.log(share[frame, point, own]) for frame, own in enumerate(path))
        return float(said - motion_cost * (steps**2).sum())

    for point in range(num_points):
        paths = list(product(range(num_candidates), repeat=num_frames))
        best = max(paths, key=lambda path: worth(point, path))
        expected = np.array([xy[frame, point, own] for frame, own in enumerate(best)])
        taken = tuple(np.abs(xy[:, point] - found[:, point, None]).sum(axis=-1).argmin(axis=-1).tolist())
        assert worth(point, taken) == pytest.approx(worth(point, best), abs=1e-4)
        assert motion_cost > 0 or np.array_equal(found[:, point], expected)


def test_a_glimpse_elsewhere_does_not_move_a_path_but_a_lasting_change_does() -> None:
    here, there = [0.0, 0.0], [9.0, 0.0]
    xy = torch.tensor([[[here, here]], *[[[here, there]]] * 6])
    glimpse = torch.tensor([[[1.0, 1.0]], *[[[0.4, 0.6] if frame == 3 else [0.6, 0.4]] for frame in range(1, 7)]])
    path = viterbi_paths(xy, glimpse, motion_cost=0.1, limit=5.0)
    assert path[:, 0, 0].tolist() == [0.0] * 7
    lasting = torch.tensor([[[1.0, 1.0]], *[[[0.1, 0.9] if frame > 3 else [0.9, 0.1]] for frame in range(1, 7)]])
    path = viterbi_paths(xy, lasting, motion_cost=0.1, limit=5.0)
    assert path[:, 0, 0].tolist() == [0.0] * 4 + [9.0] * 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((0.0, np.nan, 4.0), r"query point 1 .*finite"),
        ((0.0, 150.0, 4.0), r"query point 1 .*x 150.*143 x 91 px"),
        ((7.0, 3.0, 4.0), r"query point 1 .*frame 7.*0 \.\.\. 6"),
        ((0.5, 3.0, 4.0), r"query point 1 .*frame 0\.5"),
    ],
)
def test_impossible_queries_are_named(bad: tuple[float, float, float], message: str) -> None:
    chunks = chunks_of(moving((0.0, 0.0)), chunk_schedule(7, ChunkParams(chunk_len=4)))
    with pytest.raises(ValueError, match=message):
        track(chunks, np.array([(0.0, 3.0, 4.0), bad], dtype=np.float32))


def test_missing_chunks_heads_and_points_are_named() -> None:
    points = queries((0, 3, 2))
    chunks = chunks_of(moving((0.0, 0.0)), [(0, 1, 2), (0, 4, 5)])
    with pytest.raises(ValueError, match=r"anchor 0.*\[3\]"):
        track(chunks, points)
    with pytest.raises(ValueError, match="no query point"):
        track(chunks[:1], np.zeros((0, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"heads \[2\].*layer 1.*\[0, 1\]"):
        track(chunks[:1], points, heads=(2,))
    with pytest.raises(ValueError, match=r"no entry for layer 1.*\[4\]"):
        track(chunks[:1], points, heads={4: (0,)})
    with pytest.raises(ValueError, match=r"head_weights.*layer 1.*\[4\]"):
        track(chunks[:1], points, head_weights={4: (1.0, 1.0)})
    with pytest.raises(ValueError, match="two or more"):
        ChunkDescriptors(frames=(0,), read=chunks[0].read)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"convention": "official"}, r"track\.convention is 'official'"),
        ({"matching": {"windowradius": 1}}, r"track\.matching\.windowradius"),
        ({"visibility": {"min_margin": 2}}, r"min_margin is 2"),
        ({"heads": [0], "head_weights": {1: [0.5, 0.5]}}, r"heads is \[0\], but head_weights"),
        ({"heads": {6: [1]}, "head_weights": {6: [0.5]}}, r"heads is \{6: \[1\]\}, but head_weights"),
        ({"heads": {6: []}}, r"heads is empty for layers \[6\]"),
        ({"kind": "feature", "heads": [1]}, r"kind is feature, which joins all heads"),
        ({"kind": "feature", "head_weights": {1: [0.5]}}, r"kind is feature, which joins all heads"),
        ({"kind": "feature", "matching": {"temperature": 0.2}}, r"set feature_temperature instead"),
        ({"layers": []}, r"layers is empty"),
        ({"motion_cost": -0.1}, r"motion_cost is -0\.1"),
        ({"motion_limit_token": 0}, r"motion_limit_token is 0"),
        ({"matches_per_token": 0}, r"matches_per_token is 0"),
        ({"smoothing_radius": -1}, r"smoothing_radius is -1"),
        ({"smoothing_limit_token": 0}, r"smoothing_limit_token is 0"),
    ],
)
def test_misspelt_params_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(TrackParams, values, "track")


def test_a_null_override_keeps_what_the_convention_says() -> None:
    corrected = parse(TrackParams, {"matching": {"window_radius": None}}, "track")
    released = parse(TrackParams, {"convention": "released", "matching": {"window_radius": None}}, "track")
    assert (corrected, released) == (TrackParams(), TrackParams(convention="released"))
    assert (corrected.matching.window_radius, released.matching.window_radius) == (1, 0)
    assert corrected.matching.temperature == "root_channel"
    assert released.matching.temperature == "root_heads"
    assert (corrected.visibility.predict, released.visibility.predict) == (True, False)
    assert (corrected.smoothing_radius, released.smoothing_radius) == (2, 0)
    assert (corrected.motion_cost, released.motion_cost) == (0.1, 0.0)


def test_a_point_outside_the_picture_is_not_called_visible() -> None:
    points = queries((0, COLS - 2, 3), (0, 2, 3))
    chunks = chunks_of(moving((1.0, 0.0)), chunk_schedule(7, ChunkParams(chunk_len=4)))
    for visibility in (VisibilityParams(predict=False), VisibilityParams(min_confidence=0.0)):
        tracks = track(chunks, points, visibility=visibility)
        outside = (tracks.points_xy_px < 0).any(axis=-1) | (tracks.points_xy_px > (COLS * STRIDE, ROWS * STRIDE)).any(
            -1
        )
        assert not tracks.visible[outside].any()
    anywhere = PredictedTracks(
        np.array([[[-0.1, 5], [0, 5], [143, 91], [143, 91.2], [np.nan, 5]]], dtype=np.float32),
        np.ones((1, 5), dtype=bool),
        np.full((1, 5), 0.7, dtype=np.float32),
    )
    seen = anywhere.seen_in(height=91, width=143, query_frames=np.zeros(5, dtype=np.int64))
    assert seen.visible.tolist() == [[False, True, True, False, False]]
    np.testing.assert_allclose(seen.confidence, [[0, 0.7, 0.7, 0, 0]])


def test_visible_is_a_confidence_of_at_least_the_operating_point() -> None:
    field = with_hole(moving((0.0, 0.0)), frame_of_hole=3, columns=slice(4, 8))
    points = queries((0, 5.5, 3), (0, 1, 3), (4, 6, 2))
    chunks = chunks_of(field, chunk_schedule(7, ChunkParams(chunk_len=4)))
    for least in (0.2, 0.5, 0.95):
        tracks = track(chunks, points, visibility=VisibilityParams(min_confidence=least))
        np.testing.assert_array_equal(tracks.visible, tracks.confidence >= least)


@given(
    errors=st.lists(st.floats(0, 30), min_size=5, max_size=5),
    sharpness=st.floats(0, 1),
    at=st.integers(0, 4),
    more=st.floats(0, 9),
)
def test_no_larger_cycle_error_makes_a_point_more_probably_seen(
    errors: list[float], sharpness: float, at: int, more: float
) -> None:
    def confidence(values: list[float]) -> torch.Tensor:
        evidence = evidence_of(torch.full((5, 1), sharpness), torch.tensor(values)[:, None])
        return evidence @ torch.tensor(list(CALIBRATION.values())[1:])

    worse = [error + more * (frame == at) for frame, error in enumerate(errors)]
    assert (confidence(worse) <= confidence(errors) + 1e-5).all()


def test_a_cycle_error_says_less_where_all_matches_are_blurred() -> None:
    lost = torch.full((3, 1), 4.0)
    sharp, blurred = (
        torch.sigmoid(
            CALIBRATION["constant"]
            + evidence_of(torch.full((3, 1), value), lost) @ torch.tensor(list(CALIBRATION.values())[1:])
        )
        for value in (0.9, 0.3)
    )
    assert (sharp < 0.1).all()
    assert (blurred > 0.5).all()


def test_a_fast_point_pays_for_its_steps_in_units_of_its_own() -> None:
    x = torch.tensor([0.0, 3, 6, 9, 12])
    slow = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    points = torch.stack([torch.stack([x, slow], dim=1), torch.zeros(5, 2)], dim=-1)
    sure = torch.ones(5, 2, dtype=torch.bool)
    # One step of 1 next to four of 3, and next to four of 0.1.
    torch.testing.assert_close(typical_steps(points, sure, limit=5.0) ** 2, torch.tensor([7.4, 0.208]))
    torch.testing.assert_close(typical_steps(points, sure, limit=2.0)[0] ** 2, torch.tensor(3.4))
    torch.testing.assert_close(typical_steps(points, ~sure, limit=5.0), torch.ones(2))


def test_costs_of_single_points_choose_their_paths_alone() -> None:
    candidates = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 4.0]])[:, None, :, None].expand(3, 2, 2, 1)
    candidates = torch.cat([candidates, torch.zeros_like(candidates)], dim=-1)
    share = torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.4, 0.6]])[:, None].expand(3, 2, 2)
    paths = viterbi_paths(candidates, share, motion_cost=torch.tensor([1.0, 0.01]), limit=5.0)
    assert paths[..., 0].T.tolist() == [[0, 0, 0], [0, 2, 4]]


def test_steps_cost_what_each_of_them_is_said_to_cost() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 2.0]])[:, None, :, None]
    candidates = torch.cat([x, torch.zeros_like(x)], dim=-1).expand(3, 3, 2, 2)
    share = torch.tensor([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]])[:, None].expand(3, 3, 2)
    # A step of 2 costs 4 times its price, and log(0.6 / 0.4) is 0.405: from 0.11 on it is too expensive.
    costs = torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.2, 0.0]])
    paths = viterbi_paths(candidates, share, motion_cost=costs, limit=5.0)
    # Where the first step costs, the point stays; where the second does, either place of frame 1 and 2 is as likely as
    # the other, and dearer by 0.405 than staying in 0; where neither does, each frame has its own.
    assert paths[:, 0, 0].tolist() == [0, 0, 0]
    assert paths[1, 1, 0] == paths[2, 1, 0]
    assert paths[:, 2, 0].tolist() == [0, 2, 0]


def glimpse(error: float, sharpness: float, *, wobble: float = 0.0) -> FrameMatches:
    """A point stays for nine frames, except that in frame 4 0.6 of the tokens say it is four tokens away."""
    stay = torch.tensor([[3.0, 2.0]]) + torch.tensor([1.0, 0.0]) * wobble * (-1.0) ** torch.arange(9)[:, None]
    there = stay.clone()
    there[4, 0] += 4.0
    errors = torch.zeros(9, 1)
    errors[4] = error
    sharp = torch.full((9, 1), sharpness)
    share = torch.tensor([0.4, 0.6]).expand(9, 1, 2)
    candidates = torch.stack([stay, there], dim=1)[:, None]
    return FrameMatches(there[:, None], torch.ones(9, 1), errors, candidates, share, sharp)


@pytest.mark.parametrize(
    ("error", "sharpness", "wobble", "expected"),
    [
        (2.0, 0.36, 0.02, 3.0),
        (2.0, 0.34, 0.07, 7.0),  # too blurred, and what the third differences show is 8 * 0.07 / sqrt 20 = 0.125
        (2.0, 0.34, 0.04, 3.0),  # 0.072: calm enough
        (0.9, 0.36, 0.02, 7.0),  # the match leads back, and stays
    ],
)
def test_a_path_decides_where_a_match_does_not_lead_back_and_the_frames_beside_it_are_evidence(
    error: float, sharpness: float, wobble: float, expected: float
) -> None:
    params = TrackParams(smoothing_radius=0, visibility=VisibilityParams(predict=False))
    tracks = decide_tracks(glimpse(error, sharpness, wobble=wobble), queries((0, 3, 2)), grid=TOKENS, params=params)
    assert tracks.points_xy_px[4, 0, 0] / STRIDE - 0.5 == pytest.approx(expected + wobble, abs=1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 11])
def test_paths_chosen_for_some_points_at_a_time_are_those_of_all_together(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int, most: float = 1.0) -> torch.Tensor:
        return most * torch.rand(*shape, generator=generator)

    shape = (13, 7)  # frames, points
    candidates = draw(*shape, 5, 2, most=6.0)
    share = draw(*shape, 5)
    matches = FrameMatches(
        candidates[:, :, 2], draw(*shape), draw(*shape, most=3.0), candidates, share / share.sum(-1, True), draw(*shape)
    )
    params = TrackParams(visibility=VisibilityParams(predict=False))
    points = queries(*[(frame % 13, 3, 2) for frame in range(7)])
    together = decide_tracks(matches, points, grid=TOKENS, params=params).points_xy_px
    monkeypatch.setattr("difftrack.tracking._tracker._PATH_BYTES", at_once * 13 * 5 * 2 * 4)
    np.testing.assert_array_equal(decide_tracks(matches, points, grid=TOKENS, params=params).points_xy_px, together)
    monkeypatch.setattr("difftrack.tracking._tracker._likeliest_paths", lambda part, params: part.points_xy_token)
    assert not np.array_equal(decide_tracks(matches, points, grid=TOKENS, params=params).points_xy_px, together)


@pytest.mark.parametrize(
    ("sharpness", "wobble", "smoothed_by"),
    [(0.66, 0.09, 8 / 9), (0.64, 0.09, 0.0), (0.64, 0.04, 8 / 9)],
)
def test_positions_are_smoothed_where_frames_are_sharp_or_the_point_is_calm(
    sharpness: float, wobble: float, smoothed_by: float
) -> None:
    zigzag = glimpse(0.0, sharpness, wobble=wobble)
    zigzag.points_xy_token[4, 0, 0] -= 4.0
    params = TrackParams(motion_cost=0.0, visibility=VisibilityParams(predict=False))
    tracks = decide_tracks(zigzag, queries((0, 3, 2)), grid=TOKENS, params=params)
    x = tracks.points_xy_px[:, 0, 0] / STRIDE - 0.5
    # Weights 1 2 3 2 1 of +1, -1, +1, -1, +1 leave 1 / 9; jitter explains the whole of it, so lines are fitted.
    np.testing.assert_allclose(x[4], 3 + wobble * (1 - smoothed_by), atol=1e-5)


def test_jitter_is_measured_by_third_differences_of_four_sure_frames() -> None:
    x = torch.tensor([[0.0, 1.0, 8.0], [0.0, 2.0, 0.0], [4.0, 3.0, 0.0], [0.0, 4.0, 0.0], [0.0, 5.0, 9.0]])
    sure = torch.ones(5, 3, dtype=torch.bool)
    sure[0, 2] = sure[4, 2] = False
    jitter, known = jitter_of(torch.stack([x, torch.zeros_like(x)], dim=-1), sure)
    # 0 - 3 * 4 + 3 * 0 - 0 = -12 and 12; uniform motion has none; of three frames in a row nothing is known.
    torch.testing.assert_close(jitter, torch.tensor([12 / 20**0.5, 0.0, 0.0]))
    assert known.tolist() == [True, True, False]


def test_a_track_without_a_whole_window_is_not_smoothed() -> None:
    x = np.array([0.0, 0.0, 4.0, 0.0, 0.0, 0.0])[:, None, None] * np.array([1.0, 0.5])
    visible = np.array([True, True, True, True, False, False])[:, None]
    # Frames 1 and 2 have windows of three frames alone, whose parabola is the position itself.
    np.testing.assert_allclose(smoothed(x, visible, [0], jitter=3.0), x, atol=1e-5)


def test_tracks_end_at_cuts_and_nothing_is_seen_in_frames_of_one_colour() -> None:
    points = queries((0, 5, 3), (5, 4, 2))
    chunks = chunks_of(moving((0.0, 0.0)), chunk_schedule(7, ChunkParams(chunk_len=4)))
    scenes = Scenes(starts=(0, 4), blank=np.array([False, True, False, False, False, False, False]))
    tracks = track(chunks, points, scenes=scenes)
    assert tracks.visible.T.astype(int).tolist() == [[1, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]]
    assert (tracks.confidence[~tracks.visible] == 0).all()
    going_on = track(chunks, points, scenes=scenes, cuts="ignore")
    assert going_on.visible.T.astype(int).tolist() == [[1, 0, 1, 1, 1, 1, 1]] * 2
    nothing = Scenes(starts=(0,), blank=np.ones(7, dtype=bool))
    assert not track(chunks, points, scenes=nothing).visible.any()


def test_cuts_are_written_beside_predictions_and_only_where_there_are_any(tmp_path: Path) -> None:
    points = queries((0, 5, 3))
    tracks = {"tracker": no_motion(points, num_frames=3)}
    write_predictions(tmp_path / "with.npz", points, tracks, cuts=(2,))
    write_predictions(tmp_path / "without.npz", points, tracks)
    assert np.load(tmp_path / "with.npz")["cuts"].tolist() == [2]
    assert "cuts" not in np.load(tmp_path / "without.npz")
    assert list(read_predictions(tmp_path / "with.npz")[1]) == ["tracker"]


CLIP_SIZE = (46, 74)


def stored_clip(
    folder: Path, name: str, velocity: tuple[float, float], num_frames: int = 5, cut: int = 5
) -> np.ndarray:
    """Clip, exact tracks and descriptors of a moving texture, as earlier stages leave them, and the queries."""
    points = queries((0, 3, 2), (0, 5, 3), (2, 4, 3), (num_frames - 1, 5, 3))
    size = {"from_size": (TOKENS.height, TOKENS.width), "to_size": CLIP_SIZE}
    at_clip = np.column_stack([points[:, 0], rescale_points(points[:, 1:], **size)])
    truth = rescale_points(expected_px(points, num_frames, velocity).astype(np.float32), **size)
    visible = np.ones(truth.shape[:2], dtype=bool)
    write_tracks(folder / "tracks", name, Tracks(truth, visible, at_clip, *CLIP_SIZE, tracker="exact"))
    frames = np.random.default_rng(3).integers(0, 255, (num_frames, *CLIP_SIZE, 3), dtype=np.uint8)
    write_clip(folder / "clips", Clip(name, frames, fps=8.0, prompt="", source="rendered"))
    schedule = chunk_schedule(num_frames, ChunkParams(chunk_len=3, video_max_len=cut))
    for number, chunk in enumerate(chunks_of(moving(velocity), schedule)):
        spec = DescriptorSpec(
            steps=(3,), timesteps=(61.0,), layers=(1,), heads=tuple(range(HEADS)), num_channels=CHANNELS,
            grid=replace(TOKENS, num_latent_frames=len(chunk.frames)), frames=chunk.frames, clip_size=CLIP_SIZE,
            size=(TOKENS.height, TOKENS.width), kinds=("query", "key"),
        )  # fmt: skip
        query, key = chunk.read(3, 1)
        writer = create_group(folder / "store", clip_group(name, number), spec)
        writer.write(3, 1, {"query": query.numpy(), "key": key.numpy()})
        writer.finish()


def run_stage(folder: Path, **params: Any) -> dict[str, Any]:
    from difftrack.pipeline.track import main

    deps = {"descriptors": folder / "store", "tracks": folder / "tracks", "clips": folder / "clips"}
    deps["best_layers"] = folder / "best_layers.json"
    main({"device": "cpu", **params}, deps, {"predictions": folder / "predictions"})
    return read_metrics(folder)


def read_metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions" / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_stage_tracks_every_stored_clip_and_scores_it_beside_baselines(tmp_path: Path) -> None:
    for name, velocity in (("slow", (0.25, 0.1)), ("fast", (1.0, 0.5))):
        stored_clip(tmp_path, name, velocity)
    metrics = run_stage(tmp_path)
    assert set(metrics["clips"]) == {"slow", "fast"}
    assert metrics["mean"]["tracker"]["num_clips"] == 2
    assert metrics["mean"]["tracker"]["num_empty"] == 0
    own, still = (metrics["mean"][who]["average_pts_within_thresh"] for who in ("tracker", "no_motion"))
    assert own > still + 0.2
    assert "average_jaccard" in metrics["mean"]["lucas_kanade"]
    header, *rows = (tmp_path / "predictions" / "metrics.csv").read_text().splitlines()
    assert header.startswith("clip,tracker,")
    assert len(rows) == 2 * 3
    query_points, predictions = read_predictions(tmp_path / "predictions" / "fast.npz")
    truth = read_tracks(tmp_path / "tracks", "fast")
    np.testing.assert_array_equal(query_points, truth.query_points)
    assert set(predictions) == {"tracker", "no_motion", "lucas_kanade"}
    assert np.abs(predictions["tracker"].points_xy_px - truth.points_xy_px).max() < CLIP_SIZE[0] / ROWS


def test_released_keeps_the_queries_of_frame_0_and_says_how_many_others_there_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_clip(tmp_path, "some", (0.25, 0.1))
    stored_clip(tmp_path, "late", (0.25, 0.1))
    late = read_tracks(tmp_path / "tracks", "late")
    write_tracks(tmp_path / "tracks", "late", late.select(late.query_points[:, 0] > 0))
    both = {"convention": "released", "baselines": ["no_motion"]}
    metrics = run_stage(tmp_path, **both)
    counts = {"some": {"scored": 2, "others": 2}, "late": {"scored": 0, "others": 2}}
    assert metrics["queries"] == {"scored": 2, "others": 4, "clips": counts}
    assert list(metrics["left_out"]) == ["late"]
    assert (list(metrics["clips"]), metrics["failed"]) == (["some"], {})
    assert metrics["mean"]["tracker"]["num_clips"] == 1
    assert "left out: clip late has no query to score; a query must be in frame 0" in capsys.readouterr().err
    queries, _ = read_predictions(tmp_path / "predictions" / "some.npz")
    assert queries[:, 0].tolist() == [0, 0]
    assert np.load(tmp_path / "predictions" / "some.npz")["points"].tolist() == [0, 1]
    everything = run_stage(tmp_path, **both, queries="all")
    assert everything["queries"]["scored"] == 6
    assert run_stage(tmp_path, baselines=[])["queries"] == everything["queries"]


def test_points_that_are_visible_nowhere_are_never_queried(tmp_path: Path) -> None:
    stored_clip(tmp_path, "some", (0.25, 0.1))
    truth = read_tracks(tmp_path / "tracks", "some")
    truth.visible[:, 1] = False
    write_tracks(tmp_path / "tracks", "some", truth)
    metrics = run_stage(tmp_path)
    assert metrics["queries"]["clips"]["some"] == {"scored": 3, "others": 1}
    queries, predictions = read_predictions(tmp_path / "predictions" / "some.npz")
    np.testing.assert_array_equal(queries, np.delete(truth.query_points, 1, axis=0))
    assert predictions["tracker"].visible.shape[1] == 3


@dataclass(frozen=True)
class Shifted:
    """A notebook's own tracker: every point stays where it is, moved to the right."""

    shift_px: float = 0.0

    def track(self, frames: np.ndarray, query_points: np.ndarray) -> Tracks:
        still = make_tracker("no_motion").track(frames, query_points)
        return replace(still, points_xy_px=still.points_xy_px + np.float32([self.shift_px, 0]), tracker="shifted")


def test_any_registered_tracker_is_a_baseline_with_its_own_settings(tmp_path: Path) -> None:
    stored_clip(tmp_path, "slow", (0.25, 0.1))
    register_tracker("shifted", Shifted)
    try:
        metrics = run_stage(tmp_path, baselines=["no_motion", "shifted"], trackers={"shifted": {"shift_px": 3}})
    finally:
        TRACKERS.unregister("shifted")
    assert metrics["params"]["trackers"] == {"shifted": {"shift_px": 3}}
    _, predictions = read_predictions(tmp_path / "predictions" / "slow.npz")
    moved = predictions["shifted"].points_xy_px - predictions["no_motion"].points_xy_px
    assert np.unique(moved.round(4), axis=1).reshape(-1, 2).tolist() == [[3.0, 0.0]] * len(moved)
    assert "trackers" not in run_stage(tmp_path)["params"]


def test_a_baseline_that_is_unknown_or_cannot_be_loaded_ends_the_stage_in_one_line(tmp_path: Path) -> None:
    stored_clip(tmp_path, "slow", (0.25, 0.1))
    with pytest.raises(ValueError, match=r"track: baselines\[1\] is 'rraft': unknown tracker 'rraft'; known: cot"):
        run_stage(tmp_path, baselines=["no_motion", "rraft"])
    with pytest.raises(ValueError, match=r"unknown key track\.trackers\.raft\.size; known: "):
        run_stage(tmp_path, trackers={"raft": {"size": 3}})
    with pytest.raises(TrackerUnavailableError, match=r"tracker dino: the weights .*has no config"):
        run_stage(tmp_path, baselines=["dino"], trackers={"dino": {"path": str(tmp_path)}})
    with pytest.raises(TrackerUnavailableError, match="CoTracker3 cannot be loaded from"):
        run_stage(tmp_path, baselines=["cotracker3"], trackers={"cotracker3": {"checkout": str(tmp_path)}})


def test_stage_does_not_score_a_baseline_on_clips_whose_truth_it_gave(tmp_path: Path) -> None:
    for name in ("exact", "guessed"):
        stored_clip(tmp_path, name, (0.25, 0.1))
    guessed = read_tracks(tmp_path / "tracks", "guessed")
    write_tracks(tmp_path / "tracks", "guessed", replace(guessed, tracker="lucas_kanade"))
    metrics = run_stage(tmp_path)
    assert {name: own["num_clips"] for name, own in metrics["mean"].items()} == dict.fromkeys(
        ("tracker", "no_motion", "lucas_kanade"), 1
    )
    assert metrics["mean"]["tracker"].items() >= metrics["clips"]["exact"]["tracker"].items()
    assert metrics["clips"]["guessed"]["lucas_kanade"] is None
    assert metrics["pseudo_truth"]["lucas_kanade"]["mean"]["lucas_kanade"] is None
    assert "not compared with itself" in metrics["not_scored"]["guessed"]["lucas_kanade"]
    summary = json.loads((tmp_path / "predictions" / "summary.json").read_text())
    assert set(summary) == {"tracker", "no_motion", "lucas_kanade", "pseudo_truth"}
    assert set(summary["pseudo_truth"]["lucas_kanade"]) == {"tracker", "no_motion"}
    with (tmp_path / "predictions" / "metrics.csv").open(newline="") as file:
        rows = {(row["clip"], row["tracker"]): row for row in csv.DictReader(file)}
    assert rows["guessed", "lucas_kanade"]["truth"] == "pseudo-truth by lucas_kanade"
    assert rows["guessed", "lucas_kanade"]["average_jaccard"] == ""
    assert rows["guessed", "lucas_kanade"]["not_scored"]
    assert rows["exact", "lucas_kanade"]["average_jaccard"]
    assert set(read_predictions(tmp_path / "predictions" / "guessed.npz")[1]) == {
        "tracker",
        "no_motion",
        "lucas_kanade",
    }


def test_stage_gives_no_mean_where_every_truth_is_a_guess(tmp_path: Path) -> None:
    stored_clip(tmp_path, "mine", (0.25, 0.1))
    mine = read_tracks(tmp_path / "tracks", "mine")
    write_tracks(tmp_path / "tracks", "mine", replace(mine, tracker="lucas_kanade"))
    metrics = run_stage(tmp_path)
    assert metrics["mean"] == {}
    assert metrics["pseudo_truth"]["lucas_kanade"]["clips"] == ["mine"]


def test_stage_gives_the_same_bytes_again(tmp_path: Path) -> None:
    stored_clip(tmp_path, "slow", (0.25, 0.1))
    files = ("slow.npz", "metrics.json", "metrics.csv")
    run_stage(tmp_path)
    first = [(tmp_path / "predictions" / file).read_bytes() for file in files]
    run_stage(tmp_path)
    assert [(tmp_path / "predictions" / file).read_bytes() for file in files] == first


def test_stage_ends_tracks_at_cuts_says_so_and_writes_them_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_clip(tmp_path, "two", (0.25, 0.1))
    frames = np.full((5, *CLIP_SIZE, 3), (200, 30, 30), dtype=np.uint8)
    frames[:, ::2] = (30, 200, 60)
    frames[3:] = frames[3:, :, :, ::-1] // 2
    write_clip(tmp_path / "clips", Clip("two", frames, fps=8.0, prompt="", source="rendered"))
    run_stage(tmp_path)
    assert "two: cut before frame 3" in capsys.readouterr().out
    file = tmp_path / "predictions" / "two.npz"
    assert np.load(file)["cuts"].tolist() == [3]
    query_points, predictions = read_predictions(file)
    other_scene = (np.arange(5)[:, None] >= 3) != (query_points[:, 0] >= 3)
    for tracker in ("tracker", "lucas_kanade"):
        assert not predictions[tracker].visible[other_scene].any()
    assert predictions["tracker"].visible[~other_scene].any()
    run_stage(tmp_path, cuts="ignore")
    assert "cuts" not in np.load(file)
    assert read_predictions(file)[1]["tracker"].visible[other_scene].any()


def test_stage_names_clips_that_fail_and_goes_on(tmp_path: Path) -> None:
    for name in ("good", "lost", "other"):
        stored_clip(tmp_path, name, (0.25, 0.1))
    (tmp_path / "tracks" / "lost.npz").unlink()
    with pytest.raises(SystemExit, match=r"1 of 3 clips failed.*\n  lost: .*the tracks do not exist"):
        run_stage(tmp_path)
    metrics = read_metrics(tmp_path)
    assert set(metrics["clips"]) == {"good", "other"}
    assert "lost" in metrics["failed"]


def test_stage_refuses_strided_queries_that_would_be_scored_as_first_ones(tmp_path: Path) -> None:
    stored_clip(tmp_path, "again", (0.25, 0.1))
    truth = read_tracks(tmp_path / "tracks", "again")
    later = truth.query_points.copy()
    later[:, 0], later[:, 1:] = 2, truth.points_xy_px[2]
    twice = replace(
        truth,
        points_xy_px=np.concatenate([truth.points_xy_px] * 2, axis=1),
        visible=np.concatenate([truth.visible] * 2, axis=1),
        query_points=np.concatenate([truth.query_points, later]),
    )
    write_tracks(tmp_path / "tracks", "again", twice)
    with pytest.raises(SystemExit, match=r"again: .*set it to strided"):
        run_stage(tmp_path)
    assert run_stage(tmp_path, query_mode="strided")["mean"]["tracker"]["num_clips"] == 1


def test_stage_leaves_out_queries_after_the_cut_and_null_where_nothing_is_seen(tmp_path: Path) -> None:
    stored_clip(tmp_path, "cut", (0.25, 0.1), num_frames=7, cut=4)
    truth = read_tracks(tmp_path / "tracks", "cut")
    at_query = np.arange(7)[:, None] == truth.query_points[:, 0]  # seen there, and in no frame that is evaluated
    hidden = replace(truth, visible=at_query)
    write_tracks(tmp_path / "tracks", "cut", hidden)
    metrics = run_stage(tmp_path, baselines=["no_motion"])
    query_points, predictions = read_predictions(tmp_path / "predictions" / "cut.npz")
    assert query_points[:, 0].tolist() == [0, 0, 2]
    assert predictions["tracker"].visible.shape == (4, 3)
    assert metrics["mean"]["tracker"]["average_pts_within_thresh"] is None
    assert metrics["mean"]["tracker"]["num_empty"] == 1


def test_stage_takes_the_best_stored_layer_and_says_when_there_is_none(tmp_path: Path) -> None:
    stored_clip(tmp_path, "slow", (0.25, 0.1))
    (tmp_path / "best_layers.json").write_text(json.dumps({"layers": [7, 1]}))
    assert run_stage(tmp_path, layers="best")["clips"] == run_stage(tmp_path, layers=[1])["clips"]
    (tmp_path / "best_layers.json").write_text(json.dumps({"layers": [7]}))
    with pytest.raises(SystemExit, match=r"slow: layers is best.*\[1\]"):
        run_stage(tmp_path, layers="best")
    with pytest.raises(SystemExit, match=r"slow: steps \[5\] are not stored; there are \[3\]"):
        run_stage(tmp_path, steps=[5])
