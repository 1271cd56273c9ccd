"""What every stage shares: read params.yaml and the paths on the command line, run, and turn errors into one line.

Usage, as written in dvc.yaml:

    python -m stages.NAME [key=value ...] [item.key=value ...] -- [key=path ...]

Paths before `--` are read, paths after it are written. `item.*` names one cell of a DVC matrix.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from difftrack.documents import read_yaml
from difftrack.locks import lock_of

__all__ = ["Paths", "run", "tell"]

Paths = Mapping[str, Path]
PARAMS_FILE = Path("params.yaml")
ITEM = "item."


def run(
    stage: str, main: Callable[[Mapping[str, Any], Paths, Paths], None], *, whole: bool = False, alone: bool = True
) -> None:
    """Call a stage's `main(params, deps, outs)` with what the command line names; exit 1 on an error, 2 on misuse.

    Args:
        stage: The stage's name, which is its section of params.yaml.
        main: Reads `deps` and writes `outs`. Expected errors are ValueError and OSError; they are printed as one line.
        whole: Give `main` all of params.yaml, with the matrix cell as its `item` section, instead of one section.
        alone: Let one process at a time write `outs`; the next waits. Otherwise that is the stage's own care.
    """
    before, separator, after = _split(sys.argv[1:])
    if not separator or not all("=" in word for word in [*before, *after]):
        sys.exit(f"{stage}: usage: python -m stages.{stage} [key=path ...] [item.key=value ...] -- [key=path ...]")
    named = dict(word.split("=", 1) for word in before)
    item = {key.removeprefix(ITEM): value for key, value in named.items() if key.startswith(ITEM)}
    deps = {key: Path(value) for key, value in named.items() if not key.startswith(ITEM)}
    outs = {key: Path(value) for key, value in (word.split("=", 1) for word in after)}
    try:
        params = read_params(PARAMS_FILE)
        if not whole and stage not in params:
            raise ValueError(f"{PARAMS_FILE} has no section {stage}")
        with ExitStack() as held:
            for out in sorted(outs.values()) if alone else ():
                held.enter_context(lock_of(out).acquire(wait_s=math.inf, say=partial(tell, stage)))
            main({**params, "item": item} if whole else params[stage], deps, outs)
    except (ValueError, OSError) as error:
        if os.environ.get("DIFFTRACK_TRACEBACK"):
            raise
        sys.exit(f"{stage}: {error}")


def tell(stage: str, line: str) -> None:
    """Say something beside the progress."""
    print(f"{stage}: {line}", file=sys.stderr, flush=True)


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        ValueError: it is not YAML, not a mapping of sections, or too large.
    """
    params = read_yaml(path)
    if not isinstance(params, dict):
        raise ValueError(f"{path} holds {type(params).__name__}; a mapping of sections is wanted")
    return params


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]
