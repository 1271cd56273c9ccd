"""Convert between pixels, tokens, latent frames and video frames.

Conventions (defined only here):

* Pixel coordinates are continuous raster coordinates: an image of `width` pixels spans [0, width], and the centre of
  pixel column i lies at i + 0.5. Resizing an image therefore only scales its coordinates.
* Token coordinates index token centres: token column c covers pixels [c * stride_px, (c + 1) * stride_px), and its
  centre lies at (c + 0.5) * stride_px. So `token = px / stride_px - 0.5`.
* A causal video autoencoder maps frame 0 to latent frame 0 and frames s*k - (s-1) ... s*k to latent frame k, where s is
  the temporal stride; latent frame k represents frame s * k.
  An autoencoder that folds s frames into every latent frame, including the first (Allegro), maps frames s*k ...
  s*k + s-1 to latent frame k, which represents their middle. `first_frames` distinguishes the two cases.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "TokenGrid",
    "frames_of_latent_frame",
    "inside_picture",
    "latent_position_of_frames",
    "px_to_token",
    "rescale_points",
    "token_to_px",
]

ArrayT = TypeVar("ArrayT")
"""A numpy array or a torch tensor; the coordinate maps are arithmetic that works on both."""


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """The token layout of one clip in a backbone; video tokens are ordered (latent_frame, row, col), row-major.

    Raises:
        ValueError: a size or stride is not positive.
    """

    num_latent_frames: int
    """Number of latent frames; one per video frame if frames are encoded separately."""
    rows: int
    cols: int
    stride_px: int
    """Pixels per token along both image axes: the autoencoder's downsampling times the patch size."""
    temporal_stride: int
    """Video frames per latent frame after the first; 1 if every frame is encoded separately."""
    first_frames: int = 1
    """Video frames in latent frame 0: 1 for a causal autoencoder, else `temporal_stride`."""

    def __post_init__(self) -> None:
        for name in ("num_latent_frames", "rows", "cols", "stride_px", "temporal_stride", "first_frames"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"TokenGrid.{name} is {value}; it must be at least 1")

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return self.rows * self.stride_px

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return self.cols * self.stride_px

    @property
    def num_frames(self) -> int:
        """Number of video frames that the grid covers."""
        return self.first_frames + (self.num_latent_frames - 1) * self.temporal_stride

    @property
    def tokens_per_frame(self) -> int:
        """Number of tokens in one latent frame."""
        return self.rows * self.cols

    @property
    def num_tokens(self) -> int:
        """Number of video tokens in the clip, without text tokens."""
        return self.num_latent_frames * self.tokens_per_frame


def px_to_token(points_px: ArrayT, *, stride_px: float | int) -> ArrayT:
    """Convert pixel coordinates to fractional token coordinates: `px / stride_px - 0.5` (any axis order)."""
    return points_px / stride_px - 0.5  # type: ignore[operator, return-value]


def token_to_px(points_token: ArrayT, *, stride_px: float | int) -> ArrayT:
    """Convert fractional token coordinates to pixels: `(token + 0.5) * stride_px`; inverse of `px_to_token`."""
    return (points_token + 0.5) * stride_px  # type: ignore[operator, return-value]


def rescale_points(
    points_xy_px: Float[np.ndarray, "*shape xy"],
    *,
    from_size: tuple[int, int],
    to_size: tuple[int, int],
) -> Float[np.ndarray, "*shape xy"]:
    """Convert points between two sizes of the same image.

    Args:
        points_xy_px: (x, y) in pixels of the image of `from_size`.
        from_size: (height, width) in pixels.
        to_size: (height, width) in pixels.

    Returns:
        (x, y) in pixels of the image of `to_size`, same dtype.
    """
    scale = np.array([to_size[1] / from_size[1], to_size[0] / from_size[0]])
    scaled: np.ndarray = (points_xy_px * scale).astype(points_xy_px.dtype)
    return scaled


def inside_picture(
    points_xy_px: Float[np.ndarray, "*shape xy"], *, height: int, width: int
) -> Bool[np.ndarray, "*shape"]:
    """Return which points lie inside the image, including its border; NaN points do not."""
    return np.asarray(((points_xy_px >= 0) & (points_xy_px <= (width, height))).all(axis=-1))


def frames_of_latent_frame(latent_frame: int, *, temporal_stride: int, first_frames: int = 1) -> range:
    """Return the video frames that an autoencoder folds into one latent frame.

    Latent frame 0 contains the first f = `first_frames` frames. Latent frame k contains frames f + s*(k-1) ...
    f + s*k - 1, where s is the temporal stride.
    """
    if latent_frame == 0:
        return range(first_frames)
    begin = first_frames + temporal_stride * (latent_frame - 1)
    return range(begin, begin + temporal_stride)


def latent_position_of_frames(
    num_frames: int, *, temporal_stride: int, first_frames: int = 1
) -> Float[np.ndarray, " frame"]:
    """Compute the fractional latent position of each video frame t: (t - (first_frames - 1) / 2) / temporal_stride.

    For a causal autoencoder this is t / temporal_stride. For others, the outermost frames lie outside the latent axis.

    The released code instead resizes 13 latent frames to 49 with half-pixel centres, which is wrong by up to 1.35
    frames (quirk A9 of the released code). The `released` preset of `difftrack.correspondence` reproduces that.
    """
    return (np.arange(num_frames, dtype=np.float64) - (first_frames - 1) / 2) / temporal_stride
