"""Interventions in words, for a command line and for artifacts: `zero`, `mean:time`, `scale:0.5`, `skip`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from difftrack.interventions._attends import Identity, OwnFrame
from difftrack.interventions._edits import Freeze, Mean, Scale, Zero
from difftrack.interventions._errors import InterventionError
from difftrack.interventions._sites import Intervention
from difftrack.interventions._skip import SkipLayer

__all__ = ["WORDS", "read_intervention"]

_MAKERS: Mapping[str, tuple[Callable[..., Intervention], Callable[[str], dict[str, Any]] | None]] = MappingProxyType({
    "zero": (Zero, None),
    "mean": (Mean, lambda text: {"over": _one_of(text, "clip", "frame", "time")}),
    "scale": (Scale, lambda text: {"factor": float(text)}),
    "freeze": (Freeze, lambda text: {"at": int(text)}),
    "own_frame": (OwnFrame, lambda text: {"variant": _one_of(text, "zeroed", "masked")}),
    "identity": (Identity, None),
    "skip": (SkipLayer, None),
})  # fmt: skip

WORDS = (
    "zero",
    "mean[:clip|frame|time]",
    "scale:FACTOR",
    "freeze:STEP",
    "own_frame[:zeroed|masked]",
    "identity",
    "skip",
)
"""Forms that `read_intervention` reads."""


def read_intervention(text: str, **where: Any) -> Intervention:  # noqa: ANN401 - layers, heads, steps, branches
    """Make an intervention from a word and its argument after a colon.

    Args:
        text: One of `WORDS`.
        where: `layers`, `heads`, `steps`, `branches` of `Intervention`.

    Raises:
        InterventionError: the text is not one of them.
    """
    word, colon, rest = text.partition(":")
    maker, read = _MAKERS.get(word, (None, None))
    try:
        if maker is None or (colon and read is None):
            raise ValueError(text)
        options = read(rest) if read is not None and colon else {}
        return maker(**options, **where)
    except InterventionError:
        raise
    except (TypeError, ValueError) as error:
        raise InterventionError(f"{text!r} is not an intervention; expected {', '.join(WORDS)}") from error


def _one_of(text: str, *choices: str) -> str:
    if text not in choices:
        raise ValueError(text)
    return text
