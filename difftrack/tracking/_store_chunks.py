"""Reads chunks of descriptors from a store's tracking view."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from difftrack.correspondence import Descriptors, MatchKind, descriptors_of
from difftrack.store import DescriptorSpec, Store, StoreError, clip_group
from difftrack.tracking._chunks import ChunkDescriptors, Sources
from difftrack.tracking._params import TrackParams

__all__ = ["select_sources", "stored_chunks", "stored_clips"]


def stored_clips(store: Store) -> list[str]:
    """List the clips that a tracking view should hold, in the order of its manifest."""
    return [clip for clip, groups in store.manifest().groups.items() if clip not in groups]


def stored_chunks(
    store: Store, clip: str, *, kind: MatchKind = "query_key", device: torch.device | str = "cpu"
) -> tuple[list[ChunkDescriptors], DescriptorSpec]:
    """Open the chunks of one clip; values are read when they are matched.

    Args:
        store: A tracking view.
        clip: Name of the clip.
        kind: Kind of matching.
        device: Device of the descriptors.

    Returns:
        The chunks in the order of their schedule, and the spec of the first.

    Raises:
        StoreError: the clip is unknown, one of its chunks is incomplete or damaged, or they differ in weights or
            params.
    """
    groups = [group for group in store.manifest().groups.get(clip, ()) if group != clip]
    if not groups:
        raise StoreError(f"no chunk of clip {clip} is stored; there are {', '.join(stored_clips(store)) or 'no clips'}")
    specs = [store.spec(clip_group(clip, number)) for number in range(len(groups))]
    for number, spec in enumerate(specs):
        if (spec.units, spec.heads, spec.size) != (specs[0].units, specs[0].heads, specs[0].size):
            raise StoreError(f"{clip_group(clip, number)} holds other steps, layers, heads or sizes than chunk 0")
        if _made_of(spec) != _made_of(specs[0]):
            raise StoreError(
                f"{clip_group(clip, number)} comes from another clip, other weights or other params than chunk 0; "
                "extract the clip again"
            )
    chunks = [_stored_chunk(store, clip, number, spec, kind, device) for number, spec in enumerate(specs)]
    return chunks, specs[0]


def select_sources(spec: DescriptorSpec, params: TrackParams, *, best_layers: Sequence[int] | None = None) -> Sources:
    """Choose the (step, layer) pairs to fuse.

    Args:
        spec: Spec of the stored descriptors.
        params: `layers` and `steps` matter here; heads are checked.
        best_layers: Layers by their scores, best first; needed for `layers: best`, which takes the first stored one.

    Raises:
        ValueError: a selected step, layer or head is not stored, or no ranking of layers is known.
    """
    steps = spec.steps if params.steps == "stored" else params.steps
    layers = spec.layers if params.layers == "stored" else params.layers
    if layers == "best":
        layers = tuple(layer for layer in best_layers or () if layer in spec.layers)[:1]
        if not layers:
            raise ValueError(
                f"layers is best, but none of the stored {list(spec.layers)} is ranked; list layers instead"
            )
    for name, wanted, stored in (("steps", steps, spec.steps), ("layers", layers, spec.layers)):
        if missing := sorted(set(wanted) - set(stored)):
            raise ValueError(f"{name} {missing} are not stored; there are {list(stored)}")
    if params.kind != "feature" and params.head_weights is None:
        for layer in layers:
            params.heads_of(layer, spec.heads)
    return [(step, layer) for step in steps for layer in layers]


def _made_of(spec: DescriptorSpec) -> dict[str, Any]:
    """Return what chunks of one clip share: everything in the spec but their frames."""
    return {name: part for name, part in spec.fingerprint_parts.items() if name != "frames"}


def _stored_chunk(
    store: Store, clip: str, number: int, spec: DescriptorSpec, kind: MatchKind, device: torch.device | str
) -> ChunkDescriptors:
    def values(step: int, layer: int, entry: str) -> Tensor:
        array = store.sel(clip=clip, chunk=number, step=step, layer=layer, kind=entry)
        return torch.from_numpy(array).to(device)

    def read(step: int, layer: int) -> Descriptors:
        source, target = descriptors_of(kind)
        first = values(step, layer, source)
        return first, first if target == source else values(step, layer, target)

    return ChunkDescriptors(frames=spec.frames, read=read, heads=spec.heads, rotary=spec.rotary)
