"""Chunk schedule and correspondences to tracks with visibility."""

from difftrack.tracking._baselines import no_motion
from difftrack.tracking._chunks import ChunkDescriptors
from difftrack.tracking._params import TrackParams, VisibilityParams
from difftrack.tracking._schedule import ChunkParams, chunk_schedule
from difftrack.tracking._smoothing import smooth_tracks
from difftrack.tracking._tracker import PredictedTracks, track_clip

__all__ = [
    "ChunkDescriptors",
    "ChunkParams",
    "PredictedTracks",
    "TrackParams",
    "VisibilityParams",
    "chunk_schedule",
    "no_motion",
    "smooth_tracks",
    "track_clip",
]
