"""The params file as YAML has it."""

from pathlib import Path
from typing import Any

from difftrack.documents import read_yaml

__all__ = ["PARAMS_FILE", "read_params"]

PARAMS_FILE = Path("params.yaml")
"""What the pipeline reads; named where a caller names no other file."""


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        ValueError: it is not YAML, not a mapping of sections, or too large.
    """
    params = read_yaml(path)
    if not isinstance(params, dict):
        raise ValueError(f"{path} holds {type(params).__name__}; a mapping of sections is wanted")
    return params
