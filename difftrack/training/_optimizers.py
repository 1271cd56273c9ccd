"""Optimizers of a network: AdamW for all of it, or Muon for the matrices inside its blocks."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["OptimizerName", "make_optimizers", "set_learning_rate"]

OptimizerName = Literal["adamw", "muon"]


def make_optimizers(
    module: nn.Module, name: OptimizerName, *, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Optimizers for the parameters that want a gradient; learning rates are 0 until they are set.

    With `muon`, the weights of linear layers inside repeated blocks go to Muon, scaled so that AdamW's learning rate
    suits them; modulation by time, embeddings, biases and norms stay with AdamW.

    Args:
        module: What is trained.
        name: Which.
        betas: AdamW's decay rates.
        weight_decay: Of both.

    Source:
        Jordan et al. 2024 (Muon); update scale of Liu et al. 2025 (arXiv 2502.16982).
    """
    hidden = _hidden_matrices(module) if name == "muon" else {}
    rest = [value for value in module.parameters() if value.requires_grad and id(value) not in hidden]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=0.0, betas=betas, weight_decay=weight_decay)]
    if hidden:
        matrices = list(hidden.values())
        optimizers.append(torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the rate of every parameter."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _hidden_matrices(module: nn.Module) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for name, part in module.named_modules():
        parts = name.split(".")
        inside_block = any(piece.isdigit() for piece in parts) and not any(piece.startswith("norm") for piece in parts)
        if isinstance(part, nn.Linear) and inside_block and part.weight.requires_grad:
            found[id(part.weight)] = part.weight
    return found
