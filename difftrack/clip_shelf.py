"""Which clips of a folder are taken up, which are laid aside, and which come back from there."""

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from difftrack.datasets import CLIP, Clip, DatasetError, Tracks, describe_clip, read_clip, write_clip
from difftrack.keeping import Keeper
from difftrack.provenance import MadeBy, Reuse, key_of, reuse_problem

__all__ = ["ClipShelf", "clip_identity"]

_MOVING = threading.RLock()
"""Held where clips move: one may be written beside the caller while the caller asks for the next."""
_OTHER_PARAMS = "other params are asked for now"
_RECORDS = ("made_by", "reused")
"""Entries of a clip's details that say what made it, and not what it is."""


@dataclass(frozen=True)
class ClipShelf:
    """A folder of clips, and where they are kept when nothing asks for them."""

    root: Path
    keeper: Keeper
    reuse: Reuse = "exact"
    anew: bool = False
    """Take no clip up: make every one again."""
    above: str = ""
    """Put before the clips' names where they are kept, for clips that are called alike in several folders."""
    say: Callable[[str], None] = print
    _told: set[str] = field(default_factory=set)

    def take_up(self, name: str, identity: str, made_by: MadeBy, *, also: Collection[str] = ()) -> Clip | None:
        """The clip of a name if it is whole and is what is wanted, put back from where it was kept if need be.

        Another clip of that name is laid aside.

        Args:
            name: Of the clip.
            identity: From `clip_identity`.
            made_by: What would make it now.
            also: Files that must lie beside it.
        """
        with _MOVING:
            return self._take_up(name, identity, made_by, also)

    def _take_up(self, name: str, identity: str, made_by: MadeBy, also: Collection[str]) -> Clip | None:
        found = self._found(name, also)
        why = None if found is None else self._problem(found, identity, made_by)
        if why is not None:
            self.lay_aside(name, why=why)
            found = None
        if self.anew:
            return None
        if found is None and self._put_back(name, identity, made_by):
            found = self._found(name, also)
        return None if found is None else self._recorded(found, made_by)

    def write(self, clip: Clip, *, given_tracks: Tracks | None = None) -> None:
        """As `write_clip`, but lay aside another clip of that name that lies there."""
        key = _key(clip.source, clip_identity(clip.prompt, clip.seed, clip.fps, clip.details), clip)
        with _MOVING:
            if _key_there(self.root, clip.name) not in (None, key):
                self.lay_aside(clip.name, why=_OTHER_PARAMS)
        write_clip(self.root, clip, given_tracks=given_tracks)
        with _MOVING:
            self.keeper.drop(name=f"{self.above}{clip.name}", key=key)

    def lay_aside(self, name: str, *, why: str) -> None:
        """Move a clip, whole or not, to where it is kept.

        Raises:
            DatasetError: its folder is a link, or holds what is no part of a clip.
        """
        folder = self.root / name
        problem = f"{folder} is a link" if folder.is_symlink() else CLIP.stranger(folder)
        if problem:
            raise DatasetError(f"{folder} is not laid aside: {problem}; move it elsewhere")
        key = _key_there(self.root, name) or "damaged"
        self.keeper.park(folder, name=f"{self.above}{name}", key=key, why=why)

    def _found(self, name: str, also: Collection[str]) -> Clip | None:
        try:
            clip = read_clip(self.root, name)
        except (ValueError, OSError):
            return None
        return clip if all((self.root / name / file).exists() for file in also) else None

    def _problem(self, found: Clip, identity: str, made_by: MadeBy) -> str | None:
        if clip_identity(found.prompt, found.seed, found.fps, found.details) != identity:
            return _OTHER_PARAMS
        changed = reuse_problem(made_by, found.details.get("made_by"), "exact" if self.anew else self.reuse)
        return None if changed is None else f"made anew because of what changed: {changed}"

    def _put_back(self, name: str, identity: str, made_by: MadeBy) -> bool:
        if (self.root / name).exists():  # damaged, else it would have been found or laid aside
            return False
        kept_name = f"{self.above}{name}"
        key = self.keeper.fitting(kept_name, key_of(identity, made_by), self.reuse)
        return key is not None and self.keeper.take(self.root / name, name=kept_name, key=key)

    def _recorded(self, found: Clip, made_by: MadeBy) -> Clip:
        """The clip, which says of itself whether it is used though something else would make it now."""
        difference = made_by.difference(MadeBy.from_json(found.details.get("made_by")))
        if difference is not None and difference not in self._told:
            self._told.add(difference)
            self.say(f"taken up by params alone, as reuse says; what differs: {difference}")
        if bool(found.details.get("reused")) == (difference is not None):
            return found
        details = {name: value for name, value in found.details.items() if name != "reused"}
        clip = replace(found, details={**details, **({"reused": True} if difference is not None else {})})
        describe_clip(self.root, clip)
        return clip


def clip_identity(prompt: str, seed: int | None, fps: float, details: Mapping[str, Any]) -> str:
    """SHA-256 over what a clip was asked to be, whatever made it."""
    known = {name: value for name, value in details.items() if name not in _RECORDS}
    return hashlib.sha256(json.dumps(_alike([prompt, seed, fps, known]), sort_keys=True).encode()).hexdigest()


def _alike(value: Any) -> Any:  # noqa: ANN401
    """The value with every number as a float: params.yaml may say 6 or 6.0."""
    if isinstance(value, Mapping):
        return {key: _alike(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_alike(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _key(source: str, identity: str, clip: Clip) -> str:
    """Under which a clip is kept: a sampled one by what made it, any other by its content."""
    if source == "generated":
        return key_of(identity, MadeBy.from_json(clip.details.get("made_by")))
    return f"{identity[:16]}-{clip.fingerprint()[:8]}"


def _key_there(root: Path, name: str) -> str | None:
    """The key of the clip that lies in a folder; None where there is none that can be read."""
    try:
        clip = read_clip(root, name)
    except (ValueError, OSError):
        return None
    return _key(clip.source, clip_identity(clip.prompt, clip.seed, clip.fps, clip.details), clip)
