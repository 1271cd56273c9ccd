"""The list of the clips that there must be."""

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
"""Each makes a folder one of a clip, whole or not."""


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """One clip as its manifest knows it, whatever became of its files since.

    Raises:
        DatasetError: it has no plain name, or its number of frames is not positive.
    """

    name: str
    source: ClipOrigin | None
    """None where a clip without manifest cannot be read."""
    num_frames: int | None
    """None likewise."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.num_frames is not None and self.num_frames < 1:
            raise DatasetError(f"num_frames is {self.num_frames!r}; wanted: a positive number")


@dataclass(frozen=True, slots=True)
class ClipManifest:
    """The clips that there must be, in the order in which every stage takes them.

    Raises:
        DatasetError: a name occurs twice.
    """

    clips: tuple[ClipEntry, ...]
    assumed: bool = False
    """Whether the folder holds no manifest, so that what was found in it is taken for all that there must be."""

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.clips):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DatasetError(f"clip {twice} is named twice")

    @property
    def names(self) -> list[str]:
        """Names of the clips."""
        return [clip.name for clip in self.clips]

    def remarks(self, folder: Path) -> list[str]:
        """What a reader of the folder should be told, a line each."""
        return [assumption(folder, len(self.clips))] if self.assumed else []


def write_manifest(root: Path, names: Iterable[str]) -> None:
    """Write `root`/manifest.json, sorted by name; the same clips give the same bytes. To be written after all clips.

    Args:
        root: Folder of clips.
        names: Of the clips that there must be from now on; what else is said of them is read from their clip.json, or
            from the last manifest where that cannot be read.
    """
    known = {clip.name: clip for clip in _last(root)}
    found = [_found(root, name) for name in sorted(set(names))]
    manifest = ClipManifest(tuple(known.get(clip.name, clip) if clip.source is None else clip for clip in found))
    write_text(root / MANIFEST, manifest_text([asdict(clip) for clip in manifest.clips]))


def read_manifest(root: Path) -> ClipManifest:
    """Read which clips there must be under `root`.

    Without a manifest they are the folders that hold a clip.json or a frames.mp4, whether these can be read or not.

    Raises:
        DatasetError: there is no such folder, or its manifest is damaged.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: there is no such folder of clips")
    path = root / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ClipManifest(tuple(_found(root, name) for name in _folders(root)), assumed=True)
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
    """Names of the clips that there must be under `root`, in the order in which every stage takes them.

    Raises:
        DatasetError: see `read_manifest`.
    """
    return read_manifest(root).names


def _folders(root: Path) -> list[str]:
    """Names of the folders that hold clips, whole or not, sorted."""
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(path.name for path in folders if any((path / file).exists() for file in _FILES))


def _last(root: Path) -> tuple[ClipEntry, ...]:
    """What an earlier manifest says; nothing where it cannot be read."""
    try:
        return read_manifest(root).clips
    except DatasetError:
        return ()


def _found(root: Path, name: str) -> ClipEntry:
    """What a clip without manifest says of itself."""
    try:
        about = read_json(root / name / "clip.json", way_out="")
        known = {key: about[key] for key in ("source", "num_frames")}
        return parse(ClipEntry, {"name": name, **known}, "clip.json")
    except (ValueError, KeyError, TypeError):
        return ClipEntry(name, None, None)
