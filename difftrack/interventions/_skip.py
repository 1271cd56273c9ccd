"""Skips whole layers."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from difftrack.interventions._errors import InterventionError
from difftrack.interventions._sites import Intervention

__all__ = ["PassThrough", "SkipLayer"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SkipLayer(Intervention):
    """Skip layers with their attention, cross-attention and feed-forward: a block returns its input.

    Source:
        Spatiotemporal skip guidance (Hyung et al. 2024, arXiv 2411.18664), residual skip.
    """

    heads: Literal["all"] = "all"
    """Whole layers only; heads cannot be chosen."""

    def __post_init__(self) -> None:
        Intervention.__post_init__(self)
        if self.heads != "all":
            raise InterventionError(f"SkipLayer skips whole layers, but heads are {self.heads}; use Zero for heads")


class PassThrough:
    """Returns a transformer block's input in the form of its output.

    A block returns a tensor or a tuple of tensors, of which the n-th is the new value of its n-th argument: video, then
    text or sound if they go through the layers. Their number is found by running the block once.

    Args:
        layer: Layer number for messages.
    """

    run: Callable[..., Any]
    """The block's own forward."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._num_given: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the block's input."""
        taken = list(inspect.signature(self.run).bind(*args, **kwargs).arguments.values())
        if self._num_given is None:
            self._num_given = self._learn(self.run(*args, **kwargs), taken)
        return taken[0] if self._num_given == 0 else tuple(taken[: self._num_given])

    def mixed(self, skipped: slice, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Return the block's output, with its input for some entries of the batch."""
        passed, output = self(*args, **kwargs), self.run(*args, **kwargs)
        if isinstance(output, Tensor):
            return _with_rows(output, passed, skipped)
        return tuple(_with_rows(out, own, skipped) for out, own in zip(output, passed, strict=True))

    def _learn(self, output: Any, taken: Sequence[Any]) -> int:  # noqa: ANN401
        """Return the number of entries in the block's output tuple; 0 for a bare tensor."""
        given = [output] if isinstance(output, Tensor) else list(output)
        fits = len(given) <= len(taken) and all(
            out is own is None or (isinstance(out, Tensor) and isinstance(own, Tensor) and out.shape == own.shape)
            for out, own in zip(given, taken, strict=False)
        )
        if not fits:
            raise InterventionError(
                f"layer {self._layer} returns other tensors than it takes, so it cannot be skipped; use Zero or "
                "Identity there"
            )
        return 0 if isinstance(output, Tensor) else len(given)


def _with_rows(output: Tensor | None, passed: Tensor | None, rows: slice) -> Tensor | None:
    if output is None or passed is None:
        return None
    mixed = torch.empty_like(output)
    mixed.copy_(output)
    mixed[rows] = passed[rows].to(output)
    return mixed
