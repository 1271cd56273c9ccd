"""Small files between stages: JSON and arrays, with one-line errors for damaged files, and manifests of folders.

Every folder of clips, or of results by clip, contains a `manifest.json`. It lists the clips that must exist, so that
later stages notice a deleted or damaged clip.
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
"""Name of the manifest in its folder."""

_VERSION = 1


class ArtifactError(ValueError):
    """A file between stages is missing, damaged or of another kind; the message names it and the way out."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The required content of a folder of results by clip."""

    groups: Mapping[str, tuple[str, ...]]
    """Clip -> names of its groups, in the order in which stages process clips; empty if the groups are unknown."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Clip that a rule leaves out, for example because of its length -> the reason; neither missing nor a failure."""
    assumed: bool = field(default=False, compare=False)
    """True if there is no manifest, so that the clips found in the folder are assumed to be complete."""

    @property
    def clips(self) -> list[str]:
        """Names of the clips that must exist."""
        return list(self.groups)

    def remarks(self, folder: Path | str) -> list[str]:
        """Return remarks for a reader of the folder, one line each."""
        left_out = [f"left out: {clip}: {why}" for clip, why in self.left_out.items()]
        return [*([assumption(folder, len(self.groups))] if self.assumed else []), *left_out]

    def to_text(self) -> str:
        """Return the content of the file; the same manifest gives the same bytes."""
        clips = [{"name": name, "groups": list(groups)} for name, groups in self.groups.items()]
        return _to_text({"version": _VERSION, "clips": clips, "left_out": dict(self.left_out)})

    @classmethod
    def from_bytes(cls, content: bytes, path: Path | str) -> "Manifest":
        """Parse a manifest.

        Args:
            content: Content of the file.
            path: Path of the file, for messages.

        Raises:
            ArtifactError: the content is not a manifest, or has another version.
        """
        found = parse_manifest(content, path)
        try:
            groups = {str(clip["name"]): tuple(map(str, clip["groups"])) for clip in found["clips"]}
            return cls(groups, {str(name): str(why) for name, why in found["left_out"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise _manifest_error(path, repr(error)) from error


def assumption(folder: Path | str, num_clips: int) -> str:
    """Return the remark on a folder without a manifest."""
    return f"{folder} contains no {MANIFEST}: the {num_clips} clips found there are assumed to be complete"


def parse_manifest(content: bytes, path: Path | str) -> dict[str, Any]:
    """Parse a manifest of any kind and check its version.

    Raises:
        ArtifactError: the content is not a manifest, or has another version.
    """
    found = parse_json(content, path, way_out=_WAY_OUT)
    if not isinstance(found, dict) or not isinstance(found.get("clips"), list):
        raise _manifest_error(path, "it contains no list of clips")
    if found.get("version") != _VERSION:
        raise _manifest_error(path, f"its version is {found.get('version')!r}, but this program reads {_VERSION}")
    return found


def manifest_text(clips: list[dict[str, Any]]) -> str:
    """Return a manifest of clips with facts about each; the same clips give the same bytes."""
    return _to_text({"version": _VERSION, "clips": clips})


def parse_json(content: bytes, path: Path | str, *, way_out: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON.

    Args:
        content: Content of the file.
        path: Path of the file, for messages.
        way_out: Advice in the message for a damaged file.

    Raises:
        ArtifactError: the content is empty, truncated or not JSON.
    """
    if not content.strip():
        raise ArtifactError(f"{path}: is empty; {way_out}")
    try:
        return documents.parse_json(content)
    except ValueError as error:
        cause = error.__cause__ or error.__context__
        detail = f" ({cause})" if isinstance(cause, json.JSONDecodeError) else ""
        raise ArtifactError(f"{path}: {error}, or is truncated{detail}; {way_out}") from error


def read_json(path: Path, *, way_out: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file.

    Args:
        path: The file.
        way_out: Advice in the message for a missing or damaged file.

    Raises:
        ArtifactError: the file is missing, empty, truncated or of another kind.
    """
    try:
        content = read_bounded(path, max_bytes=MAX_JSON_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: {_cause(error)}; {way_out}") from error
    except DocumentError as error:
        raise ArtifactError(f"{error}; {way_out}") from error
    return parse_json(content, path, way_out=way_out)


def read_arrays(path: Path, *, way_out: str) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file, without executing anything in it.

    Args:
        path: The file.
        way_out: Advice in the message for a missing or damaged file.

    Raises:
        ArtifactError: the file is missing, empty, truncated or of another kind.
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
        raise ArtifactError(f"{path}: is not an npz file, or is truncated ({error}); {way_out}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears under its name only when complete; a file with equal content is not touched."""
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


def _manifest_error(path: Path | str, cause: str) -> ArtifactError:
    return ArtifactError(f"{path}: is not a usable manifest: {cause}; {_WAY_OUT}")


def _to_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _cause(error: OSError) -> str:
    return "the file does not exist" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
