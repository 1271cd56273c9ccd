"""The manifest: the list of clips that a folder must contain."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from difftrack.artifacts import (
    MANIFEST,
    ArtifactError,
    assumption,
    manifest_text,
    parse_manifest,
    read_json,
    write_text,
)
from difftrack.datasets._clips import ClipOrigin
from difftrack.datasets._errors import DatasetError
from difftrack.datasets._names import check_name
from difftrack.params import parse

__all__ = ["ClipEntry", "ClipManifest", "clip_names", "read_manifest", "write_manifest"]

_FILES = ("clip.json", "frames.mp4")
"""A folder with one of these files counts as a clip, even if it is incomplete."""


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """One clip as recorded in the manifest; its files may have changed since.

    Raises:
        DatasetError: the name is not plain, or the number of frames is not positive.
    """

    name: str
    source: ClipOrigin | None
    """None if there is no manifest and the clip cannot be read."""
    num_frames: int | None
    """None if there is no manifest and the clip cannot be read."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.num_frames is not None and self.num_frames < 1:
            raise DatasetError(f"num_frames is {self.num_frames!r}; it must be positive")


@dataclass(frozen=True, slots=True)
class ClipManifest:
    """The clips that must exist, in the order in which every stage processes them.

    Raises:
        DatasetError: a name occurs twice.
    """

    clips: tuple[ClipEntry, ...]
    assumed: bool = False
    """True if there is no manifest, so that the clips found in the folder are assumed to be complete."""

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.clips):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DatasetError(f"clip {twice} is named twice")

    @property
    def names(self) -> list[str]:
        """Names of the clips."""
        return [clip.name for clip in self.clips]

    def remarks(self, folder: Path) -> list[str]:
        """Return remarks for a reader of the folder, one line each."""
        return [assumption(folder, len(self.clips))] if self.assumed else []


def write_manifest(root: Path, names: Iterable[str]) -> None:
    """Write `root`/manifest.json, sorted by name; the same clips give the same bytes. Call it after writing all clips.

    Args:
        root: Folder of clips.
        names: Names of the clips that must exist from now on. Other entries are read from their clip.json, or from the
            last manifest if clip.json cannot be read.
    """
    known = {clip.name: clip for clip in _previous_entries(root)}
    found = [_entry_from_clip(root, name) for name in sorted(set(names))]
    manifest = ClipManifest(tuple(known.get(clip.name, clip) if clip.source is None else clip for clip in found))
    write_text(root / MANIFEST, manifest_text([asdict(clip) for clip in manifest.clips]))


def read_manifest(root: Path) -> ClipManifest:
    """Read the manifest of `root`.

    Without a manifest, every folder with a clip.json or a frames.mp4 counts, even if these files cannot be read.

    Raises:
        DatasetError: the folder does not exist, or its manifest is damaged.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: the folder of clips does not exist")
    path = root / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ClipManifest(tuple(_entry_from_clip(root, name) for name in _folders(root)), assumed=True)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        clips = parse_manifest(content, path)["clips"]
        return ClipManifest(tuple(parse(ClipEntry, clip, f"clips[{i}]", file=path) for i, clip in enumerate(clips)))
    except ArtifactError as error:
        raise DatasetError(str(error)) from error
    except ValueError as error:
        raise DatasetError(f"{path}: cannot be used ({error}); run the synthesize stage again") from error


def clip_names(root: Path) -> list[str]:
    """Return the names of the clips that must exist in `root`, in the order in which every stage processes them.

    Raises:
        DatasetError: see `read_manifest`.
    """
    return read_manifest(root).names


def _folders(root: Path) -> list[str]:
    """List the folders with complete or incomplete clips, sorted by name."""
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path.name for path in folders if any((path / file).exists() for file in _FILES))


def _previous_entries(root: Path) -> tuple[ClipEntry, ...]:
    """Read the entries of the previous manifest; empty if it cannot be read."""
    try:
        return read_manifest(root).clips
    except DatasetError:
        return ()


def _entry_from_clip(root: Path, name: str) -> ClipEntry:
    """Read a clip's entry from its clip.json."""
    try:
        about = read_json(root / name / "clip.json", way_out="")
        known = {key: about[key] for key in ("source", "num_frames")}
        return parse(ClipEntry, {"name": name, **known}, "clip.json")
    except (ValueError, KeyError, TypeError):
        return ClipEntry(name, None, None)
