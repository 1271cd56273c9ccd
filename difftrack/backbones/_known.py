"""What the named backbones are made of, gathered from the families."""

from collections.abc import Mapping

from difftrack.backbones._family import KnownBackbone
from difftrack.backbones._registry import View, families

__all__ = ["KNOWN", "KnownBackbone"]

KNOWN: Mapping[str, KnownBackbone] = View(
    lambda: {name: known for family in families().values() for name, known in family.checkpoints.items()}
)
"""Checkpoints by the names of `CHECKPOINTS`; a view of the families that are registered."""
