"""Every key of params.yaml: what it may hold, what it is where nobody names it, and what it means."""

import dataclasses
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_type_hints

import yaml

from difftrack.configuration._configuration import Configuration
from difftrack.configuration._meanings import meanings, sections_in
from difftrack.params import ByConvention, ParamsError, describe_type

__all__ = ["Entry", "describe", "entries", "page"]

_HEAD: Final = """# Every key of params.yaml

What each key may hold, what it is where params.yaml does not name it (in parentheses under the released convention,
where that differs), and what it means. Where the conventions differ, null is the same as not naming the key. On the
command line: `difftrack params track`, `difftrack params extract.analysis.steps`; `difftrack params --schema` prints
all of it as JSON Schema. By the first line of params.yaml, editors with a YAML language server complete and explain it.
`difftrack repro` refuses unknown keys, wrong types and values out of range before the first stage runs. The keys of
`backbones` are names of your own, or those that `difftrack models` lists.

This page is written by `python -m difftrack.configuration > docs/params.md`.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key."""

    key: str
    """Dotted, from the section on."""
    wanted: str
    default: str
    """As YAML; empty where the key has to be given. Where the conventions differ, the released one's in parentheses."""
    meaning: str


def entries(
    section: str, kind: type, completed_by: ByConvention | None = None, *, beside: Collection[str] = ()
) -> Iterator[Entry]:
    """Keys of a section, those of sections inside it in their place.

    Args:
        section: Its dotted name.
        kind: The dataclass that is parsed from it.
        completed_by: What each convention puts where the section does not name a key; the dataclass's defaults else.
        beside: Keys that stand beside the section instead.
    """
    hints, known = get_type_hints(kind), meanings(kind)
    for field in dataclasses.fields(kind):
        if field.name in beside:
            continue
        key, hint, default = f"{section}.{field.name}", hints[field.name], _default(field, completed_by)
        inner = next(sections_in(hint), None)
        if inner is None or inner is not hint:
            yield Entry(key, describe_type(hint), _text(default), known.get(field.name, ""))
        if inner is not None:
            decided = default if isinstance(default, ByConvention) else None
            yield from entries(key, inner, decided, beside=decided.beside if decided else ())


def page() -> str:
    """All sections as Markdown."""
    parts = [_HEAD]
    for section, kind in _sections().items():
        parts.append(f"## {section}\n\n| key | wanted | default | meaning |\n| --- | --- | --- | --- |\n")
        parts[-1] += "".join(
            f"| `{entry.key.removeprefix(section + '.')}` | {_cell(entry.wanted)} | {_code(entry.default)} "
            f"| {_cell(entry.meaning)} |\n"
            for entry in entries(section, kind)
        )
    return "\n".join(parts)


def describe(name: str) -> str:
    """Say of a section, of a part of it, or of one key what it may hold, its default and its meaning.

    Args:
        name: Such as `track` or `track.heads`; all keys where it is empty.

    Raises:
        ParamsError: no key is called so.
    """
    sections = _sections()
    asked = {section: kind for section, kind in sections.items() if f"{name}.".startswith(f"{section}.")}
    known = [entry for section, kind in (asked or sections).items() for entry in entries(section, kind)]
    found = [entry for entry in known if not name or f"{entry.key}.".startswith(f"{name}.")]
    if not found:
        keys = [entry.key for entry in known]
        near = [key for key in keys if key.rpartition(".")[2] == name.rpartition(".")[2]]
        near = near or get_close_matches(name, [*keys, *sections], n=3)
        instead = f"there is {', '.join(near)}" if near else f"sections: {', '.join(sections)}"
        raise ParamsError(f"params.yaml has no key {name}; {instead}")
    lines = []
    for entry in found:
        default = f"default: {entry.default}" if entry.default else "must be given"
        lines.append(f"{entry.key}  [{entry.wanted}; {default}]")
        lines += textwrap.wrap(entry.meaning, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _sections() -> dict[str, type]:
    """By the dotted name of each; where the keys are names of the user's own, NAME stands for one."""
    hints = get_type_hints(Configuration)
    return {
        name if describe_type(hint) != "a mapping" or dataclasses.is_dataclass(hint) else f"{name}.NAME": kind
        for name, hint in hints.items()
        for kind in sections_in(hint)
    }


def _default(field: Field[Any], completed_by: ByConvention | None) -> Any:  # noqa: ANN401 - of the field's type
    if completed_by is not None:
        corrected, released = (getattr(each, field.name) for each in (completed_by.corrected, completed_by.released))
        return corrected if corrected == released else ByConvention(corrected, released)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _text(default: Any) -> str:  # noqa: ANN401 - of the field's type
    if default is MISSING:
        return ""
    if isinstance(default, ByConvention):
        return f"{_text(default.corrected)} ({_text(default.released)})"
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        default = dataclasses.asdict(default)
    text: str = yaml.safe_dump(_plain(default), default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Only what YAML knows."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else "must be given"
