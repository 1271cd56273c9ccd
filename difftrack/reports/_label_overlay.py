"""Draws propagated labels on the frames of a clip, and writes them as files."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from difftrack.datasets import Clip
from difftrack.media import mask_palette, write_mask, write_video
from difftrack.reports._overlay import draw_tracks
from difftrack.reports._params import OverlayParams

__all__ = ["draw_labels", "export_labels", "save_labels", "save_masks"]

_OPACITY = 0.5
_EDGE_PX = 2


def draw_labels(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    *,
    masks: UInt8[np.ndarray, "frame row col"] | None = None,
    boxes_xyxy_px: Float[np.ndarray, "frame object 4"] | None = None,
    points_xy_px: Float[np.ndarray, "frame point xy"] | None = None,
) -> UInt8[np.ndarray, "frame row col rgb"]:
    """Draw masks (in the colours of their files, with contours), boxes or points on a clip of the same size.

    Args:
        frames: The clip.
        masks: The number of the object in each pixel.
        boxes_xyxy_px: (left, top, right, bottom), pixels; NaN boxes are not drawn.
        points_xy_px: (x, y), pixels; NaN points are not drawn.
    """
    drawn = frames.copy()
    colors = mask_palette()
    if masks is not None:
        for picture, mask in zip(drawn, masks, strict=True):
            inside = mask > 0
            mixed = (1 - _OPACITY) * picture[inside] + _OPACITY * colors[mask[inside]]
            picture[inside] = mixed.round().astype(np.uint8)
            for number in np.unique(mask[inside]).tolist():
                found, _ = cv2.findContours((mask == number).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(picture, found, -1, colors[number].tolist(), 1)
    if boxes_xyxy_px is not None:
        for picture, boxes in zip(drawn, boxes_xyxy_px, strict=True):
            for number, box in enumerate(boxes, start=1):
                if np.isfinite(box).all():
                    left, top, right, bottom = np.round(box).astype(int).tolist()
                    cv2.rectangle(
                        picture, (left, top), (right - 1, bottom - 1), colors[number % 256].tolist(), _EDGE_PX
                    )
    if points_xy_px is not None:
        seen = np.isfinite(points_xy_px).all(axis=-1)
        drawn = draw_tracks(drawn, points_xy_px, seen, params=OverlayParams(upscale=1))
    return drawn


def save_labels(
    path: Path,
    soft: Float[np.ndarray, "frame class token_row token_col"],
    objects: tuple[int, ...],
    *,
    masks: UInt8[np.ndarray, "frame row col"] | None = None,
    boxes_xyxy_px: Float[np.ndarray, "frame object 4"] | None = None,
    points_xy_px: Float[np.ndarray, "frame point xy"] | None = None,
) -> Path:
    """Write labels as npz; the final file is either complete or absent."""
    read_out = {"masks": masks, "boxes_xyxy_px": boxes_xyxy_px, "points_xy_px": points_xy_px}
    arrays = {name: values for name, values in read_out.items() if values is not None}
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, soft=soft, objects=np.array(objects), **arrays)  # type: ignore[arg-type]
    part.replace(path)
    return path


def save_masks(folder: Path, masks: UInt8[np.ndarray, "frame row col"]) -> Path:
    """Write `00000.png` and so on, with a palette, as in DAVIS 2017."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        write_mask(folder / _picture_name(number), mask)
    return folder


def export_labels(
    folder: Path,
    clip: Clip,
    soft: Float[np.ndarray, "frame class token_row token_col"],
    objects: tuple[int, ...],
    *,
    masks: UInt8[np.ndarray, "frame row col"] | None = None,
    boxes_xyxy_px: Float[np.ndarray, "frame object 4"] | None = None,
    points_xy_px: Float[np.ndarray, "frame point xy"] | None = None,
) -> list[Path]:
    """Write <clip>-labels.npz, <clip>-labels.mp4 and, for masks, the folder <clip>-masks with a PNG per frame.

    Args:
        folder: Output folder, created if missing.
        clip: The clip; the video has its size.
        soft: Labels over the tokens.
        objects: The mask's number of each class after the background.
        masks: The number of the object in each pixel.
        boxes_xyxy_px: (left, top, right, bottom), pixels.
        points_xy_px: (x, y), pixels.

    Returns:
        The files, and the folder of masks.

    Raises:
        ValueError: a file of one of these names exists and this program did not write it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays, video, pictures = (folder / f"{clip.name}-{ending}" for ending in ("labels.npz", "labels.mp4", "masks"))
    if not arrays.exists() and (there := next((path for path in (video, pictures) if path.exists()), None)):
        raise ValueError(f"{there} exists without {arrays.name}, so this program did not write it; move it elsewhere")
    names = {_picture_name(number) for number in range(len(soft))}
    if masks is not None and pictures.exists() and (other := sorted({p.name for p in pictures.iterdir()} - names)):
        raise ValueError(f"{pictures} holds {other[0]}, which would mix with the masks; move it elsewhere")
    read_out = {"masks": masks, "boxes_xyxy_px": boxes_xyxy_px, "points_xy_px": points_xy_px}
    save_labels(arrays, soft, objects, **read_out)
    write_video(video, draw_labels(clip.frames[: len(soft)], **read_out), clip.fps, lossless=False)
    return [arrays, video] if masks is None else [arrays, video, save_masks(pictures, masks)]


def _picture_name(number: int) -> str:
    return f"{number:05d}.png"
