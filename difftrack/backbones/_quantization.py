"""Text encoders with fewer bits per weight, through the library that transformers uses for it."""

import importlib.util
from typing import Any

import torch
import transformers

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._params import Quantization

__all__ = ["quantized_loading"]

_NEEDED = ("bitsandbytes", "accelerate")


def quantized_loading(quantization: Quantization, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is to be told.

    Args:
        quantization: Bits per weight.
        device: Where the quantised model goes.

    Raises:
        BackboneError: a package that it needs is not installed, or the device is no GPU.
    """
    if quantization == "none":
        return {}
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing or device.type != "cuda":
        raise BackboneError(
            f"text_encoder_quantization is {quantization}; it needs a CUDA GPU (device is {device}) and the packages "
            f"{' and '.join(_NEEDED)} (missing: {', '.join(missing) or 'none'}). Instead, release_text_encoder frees "
            f"the text encoder after each prompt, and cpu_offload keeps it on the CPU while it is not used"
        )
    if quantization == "int8":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization)
    return {"quantization_config": config, "device_map": {"": device}}
