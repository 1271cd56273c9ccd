"""Interventions that change a tensor of chosen heads: what attention gives, or what it attends with."""

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
"""What of a head is changed: what its attention gives, before the layer mixes its heads; or what it attends with."""
Tokens = Literal["all", "video", "text"]
"""Tokens of the sequence; text stands in it only where attention is joint."""

_TARGETS: tuple[Target, ...] = ("output", "query", "key", "value")


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(Intervention, ABC):
    """Base of interventions that put another tensor in the place of one.

    A subclass gives `edit`; difftrack hands it the chosen heads and tokens of one branch, and puts back what it gives.
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
        """Give what stands in the tensor's place; the tensor itself, not written to, where nothing is to change."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Zero(Edit):
    """Put zeros in the place of heads: they add nothing to the layer's output (its output projection's bias stays)."""

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return torch.zeros_like(tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Edit):
    """Multiply heads by a factor; 1 leaves every bit."""

    factor: float

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return tensor if self.factor == 1 else tensor * self.factor


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Edit):
    """Put a mean over tokens in the place of each token: a head goes on saying what it says of all of them alike.

    Text tokens get their own mean, over text.
    """

    over: Literal["clip", "frame", "time"] = "clip"
    """All video tokens of the clip; those of each latent frame; or those in one place of all latent frames."""

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
    """In float32 or wider, over axes that keep their length."""
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return wide.mean(dim=dim, keepdim=True).to(tensor.dtype).expand_as(tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swap(Edit):
    """Exchange two heads of a layer with each other: `Swap(heads=(1, 3))`."""

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if self.heads == "all" or len(tuple(self.heads)) != 2:  # type: ignore[arg-type]
            raise InterventionError(f"Swap exchanges two heads; named are {self.heads}")

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        return tensor.flip(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Freeze(Edit):
    """Keep what heads have at one step, and give that out at all later ones among `steps`."""

    at: int = 0
    """The step, 0 the noisiest."""

    needs_moment = True

    def acts_at(self, layer: int, step: int | None, branch: BranchName | None) -> bool:
        """At the step itself, too, where it takes what it keeps."""
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
                f"layer {site.layer} is frozen at step {self.at}, and step {site.step} came without it; sample from "
                f"step {self.at} on, within one context"
            )
        kept: Tensor = site.memory[place]
        return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording(Edit):
    """Change nothing, and keep what chosen heads have, for `Patch`.

    One recording is of one run. It lies on the model's device, or on the one that is named: layers x heads x steps x
    branches x tokens x channels numbers, of which `num_bytes` tells the bytes.
    """

    device: str | None = None
    """Where it is kept; None leaves it where the model computes."""
    tensors: dict[tuple[int, int | None, BranchName | None, int], Tensor] = field(default_factory=dict, repr=False)
    """By (layer, step, branch, first clip): [clip, head, token, channel]."""

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
    """Put what a recording holds in the place of the same heads at the same layer, step and branch of this run.

    Heads, target and tokens are the recording's unless others are named here; heads must be among those recorded.
    """

    source: Recording
    """From another run: of another prompt, clip, seed or model of the same shape."""
    source_step: int | None = None
    """Give out what the recording holds of this one step, whatever the step is now."""
    source_branch: BranchName | None = None
    """Give out what the recording holds of this branch, whatever the branch is now."""

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
                    f"the recording is of {name} {theirs!r} and Patch changes {name} {ours!r}; say the same for both"
                )

    def edit(
        self, tensor: Float[Tensor, "clip head token channel"], site: Site
    ) -> Float[Tensor, "clip head token channel"]:
        step = site.step if self.source_step is None else self.source_step
        branch = site.branch if self.source_branch is None else self.source_branch
        kept = self.source.tensors.get((site.layer, step, branch, site.clip))
        if kept is None:
            raise InterventionError(
                f"the recording holds nothing of layer {site.layer}, step {step}, branch {branch}, clip {site.clip}; "
                f"record it, or patch fewer layers and steps"
            )
        kept = _heads_of(kept, self.heads, self.source.heads)
        if kept.shape != tensor.shape:
            raise InterventionError(
                f"layer {site.layer}: the recording is [clip, head, token, channel] {list(kept.shape)}, and this run "
                f"has {list(tensor.shape)}; patch runs of one size, with tokens='video' where prompts differ in length"
            )
        return kept.to(tensor)


def _heads_of(kept: Tensor, wanted: Any, recorded: Any) -> Tensor:  # noqa: ANN401
    """Choose among the heads that were recorded."""
    if wanted == recorded:
        return kept
    index = {head: place for place, head in enumerate(range(kept.shape[1]) if recorded == "all" else recorded)}
    if missing := [head for head in wanted if head not in index]:
        raise InterventionError(f"the recording holds no heads {missing}; it holds {sorted(index)}")
    return kept[:, [index[head] for head in wanted]]
