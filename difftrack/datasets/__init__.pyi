from ._clips import Clip, ClipOrigin, ClipOutline, TrackedVideo, Tracks, check_query_points
from ._davis import load_davis
from ._errors import ClipFailure, DatasetError
from ._files import (
    CLIP,
    clip_folders,
    describe_clip,
    drop_clips,
    read_clip,
    read_clip_kind,
    read_clip_outline,
    read_given_tracks,
    read_tracks,
    write_clip,
    write_tracks,
)
from ._folders import load_videos
from ._keypoint_sets import load_badja, load_jhmdb
from ._labelled import KeypointVideo, MaskedVideo
from ._manifest import ClipEntry, ClipManifest, clip_names, read_manifest, write_manifest
from ._names import plain_name, unique_names
from ._params import FolderParams, QueryMode
from ._sources import read_folder
from ._tables import read_table
from ._tapvid import load_tapvid_folder, load_tapvid_pickle, read_tapvid_entry, tapvid_queries
from ._truth import ANNOTATED, EXACT, OWN_TRACKER, Truth, TruthKind, group_by_truth
from ._working_size import working_frames

__all__ = [
    "ANNOTATED",
    "CLIP",
    "EXACT",
    "OWN_TRACKER",
    "Clip",
    "ClipEntry",
    "ClipFailure",
    "ClipManifest",
    "ClipOrigin",
    "ClipOutline",
    "DatasetError",
    "FolderParams",
    "KeypointVideo",
    "MaskedVideo",
    "QueryMode",
    "TrackedVideo",
    "Tracks",
    "Truth",
    "TruthKind",
    "check_query_points",
    "clip_folders",
    "clip_names",
    "describe_clip",
    "drop_clips",
    "group_by_truth",
    "load_badja",
    "load_davis",
    "load_jhmdb",
    "load_tapvid_folder",
    "load_tapvid_pickle",
    "load_videos",
    "plain_name",
    "read_clip",
    "read_clip_kind",
    "read_clip_outline",
    "read_folder",
    "read_given_tracks",
    "read_manifest",
    "read_table",
    "read_tapvid_entry",
    "read_tracks",
    "tapvid_queries",
    "unique_names",
    "working_frames",
    "write_clip",
    "write_manifest",
    "write_tracks",
]
