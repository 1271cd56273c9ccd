"""Maps video frames to latent frames with plain arrays, so that reading matches does not load torch."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from difftrack.correspondence._params import CORRECTED, MatchingParams
from difftrack.geometry import latent_position_of_frames

__all__ = ["frame_places", "stored_to_frames"]


def frame_places(
    num_frames: int, num_latent_frames: int, *, temporal_stride: int, first_frames: int, upsampling: str
) -> tuple[Int[np.ndarray, " frame"], Int[np.ndarray, " frame"], Float[np.ndarray, " frame"]]:
    """Give the two latent frames that every video frame interpolates, and the weight of the second.

    Args:
        num_frames: Video frames.
        num_latent_frames: Latent frames; positions outside take the first or the last.
        temporal_stride: Video frames per latent frame after the first.
        first_frames: Video frames of the first; see `geometry.latent_position_of_frames`.
        upsampling: As in `MatchingParams`.
    """
    if upsampling == "causal":
        latent = latent_position_of_frames(num_frames, temporal_stride=temporal_stride, first_frames=first_frames)
    else:
        latent = (np.arange(num_frames, dtype=np.float64) + 0.5) * num_latent_frames / num_frames - 0.5
    latent = np.clip(latent, 0, num_latent_frames - 1)
    before = np.floor(latent).astype(np.int64)
    after = np.ceil(latent).astype(np.int64)  # a frame exactly at one latent frame ignores the next, which may be NaN
    return before, after, latent - before


def stored_to_frames(
    *, num_frames: int, temporal_stride: int, first_frames: int = 1, params: MatchingParams = CORRECTED
) -> Callable[[Float[np.ndarray, "*head latent_frame point xy"]], Float[np.ndarray, "*head frame point xy"]]:
    """Interpolate stored positions per latent frame to video frames: `latent_to_frames` of arrays.

    Args:
        num_frames: Video frames of the result.
        temporal_stride: Video frames per latent frame after the first.
        first_frames: Video frames of the first.
        params: `upsampling` says where on the latent axis a frame reads.

    Returns: Positions per video frame in the same dtype; equal to `latent_to_frames` up to rounding.
    """

    def upsample(
        points_xy: Float[np.ndarray, "*head latent_frame point xy"],
    ) -> Float[np.ndarray, "*head frame point xy"]:
        before, after, fraction = frame_places(
            num_frames,
            points_xy.shape[-3],
            temporal_stride=temporal_stride,
            first_frames=first_frames,
            upsampling=params.upsampling,
        )
        share = fraction.astype(points_xy.dtype)[:, None, None]
        start, end = points_xy[..., before, :, :], points_xy[..., after, :, :]
        # From the nearer end, as torch does.
        found: np.ndarray = np.where(share < 0.5, start + share * (end - start), end - (end - start) * (1 - share))
        return found

    return upsample
