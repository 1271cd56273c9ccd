"""Tracks of somebody's own video, for reading on: arrays, a table, and the video with the tracks drawn on it."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from difftrack.datasets import OWN_TRACKER, Clip
from difftrack.media import write_video
from difftrack.reports._overlay import draw_tracks
from difftrack.reports._params import OverlayParams
from difftrack.tracking import PredictedTracks, write_predictions

__all__ = ["export_tracks", "export_tracks_table"]


def export_tracks(
    folder: Path,
    clip: Clip,
    query_points: Float[np.ndarray, "point txy"],
    tracks: PredictedTracks,
    *,
    cuts: Sequence[int] = (),
) -> list[Path]:
    """Write <clip>-tracks.npz, <clip>-tracks.csv with a row per frame and point, and <clip>-overlay.mp4.

    The arrays say that this project found the tracks. The overlay has the clip's own size. No name is that of the clip
    itself, which may lie in the same folder.

    Args:
        folder: Made if missing.
        clip: The clip that was tracked.
        query_points: (frame, x, y) in pixels of the clip.
        tracks: Where those points went, in pixels of the clip.
        cuts: First frames after cuts at which tracks end; written into the npz.

    Returns:
        The files.

    Raises:
        ValueError: a file of one of these names is there and is not this program's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays, table, video = (folder / f"{clip.name}-{ending}" for ending in ("tracks.npz", "tracks.csv", "overlay.mp4"))
    if not arrays.exists() and (there := next((path for path in (table, video) if path.exists()), None)):
        raise ValueError(f"{there} is there without {arrays.name}, so that it is not this program's; move it elsewhere")
    write_predictions(arrays, query_points, {"tracker": tracks}, tracker=OWN_TRACKER, cuts=cuts)
    export_tracks_table(table, tracks)
    drawn = draw_tracks(
        clip.frames[: len(tracks.visible)],
        tracks.points_xy_px,
        tracks.visible,
        query_frames=query_points[:, 0].astype(int).tolist(),
        params=OverlayParams(upscale=1),
    )
    write_video(video, drawn, clip.fps, lossless=False)
    return [arrays, table, video]


def export_tracks_table(path: Path, tracks: PredictedTracks) -> None:
    """Write tracks as CSV: a row per frame and point, positions in pixels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "point", "x_px", "y_px", "visible", "confidence"])
        for (frame, point), visible in np.ndenumerate(tracks.visible):
            x, y = tracks.points_xy_px[frame, point].tolist()
            writer.writerow([frame, point, x, y, int(visible), float(tracks.confidence[frame, point])])
