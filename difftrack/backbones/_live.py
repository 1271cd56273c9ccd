"""Wraps a pipeline object of the user as a backbone, with its adapters, quantisation and hooks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import nn

from difftrack.backbones._alterations import alterations_of
from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components, ancestry
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._family import PipelineOutline
from difftrack.backbones._load import backbone_of, check_family
from difftrack.backbones._loaded import scheduler_state, state_of
from difftrack.backbones._params import ModelParams

__all__ = ["wrap_pipeline"]

_DTYPES: Mapping[torch.dtype, Literal["float32", "bfloat16", "float16"]] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


def wrap_pipeline(pipeline: Any, *, name: str | None = None, params: ModelParams | None = None) -> Backbone:  # noqa: ANN401
    """Wrap a loaded diffusers pipeline as a backbone, without copying or changing it.

    Changes to the pipeline (LoRA, quantisation, offloading, another scheduler) stay and are part of the backbone's
    fingerprint, which is computed on first use.

    Args:
        pipeline: A diffusers pipeline of a supported family.
        name: Label in messages and provenance; the pipeline's class by default.
        params: Settings that a pipeline does not hold, such as `embedded_guidance`; dtype and device are read from it.

    Raises:
        BackboneError: the object is not a diffusers pipeline, it lacks a transformer or an autoencoder, or no family
            supports its transformer's class.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise BackboneError(
            f"{type(pipeline).__name__} is not a diffusers pipeline; give wrap() the result of "
            f"DiffusionPipeline.from_pretrained, or load_backbone() a name or a folder"
        )
    label = name or type(pipeline).__name__
    for component in ("transformer", "vae"):
        if not isinstance(getattr(pipeline, component, None), nn.Module):
            raise BackboneError(f"{label}: the pipeline holds no {component}; load it with one")
    kind = _class_name(pipeline.transformer)
    check_family(label, kind)
    components = LiveComponents(pipeline, params or ModelParams())
    return backbone_of(label, kind, components, components.params)


class LiveComponents(Components):
    """The components of a pipeline object, unchanged."""

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
    def folder(self) -> Path | None:
        """The folder that diffusers loaded the pipeline from, where it was one of this machine."""
        named = self._live.config.get("_name_or_path")
        return Path(named) if named and Path(named).is_dir() else None

    @property
    def pipeline_class(self) -> Any:  # noqa: ANN401
        """The class of the object, which may be the user's own."""
        return type(self._live)

    def fingerprint(self) -> str:
        """Hash the classes, configs and all values of the loaded components, including adapters and processors."""
        digest = hashlib.sha256()
        for name in sorted(self.names):
            held = getattr(self._live, name)
            config = json.dumps(scheduler_state(_unwrapped(held)), sort_keys=True, default=str)
            digest.update(f"{name} {config} {state_of(_unwrapped(held))}\n".encode())
        return digest.hexdigest()

    def alterations(self) -> tuple[str, ...]:
        return alterations_of(self._live)

    def pipeline_outline(self) -> PipelineOutline:
        held = [name for name in ("transformer", "vae", "scheduler") if name in self.names]
        return PipelineOutline(
            pipelines=ancestry(type(self._live)),
            components={name: _class_name(getattr(self._live, name)) for name in self.names},
            configs={name: dict(_unwrapped(getattr(self._live, name)).config) for name in held},
            settings=self.settings,
        )

    def release_text(self) -> None:
        """Leave the text encoders to their owner."""

    def _make(self, component: str) -> Any:  # noqa: ANN401
        held = getattr(self._live, component, None)
        if held is None:
            raise BackboneError(f"{self.pipeline_name}: the pipeline holds no {component}; load it with one")
        return held

    def _make_outline(self, component: str) -> Any:  # noqa: ANN401
        return self._make(component)


def _unwrapped(component: Any) -> Any:  # noqa: ANN401
    """Return the module that torch.compile wrapped, or the component itself."""
    return getattr(component, "_orig_mod", component)


def _class_name(component: Any) -> str:  # noqa: ANN401
    """Name the class that the component was made of: `fully_shard` puts one before it, `FSDP` and the same name."""
    kinds = type(_unwrapped(component)).__mro__
    return next(kind.__name__ for kind in kinds if not kind.__name__.startswith("FSDP"))


def _dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype that the module computes in, as diffusers tells it."""
    dtype = getattr(module, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else torch.float32


def _named(device: torch.device) -> str:
    return device.type if device.index is None else f"{device.type}:{device.index}"
