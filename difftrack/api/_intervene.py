"""Experiments inside a model: removes, freezes, swaps or patches heads, while it samples or in one forward."""

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
    """Act on the attention of a model inside a `with` block; the model is restored afterwards.

    Within a layer, edits of query, key and value come first, then replaced attention, then edits of the output, each
    kind in the given order. Where no intervention acts, no bit changes.

    Args:
        model: Result of `load_backbone` or `wrap`.
        interventions: Interventions from `difftrack.interventions`: `Zero`, `Mean`, `Freeze`, `Swap`, `Scale`, `Patch`
            with `Recording`, `OwnFrame`, `Identity`, `SkipLayer`, or classes that derive from `Edit` or `Attend`.
        size: (frames, height, width) of the clip that is run; by default the size that the model was trained on.
        calls: How the pipeline calls the branches of classifier-free guidance; `cond` for one forward by hand. It
            matters for interventions that name steps or branches.
        num_clips: Clips that are run at once.

    Returns:
        A context for one run; it yields how often each intervention has acted so far, as a list that is updated.

    Raises:
        InterventionError: a layer or head does not exist, or the run cannot be followed.

    Example:
        >>> import difftrack as dt
        >>> from difftrack.interventions import Zero
        >>> with dt.intervene(model, Zero(layers=4, heads=[1, 3], steps=range(5))):  # doctest: +SKIP
        ...     without = model.generate("a red disc moves left", ...)
    """
    size = size or model.made_for
    grid = None if size is None else model.token_grid(*size)
    return intervening(model, interventions, grid=grid, calls=calls, num_clips=num_clips)
