"""What a tracker is, and the trackers that there are."""

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

    An entry point of the group `difftrack.trackers` leads to a frozen dataclass with this method. Its fields are the
    tracker's settings: each has a default, and a type that params.yaml can hold. `annotate.trackers.NAME` and
    `track.trackers.NAME` set them; wrong ones are refused before anything runs, with the name of the key. Heavy imports
    and weights belong into `track`, behind a cache; where they are missing, it raises `TrackerUnavailableError`, which
    names them and their licence, and ends the run instead of failing once per clip.
    """

    def track(
        self, frames: UInt8[np.ndarray, "frame row col rgb"], query_points: Float32[np.ndarray, "point txy"]
    ) -> Tracks:
        """Follow query points forwards and backwards from their frames.

        Args:
            frames: The clip, 0 ... 255; it is not written to.
            query_points: (frame, x, y): frame index, pixels; the centre of the first pixel is (0.5, 0.5).

        Returns:
            `points_xy_px` [frame, point, xy], float32, finite everywhere, the query itself in its frame; `visible`
            [frame, point], False outside the picture; the points in the order of the queries. Tracks of a point do not
            depend on which other points are asked for.

        Raises:
            TrackerUnavailableError: a package or weights are missing.
            ValueError: a query point lies outside the clip (`difftrack.datasets.check_query_points`).
        """


def _checked(name: str, entry: Any) -> type[Tracker]:  # noqa: ANN401
    if not (isinstance(entry, type) and dataclasses.is_dataclass(entry) and callable(getattr(entry, "track", None))):
        raise TypeError(f"it is {entry!r}; wanted: a dataclass with a method `track`, see difftrack.annotation.Tracker")
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
    """Add a tracker for this process, as an entry point of `difftrack.trackers` does for good.

    Args:
        name: What params call it.
        tracker: A dataclass of its settings with the method `track`.
        replace: Whether a tracker of that name that was registered before makes room.

    Raises:
        PluginError: the name is taken, or it is no tracker.
    """
    TRACKERS.register(name, tracker, replace=replace)


def make_tracker(name: str, settings: Mapping[str, Any] | None = None, *, section: str = "trackers") -> Tracker:
    """Make a tracker with its settings.

    Args:
        name: A registered one.
        settings: As params.yaml has them; the others keep their defaults.
        section: Where they stand, for messages.

    Raises:
        TrackerUnavailableError: it is unknown or cannot be loaded.
        ParamsError: a setting is unknown, or its value is wrong.
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
    """Refuse names of trackers that are not registered, and settings that their trackers do not have.

    Args:
        names: Tracker's name by the key that names it.
        settings: Those of `trackers`.
        section: The section's name, for messages.
        own: Trackers whose settings are a key of their own beside `trackers`.
        also: Further values that a name may have, for messages.

    Raises:
        ValueError: names the key, the value and what there is.
    """
    for key, name in names.items():
        if name not in TRACKERS.names():
            beside = f", or {', '.join(also)}" if also else ""
            raise ValueError(f"{key} is {name!r}: {TRACKERS.unknown(name)}{beside}")
    for name, values in settings.items():
        if name in own:
            raise ValueError(f"trackers.{name}: the settings of {name} stand in {section}.{name}")
        if name not in TRACKERS.names():
            raise ValueError(f"trackers.{name}: {TRACKERS.unknown(name)}")
        make_tracker(name, values, section=f"{section}.trackers")
