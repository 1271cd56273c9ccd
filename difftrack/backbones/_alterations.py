"""Lists changes to a loaded pipeline, found in its objects, for users and provenance records."""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["alterations_of"]


def alterations_of(pipeline: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Name the changes of a pipeline object from its checkpoint, component by component.

    Args:
        pipeline: A diffusers pipeline.

    Returns:
        Lines such as `transformer: LoRA style (fused)`, in the order of the components; empty if there are no changes.
    """
    found = []
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module):
            found += [f"{name}: {what}" for what in _of_model(component)]
    return tuple(found)


def _of_model(model: nn.Module) -> Iterator[str]:
    inner: Any = getattr(model, "_orig_mod", model)
    if inner is not model or any(getattr(part, "_compiled_call_impl", None) is not None for part in inner.modules()):
        yield "compiled"
    yield from _adapters(inner)
    quantization = getattr(getattr(inner, "config", None), "quantization_config", None)
    if quantization is not None:
        kind = getattr(quantization, "quant_method", type(quantization).__name__)
        yield f"quantised ({getattr(kind, 'value', kind)})"
    yield from (f"weights of {kind}" for kind in sorted(_small_dtypes(inner)))
    if any(getattr(part, "fused_projections", False) for part in inner.modules()):
        yield "projections of query, key and value fused"
    backends = {getattr(getattr(part, "processor", None), "_attention_backend", None) for part in inner.modules()}
    yield from (f"attention backend {getattr(each, 'value', each)}" for each in sorted(backends - {None}, key=str))
    if getattr(inner, "is_cache_enabled", False):
        yield f"cache {type(inner._cache_config).__name__.removesuffix('Config')}"
    hooks = sorted({hook for part in inner.modules() for hook in _hooks(part)})
    yield from (f"hook {hook}" for hook in hooks)
    if getattr(inner, "use_tiling", False) is True:
        yield "tiled"
    if getattr(inner, "use_slicing", False) is True:
        yield "sliced"


def _small_dtypes(model: nn.Module) -> set[str]:
    """Dtypes of weights of a byte a number, where a layer packs them together too."""
    packed = {getattr(getattr(part, "_packed_params", None), "dtype", None) for part in model.modules()}
    kept = {weight.dtype for weight in model.parameters() if weight.dtype.itemsize == 1}
    return {str(dtype).removeprefix("torch.") for dtype in kept | packed - {None}}


def _adapters(model: nn.Module) -> Iterator[str]:
    merged = {name for part in model.modules() for name in getattr(part, "merged_adapters", ())}
    loaded = set(getattr(model, "peft_config", {}) or {})
    for name in sorted(loaded | merged):
        scales = {scaling[name] for scaling in _scalings(model) if name in scaling}
        at = f" at scale {', '.join(f'{scale:g}' for scale in sorted(scales))}" if scales else ""
        yield f"LoRA {name}{at}{' (fused)' if name in merged else ''}"


def _scalings(model: nn.Module) -> Iterator[dict[str, float]]:
    for part in model.modules():
        scaling: Any = getattr(part, "scaling", None)
        if isinstance(scaling, dict):
            yield scaling


def _hooks(module: nn.Module) -> Iterator[str]:
    """List hooks of accelerate and diffusers that move or cast weights."""
    moving = getattr(module, "_hf_hook", None)
    if moving is not None:
        yield type(moving).__name__
    registry = getattr(module, "_diffusers_hook", None)
    yield from (name for name in getattr(registry, "hooks", {}) if name in ("group_offloading", "layerwise_casting"))
