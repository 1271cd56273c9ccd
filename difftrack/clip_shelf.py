"""Decide which clips of a folder are reused, kept aside, or restored."""

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
"""Held while clips are moved: one may be written in the background while the caller requests the next."""
_OTHER_PARAMS = "the params have changed"
_RECORDS = ("made_by", "reused")
"""Entries of a clip's details that record how it was made and do not define the clip."""


@dataclass(frozen=True)
class ClipShelf:
    """A folder of clips, with the keeper for clips that are no longer used."""

    root: Path
    keeper: Keeper
    reuse: Reuse = "exact"
    anew: bool = False
    """Reuse no clip: make every clip again."""
    above: str = ""
    """Prefix of the kept clips' names, for clips that have the same name in several folders."""
    say: Callable[[str], None] = print
    _told: set[str] = field(default_factory=set)

    def take_up(self, name: str, identity: str, made_by: MadeBy, *, also: Collection[str] = ()) -> Clip | None:
        """Return the existing or restored clip of a name if it is complete and matches; None otherwise.

        A different clip of that name is kept aside.

        Args:
            name: Name of the clip.
            identity: The clip's identity, from `clip_identity`.
            made_by: The record that the clip would have now.
            also: Further files that the clip's folder must contain.
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
        """Write a clip as `write_clip` does, but keep a different existing clip of that name aside."""
        key = _key(clip.source, clip_identity(clip.prompt, clip.seed, clip.fps, clip.details), clip)
        with _MOVING:
            if _key_there(self.root, clip.name) not in (None, key):
                self.lay_aside(clip.name, why=_OTHER_PARAMS)
        write_clip(self.root, clip, given_tracks=given_tracks)
        with _MOVING:
            self.keeper.drop(name=f"{self.above}{clip.name}", key=key)

    def lay_aside(self, name: str, *, why: str) -> None:
        """Move a complete or incomplete clip to the keeper.

        Raises:
            DatasetError: its folder is a link, or contains files that do not belong to a clip.
        """
        folder = self.root / name
        problem = f"{folder} is a link" if folder.is_symlink() else CLIP.stranger(folder)
        if problem:
            raise DatasetError(f"{folder} was not kept: {problem}; move it elsewhere")
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
        return None if changed is None else f"made again because of a change: {changed}"

    def _put_back(self, name: str, identity: str, made_by: MadeBy) -> bool:
        if (self.root / name).exists():  # it is damaged; otherwise it would have been found or kept aside
            return False
        kept_name = f"{self.above}{name}"
        key = self.keeper.fitting(kept_name, key_of(identity, made_by), self.reuse)
        return key is not None and self.keeper.take(self.root / name, name=kept_name, key=key)

    def _recorded(self, found: Clip, made_by: MadeBy) -> Clip:
        """Record in the clip whether it is reused although it would be made differently now."""
        difference = made_by.difference(MadeBy.from_json(found.details.get("made_by")))
        if difference is not None and difference not in self._told:
            self._told.add(difference)
            self.say(f"reused because the params are equal (reuse: params); differences: {difference}")
        if bool(found.details.get("reused")) == (difference is not None):
            return found
        details = {name: value for name, value in found.details.items() if name != "reused"}
        clip = replace(found, details={**details, **({"reused": True} if difference is not None else {})})
        describe_clip(self.root, clip)
        return clip


def clip_identity(prompt: str, seed: int | None, fps: float, details: Mapping[str, Any]) -> str:
    """SHA-256 of a clip's specification, independent of how it was made."""
    known = {name: value for name, value in details.items() if name not in _RECORDS}
    return hashlib.sha256(json.dumps(_with_floats([prompt, seed, fps, known]), sort_keys=True).encode()).hexdigest()


def _with_floats(value: Any) -> Any:  # noqa: ANN401
    """Convert every number to a float, because params.yaml may contain 6 or 6.0."""
    if isinstance(value, Mapping):
        return {key: _with_floats(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_floats(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _key(source: str, identity: str, clip: Clip) -> str:
    """Return the key of a kept clip: for a generated clip from how it was made, otherwise from its content."""
    if source == "generated":
        return key_of(identity, MadeBy.from_json(clip.details.get("made_by")))
    return f"{identity[:16]}-{clip.fingerprint()[:8]}"


def _key_there(root: Path, name: str) -> str | None:
    """Return the key of the clip in a folder; None if there is none that can be read."""
    try:
        clip = read_clip(root, name)
    except (ValueError, OSError):
        return None
    return _key(clip.source, clip_identity(clip.prompt, clip.seed, clip.fps, clip.details), clip)
