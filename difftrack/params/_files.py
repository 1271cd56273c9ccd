"""Read the params file."""

from pathlib import Path
from typing import Any

from difftrack.documents import read_yaml

__all__ = ["PARAMS_FILE", "read_params"]

PARAMS_FILE = Path("params.yaml")
"""The pipeline's params file, and the default name in messages."""


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        ValueError: the file is not YAML, not a mapping of sections, or too large.
    """
    params = read_yaml(path)
    if not isinstance(params, dict):
        raise ValueError(f"{path} contains {type(params).__name__}; expected a mapping of sections")
    return params
