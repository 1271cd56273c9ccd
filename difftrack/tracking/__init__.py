"""Chunk schedule and correspondences to tracks with visibility."""

from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.tracking._chunks import ChunkDescriptors
from difftrack.tracking._heads import select_heads
from difftrack.tracking._legs import Leg
from difftrack.tracking._params import TrackParams, VisibilityParams
from difftrack.tracking._paths import likeliest_paths, typical_steps
from difftrack.tracking._predictions import PredictedTracks, cuts_line, no_motion, read_predictions, write_predictions
from difftrack.tracking._smoothing import smooth_tracks
from difftrack.tracking._stored import select_sources, stored_chunks, stored_clips
from difftrack.tracking._tracker import decide_tracks, match_clip, track_clip
from difftrack.tracking._visibility import CALIBRATION, evidence_of

__all__ = [
    "CALIBRATION",
    "ChunkDescriptors",
    "ChunkParams",
    "Leg",
    "PredictedTracks",
    "TrackParams",
    "VisibilityParams",
    "chunk_schedule",
    "cuts_line",
    "decide_tracks",
    "evidence_of",
    "likeliest_paths",
    "match_clip",
    "no_motion",
    "read_predictions",
    "select_heads",
    "select_sources",
    "smooth_tracks",
    "stored_chunks",
    "stored_clips",
    "track_clip",
    "typical_steps",
    "write_predictions",
]
