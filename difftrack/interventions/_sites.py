"""Where an intervention acts: any layers, heads, steps and branches."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

from difftrack.interventions._attention import SequenceLayout
from difftrack.interventions._errors import InterventionError

__all__ = ["BranchName", "Chosen", "Intervention", "Site"]

BranchName = Literal["cond", "uncond"]
"""One half of classifier-free guidance."""
Chosen = Literal["all"] | Iterable[int] | int
"""Indices from 0 on, one of them, or all there are."""
_BRANCHES: tuple[BranchName, ...] = ("cond", "uncond")


@dataclass(frozen=True, slots=True)
class Site:
    """One place and moment at which an intervention acts."""

    layer: int
    """0-based, in execution order."""
    step: int | None
    """Step of the sampling run, 0 the noisiest; None where no intervention asks for it."""
    branch: BranchName | None
    """None where no intervention asks for it."""
    clip: int
    """The first of the clips that are sampled at once and that these tensors are about."""
    layout: SequenceLayout
    """What stands where in the sequence."""
    memory: dict[Hashable, Any] = field(repr=False)
    """Belongs to one intervention and lasts as long as the context in which it acts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervention:
    """Base of all interventions: where they act, as a product of four axes; several of them make any other set.

    Raises:
        InterventionError: a choice is not an index from 0 on, is named twice, or is not a branch.
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
    """Whether it must know step and branch even where all of them are chosen."""
    needs_layout: ClassVar[bool] = False
    """Whether it must know where the frames are in the sequence."""

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
        """Whether step and branch of every forward must be known."""
        return self.needs_moment or self.steps != "all" or self.branches != "all"

    def acts_in(self, layer: int) -> bool:
        """Whether it acts in a layer at all."""
        return self.heads != () and _among(layer, self.layers)

    def acts_at(self, layer: int, step: int | None, branch: BranchName | None) -> bool:
        """Whether it acts in a layer now."""
        at_step = self.steps == "all" or (step is not None and _among(step, self.steps))
        return at_step and self.in_branch(branch) and self.acts_in(layer)

    def in_branch(self, branch: BranchName | None) -> bool:
        """Whether it acts in a branch."""
        return self.branches == "all" or (branch is not None and branch in tuple(self.branches))

    def chosen(self, axis: Literal["layers", "heads"], count: int) -> tuple[int, ...]:
        """Indices along an axis of this length.

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
    """Indices in the order that was given."""
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
