"""The plain versions of the fast paths: a few obviously correct lines each, for tests and `backend: reference`."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["attention_parts_reference", "pair_rows_reference"]


def pair_rows_reference(
    query: Float[Tensor, "head latent_frame token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    tokens: Int[Tensor, " query_token"],
    *,
    source_frame: int,
    targets: slice,
    head_weights: Float[Tensor, " head"] | None,
    scale: float,
    both: bool,
    per_head: bool,
) -> Float[Tensor, "group target_frame query_token token"]:
    """Compute `pair_rows` with the scores of all heads at once."""
    query, key = query.float(), key.float()
    rows = (torch.einsum("hic,hfxc->hfix", query[:, source_frame, tokens], key[:, targets]) * scale).softmax(dim=-1)
    if both:
        back = (torch.einsum("hfxc,hic->hfxi", query[:, targets], key[:, source_frame]) * scale).softmax(dim=-1)
        rows = (rows + back[..., tokens].transpose(2, 3)) / 2
    if per_head:
        return rows
    if head_weights is None:
        return rows.mean(dim=0, keepdim=True)
    return torch.einsum("h,hfix->fix", head_weights, rows)[None]


def attention_parts_reference(
    query: Float[Tensor, "head token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"] | None,
    tokens: Int[Tensor, " point"],
    *,
    mean: bool,
    per_head: bool,
) -> tuple[
    Float[Tensor, "head part point"], Float[Tensor, "part point"] | None, Float[Tensor, "head part point"] | None
]:
    """Compute `attention_parts` from whole rows of attention."""
    text_key = text_key if text_mask is None else text_key[:, text_mask]
    answering = torch.cat([text_key, key.flatten(1, 2)], dim=1).float()
    rows = (query[:, tokens].float() @ answering.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    split = [text_key.shape[1], *[key.shape[2]] * key.shape[1]]
    mass = torch.stack([part.sum(dim=-1) for part in torch.split(rows, split, dim=-1)], dim=1)

    def largest(values: Tensor) -> Tensor:
        parts = torch.split(torch.nn.functional.pad(values, (1, 0)), [1 + split[0], *split[1:]], dim=-1)
        return torch.stack([part.amax(dim=-1) for part in parts], dim=-2)

    return mass, largest(rows.mean(dim=0)) if mean else None, largest(rows) if per_head else None
