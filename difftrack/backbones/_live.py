"""A backbone around a pipeline object that the user holds, as it stands: adapters, quantisation, hooks and all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._load import backbone_of, check_family
from difftrack.backbones._params import ModelParams

__all__ = ["wrap_pipeline"]

_DTYPES: Mapping[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_PRIME = 65_521
_CHECKSUM_WORDS = 1 << 24
"""Words of four bytes that are widened at a time: 128 MiB of extra memory."""


def wrap_pipeline(pipeline: Any, *, name: str | None = None, params: ModelParams | None = None) -> Backbone:  # noqa: ANN401
    """Make a backbone of a loaded diffusers pipeline, which is used as it is and not copied.

    Whatever was done to the pipeline (LoRA, quantisation, offloading, another scheduler) stays and is part of the
    backbone's fingerprint, which is taken when it is first asked for.

    Args:
        pipeline: A diffusers pipeline of a family that this project captures.
        name: Label in messages and provenance; the pipeline's class by default.
        params: Choices that a pipeline does not hold, such as `embedded_guidance`; dtype and device are read from it.

    Raises:
        BackboneError: the object is no diffusers pipeline, it lacks a transformer or an autoencoder, or no family here
            captures its transformer's class.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise BackboneError(
            f"{type(pipeline).__name__} is no diffusers pipeline; give wrap() what DiffusionPipeline.from_pretrained "
            f"returns, or load_backbone() a name or a folder"
        )
    label = name or type(pipeline).__name__
    for component in ("transformer", "vae"):
        if not isinstance(getattr(pipeline, component, None), nn.Module):
            raise BackboneError(f"{label}: the pipeline holds no {component}; load it with one")
    kind = type(_unwrapped(pipeline.transformer)).__name__
    check_family(label, kind)
    components = LiveComponents(pipeline, params or ModelParams())
    return backbone_of(label, kind, components, components.params)


class LiveComponents(Components):
    """The components of a pipeline object, as they stand."""

    def __init__(self, pipeline: Any, params: ModelParams) -> None:  # noqa: ANN401
        self._live = pipeline
        held = pipeline.components
        device, dtype = torch.device(pipeline._execution_device), _dtype_of(pipeline.transformer)
        self.params = replace(params, device=_named(device), dtype=_DTYPES.get(dtype, "float32"))
        settings = {key: value for key, value in pipeline.config.items() if key not in held and not key.startswith("_")}
        super().__init__(type(pipeline).__name__, settings, self.params)
        self.device, self.dtype = device, dtype

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, held in self._live.components.items() if held is not None)

    @property
    def revision(self) -> None:
        return None

    @property
    def pipeline_class(self) -> Any:  # noqa: ANN401
        """The class of the object, which may be the user's own."""
        return type(self._live)

    def fingerprint(self) -> str:
        """Hash the configs, the classes and every number of what is loaded, adapters included."""
        digest = hashlib.sha256()
        for name in sorted(self.names):
            held = getattr(self._live, name)
            config: Any = getattr(held, "config", None) or {}
            plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
            digest.update(f"{name} {type(held).__name__} {json.dumps(plain, sort_keys=True, default=str)}\n".encode())
            if isinstance(held, nn.Module):
                for key, tensor in sorted(_unwrapped(held).state_dict().items()):
                    digest.update(f"{name}.{key} {_checksum(tensor)}\n".encode())
        return digest.hexdigest()

    def release_text(self) -> None:
        """Leave the text encoders to their owner."""

    def _make(self, component: str) -> Any:  # noqa: ANN401
        held = getattr(self._live, component, None)
        if held is None:
            raise BackboneError(f"{self.pipeline_name}: the pipeline holds no {component}; load it with one")
        return held

    def _make_outline(self, component: str) -> Any:  # noqa: ANN401
        return self._make(component)


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile wrapped, or the module itself."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def _dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype that the module computes in, as diffusers tells it."""
    dtype = getattr(module, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _named(device: torch.device) -> str:
    return device.type if device.index is None else f"{device.type}:{device.index}"


@torch.no_grad()
def _checksum(tensor: Tensor) -> str:
    """Sum a tensor's bytes where they are, plain and weighted by their place modulo a prime: equal on every device."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    content = torch.nn.functional.pad(content, (0, -len(content) % 4)).view(torch.int32)
    plain = weighted = 0
    for start in range(0, len(content), _CHECKSUM_WORDS):
        words = content[start : start + _CHECKSUM_WORDS].to(torch.int64)
        place = torch.arange(start, start + len(words), device=words.device) % _PRIME + 1
        plain += int(words.sum())
        weighted += int((words * place).sum())
    return f"{tensor.dtype} {list(tensor.shape)} {plain} {weighted}"
