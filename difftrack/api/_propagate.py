"""Propagates masks, boxes and keypoints of one frame through a clip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from difftrack.api._clips import known_clip
from difftrack.api._default_names import write_unnamed
from difftrack.api._errors import UsageError
from difftrack.api._extract import trained_clip
from difftrack.api._points import Points, points_array
from difftrack.backbones import Backbone
from difftrack.chunks import ChunkParams
from difftrack.datasets import Clip
from difftrack.extraction import ModeParams, TrackingParams
from difftrack.media import read_mask, write_video
from difftrack.propagation import PropagationParams
from difftrack.store import Store
from difftrack.workflows.match import clip_groups, only_clip
from difftrack.workflows.propagate import (
    LabelsGiven,
    PropagatedLabels,
    label_chunks,
    propagate_stored,
    propagate_video,
)

__all__ = ["Propagation", "propagate"]

Boxes = Sequence[Sequence[float | int]] | np.ndarray
"""(left, top, right, bottom) of each object, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """Labels of one frame, propagated to every frame of a clip."""

    name: str
    """Name of the clip."""
    labels: PropagatedLabels
    clip: Clip | None = None
    """The clip's frames, if known; overlays are drawn on them."""

    @property
    def masks(self) -> UInt8[np.ndarray, "frame row col"] | None:
        """The number of the object in each pixel, 0 for the background; None if no mask was given."""
        return self.labels.masks

    @property
    def boxes_xyxy_px(self) -> Float32[np.ndarray, "frame object 4"] | None:
        """(left, top, right, bottom) in pixels, NaN where an object is absent; None if no boxes were given."""
        return self.labels.boxes_xyxy_px

    @property
    def points_xy_px(self) -> Float32[np.ndarray, "frame point xy"] | None:
        """(x, y) in pixels; None if no points were given."""
        return self.labels.points_xy_px

    @property
    def soft(self) -> Float32[np.ndarray, "frame class token_row token_col"]:
        """Labels over the tokens; for a mask, class 0 is the background, and the classes of a token sum to 1."""
        return self.labels.soft

    def save(self, path: str | Path) -> Path:
        """Write the labels.

        Args:
            path: `.npz` for arrays (`soft`, `objects`, and `masks`, `boxes_xyxy_px` or `points_xy_px`), or a folder for
                one PNG per frame, for masks; an existing folder must be empty.

        Raises:
            UsageError: the name has another suffix, the folder is not empty, or there are no masks for a folder.
        """
        from difftrack.reports import save_labels, save_masks

        file = Path(path)
        if file.suffix == ".npz":
            return save_labels(file, self.soft, self.labels.objects, **_read_out(self.labels))
        if file.suffix or self.masks is None:
            raise UsageError(f"{file}: labels are saved as .npz, and masks as PNGs in a folder, whose name has no dot")
        if file.is_dir() and any(file.iterdir()):
            raise UsageError(f"{file} is not empty; name a new folder")
        return save_masks(file, self.masks)

    def overlay(self, clip: Clip | None = None, *, to: str | Path | None = None) -> Path:
        """Draw the labels on the clip's frames and write the video.

        Args:
            clip: The frames; by default those read in this session.
            to: The `.mp4` file to write or overwrite; by default `NAME-labels.mp4` in the current folder, or
                `NAME-labels-2.mp4` and so on if the name is taken.

        Raises:
            UsageError: the frames are not known, or have another size or number.
        """
        from difftrack.reports import draw_labels

        shown = clip or self.clip
        if shown is None:
            raise UsageError("the clip's frames are not known here; pass overlay() the clip")
        if shown.num_frames < len(self.soft) or (
            self.masks is not None and shown.frames.shape[1:3] != self.masks.shape[1:]
        ):
            raise UsageError(
                f"the clip has {shown.num_frames} frames of {shown.width}x{shown.height} px, but the labels are for "
                f"{len(self.soft)} frames of another clip; pass the clip of the labels"
            )
        drawn, fps = draw_labels(shown.frames[: len(self.soft)], **_read_out(self.labels)), shown.fps
        if to is None:
            default = Path(f"{self.name}-labels.mp4")
            return write_unnamed(default, lambda file: write_video(file, drawn, fps, lossless=False))
        write_video(Path(to), drawn, fps, lossless=False)
        return Path(to)

    def __repr__(self) -> str:
        frames, count = len(self.soft), len(self.labels.objects)
        what = {"mask": "object", "boxes": "box", "points": "point"}[self.labels.kind]
        plural = "" if count == 1 else "es" if what == "box" else "s"
        rows, cols = self.soft.shape[2:]
        return f"<Propagation of {self.name}: {count} {what}{plural} in {frames} frames, over {rows}x{cols} tokens>"


def propagate(
    source: Store | Backbone,
    clip: Clip | str | None = None,
    *,
    mask: str | Path | UInt8[np.ndarray, "row col"] | None = None,
    boxes: Boxes | None = None,
    points: Points | None = None,
    frame: int = 0,
    sigma_token: float | None = None,
    size: tuple[int, int] | None = None,
    chunks: ChunkParams | None = None,
    num_inference_steps: int = 50,
    params: PropagationParams | None = None,
    progress: bool = True,
    **options: Any,  # noqa: ANN401 - fields of PropagationParams, checked there
) -> Propagation:
    """Propagate a mask, boxes or keypoints of one frame through a clip, along tracking descriptors.

    Args:
        source: A store of view `tracking`, or a backbone, which then runs over the clip at its last, cleanest step.
        clip: For a store, the name of the clip, optional if only one is stored; for a backbone, the result of
            `read_clip`.
        mask: The number of the object in each pixel (0 is the background), or a picture file with it.
        boxes: Instead of a mask: (left, top, right, bottom) of each object, pixels of the clip.
        points: Instead of a mask: (x, y) of each keypoint, pixels of the clip.
        frame: The labelled frame; for a store, one of its anchors.
        sigma_token: Width of a Gaussian around each keypoint, in tokens; None labels only the tokens around it.
        size: For a backbone: (height, width) in pixels at which it sees the clip; by default that of its training.
        chunks: For a backbone: how the clip is cut into chunks; by default as in `label_chunks`.
        num_inference_steps: For a backbone: length of the denoising schedule; its last step is read.
        params: How labels are propagated; `PropagationParams()` by default.
        progress: Show a progress bar.
        options: Fields of `PropagationParams` to change, such as `layers=(6, 7)` or `top_k=5`.

    Raises:
        UsageError: not one of `mask`, `boxes` and `points` is given, or the clip does not fit the source.
        StoreError: the store lacks the clip, or holds no tracking view.
        ValueError: the labels do not fit the clip, or an option has a wrong value.

    Example:
        >>> found = propagate(model, clip, mask="first.png", size=(160, 240), layers=(6, 7))  # doctest: +SKIP
        >>> found.overlay(to="dog-mask.mp4")  # doctest: +SKIP
    """
    given = _given(mask, boxes, points, frame, sigma_token)
    chosen = replace(params or PropagationParams(), **options)
    if isinstance(source, Store):
        if isinstance(clip, Clip):
            raise UsageError(f"a store holds its own clips; pass the clip's name, {clip.name!r}, instead of its frames")
        name = only_clip(source, clip)
        if clip_groups(source, name)[0][1] is None:
            raise UsageError(f"{name} is stored as an analysis view; labels need extract(..., view='tracking')")
        return Propagation(name, propagate_stored(source, name, given, chosen), known_clip(source, name))
    if not isinstance(clip, Clip):
        raise UsageError("a backbone needs the clip's frames: propagate(model, read_clip(...), mask=...)")
    height, width = size or trained_clip(source)[1:]
    view = TrackingParams(
        height=height,
        width=width,
        num_inference_steps=num_inference_steps,
        steps=(num_inference_steps - 1,),
        layers="all" if chosen.layers == "stored" else chosen.layers,
        mode=ModeParams(rendered="clean", generated="clean", folder="clean"),
        chunks=chunks or label_chunks(source, chosen),
    )
    return Propagation(clip.name, propagate_video(clip, given, source, view, chosen, progress=progress), clip)


def _given(
    mask: str | Path | np.ndarray | None,
    boxes: Boxes | None,
    points: Points | None,
    frame: int,
    sigma_token: float | None,
) -> LabelsGiven:
    if sum(labels is not None for labels in (mask, boxes, points)) != 1:
        raise UsageError("give one of mask=, boxes= and points=")
    if isinstance(mask, str | Path):
        mask = read_mask(Path(mask))
    if mask is not None and not (mask.ndim == 2 and mask.dtype.kind in "bui"):
        raise UsageError(f"the mask is {mask.dtype} {list(mask.shape)}; expected whole numbers of objects [row, col]")
    return LabelsGiven(
        mask=None if mask is None else mask.astype(np.uint8),
        boxes_xyxy_px=None if boxes is None else _boxes_array(boxes),
        points_xy_px=None if points is None else points_array(points),
        frame=frame,
        sigma_token=sigma_token,
    )


def _boxes_array(boxes: Boxes) -> Float32[np.ndarray, "object 4"]:
    found = np.asarray(boxes, dtype=np.float32)
    if found.ndim != 2 or found.shape[1] != 4:
        raise UsageError(
            f"boxes have shape {list(found.shape)}; expected [object, 4], left, top, right, bottom in pixels"
        )
    return found


def _read_out(labels: PropagatedLabels) -> dict[str, Any]:
    return {"masks": labels.masks, "boxes_xyxy_px": labels.boxes_xyxy_px, "points_xy_px": labels.points_xy_px}
