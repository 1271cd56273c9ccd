"""Detects the half of classifier-free guidance that a transformer is called for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from difftrack.interventions._errors import InterventionError

__all__ = ["Branch", "BranchReader", "CfgCallPattern", "calls_at"]

Branch = Literal["cond", "uncond", "both"]
"""`both`: one batch, unconditional half first."""

CfgCallPattern = Literal["named", "batched", "cond_first", "cond"]
"""How a pipeline calls its transformer: detected from `cache_context`, which most of diffusers' pipelines use, or from
a doubled batch; in one batch [uncond, cond]; conditional, then unconditional; or only for the conditional branch.
"""

_NAMES: Mapping[str, Branch] = MappingProxyType({
    "cond": "cond",
    "uncond": "uncond",
    "cond_uncond": "both",
    "pred_cond": "cond",
    "pred_uncond": "uncond",
})  # fmt: skip
"""Names of the branches in diffusers' pipelines and guiders; the third is independent of the order in the batch."""


def calls_at(cfg_scale: float) -> CfgCallPattern:
    """Return how a stock pipeline calls its transformer: at a scale up to 1 it runs no unconditional branch.

    Not every pipeline can be detected: Allegro's does not name its branches.
    """
    return "cond" if cfg_scale <= 1 else "named"


class BranchReader:
    """Detects the branch of each call.

    Args:
        calls: How the pipeline calls its transformer.
        num_clips: Clips that it samples at once.
    """

    def __init__(self, calls: CfgCallPattern, num_clips: int) -> None:
        self._calls = calls
        self._num_clips = num_clips
        self._name: str | None = None
        self._timestep: Tensor | None = None

    @contextmanager
    def listening(self, transformer: nn.Module) -> Iterator[None]:
        """Record the names with which a pipeline enters `transformer.cache_context`."""
        enter = getattr(transformer, "cache_context", None)
        if enter is None:
            yield
            return

        @contextmanager
        def noted(name: str, **where: Any) -> Iterator[None]:  # noqa: ANN401
            with enter(name, **where):
                self._name = name
                try:
                    yield
                finally:
                    self._name = None

        transformer.cache_context = noted  # type: ignore[assignment]
        try:
            yield
        finally:
            del transformer.cache_context

    def read(self, batch_size: int, timestep: Shaped[Tensor, "..."]) -> Branch:
        """Return the branch of the current call.

        Args:
            batch_size: Batch size of the latents.
            timestep: Timestep passed to the transformer.

        Raises:
            InterventionError: the pipeline does not name the branch, or uses an unknown name.
        """
        branch = self._read(batch_size, timestep)
        if branch == "both" and batch_size == self._num_clips:
            branch = "cond"
        wanted = self._num_clips * (2 if branch == "both" else 1)
        if batch_size != wanted:
            raise InterventionError(
                f"the transformer is called with a batch of {batch_size}, but {wanted} is expected for {branch!r}; "
                f"set num_clips to the number of clips sampled at once (now {self._num_clips})"
            )
        return branch

    def _read(self, batch_size: int, timestep: Tensor) -> Branch:
        if self._calls == "cond":
            return "cond"
        if self._calls == "cond_first":
            repeated = self._timestep is not None and torch.equal(timestep, self._timestep)
            self._timestep = None if repeated else timestep
            return "uncond" if repeated else "cond"
        if self._calls == "batched" or (self._name is None and batch_size == 2 * self._num_clips):
            return "both"
        branch = _NAMES.get(self._name or "")
        if branch is None:
            raise InterventionError(
                f"the pipeline does not name the branch that it calls the transformer for (cache_context: {self._name})"
                "; set calls to batched, cond_first or cond"
            )
        return branch
