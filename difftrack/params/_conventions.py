"""Params whose defaults depend on a convention: the paper or the released code."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import pydantic
    import pydantic_core

__all__ = ["ByConvention", "Convention", "Conventional", "by_convention"]

Convention = Literal["corrected", "released"]
"""`corrected` follows the paper, `released` follows the released code."""


@dataclass(frozen=True, slots=True)
class ByConvention:
    """A default with one value for each convention."""

    corrected: Any
    released: Any
    beside: tuple[str, ...] = ()
    """Keys of a nested section that are set in its parent and must not be set in the nested section."""

    def of(self, convention: Convention) -> Any:  # noqa: ANN401 - the type of the field
        """Return the default of a convention."""
        return self.released if convention == "released" else self.corrected

    def laid_under(self, given: object, convention: Convention, name: str) -> object:
        """Complete a section of a file with the convention's values, also for nulls; keep other values unchanged.

        Raises:
            PydanticCustomError: the section sets a key that belongs to its parent.
        """
        from pydantic_core import PydanticCustomError

        default = self.of(convention)
        if not isinstance(given, Mapping) or not dataclasses.is_dataclass(default):
            return given
        if twice := next((key for key in self.beside if key in given), None):
            raise PydanticCustomError("parent_key", "{inner} sets {key}", {"inner": name, "key": twice})
        own = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
        return own | {key: value for key, value in given.items() if value is not None}


def by_convention(corrected: object, released: object, *, beside: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - the type of the field
    """Declare a field's default that depends on the field `convention` of its `Conventional` dataclass.

    Args:
        corrected: Default with `corrected`.
        released: Default with `released`.
        beside: Keys of a nested section that are fields of the dataclass itself.
    """
    return ByConvention(corrected, released, beside)


class Conventional:
    """Mixin for a dataclass whose field `convention` determines the defaults of other fields.

    Instances contain concrete values: `TrackParams(convention="released").motion_cost` is 0.0. In a file, a nested
    section such as `matching` replaces single values of the convention, and null keeps the convention's value.
    """

    __slots__ = ()

    convention: Convention

    def __post_init__(self) -> None:
        self._settle()

    def _settle(self) -> None:
        """Replace unset fields by the convention's values. Call this first in `__post_init__`."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # a dataclass mixes this in
            if isinstance(value := getattr(self, field.name), ByConvention):
                object.__setattr__(self, field.name, value.of(self.convention))

    @classmethod
    def _completed(cls, given: Any) -> Any:  # noqa: ANN401 - any value in a file
        """Complete this section of a file with the convention's values."""
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
