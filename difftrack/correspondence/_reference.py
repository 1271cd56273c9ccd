"""The plain version of the fast paths: a few obviously right lines, for tests and `backend: reference`."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["mean_attention_reference"]


def mean_attention_reference(
    query: Float[Tensor, "head frame query_token channel"],
    key: Float[Tensor, "head frame key_token channel"],
    head_weights: Float[Tensor, " head"],
    *,
    scale: float,
) -> Float[Tensor, "frame query_token key_token"]:
    """Weighted mean over heads of softmax(scale * query key^T), all heads' scores held at once."""
    scores = torch.einsum("hfqc,hfkc->hfqk", query.float(), key.float()) * scale
    return torch.einsum("h,hfqk->fqk", head_weights, scores.softmax(dim=-1))
