"""Points as users write them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

__all__ = ["Points", "points_array"]

Points = Sequence[Sequence[float | int]] | np.ndarray
"""(x, y) pairs, pixels: a list of tuples, or an array [point, xy]."""


def points_array(points: Points) -> Float32[np.ndarray, "point xy"]:
    """Return points as an array.

    Raises:
        ValueError: they are not pairs of numbers.
    """
    try:
        found = np.asarray(points, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"points are {points!r}; expected (x, y) pairs in pixels") from error
    if found.ndim != 2 or found.shape[1] != 2:
        raise ValueError(f"points have shape {list(found.shape)}; expected [point, 2], (x, y) pairs in pixels")
    return found
