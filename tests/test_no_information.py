"""Inputs without information give no number: points outside, uniform descriptors, descriptors that are not finite."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from difftrack.correspondence import (
    CORRECTED,
    RELEASED,
    ClipMatcher,
    Matches,
    MatchingParams,
    MatchSection,
    attention_of_points,
    attention_rows,
    latent_to_frames,
    match_features,
    match_points,
    match_points_fused,
    match_points_per_head,
    match_points_with_heads,
    match_probabilities,
)
from difftrack.metrics import harmonic_mean, matching_accuracy
from difftrack.reports._strips import pca_colors

HEADS, FRAMES, ROWS, COLS, CHANNELS, TEXT = 2, 3, 5, 7, 11, 13
TOKENS = ROWS * COLS
MIDDLE = torch.tensor([[3.0, 2.0]])


def draw(seed: int = 0) -> tuple[Tensor, Tensor]:
    query, key = torch.randn(
        2, HEADS, FRAMES, ROWS, COLS, CHANNELS, generator=torch.Generator().manual_seed(seed)
    ).unbind()
    return query, key


def say_nothing(matches: Matches, frames: slice = slice(1, None)) -> bool:
    """Whether, by the rule, a match has no position in these latent frames."""
    flat = [part[..., frames, :] for part in (matches.probability, matches.margin)]
    return (
        bool(matches.points_xy_token[..., frames, :, :].isnan().all())
        and bool((flat[0] == torch.tensor(1 / TOKENS)).all())
        and bool((flat[1] == 0).all())
    )


def every_matcher(query: Tensor, key: Tensor, points: Tensor, params: MatchingParams) -> dict[str, Matches]:
    together = match_points_with_heads(query, key, points, params=params)
    return {
        "one": match_points(query, key, points, params=params),
        "fused": match_points_fused([(query, key), (query, key)], points, params=params),
        "heads": match_points_per_head(query, key, points, params=params),
        "with heads": together[0],
        "of heads": together[1],
        "cycle": match_points(query, key, points, params=params, cycle=True),
        "heads and cycle": match_points_per_head(query, key, points, params=params, cycle=True),
    }


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("directions", ["forward", "both"])
@pytest.mark.parametrize("read_out", ["rows", "displacements"])
def test_a_query_of_zeros_has_no_match(backend: Any, directions: Any, read_out: Any) -> None:
    params = replace(CORRECTED, backend=backend, directions=directions, read_out=read_out)
    _, key = draw()
    for name, matches in every_matcher(torch.zeros_like(key), key, MIDDLE, params).items():
        assert say_nothing(matches), name
        assert torch.equal(
            matches.points_xy_token[..., 0, :, :], MIDDLE.expand_as(matches.points_xy_token[..., 0, :, :])
        )
        if matches.cycle_error_token is not None:
            assert matches.cycle_error_token[..., 1:, :].isnan().all()


def test_a_video_of_one_colour_has_no_match_by_any_kind() -> None:
    same = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1)).expand(HEADS, FRAMES, ROWS, COLS, CHANNELS)
    assert say_nothing(match_points(same, same, MIDDLE))
    assert say_nothing(match_features(same, MIDDLE))
    assert say_nothing(match_features(torch.zeros_like(same), MIDDLE))
    assert say_nothing(match_features(same, MIDDLE, params=replace(CORRECTED, feature_similarity="dot")))


def test_only_the_point_and_the_frame_without_information_lose_their_match() -> None:
    """Tokens of frame 2 are all the same; the point in the corner has a zero descriptor."""
    query, key = draw()
    key[:, 2] = key[:, 2, :1, :1]
    query[:, 0, 0, 0] = 0.0
    params = replace(CORRECTED, directions="forward", read_out="rows")
    points = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    found = match_points(query, key, points, params=params)
    assert found.points_xy_token.isnan().any(dim=-1).tolist() == [[False, False], [False, True], [True, True]]
    plain = match_points(*draw(), points[:1], params=params)
    assert torch.equal(found.points_xy_token[1, 0], plain.points_xy_token[1, 0])


def test_two_tokens_that_are_equally_good_are_a_match_and_not_nothing() -> None:
    query, key = torch.zeros(1, 2, 1, 3, 1), torch.zeros(1, 2, 1, 3, 1)
    query[0, 0, 0, 0] = 1.0
    key[0, 1, 0, 1:] = 5.0
    params = MatchingParams(directions="forward", read_out="rows", window_radius=0)
    found = match_points(query, key, torch.tensor([[0.0, 0.0]]), params=params)
    assert found.points_xy_token[1, 0].tolist() == [1.0, 0.0]
    assert found.margin[1, 0] == 0


def test_the_released_convention_takes_the_first_token_as_its_code_does() -> None:
    _, key = draw()
    found = match_points(torch.zeros_like(key), key, MIDDLE, params=RELEASED)
    assert torch.isfinite(found.points_xy_token).all()


def test_a_match_that_says_nothing_is_not_counted_as_correct_and_spoils_no_other_frame() -> None:
    per_latent = np.asarray([[[3.0, 2.0]], [[np.nan, np.nan]], [[5.0, 4.0]]], np.float32)
    frames = latent_to_frames(torch.from_numpy(per_latent), num_frames=5, temporal_stride=2).numpy()
    assert np.isnan(frames[..., 0]).T.tolist() == [[False, True, True, True, False]]
    truth = np.zeros((5, 1, 2), np.float32)
    accuracy = matching_accuracy(frames, truth, np.ones((5, 1), bool))
    assert accuracy == 0.25  # of frames 1 to 4 only the last one has a position, and it is within 8 px


OUTSIDE = [(-1.01, 2.0), (7.01, 2.0), (3.0, -1.01), (3.0, 5.01), (1e6, 2.0), (float("nan"), 2.0), (3.0, float("inf"))]


def asking(params: MatchingParams = CORRECTED) -> dict[str, Callable[[Tensor], object]]:
    query, key = draw()
    text, mask = torch.randn(HEADS, TEXT, CHANNELS), torch.ones(TEXT, dtype=torch.bool)
    return {
        "match_points": lambda points: match_points(query, key, points, params=params),
        "match_points_fused": lambda points: match_points_fused([(query, key)], points, params=params),
        "match_points_per_head": lambda points: match_points_per_head(query, key, points, params=params),
        "match_points_with_heads": lambda points: match_points_with_heads(query, key, points, params=params),
        "match_probabilities": lambda points: match_probabilities(query, key, points, target_frame=1, params=params),
        "match_features": lambda points: match_features(query, points, params=params),
        "attention_of_points": lambda points: attention_of_points(query, key, text, mask, points, params=params),
        "attention_rows": lambda points: attention_rows(query, key, text, mask, points, params=params),
    }


@pytest.mark.parametrize("name", list(asking()))
def test_a_point_outside_the_picture_is_refused_by_every_function_that_takes_points(name: str) -> None:
    ask = asking()[name]
    for point in OUTSIDE:
        points = torch.tensor([MIDDLE[0].tolist(), point])
        with pytest.raises(
            ValueError, match=r"query point 1 is \[.*(outside the picture of 7x5 tokens|finite)"
        ) as error:
            ask(points)
        assert "\n" not in str(error.value)


def test_the_whole_picture_and_half_a_token_around_it_are_let_pass_in_either_origin() -> None:
    corners = torch.tensor([[-1.0, -1.0], [7.0, 5.0], [-0.5, -0.5], [6.5, 4.5]])
    for name, ask in asking().items():
        ask(corners)
        with pytest.raises(ValueError, match="outside the picture"):
            asking(replace(CORRECTED, token_origin="corner"))[name](torch.tensor([[-0.6, 0.0]]))
        asking(replace(CORRECTED, token_origin="corner"))[name](torch.tensor([[7.5, 5.5]]))


def test_a_clip_with_a_point_outside_is_refused_by_its_number() -> None:
    matcher = ClipMatcher(MatchSection(kinds=("feature",)), np.asarray([[8.0, 8.0], [8.0, 99.0]], np.float32), 8, ())
    feature, _ = draw()
    with pytest.raises(ValueError, match="query point 1 is"):
        matcher.match(lambda _: feature)


def test_scores_that_are_the_same_everywhere_are_zero_and_those_of_nothing_are_no_number() -> None:
    same, other = np.full((2, 3), 0.4), np.arange(6.0).reshape(2, 3)
    assert np.array_equal(harmonic_mean(same, other, other), np.zeros((2, 3)))
    nothing = np.full((2, 3), np.nan)
    assert np.isnan(harmonic_mean(nothing, other, other)).all()
    assert np.isnan(matching_accuracy(np.zeros((3, 0, 2)), np.zeros((3, 0, 2)), np.zeros((3, 0), bool)))


def test_descriptors_that_are_the_same_everywhere_are_one_flat_colour() -> None:
    assert not pca_colors(np.full((2, 3, 5, 7), 0.3, np.float32)).any()
