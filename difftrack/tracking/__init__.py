"""Chunk schedule and correspondences to tracks with visibility."""

from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.tracking._chunks import ChunkDescriptors
from difftrack.tracking._heads import select_heads
from difftrack.tracking._params import TrackParams, VisibilityParams
from difftrack.tracking._paths import likeliest_paths
from difftrack.tracking._predictions import PredictedTracks, no_motion, read_predictions, write_predictions
from difftrack.tracking._smoothing import smooth_tracks
from difftrack.tracking._stored import select_sources, stored_chunks, stored_clips
from difftrack.tracking._tracker import track_clip

__all__ = [
    "ChunkDescriptors",
    "ChunkParams",
    "PredictedTracks",
    "TrackParams",
    "VisibilityParams",
    "chunk_schedule",
    "likeliest_paths",
    "no_motion",
    "read_predictions",
    "select_heads",
    "select_sources",
    "smooth_tracks",
    "stored_chunks",
    "stored_clips",
    "track_clip",
    "write_predictions",
]
