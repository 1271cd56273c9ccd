"""Leaving whole layers out."""

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
    """Leave layers out: their attention, cross-attention and feed-forward; what enters a block leaves it.

    Source:
        Spatiotemporal skip guidance (Hyung et al. 2024, arXiv 2411.18664), residual skip.
    """

    heads: Literal["all"] = "all"
    """A layer is left out whole."""

    def __post_init__(self) -> None:
        Intervention.__post_init__(self)
        if self.heads != "all":
            raise InterventionError(f"SkipLayer leaves whole layers out; heads are {self.heads}: use Zero for heads")


class PassThrough:
    """Gives out what a transformer block took, in the form in which the block gives.

    A block gives a tensor or a tuple of them, of which the n-th is what has become of its n-th argument: video, and
    after it text or sound where they go through the layers, too. How many there are is found by running the block once.

    Args:
        layer: For messages.
    """

    run: Callable[..., Any]
    """The block's own forward."""

    def __init__(self, layer: int) -> None:
        self._layer = layer
        self._num_given: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Give what the block was given."""
        taken = list(inspect.signature(self.run).bind(*args, **kwargs).arguments.values())
        if self._num_given is None:
            self._num_given = self._learn(self.run(*args, **kwargs), taken)
        return taken[0] if self._num_given == 0 else tuple(taken[: self._num_given])

    def mixed(self, skipped: slice, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Give what the block gives, and for some entries of the batch what it was given."""
        passed, output = self(*args, **kwargs), self.run(*args, **kwargs)
        if isinstance(output, Tensor):
            return _with_rows(output, passed, skipped)
        return tuple(_with_rows(out, own, skipped) for out, own in zip(output, passed, strict=True))

    def _learn(self, output: Any, taken: Sequence[Any]) -> int:  # noqa: ANN401
        """How many entries the block gives in a tuple; 0 where it gives a bare tensor."""
        given = [output] if isinstance(output, Tensor) else list(output)
        fits = len(given) <= len(taken) and all(
            out is own is None or (isinstance(out, Tensor) and isinstance(own, Tensor) and out.shape == own.shape)
            for out, own in zip(given, taken, strict=False)
        )
        if not fits:
            raise InterventionError(
                f"layer {self._layer} gives other tensors than it takes, so that it cannot be left out; use Zero or "
                f"Identity there"
            )
        return 0 if isinstance(output, Tensor) else len(given)


def _with_rows(output: Tensor | None, passed: Tensor | None, rows: slice) -> Tensor | None:
    if output is None or passed is None:
        return None
    mixed = torch.empty_like(output)
    mixed.copy_(output)
    mixed[rows] = passed[rows].to(output)
    return mixed
