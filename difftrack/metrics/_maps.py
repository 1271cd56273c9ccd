"""Score clips as labelled maps over step, layer and head; average the maps and rank the layers."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from difftrack.metrics._grid import harmonic_mean, mean_over_clips, rank_cells
from difftrack.metrics._params import CORRECTED, ScoringParams
from difftrack.metrics._scores import attention_score, confidence_score, matching_accuracy, round_accuracy

__all__ = ["combine_clips", "rank_layers", "score_clip"]

ToFrames = Callable[[np.ndarray], np.ndarray]
"""Converts positions per latent frame [*grid, latent_frame, point, xy] to positions per video frame."""


def score_clip(
    matches: xr.Dataset,
    true_xy_px: Float[np.ndarray, "frame point xy"],
    visible: Bool[np.ndarray, "frame point"],
    *,
    to_frames: ToFrames,
    temporal_stride: int,
    first_frames: int = 1,
    params: ScoringParams = CORRECTED,
) -> xr.Dataset:
    """Score every step, layer and head of one clip.

    Args:
        matches: The match stage's output: `match_xy_px`, `attention_max`, `attention_mass`, `text_max`, `text_mass`
            over (step, layer, ...), the same names with the prefix `head_` over (step, layer, head, ...), and
            `KIND_match_xy_px` of every other kind, such as `feature_match_xy_px`. Missing arrays are not scored.
        true_xy_px: True positions, in pixels of the backbone's input, in the video frames that the latent frames
            encode.
        visible: True where a point is visible.
        to_frames: Converts matches from latent frames to those video frames.
        temporal_stride: Video frames per latent frame after the first latent frame.
        first_frames: Video frames in the first latent frame.
        params: The scoring choices.

    Returns:
        `matching_accuracy`, `KIND_accuracy` of every other kind, such as `feature_accuracy`, `confidence`,
        `attention_score`, and the confidence and mass on the own frame (`self_`) and the text (`text_`), over (step,
        layer); with the prefix `head_` also over head.
    """
    scores: dict[str, xr.DataArray] = {}
    known = (_MATCH, f"feature_{_MATCH}", f"head_{_MATCH}")
    for source in dict.fromkeys((*known, *sorted(map(str, matches)))):
        if source.endswith(_MATCH) and source in matches:
            by_step = [
                matching_accuracy(to_frames(xy), true_xy_px, visible, params=params) for xy in matches[source].values
            ]
            scores[_accuracy_name(source)] = _labelled(np.stack(by_step), matches[source])
    for prefix in ("", "head_"):
        if f"{prefix}attention_max" in matches:
            arrays = {name: matches[prefix + name].values for name in _ATTENTION}
            found = _attention_scores(
                arrays, visible, temporal_stride=temporal_stride, first_frames=first_frames, params=params
            )
            for name, values in found:
                scores[prefix + name] = _labelled(values, matches[f"{prefix}attention_max"])
    return xr.Dataset(scores)


_MATCH = "match_xy_px"


def _accuracy_name(source: str) -> str:
    """Name the accuracy of an array of matches: that of queries with keys, which have no prefix, is `matching`."""
    kind = source.removesuffix(_MATCH)
    return f"{kind}accuracy" if kind.removeprefix("head_") else f"{kind}matching_accuracy"


_ATTENTION = ("attention_max", "attention_mass", "text_max", "text_mass")


def _attention_scores(
    arrays: Mapping[str, np.ndarray],
    visible: np.ndarray,
    *,
    temporal_stride: int,
    first_frames: int,
    params: ScoringParams,
) -> Iterator[tuple[str, np.ndarray]]:
    confidence = confidence_score(
        arrays["attention_max"],
        arrays["text_max"],
        visible,
        temporal_stride=temporal_stride,
        first_frames=first_frames,
        params=params,
    )
    yield "confidence", confidence.cross
    yield "self_confidence", confidence.self_frame
    yield "text_confidence", confidence.text
    attention = attention_score(arrays["attention_mass"], arrays["text_mass"], visible, params=params)
    yield "attention_score", attention.cross
    yield "self_mass", attention.self_frame
    yield "text_mass", attention.text


def _labelled(values: np.ndarray, like: xr.DataArray) -> xr.DataArray:
    """Label values with the leading axes and coordinates of an array of matches."""
    axes = like.dims[: values.ndim]
    return xr.DataArray(values, dims=axes, coords={axis: like.coords[axis] for axis in axes})


def combine_clips(clips: Mapping[str, xr.Dataset], *, params: ScoringParams = CORRECTED) -> xr.Dataset:
    """Average the scores over clips and combine the averages into the harmonic mean.

    Clips may have different steps or layers; each cell is the mean over the clips that have it.

    Returns:
        The mean of every score; `harmonic_mean` (and `head_harmonic_mean`, normalised over heads too) if its three
        parts are present; and `num_clips` over (step, layer), the number of clips with an accuracy there. The attribute
        `empty_clips` names the clips without any accuracy.

    Raises:
        ValueError: there is no clip.
    """
    if not clips:
        raise ValueError("clips is empty; pass the scores of at least one clip")
    stacked = xr.concat([clips[name] for name in clips], dim="clip", join="outer")
    means = xr.Dataset()
    for name, values in stacked.items():
        mean = mean_over_clips(values.values.astype(np.float64), params=params).mean
        if str(name).endswith("accuracy"):
            mean = round_accuracy(mean, params=params)
        means[name] = _labelled(mean, values.isel(clip=0))
    ranked = (
        "matching_accuracy",
        "feature_accuracy",
        *(name for name in map(str, stacked) if name.endswith("accuracy")),
    )
    accuracy = next(stacked[name] for name in ranked if name in stacked)
    means["num_clips"] = accuracy.notnull().sum("clip")
    empty = accuracy.isnull().all([axis for axis in accuracy.dims if axis != "clip"]).values
    means.attrs["empty_clips"] = [name for name, is_empty in zip(clips, empty, strict=True) if is_empty]
    for prefix in ("", "head_"):
        parts = [means.get(prefix + name) for name in ("matching_accuracy", "confidence", "attention_score")]
        if all(part is not None for part in parts):
            combined = harmonic_mean(*(part.values for part in parts if part is not None), params=params)
            means[f"{prefix}harmonic_mean"] = _labelled(combined, means[f"{prefix}matching_accuracy"])
    return means


def rank_layers(score: xr.DataArray, *, worst: bool = False) -> list[tuple[int, int, float]]:
    """Rank layers by their best step.

    Args:
        score: A score over (step, layer).
        worst: Start with the layer whose best step has the lowest score.

    Returns:
        (layer, its best step, score) for every layer with a score, in order.
    """
    by_layer = score.transpose("layer", "step").values
    best = np.array([np.nan if np.isnan(row).all() else np.nanmax(row) for row in by_layer])
    ranked = [index for (index,) in rank_cells(best, num=len(best), worst=worst)]
    steps = score.step.values
    return [
        (int(score.layer.values[index]), int(steps[np.nanargmax(by_layer[index])]), float(best[index]))
        for index in ranked
    ]
