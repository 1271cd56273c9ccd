"""Named backbones, and their names in the released code."""

from collections.abc import Mapping
from pathlib import Path

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._registry import FAMILIES, KNOWN, RegistryView
from difftrack.resources import shipped

__all__ = ["ALIASES", "CHECKPOINTS", "SHIPPED", "canonical_name", "shipped_backbone"]

SHIPPED = "cogvideox-mini"
"""Name of the backbone whose weights come with the package; it needs no download."""

CHECKPOINTS: Mapping[str, str] = RegistryView(lambda: {name: known.repository for name, known in KNOWN.items()})
"""Published checkpoints; counts of layers, heads and channels are read from their configs, never from here."""

ALIASES: Mapping[str, str] = RegistryView(
    lambda: {alias: name for name, known in KNOWN.items() for alias in known.aliases}
)
"""Names in the released code."""


def shipped_backbone() -> Path:
    """Return the pipeline folder of the backbone that comes with the package."""
    return shipped(f"data/backbones/{SHIPPED}")


def canonical_name(name: str) -> str:
    """Return this project's name for a backbone.

    Raises:
        BackboneError: the name is unknown.
    """
    known = ALIASES.get(name, name)
    if known not in CHECKPOINTS:
        problems = "".join(f"; {line}" for line in FAMILIES.problems())
        raise BackboneError(
            f"unknown backbone {name!r}; known: {SHIPPED} (comes with the package), {', '.join(sorted(CHECKPOINTS))}, "
            f"or path:DIR for a local pipeline folder{problems}"
        )
    return known
