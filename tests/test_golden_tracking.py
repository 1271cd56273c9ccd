"""Parity with numbers that the released code produced (goldens 05 and 06)."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden_sets import FULL, load
from torch import Tensor

from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.geometry import TokenGrid, rescale_points
from difftrack.tracking import ChunkDescriptors, PredictedTracks, TrackParams, track_clip

TRACKS = FULL / "05_tapvid_track.npz"

pytestmark = pytest.mark.skipif(not TRACKS.exists(), reason=f"no goldens in {FULL}: set DIFFTRACK_FIXTURES")


def released_cases() -> list[dict[str, Any]]:
    return json.loads((FULL / "06_chunk_schedule.json").read_text())["cases"]  # type: ignore[no-any-return]


def released_chunks(case: dict[str, Any]) -> list[list[int]]:
    params = ChunkParams(
        chunk_len=case["chunk_len"],
        schedule="released",
        interleaved=case["chunk_frame_interval"],
        chunk_stride=case["chunk_stride_arg"],
    )
    chunks = chunk_schedule(case["T"], params)
    assert {chunk[0] for chunk in chunks} == {0}
    return [list(chunk[1:]) for chunk in chunks]


def test_released_schedule_visits_the_windows_of_the_released_code() -> None:
    finished = [case for case in released_cases() if case["status"] == "ok"]
    assert finished
    for case in finished:
        chunks = released_chunks(case)
        assert len(chunks) == case["n_chunks"]
        if "chunks" in case:
            assert chunks == case["chunks"]
        else:
            assert chunks[:3] == case["chunks_first3"]
            assert chunks[-3:] == case["chunks_last3"]


def test_released_schedule_refuses_what_crashes_the_released_code() -> None:
    crashed = [case for case in released_cases() if case["status"] == "crash"]
    assert crashed
    for case in crashed:
        with pytest.raises(ValueError, match=r"chunk_stride|released schedule needs"):
            released_chunks(case)


GRID = (10, 15)
SIZE = (160, 240)
SOURCES = ((0, 0), (0, 1))
SCHEDULES = {
    "interval_avg": ChunkParams(schedule="released"),
    "interval_first": ChunkParams(schedule="released"),
    "stride12": ChunkParams(schedule="released", interleaved=False, chunk_stride=12),
    "stride6_avg": ChunkParams(schedule="released", interleaved=False, chunk_stride=6),
    "stride1_avg_maxlen20": ChunkParams(schedule="released", interleaved=False, chunk_stride=1, video_max_len=20),
    "hunyuan_interval_avg": ChunkParams(schedule="released"),
}


def perturbed_chunks(golden: dict[str, np.ndarray], chunks: list[tuple[int, ...]]) -> list[ChunkDescriptors]:
    """Chunks whose descriptors depend on their number, as the stand-in model of the golden made them."""

    def descriptors(kind: str, layer: int, number: int, frames: tuple[int, ...]) -> Tensor:
        base = torch.from_numpy(golden[f"base_{kind}"][layer][list(frames)].astype(np.float32))
        moved = base + 0.35 * torch.roll(base, number + 1, dims=-2)
        return moved.transpose(0, 1).unflatten(2, GRID)

    def reader(number: int, frames: tuple[int, ...]) -> ChunkDescriptors:
        def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
            return descriptors("q", layer, number, frames), descriptors("k", layer, number, frames)

        return ChunkDescriptors(frames=frames, read=read)

    return [reader(number, frames) for number, frames in enumerate(chunks)]


def released_tracks(golden: dict[str, np.ndarray], name: str, **overrides: Any) -> PredictedTracks:
    chunks = perturbed_chunks(golden, chunk_schedule(26, SCHEDULES[name]))
    params = TrackParams(convention="released", overlap="average" if "avg" in name else "first", **overrides)
    return track_clip(
        chunks,
        golden["kept_query_points"],
        sources=SOURCES,
        grid=TokenGrid(num_latent_frames=13, rows=GRID[0], cols=GRID[1], stride_px=16, temporal_stride=1),
        params=params,
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_released_tracks_are_those_of_the_released_code(name: str) -> None:
    golden = load(TRACKS)
    tracks = released_tracks(golden, name)
    predicted = rescale_points(tracks.points_xy_px, from_size=SIZE, to_size=(256, 256))
    np.testing.assert_allclose(predicted.swapaxes(0, 1), golden[f"{name}__pred_tracks256"], atol=2e-3)
    assert tracks.visible.all()


def test_temperature_alone_is_corrected_by_its_own_override() -> None:
    golden = load(TRACKS)
    own = replace(TrackParams(convention="released").matching, temperature="root_channel")
    tracks = released_tracks(golden, "interval_avg", matching=own)
    predicted = rescale_points(tracks.points_xy_px, from_size=SIZE, to_size=(256, 256)).swapaxes(0, 1)
    np.testing.assert_allclose(predicted, golden["interval_avg_FIXEDSCALE__pred_tracks256"], atol=2e-3)
    assert np.abs(predicted - golden["interval_avg__pred_tracks256"]).max() > 1.0


def test_released_tracks_at_real_geometry_are_those_of_the_released_code() -> None:
    golden, matching = load(TRACKS), load(FULL / "01_matching.npz")
    num_text = matching["q"].shape[1] - 13 * 30 * 45

    def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
        query, key = (torch.from_numpy(matching[kind][:, num_text:].astype(np.float32)) for kind in "qk")
        return query.unflatten(1, (13, 30, 45)), key.unflatten(1, (13, 30, 45))

    points = matching["query_coords"][0]
    tracks = track_clip(
        [ChunkDescriptors(frames=tuple(range(13)), read=read)],
        np.concatenate([np.zeros_like(points[:, :1]), points], axis=1),
        sources=[(0, 0)],
        grid=TokenGrid(num_latent_frames=13, rows=30, cols=45, stride_px=16, temporal_stride=1),
        params=TrackParams(convention="released"),
    )
    predicted = rescale_points(tracks.points_xy_px, from_size=(480, 720), to_size=(256, 256)).swapaxes(0, 1)
    np.testing.assert_allclose(predicted, golden["real13__pred_tracks256"], atol=2e-3)
