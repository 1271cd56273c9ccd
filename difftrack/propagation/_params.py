"""Every setting between stored descriptors and propagated labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FOR_SHIPPED", "PropagationKind", "PropagationParams"]

PropagationKind = Literal["query_key", "feature", "query_query", "key_key"]
"""Descriptors by which frames are compared: queries of the target with keys of the context, or a kind with itself."""


@dataclass(frozen=True, slots=True)
class PropagationParams:
    """How labels are propagated along descriptors; no change here runs the model again.

    `python -m benchmarks.propagation tune` chose the defaults on rendered clips with the shipped backbone, except kind
    and layers, which depend on the backbone: `FOR_SHIPPED` has those of the shipped one.

    Raises:
        ValueError: a value is out of its range, or two of them exclude each other.
    """

    kind: PropagationKind = "query_key"
    """Descriptors to match; all but `query_key` are compared by cosine."""
    layers: Literal["stored"] | tuple[int, ...] = "stored"
    """Layers whose match probabilities are averaged: all stored ones, or a list."""
    steps: Literal["stored"] | tuple[int, ...] = "stored"
    """Denoising steps whose match probabilities are averaged."""
    heads: Literal["all"] | tuple[int, ...] | Mapping[int, tuple[int, ...]] = "all"
    """Heads that take part, with equal weight: the same in every layer, or `{layer: heads}`. A feature joins all of its
    heads."""
    directions: Literal["forward", "both"] = "both"
    """`forward`: each target token attends to the context. `both`: averaged with the context's attention to the target,
    as in tracking.
    """
    num_context: int = 0
    """Labelled frames before the target (in the direction away from the anchor) that it attends to besides the anchor,
    as far as its chunk holds them.
    """
    radius_token: int | None = 6
    """A token attends to tokens at most this far from its own place along rows and along columns; null: to all. 0 keeps
    every label in place.
    """
    top_k: int | None = 20
    """Number of context tokens used for a target token, over all context frames together; null: all."""
    temperature: float | None = None
    """Divides the scores; null: the root of a head's channels for `query_key`, 0.1 for cosines."""
    memory_limit_mb: int = 96
    """Approximate limit of score buffers."""
    device: str = "auto"
    """Device for matching: cpu, cuda, cuda:1 ...; auto is cuda where there is one."""

    def __post_init__(self) -> None:
        if self.num_context < 0:
            raise ValueError(f"num_context is {self.num_context}; it must be at least 0")
        if self.radius_token is not None and self.radius_token < 0:
            raise ValueError(f"radius_token is {self.radius_token}; it must be at least 0, or null")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or null")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive, or null")
        if self.memory_limit_mb < 1:
            raise ValueError(f"memory_limit_mb is {self.memory_limit_mb}; it must be at least 1")
        if self.kind == "feature" and self.heads != "all":
            raise ValueError("kind is feature, which joins all heads: set heads to all")
        for name in ("layers", "steps", "heads"):
            if getattr(self, name) in ((), {}):
                raise ValueError(f"{name} is empty; name at least one")

    def sources(self, steps: Sequence[int], layers: Sequence[int]) -> list[tuple[int, int]]:
        """Choose the (step, layer) pairs to average among those stored.

        Raises:
            ValueError: a requested step or layer is not stored.
        """
        wanted_steps = tuple(steps) if self.steps == "stored" else self.steps
        wanted_layers = tuple(layers) if self.layers == "stored" else self.layers
        for name, wanted, stored in (("steps", wanted_steps, steps), ("layers", wanted_layers, layers)):
            if missing := sorted(set(wanted) - set(stored)):
                raise ValueError(f"{name} {missing} are not stored; there are {list(stored)}")
        return [(step, layer) for step in wanted_steps for layer in wanted_layers]

    def places_of_heads(self, layer: int, stored: Sequence[int]) -> list[int]:
        """Return the positions of a layer's heads on an axis with the heads `stored`.

        Raises:
            ValueError: a head is not stored, or `heads` names layers but not this one.
        """
        if self.heads == "all":
            return list(range(len(stored)))
        if isinstance(self.heads, Mapping) and layer not in self.heads:
            raise ValueError(f"heads has no entry for layer {layer}; known: {sorted(self.heads)}")
        heads = self.heads[layer] if isinstance(self.heads, Mapping) else self.heads
        if unknown := sorted(set(heads) - set(stored)):
            raise ValueError(f"heads {unknown} are not in layer {layer}; there are {list(stored)}")
        return [place for place, head in enumerate(stored) if head in heads]


FOR_SHIPPED = PropagationParams(kind="feature", layers=(3, 4))
"""Choice of `python -m benchmarks.propagation tune` for the shipped backbone, at 160x240 and its cleanest step."""
