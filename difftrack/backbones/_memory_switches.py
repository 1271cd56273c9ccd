"""What offloading and quantisation need, and what to say where it is missing."""

import importlib.util
from typing import Any

import torch
import transformers

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import Quantization

__all__ = ["quantized_loading", "refuse_offload"]

_INSTALL = "pip install 'difftrack-video[memory]' installs them"
_RELEASE = "release_text_encoder frees the text encoder after each prompt, and needs nothing"


def quantized_loading(quantization: Quantization, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is to be told.

    Args:
        quantization: Bits per weight.
        device: Where the quantised model goes.

    Raises:
        BackboneError: a package that it needs is not installed.
    """
    if quantization == "none":
        return {}
    if missing := _missing("bitsandbytes", "accelerate"):
        raise BackboneError(
            f"text_encoder_quantization is {quantization}; it needs the packages bitsandbytes and accelerate (missing: "
            f"{', '.join(missing)}); {_INSTALL}. Instead, {_RELEASE}"
        )
    if quantization == "int8":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization)
    return {"quantization_config": config, "device_map": {"": device}}


def refuse_offload(device: torch.device) -> None:
    """Raise `BackboneError` unless components can wait on the CPU until they run on `device`."""
    missing = _missing("accelerate")
    if not missing and device.type != "cpu":
        return
    lacking = f"the package accelerate is missing: {_INSTALL}" if missing else "there is nothing to offload from"
    raise BackboneError(
        f"cpu_offload is set and the device is {device}; it needs a GPU and the package accelerate ({lacking}). "
        f"Instead, {_RELEASE}"
    )


def _missing(*packages: str) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]
