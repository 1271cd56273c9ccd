"""Captures chunks of descriptors directly from a backbone, with the values that a store would return."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from difftrack.correspondence import Descriptors, descriptors_of, matching_device
from difftrack.extraction import CapturedUnit, ClipExtraction
from difftrack.store import DescriptorSpec, StoreParams
from difftrack.store.torch_writer import as_read
from difftrack.tracking import ChunkDescriptors, TrackParams, select_sources

__all__ = ["captured_chunks"]


def captured_chunks(
    extraction: ClipExtraction, params: TrackParams, stored: StoreParams, *, best_layers: Sequence[int] | None = None
) -> tuple[list[ChunkDescriptors], DescriptorSpec]:
    """Run a backbone over a clip's chunks of frames, and hold the descriptors for tracking in memory.

    The values are rounded to the store's type, so that tracks are bit-identical to those from a store.

    Args:
        extraction: The prepared clip, in the tracking view.
        params: Steps, layers, kind of matching, and its device.
        stored: How a store would be written.
        best_layers: Layers by their scores, best first; needed for `layers: best`.

    Returns:
        The chunks in the order of their schedule, and the spec of the first.

    Raises:
        ValueError: a requested step, layer, head or kind is not captured.
    """
    spec = next(iter(extraction.groups.values()))
    kinds = descriptors_of(params.kind)
    if missing := [kind for kind in dict.fromkeys(kinds) if kind not in spec.kinds]:
        raise ValueError(
            f"track.kind is {params.kind}, but {', '.join(missing)} is not in extract.tracking.descriptors"
        )
    sources = select_sources(spec, params, best_layers=best_layers)
    device = matching_device(params.device)
    return [_captured(extraction, group, kinds, sources, stored, device) for group in extraction.groups], spec


def _captured(
    extraction: ClipExtraction,
    group: str,
    kinds: Sequence[str],
    sources: Sequence[tuple[int, int]],
    stored: StoreParams,
    device: str,
) -> ChunkDescriptors:
    """Run one chunk of frames; its descriptors stay in host memory, because a clip may have many chunks."""
    held: dict[tuple[int, int], Mapping[str, Tensor]] = {}

    def keep(unit: CapturedUnit) -> None:
        held[unit.step, unit.layer] = {kind: as_read(unit.tensors[kind], stored).cpu() for kind in set(kinds)}

    def read(step: int, layer: int) -> Descriptors:
        tensors = [held[step, layer][kind].to(torch.device(device)) for kind in dict.fromkeys(kinds)]
        return tensors[0], tensors[-1]

    extraction.run(extraction.plan(group).only(sources), keep)
    spec = extraction.groups[group]
    return ChunkDescriptors(frames=spec.frames, read=read, heads=spec.heads, rotary=spec.rotary)
