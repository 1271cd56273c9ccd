"""Parity with numbers that the released code produced (goldens 05 and 06), in the runs and at the sizes of a set."""

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_sets import FULL, golden_files, load, note, numbers
from torch import Tensor

from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.correspondence import match_rows
from difftrack.datasets import Tracks
from difftrack.evaluation import TrackSection
from difftrack.geometry import TokenGrid, rescale_points
from difftrack.metrics import tapvid_metrics
from difftrack.tracking import ChunkDescriptors, PredictedTracks, TrackParams, track_clip

FILE, SCHEDULE = "05_tapvid_track.npz", "06_chunk_schedule.json"
EVALUATED = (256, 256)
CLEAR_MARGIN = 1e-6


# The schedule


def read_cases(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["cases"]  # type: ignore[no-any-return]


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


@pytest.mark.parametrize("path", golden_files(SCHEDULE))
def test_released_schedule_visits_the_windows_of_the_released_code(path: Path) -> None:
    finished = [case for case in read_cases(path) if case["status"] == "ok"]
    assert finished
    for case in finished:
        chunks = released_chunks(case)
        assert len(chunks) == case["n_chunks"]
        assert min(map(len, chunks)) == case["shortest_chunk"]
        if "chunks" in case:
            assert chunks == case["chunks"]
        else:
            assert chunks[:3] == case["chunks_first3"]
            assert chunks[-3:] == case["chunks_last3"]


@pytest.mark.parametrize("path", golden_files(SCHEDULE))
def test_released_schedule_refuses_what_crashes_the_released_code(path: Path) -> None:
    crashed = [case for case in read_cases(path) if case["status"] == "crash"]
    assert crashed
    for case in crashed:
        with pytest.raises(ValueError, match=r"chunk_stride|released schedule needs"):
            released_chunks(case)


# The tracks


@dataclass(frozen=True)
class Clip:
    """The stand-in clip of a set, and what the set's README says about the difference between chunks' descriptors."""

    arrays: dict[str, np.ndarray]
    runs: dict[str, Any]
    size: tuple[int, int]
    """Pixels, (height, width)."""
    grid: tuple[int, int]
    """Tokens, (rows, cols)."""
    amplitude: float
    """Share of its rolled copy that is added to a chunk's descriptors."""
    frames: np.ndarray
    """Frames whose descriptors the set holds; a small set leaves some out, and tracks of those mean nothing."""

    @property
    def num_frames(self) -> int:
        return int(self.arrays["gt_visible"].shape[0])

    @property
    def token_grid(self) -> TokenGrid:
        rows, cols = self.grid
        height, _ = self.size
        return TokenGrid(num_latent_frames=2, rows=rows, cols=cols, stride_px=height // rows, temporal_stride=1)

    @property
    def queries(self) -> np.ndarray:
        return self.arrays["kept_query_points"]

    @property
    def every_token(self) -> np.ndarray:
        """A query at every token of frame 0, where the released code places tokens: (frame, x, y)."""
        row, col = (axis.flatten() for axis in np.indices(self.grid))
        xy = np.stack([col, row], axis=-1) * self.token_grid.stride_px
        return np.concatenate([np.zeros((len(xy), 1)), xy], axis=1).astype(np.float32)


@cache
def read_set(path: Path) -> Clip:
    arrays = load(path)
    runs = json.loads((path.parent / "05_tapvid_runs.json").read_text())
    (map_name,) = (name for name in arrays if name == f"{next(iter(runs))}__map")
    height, width = numbers(note(path), r"(\d+)x(\d+) clip")
    (amplitude,) = re.findall(r"base\[t\] \+ ([\d.]+) \*", note(path))
    frames = arrays.get("frames", np.arange(arrays["base_q"].shape[1]))
    rows, cols = arrays[map_name].shape[1:3]
    return Clip(arrays, runs, (height, width), (int(rows), int(cols)), float(amplitude), frames)


def runs_of(*arrays: str) -> pytest.MarkDecorator:
    """Every run of each set that holds its tracks and all of these arrays."""
    found = []
    for entry in golden_files(FILE):
        (path,) = entry.values
        if not path.exists():
            found.append(pytest.param(path, "", marks=entry.marks, id=entry.id))
            continue
        names = read_set(path).arrays
        runs = [name for name, run in read_set(path).runs.items() if isinstance(run, dict) and "args" in run]
        found += [
            pytest.param(path, run, id=f"{entry.id}-{run}")
            for run in runs
            if all(f"{run}__{array}" in names for array in ("pred_tracks256", *arrays))
        ]
    return pytest.mark.parametrize(("path", "run"), found)


def schedule_of(clip: Clip, run: str) -> list[tuple[int, ...]]:
    """Chunks of the released code for the arguments of a run, checked against those that the set recorded."""
    arguments = clip.runs[run]["args"]
    params = ChunkParams(
        chunk_len=arguments.get("chunk_len", 13),
        schedule="released",
        interleaved=arguments.get("chunk_frame_interval", False),
        chunk_stride=arguments.get("chunk_stride"),
        video_max_len=arguments.get("video_max_len"),
    )
    chunks = chunk_schedule(clip.num_frames, params)
    assert [list(chunk[1:]) for chunk in chunks] == clip.runs[run]["chunk_indices"]
    return chunks


def descriptors(clip: Clip, kind: str, layer: int, number: int, frames: tuple[int, ...]) -> Tensor:
    """Descriptors of a chunk, made from its number as the stand-in model of the golden made them."""
    place = {int(frame): index for index, frame in enumerate(clip.frames)}
    base = torch.from_numpy(clip.arrays[f"base_{kind}"][layer].astype(np.float32))
    of_chunk = torch.stack([base[place[frame]] if frame in place else torch.zeros_like(base[0]) for frame in frames])
    moved = of_chunk + clip.amplitude * torch.roll(of_chunk, number + 1, dims=-2)
    return moved.transpose(0, 1).unflatten(2, clip.grid)


def perturbed_chunks(clip: Clip, chunks: list[tuple[int, ...]]) -> list[ChunkDescriptors]:
    def reader(number: int, frames: tuple[int, ...]) -> ChunkDescriptors:
        def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
            query, key = (descriptors(clip, kind, layer, number, frames) for kind in "qk")
            return query, key

        return ChunkDescriptors(frames=frames, read=read)

    return [reader(number, frames) for number, frames in enumerate(chunks)]


def released_tracks(clip: Clip, run: str, queries: np.ndarray, **overrides: Any) -> PredictedTracks:
    arguments = clip.runs[run]["args"]
    overlap = "average" if arguments.get("average_overlapped_corr") else "first"
    return track_clip(
        perturbed_chunks(clip, schedule_of(clip, run)),
        queries,
        sources=[(0, layer) for layer in arguments["matching_layer"]],
        grid=clip.token_grid,
        params=TrackParams(convention="released", overlap=overlap, **overrides),
    )


@runs_of()
def test_released_tracks_are_those_of_the_released_code(path: Path, run: str) -> None:
    clip = read_set(path)
    tracks = released_tracks(clip, run, clip.queries)
    predicted = rescale_points(tracks.points_xy_px, from_size=clip.size, to_size=EVALUATED).swapaxes(0, 1)
    expected = clip.arrays[f"{run}__pred_tracks256"]
    compared = clip.frames[clip.frames < expected.shape[1]]
    assert len(compared) > 1
    np.testing.assert_allclose(predicted[:, compared], expected[:, compared], atol=2e-3)
    assert tracks.visible.all()


@runs_of()
def test_queries_and_metrics_of_a_run_are_those_that_the_released_code_evaluates(path: Path, run: str) -> None:
    """Queries of frame 0 alone (B11), and TAP-Vid's metrics of the golden's own tracks."""
    clip = read_set(path)
    arrays = clip.arrays
    visible = arrays["gt_visible"]
    truth = Tracks(arrays["gt_tracks"], visible, arrays["query_points"], *clip.size, tracker="annotated")
    kept = TrackSection(convention="released").evaluated(truth, num_frames=clip.num_frames)
    np.testing.assert_array_equal(arrays["query_points"][kept], arrays["kept_query_points"])
    np.testing.assert_array_equal(arrays["gt_tracks"][:, kept].swapaxes(0, 1), arrays["kept_gt_tracks"])
    np.testing.assert_array_equal(~visible[:, kept].T, arrays["kept_gt_occluded"])
    if "metrics" not in clip.runs[run]:
        return
    found = arrays[f"{run}__pred_tracks256"]
    num_frames = found.shape[1]
    metrics = tapvid_metrics(
        found.swapaxes(0, 1),
        np.ones((num_frames, len(found)), bool),
        arrays["kept_gt_tracks"][:, :num_frames].swapaxes(0, 1),
        ~arrays["kept_gt_occluded"][:, :num_frames].T,
        np.zeros(len(found), np.int64),
    ).as_dict()
    for name, value in clip.runs[run]["metrics"].items():
        assert float(metrics[name]) == pytest.approx(value, abs=1e-6), name
    percent = float(re.findall(r"delta_avg: ([\d.]+)", clip.runs[run]["log_line"])[0])
    assert 100 * float(metrics["average_pts_within_thresh"]) == pytest.approx(percent, abs=5e-3)


@runs_of("map")
def test_every_tokens_match_is_that_of_the_released_code_wherever_the_margin_is_clear(path: Path, run: str) -> None:
    clip = read_set(path)
    released = TrackParams(convention="released").matching
    tracks = released_tracks(clip, run, clip.every_token, matching=replace(released, query_margin="none"))
    found = tracks.points_xy_px[1:].reshape(-1, *clip.grid, 2) / clip.token_grid.stride_px
    expected = clip.arrays[f"{run}__map"]
    clear = clip.arrays.get(f"{run}__margin", np.ones(expected.shape[:-1])) > CLEAR_MARGIN
    compared = clip.frames[(clip.frames > 0) & (clip.frames <= len(expected))] - 1
    assert clear[compared].mean() > 0.99
    places = np.abs(found[compared] - expected[compared]).max(axis=-1)
    assert places[clear[compared]].max() < 1e-3


def frame_of_correlations(names: dict[str, np.ndarray], run: str) -> int:
    (name,) = (name for name in names if name.startswith(f"{run}__corr_frame"))
    return numbers(name, r"__corr_frame(\d+)")[0]


@pytest.mark.skipif(not (FULL / FILE).exists(), reason=f"no golden {FILE} in {FULL}: set DIFFTRACK_FIXTURES")
def test_match_probabilities_of_overlapping_chunks_are_combined_as_in_the_released_code() -> None:
    clip = read_set(FULL / FILE)
    runs = [name.partition("__")[0] for name in clip.arrays if "__corr_frame" in name]
    assert runs
    for run in runs:
        frame, arguments = frame_of_correlations(clip.arrays, run), clip.runs[run]["args"]
        params = replace(TrackParams(convention="released").matching, second_softmax=False)
        rows = []
        for number, frames in enumerate(schedule_of(clip, run)):
            if frame in frames:
                query, key = (
                    torch.cat(
                        [descriptors(clip, kind, layer, number, (0, frame)) for layer in arguments["matching_layer"]],
                        dim=-1,
                    )
                    for kind in "qk"
                )
                tokens = torch.arange(query.shape[2] * query.shape[3])
                found = match_rows([(query, key)], tokens, source_frame=0, target_frames=range(1, 2), params=params)
                rows.append(found[0])
        combined = torch.stack(rows).mean(dim=0) if arguments.get("average_overlapped_corr") else rows[0]
        expected = clip.arrays[f"{run}__corr_frame{frame}"]
        np.testing.assert_allclose(combined.numpy(), expected, atol=5e-6, err_msg=run)


@pytest.mark.skipif(not (FULL / FILE).exists(), reason=f"no golden {FILE} in {FULL}: set DIFFTRACK_FIXTURES")
def test_temperature_alone_is_corrected_by_its_own_override() -> None:
    clip = read_set(FULL / FILE)
    runs = [name.removesuffix("_FIXEDSCALE__map") for name in clip.arrays if name.endswith("_FIXEDSCALE__map")]
    assert runs
    for run in runs:
        own = replace(TrackParams(convention="released").matching, temperature="root_channel")
        tracks = released_tracks(clip, run, clip.queries, matching=own)
        predicted = rescale_points(tracks.points_xy_px, from_size=clip.size, to_size=EVALUATED).swapaxes(0, 1)
        np.testing.assert_allclose(predicted, clip.arrays[f"{run}_FIXEDSCALE__pred_tracks256"], atol=2e-3)
        assert np.abs(predicted - clip.arrays[f"{run}__pred_tracks256"]).max() > 1.0
        fixed, released = clip.arrays[f"{run}_FIXEDSCALE__map"], clip.arrays[f"{run}__map"]
        changed = (fixed != released).any(axis=-1).mean()
        assert 0.05 < changed < 0.2  # a share of the matches, as quirk A3 says


@pytest.mark.skipif(not (FULL / FILE).exists(), reason=f"no golden {FILE} in {FULL}: set DIFFTRACK_FIXTURES")
def test_released_tracks_at_real_geometry_are_those_of_the_released_code() -> None:
    golden, matching = load(FULL / FILE), load(FULL / "01_matching.npz")
    name = next(name.removesuffix("__map") for name in golden if re.fullmatch(r"real\d+__map", name))
    num_frames = golden[f"{name}__pred_tracks256"].shape[1]
    rows, cols = golden[f"{name}__map"].shape[1:3]
    height, width, stride_px = numbers(note(FULL / "01_matching.npz"), r"(\d+)x(\d+), stride (\d+)")
    num_text = matching["q"].shape[1] - num_frames * rows * cols

    def read(step: int, layer: int) -> tuple[Tensor, Tensor]:
        query, key = (torch.from_numpy(matching[kind][:, num_text:].astype(np.float32)) for kind in "qk")
        return query.unflatten(1, (num_frames, rows, cols)), key.unflatten(1, (num_frames, rows, cols))

    def tracked(points: np.ndarray, **overrides: Any) -> np.ndarray:
        tracks = track_clip(
            [ChunkDescriptors(frames=tuple(range(num_frames)), read=read)],
            np.concatenate([np.zeros_like(points[:, :1]), points], axis=1),
            sources=[(0, 0)],
            grid=TokenGrid(num_latent_frames=num_frames, rows=rows, cols=cols, stride_px=stride_px, temporal_stride=1),
            params=TrackParams(convention="released", **overrides),
        )
        return tracks.points_xy_px

    found = tracked(matching["query_coords"][0])
    predicted = rescale_points(found, from_size=(height, width), to_size=EVALUATED).swapaxes(0, 1)
    np.testing.assert_allclose(predicted, golden[f"{name}__pred_tracks256"], atol=2e-3)
    # Maps of a few hundred tokens only: rows of probabilities of all tokens would take minutes.
    token = np.arange(0, rows * cols, 7)
    at_tokens = np.stack([token % cols, token // cols], axis=-1).astype(np.float32) * stride_px
    released = TrackParams(convention="released").matching
    places = tracked(at_tokens, matching=replace(released, query_margin="none"))[1:] / stride_px
    expected, margin = golden[f"{name}__map"].reshape(-1, rows * cols, 2), golden[f"{name}__margin"].astype(np.float32)
    clear = margin.reshape(-1, rows * cols)[:, token] > CLEAR_MARGIN
    assert np.abs(places - expected[:, token]).max(axis=-1)[clear].max() < 1e-3
