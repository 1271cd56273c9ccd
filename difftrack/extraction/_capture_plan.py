"""The plan of a capture: the (step, layer, head, kind) that the backbone captures for each group."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from difftrack.backbones import CapturedKind
from difftrack.store import DescriptorSpec

__all__ = ["CapturePlan", "PlannedCapture", "ranges"]


class PlannedCapture(NamedTuple):
    """One array [latent_frame, row, col, channel] of a plan."""

    group: str
    step: int
    layer: int
    head: int
    kind: CapturedKind


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """Everything that the backbone captures for one group; the same object serves params and forward pass.

    Attributes:
        group: The clip, or a chunk of it, such as `dog` or `dog/chunk_003`.
        layers_of_step: The layers of each step, in the order in which they run; one forward a step.
        heads: Heads kept in every layer.
        kinds: Kinds kept in every layer.
        num_text_tokens: Text tokens whose keys are also kept; 0 for none.
    """

    group: str
    layers_of_step: Mapping[int, tuple[int, ...]]
    heads: tuple[int, ...]
    kinds: tuple[CapturedKind, ...]
    num_text_tokens: int = 0

    @classmethod
    def whole(cls, group: str, spec: DescriptorSpec) -> "CapturePlan":
        """Plan everything that a group will hold."""
        layers = dict.fromkeys(sorted(spec.steps), tuple(sorted(spec.layers)))
        return cls(group, layers, spec.heads, spec.kinds, spec.num_text_tokens)

    def only(self, units: Iterable[tuple[int, int]]) -> "CapturePlan":
        """Narrow the plan to some (step, layer), such as those that an interrupted run left out.

        Raises:
            ValueError: the plan has no such step or layer.
        """
        layers: dict[int, list[int]] = {}
        for step, layer in sorted(units):
            if layer not in self.layers_of_step.get(step, ()):
                raise ValueError(f"{self.group}: step {step}, layer {layer} is not planned; {self}")
            layers.setdefault(step, []).append(layer)
        return replace(self, layers_of_step={step: tuple(own) for step, own in layers.items()})

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps that are visited; their number is the number of forwards, apart from those of the inversion."""
        return tuple(self.layers_of_step)

    @property
    def units(self) -> list[tuple[int, int]]:
        """All (step, layer), in the order in which they are captured."""
        return [(step, layer) for step, layers in self.layers_of_step.items() for layer in layers]

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the arrays of every unit: the kinds, and `text_key` where text keys are kept."""
        return (*self.kinds, "text_key") if self.num_text_tokens else self.kinds

    def __iter__(self) -> Iterator[PlannedCapture]:
        """Iterate over the single arrays, by step, layer, head and kind."""
        for step, layer in self.units:
            for head in self.heads:
                for kind in self.kinds:
                    yield PlannedCapture(self.group, step, layer, head, kind)

    def __len__(self) -> int:
        return len(self.units) * len(self.heads) * len(self.kinds)

    def __str__(self) -> str:
        """Describe steps, layers, heads and kinds in one line; ranges are written as `0-7`."""
        layers: dict[tuple[int, ...], list[int]] = {}
        for step, own in self.layers_of_step.items():
            layers.setdefault(own, []).append(step)
        asked = "; ".join(f"steps {ranges(steps)} of layers {ranges(own)}" for own, steps in layers.items())
        kinds = ", ".join(self.entries)
        return f"{asked or 'nothing'}; heads {ranges(self.heads)}; {kinds}"


def ranges(numbers: Sequence[int]) -> str:
    """Abbreviate numbers: (0, 1, 2, 3, 6) as `0-3, 6`; two consecutive numbers stay apart."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts: list[str] = []
    for first, last in spans:
        parts += [f"{first}-{last}"] if last - first > 1 else [str(number) for number in range(first, last + 1)]
    return ", ".join(parts)
