"""Names that become words of a shell, names of stages and names of folders: which of them can."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from difftrack.params import ParamsError

__all__ = ["check_names"]

_UNQUOTABLE = re.compile(r"['\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""A quote ends the quotes that dvc.yaml puts around a name; a line break ends the line."""
_NOT_IN_A_STAGE = re.compile(r"[@/\\]")
"""A backbone's name is part of a stage's name, in which DVC reads an `@`, and the name of one folder."""


def check_names(params: Mapping[str, object], *, file: Path | str) -> None:
    """Refuse names of folders, files and backbones that dvc.yaml cannot hand on as they are.

    Blanks, parentheses, `;`, `$` and the like are fine: dvc.yaml quotes.

    Args:
        params: All sections, as YAML has them; what is no text is left to its section.
        file: What messages call them.

    Raises:
        ParamsError: names the key, its value and the character.
    """
    for key, name in _words(params):
        if found := _UNQUOTABLE.search(name):
            raise ParamsError(f"{file}: {key} is {name!r}, which holds {found[0]!r}; choose a name without")
    for key, name in _backbones(params):
        if found := _NOT_IN_A_STAGE.search(name):
            raise ParamsError(
                f"{file}: {key} is {name!r}, which holds {found[0]!r}; a backbone's name is one of a stage and of a "
                "folder: choose one without, and say `path:` or `checkpoint:` below it"
            )
        if name.strip(". ") != name or not name:
            raise ParamsError(f"{file}: {key} is {name!r}; a folder's name neither begins nor ends so")


def _words(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Every text that a command in dvc.yaml names, by its key."""
    paths, guide = params.get("paths"), params.get("guide")
    if isinstance(paths, Mapping):
        yield from ((f"paths.{key}", path) for key, path in paths.items() if isinstance(path, str))
    if isinstance(guide, Mapping) and isinstance(guide.get("prompts"), str):
        yield "guide.prompts", guide["prompts"]
    yield from _backbones(params)


def _backbones(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    backbones, guide, survey = (params.get(section) for section in ("backbones", "guide", "survey"))
    if isinstance(backbones, Mapping):
        yield from (("a key of backbones", name) for name in backbones if isinstance(name, str))
    if isinstance(guide, Mapping) and isinstance(guide.get("backbone"), str):
        yield "guide.backbone", guide["backbone"]
    named = survey.get("backbones") if isinstance(survey, Mapping) else None
    if isinstance(named, list):
        yield from ((f"survey.backbones[{place}]", name) for place, name in enumerate(named) if isinstance(name, str))
