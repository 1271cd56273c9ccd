"""The manifest of a store: the clips and groups that it must contain."""

import re

from difftrack.artifacts import MANIFEST, ArtifactError, Manifest
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, StorePath, open_files
from difftrack.store._group_metadata import join

__all__ = ["read_manifest", "write_manifest"]

_CHUNK = re.compile(r"chunk_\d+")


def write_manifest(root: StorePath, manifest: Manifest) -> None:
    """Write the manifest of a store; call this before writing the groups, some of which may fail."""
    files, content = open_files(root), manifest.to_text().encode()
    if files.read([MANIFEST]).get(MANIFEST) != content:
        files.write(MANIFEST, content)


def read_manifest(root: StorePath) -> Manifest:
    """Read the manifest of a store.

    Without a manifest, every folder counts as a clip, and every folder in it that is named like a chunk counts as a
    chunk, with or without a header.

    Raises:
        StoreError: the manifest is damaged, or its URL cannot be reached.
    """
    files = open_files(root)
    content = files.read([MANIFEST]).get(MANIFEST)
    if content is None:
        clips = [name for name in files.directories("") if not name.startswith(".")]
        return Manifest({clip: _groups(files, clip) for clip in clips}, assumed=True)
    try:
        return Manifest.from_bytes(content, files.path(MANIFEST))
    except ArtifactError as error:
        raise StoreError(str(error)) from error


def _groups(files: Files, clip: str) -> tuple[str, ...]:
    chunks = [name for name in files.directories(clip) if _CHUNK.fullmatch(name)]
    return tuple(join(clip, chunk) for chunk in chunks) or (clip,)
