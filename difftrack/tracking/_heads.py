"""Which heads to track with, learned from clips whose tracks are known."""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["select_heads"]

HeadT = TypeVar("HeadT", bound=Hashable)


def select_heads(
    score: Callable[[tuple[HeadT, ...]], float], heads: Sequence[HeadT], *, min_gain: float = 0.0
) -> tuple[HeadT, ...]:
    """Pick heads greedily: the best alone, then whichever helps most, until none helps.

    Few heads carry correspondence; averaging in the others blurs the match. With n heads this asks for at most
    n * (n + 1) / 2 scores, all of them read-outs of the same cached descriptors.

    Args:
        score: Gives the worth of a choice, higher is better: say, the mean delta_avg over rendered tuning clips with
            these `TrackParams.heads`, or with `head_weights` for (layer, head) pairs. Clips that are reported on must
            not be among them.
        heads: Candidates, such as heads of one layer or (layer, head) pairs of several.
        min_gain: Stop when the next head adds no more than this.

    Returns:
        The chosen heads, in the candidates' order. Of heads of the same worth the first is taken.

    Raises:
        ValueError: there is no candidate.
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
