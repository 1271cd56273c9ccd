"""CoTracker3, the paper's tracker, from torch.hub or a local checkout; long clips are processed in windows."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, UInt8
from torch import Tensor

from difftrack.annotation._errors import AnnotationError, TrackerUnavailableError
from difftrack.annotation._params import CoTracker3Params
from difftrack.annotation._weights import read_weights, tracker_device
from difftrack.datasets import Tracks, check_query_points
from difftrack.geometry import inside_picture

__all__ = ["CoTracker3", "cotracker3", "load_cotracker3"]

_ENTRY = "cotracker3_offline"
"""Name of the model in the repository's hubconf."""
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable that makes `torch.load` refuse everything but tensors, regardless of its arguments."""


PointModel = Callable[..., tuple[Tensor, Tensor]]
"""`model(video [1, frame, rgb, row, col] of floats 0...255, queries=[1, point, (frame, x, y)], backward_tracking=bool)`
returns tracks [1, frame, point, xy] and visibility [1, frame, point]; pixel centres lie at integers."""


@lru_cache(maxsize=1)
def load_cotracker3(params: CoTracker3Params) -> PointModel:
    """Load CoTracker3; the model is cached for all clips.

    Raises:
        AnnotationError: the model cannot be loaded; the message names an alternative that works offline.
    """
    try:
        source = str(params.checkout) if params.checkout is not None else params.repository
        with _weights_only():
            model = torch.hub.load(  # type: ignore[no-untyped-call]
                source,
                _ENTRY,
                source="local" if params.checkout is not None else "github",
                pretrained=params.checkpoint is None,
                trust_repo=True,  # a pinned commit, or the user's own folder
                skip_validation=True,  # torch.hub validates only branches and tags, not commits
                verbose=False,
            )
        if params.checkpoint is not None:
            model.model.load_state_dict(read_weights(params.checkpoint))
        device = tracker_device(params.device)
        return cast(PointModel, model.to(device) if isinstance(model, torch.nn.Module) else model)
    except (OSError, RuntimeError, ValueError, ImportError, AttributeError, pickle.UnpicklingError) as error:
        raise TrackerUnavailableError(
            f"CoTracker3 cannot be loaded from {source} ({error}). Offline, set annotate.cotracker3.checkout "
            "(a clone of the repository) and annotate.cotracker3.checkpoint (scaled_offline.pth, CC-BY-NC-4.0), for a "
            "baseline in track.trackers.cotracker3; or set annotate.tracker: lucas_kanade"
        ) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Restrict `torch.load` to tensors in this context, because hub code calls it with a default that runs pickles."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


class CoTracker3(CoTracker3Params):
    """CoTracker3 as a registered tracker; the fields are its settings."""

    __slots__ = ()

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Track the points; see `Tracker.track`."""
        return cotracker3(frames, query_points, self)


def cotracker3(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float32[np.ndarray, "point txy"],
    params: CoTracker3Params | None = None,
) -> Tracks:
    """Track query points through a clip, forwards and backwards from each query frame.

    A clip longer than a window is processed in overlapping windows, forwards and then backwards. In the next window a
    point starts from the latest frame of the overlap in which it was visible. A point that was not visible there is
    lost and stays invisible.

    Args:
        frames: The clip.
        query_points: (frame, x, y), pixels.
        params: Settings of the model; None uses the published model.

    Raises:
        AnnotationError: the model cannot be loaded, or its output does not have CoTracker3's format.
        DatasetError: a query point lies outside the clip.
    """
    params = params or CoTracker3Params()
    num_frames, height, width = frames.shape[:3]
    check_query_points(query_points, num_frames=num_frames, height=height, width=width)
    model = load_cotracker3(params)
    state = _State(num_frames, query_points)
    windows = _windows(num_frames, params)
    for window in [*windows, *reversed(windows[:-1])]:
        seeds = state.seeds(window)
        if len(seeds.point):
            points, visible = _predict(model, frames[window], seeds.queries, tracker_device(params.device))
            state.fill(window, seeds, points, visible & inside_picture(points, height=height, width=width))
    return Tracks(
        points_xy_px=state.points,
        visible=state.visible,
        query_points=query_points,
        height=height,
        width=width,
        tracker="cotracker3",
    )


@dataclass(frozen=True, slots=True)
class _Seeds:
    point: Int[np.ndarray, " seed"]
    """Index of the point that each seed continues."""
    queries: Float32[np.ndarray, "seed txy"]
    """(frame within the window, x, y)."""
    seen: Bool[np.ndarray, " seed"]
    """Whether the point was visible in the frame from which it is continued."""


class _State:
    """Tracks found so far: for each point a run of frames around its query, extended window by window."""

    def __init__(self, num_frames: int, query_points: Float32[np.ndarray, "point txy"]) -> None:
        start, rows = query_points[:, 0].astype(int), np.arange(len(query_points))
        self.points = np.zeros((num_frames, len(rows), 2), dtype=np.float32)
        self.visible = np.zeros((num_frames, len(rows)), dtype=bool)
        self.known = np.zeros((num_frames, len(rows)), dtype=bool)
        self.start = start
        self.points[start, rows], self.visible[start, rows], self.known[start, rows] = query_points[:, 1:], True, True

    def seeds(self, window: slice) -> _Seeds:
        """Return the seeds from which this window can extend tracks."""
        known, seen = self.known[window], self.known[window] & self.visible[window]
        point = np.flatnonzero(known.any(axis=0) & ~known.all(axis=0))
        frame = np.asarray([self._seed_frame(known[:, p], seen[:, p], window, int(p)) for p in point], dtype=int)
        queries = np.concatenate([frame[:, None], self.points[window][frame, point]], axis=1).astype(np.float32)
        return _Seeds(point=point, queries=queries, seen=seen[frame, point])

    def fill(
        self,
        window: slice,
        seeds: _Seeds,
        points: Float32[np.ndarray, "frame seed xy"],
        visible: Bool[np.ndarray, "frame seed"],
    ) -> None:
        """Store positions and visibility for frames that were unknown before."""
        new = ~self.known[window][:, seeds.point]
        self.points[window, seeds.point] = np.where(new[..., None], points, self.points[window, seeds.point])
        self.visible[window, seeds.point] |= new & visible & seeds.seen
        self.known[window, seeds.point] = True

    def _seed_frame(
        self, known: Bool[np.ndarray, " frame"], seen: Bool[np.ndarray, " frame"], window: slice, point: int
    ) -> int:
        if window.start <= self.start[point] < window.stop:
            return int(self.start[point] - window.start)
        candidates = np.flatnonzero(seen if seen.any() else known)
        return int(candidates[-1] if known[0] else candidates[0])


def _windows(num_frames: int, params: CoTracker3Params) -> list[slice]:
    length, hop = params.window_frames, params.window_frames - params.overlap_frames
    last = max(num_frames - length, 0)
    starts = [*range(0, last, hop), last]
    return [slice(start, min(start + length, num_frames)) for start in starts]


def _predict(
    model: PointModel,
    frames: UInt8[np.ndarray, "frame row col rgb"],
    queries: Float32[np.ndarray, "seed txy"],
    device: torch.device,
) -> tuple[Float32[np.ndarray, "frame seed xy"], Bool[np.ndarray, "frame seed"]]:
    video = torch.from_numpy(np.array(frames)).to(device).permute(0, 3, 1, 2)[None].float()
    shift = np.asarray(
        [0, 0.5, 0.5], dtype=np.float32
    )  # CoTracker3's pixel centres lie at integers, ours at half-integers
    query_tensor = torch.from_numpy(queries - shift)[None].to(device)
    with torch.inference_mode():
        tracks, visible = model(video, queries=query_tensor, backward_tracking=bool((queries[:, 0] > 0).any()))
    expected = (1, len(frames), len(queries))
    if tuple(tracks.shape) != (*expected, 2) or tuple(visible.shape) != expected or visible.dtype != torch.bool:
        raise AnnotationError(
            f"the model returned tracks {tuple(tracks.shape)} and visibility {visible.dtype} "
            f"{tuple(visible.shape)}; CoTracker3's offline predictor returns {(*expected, 2)} and booleans {expected}; "
            "check annotate.cotracker3.repository or checkout"
        )
    return tracks[0].float().cpu().numpy() + np.float32(0.5), visible[0].cpu().numpy()
