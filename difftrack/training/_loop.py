"""What both trainings share: learning rate, averaged weights, a log, and a checkpoint to go on from."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["Average", "Checkpoint", "TrainingLog", "learning_rate"]


def learning_rate(progress: float, *, peak: float, warmup: float = 0.02) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak; `progress` runs from 0 to 1."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))))


class Average:
    """Exponential moving average of a module's parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._module = module
        self.values = {name: value.detach().clone().float() for name, value in module.named_parameters()}

    def update(self, step: int) -> None:
        """Move toward the module's present parameters; early steps move faster."""
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = [value.detach() for _, value in self._module.named_parameters()]
        torch._foreach_lerp_(list(self.values.values()), parameters, 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Write the averaged values into a module of the same shape."""
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(self.values[name])


@dataclass
class TrainingLog:
    """One JSON object per line, flushed at once, so that a killed run keeps its curve."""

    path: Path
    start: float = field(default_factory=time.monotonic)

    def write(self, **values: Any) -> None:  # noqa: ANN401
        """Append a line; `seconds` since the log was opened is added."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"seconds": round(time.monotonic() - self.start, 1), **values}) + "\n")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a training run needs to go on, in one file."""

    path: Path

    def save(self, step: int, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Write beside the old checkpoint, then replace it."""
        partial = self.path.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, **parts}, partial)
        partial.replace(self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Read the checkpoint if there is one; tensors and plain containers only."""
        if not self.path.exists():
            return None
        loaded: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        return loaded
