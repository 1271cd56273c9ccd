"""Check names that are used in shell commands, as names of stages and as names of folders."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from difftrack.params import ParamsError

__all__ = ["check_names"]

_UNQUOTABLE = re.compile(r"['\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that end the quotes around a name in dvc.yaml, or its line."""
_NOT_IN_A_STAGE = re.compile(r"[@/\\]")
"""Characters not allowed in a backbone's name, which is a folder's name and part of a stage's name (DVC uses `@`)."""


def check_names(params: Mapping[str, object], *, file: Path | str) -> None:
    """Check that names of folders, files and backbones can be used in dvc.yaml.

    Spaces, parentheses, `;`, `$` and similar characters are allowed, because dvc.yaml quotes names.

    Args:
        params: All sections, as read from YAML; values that are not strings are checked by their section.
        file: Name of the file in messages.

    Raises:
        ParamsError: a name is invalid; the message names the key, its value and the character.
    """
    for key, name in _words(params):
        if found := _UNQUOTABLE.search(name):
            raise ParamsError(f"{file}: {key} is {name!r}, which contains {found[0]!r}; choose a name without it")
    for key, name in _backbones(params):
        if found := _NOT_IN_A_STAGE.search(name):
            raise ParamsError(
                f"{file}: {key} is {name!r}, which contains {found[0]!r}; a backbone's name is used for stages and "
                "folders: choose a name without it, and set `path:` or `checkpoint:` for the backbone"
            )
        if name.strip(". ") != name or not name:
            raise ParamsError(f"{file}: {key} is {name!r}; a folder's name must not begin or end with a dot or space")


def _words(params: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield every string used in a command of dvc.yaml, with its key."""
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
