"""Matches one point from a store in all frames."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from difftrack.correspondence import CORRECTED, MatchingParams, match_points, points_to_tokens, tokens_to_points
from difftrack.datasets import Clip
from difftrack.geometry import rescale_points
from difftrack.reports._examples import ExampleView, match_strips, stored_example
from difftrack.store import Store, StoreError, clip_group

__all__ = ["PointMatch", "draw_query", "query_point"]


@dataclass(frozen=True, slots=True)
class PointMatch:
    """Match of a point in one frame."""

    frame: int
    """Video frame that the latent frame describes."""
    x_px: float
    """Pixels of the clip's own frames, like `y_px`."""
    y_px: float
    probability: float
    """Match probability of the best token; 1 in the point's own frame."""
    margin: float
    """Best less second-best probability."""


def query_point(
    store: Store,
    *,
    clip: str,
    step: int,
    layer: int,
    point_xy_px: tuple[float, float],
    frame: int | None = None,
    chunk: int | None = None,
    matching: MatchingParams = CORRECTED,
) -> list[PointMatch]:
    """Match one point of a clip's first stored frame in all others, by stored query and key.

    Args:
        store: Descriptors of one backbone.
        clip: Name of the clip.
        step: Denoising step.
        layer: Layer.
        point_xy_px: (x, y) in pixels of the clip's own frames.
        frame: Only this video frame; None for all stored ones.
        chunk: The chunk, in a tracking view.
        matching: How to match.

    Raises:
        StoreError: the store lacks one of these, or the frame.
        ValueError: the point lies outside the clip.
    """
    spec = store.spec(clip_group(clip, chunk))
    height, width = spec.clip_size
    x, y = point_xy_px
    if not (0 <= x <= width and 0 <= y <= height):
        raise ValueError(f"point ({x:g}, {y:g}) lies outside clip {clip} of {width}x{height} px")
    if frame is not None and frame not in spec.frames:
        raise StoreError(f"no stored latent frame describes frame {frame} of {clip}; there are {list(spec.frames)}")
    query, key = (
        torch.from_numpy(store.sel(clip=clip, step=step, layer=layer, kind=kind, chunk=chunk)).float()
        for kind in ("query", "key")
    )
    seen = rescale_points(np.asarray([point_xy_px], np.float32), from_size=spec.clip_size, to_size=spec.size)
    tokens = points_to_tokens(torch.from_numpy(seen), stride_px=float(spec.grid.stride_px), params=matching)
    matches = match_points(query, key, tokens, params=matching)
    found = tokens_to_points(
        matches.points_xy_token[:, 0], stride_px=float(spec.grid.stride_px), params=matching
    ).numpy()
    found = rescale_points(found, from_size=spec.size, to_size=spec.clip_size)
    scores = zip(matches.probability[:, 0].tolist(), matches.margin[:, 0].tolist(), strict=True)
    return [
        PointMatch(shown, float(match_x), float(match_y), probability, margin)
        for shown, (match_x, match_y), (probability, margin) in zip(spec.frames, found, scores, strict=True)
        if frame in (None, shown)
    ]


def draw_query(
    store: Store,
    clip: Clip,
    *,
    step: int,
    layer: int,
    point_xy_px: tuple[float, float],
    frame: int | None = None,
    chunk: int | None = None,
    matching: MatchingParams = CORRECTED,
) -> UInt8[np.ndarray, "row col rgb"]:
    """Draw the result of `query_point`: the point, then its match probability over each later frame.

    Args:
        store: Descriptors of one backbone.
        clip: The clip's frames.
        step: Denoising step.
        layer: Layer.
        point_xy_px: (x, y) in pixels of the clip.
        frame: Only this video frame; None for all stored ones.
        chunk: The chunk, in a tracking view.
        matching: How to match.

    Raises:
        ValueError: the point lies outside the clip, or `frame` is its own.
    """
    example = stored_example(store, clip, np.asarray([point_xy_px], dtype=np.float32), chunk=chunk)
    targets = [index for index, shown in enumerate(example.frames) if index and frame in (None, shown)]
    if not targets:
        raise ValueError(f"frame {frame} is the point's own; choose another frame to match in")
    return next(match_strips(example, ExampleView(layer, step, None), targets, matching))
