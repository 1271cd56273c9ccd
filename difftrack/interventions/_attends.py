"""Interventions that exchange how chosen heads attend."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difftrack.backbones import AttentionCall
from difftrack.interventions._attention import SequenceLayout, perturbed_attention
from difftrack.interventions._errors import InterventionError
from difftrack.interventions._params import CutVariant
from difftrack.interventions._sites import Intervention

__all__ = ["Attend", "Identity", "OwnFrame"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attend(Intervention, ABC):
    """Base of interventions that compute a head's output in another way from its query, key and value."""

    @abstractmethod
    def attend(
        self, call: AttentionCall, clips: slice, heads: list[int] | slice, layout: SequenceLayout
    ) -> Float[Tensor, "clip head token channel"]:
        """Give the output of some heads for some entries of the batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnFrame(Attend):
    """Let no video token of these heads see another frame than its own; text sees and is seen as ever.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), appendix D: cross-attention guidance perturbs so. `perturbed_attention`
        says the equations.
    """

    variant: CutVariant = "zeroed"
    """Drop weights between frames after the softmax (the paper's), or their scores before it."""

    needs_layout = True

    def attend(
        self, call: AttentionCall, clips: slice, heads: list[int] | slice, layout: SequenceLayout
    ) -> Float[Tensor, "clip head token channel"]:
        if call.arguments.get("is_causal", False) or call.query.shape[2] != call.key.shape[2]:
            raise InterventionError(
                f"layer {call.layer}: attention is causal or crosses sequences; it cannot be cut between frames"
            )
        mask = _attended_by_video(call, layout)
        return perturbed_attention(
            call.query[clips, heads],
            call.key[clips, heads],
            call.value[clips, heads],
            layout,
            variant=self.variant,
            mask=None if mask is None else mask[clips],
            scale=call.arguments.get("scale"),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity(Attend):
    """Put the identity in the place of the attention map: every token gets its own value, text tokens, too.

    Source:
        Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377), as diffusers' guiders do it.
    """

    def attend(
        self, call: AttentionCall, clips: slice, heads: list[int] | slice, layout: SequenceLayout
    ) -> Float[Tensor, "clip head token channel"]:
        if call.query.shape[2] != call.key.shape[2]:
            raise InterventionError(f"layer {call.layer}: attention crosses sequences; there is no identity")
        return call.value[clips, heads]


def _attended_by_video(call: AttentionCall, layout: SequenceLayout) -> Bool[Tensor, "batch 1 1 token"] | None:
    """Find which tokens video tokens attend to; only their outputs are ever read where text is padded."""
    mask, num_tokens = call.mask, call.query.shape[2]
    if mask is None:
        return None
    if mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1:
        rows = mask.expand(len(call.query), 1, num_tokens, num_tokens)[:, :, layout.video(num_tokens)]
        if torch.equal(rows[:, :, 0], rows[:, :, -1]):
            return rows[:, :, :1]
    raise InterventionError(
        f"layer {call.layer}: the model masks by a {mask.dtype} mask of shape {list(mask.shape)}; only masks that "
        f"are the same for all video tokens can be guided"
    )
