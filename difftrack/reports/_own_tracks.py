"""Tracks of somebody's own video, for reading on: arrays, a table, and the video with the tracks drawn on it."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Float

from difftrack.datasets import Clip
from difftrack.media import write_video
from difftrack.reports._overlay import OverlayParams, draw_tracks
from difftrack.tracking import PredictedTracks, write_predictions

__all__ = ["write_own_tracks", "write_tracks_table"]


def write_own_tracks(
    folder: Path, clip: Clip, query_points: Float[np.ndarray, "point txy"], tracks: PredictedTracks
) -> list[Path]:
    """Write <clip>-tracks.npz, <clip>-tracks.csv with a row per frame and point, and <clip>-overlay.mp4.

    The overlay has the clip's own size. No name is that of the clip itself, which may lie in the same folder.

    Args:
        folder: Made if missing.
        clip: The clip that was tracked.
        query_points: (frame, x, y) in pixels of the clip.
        tracks: Where those points went, in pixels of the clip.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays, table, video = (folder / f"{clip.name}-{ending}" for ending in ("tracks.npz", "tracks.csv", "overlay.mp4"))
    write_predictions(arrays, query_points, {"tracker": tracks})
    write_tracks_table(table, tracks)
    drawn = draw_tracks(
        clip.frames[: len(tracks.visible)],
        tracks.points_xy_px,
        tracks.visible,
        query_frames=query_points[:, 0].astype(int).tolist(),
        params=OverlayParams(upscale=1),
    )
    write_video(video, drawn, clip.fps, lossless=False)
    return [arrays, table, video]


def write_tracks_table(path: Path, tracks: PredictedTracks) -> None:
    """Write tracks as CSV: a row per frame and point, positions in pixels."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "point", "x_px", "y_px", "visible", "confidence"])
        for (frame, point), visible in np.ndenumerate(tracks.visible):
            x, y = tracks.points_xy_px[frame, point].tolist()
            writer.writerow([frame, point, x, y, int(visible), float(tracks.confidence[frame, point])])
