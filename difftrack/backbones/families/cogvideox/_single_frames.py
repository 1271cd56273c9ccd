"""Encodes single frames with CogVideoX's causal autoencoder, at a third of the work.

A causal convolution pads the first frame with copies of itself. All its taps in time then multiply the same picture, so
one convolution over rows and columns with their sum gives the same numbers up to rounding.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["taps_summed"]


@contextmanager
def taps_summed(encoder: nn.Module) -> Iterator[None]:
    """Let an encoder's causal convolutions sum their taps in time for inputs of one frame without a past.

    Args:
        encoder: Encoder of the autoencoder; restored at the end.
    """
    with ExitStack() as stack:
        for module in filter(_can_be_summed, encoder.modules()):
            stack.enter_context(_summed(module))
        yield


def _can_be_summed(module: Any) -> bool:  # noqa: ANN401
    """Return whether it is a causal convolution over time with the stock forward."""
    causal = isinstance(module, CogVideoXCausalConv3d) and module.pad_mode != "replicate"
    return bool(causal and module.time_kernel_size > 1 and "forward" not in module.__dict__)


@contextmanager
def _summed(module: Any) -> Iterator[None]:  # noqa: ANN401
    stock, conv = module.forward, module.conv

    def forward(
        inputs: Float[Tensor, "batch channel frame row col"], conv_cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if conv_cache is not None or inputs.shape[2] != 1:
            output, past = stock(inputs, conv_cache)
            return output, past
        output = torch.nn.functional.conv2d(
            inputs[:, :, 0],
            conv.weight.sum(dim=2),
            conv.bias,
            stride=conv.stride[1:],
            padding=conv.padding[1:],
            dilation=conv.dilation[1:],
        )
        return output.unsqueeze(2), inputs.expand(-1, -1, module.time_kernel_size - 1, -1, -1)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
