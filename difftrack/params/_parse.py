"""Parse one section of a params file into the frozen dataclass of its room.

pydantic checks keys and types. Unknown keys, missing keys and wrong types raise `ParamsError` with the key, the value
and what is allowed. The dataclass itself checks ranges: a `ValueError` from its `__post_init__` is reported with the
name of the section.
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
"""Maximum number of characters of a value in a message."""


class ParamsError(ValueError):
    """A value in a params file cannot be used; the one-line message states what is allowed."""


def parse(kind: type[T], values: object, section: str, *, file: Path | str = PARAMS_FILE) -> T:
    """Build `kind` from a mapping read from YAML.

    Supported field types: bool, int, float, str, Path, Literal, tuples, mappings, optionals, unions and nested
    dataclasses. An int is accepted for a float, a list for a tuple, and a string for a path; nothing else is converted.

    Args:
        kind: A dataclass; fields without a default are required.
        values: The section's content; only a mapping is accepted.
        section: Dotted name of the section, for messages; empty for a whole file.
        file: The file that contains the values, for messages.

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type, or the dataclass refuses it.
    """
    parsed: T = _validated(kind, values, section, file)
    return parsed


def parse_each(kind: Any, values: object, section: str, *, file: Path | str = PARAMS_FILE) -> dict[str, Any]:  # noqa: ANN401
    """Build the values of a mapping whose keys the user chooses, such as `backbones`.

    Args:
        kind: Type of each value; any type that a field of a params dataclass may have.
        values: The section's content; only a mapping is accepted.
        section: Dotted name of the section, for messages.
        file: The file that contains the values, for messages.

    Raises:
        ParamsError: a key is not a string, or a value cannot be used.
    """
    parsed: dict[str, Any] = _validated(types.GenericAlias(dict, (str, kind)), values, section, file)
    return parsed


def type_adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401
    """Return pydantic's adapter for a tuple that contains one value of a type."""
    from pydantic import ConfigDict, TypeAdapter

    # pydantic accepts a config only for types other than dataclasses, so the dataclass is wrapped in a tuple.
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


def _with_strict_scalars(schema: Any) -> Any:  # noqa: ANN401 - a part of pydantic's core schema
    """Make numbers, booleans and strings strict in a core schema, and numbers finite; lists still become tuples.

    Strings also become paths. A strict adapter would refuse these two conversions, which YAML needs.
    """
    if isinstance(schema, list):
        return [_with_strict_scalars(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {"strict": True} if schema.get("type") in ("bool", "int", "float", "str") else {}
    strict |= {"allow_inf_nan": False} if schema.get("type") == "float" else {}  # nan passes every `x < 0`
    return {key: _with_strict_scalars(part) for key, part in schema.items()} | strict


_KEY_ERRORS = ("unexpected_keyword_argument", "invalid_key", "missing")


def _precedence(error: "ErrorDetails") -> tuple[int, int]:
    """Sort errors: a misspelt key before the missing key that it causes; in a union, the best-fitting type first."""
    is_key_error = _KEY_ERRORS.index(error["type"]) if error["type"] in _KEY_ERRORS else len(_KEY_ERRORS)
    return is_key_error, -len(error["loc"])


def _message(error: "ErrorDetails", kind: Any, values: object, section: str) -> str:  # noqa: ANN401
    at, is_key_error = error["loc"][1:], error["type"] in _KEY_ERRORS
    hint, value, name = _found(at[:-1] if is_key_error else at, kind, values, section)
    section_kind = next(filter(dataclasses.is_dataclass, options_of(hint)), None)
    if is_key_error and section_kind is not None:
        return _about_key(str(at[-1]), section_kind, name, missing=error["type"] == "missing")
    if error["type"] == "parent_key":
        inner, key = error["ctx"]["inner"], error["ctx"]["key"]
        return f"{_dotted(name, inner)} must not contain {key}; set {_dotted(name, key)} instead"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}".removeprefix(": ")
    if error["type"] == "finite_number":
        return f"{name} is {_shown(value)}; expected a finite number"
    if describe_type(hint) == "a mapping":
        return f"{name} is {_shown(value)}; expected a mapping"
    return f"{name} is {_shown(value)}; expected {describe_type(hint)}"


def _about_key(key: str, kind: Any, section: str, *, missing: bool) -> str:  # noqa: ANN401
    if missing:
        return f"{_dotted(section, key)} is missing; expected {describe_type(get_type_hints(kind)[key])}"
    known = sorted(field.name for field in dataclasses.fields(kind))
    near = "".join(f"; did you mean {other}?" for other in get_close_matches(key, known, n=1))
    what = "key" if section else "section"
    return f"unknown {what} {_dotted(section, key)}; known: {', '.join(known)}{near}"


def _found(at: tuple[int | str, ...], kind: Any, values: Any, section: str) -> tuple[Any, Any, str]:  # noqa: ANN401
    """Follow the location of an error into the file; return the type, the value and the dotted name there."""
    hint, value, name = kind, values, section
    steps = list(at)
    while steps:
        options = options_of(hint)
        if len(options) > 1:  # the next step is pydantic's name of an option
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
    """Return the only type in a union that fits a mapping or a list; None otherwise."""
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
    """Format a value for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."
