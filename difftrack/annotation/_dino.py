"""Track points by matching features of a vision transformer, such as DINOv2, by cosine similarity."""

import inspect
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from difftrack.annotation._errors import TrackerUnavailableError
from difftrack.annotation._weights import tracker_device
from difftrack.datasets import Tracks, check_query_points
from difftrack.documents import read_json
from difftrack.geometry import inside_picture

__all__ = ["Dino"]

_LICENCES = {"facebook/dinov2-small": "Apache-2.0"}
_WANTED_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]
_BATCH = 8
"""Number of frames in one batch."""


@dataclass(frozen=True, slots=True)
class Dino:
    """Matches a point's feature with every patch of every frame by cosine similarity, independently in each frame.

    Raises:
        ValueError: a number is out of range.
    """

    checkpoint: str = "facebook/dinov2-small"
    """Hub name (owner/name) of a vision transformer that transformers' AutoModel can load; DINOv2 is Apache-2.0."""
    revision: str | None = None
    """Commit, branch or tag of the checkpoint."""
    path: Path | None = None
    """A local folder (config.json, model.safetensors) that replaces the download."""
    upsampling: int = 2
    """Factor by which frames are enlarged before they are divided into patches."""
    window_radius: int = 1
    """Radius r: the position is the mean over (2 r + 1)^2 patches around the best patch, weighted by softmax of
    cosine."""
    temperature: float = 0.05
    """Temperature of that softmax."""
    min_cosine: float = 0.5
    """Minimum cosine of the best patch for a point to be visible."""
    device: str = "auto"
    """Torch device; `auto` uses CUDA if available."""

    def __post_init__(self) -> None:
        if self.upsampling < 1:
            raise ValueError(f"upsampling is {self.upsampling}; it must be at least 1")
        if self.window_radius < 0:
            raise ValueError(f"window_radius is {self.window_radius}; it must be at least 0")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")
        if not -1 <= self.min_cosine <= 1:
            raise ValueError(f"min_cosine is {self.min_cosine}; it must lie in [-1, 1]")

    @torch.inference_mode()
    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Match the query features with all patches of all frames; see `Tracker.track`."""
        num_frames, height, width = frames.shape[:3]
        check_query_points(query_points, num_frames=num_frames, height=height, width=width)
        points = np.repeat(query_points[None, :, 1:], num_frames, axis=0)
        visible = np.ones(points.shape[:2], dtype=bool)
        if len(query_points):
            features = _features(_load(self), frames, self.upsampling, tracker_device(self.device))
            query_features = _at_points(features, query_points, height=height, width=width)
            start = query_points[:, 0].astype(int)
            for frame, frame_features in enumerate(features):
                cosine = torch.einsum("pc,crk->prk", query_features, frame_features)
                place, best = _read_out(cosine, self.window_radius, self.temperature)
                rows, cols = frame_features.shape[1:]
                size = torch.tensor([width / cols, height / rows])
                elsewhere = start != frame
                points[frame, elsewhere] = (place * size).numpy()[elsewhere]
                visible[frame, elsewhere] = (best >= self.min_cosine).numpy()[elsewhere]
        return Tracks(
            points_xy_px=points,
            visible=visible & inside_picture(points, height=height, width=width),
            query_points=query_points,
            height=height,
            width=width,
            tracker="dino",
        )


def _features(
    model: "_Loaded", frames: UInt8[np.ndarray, "frame row col rgb"], upsampling: int, device: torch.device
) -> Float[Tensor, "frame channel patch_row patch_col"]:
    """Compute the normalised features of every patch, on the CPU."""
    height, width = frames.shape[1:3]
    rows, cols = (max(round(side * upsampling / model.patch_size), 1) for side in (height, width))
    size = (rows * model.patch_size, cols * model.patch_size)
    found = []
    for first in range(0, len(frames), _BATCH):
        pixels = torch.from_numpy(np.array(frames[first : first + _BATCH])).to(device).permute(0, 3, 1, 2).float() / 255
        resized = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (resized.new_tensor(values).view(1, 3, 1, 1) for values in (model.mean, model.std))
        tokens = model.network(pixel_values=(resized - mean) / std, **model.choices).last_hidden_state
        patches = tokens[:, tokens.shape[1] - rows * cols :]  # class and register tokens come first
        found.append(torch.nn.functional.normalize(patches.float(), dim=-1).cpu())
    return torch.cat(found).transpose(1, 2).reshape(len(frames), -1, rows, cols)


def _at_points(
    features: Float[Tensor, "frame channel patch_row patch_col"],
    query_points: Float32[np.ndarray, "point txy"],
    *,
    height: int,
    width: int,
) -> Float[Tensor, "point channel"]:
    """Interpolate features bilinearly at the query points, and normalise them."""
    grid = torch.from_numpy(query_points[:, 1:] / np.asarray([width, height], dtype=np.float32) * 2 - 1)
    start = query_points[:, 0].astype(int)
    at = [
        torch.nn.functional.grid_sample(
            features[frame][None], place.view(1, 1, 1, 2), padding_mode="border", align_corners=False
        ).flatten()
        for frame, place in zip(start, grid, strict=True)
    ]
    return torch.nn.functional.normalize(torch.stack(at), dim=-1)


def _read_out(
    cosine: Float[Tensor, "point patch_row patch_col"], radius: int, temperature: float
) -> tuple[Float[Tensor, "point xy"], Float[Tensor, " point"]]:
    """Return the position of the best match in units of patches, and its cosine. The first centre is at (0.5, 0.5)."""
    cols = cosine.shape[2]
    best, where = cosine.flatten(1).max(dim=1)
    row, col = where // cols, where % cols
    rows_at, cols_at = torch.arange(cosine.shape[1]), torch.arange(cols)
    near = ((rows_at - row[:, None]).abs() <= radius)[:, :, None] & ((cols_at - col[:, None]).abs() <= radius)[:, None]
    logits = (cosine / temperature).masked_fill(~near, -torch.inf)
    weight = logits.flatten(1).softmax(dim=1).view_as(cosine)
    x = (weight.sum(dim=1) * (cols_at + 0.5)).sum(dim=1)
    y = (weight.sum(dim=2) * (rows_at + 0.5)).sum(dim=1)
    return torch.stack([x, y], dim=1), best


@dataclass(frozen=True, slots=True)
class _Loaded:
    network: Any
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    choices: dict[str, bool]


@lru_cache(maxsize=1)
def _load(dino: Dino) -> _Loaded:
    from transformers import AutoModel

    licence = _LICENCES.get(dino.checkpoint, "licence: see its model card")
    try:
        folder = dino.path or _snapshot(dino)
        if not (folder / "config.json").is_file():
            raise OSError(f"{folder} has no config.json")
        network = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise TrackerUnavailableError(
            f"tracker dino: the weights {dino.path or f'{dino.checkpoint} ({licence})'} cannot be loaded "
            f"({' '.join(str(error).split())[:200]}); download them with `hf download {dino.checkpoint}`, or set "
            "trackers.dino.path to the folder of a vision transformer"
        ) from error
    patch = getattr(network.config, "patch_size", None)
    if not isinstance(patch, int):
        raise TrackerUnavailableError(
            f"tracker dino: {folder} is {type(network).__name__}, which has no patches; use a vision transformer"
        )
    file = folder / "preprocessor_config.json"
    settings = read_json(file) if file.is_file() else {}
    mean, std = (tuple(settings.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
    accepts_interpolation = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
    network = network.to(tracker_device(dino.device)).eval().requires_grad_(requires_grad=False)
    return _Loaded(network, patch, mean, std, {"interpolate_pos_encoding": True} if accepts_interpolation else {})


def _snapshot(dino: Dino) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(dino.checkpoint, revision=dino.revision, allow_patterns=_WANTED_FILES))
