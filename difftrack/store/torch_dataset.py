"""Descriptors as a torch dataset. Import this module by name; no other module imports it, because it needs torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from difftrack.store._errors import StoreError
from difftrack.store._filesystem import StorePath
from difftrack.store._reader import Store, open_store

__all__ = ["DescriptorDataset"]


class DescriptorDataset(Dataset[dict[str, Any]]):
    """All units of a store; an item is one (group, step, layer).

    An item is a dict with `group`, `step`, `layer` and, for each kind, a tensor [head, latent_frame, row, col,
    channel]. Files are opened when items are read, so any number of forked or spawned DataLoader workers may share the
    dataset. Use `batch_size=None`, because clips differ in shape.

    Raises:
        StoreError: the store does not contain a requested group, step or layer.
    """

    def __init__(
        self,
        path: StorePath,
        *,
        kinds: Sequence[str] = ("query", "key"),
        groups: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Select the units to read.

        Args:
            path: The store.
            kinds: Kinds of descriptor in an item.
            groups: Names of groups; None reads all.
            steps: Labels of steps; None reads all.
            layers: Labels of layers; None reads all.
        """
        self._store: Store = open_store(path)
        self._kinds = tuple(kinds)
        self._units: list[tuple[str, int, int]] = []
        for group in self._store.groups() if groups is None else groups:
            spec = self._store.spec(group)
            for requested, available, axis in ((steps, spec.steps, "step"), (layers, spec.layers, "layer")):
                absent = sorted(set(requested or ()) - set(available))
                if absent:
                    raise StoreError(
                        f"group {group!r} has no {axis} {absent[0]}; there are {', '.join(map(str, available))}"
                    )
            self._units += [
                (group, step, layer)
                for step, layer in spec.units
                if (steps is None or step in steps) and (layers is None or layer in layers)
            ]

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: int) -> dict[str, Any]:
        group, step, layer = self._units[index]
        tensors = {
            kind: torch.from_numpy(self._store.sel(clip=group, step=step, layer=layer, kind=kind))
            for kind in self._kinds
        }
        return {"group": group, "step": step, "layer": layer, **tensors}
