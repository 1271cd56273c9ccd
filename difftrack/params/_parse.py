"""Parse one section of a params file into the frozen dataclass that its room owns.

pydantic checks keys and types; unknown, missing and mistyped ones raise `ParamsError` with the key, the value and what
is allowed. Range checks are the dataclass's own: a `ValueError` from its `__post_init__` is reported with the section's
name.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from difftrack.params._files import PARAMS_FILE
from difftrack.params._words import describe_type, options_of

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails, SchemaValidator

__all__ = ["ParamsError", "parse", "parse_each", "type_adapter"]

T = TypeVar("T")

_MOST_SHOWN = 200
"""Characters of a value that a message shows."""


class ParamsError(ValueError):
    """A value of a params file cannot be used; the message is one line and says what would be."""


def parse(kind: type[T], values: object, section: str, *, file: Path | str = PARAMS_FILE) -> T:
    """Build `kind` from a mapping read from YAML.

    Supported field types: bool, int, float, str, Path, Literal, tuples, mappings, optionals, unions and nested
    dataclasses. An int is accepted where a float is wanted, a list where a tuple, a string where a path; nothing else
    is converted.

    Args:
        kind: A dataclass; fields without default must be given.
        values: The section's content; anything but a mapping is refused.
        section: Dotted name of the section, for messages; empty for a whole file.
        file: Where the values were read from, for messages.

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type, or the dataclass refuses it.
    """
    parsed: T = _validated(kind, values, section, file)
    return parsed


def parse_each(kind: Any, values: object, section: str, *, file: Path | str = PARAMS_FILE) -> dict[str, Any]:  # noqa: ANN401
    """Build the values of a mapping whose keys are the user's own, such as `backbones`.

    Args:
        kind: Type of each value, such as a field of a params dataclass may have.
        values: The section's content; anything but a mapping is refused.
        section: Its dotted name, for messages.
        file: Where the values were read from, for messages.

    Raises:
        ParamsError: a key is no string, or a value cannot be used.
    """
    parsed: dict[str, Any] = _validated(types.GenericAlias(dict, (str, kind)), values, section, file)
    return parsed


def type_adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401
    """What pydantic makes of a params dataclass, in a list of one."""
    from pydantic import ConfigDict, TypeAdapter

    # A config belongs to an adapter of anything but a dataclass, which inherits it.
    alone: Any = types.GenericAlias(tuple, (kind,))
    return TypeAdapter(alone, config=ConfigDict(extra="forbid"))


def _validated(kind: Any, values: object, section: str, file: Path | str) -> Any:  # noqa: ANN401
    from pydantic_core import ValidationError

    try:
        return _validator(kind).validate_python((values,))[0]
    except ValidationError as error:
        found = min(error.errors(include_url=False), key=_precedence)
        raise ParamsError(f"{file}: {_message(found, kind, values, section)}") from error


@cache
def _validator(kind: Any) -> "SchemaValidator":  # noqa: ANN401
    from pydantic_core import SchemaValidator

    return SchemaValidator(_with_strict_scalars(type_adapter(kind).core_schema))


def _with_strict_scalars(schema: Any) -> Any:  # noqa: ANN401 - a part of pydantic's description of a type
    """Convert lists to tuples and strings to paths, as YAML demands, and no number, bool or string to another.

    Strictness of a whole adapter would refuse the former too.
    """
    if isinstance(schema, list):
        return [_with_strict_scalars(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {"strict": True} if schema.get("type") in ("bool", "int", "float", "str") else {}
    return {key: _with_strict_scalars(part) for key, part in schema.items()} | strict


_OF_KEYS = ("unexpected_keyword_argument", "invalid_key", "missing")


def _precedence(error: "ErrorDetails") -> tuple[int, int]:
    """A key that is misspelt explains one that is missing; of a union, the type that fits best is spoken of."""
    of_keys = _OF_KEYS.index(error["type"]) if error["type"] in _OF_KEYS else len(_OF_KEYS)
    return of_keys, -len(error["loc"])


def _message(error: "ErrorDetails", kind: Any, values: object, section: str) -> str:  # noqa: ANN401
    at, of_keys = error["loc"][1:], error["type"] in _OF_KEYS
    hint, value, name = _found(at[:-1] if of_keys else at, kind, values, section)
    section_kind = next(filter(dataclasses.is_dataclass, options_of(hint)), None)
    if of_keys and section_kind is not None:
        return _about_key(str(at[-1]), section_kind, name, missing=error["type"] == "missing")
    if error["type"] == "stands_beside":
        inner, key = error["ctx"]["inner"], error["ctx"]["key"]
        return f"{_dotted(name, inner)} names {key}, which stands beside it: set {_dotted(name, key)}"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}".removeprefix(": ")
    if describe_type(hint) == "a mapping":
        return f"{name} is {_shown(value)}; a mapping is wanted"
    return f"{name} is {_shown(value)}; wanted: {describe_type(hint)}"


def _about_key(key: str, kind: Any, section: str, *, missing: bool) -> str:  # noqa: ANN401
    if missing:
        return f"{_dotted(section, key)} is missing; wanted: {describe_type(get_type_hints(kind)[key])}"
    known = sorted(field.name for field in dataclasses.fields(kind))
    near = "".join(f"; did you mean {other}?" for other in get_close_matches(key, known, n=1))
    what = "key" if section else "section"
    return f"unknown {what} {_dotted(section, key)}; known: {', '.join(known)}{near}"


def _found(at: tuple[int | str, ...], kind: Any, values: Any, section: str) -> tuple[Any, Any, str]:  # noqa: ANN401
    """Follow the location of an error as far as it names what a file can hold: type and value there, and its name."""
    hint, value, name = kind, values, section
    steps = list(at)
    while steps:
        options = options_of(hint)
        if len(options) > 1:  # the next step names an option, in pydantic's words
            chosen = _option_like(value, options)
            if chosen is None or len(steps) == 1:
                break
            hint, steps = chosen, steps[1:]
            continue
        (inner,), step = options, steps.pop(0)
        if dataclasses.is_dataclass(inner):
            hint, value, name = get_type_hints(inner)[str(step)], _item(value, step), _dotted(name, str(step))
        elif get_origin(inner) is tuple and isinstance(step, int):
            hints = get_args(inner)
            hint = hints[0] if hints[1:] == (Ellipsis,) else hints[step]
            value, name = value[step], f"{name}[{step}]"
        elif get_origin(inner) in (dict, Mapping) and steps[:1] == ["[key]"]:
            return get_args(inner)[0], step, f"a key of {name}"
        elif get_origin(inner) in (dict, Mapping):
            hint, value, name = get_args(inner)[1], _item(value, step), _dotted(name, str(step))
        else:
            break
    return hint, value, name


def _option_like(value: object, options: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """The one of a union's types that can hold what a value of several parts can be meant for."""
    if isinstance(value, Mapping):
        fitting = [each for each in options if describe_type(each) == "a mapping"]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        fitting = [each for each in options if get_origin(each) is tuple]
    else:
        fitting = []
    return fitting[0] if len(fitting) == 1 else None


def _item(value: Any, key: int | str) -> Any:  # noqa: ANN401
    return value.get(key) if isinstance(value, Mapping) else None


def _dotted(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _shown(value: object) -> str:
    """A value as messages show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
