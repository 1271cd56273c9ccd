"""Ordinary attention that also returns the logarithm of its denominators, unlike torch's public function."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

__all__ = ["attend_in_blocks", "attend_with_logsumexp"]

_ROWS = 128
"""Number of queries whose scores the portable form holds at once."""


def attend_with_logsumexp(
    query: Float[Tensor, "batch head query_token channel"],
    key: Float[Tensor, "batch head token channel"],
    value: Float[Tensor, "batch head token channel"],
    *,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch head query_token channel"], Float[Tensor, "batch head query_token"]]:
    """Attend, and return `log sum_j exp(scale * <q_i, k_j>)` of every query i.

    Uses the kernels behind torch's scaled-dot-product attention on CPU and CUDA, and blocks of queries elsewhere;
    memory grows linearly with the number of tokens.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        scale: Scale of the scores; None for 1 / sqrt(channel).

    Returns:
        The output, in the dtype of `query`, and the logarithms, in float32 (float64 for float64).
    """
    if query.device.type == "cpu":
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
        return output, logsumexp
    if query.device.type == "cuda":
        choice = SDPAParams(query, key, value, None, 0.0, False, False)
        if query.shape[-1] % 8 == 0 and can_use_flash_attention(choice):
            output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[:2]
            return output, logsumexp
        if can_use_efficient_attention(choice):
            output, padded = torch.ops.aten._scaled_dot_product_efficient_attention(
                query, key, value, None, True, scale=scale
            )[:2]
            return output, padded[..., : query.shape[2]]
    return attend_in_blocks(query, key, value, scale=scale)


def attend_in_blocks(
    query: Float[Tensor, "batch head query_token channel"],
    key: Float[Tensor, "batch head token channel"],
    value: Float[Tensor, "batch head token channel"],
    *,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch head query_token channel"], Float[Tensor, "batch head query_token"]]:
    """As `attend_with_logsumexp`, with matrix products only, for devices without such a kernel."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs, logarithms = [], []
    for rows in torch.split(query, _ROWS, dim=2):
        scores = (rows.float() * scale) @ key.float().transpose(-1, -2)
        logarithms.append(scores.logsumexp(dim=-1))
        outputs.append((scores.softmax(dim=-1) @ value.float()).to(query.dtype))
    return torch.cat(outputs, dim=2), torch.cat(logarithms, dim=2)
