"""Parse one section of a params file into the frozen dataclass that its room owns.

Unknown, missing and mistyped keys raise `ParamsError` with the key, the value and what is allowed. Range checks are the
dataclass's own: a `ValueError` from its `__post_init__` is reported with the section's name.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["ParamsError", "describe_type", "parse", "parse_each"]

T = TypeVar("T")

MAX_SHOWN = 200
"""Characters of a value that a message shows."""

PARAMS_FILE = "params.yaml"
"""What the pipeline reads; named where a caller names no other file."""


class ParamsError(ValueError):
    """A value of a params file cannot be used; the message is one line and says what would be."""


def parse(kind: type[T], values: object, section: str, *, file: Path | str = PARAMS_FILE) -> T:
    """Build `kind` from a mapping read from YAML.

    Supported field types: bool, int, float, str, Path, Literal, tuples, mappings, optionals, unions and nested
    dataclasses. An int is accepted where a float is wanted; nothing else is converted.

    Args:
        kind: A dataclass; fields without default must be given.
        values: The section's content; anything but a mapping is refused.
        section: Dotted name of the section, for messages.
        file: Where the values were read from, for messages.

    Raises:
        ParamsError: a key is unknown or missing, a value has the wrong type, or the dataclass refuses it.
    """
    with _named(file):
        return _parse(kind, values, section)


def parse_each(kind: Any, values: object, section: str, *, file: Path | str = PARAMS_FILE) -> dict[str, Any]:  # noqa: ANN401
    """Build the values of a mapping whose keys are the user's own, such as `paths` and `backbones`.

    Args:
        kind: Type of each value, such as a field of a params dataclass may have.
        values: The section's content; anything but a mapping is refused.
        section: Its dotted name, for messages.
        file: Where the values were read from, for messages.

    Raises:
        ParamsError: a key is no string, or a value cannot be used.
    """
    with _named(file):
        parsed: dict[str, Any] = _convert(types.GenericAlias(dict, (str, kind)), values, section)
        return parsed


@contextmanager
def _named(file: Path | str) -> Iterator[None]:
    """Put the file's name before what is wrong, once: a dataclass may have parsed a part of itself."""
    try:
        yield
    except ParamsError as error:
        raise ParamsError(f"{file}: {str(error).removeprefix(f'{PARAMS_FILE}: ')}") from error


def _parse(kind: type[T], values: object, section: str) -> T:
    if not isinstance(values, Mapping):
        raise ParamsError(f"{section} is {_shown(values)}; a mapping is wanted")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in values:
        if key not in fields:
            raise ParamsError(f"unknown key {section}.{key}; known: {', '.join(sorted(fields))}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ParamsError(f"{section}.{name} is missing; wanted: {describe_type(hints[name])}")
    parsed = {key: _convert(hints[key], value, f"{section}.{key}") for key, value in values.items()}
    try:
        return kind(**parsed)
    except ParamsError:
        raise
    except ValueError as error:
        raise ParamsError(f"{section}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401, C901 - one branch per kind of type
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _parse(typing.cast(type[Any], hint), value, name)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, name)
    if origin is Literal:
        if any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint)):
            return value
    elif hint is type(None):
        if value is None:
            return None
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif hint in (bool, str):
        if isinstance(value, hint):
            return value
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return _convert_tuple(hint, value, name)
    elif origin in (dict, Mapping):
        if isinstance(value, Mapping):
            key_hint, value_hint = get_args(hint)
            return {_convert(key_hint, k, name): _convert(value_hint, v, f"{name}.{k}") for k, v in value.items()}
    else:
        raise TypeError(f"{name}: params dataclasses cannot hold {hint!r}")
    raise ParamsError(f"{name} is {_shown(value)}; wanted: {describe_type(hint)}")


def _convert_union(hint: Any, value: Any, name: str) -> Any:  # noqa: ANN401
    for option in get_args(hint):
        try:
            return _convert(option, value, name)
        except ParamsError as error:
            if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
                raise ParamsError(str(error)) from error
    raise ParamsError(f"{name} is {_shown(value)}; wanted: {describe_type(hint)}")


def _convert_tuple(hint: Any, value: Sequence[Any], name: str) -> tuple[Any, ...]:  # noqa: ANN401
    hints = get_args(hint)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise ParamsError(f"{name} is {_shown(list(value))}; wanted: {describe_type(hint)}")
    return tuple(_convert(h, v, f"{name}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _shown(value: object) -> str:
    """A value as messages show it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def describe_type(hint: Any) -> str:  # noqa: ANN401
    """Say what a field of this type may hold, in the words of messages: `a list of an integer`, `all | stored`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(option) for option in args)
    if origin is Literal:
        return " | ".join(repr(option) if not isinstance(option, str) else option for option in args)
    if origin is tuple:
        inner = args[:1] if args[-1:] == (Ellipsis,) else args
        return f"a list of {', '.join(describe_type(option) for option in inner)}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "a mapping"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a path"}
    return names.get(hint, "null" if hint is type(None) else str(hint))
