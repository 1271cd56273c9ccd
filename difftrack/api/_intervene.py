"""Experiments inside a model: heads removed, frozen, exchanged, patched, while it samples or in one forward."""

from contextlib import AbstractContextManager

from difftrack.backbones import Backbone
from difftrack.interventions import CfgCallPattern, Intervention, intervening

__all__ = ["intervene"]


def intervene(
    model: Backbone,
    *interventions: Intervention,
    size: tuple[int, int, int] | None = None,
    calls: CfgCallPattern = "named",
    num_clips: int = 1,
) -> AbstractContextManager[list[int]]:
    """Act on the attention of a model inside a `with` block, whatever runs it there; the model is as before afterwards.

    Within a layer, edits of query, key and value come first, then ways of attending, then edits of the output, each
    kind in the order that is given. Without interventions, and where none of them acts, every bit is as without.

    Args:
        model: What `load_backbone` or `wrap` returned.
        interventions: Of `difftrack.interventions`: `Zero`, `Mean`, `Freeze`, `Swap`, `Scale`, `Patch` with
            `Recording`, `OwnFrame`, `Identity`, `SkipLayer`, or classes that derive from `Edit` or `Attend`.
        size: (frames, height, width) of the clip that is run; by default that which the model was trained on.
        calls: How the pipeline tells the branches of classifier-free guidance apart; `cond` for one forward by hand.
            It matters where an intervention names steps or branches.
        num_clips: Clips that are run at once.

    Returns:
        A context of one run; it gives how often each intervention has acted so far, as a list that goes on counting.

    Raises:
        InterventionError: there is no such layer or head, or the run cannot be followed.

    Example:
        >>> import difftrack as dt
        >>> from difftrack.interventions import Zero
        >>> with dt.intervene(model, Zero(layers=4, heads=[1, 3], steps=range(5))):  # doctest: +SKIP
        ...     without = model.generate("a red disc moves left", ...)
    """
    size = size or model.made_for
    grid = None if size is None else model.token_grid(*size)
    return intervening(model, interventions, grid=grid, calls=calls, num_clips=num_clips)
