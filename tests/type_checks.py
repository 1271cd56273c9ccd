"""Lets jaxtyping's import hook check types once a call, and shapes only where there are any.

The hook decorates every function of the library. As it comes, each call binds its arguments and checks them before and
after, also where no annotation has a shape: half of the CPU seconds of the tests. Here beartype alone checks a function
without shapes, and beartype within jaxtyping's scope of axis sizes checks one with shapes. The same types and the same
shapes are checked; jaxtyping calls this order of the two its older one.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Replace the decorator of the import hook; modules that are imported already keep theirs."""
    jaxtyping.jaxtyped = checked


def checked(item: Any = None, *, typechecker: object = None) -> Any:
    """Decorate a function, a method or a dataclass; other classes stay as they are.

    Args:
        item: Function, `classmethod`, `staticmethod`, `property` or class; without it a decorator is returned.
        typechecker: What the hook was told, which is always beartype.
    """
    if item is None:
        return lambda item: checked(item, typechecker=typechecker)
    if inspect.isclass(item):
        if dataclasses.is_dataclass(item) and "__init__" in vars(item):
            item.__init__ = checked(item.__init__)  # type: ignore[misc]
        return item
    if isinstance(item, classmethod | staticmethod):
        return type(item)(checked(item.__func__))
    if isinstance(item, property):
        return property(*(part and checked(part) for part in (item.fget, item.fset, item.fdel)))
    return _checked_function(item)


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    annotations = {name: _evaluated(hint, function) for name, hint in function.__annotations__.items()}
    if not annotations:
        return function
    function.__annotations__ = annotations
    once = beartype(function)
    if any(map(_has_shape, annotations.values())):
        return typing.cast(Callable[..., Any], _jaxtyped(once, typechecker=None))
    return once


def _evaluated(hint: object, function: Callable[..., Any]) -> object:
    """Return a hint with its strings evaluated, or `Any` where they name what only type checkers import."""

    def carrier(value: object) -> None:
        del value

    carrier.__annotations__["value"] = hint
    try:
        return typing.get_type_hints(carrier, function.__globals__, include_extras=True)["value"]
    except Exception:
        return Any


def _has_shape(hint: object) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    inner = hint if isinstance(hint, list | tuple) else (getattr(hint, "__value__", None), *typing.get_args(hint))
    return any(_has_shape(part) for part in inner if part is not None)
