"""Digests of components in memory, which may differ from the files of a checkpoint.

A folder's fingerprint covers its files. A caller may change loaded components: add a LoRA, fuse it, set another
scheduler. `state_of` gives the same text for a component on every device, and another text after any such change.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

__all__ = ["checksum", "scheduler_state", "state_of"]

_BLOCK = 1 << 17
"""Numbers per block: 1 MB, which stays in a processor's cache."""
_FACTOR = 1_000_003
"""Factor between two blocks: odd, so that no bit is lost."""
_OWN = ("_diffusers_version", "_class_name", "_name_or_path")
"""Entries of a config that name its origin and have no effect."""


def state_of(component: Any) -> str:  # noqa: ANN401
    """Digest a component in memory: classes, adapters and their scales, attention processors, weights."""
    if not isinstance(component, nn.Module):
        return json.dumps(scheduler_state(component), sort_keys=True, default=str)
    digest = hashlib.sha256()
    for part in (*_structure(component), *_weights(component)):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def scheduler_state(scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
    """Describe class and config of a scheduler or another object as JSON; `config` is empty if it has none."""
    config = getattr(scheduler, "config", {})
    values = {str(key): value for key, value in config.items()} if isinstance(config, Mapping) else {}
    counted = {key: value for key, value in sorted(values.items()) if key not in _OWN}
    counted.pop("_use_default_values", None)
    plain: dict[str, Any] = json.loads(json.dumps(counted, default=str))
    return {"class": type(scheduler).__name__, "config": plain}


def checksum(tensor: Tensor) -> int:
    """Sum a tensor's bits, weighted by their places; the result is the same on every device.

    Integers are added, so the order of addition does not matter. Of a tensor that is spread over processes (DTensor),
    the local part counts.
    """
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # without loading torch.distributed
    if is_traceable_wrapper_subclass(tensor):  # a quantised weight of torchao, which holds numbers and their scales
        parts: Any = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return hash(tuple(map(checksum, parts)))
    if tensor.is_meta or not tensor.numel():
        return 0
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    words = torch.cat([content, content.new_zeros(-len(content) % 4)]) if len(content) % 4 else content
    words = (words.clone() if words.storage_offset() % 4 else words).view(torch.int32)
    places = torch.arange(1, 2 * min(_BLOCK, len(words)), 2, device=words.device, dtype=torch.int64)
    total = torch.zeros((), device=words.device, dtype=torch.int64)
    for block in torch.split(words, _BLOCK):
        total = total * _FACTOR + (block * places[: len(block)]).sum()
    return int(total)


def _structure(module: nn.Module) -> Iterator[str]:
    """List the classes of a model's modules, and the settings of its adapters and processors."""
    for name, part in module.named_modules():
        yield f"{name} {type(part).__name__}"
        for setting in ("scaling", "active_adapters", "disable_adapters", "merged_adapters", "use_tiling"):
            value = getattr(part, setting, None)
            if value is not None and not callable(value) and not isinstance(value, Tensor):
                yield f"{name} {setting} {value!r}"
        processor = getattr(part, "processor", None)
        if processor is not None and not isinstance(processor, nn.Module):
            yield f"{name} processor {type(processor).__name__}"


def _weights(module: nn.Module) -> Iterator[str]:
    away = _weights_away(module)
    for name, value in module.state_dict().items():
        value = away.get(name, value) if isinstance(value, Tensor) and value.is_meta else value
        yield from _numbers(name, value)


def _numbers(name: str, value: Any) -> Iterator[str]:  # noqa: ANN401
    """A line for a tensor, or for those that a quantised layer packs together."""
    if isinstance(value, tuple | list):
        for place, part in enumerate(value):
            yield from _numbers(f"{name}.{place}", part)
    elif isinstance(value, Tensor):
        if value.is_quantized:
            steps = value.q_scale() if value.qscheme() == torch.per_tensor_affine else value.q_per_channel_scales()
            yield f"{name} {value.qscheme()} {steps}"
            value = value.int_repr()
        yield f"{name} {value.dtype} {tuple(value.shape)} {checksum(value)}"


def _weights_away(module: nn.Module) -> dict[str, Tensor]:
    """Weights that accelerate keeps elsewhere while their layers do not run, by their names in the model."""
    found: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            kept = getattr(each, "weights_map", None)
            if kept is not None:
                for name, weight in part.named_parameters(recurse=False):
                    if weight.is_meta:
                        found[f"{prefix}.{name}".removeprefix(".")] = kept[name]
    return found
