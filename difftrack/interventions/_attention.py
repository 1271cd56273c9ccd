"""Attention in which video tokens attend only to their own frame and text."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from difftrack.backbones import TextPosition
from difftrack.interventions._errors import InterventionError
from difftrack.interventions._logsumexp import attend_with_logsumexp
from difftrack.interventions._params import CutVariant

__all__ = ["SequenceLayout", "perturbed_attention"]


@dataclass(frozen=True, slots=True)
class SequenceLayout:
    """Layout of an attention's sequence: video tokens frame by frame, with text before, after or absent."""

    num_latent_frames: int
    """Token frames."""
    tokens_per_frame: int
    """Rows times columns."""
    text_position: TextPosition

    def video(self, num_tokens: int) -> slice:
        """Return the place of the video in a sequence of this many tokens; the rest is text.

        Raises:
            InterventionError: the sequence cannot hold this video.
        """
        num_video = self.num_latent_frames * self.tokens_per_frame
        num_text = num_tokens - num_video
        if num_text < 0 or (num_text and self.text_position == "none"):
            raise InterventionError(
                f"attention is over {num_tokens} tokens, but {self.num_latent_frames} latent frames of "
                f"{self.tokens_per_frame} tokens with text {self.text_position!r} need {num_video}; sample at the "
                "size that this was set up for"
            )
        return slice(num_text, num_tokens) if self.text_position == "first" else slice(0, num_video)

    def check_latents(self, latents: Float[Tensor, "batch ..."]) -> None:
        """Refuse latents that cannot be this many tokens: a sequence does not tell text from video.

        Raises:
            InterventionError: the sizes differ; the message names both.
        """
        if latents[0].numel() % (self.num_latent_frames * self.tokens_per_frame):
            raise InterventionError(
                f"latents of shape {list(latents.shape)} are not the {self.num_latent_frames} latent frames of "
                f"{self.tokens_per_frame} tokens that this was set up for; set it up for the sampled size"
            )

    def text(self, num_tokens: int) -> slice:
        """Return the place of the text; an empty range if there is none."""
        video = self.video(num_tokens)
        return slice(0, video.start) if self.text_position == "first" else slice(video.stop, num_tokens)


def perturbed_attention(
    query: Float[Tensor, "batch head token channel"],
    key: Float[Tensor, "batch head token channel"],
    value: Float[Tensor, "batch head token channel"],
    layout: SequenceLayout,
    *,
    variant: CutVariant,
    mask: Bool[Tensor, "batch 1 1 token"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch head token channel"]:
    """Attend so that no video token receives anything from another frame.

    With S_i the keys that query i may still see (text and its own frame; all keys for text queries) and p the ordinary
    softmax over all keys:

        zeroed:  o_i = sum_{j in S_i} p_ij v_j                     (rows sum to less than 1)
        masked:  o_i = sum_{j in S_i} p_ij v_j / sum_{j in S_i} p_ij

    The second is ordinary attention over text and one frame, so frames are folded into the batch. The first is the
    second times `exp(lse_i(S_i) - lse_i(all))`, lse being the logarithm of a softmax's denominator; `lse_i(all)` comes
    from one ordinary pass, whose text rows are the answer for text. No mask over pairs of tokens exists at any time.

    Args:
        query: Queries, normalised and rotated.
        key: Keys likewise.
        value: Values.
        layout: Places of video and text.
        variant: `zeroed` or `masked`.
        mask: True where a token may be attended to at all; False on padded text.
        scale: Scale of the scores; None for 1 / sqrt(channel).

    Raises:
        InterventionError: the sequence does not fit the layout, or the mask hides video tokens.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), appendix D, means `zeroed`; the released code uses `zeroed` with guidance
        and `masked` without. docs/decisions/0006-which-guidance.md explains both.
    """
    if mask is not None and len(query) > 1:
        samples = zip(*(torch.split(tokens, 1) for tokens in (query, key, value, mask)), strict=True)
        parts = [perturbed_attention(q, k, v, layout, variant=variant, mask=m, scale=scale) for q, k, v, m in samples]
        return torch.cat(parts)
    if mask is not None:
        attended = mask[0, 0, 0]
        if not attended[layout.video(len(attended))].all():
            raise InterventionError(
                "the model masks video tokens; only attention over whole clips can be cut between frames"
            )
        key, value = key[:, :, attended], value[:, :, attended]
    video, text = layout.video(query.shape[2]), layout.text(query.shape[2])
    frame_query = _fold(query[:, :, video], layout)
    frame_key, frame_value = _text_and_frame(key, layout), _text_and_frame(value, layout)
    if variant == "masked":
        of_video = scaled_dot_product_attention(frame_query, frame_key, frame_value, scale=scale)
        of_text = scaled_dot_product_attention(query[:, :, text], key, value, scale=scale)
        parts = [of_text, _unfold(of_video, layout)]
        return torch.cat(parts if layout.text_position == "first" else parts[::-1], dim=2)
    output, of_all = attend_with_logsumexp(query, key, value, scale=scale)
    of_video, of_frame = attend_with_logsumexp(frame_query, frame_key, frame_value, scale=scale)
    kept = (of_frame.unsqueeze(-1) - _fold(of_all[:, :, video].unsqueeze(-1), layout)).exp()
    output[:, :, video] = _unfold(of_video.mul_(kept), layout)
    return output


def _text_and_frame(
    tokens: Float[Tensor, "batch head token channel"], layout: SequenceLayout
) -> Float[Tensor, "batch_frame head kept_token channel"]:
    """Return the tokens that one frame's queries may see: all text, and the frame."""
    video, text = layout.video(tokens.shape[2]), layout.text(tokens.shape[2])
    frames = _fold(tokens[:, :, video], layout)
    if text.start == text.stop:
        return frames
    repeated = tokens[:, None, :, text].expand(-1, layout.num_latent_frames, -1, -1, -1).flatten(0, 1)
    return torch.cat([repeated, frames], dim=2)


def _fold(
    tokens: Float[Tensor, "batch head video_token channel"], layout: SequenceLayout
) -> Float[Tensor, "batch_frame head frame_token channel"]:
    """Make each frame a batch element of its own."""
    batch, heads, _, channels = tokens.shape
    frames = tokens.reshape(batch, heads, layout.num_latent_frames, layout.tokens_per_frame, channels)
    return frames.transpose(1, 2).flatten(0, 1)


def _unfold(
    tokens: Float[Tensor, "batch_frame head frame_token channel"], layout: SequenceLayout
) -> Float[Tensor, "batch head video_token channel"]:
    _, heads, num_tokens, channels = tokens.shape
    frames = tokens.reshape(-1, layout.num_latent_frames, heads, num_tokens, channels)
    return frames.transpose(1, 2).flatten(2, 3)
