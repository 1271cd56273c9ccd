"""Chooses one of several candidates in every frame: the likeliest path that moves little between frames."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["viterbi_paths", "typical_steps"]


def viterbi_paths(
    candidates_xy: Float[Tensor, "frame point candidate xy"],
    share: Float[Tensor, "frame point candidate"],
    *,
    motion_cost: float | Float[Tensor, " point"] | Float[Tensor, "step point"],
    limit: float,
) -> Float[Tensor, "frame point xy"]:
    """Choose a candidate of every point in every frame, exactly, by dynamic programming (Viterbi).

        max over c of  sum_t log share_t(c_t) - sum_t motion_cost_t * min(|x_t(c_t) - x_{t-1}(c_{t-1})|, limit)^2

    Where the tokens around a point disagree, the frames before and after often decide. A step beyond `limit` costs no
    more than one of `limit`, so a path may continue elsewhere after an occlusion.

    Args:
        candidates_xy: Positions in any unit; in the query's frame all candidates are the query itself.
        share: Share of votes for each candidate, 0 ... 1.
        motion_cost: Cost of a step of one unit, for all points, for each point, or for each step of each point; step t
            leads from frame t to t + 1. 0 takes the largest share of every frame.
        limit: In the unit of the positions.

        Returns: Chosen positions.
    """
    costs = torch.as_tensor(motion_cost, dtype=share.dtype).expand(len(share) - 1, share.shape[1])[..., None, None]
    likely = share.clamp(min=torch.finfo(share.dtype).tiny).log()
    score, came_from = likely[0], []
    for here, before, own, cost in zip(candidates_xy[1:], candidates_xy[:-1], likely[1:], costs, strict=True):
        step = torch.cdist(here, before, compute_mode="donot_use_mm_for_euclid_dist").clamp(max=limit)
        best, token = (score[:, None] - cost * step**2).max(dim=-1)
        score = own + best
        came_from.append(token.to(torch.int16))  # small type: kept for every frame of the video
    chosen = [score.argmax(dim=-1, keepdim=True)]
    for token in reversed(came_from):
        chosen.append(token.long().gather(-1, chosen[-1]))
    path = torch.stack(chosen[::-1])
    return candidates_xy.take_along_dim(path[..., None], dim=-2)[..., 0, :]


def typical_steps(
    points_xy: Float[Tensor, "frame point xy"], sure: Bool[Tensor, "frame point"], *, limit: float
) -> Float[Tensor, " point"]:
    """Compute each point's root mean squared step between neighbouring frames where both positions are reliable.

    One step of one unit is added to every point's steps; it is the result if no position is reliable.

    Args:
        points_xy: Positions in any unit.
        sure: Where a position is reliable.
        limit: Longer steps are clipped to this, in the unit of the positions.
    """
    step = (points_xy[1:] - points_xy[:-1]).norm(dim=-1).clamp(max=limit)
    counted = (sure[1:] & sure[:-1]).to(step.dtype)
    squared: Tensor = (1 + (counted * step**2).sum(dim=0)) / (1 + counted.sum(dim=0))
    return squared.sqrt()
