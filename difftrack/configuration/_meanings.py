"""Read the descriptions of fields from a params dataclass, and find sections completed by a convention."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_type_hints

from difftrack.params import ByConvention, Conventional

__all__ = ["completed_sections", "meanings", "sections_in", "summary"]


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """Return the description of each field, from this class or a base class, or from the section's own summary."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            found |= _field_docstrings(each)
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = next(sections_in(hints[field.name]), None)
        if field.name not in found and inner is not None:
            found[field.name] = summary(inner)
    return {name: " ".join(meaning.split()) for name, meaning in found.items()}


def summary(kind: type) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def sections_in(hint: Any) -> Iterator[type]:  # noqa: ANN401
    """Yield the dataclasses in a type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for part in getattr(hint, "__args__", ()):
        yield from sections_in(part)


def completed_sections(kind: type) -> Iterator[tuple[type, ByConvention]]:
    """Yield the nested sections, at any depth, that a convention completes, with their defaults."""
    for field, hint in zip(dataclasses.fields(kind), get_type_hints(kind).values(), strict=True):
        for inner in sections_in(hint):
            if issubclass(kind, Conventional) and isinstance(field.default, ByConvention):
                yield inner, field.default
            yield from completed_sections(inner)


def _field_docstrings(kind: type) -> dict[str, str]:
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found, name = dict[str, str](), ""
    for line in written.body if isinstance(written, ast.ClassDef) else ():
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name = line.target.id
        elif name and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            found[name], name = str(line.value.value), ""
    return found
