"""Every key of params.yaml: what it may hold, what it is where nobody names it, and what it means.

python -m stages._reference          the page docs/params.md
python -m stages._reference KEY      what a section or key is, such as track.heads; all of them where KEY is empty
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args, get_type_hints

import yaml

from difftrack.backbones import ModelParams
from difftrack.correspondence import Convention, MatchingParams, MatchSection
from difftrack.metrics import ScoringParams
from difftrack.params import describe_type
from stages._check import SECTIONS
from stages.score import ScoreSection
from stages.track import TrackSection

__all__ = ["Entry", "entries", "page"]

_OWN_KEYS: Final[Mapping[str, type]] = MappingProxyType({"backbones.NAME": ModelParams})
_HEAD: Final = """# Every key of params.yaml

What each key may hold, what it is where params.yaml does not name it (in parentheses under the released convention,
where that differs), and what it means. On the command line:
`difftrack params track`, `difftrack params extract.analysis.steps`. `difftrack repro` refuses unknown keys, wrong types
and values out of range before the first stage runs. `paths` says where each stage writes; the keys of `backbones` are
names of your own, or those that `difftrack models` lists.

This page is written by `python -m stages._reference > docs/params.md`.
"""


_BY_CONVENTION: Final[Mapping[str, Callable[[Convention], MatchingParams | ScoringParams]]] = MappingProxyType({
    "match.matching": lambda convention: MatchSection(convention=convention).params,
    "score.scoring": lambda convention: ScoreSection(convention=convention).params,
    "track.matching": lambda convention: TrackSection(convention=convention).matching_params,
})  # fmt: skip
"""Mappings whose keys replace single values of a convention, and where those values come from."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key."""

    key: str
    """Dotted, from the section on."""
    wanted: str
    default: str
    """As YAML; empty where the key has to be given. Where the conventions differ, the released one's in parentheses."""
    meaning: str


def entries(section: str, kind: type) -> Iterator[Entry]:
    """Keys of a section, those of sections inside it in their place.

    Args:
        section: Its dotted name.
        kind: The dataclass that is parsed from it.
    """
    hints, meanings = get_type_hints(kind), _meanings(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{section}.{field.name}", hints[field.name]
        inner = next((each for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)), None)
        meaning = meanings.get(field.name) or (inspect.getdoc(inner) or "").split("\n\n")[0]
        if inner is None or inner is not hint:
            yield Entry(key, describe_type(hint), _default(field), " ".join(meaning.split()))
        if isinstance(inner, type):
            yield from entries(key, inner)
        if key in _BY_CONVENTION:
            yield from _overrides(key, kind)


def _overrides(section: str, kind: type) -> Iterator[Entry]:
    corrected, released = map(_BY_CONVENTION[section], get_args(Convention))
    beside = {field.name for field in dataclasses.fields(kind)}
    for entry in entries(section, type(corrected)):
        name = entry.key.rpartition(".")[2]
        if name not in beside:
            own, other = (_yaml(getattr(params, name)) for params in (corrected, released))
            yield dataclasses.replace(entry, default=own if own == other else f"{own} ({other})")


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


def _sections() -> dict[str, type]:
    return {**_OWN_KEYS, **SECTIONS}


def _chosen(name: str) -> list[Entry]:
    """Entries of a section, of a part of it, or one key.

    Raises:
        ValueError: no key is called so.
    """
    known = [entry for section, kind in _sections().items() for entry in entries(section, kind)]
    found = [entry for entry in known if not name or f"{entry.key}.".startswith(f"{name}.")]
    if not found:
        near = sorted({entry.key for entry in known if entry.key.rpartition(".")[2] == name.rpartition(".")[2]})
        instead = f"; there is {', '.join(near)}" if near else f"; sections: {', '.join(_sections())}"
        raise ValueError(f"params.yaml has no key {name}{instead}")
    return found


def _meanings(kind: type) -> dict[str, str]:
    """What stands under each field in its class and the classes that it inherits from."""
    meanings: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        (written,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(written, ast.ClassDef)
        name = ""
        for line in written.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                name = line.target.id
            elif name and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
                meanings[name], name = str(line.value.value), ""
    return meanings


def _default(field: Field[Any]) -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return _yaml(value)


def _yaml(value: Any) -> str:  # noqa: ANN401
    plain: str = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000)
    return plain.removesuffix("\n").removesuffix("\n...")


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


def main() -> None:
    """Print what the command line asks for."""
    if not sys.argv[1:]:
        print(page(), end="")
        return
    try:
        chosen = _chosen(sys.argv[1])
    except ValueError as error:
        sys.exit(f"difftrack: {error}")
    for entry in chosen:
        default = f"default: {entry.default}" if entry.default else "must be given"
        print(f"{entry.key}  [{entry.wanted}; {default}]")
        print(textwrap.fill(entry.meaning, 100, initial_indent="    ", subsequent_indent="    "))


if __name__ == "__main__":
    main()
