"""Whether capture holds to its laws on this machine, tried on a small backbone with random weights, or on a folder."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from difftrack.backbones._backbone import Backbone
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
    """One law, and what was found."""

    law: str
    passed: bool
    found: str


def check_capture(name: str, params: ModelParams) -> Iterator[CaptureCheck]:
    """Hold a backbone's capture to its laws: of a known one small, with random weights, or of a folder as it is.

    Args:
        name: Of the table of backbones; or `path:DIR`, or the name of the backbone that comes with the project.
        params: Where, and in which dtype.

    Raises:
        BackboneError: nobody knows the name, the folder cannot be loaded, or nothing is captured; the message names
            the likely cause.
    """
    if name.startswith("path:") or name == SHIPPED:
        return _check(load_backbone(name, params))
    return _check(constructed_backbone(name, params, small=True))


def _check(backbone: Backbone) -> Iterator[CaptureCheck]:
    fold, patch = backbone.latents_per_token_frame, backbone.patch_size
    latents = backbone.placeholder_latents(_TOKEN_FRAMES * fold, _ROWS * patch, _COLS * patch)
    order, errors, same = _tapped(backbone, latents)
    yield CaptureCheck("one record per layer, in order", order == list(range(backbone.num_layers)), f"layers {order}")
    yield CaptureCheck("output with capture is bit-identical", same, "identical" if same else "different")
    error = max(errors, default=float("nan"))
    yield CaptureCheck("attention from captured q, k, v is the model's own", error == 0, f"max abs error {error}")
    middle = backbone.num_layers // 2
    every, alone = _captured(backbone, latents)[middle], _captured(backbone, latents, middle)[middle]
    equal = all(torch.equal(getattr(every, kind), getattr(alone, kind)) for kind in ("query", "key", "feature"))
    yield CaptureCheck("stopping after a layer changes nothing", equal, f"layer {middle}")
    changed = latents.clone()
    changed[fold, :, 2 * patch, 3 * patch] += 1
    first, other = (_captured(backbone, x, 0)[0].query for x in (latents, changed))
    moved = [] if first is None or other is None else (first != other).any(dim=0).any(dim=-1).nonzero().tolist()
    found = f"a patch at [1, 2, 3] changes queries at {moved[:3]}{' ...' if len(moved) > 3 else ''}"
    yield CaptureCheck("tokens run (frame, row, col)", moved == [[1, 2, 3]], found)


def _tapped(backbone: Backbone, latents: Tensor) -> tuple[list[int], list[float], bool]:
    """Layers as they attended, error of each recomputed attention, and whether the output stayed as it was."""
    order: list[int] = []
    errors: list[float] = []

    def tap(call: AttentionCall) -> Tensor:
        own = call.run()
        again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=call.mask)
        order.append(call.layer)
        errors.append(float((own - again).abs().max()))
        return own

    before = _predicted(backbone, latents)
    with intercept(dict(enumerate(backbone.attention_modules())), tap):
        during = _predicted(backbone, latents)
    return order, errors, torch.equal(before, during)


def _predicted(backbone: Backbone, latents: Tensor) -> Tensor:
    timestep = torch.tensor(500)
    return backbone.predict(
        latents, timestep, backbone.placeholder_prompt(), conditioning=backbone.placeholder_conditioning(latents)
    )


def _captured(backbone: Backbone, latents: Tensor, *layers: int) -> dict[int, LayerDescriptors]:
    records = backbone.capture(
        latents,
        5,
        backbone.schedule(10, grid=backbone.grid_of(latents)),
        backbone.placeholder_prompt(),
        layers=layers or range(backbone.num_layers),
        conditioning=backbone.placeholder_conditioning(latents),
    )
    return {record.layer: record for record in records}
