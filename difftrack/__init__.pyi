from .annotation import register_tracker as register_tracker
from .api._annotate import annotate as annotate
from .api._backbones import load_backbone as load_backbone
from .api._backbones import wrap as wrap
from .api._clips import read_clip as read_clip
from .api._extract import extract as extract
from .api._guide import GuidedVideo as GuidedVideo
from .api._guide import guide as guide
from .api._intervene import intervene as intervene
from .api._match import PointMatches as PointMatches
from .api._match import match as match
from .api._probe import TrainingProbe as TrainingProbe
from .api._probe import probe as probe
from .api._propagate import Propagation as Propagation
from .api._propagate import propagate as propagate
from .api._score import Scores as Scores
from .api._score import score as score
from .api._track import PointTracks as PointTracks
from .api._track import track as track
from .api._words import words as words
from .backbones import Backbone as Backbone
from .backbones import register_backbone as register_backbone
from .datasets import Clip as Clip
from .datasets import Tracks as Tracks
from .explorer import explore as explore
from .propagation import PropagationParams as PropagationParams
from .store import Store as Store
from .store import open_store as open_store
from .tracking import TrackParams as TrackParams

__all__ = [
    "Backbone",
    "Clip",
    "GuidedVideo",
    "PointMatches",
    "PointTracks",
    "Propagation",
    "PropagationParams",
    "Scores",
    "Store",
    "TrackParams",
    "Tracks",
    "TrainingProbe",
    "annotate",
    "explore",
    "extract",
    "guide",
    "intervene",
    "load_backbone",
    "match",
    "open_store",
    "probe",
    "propagate",
    "read_clip",
    "register_backbone",
    "register_tracker",
    "score",
    "track",
    "words",
    "wrap",
]
