"""Propagates masks, boxes or keypoints through a clip, along descriptors from a store or a running backbone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from rich.progress import Progress
from torch import Tensor

from difftrack.backbones import Backbone
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.correspondence import Descriptors, MatchKind, descriptors_of, matching_device
from difftrack.datasets import Clip, check_query_points
from difftrack.extraction import CapturedUnit, ClipExtraction, Extractor, TrackingParams
from difftrack.geometry import px_to_token, rescale_points, token_to_px
from difftrack.propagation import (
    DescriptorChunk,
    PropagationParams,
    box_labels,
    boxes_of_labels,
    keypoint_labels,
    keypoints_of_labels,
    mask_labels,
    masks_of_labels,
    propagate_labels,
)
from difftrack.store import DescriptorSpec, Store
from difftrack.tracking import ChunkDescriptors, stored_chunks

__all__ = ["LabelsGiven", "PropagatedLabels", "label_chunks", "propagate_stored", "propagate_video"]

LabelKind = Literal["mask", "boxes", "points"]


@dataclass(frozen=True, slots=True, eq=False)
class LabelsGiven:
    """Labels of one frame: a mask, boxes, or points, in pixels of the clip.

    Raises:
        ValueError: none of the three is given, or more than one.
    """

    mask: UInt8[np.ndarray, "row col"] | None = None
    boxes_xyxy_px: Float[np.ndarray, "object 4"] | None = None
    points_xy_px: Float[np.ndarray, "point xy"] | None = None
    frame: int = 0
    sigma_token: float | None = None
    """Width of the Gaussian around a point, in tokens; None uses bilinear weights of the tokens around it."""

    def __post_init__(self) -> None:
        given = [name for name in ("mask", "boxes_xyxy_px", "points_xy_px") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"given are {', '.join(given) or 'no labels'}; expected one of a mask, boxes, or points")

    @property
    def kind(self) -> LabelKind:
        """Kind of the given labels."""
        return "mask" if self.mask is not None else "boxes" if self.boxes_xyxy_px is not None else "points"


@dataclass(frozen=True, slots=True, eq=False)
class PropagatedLabels:
    """Labels of every frame: soft labels over the tokens, and values in pixels of the clip."""

    kind: LabelKind
    soft: Float32[np.ndarray, "frame class token_row token_col"]
    """Soft labels over the token grid; for a mask, class 0 is the background, and the classes of a token sum to 1."""
    objects: tuple[int, ...]
    """The mask's number of each class after the background; for boxes and points, 0 ... n - 1."""
    masks: UInt8[np.ndarray, "frame row col"] | None = None
    boxes_xyxy_px: Float32[np.ndarray, "frame object 4"] | None = None
    """(left, top, right, bottom); NaN where an object is absent."""
    points_xy_px: Float32[np.ndarray, "frame point xy"] | None = None


def label_chunks(backbone: Backbone, params: PropagationParams, *, chunk_len: int | None = None) -> ChunkParams:
    """Choose how a clip is cut into chunks.

    Args:
        backbone: Its own number of token frames is the default length.
        params: If targets attend only to the anchor, a chunk's frames are spread over the clip, as in tracking. With
            `num_context` they are consecutive, and chunks overlap by half to pass labels on.
        chunk_len: Frames per chunk, including the anchor.
    """
    length = chunk_len or backbone.native_token_frames
    if not params.num_context:
        return ChunkParams(chunk_len=length)
    return ChunkParams(chunk_len=length, interleaved=False, chunk_stride=max(1, length // 2))


def propagate_stored(store: Store, clip: str, given: LabelsGiven, params: PropagationParams) -> PropagatedLabels:
    """Propagate labels through all stored frames of a clip.

    Args:
        store: A tracking view; one of its anchors is the labelled frame.
        clip: Name of the clip.
        given: Labels of one frame.
        params: How labels are propagated.

    Raises:
        StoreError: the clip is unknown, or one of its chunks is incomplete or damaged.
        ValueError: the labels do not fit the clip, no chunk begins at their frame, or a step, layer or head is not
            stored.
    """
    device = matching_device(params.device)
    chunks, spec = stored_chunks(store, clip, kind=params.kind, device=device)
    sources = params.sources(spec.steps, spec.layers)
    readers = [DescriptorChunk(chunk.frames, partial(_read, chunk, sources, params)) for chunk in chunks]
    return _propagate(readers, spec, given, params)


def propagate_video(
    clip: Clip,
    given: LabelsGiven,
    backbone: Backbone,
    view: TrackingParams,
    params: PropagationParams,
    *,
    progress: bool = False,
) -> PropagatedLabels:
    """Run a backbone over the clip's chunks of frames, one at a time, and propagate labels along their descriptors.

    Args:
        clip: The video.
        given: Labels of one frame.
        backbone: Backbone to run.
        view: Size and chunks of frames; `params.kind` determines the `descriptors`, and the labelled frame is the only
            anchor.
        params: How labels are propagated; determines the captured layers.
        progress: Show a progress bar.

    Raises:
        ValueError: the labels do not fit the clip, or a requested layer, step or head is not captured.
    """
    chosen = replace(view.chunks, anchors=(given.frame,))
    view = replace(view, descriptors=tuple(dict.fromkeys(descriptors_of(params.kind))), chunks=chosen)  # type: ignore[arg-type]
    schedule = chunk_schedule(clip.num_frames, chosen, native_len=backbone.native_token_frames)
    extraction = Extractor(backbone, view).prepare(clip, chunks=schedule)
    spec = next(iter(extraction.groups.values()))
    sources = params.sources(spec.steps, spec.layers)
    device = matching_device(params.device)

    def run(group: str) -> list[Descriptors]:
        chunk = _captured(extraction, group, sources, device, kind=params.kind)
        return _read(chunk, sources, params)

    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("propagate", total=len(extraction.groups))
        chunks = [DescriptorChunk(own.frames, partial(run, group)) for group, own in extraction.groups.items()]
        return _propagate(_counted(chunks, lambda: bar.advance(task)), spec, given, params)


def _counted(chunks: Sequence[DescriptorChunk], advance: Callable[[], None]) -> Iterator[DescriptorChunk]:
    for chunk in chunks:
        yield chunk
        advance()


def _propagate(
    chunks: Iterable[DescriptorChunk], spec: DescriptorSpec, given: LabelsGiven, params: PropagationParams
) -> PropagatedLabels:
    first, objects, radius = _as_labels(given, spec)
    found = propagate_labels(chunks, {given.frame: first}, params)
    num_frames = 1 + max(found)
    if missing := sorted(set(range(num_frames)) - set(found)):
        raise ValueError(
            f"no chunk that begins at frame {given.frame} holds frames {missing[:10]}; extract the clip again"
        )
    frames = [found[frame].cpu() for frame in range(num_frames)]
    soft = np.stack([labels.numpy() for labels in frames])
    height, width = spec.clip_size
    result = PropagatedLabels(given.kind, soft, objects)
    if given.mask is not None:
        masks = [masks_of_labels(labels, objects, height=height, width=width) for labels in frames]
        masks[given.frame] = given.mask
        return replace(result, masks=np.stack(masks))
    if given.boxes_xyxy_px is not None:
        boxes = [boxes_of_labels(labels, height=height, width=width) for labels in frames]
        boxes[given.frame] = given.boxes_xyxy_px.astype(np.float32)
        return replace(result, boxes_xyxy_px=np.stack(boxes))
    assert given.points_xy_px is not None
    read = np.stack([keypoints_of_labels(labels, radius_token=radius) for labels in frames])
    points = rescale_points(
        token_to_px(read, stride_px=spec.grid.stride_px), from_size=spec.size, to_size=spec.clip_size
    ).astype(np.float32)
    points[given.frame] = given.points_xy_px
    return replace(result, points_xy_px=points)


def _as_labels(given: LabelsGiven, spec: DescriptorSpec) -> tuple[Tensor, tuple[int, ...], int]:
    """Convert given labels to labels of tokens, the objects' numbers, and the radius for reading points."""
    (height, width), grid = spec.clip_size, spec.grid
    if given.mask is not None:
        if given.mask.shape != (height, width):
            raise ValueError(
                f"the mask is {given.mask.shape[1]}x{given.mask.shape[0]} px, but the clip {width}x{height}; use the "
                "same size"
            )
        of_mask = mask_labels(given.mask, rows=grid.rows, cols=grid.cols)
        return of_mask.labels, of_mask.objects, 0
    if given.boxes_xyxy_px is not None:
        boxes = box_labels(given.boxes_xyxy_px, height=height, width=width, rows=grid.rows, cols=grid.cols)
        return boxes, tuple(range(len(boxes))), 0
    assert given.points_xy_px is not None
    points = np.asarray(given.points_xy_px, dtype=np.float32)
    queries = np.insert(points, 0, given.frame, axis=1).astype(np.float32)
    check_query_points(queries, num_frames=given.frame + 1, height=height, width=width)
    seen = rescale_points(points, from_size=spec.clip_size, to_size=spec.size)
    maps = keypoint_labels(
        px_to_token(seen, stride_px=grid.stride_px), rows=grid.rows, cols=grid.cols, sigma_token=given.sigma_token
    )
    return maps.labels, tuple(range(len(points))), maps.radius_token


def _read(chunk: ChunkDescriptors, sources: Sequence[tuple[int, int]], params: PropagationParams) -> list[Descriptors]:
    """Read the (step, layer) of a chunk, for the selected heads."""
    pairs = []
    for step, layer in sources:
        query, key = chunk.read(step, layer)
        places = params.places_of_heads(layer, range(len(query)) if chunk.heads is None else chunk.heads)
        whole = places == list(range(len(query)))
        pairs.append((query, key) if whole else (query[places], key[places]))
    return pairs


def _captured(
    extraction: ClipExtraction, group: str, sources: Sequence[tuple[int, int]], device: str, *, kind: MatchKind
) -> ChunkDescriptors:
    """Run one chunk of frames and hold the requested descriptors on the matching device."""
    held: dict[tuple[int, int], Descriptors] = {}
    entries = dict.fromkeys(descriptors_of(kind))

    def keep(unit: CapturedUnit) -> None:
        pair = [unit.tensors[entry].to(device, copy=True) for entry in entries]
        held[unit.step, unit.layer] = (pair[0], pair[-1])

    extraction.run(extraction.plan(group).only(sources), keep)
    spec = extraction.groups[group]
    return ChunkDescriptors(frames=spec.frames, read=lambda step, layer: held[step, layer], heads=spec.heads)
