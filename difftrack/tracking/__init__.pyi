from ._chunks import ChunkDescriptors
from ._heads import select_heads
from ._legs import Leg
from ._params import TrackParams, VisibilityParams
from ._paths import likeliest_paths, typical_steps
from ._predictions import PredictedTracks, cuts_line, no_motion, read_points, read_predictions, write_predictions
from ._smoothing import smooth_tracks
from ._stored import select_sources, stored_chunks, stored_clips
from ._tracker import decide_tracks, match_clip, track_clip
from ._visibility import CALIBRATION, evidence_of

__all__ = [
    "CALIBRATION",
    "ChunkDescriptors",
    "Leg",
    "PredictedTracks",
    "TrackParams",
    "VisibilityParams",
    "cuts_line",
    "decide_tracks",
    "evidence_of",
    "likeliest_paths",
    "match_clip",
    "no_motion",
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
