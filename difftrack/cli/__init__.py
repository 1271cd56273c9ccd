"""The command line: one verb per task; it calls the library or DVC."""

from difftrack.cli import (
    _causes,
    _doctor,
    _explore,
    _guidance,
    _labels,
    _models,
    _pipeline,
    _plans,
    _stores,
    _sweeps,
    _tracks,
    _words,
)  # each adds its verbs
from difftrack.cli._app import app

__all__ = ["app"]

_ = (_causes, _doctor, _explore, _guidance, _labels, _models, _pipeline, _plans, _stores, _sweeps, _tracks, _words)
