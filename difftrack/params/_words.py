"""Describe the type of a field in words."""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

__all__ = ["describe_type", "options_of"]

_NAMES: Mapping[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path",
    type(None): "null",
}


def describe_type(hint: Any) -> str:  # noqa: ANN401
    """Describe the values of a type, for messages: `a list of an integer`, `all | stored`."""
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
    return _NAMES.get(hint, str(hint))


def options_of(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """List the types in a union, without null."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(option for option in options if option is not type(None))
