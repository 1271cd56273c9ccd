"""Optimizers: AdamW for the whole network, or Muon for the matrices inside its blocks and AdamW for the rest."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["OptimizerName", "limit_gradients", "make_optimizers", "set_learning_rate"]

OptimizerName = Literal["adamw", "muon"]


def limit_gradients(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Clip the gradients to a norm of 1 and return the norm before clipping.

    If the norm is not finite, all gradients are set to 0; otherwise one NaN would spread to every weight.
    """
    own = list(parameters)
    norm: Tensor = nn.utils.clip_grad_norm_(own, 1.0)
    _drop_unless(norm.isfinite(), own)
    return norm


def _drop_unless(keep: Bool[Tensor, ""], parameters: Iterable[nn.Parameter]) -> None:
    """Set all gradients to 0 unless `keep` is true. `keep` stays on the device, so the CPU does not wait for it."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    flat = torch.where(keep, torch.cat([gradient.flatten() for gradient in gradients]), 0.0)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])


def make_optimizers(
    module: nn.Module, name: OptimizerName, *, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Make optimizers for the parameters that require a gradient; learning rates are 0 until they are set.

    With `muon`, Muon updates the weights of linear layers inside repeated blocks, scaled so that AdamW's learning rate
    suits them. AdamW updates time modulation, embeddings, biases and norms.

    Args:
        module: The network to train.
        name: Name of the optimizer.
        betas: AdamW's decay rates.
        weight_decay: Decoupled weight decay of both optimizers.

    Source:
        Jordan et al. 2024 (Muon); update scale from Liu et al. 2025 (arXiv 2502.16982).
    """
    hidden = _hidden_matrices(module) if name == "muon" else {}
    rest = [value for value in module.parameters() if value.requires_grad and id(value) not in hidden]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=0.0, betas=betas, weight_decay=weight_decay)]
    if hidden:
        optimizers.append(Muon(hidden.values(), weight_decay=weight_decay))
    return optimizers


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, computed for all matrices of one shape together.

    Torch orthogonalises the matrices one by one. For the 62 matrices of the small backbone that takes some 2,000 kernel
    launches per step, 20 of 150 ms on an H200. Stacking matrices by shape takes 100 launches.

    Args:
        matrices: The parameters to train, each `[row, col]`.
        weight_decay: Decoupled weight decay.
        momentum: Nesterov momentum.
    """

    _COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    _ITERATIONS = 5

    def __init__(self, matrices: Iterable[Tensor], *, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(list(matrices), {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Update every matrix that has a gradient."""
        result = closure() if closure is not None else None
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                self._step_alike(matrices, group, step_size=0.2 * max(shape) ** 0.5 * group["lr"])
        return result

    def _step_alike(self, matrices: list[Tensor], group: dict[str, Any], *, step_size: float) -> None:
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        buffers = [self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix)) for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch.stack(torch._foreach_lerp(gradients, buffers, group["momentum"]))
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(_orthogonalised(ahead).to(ahead.dtype).unbind()), alpha=-step_size)


def _orthogonalised(stack: Tensor) -> Tensor:
    """Bring all singular values of `[matrix, row, col]` near 1 by Newton-Schulz iterations in bfloat16."""
    a, b, c = Muon._COEFFICIENTS
    tall = stack.shape[1] > stack.shape[2]
    x = stack.bfloat16().mT if tall else stack.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(Muon._ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every parameter group."""
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
