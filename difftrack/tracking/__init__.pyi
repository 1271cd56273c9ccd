from ._chunks import ChunkDescriptors
from ._frame_matches import FrameMatches
from ._heads import select_heads
from ._params import TrackParams, VisibilityParams
from ._predictions import (
    PredictedTracks,
    cuts_line,
    no_motion,
    read_identity,
    read_points,
    read_predictions,
    write_predictions,
)
from ._smoothing import jitter_of, smooth_tracks
from ._store_chunks import select_sources, stored_chunks, stored_clips
from ._tracker import decide_tracks, match_clip, track_clip
from ._visibility import CALIBRATION, evidence_of
from ._viterbi import typical_steps, viterbi_paths

__all__ = [
    "CALIBRATION",
    "ChunkDescriptors",
    "FrameMatches",
    "PredictedTracks",
    "TrackParams",
    "VisibilityParams",
    "cuts_line",
    "decide_tracks",
    "evidence_of",
    "jitter_of",
    "viterbi_paths",
    "match_clip",
    "no_motion",
    "read_identity",
    "read_points",
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
