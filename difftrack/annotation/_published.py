"""The files of the published pseudo ground truth: tracks/NNN.npy, visibility/NNN.npy, prompt.txt.

`tracks/NNN.npy` is float32 [1, frame, point, xy] in pixels, `visibility/NNN.npy` is bool [1, frame, point], and line
NNN (from 0) of `prompt.txt` is the prompt. The positions come from CoTracker3, whose pixel centres lie at integers. In
this project they lie at half-integers, so import adds half a pixel and export subtracts it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from difftrack.annotation._errors import AnnotationError
from difftrack.annotation._grids import query_grid
from difftrack.arrays import read_array
from difftrack.datasets import Tracks
from difftrack.prompts import text_lines

__all__ = ["export_published", "import_published", "published_prompts"]

_HALF_PX = np.float32(0.5)
_SAME_PLACE_PX = 0.01


def import_published(
    folder: Path, name: str, *, height: int = 480, width: int = 720, tracker: str = "cotracker3"
) -> Tracks:
    """Read the tracks of one clip, including points that are never visible.

    Query points are the positions of the tracks in frame 0. (The released code uses its grid instead, which differs by
    up to 1.5 px.)

    Args:
        folder: Folder that contains `tracks/` and `visibility/`.
        name: Name of the files without suffix, such as `000`.
        height: Height in pixels of the tracked video.
        width: Width in pixels of the tracked video.
        tracker: The tracker that produced the tracks, which are its pseudo-truth.

    Raises:
        AnnotationError: a file is missing or has the wrong content.
    """
    points = _load(folder / "tracks" / f"{name}.npy")
    visible = _load(folder / "visibility" / f"{name}.npy")
    if points.ndim != 4 or points.shape != (1, *visible.shape[1:], 2) or visible.dtype != bool:
        raise AnnotationError(
            f"{folder}: tracks/{name}.npy is {points.dtype} {points.shape} and visibility/{name}.npy {visible.dtype} "
            f"{visible.shape}; expected float [1, frame, point, 2] and bool [1, frame, point]"
        )
    points_xy_px = points[0].astype(np.float32) + _HALF_PX
    frame = np.zeros((points.shape[2], 1), dtype=np.float32)
    return Tracks(
        points_xy_px=points_xy_px,
        visible=visible[0],
        query_points=np.concatenate([frame, points_xy_px[0]], axis=1),
        height=height,
        width=width,
        tracker=tracker,
    )


def published_prompts(folder: Path) -> list[str]:
    """Read the lines of `prompt.txt`; empty if the file does not exist."""
    path = folder / "prompt.txt"
    return text_lines(path) if path.exists() else []


def export_published(folder: Path, clips: Iterable[tuple[Tracks, str]], *, num_grid: int | None = None) -> int:
    """Write clips in the published layout, numbered from 000, in pixels of each clip.

    Args:
        folder: Target folder; created if missing.
        clips: Tracks and prompt of each clip.
        num_grid: Points along each side of the full query grid. Points that the tracks lack (`query_grid` with a mask)
            are added, at rest and invisible, so that every file contains the full grid. None writes only the tracks'
            points.

    Returns:
        The number of clips written.

    Raises:
        AnnotationError: with `num_grid`, a query point does not lie on the grid in frame 0.
    """
    prompts: list[str] = []
    for kind in ("tracks", "visibility"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, (tracks, prompt) in enumerate(clips):
        points, visible = tracks.points_xy_px, tracks.visible
        if num_grid is not None:
            points, visible = _on_whole_grid(tracks, num_grid)
        np.save(folder / "tracks" / f"{number:03d}.npy", points[None] - _HALF_PX)
        np.save(folder / "visibility" / f"{number:03d}.npy", visible[None])
        prompts.append(" ".join(prompt.split()))
    (folder / "prompt.txt").write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    return len(prompts)


def _on_whole_grid(
    tracks: Tracks, num: int
) -> tuple[Float32[np.ndarray, "frame grid_point xy"], Bool[np.ndarray, "frame grid_point"]]:
    grid = query_grid(tracks.height, tracks.width, num)
    distance = np.linalg.norm(tracks.query_points[:, None] - grid, axis=-1)
    place = distance.argmin(axis=1)
    if (distance.min(axis=1) > _SAME_PLACE_PX).any() or len(set(place.tolist())) < len(place):
        raise AnnotationError(
            f"the query points are not part of the {num} x {num} grid in frame 0; annotate the clip with that grid"
        )
    points = np.repeat(grid[None, :, 1:], tracks.num_frames, axis=0)
    visible = np.zeros(points.shape[:2], dtype=bool)
    points[:, place], visible[:, place] = tracks.points_xy_px, tracks.visible
    return points, visible


def _load(path: Path) -> np.ndarray:
    try:
        return read_array(path)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error
