"""The paper's three scores for one (layer, step): matching accuracy, confidence and attention score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from difftrack.geometry import frames_of_latent_frame
from difftrack.metrics._params import CORRECTED, ScoringParams

__all__ = ["AttentionScores", "attention_score", "confidence_score", "matching_accuracy", "round_accuracy"]


@dataclass(frozen=True, slots=True)
class AttentionScores:
    """A score of the query points' attention, separated by its target; NaN if no point counts."""

    cross: Float[np.ndarray, "*grid"]
    """Attention to the other latent frames: the paper's score."""
    self_frame: Float[np.ndarray, "*grid"]
    """Attention to the points' own latent frame."""

    text: Float[np.ndarray, "*grid"]


def matching_accuracy(
    points_xy_px: Float[np.ndarray, "*grid frame point xy"],
    true_xy_px: Float[np.ndarray, "frame point xy"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    params: ScoringParams = CORRECTED,
) -> Float[np.ndarray, "*grid"]:
    """Compute the fraction of visible (frame, point) pairs matched within `threshold_px` (PCK).

    Args:
        points_xy_px: Matches, in pixels of the backbone's input; frame 0 is the frame of the query points.
        true_xy_px: True positions in the same pixels.
        visible: True where a point is visible.
        params: Only `threshold_px`, `count_source_frame` and `decimals` are used.

    Returns:
        Fractions in [0, 1] over the leading axes; NaN if no point is visible.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 3.2 and appendix E (8 px), over frames after the first.
    """
    counted = visible.copy()
    counted[0] &= params.count_source_frame
    distance = np.linalg.norm(points_xy_px - true_xy_px, axis=-1)
    right = ((distance < params.threshold_px) & counted).sum(axis=(-2, -1))
    fraction = _divide(right, counted.sum())
    return round_accuracy(fraction, params=params)


def round_accuracy(
    fraction: Float[np.ndarray, "*grid"], *, params: ScoringParams = CORRECTED
) -> Float[np.ndarray, "*grid"]:
    """Round accuracies to `decimals` of a percent, as the released code does for each clip and again for the mean."""
    return fraction if params.decimals is None else np.asarray(np.round(fraction * 100, params.decimals) / 100)


def confidence_score(
    frame_max: Float[np.ndarray, "*grid latent_frame point"],
    text_max: Float[np.ndarray, "*grid point"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    temporal_stride: int,
    first_frames: int = 1,
    params: ScoringParams = CORRECTED,
) -> AttentionScores:
    """Average the largest attention weight of the query points in frame 0.

    The mean is first taken for each point over the latent frames j >= 1 in which the point is visible in all video
    frames, then over the points with at least one such latent frame:

        cross = mean_points mean_j max_x A(p, x in frame j)

    Args:
        frame_max: Largest weight in each latent frame; latent frame 0 is the points' own.
        text_max: Largest weight over the text tokens.
        visible: True where a point is visible, per video frame.
        temporal_stride: Video frames per latent frame after the first latent frame.
        first_frames: Video frames in the first latent frame.
        params: Only `unseen_points` and `decimals` are used.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eq. 8.
    """
    seen = _latent_visibility(visible, frame_max.shape[-2], temporal_stride, first_frames)[1:]
    num_seen = seen.sum(axis=0)
    total = np.where(seen, frame_max[..., 1:, :], 0).sum(axis=-2, dtype=np.float64)
    cross = np.divide(total, num_seen, out=np.zeros_like(total), where=num_seen > 0)
    all_points = np.ones(visible.shape[1], dtype=bool)
    counted = params.unseen_points == "counted"
    return AttentionScores(
        cross=_mean_over_points(cross, all_points if counted else num_seen > 0, params),
        self_frame=_mean_over_points(frame_max[..., 0, :], all_points if counted else visible[0], params),
        text=_mean_over_points(text_max, all_points if counted else visible[0], params),
    )


def attention_score(
    frame_mass: Float[np.ndarray, "*grid latent_frame point"],
    text_mass: Float[np.ndarray, "*grid point"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    params: ScoringParams = CORRECTED,
) -> AttentionScores:
    """Average the attention mass of the query points that are visible in frame 0.

        cross = mean_points sum_{j >= 1} sum_x A(p, x in frame j)

    Args:
        frame_mass: Attention mass in each latent frame; latent frame 0 is the points' own.
        text_mass: Attention mass on the text tokens.
        visible: True where a point is visible, per video frame.
        params: Only `decimals` is used.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), eq. 9.
    """
    return AttentionScores(
        cross=_mean_over_points(frame_mass[..., 1:, :].sum(axis=-2), visible[0], params),
        self_frame=_mean_over_points(frame_mass[..., 0, :], visible[0], params),
        text=_mean_over_points(text_mass, visible[0], params),
    )


def _latent_visibility(
    visible: Bool[np.ndarray, "frame point"], num_latent_frames: int, temporal_stride: int, first_frames: int
) -> Bool[np.ndarray, "latent_frame point"]:
    """True where a point is visible in every video frame that a latent frame encodes."""
    held = [
        frames_of_latent_frame(k, temporal_stride=temporal_stride, first_frames=first_frames)
        for k in range(num_latent_frames)
    ]
    last = held[-1][-1]
    if last >= len(visible):
        raise ValueError(
            f"visible has {len(visible)} frames, but {num_latent_frames} latent frames with temporal_stride"
            f" {temporal_stride} extend to frame {last}"
        )
    return np.stack([visible[f.start : f.stop].all(axis=0) for f in held])


def _mean_over_points(
    values: Float[np.ndarray, "*grid point"], points: Bool[np.ndarray, " point"], params: ScoringParams
) -> Float[np.ndarray, "*grid"]:
    mean = _divide(values[..., points].sum(axis=-1, dtype=np.float64), points.sum())
    return mean if params.decimals is None else np.asarray(np.round(mean, params.decimals))


def _divide(numerator: np.ndarray | np.number, count: np.integer) -> np.ndarray:
    """Divide by a count; NaN if the count is 0."""
    return np.asarray(numerator / count if count else np.full(np.shape(numerator), np.nan))
