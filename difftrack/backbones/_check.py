"""Checks the laws of capture on this machine, with a small backbone of random weights or a folder."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._conditions import ImageConditioning
from difftrack.backbones._descriptors import LayerDescriptors
from difftrack.backbones._load import load_backbone
from difftrack.backbones._names import SHIPPED
from difftrack.backbones._params import ModelParams
from difftrack.backbones._random_init import constructed_backbone
from difftrack.backbones._seam import AttentionCall, intercept

__all__ = ["CaptureCheck", "check_capture"]

_TOKEN_FRAMES, _ROWS, _COLS = 3, 3, 5


@dataclass(frozen=True, slots=True)
class CaptureCheck:
    """One law, and the finding."""

    law: str
    passed: bool
    found: str


def check_capture(name: str, params: ModelParams) -> Iterator[CaptureCheck]:
    """Check the laws of a backbone's capture: a known one small, with random weights, or a folder unchanged.

    Args:
        name: Of the table of backbones; or `path:DIR`, or the name of the shipped backbone.
        params: Device and dtype.

    Raises:
        BackboneError: the name is unknown, the folder cannot be loaded, or the capture fails; the message names the
            likely cause.
    """
    if name.startswith("path:") or name == SHIPPED:
        return _check(load_backbone(name, params), whole=True)
    return _check(constructed_backbone(name, params, small=True), whole=False)


def _check(backbone: Backbone, *, whole: bool) -> Iterator[CaptureCheck]:
    """The laws; `whole` if there is an autoencoder, which then encodes the image that a backbone may read."""
    fold, patch = backbone.latents_per_token_frame, backbone.patch_size
    latents = backbone.placeholder_latents(_TOKEN_FRAMES * fold, _ROWS * patch, _COLS * patch)
    image = _image_of(backbone, latents) if whole else backbone.placeholder_conditioning(latents)
    order, errors, same = _tapped(backbone, latents, image)
    yield CaptureCheck("one record per layer, in order", order == list(range(backbone.num_layers)), f"layers {order}")
    yield CaptureCheck("output with capture is bit-identical", same, "identical" if same else "different")
    error = max(errors, default=float("nan"))
    yield CaptureCheck("attention from captured q, k, v is the model's own", error == 0, f"max abs error {error}")
    middle = backbone.num_layers // 2
    every, alone = _captured(backbone, latents, image)[middle], _captured(backbone, latents, image, middle)[middle]
    equal = all(torch.equal(getattr(every, kind), getattr(alone, kind)) for kind in ("query", "key", "feature"))
    yield CaptureCheck("stopping after a layer changes nothing", equal, f"layer {middle}")
    changed = latents.clone()
    changed[fold, :, 2 * patch, 3 * patch] += 1
    first, other = (_captured(backbone, x, image, 0)[0].query for x in (latents, changed))
    moved = [] if first is None or other is None else (first != other).any(dim=0).any(dim=-1).nonzero().tolist()
    found = f"a patch at [1, 2, 3] changes queries at {moved[:3]}{' ...' if len(moved) > 3 else ''}"
    yield CaptureCheck("tokens run (frame, row, col)", moved == [[1, 2, 3]], found)


def _image_of(backbone: Backbone, latents: Tensor) -> ImageConditioning | None:
    """Encode an image with the backbone's own autoencoder, so that it has the number of channels of a clip."""
    if not backbone.needs_image:
        return None
    height, width = (size * backbone.spatial_stride for size in latents.shape[2:])
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.float32)
    return backbone.condition(image, len(latents), frames_alone=True)


def _tapped(
    backbone: Backbone, latents: Tensor, image: ImageConditioning | None
) -> tuple[list[int], list[float], bool]:
    """Return layers in order of attention, errors of recomputed attention, and whether the output is unchanged."""
    order: list[int] = []
    errors: list[float] = []

    def tap(call: AttentionCall) -> Tensor:
        own = call.run()
        again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=call.mask)
        order.append(call.layer)
        errors.append(float((own - again).abs().max()))
        return own

    before = _predicted(backbone, latents, image)
    with intercept(dict(enumerate(backbone.attention_modules())), tap):
        during = _predicted(backbone, latents, image)
    return order, errors, torch.equal(before, during)


def _predicted(backbone: Backbone, latents: Tensor, image: ImageConditioning | None) -> Tensor:
    return backbone.predict(latents, torch.tensor(500), backbone.placeholder_prompt(), conditioning=image)


def _captured(
    backbone: Backbone, latents: Tensor, image: ImageConditioning | None, *layers: int
) -> dict[int, LayerDescriptors]:
    records = backbone.capture(
        latents,
        5,
        backbone.schedule(10, grid=backbone.grid_of(latents)),
        backbone.placeholder_prompt(),
        layers=layers or range(backbone.num_layers),
        conditioning=image,
    )
    return {record.layer: record for record in records}
