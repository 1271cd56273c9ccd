"""Interventions that change a tensor of chosen heads: the output of attention, or its query, key or value."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.interventions._errors import InterventionError
from difftrack.interventions._sites import BranchName, Intervention, Site

__all__ = ["Edit", "Freeze", "Mean", "Patch", "Recording", "Scale", "Swap", "Target", "Tokens", "Zero"]

Target = Literal["output", "query", "key", "value"]
"""The changed tensor of a head: the output of its attention, before the layer mixes its heads, or its query, key or
value.
"""
Tokens = Literal["all", "video", "text"]
"""Tokens of the sequence; it includes text only in joint attention."""

_TARGETS: tuple[Target, ...] = ("output", "query", "key", "value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(Intervention, ABC):
    """Base of interventions that replace a tensor.

    A subclass defines `edit`, which receives the chosen heads and tokens of one branch and returns their replacement.
    """

    target: Target = "output"
    """The tensor that is changed."""
    tokens: Tokens = "all"
    """Tokens whose rows of the tensor are changed."""

    def __post_init__(self) -> None:
        Intervention.__post_init__(self)
        if self.target not in _TARGETS:
            raise InterventionError(f"target is {self.target!r}; expected {', '.join(_TARGETS)}")
        if self.tokens not in ("all", "video", "text"):
            raise InterventionError(f"tokens is {self.tokens!r}; expected all, video or text")

    @abstractmethod
    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        """Return the replacement, without modifying the tensor; return the tensor itself if nothing changes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Zero(Edit):
    """Set heads to zero: they add nothing to the layer's output (the bias of its output projection stays)."""

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return torch.zeros_like(tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Edit):
    """Multiply heads by a factor; 1 changes no bit."""

    factor: float

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return tensor if self.factor == 1 else tensor * self.factor


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Edit):
    """Replace each token with a mean over tokens: a head keeps only what all of them share.

    Text tokens get their own mean, over text.
    """

    over: Literal["clip", "frame", "time"] = "clip"
    """Mean over all video tokens of the clip, over each latent frame, or over each place in all latent frames."""

    needs_layout = True

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        if self.tokens == "text":
            return _mean(tensor, dim=2)
        num_tokens = tensor.shape[2]
        parts = [tensor] if self.tokens == "video" else [tensor[:, :, site.layout.video(num_tokens)]]
        shape = (*parts[0].shape[:2], site.layout.num_latent_frames, site.layout.tokens_per_frame, -1)
        frames = parts[0].reshape(shape)
        axes = {"clip": (2, 3), "frame": (3,), "time": (2,)}[self.over]
        means = [_mean(frames, dim=axes).flatten(2, 3)]
        if self.tokens == "all" and (text := tensor[:, :, site.layout.text(num_tokens)]).shape[2]:
            means.insert(0 if site.layout.text_position == "first" else 1, _mean(text, dim=2))
        return torch.cat(means, dim=2)


def _mean(tensor: Tensor, *, dim: int | tuple[int, ...]) -> Tensor:
    """Compute the mean in float32 or wider, repeated along the reduced axes."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return wide.mean(dim=dim, keepdim=True).to(tensor.dtype).expand_as(tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap(Edit):
    """Swap two heads of a layer: `Swap(heads=(1, 3))`."""

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if self.heads == "all" or len(tuple(self.heads)) != 2:  # type: ignore[arg-type]
            raise InterventionError(f"Swap needs two heads; heads is {self.heads}")

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return tensor.flip(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Freeze(Edit):
    """Record heads at one step, and reuse them at all later ones among `steps`."""

    at: int = 0
    """The step, 0 the noisiest."""

    needs_moment = True

    def acts_at(self, layer: int, step: int | None, branch: BranchName | None) -> bool:
        """Also true at the recorded step itself."""
        if step == self.at:
            return self.acts_in(layer) and self.in_branch(branch)
        return step is not None and step > self.at and Intervention.acts_at(self, layer, step, branch)

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        place = (site.layer, site.branch, site.clip)
        if site.step == self.at:
            site.memory[place] = tensor.detach().clone()
            return tensor
        if place not in site.memory:
            raise InterventionError(
                f"layer {site.layer} is frozen at step {self.at}, which did not run before step {site.step}; sample "
                f"from step {self.at} on, within one context"
            )
        kept: Tensor = site.memory[place]
        return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording(Edit):
    """Change nothing, and record chosen heads for `Patch`.

    A recording belongs to one run. It is stored on the model's device or on `device`, and holds layers x heads x steps
    x branches x tokens x channels numbers; `num_bytes` is its size.
    """

    device: str | None = None
    """Device of the recording; None is the model's device."""
    tensors: dict[tuple[int, int | None, BranchName | None, int], Tensor] = field(default_factory=dict, repr=False)
    """(layer, step, branch, first clip) -> [clip, head, token, channel]."""

    needs_moment = True

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        copy = tensor.detach().to(self.device or tensor.device, copy=True)
        self.tensors[site.layer, site.step, site.branch, site.clip] = copy
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch(Edit):
    """Replace heads with those of a recording at the same layer, step and branch.

    Heads, target and tokens default to the recording's; heads must be among those recorded.
    """

    source: Recording
    """Recording of another run: another prompt, clip, seed, or model of the same shape."""
    source_step: int | None = None
    """Step of the recording to use at every step of this run; None uses the same step."""
    source_branch: BranchName | None = None
    """Branch of the recording to use for every branch of this run; None uses the same branch."""

    needs_moment = True

    def __post_init__(self) -> None:
        if self.heads == "all":
            object.__setattr__(self, "heads", self.source.heads)
        object.__setattr__(self, "layers", self.source.layers if self.layers == "all" else self.layers)
        Edit.__post_init__(self)
        for name in ("target", "tokens"):
            ours, theirs = getattr(self, name), getattr(self.source, name)
            if ours != theirs:
                raise InterventionError(
                    f"the recording has {name} {theirs!r}, but Patch has {name} {ours!r}; use the same for both"
                )

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        step = site.step if self.source_step is None else self.source_step
        branch = site.branch if self.source_branch is None else self.source_branch
        kept = self.source.tensors.get((site.layer, step, branch, site.clip))
        if kept is None:
            raise InterventionError(
                f"the recording has nothing for layer {site.layer}, step {step}, branch {branch}, clip {site.clip}; "
                f"record it, or patch fewer layers and steps"
            )
        kept = _heads_of(kept, self.heads, self.source.heads)
        if kept.shape != tensor.shape:
            raise InterventionError(
                f"layer {site.layer}: the recording is [clip, head, token, channel] {list(kept.shape)}, but this run "
                f"has {list(tensor.shape)}; patch runs of equal size, with tokens='video' if prompts differ in length"
            )
        return kept.to(tensor)


def _heads_of(kept: Tensor, wanted: Any, recorded: Any) -> Tensor:  # noqa: ANN401
    """Select recorded heads."""
    if wanted == recorded:
        return kept
    index = {head: place for place, head in enumerate(range(kept.shape[1]) if recorded == "all" else recorded)}
    if missing := [head for head in wanted if head not in index]:
        raise InterventionError(f"the recording holds no heads {missing}; it holds {sorted(index)}")
    return kept[:, [index[head] for head in wanted]]
