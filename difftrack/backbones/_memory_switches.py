"""Packages that offloading and quantisation need, and messages if they are missing."""

import importlib.util
from typing import Any

import torch
import transformers

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import Quantization

__all__ = ["installed", "quantized_loading", "refuse_offload"]

_INSTALL = "pip install 'difftrack-video[memory]' installs it"
_RELEASE = "release_text_encoder frees the text encoder after each prompt, and needs nothing"


def quantized_loading(quantization: Quantization, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`.

    Args:
        quantization: Bits per weight.
        device: Device of the quantised model.

    Raises:
        BackboneError: a package that it needs is not installed.
    """
    if quantization == "none":
        return {}
    if "bitsandbytes" not in installed():
        raise BackboneError(
            f"text_encoder_quantization is {quantization}; it needs the package bitsandbytes, which is missing; "
            f"{_INSTALL}. Instead, {_RELEASE}"
        )
    if quantization == "int8":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization)
    return {"quantization_config": config, "device_map": {"": device}}


def refuse_offload(device: torch.device) -> None:
    """Raise `BackboneError` unless components can be offloaded to the CPU from `device`."""
    if device.type == "cpu":
        raise BackboneError(f"cpu_offload is set but the device is {device}; it needs a GPU. Instead, {_RELEASE}")


def installed() -> frozenset[str]:
    """List the installed packages for quantised weights."""
    modules = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf", "optimum-quanto": "optimum.quanto"}
    return frozenset(package for package, module in modules.items() if _is_here(module))


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
