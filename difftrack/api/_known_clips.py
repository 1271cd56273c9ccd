"""Which clip a store was made from, where this session made it: a store holds descriptors and no frames."""

from weakref import WeakKeyDictionary

from difftrack.datasets import Clip
from difftrack.store import Store

__all__ = ["known_clip", "remember_clip"]

_CLIPS: WeakKeyDictionary[Store, dict[str, Clip]] = WeakKeyDictionary()


def remember_clip(store: Store, clip: Clip) -> None:
    """Keep a clip for as long as the store object lives."""
    _CLIPS.setdefault(store, {})[clip.name] = clip


def known_clip(store: Store, name: str) -> Clip | None:
    """Return the clip of that name, or None where this session did not read it."""
    return _CLIPS.get(store, {}).get(name)
