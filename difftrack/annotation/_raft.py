"""Track points with RAFT, torchvision's optical flow, from frame to frame."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from difftrack.annotation._chain import follow
from difftrack.annotation._errors import TrackerUnavailableError
from difftrack.annotation._weights import read_weights, tracker_device
from difftrack.datasets import Tracks
from difftrack.geometry import inside_picture

__all__ = ["Flow", "Raft", "follow_flow"]

Flow = Callable[[int, int], np.ndarray]
"""`flow(here, there)` returns the displacement (x, y) in pixels of every pixel of frame `here` [row, col, xy]."""

_PUBLISHED = {"large": "raft_large_C_T_SKHT_V2-ff5fadd5.pth", "small": "raft_small_C_T_V2-01064c6d.pth"}
_LICENCE = (
    "torchvision's code is BSD-3-Clause; the weights were trained on FlyingChairs, FlyingThings3D and, for large, "
    "Sintel, KITTI and HD1K, whose terms allow research"
)
_MULTIPLE, _LEAST = 8, 128
"""RAFT needs images whose sides, in pixels, are multiples of the first value and at least the second."""


@dataclass(frozen=True, slots=True)
class Raft:
    """RAFT (Teed and Deng 2020) between neighbouring frames; a point is lost when the backward flow does not return.

    Raises:
        ValueError: a number is out of range.
    """

    model: Literal["large", "small"] = "large"
    """Torchvision's large or small model."""
    checkpoint: Path | None = None
    """A local file of weights (.pth read without code, or .safetensors) that replaces torchvision's download."""
    iterations: int = 12
    """Number of refinements of the flow."""
    max_round_trip_px: float = 1.0
    """Maximum forward-backward error in pixels for a point to stay visible."""
    device: str = "auto"
    """Torch device; `auto` uses CUDA if available."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; it must be at least 1")
        if not self.max_round_trip_px > 0:
            raise ValueError(f"max_round_trip_px is {self.max_round_trip_px}; it must be positive")

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Chain the flow between neighbouring frames; see `Tracker.track`."""
        model, device = _load(self), tracker_device(self.device)

        @lru_cache(maxsize=2)
        def flow(here: int, there: int) -> np.ndarray:
            return _flow(model, frames[here], frames[there], self.iterations, device)

        return follow_flow(frames, query_points, flow, max_round_trip_px=self.max_round_trip_px, tracker="raft")


def follow_flow(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    query_points: Float32[np.ndarray, "point txy"],
    flow: Flow,
    *,
    max_round_trip_px: float,
    tracker: str,
) -> Tracks:
    """Track points along dense flow, with a forward-backward check.

    A point is visible while every step so far stays inside the image and the backward flow returns it to within
    `max_round_trip_px` of the step's start.

    Args:
        frames: The clip.
        query_points: (frame, x, y), pixels.
        flow: Computes the flow between neighbouring frames.
        max_round_trip_px: Maximum forward-backward error of a step, in pixels.
        tracker: Name of the tracker, recorded in the tracks.
    """
    height, width = frames.shape[1:3]

    def step(
        here: int, there: int, points_xy_px: Float32[np.ndarray, "point xy"]
    ) -> tuple[Float32[np.ndarray, "point xy"], Bool[np.ndarray, " point"]]:
        moved = points_xy_px + _sampled(flow(here, there), points_xy_px)
        back = moved + _sampled(flow(there, here), moved)
        returns = np.linalg.norm(back - points_xy_px, axis=-1) <= max_round_trip_px
        return moved, returns & inside_picture(moved, height=height, width=width)

    return follow(frames, query_points, step, tracker=tracker)


def _sampled(
    flow: Float32[np.ndarray, "row col xy"], points_xy_px: Float32[np.ndarray, "point xy"]
) -> Float32[np.ndarray, "point xy"]:
    """Interpolate the flow bilinearly; positions outside the image get the flow at the border."""
    rows, cols = flow.shape[:2]
    at = np.clip(points_xy_px - np.float32(0.5), 0, [cols - 1, rows - 1])  # pixel centres lie at halves
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, [cols - 1, rows - 1])
    (x, y), (x0, y0), (x1, y1) = (at - low).T[..., None], low.T, high.T
    upper = flow[y0, x0] * (1 - x) + flow[y0, x1] * x
    lower = flow[y1, x0] * (1 - x) + flow[y1, x1] * x
    sampled: np.ndarray = (upper * (1 - y) + lower * y).astype(np.float32)
    return sampled


@torch.inference_mode()
def _flow(
    model: Any,  # noqa: ANN401
    here: UInt8[np.ndarray, "row col rgb"],
    there: UInt8[np.ndarray, "row col rgb"],
    iterations: int,
    device: torch.device,
) -> Float32[np.ndarray, "row col xy"]:
    height, width = here.shape[:2]
    pictures = [_picture(frame, device) for frame in (here, there)]
    flow = model(*pictures, num_flow_updates=iterations)[-1][0, :, :height, :width]
    found: np.ndarray = flow.permute(1, 2, 0).float().cpu().numpy()
    return found


def _picture(frame: UInt8[np.ndarray, "row col rgb"], device: torch.device) -> Float[Tensor, "1 rgb height width"]:
    """Convert a frame to [-1, 1] and pad it at the bottom and right, by repeating the border, to a size for RAFT."""
    height, width = frame.shape[:2]
    pixels = torch.from_numpy(np.array(frame)).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
    bottom, right = (max(-(-side // _MULTIPLE) * _MULTIPLE, _LEAST) - side for side in (height, width))
    return torch.nn.functional.pad(pixels, (0, right, 0, bottom), mode="replicate")


@lru_cache(maxsize=1)
def _load(raft: Raft) -> Any:  # noqa: ANN401
    weights = _PUBLISHED[raft.model]
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError) as error:
        raise TrackerUnavailableError(
            f"tracker raft needs the package torchvision ({error}); install the torchvision that matches torch "
            f"{torch.__version__}; its weights are {weights} ({_LICENCE})"
        ) from error
    build = getattr(optical_flow, f"raft_{raft.model}")
    try:
        if raft.checkpoint is None:
            model = build(weights="DEFAULT", progress=False)
        else:
            model = build(weights=None)
            model.load_state_dict(read_weights(raft.checkpoint))
    except (OSError, RuntimeError, ValueError) as error:
        raise TrackerUnavailableError(
            f"tracker raft: the weights {weights} ({_LICENCE}) cannot be loaded from "
            f"{raft.checkpoint or 'the download of torchvision'} ({' '.join(str(error).split())[:200]}); offline, set "
            "trackers.raft.checkpoint to a file of these weights"
        ) from error
    return model.to(tracker_device(raft.device)).eval().requires_grad_(requires_grad=False)
