"""Scores the matches of one clip against its tracks."""

import numpy as np
import xarray as xr

from difftrack.correspondence import MatchingParams, stored_to_frames
from difftrack.datasets import Tracks
from difftrack.geometry import rescale_points
from difftrack.metrics import ScoringParams, score_clip

__all__ = ["score_matches"]


def score_matches(
    matches: xr.Dataset,
    tracks: Tracks,
    *,
    size: tuple[int, int],
    temporal_stride: int,
    first_frames: int,
    matching: MatchingParams,
    scoring: ScoringParams,
) -> xr.Dataset:
    """Score one clip over the video frames that the backbone saw, at their size there.

    Args:
        matches: Result of `label_matches`; `point` holds the points' indices in `tracks`.
        tracks: Tracks over the whole clip.
        size: (height, width) in pixels at which the backbone saw the clip.
        temporal_stride: Video frames per latent frame after the first.
        first_frames: Video frames of the first latent frame.
        matching: How positions per latent frame become positions per video frame.
        scoring: How to score.

    Raises:
        ValueError: the latent frames do not fit the temporal stride, or the tracks are too short.
    """
    frames = np.arange(matches.frame.values[0], matches.frame.values[-1] + first_frames)
    span = first_frames + (matches.sizes["latent_frame"] - 1) * temporal_stride
    if len(frames) != span or frames[-1] >= tracks.num_frames:
        raise ValueError(
            f"latent frames show frames {matches.frame.values.tolist()}, which do not fit a temporal stride of"
            f" {temporal_stride} and tracks of {tracks.num_frames} frames"
        )
    points = np.ix_(frames, matches.point.values)
    true_xy_px = rescale_points(tracks.points_xy_px[points], from_size=(tracks.height, tracks.width), to_size=size)
    to_frames = stored_to_frames(
        num_frames=len(frames),
        temporal_stride=temporal_stride,
        first_frames=first_frames,
        params=matching,
    )
    return score_clip(
        matches,
        true_xy_px,
        tracks.visible[points],
        to_frames=to_frames,
        temporal_stride=temporal_stride,
        first_frames=first_frames,
        params=scoring,
    )
