"""What every stage shares: read params.yaml and the paths on the command line, run, and turn errors into one line.

Usage, as written in dvc.yaml:

    python -m stages.NAME [key=value ...] [item.key=value ...] -- [key=path ...]

Paths before `--` are read, paths after it are written. `item.*` names one cell of a DVC matrix.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Paths", "end", "run", "tell"]

Paths = Mapping[str, Path]
PARAMS_FILE = Path("params.yaml")
ITEM = "item."


def run(stage: str, main: Callable[[Mapping[str, Any], Paths, Paths], None], *, whole: bool = False) -> None:
    """Call a stage's `main(params, deps, outs)` with what the command line names; exit 1 on an error, 2 on misuse.

    Args:
        stage: The stage's name, which is its section of params.yaml.
        main: Reads `deps` and writes `outs`. Expected errors are ValueError and OSError; they are printed as one line.
        whole: Give `main` all of params.yaml, with the matrix cell as its `item` section, instead of one section.
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
        main({**params, "item": item} if whole else params[stage], deps, outs)
    except (ValueError, OSError) as error:
        if os.environ.get("DIFFTRACK_TRACEBACK"):
            raise
        sys.exit(f"{stage}: {error}")


def tell(remarks: Iterable[str]) -> None:
    """Say on stderr what a person should know of a run that goes on."""
    for remark in remarks:
        print(remark, file=sys.stderr)


def end(stage: str, failures: Mapping[str, str], *, total: int, of: str = "") -> None:
    """End a stage that has done all that it could: by naming the clips that failed, with exit status 1, if any did.

    Args:
        stage: Its name.
        failures: By clip, why.
        total: Clips that there had to be.
        of: The stage that makes what may be missing or damaged.
    """
    if failures:
        listed = "\n".join(f"  {name}: {cause}" for name, cause in sorted(failures.items()))
        way_out = f" (what is missing or damaged: run the {of} stage again)" if of else ""
        sys.exit(f"{stage}: {len(failures)} of {total} clips failed{way_out}\n{listed}")


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file.

    Raises:
        ValueError: it is not YAML, or not a mapping of sections.
    """
    try:
        params = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(params, dict):
        raise ValueError(f"{path} holds {type(params).__name__}; a mapping of sections is wanted")
    return params


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]
