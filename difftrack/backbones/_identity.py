"""Identifies the weights of a backbone from files alone, without importing a model library."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from difftrack.backbones._file_digests import file_digest
from difftrack.backbones._names import ALIASES, CHECKPOINTS, SHIPPED, shipped_backbone
from difftrack.backbones._registry import KNOWN

__all__ = ["missing_weights", "weights_identity"]

_COUNTED: Final = (".json", ".safetensors", ".model", ".txt")
"""Suffixes of the files in a pipeline folder that affect its results."""


def weights_identity(name: str, values: Mapping[str, Any] | None) -> dict[str, str]:
    """Identify the weights of a backbone in params.yaml, so that changed weights are noticed.

    Args:
        name: Its name in the section `backbones`.
        values: Its entry there.

    Returns:
        `folder` with a digest of a local pipeline's files; or `checkpoint` and `revision`, which is the commit if the
        download cache has it, else the value in params.yaml.
    """
    values = values or {}
    path = values.get("path") or (name.removeprefix("path:") if name.startswith("path:") else None)
    if path is None and name == SHIPPED and not values.get("checkpoint"):
        path = shipped_backbone()
    if path is not None:
        return {"folder": _folder_digest(Path(path))}
    checkpoint = str(values.get("checkpoint") or CHECKPOINTS.get(ALIASES.get(name, name), name))
    published = next((known.revision for known in KNOWN.values() if known.repository == checkpoint), None)
    return {"checkpoint": checkpoint, "revision": _revision(checkpoint, values.get("revision") or published)}


def missing_weights(name: str, values: Mapping[str, Any] | None) -> str | None:
    """Describe the missing weights of a backbone in params.yaml; None if they are on this machine.

    Args:
        name: Its name in the section `backbones`.
        values: Its entry there.
    """
    values = values or {}
    path = values.get("path") or (name.removeprefix("path:") if name.startswith("path:") else None)
    if path is not None:
        there = (Path(path) / "model_index.json").is_file()
        return None if there else f"backbones.{name}.path is {path}, which holds no model_index.json"
    if name == SHIPPED and not values.get("checkpoint"):
        return None
    from huggingface_hub import try_to_load_from_cache

    checkpoint = str(values.get("checkpoint") or CHECKPOINTS.get(ALIASES.get(name, name), name))
    revision = values.get("revision")
    if isinstance(try_to_load_from_cache(checkpoint, "model_index.json", revision=revision), str):
        return None
    return (
        f"the weights of {name} ({checkpoint}) are not on this machine; they are downloaded on first use, or with `hf "
        f"download {checkpoint}`"
    )


def _folder_digest(folder: Path) -> str:
    """Digest the files of a pipeline folder; empty if there is none."""
    digest, files = hashlib.sha256(), list(_files(folder))
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file_digest(file)}\n".encode())
    return digest.hexdigest() if files else ""


def _files(folder: Path) -> Iterator[Path]:
    """Give the model index and the files of the components that it names, in order."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    yield folder / "model_index.json"
    for name in sorted(name for name, entry in index.items() if isinstance(entry, list)):
        yield from sorted(file for file in (folder / name).rglob("*") if file.suffix in _COUNTED)


def _revision(checkpoint: str, revision: str | None) -> str:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(checkpoint, "model_index.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision or "not downloaded"
