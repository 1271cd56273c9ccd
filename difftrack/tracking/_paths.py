"""One of several candidates in every frame: the likeliest path that moves little from frame to frame."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["likeliest_paths"]


def likeliest_paths(
    candidates_xy: Float[Tensor, "frame point candidate xy"],
    share: Float[Tensor, "frame point candidate"],
    *,
    motion_cost: float,
    limit: float,
) -> Float[Tensor, "frame point xy"]:
    """Choose a candidate of every point in every frame, exactly, by dynamic programming (Viterbi).

        max over c of  sum_t log share_t(c_t) - motion_cost * sum_t min(|x_t(c_t) - x_{t-1}(c_{t-1})|, limit)^2

    Where tokens around a point disagree about where it went, the frames before and after often tell. Beyond `limit` a
    step costs no more, so that a path may go on elsewhere behind an occlusion.

    Args:
        candidates_xy: Positions in any unit; in the query's frame all candidates are the query itself.
        share: How much speaks for each, 0 ... 1.
        motion_cost: Of a step of one unit; with 0 the largest share of every frame is taken.
        limit: In the unit of the positions.

    Returns:
        Chosen positions.
    """
    likely = share.clamp(min=torch.finfo(share.dtype).tiny).log()
    score, came_from = likely[0], []
    for here, before, own in zip(candidates_xy[1:], candidates_xy[:-1], likely[1:], strict=True):
        step = torch.cdist(here, before, compute_mode="donot_use_mm_for_euclid_dist").clamp(max=limit)
        best, token = (score[:, None] - motion_cost * step**2).max(dim=-1)
        score = own + best
        came_from.append(token)
    chosen = [score.argmax(dim=-1, keepdim=True)]
    for token in reversed(came_from):
        chosen.append(token.gather(-1, chosen[-1]))
    path = torch.stack(chosen[::-1])
    return candidates_xy.take_along_dim(path[..., None], dim=-2)[..., 0, :]
