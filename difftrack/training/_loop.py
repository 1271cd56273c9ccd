"""Parts shared by both training loops: budget, learning rate, weight averaging, log, and checkpoint."""

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
    """Learning rate: linear warm-up, constant at the peak, then a cosine decay to 2 % of the peak.

    Args:
        progress: Progress of the run, 0 to 1.
        peak: Highest learning rate.
        warmup: Share of the run spent in the warm-up.
        constant: Share of the run spent at the peak, after the warm-up.
    """
    if progress < warmup:
        return peak * progress / warmup
    start = min(warmup + constant, 0.999)
    falling = min(1.0, max(0.0, (progress - start) / (1 - start)))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling)))


@dataclass
class Budget:
    """Progress of a run, which ends at whichever of its two limits comes first.

    Seconds count time in the training loop, summed over all parts of an interrupted run. They come from the first
    replica's clock and change only when `look` is called, so that all replicas take the same branches.
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
        """Read the clock and return `progress`."""
        self._since_start = self.replicas.agree(time.monotonic() - self.start)
        return self.progress

    @property
    def seconds(self) -> float:
        """Seconds spent up to the last reading of the clock."""
        return self.spent + self._since_start

    @property
    def progress(self) -> float:
        """Progress from 0 to 1; 1 if a limit is not positive."""
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
        """Move the average towards the module's current parameters; early steps move it faster."""
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
    """Log with one JSON object per line. Each line is written at once, so a killed run keeps its curve."""

    path: Path
    budget: Budget

    def write(self, **values: Any) -> None:  # noqa: ANN401
        """Append a line that begins with the run's step and seconds. Only the first replica writes."""
        if not self.budget.replicas.first:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"step": self.budget.step, "seconds": round(self.budget.seconds, 1), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def rewind(self) -> None:
        """Remove incomplete lines and lines after the current step: they belong to a part of the run that was lost."""
        if self.budget.replicas.first and self.path.exists():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= self.budget.step]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file with everything that a training run needs to resume."""

    path: Path

    def save(self, budget: Budget, parts: Mapping[str, Any]) -> None:
        """Write a new file, then replace the old checkpoint with it. Only the first replica writes."""
        if not budget.replicas.first:
            return
        partial = self.path.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"step": budget.step, "spent": budget.seconds, **parts}, partial)
        partial.replace(self.path)

    def load(self, budget: Budget, device: torch.device) -> dict[str, Any] | None:
        """Read the checkpoint, if it exists, and restore the budget; pickled objects are refused."""
        if not self.path.exists():
            return None
        loaded: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        budget.step, budget.spent = loaded["step"], loaded["spent"]
        return loaded
