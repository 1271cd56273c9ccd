"""Interpolates positions from latent frames to video frames."""

import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence._frame_places import frame_places
from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.correspondence._tensor_cache import kept

__all__ = ["latent_to_frames"]


def latent_to_frames(
    points_xy: Float[Tensor, "*head latent_frame point xy"],
    *,
    num_frames: int,
    temporal_stride: int,
    first_frames: int = 1,
    params: MatchingParams = CORRECTED,
) -> Float[Tensor, "*head frame point xy"]:
    """Interpolate positions per latent frame linearly to video frames (paper eq. 7).

    Args:
        points_xy: Positions in any unit.
        num_frames: Video frames of the result.
        temporal_stride: Video frames per latent frame after the first.
        first_frames: Video frames of the first; see `geometry.latent_position_of_frames`.
        params: `upsampling` says where on the latent axis a frame reads: t / temporal_stride, where a causal
            autoencoder puts it (others put it in the middle of the frames that they fold), or (t + 0.5) *
            num_latent_frames / num_frames - 0.5 as the released code does.

    Returns:
        Positions in the same unit; frames beyond the last latent frame repeat it.
    """
    before, after, fraction = _places(
        num_frames, points_xy.shape[-3], temporal_stride, first_frames, params.upsampling, str(points_xy.device)
    )
    found = points_xy.index_select(-3, before)
    return found.lerp_(points_xy.index_select(-3, after), fraction.to(points_xy.dtype))


@kept
def _places(
    num_frames: int, num_latent_frames: int, temporal_stride: int, first_frames: int, upsampling: str, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the two latent frames that every video frame interpolates, and the weight of the second.

    Cached for the last lengths, because another copy to a GPU would wait for it.
    """
    before, after, fraction = frame_places(
        num_frames,
        num_latent_frames,
        temporal_stride=temporal_stride,
        first_frames=first_frames,
        upsampling=upsampling,
    )
    with torch.inference_mode(False):
        places = torch.from_numpy(before), torch.from_numpy(after), torch.from_numpy(fraction)[:, None, None]
        on_device = [place.to(device) for place in places]
        return on_device[0], on_device[1], on_device[2]
