"""Chooses the heads to track with, from clips whose tracks are known."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["select_heads"]

HeadT = TypeVar("HeadT", bound=Hashable)


def select_heads(
    score: Callable[[tuple[HeadT, ...]], float], heads: Sequence[HeadT], *, min_gain: float = 0.0
) -> tuple[HeadT, ...]:
    """Pick heads greedily: first the best one, then each time the head that helps most, until none helps.

    Few heads carry correspondence; averaging over the others blurs the match. With n heads this computes at most n * (n
    + 1) / 2 scores, all from the same cached descriptors.

    Args:
        score: Score of a choice, higher is better, such as the mean delta_avg over rendered tuning clips with these
            `TrackParams.heads`, or with `head_weights` for (layer, head) pairs. Do not use clips that results are
            reported on.
        heads: Candidates, such as heads of one layer or (layer, head) pairs of several.
        min_gain: Stop when the next head adds no more than this.

    Returns:
        The chosen heads, in the candidates' order. Among heads with equal scores, the first is taken.

    Raises:
        ValueError: `heads` is empty.
    """
    if not heads:
        raise ValueError("heads is empty; at least one candidate is needed")
    chosen: tuple[HeadT, ...] = ()
    best = float("-inf")
    while rest := [head for head in heads if head not in chosen]:
        scores = {head: score(tuple(own for own in heads if own in (*chosen, head))) for head in rest}
        helper = max(scores, key=scores.__getitem__)
        if not scores[helper] > best + min_gain:
            break
        chosen, best = tuple(own for own in heads if own in (*chosen, helper)), scores[helper]
    return chosen
