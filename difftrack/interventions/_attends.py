"""Interventions that replace the attention of chosen heads."""

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
    """Base of interventions that compute a head's output differently from its query, key and value."""

    @abstractmethod
    def attend(
        self, call: AttentionCall, clips: slice, heads: list[int] | slice, layout: SequenceLayout
    ) -> Float[Tensor, "clip head token channel"]:
        """Compute the output of some heads for some entries of the batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnFrame(Attend):
    """Let video tokens of these heads attend only to their own frame and to text; text attends as before.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), appendix D: the perturbation of cross-attention guidance.
        `perturbed_attention` has the equations.
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
    """Replace the attention map with the identity: every token, including text, gets its own value.

    Source:
        Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377), as in diffusers' guiders.
    """

    def attend(
        self, call: AttentionCall, clips: slice, heads: list[int] | slice, layout: SequenceLayout
    ) -> Float[Tensor, "clip head token channel"]:
        if call.query.shape[2] != call.key.shape[2]:
            raise InterventionError(
                f"layer {call.layer}: attention is between two sequences, so Identity is undefined; use Zero"
            )
        return call.value[clips, heads]


def _attended_by_video(call: AttentionCall, layout: SequenceLayout) -> Bool[Tensor, "batch 1 1 token"] | None:
    """Find the tokens that video tokens attend to; outputs of padded text are never read."""
    mask, num_tokens = call.mask, call.query.shape[2]
    if mask is None:
        return None
    if mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == 1:
        rows = mask.expand(len(call.query), 1, num_tokens, num_tokens)[:, :, layout.video(num_tokens)]
        if torch.equal(rows[:, :, 0], rows[:, :, -1]):
            return rows[:, :, :1]
    raise InterventionError(
        f"layer {call.layer}: the model masks by a {mask.dtype} mask of shape {list(mask.shape)}; only masks that are "
        "equal for all video tokens are supported"
    )
