"""Params of which a convention decides some: what the paper says, or what the released code does."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import pydantic
    import pydantic_core

__all__ = ["ByConvention", "Convention", "Conventional", "by_convention"]

Convention = Literal["corrected", "released"]
"""`corrected` does what the paper says, `released` what the released code does."""


@dataclass(frozen=True, slots=True)
class ByConvention:
    """A default that each convention has for itself."""

    corrected: Any
    released: Any
    beside: tuple[str, ...] = ()
    """Keys of a nested section that its parent has, so that the nested one may not name them."""

    def of(self, convention: Convention) -> Any:  # noqa: ANN401 - of the field's type
        """The default under a convention."""
        return self.released if convention == "released" else self.corrected

    def laid_under(self, given: object, convention: Convention, name: str) -> object:
        """What a file gives, completed from the convention where that is a section; its nulls name nothing.

        Raises:
            PydanticCustomError: a key is given that stands beside the section.
        """
        from pydantic_core import PydanticCustomError

        default = self.of(convention)
        if not isinstance(given, Mapping) or not dataclasses.is_dataclass(default):
            return given
        if twice := next((key for key in self.beside if key in given), None):
            raise PydanticCustomError("stands_beside", "{inner} names {key}", {"inner": name, "key": twice})
        own = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
        return own | {key: value for key, value in given.items() if value is not None}


def by_convention(corrected: object, released: object, *, beside: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - of the field's type
    """A field's default, decided by the field `convention` of its `Conventional` dataclass.

    Args:
        corrected: What it is under `corrected`.
        released: What it is under `released`.
        beside: Keys of a nested section that the dataclass itself has.
    """
    return ByConvention(corrected, released, beside)


class Conventional:
    """Mixin of a dataclass with a field `convention` that decides other fields' defaults, once and for good.

    Whoever builds one reads concrete values from it: `TrackParams(convention="released").motion_cost` is 0.0. In a
    file, a nested section such as `matching` replaces single values of the convention's, and null names no value.
    """

    __slots__ = ()

    convention: Convention

    def __post_init__(self) -> None:
        self._settle()

    def _settle(self) -> None:
        """Put the convention's values where none are given; the first thing that a `__post_init__` does."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # a dataclass mixes this in
            if isinstance(value := getattr(self, field.name), ByConvention):
                object.__setattr__(self, field.name, value.of(self.convention))

    @classmethod
    def _completed(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """What a file gives for this section, over what its convention says."""
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # as above
        convention: Any = given.get("convention", defaults["convention"]) if isinstance(given, Mapping) else None
        if convention not in get_args(Convention):
            return given
        completed = dict(given)
        for name, default in defaults.items():
            if name in given and isinstance(default, ByConvention):
                completed[name] = default.laid_under(given[name], convention, name)
                if completed[name] is None:
                    del completed[name]
        return completed

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type, handler: "pydantic.GetCoreSchemaHandler"
    ) -> "pydantic_core.CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(cls._completed, handler(source))
