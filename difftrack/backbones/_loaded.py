"""What is in memory, told apart from what the files of a checkpoint say.

A folder's fingerprint covers its files. A caller may change what was loaded from them: put a LoRA in, fuse it, set
another scheduler. `state_of` of the same component gives the same text on every device, and another one after any such
change.
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
"""Numbers that are multiplied and added at a time: 1 MB, which stays in a processor's cache."""
_FACTOR = 1_000_003
"""Between two blocks: odd, so that no bit is lost."""
_OWN = ("_diffusers_version", "_class_name", "_name_or_path")
"""Entries of a config that say where it came from, and not what it does."""


def state_of(component: Any) -> str:  # noqa: ANN401
    """A digest of a component as it is in memory: classes, adapters and their scales, attention processors, weights."""
    if not isinstance(component, nn.Module):
        return json.dumps(scheduler_state(component), sort_keys=True, default=str)
    digest = hashlib.sha256()
    for part in (*_structure(component), *_weights(component)):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def scheduler_state(scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
    """Class and config of a scheduler, or of what else has a config, as JSON; `config` is empty where there is none."""
    config = getattr(scheduler, "config", {})
    values = {str(key): value for key, value in config.items()} if isinstance(config, Mapping) else {}
    counted = {key: value for key, value in sorted(values.items()) if key not in _OWN}
    counted.pop("_use_default_values", None)
    plain: dict[str, Any] = json.loads(json.dumps(counted, default=str))
    return {"class": type(scheduler).__name__, "config": plain}


def checksum(tensor: Tensor) -> int:
    """A sum over a tensor's bits that every value and its place take part in; the same on every device.

    Whole numbers are added, so that the order in which a device adds them does not matter. A tensor that is spread over
    processes (DTensor) counts by the part that this one holds.
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
    """The classes that a model is made of, and what adapters and processors in it are set to."""
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
