"""The params file as YAML has it."""

from pathlib import Path
from typing import Any

import yaml

__all__ = ["PARAMS_FILE", "read_params"]

PARAMS_FILE = Path("params.yaml")
"""What the pipeline reads; named where a caller names no other file."""


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        ValueError: it is not YAML, or not a mapping of sections.
    """
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(params, dict):
        raise ValueError(f"{path} holds {type(params).__name__}; a mapping of sections is wanted")
    return params
