"""Loads a backbone by name, from a folder, or from a pipeline object."""

from typing import Any, Literal

from difftrack.backbones import Backbone, ModelParams, wrap_pipeline
from difftrack.backbones import load_backbone as load_by_params

__all__ = ["load_backbone", "wrap"]


def load_backbone(
    name: str,
    *,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    **options: Any,  # noqa: ANN401 - fields of ModelParams, checked there
) -> Backbone:
    """Find a backbone; its weights load on first use.

    Args:
        name: A name that `difftrack models` lists, such as `wan2.1-1.3b`; `cogvideox-mini`, which ships with the
            package; or `path:DIR` for a diffusers pipeline folder.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: the first CUDA device where there is one.
        dtype: Weights and activations; None takes bfloat16 on a GPU and float32 on a CPU.
        options: Further fields of `ModelParams`, such as `revision` or `cpu_offload`.

    Raises:
        BackboneError: the name is unknown, its weights are missing or damaged, or no family supports its transformer.

    Example:
        >>> model = load_backbone("cogvideox-mini", device="cpu")
        >>> model.num_layers, model.num_heads
        (8, 4)
    """
    params = ModelParams(device=device, **options)
    chosen = dtype or ("bfloat16" if params.torch_device().type == "cuda" else "float32")
    return load_by_params(name, ModelParams(device=device, dtype=chosen, **options))


def wrap(pipeline: Any, *, name: str | None = None, **options: Any) -> Backbone:  # noqa: ANN401
    """Wrap a loaded diffusers pipeline as a backbone, without copying or changing it.

    Adapters, quantisation, offloading and a replaced scheduler stay, and are part of the backbone's fingerprint.

    Args:
        pipeline: Result of `DiffusionPipeline.from_pretrained`, or a pipeline built by hand.
        name: Label in messages and provenance; the pipeline's class by default.
        options: Fields of `ModelParams` that a pipeline does not hold, such as `embedded_guidance`.

    Raises:
        BackboneError: the object is not a diffusers pipeline, or no family supports its transformer's class.
    """
    return wrap_pipeline(pipeline, name=name, params=ModelParams(**options))
