"""The small files between stages: JSON and arrays whose damage is one line, and what ought to be in a folder.

Every folder of clips or of results by clip holds a `manifest.json`. It says which clips there must be, so that one that
is deleted or damaged is missed by every stage that comes after.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from difftrack import arrays, documents
from difftrack.documents import MAX_JSON_BYTES, DocumentError, read_bounded

__all__ = [
    "MANIFEST",
    "ArtifactError",
    "Manifest",
    "assumption",
    "manifest_text",
    "parse_json",
    "parse_manifest",
    "read_arrays",
    "read_json",
    "write_text",
]

MANIFEST = "manifest.json"
"""Name of the file in its folder."""

_VERSION = 1


class ArtifactError(ValueError):
    """A file between stages is missing, damaged or something else; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ought to be in a folder of results by clip."""

    groups: Mapping[str, tuple[str, ...]]
    """By clip, in the order in which stages take them: names of its groups; none where nothing can tell them."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Clips that a rule leaves out, such as one about their length, and why: not missing, and no failure."""
    assumed: bool = field(default=False, compare=False)
    """Whether the folder holds no manifest, so that what was found in it is taken for all that there must be."""

    @property
    def clips(self) -> list[str]:
        """Names of the clips that there must be."""
        return list(self.groups)

    def remarks(self, folder: Path | str) -> list[str]:
        """What a reader of the folder should be told, a line each."""
        left_out = [f"left out: {clip}: {why}" for clip, why in self.left_out.items()]
        return [*([assumption(folder, len(self.groups))] if self.assumed else []), *left_out]

    def to_text(self) -> str:
        """The file; the same manifest gives the same bytes."""
        clips = [{"name": name, "groups": list(groups)} for name, groups in self.groups.items()]
        return _to_text({"version": _VERSION, "clips": clips, "left_out": dict(self.left_out)})

    @classmethod
    def from_bytes(cls, content: bytes, path: Path | str) -> "Manifest":
        """Read the file.

        Args:
            content: What it holds.
            path: What messages call it.

        Raises:
            ArtifactError: it is no manifest, or one of another version.
        """
        found = parse_manifest(content, path)
        try:
            groups = {str(clip["name"]): tuple(map(str, clip["groups"])) for clip in found["clips"]}
            return cls(groups, {str(name): str(why) for name, why in found["left_out"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise _no_manifest(path, repr(error)) from error


def assumption(folder: Path | str, num_clips: int) -> str:
    """What is said of a folder without manifest."""
    return f"{folder} holds no {MANIFEST}: the {num_clips} clips found there are taken for all that there must be"


def parse_manifest(content: bytes, path: Path | str) -> dict[str, Any]:
    """Read a manifest of any kind as far as its version.

    Raises:
        ArtifactError: it is no manifest, or one of another version.
    """
    found = parse_json(content, path, way_out=_WAY_OUT)
    if not isinstance(found, dict) or not isinstance(found.get("clips"), list):
        raise _no_manifest(path, "it holds no list of clips")
    if found.get("version") != _VERSION:
        raise _no_manifest(path, f"its version is {found.get('version')!r}, and this program reads {_VERSION}")
    return found


def manifest_text(clips: list[dict[str, Any]]) -> str:
    """A manifest of clips with facts about each; the same ones give the same bytes."""
    return _to_text({"version": _VERSION, "clips": clips})


def parse_json(content: bytes, path: Path | str, *, way_out: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON.

    Args:
        content: What the file holds.
        path: What messages call it.
        way_out: What to do about a damaged file.

    Raises:
        ArtifactError: it is empty, cut or something else.
    """
    if not content.strip():
        raise ArtifactError(f"{path}: is empty; {way_out}")
    try:
        return documents.parse_json(content)
    except ValueError as error:
        cause = error.__cause__ or error.__context__
        detail = f" ({cause})" if isinstance(cause, json.JSONDecodeError) else ""
        raise ArtifactError(f"{path}: {error}, or is cut short{detail}; {way_out}") from error


def read_json(path: Path, *, way_out: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file.

    Args:
        path: The file.
        way_out: What to do where it is missing or damaged.

    Raises:
        ArtifactError: it is missing, empty, cut or something else.
    """
    try:
        content = read_bounded(path, max_bytes=MAX_JSON_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: {_cause(error)}; {way_out}") from error
    except DocumentError as error:
        raise ArtifactError(f"{error}; {way_out}") from error
    return parse_json(content, path, way_out=way_out)


def read_arrays(path: Path, *, way_out: str) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file; nothing in it is executed.

    Args:
        path: The file.
        way_out: What to do where it is missing or damaged.

    Raises:
        ArtifactError: it is missing, empty, cut or something else.
    """
    try:
        if path.is_file() and not path.stat().st_size:
            raise ArtifactError(f"{path}: is empty; {way_out}")
        return arrays.read_arrays(path)
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: {_cause(error)}; {way_out}") from error
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: is no npz file, or is cut short ({error}); {way_out}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name when it is complete; one that holds the same is left alone."""
    content = text.encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


_WAY_OUT = "remove it and run the stage that writes the folder again"


def _no_manifest(path: Path | str, cause: str) -> ArtifactError:
    return ArtifactError(f"{path}: is no manifest that can be used: {cause}; {_WAY_OUT}")


def _to_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _cause(error: OSError) -> str:
    return "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
