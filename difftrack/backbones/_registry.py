"""The registered families, and lookups in them: checkpoints, transformer classes, classes by name."""

import importlib
import importlib.util
from collections.abc import Callable, ItemsView, Iterator, Mapping
from typing import Any, TypeVar

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._family import BackboneFamily, KnownBackbone
from difftrack.plugins import PluginError, Registry, one_line

__all__ = [
    "FAMILIES",
    "KNOWN",
    "RegistryView",
    "class_in",
    "families",
    "family_of",
    "find_class",
    "is_pipeline_module",
    "libraries",
    "register_backbone",
]

V = TypeVar("V")

_HERE = "difftrack.backbones.families"
_STOCK = ("diffusers", "transformers")


def _checked(name: str, entry: Any) -> BackboneFamily:  # noqa: ANN401
    if not isinstance(entry, BackboneFamily):
        raise TypeError(f"it is a {type(entry).__name__}; expected a difftrack.backbones.BackboneFamily")
    if entry.name != name:
        raise ValueError(f"the family calls itself {entry.name!r}; both names must agree")
    return entry


FAMILIES: Registry[BackboneFamily] = Registry(
    "difftrack.backbones",
    noun="backbone family",
    built_in={
        name: f"{_HERE}.{name}:FAMILY"
        for name in (
            "cogvideox",
            "hunyuan",
            "hunyuan15",
            "wan",
            "ltx",
            "mochi",
            "allegro",
            "skyreels",
            "cosmos",
            "kandinsky5",
            "ltx2",
            "easyanimate",
            "anyflow",
            "chronoedit",
            "motif",
            "kandinsky6",
            "consisid",
            "vace",
            "framepack",
            "helios",
        )
    },
    check=_checked,
)
"""Families in the order of the tables."""


def register_backbone(family: BackboneFamily, *, replace: bool = False) -> None:
    """Register a family of backbones for this process; an entry point of `difftrack.backbones` is permanent.

    Args:
        family: The family; its class may be defined in a notebook.
        replace: Whether to replace a registered family of the same name.

    Raises:
        PluginError: its name, a checkpoint of it or a transformer class is another family's already.
    """
    if not isinstance(family, BackboneFamily):
        raise PluginError(f"{family!r} cannot be registered; expected a difftrack.backbones.BackboneFamily")
    others = {name: other for name, other in families().items() if not (replace and name == family.name)}
    if family.name not in others and (clash := _clash(family, others)):
        raise PluginError(f"backbone family {family.name!r}: {clash}; take another name")
    FAMILIES.register(family.name, family, replace=replace)


def families() -> dict[str, BackboneFamily]:
    """Return all families by name, without those that clash with an earlier one; warn once of each clash."""
    global _compared
    items = FAMILIES.items()
    before, found = _compared
    if before.keys() != items.keys() or any(before[name] is not family for name, family in items.items()):
        found = _without_clashes(items)
        _compared = (items, found)
    return dict(found)


_compared: tuple[dict[str, BackboneFamily], dict[str, BackboneFamily]] = ({}, {})
"""The entries that `families` compared last, and its result for them."""


def _without_clashes(items: Mapping[str, BackboneFamily]) -> dict[str, BackboneFamily]:
    found: dict[str, BackboneFamily] = {}
    for name, family in items.items():
        clash = _clash(family, found)
        if clash is None:
            found[name] = family
        else:
            FAMILIES.leave_out(name, f"{clash} (it is from {FAMILIES.giver(name)})")
    return found


def _clash(family: BackboneFamily, others: Mapping[str, BackboneFamily]) -> str | None:
    """Describe a checkpoint or class that a family wrongly shares with another; None if there is none."""
    for other in others.values():
        for noun, own, taken in (
            ("transformer class", family.transformers, other.transformers),
            ("backbone", _names(family), _names(other)),
        ):
            if shared := [name for name in own if name in taken]:
                return f"the {noun} {shared[0]!r} is that of {other.name!r} from {FAMILIES.giver(other.name)}"
    return None


def _names(family: BackboneFamily) -> list[str]:
    return [*family.checkpoints, *(alias for known in family.checkpoints.values() for alias in known.aliases)]


def family_of(transformer_class: str) -> BackboneFamily | None:
    """Return the family that supports a transformer class, or None."""
    return next((family for family in families().values() if transformer_class in family.transformers), None)


def libraries() -> tuple[str, ...]:
    """Return the modules whose classes a pipeline folder may name."""
    own = (family.library for family in families().values() if family.library is not None)
    return tuple(dict.fromkeys((*_STOCK, *own)))


def is_pipeline_module(library: str) -> bool:
    """Return whether an entry of a model_index.json names a pipeline folder of diffusers, which has its own classes."""
    return library.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{library}") is not None


def _module_of(library: str) -> str:
    return f"diffusers.pipelines.{library}" if library not in libraries() and is_pipeline_module(library) else library


def class_in(library: str, name: str) -> Any:  # noqa: ANN401
    """Return a class of a library by its name, or None.

    Raises:
        BackboneError: a family's own library cannot be imported.
    """
    try:
        return getattr(importlib.import_module(_module_of(library)), name, None)
    except Exception as error:
        if library in _STOCK:
            raise
        raise BackboneError(f"the library {library} of a family cannot be imported ({one_line(error)})") from error


def find_class(name: str) -> Any:  # noqa: ANN401
    """Find a class by its name alone, in diffusers, transformers, or a family's own library.

    A library that cannot be imported causes an error only if no other one has the class.

    Raises:
        BackboneError: none of them has it.
    """
    problems = ""
    for library in libraries():
        try:
            if (found := class_in(library, name)) is not None:
                return found
        except BackboneError as error:
            problems += f"; {error}"
    raise BackboneError(f"none of {', '.join(libraries())} has a class {name}{problems}")


class RegistryView(Mapping[str, V]):
    """A mapping that always reflects the registered families.

    Args:
        read: Returns the current mapping.
    """

    def __init__(self, read: Callable[[], Mapping[str, V]]) -> None:
        self._read = read

    def __getitem__(self, key: str) -> V:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def items(self) -> ItemsView[str, V]:
        """Read once; the mixin would query the families again for each key."""
        return self._read().items()

    def __repr__(self) -> str:
        return repr(dict(self._read()))


KNOWN: Mapping[str, KnownBackbone] = RegistryView(
    lambda: {name: known for family in families().values() for name, known in family.checkpoints.items()}
)
"""Checkpoints by the names of `CHECKPOINTS`; a view of the registered families."""
