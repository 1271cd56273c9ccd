"""Where an intervention acts: layers, heads, steps and branches."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from difftrack.interventions._attention import SequenceLayout
from difftrack.interventions._errors import InterventionError

__all__ = ["BranchName", "Chosen", "Intervention", "Site"]

BranchName = Literal["cond", "uncond"]
"""One half of classifier-free guidance."""
Chosen = Literal["all"] | Iterable[int] | int
"""Indices from 0 on, a single one, or all."""
_BRANCHES: tuple[BranchName, ...] = ("cond", "uncond")


@dataclass(frozen=True, slots=True)
class Site:
    """One place and moment at which an intervention acts."""

    layer: int
    """0-based, in execution order."""
    step: int | None
    """Step of the sampling run, 0 the noisiest; None if no intervention needs it."""
    branch: BranchName | None
    """The branch; None if no intervention needs it."""
    clip: int
    """Index of these tensors' first clip among those sampled at once."""
    layout: SequenceLayout
    """Places of video and text in the sequence."""
    memory: dict[Hashable, Any] = field(repr=False)
    """State of one intervention for the duration of its context."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervention:
    """Base of all interventions: acts on a product of four axes; combine several for other sets.

    Raises:
        InterventionError: an index is negative or repeated, or a branch is unknown.
    """

    layers: Chosen = "all"
    """0-based layers."""
    heads: Chosen = "all"
    """0-based attention heads."""
    steps: Chosen = "all"
    """Steps of the sampling run, 0 the noisiest."""
    branches: Literal["all"] | BranchName | Iterable[BranchName] = "all"
    """Halves of classifier-free guidance: `cond`, `uncond`."""

    needs_moment: ClassVar[bool] = False
    """Whether it needs step and branch even if all of them are chosen."""
    needs_layout: ClassVar[bool] = False
    """Whether it needs the places of frames in the sequence."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "steps"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        branches = (self.branches,) if isinstance(self.branches, str) and self.branches != "all" else self.branches
        named = branches if branches == "all" else tuple(branches)
        if named != "all" and not set(named) <= set(_BRANCHES):
            raise InterventionError(f"branches are {list(named)}; expected some of {', '.join(_BRANCHES)}, or 'all'")
        object.__setattr__(self, "branches", named)

    @property
    def asks_for_moment(self) -> bool:
        """Return whether it needs step and branch of every forward."""
        return self.needs_moment or self.steps != "all" or self.branches != "all"

    def acts_in(self, layer: int) -> bool:
        """Return whether it acts in a layer at any step."""
        return self.heads != () and _among(layer, self.layers)

    def acts_at(self, layer: int, step: int | None, branch: BranchName | None) -> bool:
        """Return whether it acts in a layer at this site."""
        at_step = self.steps == "all" or (step is not None and _among(step, self.steps))
        return at_step and self.in_branch(branch) and self.acts_in(layer)

    def in_branch(self, branch: BranchName | None) -> bool:
        """Return whether it acts in a branch."""
        return self.branches == "all" or (branch is not None and branch in tuple(self.branches))

    def chosen(self, axis: Literal["layers", "heads"], count: int) -> tuple[int, ...]:
        """Return the indices along an axis of this length.

        Raises:
            InterventionError: the axis is shorter.
        """
        indices = getattr(self, axis)
        if indices == "all":
            return tuple(range(count))
        if indices and max(indices) >= count:
            raise InterventionError(
                f"{type(self).__name__} names {axis} {list(indices)}; there are {axis} 0 to {count - 1}"
            )
        return cast(tuple[int, ...], indices)


def _indices(name: str, chosen: Any) -> Literal["all"] | tuple[int, ...]:  # noqa: ANN401
    """Return indices in the given order."""
    if isinstance(chosen, str):
        if chosen == "all":
            return "all"
        raise InterventionError(f"{name} is {chosen!r}; expected indices from 0 on, or 'all'")
    indices = (int(chosen),) if not isinstance(chosen, Iterable) else tuple(int(index) for index in chosen)
    if len(set(indices)) < len(indices) or min(indices, default=0) < 0:
        raise InterventionError(f"{name} are {list(indices)}; expected indices from 0 on, each once")
    return indices


def _among(index: int, chosen: Any) -> bool:  # noqa: ANN401
    return chosen == "all" or index in chosen
