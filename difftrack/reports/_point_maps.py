"""Precomputed maps for the reader's choice: an example's points in any stored layer, step and head.

A page opened from disk can only load scripts and pictures, so the maps are a script.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8

from difftrack.correspondence import MatchingParams
from difftrack.geometry import rescale_points
from difftrack.media import write_image
from difftrack.reports._examples import ExampleClip, ExampleView
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._names import explore_command, truth_name
from difftrack.reports._page import Maps, Section
from difftrack.reports._strips import spread_indices

__all__ = ["MOST_BYTES", "MapChoices", "choices_within", "chooser_section", "point_maps", "write_point_maps"]

MOST_BYTES = 12_000_000
"""Maximum size of all scripts of a page; base64 turns three bytes into four."""
_HEAT = "inferno"
_MOST_TILES = 4


@dataclass(frozen=True, slots=True)
class MapChoices:
    """Steps, layers and heads that the reader may choose."""

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    """Heads besides the mean of all; empty if their maps would be too large."""
    targets: tuple[int, ...]
    """Latent frames in which the points are matched."""

    @property
    def heads_or_mean(self) -> tuple[int | None, ...]:
        """The mean first."""
        return (None, *self.heads)

    def num_bytes(self, example: ExampleClip) -> int:
        """Bytes of the maps as the script holds them."""
        height, width = example.size
        tokens = round(height / example.stride_px) * round(width / example.stride_px)
        num_maps = len(self.steps) * len(self.layers) * len(self.heads_or_mean) * len(self.targets)
        return num_maps * len(example.points_xy_px) * tokens * 4 // 3


def chooser_section(
    backbone: str,
    examples: Sequence[ExampleClip],
    views: Sequence[ExampleView],
    *,
    matching: MatchingParams,
    drawings: Drawings,
    most_bytes: int,
) -> list[Section]:
    """Let the reader choose the layer, step and head that match the examples' points.

    Args:
        backbone: Backbone of the descriptors.
        examples: Clips and points.
        views: The report's views of each clip; the first one's layer, at the last step, is the initial choice.
        matching: How queries and keys are matched.
        drawings: Receives the scripts and pictures.
        most_bytes: Maximum total size of this backbone's scripts.
    """
    wanted = [each for each in examples if _can_be_chosen_from(each)] if views else []
    first = max((view for view in views if view.layer == views[0].layer), key=lambda view: view.step, default=None)
    blocks = [
        _maps_block(backbone, each, first, matching, drawings, most_bytes // len(wanted))
        for each in wanted
        if first is not None
    ]
    if not blocks:
        return []
    section = Section(
        anchor=f"{backbone}-choose",
        short="Choose",
        title="The same point in any layer, step and head",
        lead="Choose a layer, a step and a head to see the matches, their path and the match probabilities.",
        blocks=blocks,
        group=backbone,
    )
    return [section]


def _can_be_chosen_from(example: ExampleClip) -> bool:
    """Return whether there are points, other frames, and stored queries and keys."""
    stored = {"query", "key"} <= set(example.kinds)
    return stored and len(example.points_xy_px) > 0 and len(example.frames) > 1


def _maps_block(
    backbone: str,
    example: ExampleClip,
    first: ExampleView,
    matching: MatchingParams,
    drawings: Drawings,
    most_bytes: int,
) -> Maps:
    name = f"{backbone}-{example.clip.name}"
    targets = [1 + index for index in spread_indices(len(example.frames) - 1, most=_MOST_TILES)]
    choices = choices_within(example, targets, most_bytes)
    script, frames = f"strips/{name}-maps.js", f"strips/{name}-maps.png"
    drawings.draw(partial(write_point_maps, example, choices, matching, name), script, frames)
    return Maps(
        title=f"{example.clip.name}.",
        caption="First tile: the point in frame 0 and the path of its matches. Then its match probability, each "
        "picture scaled to its own maximum; ring: the most probable token.",
        name=name,
        script=script,
        frames=frames,
        points=[f"({x:.0f}, {y:.0f})" for x, y in example.points_xy_px],
        layers=choices.layers,
        steps=choices.steps,
        heads=choices.heads,
        layer=first.layer,
        step=first.step if first.step in choices.steps else choices.steps[-1],
        columns=["frame 0", *(f"frame {example.frames[target]}" for target in targets)],
        aspect=f"{example.clip.width}/{example.clip.height}",
        truth="" if example.truth is None else truth_name(example.truth.truth),
        command=explore_command(example.clip.name),
    )


def choices_within(example: ExampleClip, targets: Sequence[int], most_bytes: int) -> MapChoices:
    """Offer everything stored that fits into the size: first heads are left out, then steps are thinned.

    Args:
        example: The clip and its points.
        targets: Latent frames in which they are matched.
        most_bytes: Maximum size of the script.
    """
    steps, layers = (tuple(dict.fromkeys(labels)) for labels in zip(*example.units, strict=True))
    choices = MapChoices(steps, layers, example.heads, tuple(targets))
    if choices.num_bytes(example) > most_bytes:
        choices = replace(choices, heads=())
    while choices.num_bytes(example) > most_bytes and len(choices.steps) > 1:
        choices = replace(choices, steps=choices.steps[-1::-2][::-1])
    return choices


def point_maps(
    example: ExampleClip, choices: MapChoices, matching: MatchingParams
) -> tuple[
    UInt8[np.ndarray, "step layer head point target row col"], Float[np.ndarray, "step layer head point target xyp"]
]:
    """Match an example's points in every choice.

    Returns:
        Match probabilities, each map scaled to a maximum of 255; and x and y of the best token in pixels of the clip,
        with its probability. The axis `head` starts with the mean over heads.
    """
    units = [
        list(_of_unit(example, ExampleView(layer, step, None), choices, matching))
        for step in choices.steps
        for layer in choices.layers
    ]
    shape = (len(choices.steps), len(choices.layers), len(choices.heads_or_mean))
    maps = np.stack([each for unit in units for each, _ in unit])
    best = np.stack([each for unit in units for _, each in unit])
    return maps.reshape(*shape, *maps.shape[1:]), best.reshape(*shape, *best.shape[1:])


def _of_unit(
    example: ExampleClip, view: ExampleView, choices: MapChoices, matching: MatchingParams
) -> Iterator[tuple[UInt8[np.ndarray, "point target row col"], Float[np.ndarray, "point target xyp"]]]:
    """Match in one (step, layer), by the mean over heads and by each head."""
    from difftrack.reports._point_matches import match_maps  # loads torch

    stored = {kind: example.read(kind, view) for kind in ("query", "key")}
    clip_size = (example.clip.height, example.clip.width)
    seen_px = rescale_points(example.points_xy_px, from_size=clip_size, to_size=example.size)
    for head in choices.heads_or_mean:
        at = slice(None) if head is None else slice(example.heads.index(head), example.heads.index(head) + 1)
        maps, best_px = match_maps(
            {kind: values[at] for kind, values in stored.items()}.__getitem__,
            seen_px,
            choices.targets,
            kind="query_key",
            stride_px=example.stride_px,
            matching=matching,
        )
        largest = maps.max(axis=(-2, -1), keepdims=True)
        scaled = np.rint(255 * maps / np.maximum(largest, 1e-30)).astype(np.uint8)
        xy = rescale_points(best_px, from_size=example.size, to_size=clip_size)
        best = np.concatenate([xy, largest[..., 0]], axis=-1)
        yield scaled.swapaxes(0, 1), best.swapaxes(0, 1)


def write_point_maps(
    example: ExampleClip, choices: MapChoices, matching: MatchingParams, name: str, script: Path, frames: Path
) -> None:
    """Write the maps as a script, and the frames below them side by side as one picture.

    Args:
        example: The clip and its points.
        choices: Choices of the reader.
        matching: How queries and keys are matched.
        name: Name under which the page finds the maps.
        script: File of the maps.
        frames: File of the frames: first the points' own frame, then the targets.
    """
    maps, best = point_maps(example, choices, matching)
    shown = [example.frames[at] for at in (0, *choices.targets)]
    write_image(frames, np.concatenate([example.clip.frames[frame] for frame in shown], axis=1))
    colors = np.round(255 * matplotlib.colormaps[_HEAT](np.arange(256))[:, :3]).astype(np.uint8)
    content = {
        "steps": choices.steps,
        "layers": choices.layers,
        "heads": choices.heads,
        "frames": shown,
        "points": np.round(example.points_xy_px, 1).tolist(),
        "truth": _truth(example, shown),
        "size": [example.clip.width, example.clip.height],
        "grid": list(maps.shape[-2:]),
        "best": np.round(best, 3).tolist(),
        "colors": base64.b64encode(colors.tobytes()).decode(),
        "maps": base64.b64encode(maps.tobytes()).decode(),
    }
    text = json.dumps(content, separators=(",", ":"))
    script.write_text(f"(window.difftrackMaps ??= {{}})[{json.dumps(name)}] = {text};\n", encoding="utf-8")


def _truth(example: ExampleClip, frames: Sequence[int]) -> list[list[list[float] | None]] | None:
    """List the true position of each point in each frame; null where it is not visible or unknown."""
    if example.truth is None:
        return None
    rounded: Any = np.round(example.truth.points_xy_px[list(frames)], 1)
    seen = example.truth.visible[list(frames)]
    return [
        [rounded[at, point].tolist() if seen[at, point] else None for at in range(len(frames))]
        for point in range(seen.shape[1])
    ]
