"""The interface of a tracker, and the registry of trackers."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from difftrack.annotation._errors import TrackerUnavailableError
from difftrack.annotation._params import TrackerSettings
from difftrack.datasets import ANNOTATED, EXACT, Tracks
from difftrack.params import parse
from difftrack.plugins import PluginError, Registry

__all__ = ["TRACKERS", "Tracker", "check_trackers", "make_tracker", "register_tracker"]


@runtime_checkable
class Tracker(Protocol):
    """Follows query points through a clip.

    An entry point in the group `difftrack.trackers` names a frozen dataclass with this method. Its fields are the
    tracker's settings; each needs a default and a type that params.yaml can express. `annotate.trackers.NAME` and
    `track.trackers.NAME` set them; invalid settings are refused before anything runs, with the name of the key. Heavy
    imports and weights belong in `track`, with a cache. If they are missing, `track` raises `TrackerUnavailableError`,
    which names them and their licence. This error ends the run instead of failing for every clip.
    """

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Track query points forwards and backwards from their frames.

        Args:
            frames: The clip, 0 ... 255; it must not be modified.
            query_points: (frame, x, y): frame index, pixels; the centre of the first pixel is (0.5, 0.5).

        Returns:
            Tracks with the points in the order of the queries: `points_xy_px` [frame, point, xy], float32, finite
            everywhere, equal to the query in its frame; `visible` [frame, point], False outside the image. The track of
            a point does not depend on the other points.

        Raises:
            TrackerUnavailableError: a package or weights are missing.
            ValueError: a query point lies outside the clip (`difftrack.datasets.check_query_points`).
        """


def _checked(name: str, entry: Any) -> type[Tracker]:  # noqa: ANN401
    if not (isinstance(entry, type) and dataclasses.is_dataclass(entry) and callable(getattr(entry, "track", None))):
        raise TypeError(
            f"it is {entry!r}; expected a dataclass with a method `track`, see difftrack.annotation.Tracker"
        )
    for field in dataclasses.fields(entry):
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TypeError(f"its setting {field.name} has no default; every setting needs one")
    return cast(type[Tracker], entry)


_HERE = "difftrack.annotation"

TRACKERS: Registry[type[Tracker]] = Registry(
    "difftrack.trackers",
    noun="tracker",
    built_in={
        "lucas_kanade": f"{_HERE}._lucas_kanade:LucasKanade",
        "cotracker3": f"{_HERE}._cotracker:CoTracker3",
        "no_motion": f"{_HERE}._no_motion:NoMotion",
        "raft": f"{_HERE}._raft:Raft",
        "dino": f"{_HERE}._dino:Dino",
    },
    check=_checked,
    reserved=frozenset({"auto", "import", "given", "tracker", "difftrack", EXACT, ANNOTATED}),
)


def register_tracker(name: str, tracker: type[Tracker], *, replace: bool = False) -> None:
    """Register a tracker for this process; an entry point in `difftrack.trackers` registers it permanently.

    Args:
        name: Name of the tracker in params.yaml.
        tracker: A dataclass of its settings with the method `track`.
        replace: Whether to replace a tracker registered earlier under this name.

    Raises:
        PluginError: the name is taken, or `tracker` is not a tracker.
    """
    TRACKERS.register(name, tracker, replace=replace)


def make_tracker(name: str, settings: Mapping[str, Any] | None = None, *, section: str = "trackers") -> Tracker:
    """Create a tracker with its settings.

    Args:
        name: Name of a registered tracker.
        settings: Settings as in params.yaml; the others keep their defaults.
        section: Section that contains the settings, for messages.

    Raises:
        TrackerUnavailableError: the tracker is unknown or cannot be loaded.
        ParamsError: a setting is unknown, or its value is invalid.
    """
    try:
        kind = TRACKERS.get(name)
    except PluginError as error:
        raise TrackerUnavailableError(str(error)) from error
    return parse(kind, settings or {}, f"{section}.{name}")


def check_trackers(
    names: Mapping[str, str],
    settings: TrackerSettings,
    *,
    section: str,
    own: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> None:
    """Check that trackers are registered and that their settings are valid.

    Args:
        names: Key in the section -> name of a tracker.
        settings: Settings in `trackers`.
        section: Name of the section, for messages.
        own: Trackers with a section of their own besides `trackers`.
        also: Further allowed values of a name, for messages.

    Raises:
        ValueError: a name or setting is invalid; the message names the key, the value and the allowed values.
    """
    for key, name in names.items():
        if name not in TRACKERS.names():
            beside = f", or {', '.join(also)}" if also else ""
            raise ValueError(f"{key} is {name!r}: {TRACKERS.unknown(name)}{beside}")
    for name, values in settings.items():
        if name in own:
            raise ValueError(f"trackers.{name}: the settings of {name} belong in {section}.{name}")
        if name not in TRACKERS.names():
            raise ValueError(f"trackers.{name}: {TRACKERS.unknown(name)}")
        make_tracker(name, values, section=f"{section}.trackers")
