"""What both trainings share: the budget, the learning rate, averaged weights, a log, and a checkpoint to go on from."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difftrack.training._replicas import ALONE, Replicas

__all__ = ["Average", "Budget", "Checkpoint", "TrainingLog", "learning_rate"]


def learning_rate(progress: float, *, peak: float, warmup: float = 0.02, constant: float = 0.0) -> float:
    """Linear warm-up, the peak, then a cosine to 2 % of it.

    Args:
        progress: From 0 to 1.
        peak: Highest rate.
        warmup: Share of the run that warms up.
        constant: Share of the run, after the warm-up, that stays at the peak.
    """
    if progress < warmup:
        return peak * progress / warmup
    start = min(warmup + constant, 0.999)
    falling = min(1.0, max(0.0, (progress - start) / (1 - start)))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))


@dataclass
class Budget:
    """How far a run is; it ends at whichever of its two limits comes first.

    Seconds are those of the training loop, over all parts of a run that was interrupted. They are those of the first
    replica's clock and stand still between two calls of `look`, so that all replicas take the same turns.
    """

    max_steps: int
    max_seconds: float
    step: int = 0
    spent: float = 0.0
    """Seconds spent by earlier parts of the run."""
    replicas: Replicas = ALONE
    start: float = field(default_factory=time.monotonic)
    _since_start: float = 0.0

    def look(self) -> float:
        """Read the clock; gives `progress`."""
        self._since_start = self.replicas.agree(time.monotonic() - self.start)
        return self.progress

    @property
    def seconds(self) -> float:
        """Seconds spent when the clock was last read."""
        return self.spent + self._since_start

    @property
    def progress(self) -> float:
        """From 0 to 1, and 1 where nothing is allowed."""
        if self.max_steps <= 0 or self.max_seconds <= 0:
            return 1.0
        return min(1.0, max(self.step / self.max_steps, self.seconds / self.max_seconds))


class Average:
    """Exponential moving average of a module's parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = dict(module.named_parameters())
        self.values = {name: value.detach().clone().float() for name, value in self._parameters.items()}

    def update(self, step: int) -> None:
        """Move toward the module's present parameters; early steps move faster."""
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = [value.detach() for value in self._parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), parameters, 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Write the averaged values into a module of the same shape."""
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(self.values[name])


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """One JSON object per line, flushed at once, so that a killed run keeps its curve."""

    path: Path
    budget: Budget

    def write(self, **values: Any) -> None:  # noqa: ANN401
        """Append a line; the run's step and seconds stand in front. The first replica alone writes."""
        if not self.budget.replicas.first:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"step": self.budget.step, "seconds": round(self.budget.seconds, 1), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self) -> None:
        """Drop lines past the present step, and a line cut short: they are of a part of the run that was lost."""
        if self.budget.replicas.first and self.path.exists():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= self.budget.step]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a training run needs to go on, in one file."""

    path: Path

    def save(self, budget: Budget, parts: Mapping[str, Any]) -> None:
        """Write beside the old checkpoint, then replace it. The first replica alone writes."""
        if not budget.replicas.first:
            return
        partial = self.path.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": budget.step, "spent": budget.seconds, **parts}, partial)
        partial.replace(self.path)

    def load(self, budget: Budget, device: torch.device) -> dict[str, Any] | None:
        """Read the checkpoint, if there is one, and set the budget to where it was; no pickled objects."""
        if not self.path.exists():
            return None
        loaded: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        budget.step, budget.spent = loaded["step"], loaded["spent"]
        return loaded
