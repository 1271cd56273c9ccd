"""Descriptors to matches: worked by hand, by law, and against the plain version."""

import gc
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from difftrack.correspondence import (
    CORRECTED,
    ClipMatcher,
    DisplacementCandidates,
    MatchingParams,
    MatchSection,
    _scores,
    attention_of_points,
    attention_of_points_per_head,
    attention_of_points_with_heads,
    attention_rows,
    back_sums,
    latent_to_frames,
    match_features,
    match_points,
    match_points_fused,
    match_points_per_head,
    match_points_with_heads,
    match_probabilities,
    match_rows,
    matching_device,
    points_to_tokens,
    query_tokens,
    read_moves,
    read_rows,
    stored_to_frames,
    tokens_to_points,
    top_matches,
    without_best,
)
from difftrack.correspondence._tensor_cache import handed_out, kept
from difftrack.params import ParamsError

HEADS, FRAMES, ROWS, COLS, CHANNELS = 2, 3, 5, 7, 11
FORWARD = MatchingParams(directions="forward")


def draw(seed: int, *, heads: int = HEADS, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = scale * torch.randn(2, heads, FRAMES, ROWS, COLS, CHANNELS, generator=generator)
    return query, key


def every_token(rows: int = ROWS, cols: int = COLS) -> Tensor:
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([col.flatten(), row.flatten()], dim=-1).float()


def unmistakable(frames: int = FRAMES, *, rows: int = ROWS, cols: int = COLS) -> Tensor:
    """Give each token one direction of its own, the same in all frames: [1, latent_frame, row, col, channel]."""
    tokens = 20 * torch.eye(rows * cols).reshape(rows, cols, rows * cols)
    return tokens.expand(1, frames, rows, cols, rows * cols)


def test_logits_0_and_ln_3_become_a_quarter_and_three_quarters() -> None:
    query, key = torch.zeros(2, 1, 2, 1, 2, 1)
    query[0, 0, 0, 0, 0] = 1.0
    key[0, 1, 0, 1, 0] = math.log(3)
    found = match_probabilities(query, key, torch.tensor([[0.0, 0.0]]), target_frame=1, params=FORWARD)
    torch.testing.assert_close(found, torch.tensor([[[0.25, 0.75]]]))


def test_both_directions_average_where_a_token_looks_and_who_looks_at_it() -> None:
    query, key = torch.zeros(2, 1, 2, 1, 2, 1)
    query[0, 0, 0, 0, 0] = 1.0
    key[0, 1, 0, 1, 0] = math.log(3)
    found = match_probabilities(query, key, torch.tensor([[0.0, 0.0]]), target_frame=1)
    torch.testing.assert_close(found, torch.tensor([[[(0.25 + 0.5) / 2, (0.75 + 0.5) / 2]]]))


def test_temperature_is_root_channel_not_root_heads() -> None:
    assert CORRECTED.score_scale(num_heads=30, num_channels=64) == 1 / 8
    assert MatchingParams(temperature="root_heads").score_scale(num_heads=25, num_channels=64) == 1 / 5
    five = MatchingParams(temperature="root_channel_per_head").score_scale(num_heads=24, num_channels=128)
    assert five == pytest.approx(1 / math.sqrt(5))
    assert MatchingParams(temperature=0.5).score_scale(num_heads=2, num_channels=3) == 2.0


def test_fewer_channels_than_heads_are_refused_where_the_released_code_turns_everything_into_nan() -> None:
    with pytest.raises(ValueError, match="23 channels and 24 heads"):
        MatchingParams(temperature="root_channel_per_head").score_scale(num_heads=24, num_channels=23)


@pytest.mark.parametrize("spread", [0.3, 30.0])
@pytest.mark.parametrize("num_tokens", [1, 7, 23])
@pytest.mark.parametrize("temperature", ["root_channel", "root_heads", 0.7])
def test_known_back_sums_change_nothing_but_the_work(spread: float, num_tokens: int, temperature: Any) -> None:
    """Few tokens take another code path than many; scores of 30 * 30 overflow unless the largest is subtracted."""
    heads, frames, rows, cols, channels = 3, 5, 7, 11, 13
    torch.manual_seed(num_tokens)
    query, key = (spread * torch.randn(2, heads, frames, rows, cols, channels)).half()
    tokens, weights = torch.randperm(rows * cols)[:num_tokens].sort().values, torch.tensor([0.0, 2.0, 5.0])
    params = MatchingParams(temperature=temperature, backend="blocked")
    sums = back_sums((query, key), source_frame=2, params=params)
    assert sums.shape == (heads, frames, rows * cols)
    asked = {"source_frame": 2, "target_frames": range(3, 5), "head_weights": [weights]}
    plain = match_rows([(query, key)], tokens, params=replace(params, backend="reference"), **asked)
    known = match_rows([(query, key)], tokens, params=params, known_back_sums=[sums], **asked)
    torch.testing.assert_close(known, plain, rtol=1e-5 * max(1, spread), atol=1e-6)
    # Worked by the definition: log2 of the sum over the source's tokens, of target token 4 of frame 1 in head 1.
    scale = params.score_scale(num_heads=heads, num_channels=channels)
    scores = scale * key[1, 2].flatten(0, 1).double() @ query[1, 1].flatten(0, 1)[4].double()
    expected = scores.logsumexp(0) / np.log(2)
    assert sums[1, 1, 4].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("directions", ["both", "forward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocked_products_equal_the_plain_version(directions: Any, dtype: torch.dtype) -> None:
    query, key = (tensor.to(dtype) for tensor in draw(3))
    tokens = torch.tensor([0, 3, 8, 33])
    blocked, plain = (
        match_rows(
            [(query, key)],
            tokens,
            source_frame=1,
            target_frames=range(2, 3),
            params=MatchingParams(directions=directions, backend=backend),
        )
        for backend in ("blocked", "reference")
    )
    assert blocked.dtype == torch.float32
    torch.testing.assert_close(blocked, plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("opencv", [True, False])
def test_exponentials_worked_by_hand(opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 6, 4 and -2 times the logarithm of 2, with either library."""
    monkeypatch.setattr(_scores, "_AT_MOST_AVX2", opencv)
    with threads(1):
        first, second = torch.tensor([[math.log(2), 0.0]]), torch.tensor([[6.0, 7.0], [4.0, -5.0], [-2.0, 3.0]])
        exponential = _scores.exponential_of(first, second, scale=0.5)
        scores = first * exponential.factor @ second.T
        assert exponential.raise_(scores, 1) is None
    torch.testing.assert_close(scores, torch.tensor([[8.0, 4.0, 0.5]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), 100.0])
def test_opencv_gets_no_number_that_is_none_and_none_that_could_overflow(
    strange: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scores, "_AT_MOST_AVX2", True)
    with threads(1):
        exponential = _scores.exponential_of(torch.ones(2, 3), torch.tensor([[1.0, 2.0, strange]]), scale=1.0)
    assert not exponential.bounded
    assert exponential.in_place is torch.exp2_


def test_one_thread_and_two_give_the_same_probabilities() -> None:
    """One thread may use another library's exponential than two."""
    generator = torch.Generator().manual_seed(11)
    query, key = torch.randn(2, 3, 2, 17, 23, 29, generator=generator)
    tokens = torch.arange(0, 17 * 23, 5)
    found = []
    for count in (1, 2):
        with threads(count):
            asked = {"source_frame": 0, "target_frames": range(1, 2), "params": MatchingParams(backend="blocked")}
            found.append((match_rows([(query, key)], tokens, **asked), back_sums((query, key), source_frame=0)))
    torch.testing.assert_close(found[0], found[1], rtol=2e-6, atol=0)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("distance", [0, 1, 2])
def test_striking_the_best_out_takes_its_neighbours_inside_the_picture_and_no_other(distance: int) -> None:
    rows, cols = 5, 7
    best = torch.arange(rows * cols)
    struck = without_best(1.0 + torch.eye(rows * cols), cols=cols, distance=distance) == 0
    apart = torch.maximum((best[:, None] // cols - best // cols).abs(), (best[:, None] % cols - best % cols).abs())
    assert torch.equal(struck, apart <= distance)


def test_a_large_grid_that_takes_several_blocks_equals_the_plain_version() -> None:
    generator = torch.Generator().manual_seed(5)
    query, key = torch.randn(2, 2, 2, 23, 31, 3, generator=generator)
    blocked, plain = (
        match_points(query, key, every_token(23, 31) * 0.97, params=MatchingParams(backend=backend))
        for backend in ("blocked", "reference")
    )
    torch.testing.assert_close(blocked.probability, plain.probability, atol=1e-6, rtol=0)
    assert (blocked.points_xy_token == plain.points_xy_token).float().mean() > 0.999


def test_memory_limit_changes_batches_but_no_number() -> None:
    query, key = draw(4)
    one, many = (match_points(query, key, every_token(), params=MatchingParams(memory_limit_mb=mb)) for mb in (1, 512))
    torch.testing.assert_close(one.points_xy_token, many.points_xy_token, atol=0, rtol=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 30))
def test_probabilities_of_a_row_sum_to_one(seed: int, scale: float) -> None:
    query, key = draw(seed, scale=scale)
    points = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([COLS - 1, ROWS - 1])
    maps = match_probabilities(query, key, points, target_frame=2, params=FORWARD)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(4), atol=1e-5, rtol=0)
    back = match_rows([(query, key)], torch.arange(ROWS * COLS), source_frame=2, target_frames=range(1))
    forth = match_rows([(query, key)], torch.arange(ROWS * COLS), source_frame=0, target_frames=range(2, 3))
    torch.testing.assert_close(back[0], forth[0].T, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)))
def test_permuting_heads_changes_nothing_and_permuting_points_permutes_matches(seed: int, order: list[int]) -> None:
    query, key = draw(seed, heads=5)
    points = every_token()[:5]
    straight = match_points(query, key, points)
    shuffled = match_points(query[order], key[order], points)
    torch.testing.assert_close(shuffled.probability, straight.probability, atol=1e-6, rtol=0)
    assert torch.equal(match_points(query, key, points[order]).points_xy_token, straight.points_xy_token[:, order])


@pytest.mark.parametrize("name", ["corrected", "released"])
def test_identical_frames_match_to_themselves_exactly(name: Any) -> None:
    params = MatchingParams.preset(name, {"query_margin": "none"})
    descriptor, points = unmistakable(), every_token()
    for matches in (
        match_points(descriptor, descriptor, points, params=params),
        match_features(descriptor, points, params=params),
    ):
        assert torch.equal(matches.points_xy_token, points.expand(FRAMES, -1, -1))


@settings(deadline=None, max_examples=15)
@given(right=st.integers(-2, 2), down=st.integers(-1, 1), radius=st.integers(0, 1), source=st.integers(0, 1))
def test_a_translation_by_whole_tokens_is_found_exactly(right: int, down: int, radius: int, source: int) -> None:
    still = unmistakable(1)
    moved = torch.roll(still, (down, right), dims=(2, 3))
    frames = torch.cat([still, moved] if source == 0 else [moved, still], dim=1)
    inside = every_token()[(every_token() + torch.tensor([right, down])).ge(0).all(dim=-1)]
    inside = inside[(inside + torch.tensor([right, down]) < torch.tensor([COLS, ROWS])).all(dim=-1)]
    params = MatchingParams(window_radius=radius, temperature=1.0)
    matches = match_points(frames, frames, inside, params=params, source_frame=source, cycle=True)
    expected = inside + torch.tensor([right, down])
    torch.testing.assert_close(matches.points_xy_token[1 - source], expected, atol=1e-4, rtol=0)
    assert matches.cycle_error_token is not None
    torch.testing.assert_close(matches.cycle_error_token, torch.zeros(2, len(inside)), atol=1e-3, rtol=0)
    assert torch.equal(matches.points_xy_token[source], inside)


def test_soft_argmax_finds_the_centre_of_mass_of_the_window() -> None:
    rows = torch.zeros(1, ROWS * COLS)
    rows[0, 2 * COLS + 3], rows[0, 2 * COLS + 4], rows[0, 3 * COLS + 3] = 0.5, 0.25, 0.25
    rows[0, 0] = 0.45
    point = query_tokens(torch.tensor([[0.0, 0.0]]), rows=ROWS, cols=COLS)
    found = {
        radius: read_rows(rows, point, cols=COLS, params=MatchingParams(window_radius=radius)) for radius in (0, 1, 6)
    }
    torch.testing.assert_close(found[0].points_xy_token, torch.tensor([[3.0, 2.0]]))
    torch.testing.assert_close(found[1].points_xy_token, torch.tensor([[3.25, 2.25]]))
    assert found[6].points_xy_token[0, 0] < 2.5
    torch.testing.assert_close(found[1].margin, torch.tensor([0.05]))
    sharp = MatchingParams(window_radius=1, window_temperature=0.01)
    torch.testing.assert_close(
        read_rows(rows, point, cols=COLS, params=sharp).points_xy_token, found[0].points_xy_token
    )


def test_soft_argmax_at_the_border_uses_only_tokens_that_exist() -> None:
    rows = torch.zeros(1, ROWS * COLS)
    rows[0, COLS - 1], rows[0, 2 * COLS - 1], rows[0, COLS] = 0.5, 0.25, 0.25
    point = query_tokens(torch.tensor([[0.0, 0.0]]), rows=ROWS, cols=COLS)
    found = read_rows(rows, point, cols=COLS, params=MatchingParams(window_radius=1))
    torch.testing.assert_close(found.points_xy_token, torch.tensor([[COLS - 1, 1 / 3]]))


def test_a_point_between_tokens_mixes_their_probabilities_not_their_matches() -> None:
    descriptor = unmistakable(2)
    swapped = descriptor.clone()
    swapped[:, 1, 0, 0], swapped[:, 1, 0, 6] = descriptor[:, 1, 0, 6], descriptor[:, 1, 0, 0]
    point = torch.tensor([[0.25, 0.0]])
    mixed = match_points(descriptor, swapped, point, params=FORWARD)
    torch.testing.assert_close(mixed.points_xy_token[1], torch.tensor([[6.0, 0.0]]))
    between = match_points(descriptor, swapped, point, params=replace(FORWARD, read_out="argmax_map"))
    torch.testing.assert_close(between.points_xy_token[1], torch.tensor([[0.75 * 6 + 0.25 * 1, 0.0]]))


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_displacements_carry_a_point_between_tokens_along_exactly(radius: int) -> None:
    descriptor = unmistakable(2, rows=11, cols=13)
    shifted = descriptor.clone()
    shifted[:, 1] = descriptor[:, 1].roll((2, 3), dims=(1, 2))
    points = torch.tensor([[4.3, 3.7], [4.0, 5.0], [5.9, 4.1]])
    params = replace(FORWARD, read_out="displacements", support_radius=radius)
    found = match_points(descriptor, shifted, points, params=params)
    torch.testing.assert_close(found.points_xy_token[1], points + torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(found.points_xy_token[0], points)


def test_of_displacements_that_disagree_one_side_decides() -> None:
    descriptor = unmistakable(2)
    swapped = descriptor.clone()
    swapped[:, 1, 0, 0], swapped[:, 1, 0, 6] = descriptor[:, 1, 0, 6], descriptor[:, 1, 0, 0]
    params = replace(FORWARD, read_out="displacements", support_radius=1)
    # Token 0 goes to 6, token 1 stays: the point goes with the nearer of the two, not with their mean.
    for x, expected in ((0.25, 6.25), (0.75, 0.75)):
        found = match_points(descriptor, swapped, torch.tensor([[x, 0.0]]), params=params)
        torch.testing.assert_close(found.points_xy_token[1], torch.tensor([[expected, 0.0]]))
    loose = replace(params, support_agreement_token=7.0)
    found = match_points(descriptor, swapped, torch.tensor([[0.25, 0.0]]), params=loose)
    torch.testing.assert_close(found.points_xy_token[1], torch.tensor([[0.25 + 0.75 * 6, 0.0]]))


def test_all_that_the_tokens_around_a_point_say() -> None:
    params = replace(FORWARD, read_out="displacements", support_radius=1, support_agreement_token=1.5)
    point = query_tokens(torch.tensor([[0.25, 0.0]]), rows=ROWS, cols=COLS, params=params)
    rows = torch.zeros(len(point.tokens), ROWS * COLS)
    # Token 0: 6 with 0.7, then 5 beside it, then 2; token 1 stays, and then goes to 4. Rivals lie three columns apart.
    rows[0, 6], rows[0, 5], rows[0, 2] = 0.7, 0.2, 0.1
    rows[1, 1], rows[1, 4] = 0.6, 0.4
    first = read_moves(rows, point, cols=COLS, params=params)
    total = 0.75 * 0.7 + 0.25 * 0.6
    assert votes(first) == {6.25: round(0.75 * 0.7 / total, 4), 0.25: round(0.25 * 0.6 / total, 4)}
    second = read_moves(rows, point, cols=COLS, params=params, matches_per_token=2)
    total += 0.75 * 0.1 + 0.25 * 0.4
    # From token 0 by +2 and from token 1 by +3, which agree; the mean weighs them 0.075 to 0.1.
    assert votes(second) == {
        6.25: round(0.75 * 0.7 / total, 4),
        0.25: round(0.25 * 0.6 / total, 4),
        round(0.25 + (0.075 * 2 + 0.1 * 3) / 0.175, 2): round(0.175 / total, 4),
    }


def votes(moves: DisplacementCandidates) -> dict[float, float]:
    """Share of the first point by x, without tokens of weight 0."""
    both = zip(moves.points_xy_token[0, :, 0].tolist(), moves.share[0].tolist(), strict=True)
    return {round(x, 2): round(share, 4) for x, share in both if share > 1e-6}


def test_where_nothing_is_left_nothing_is_said() -> None:
    params = replace(FORWARD, read_out="displacements", support_radius=2, window_radius=1)
    points = query_tokens(torch.tensor([[0.5, 1.0]]), rows=2, cols=3, params=params)
    rows = torch.rand(len(points.tokens), 6, generator=torch.Generator().manual_seed(6))
    one, three = (read_moves(rows, points, cols=3, params=params, matches_per_token=number) for number in (1, 3))
    assert torch.isfinite(three.points_xy_token).all()
    torch.testing.assert_close(three.share[:, ::3], one.share)
    torch.testing.assert_close(three.points_xy_token[:, ::3], one.points_xy_token)


@pytest.mark.parametrize("radius", [1, 2])
def test_the_match_is_what_most_of_the_tokens_say(radius: int) -> None:
    params = replace(FORWARD, read_out="displacements", support_radius=radius, window_radius=1)
    generator = torch.Generator().manual_seed(5)
    points = query_tokens(torch.rand(17, 2, generator=generator) * 4, rows=ROWS, cols=COLS, params=params)
    rows = torch.rand(len(points.tokens), ROWS * COLS, generator=generator) ** 9
    moves = read_moves(rows, points, cols=COLS, params=params)
    torch.testing.assert_close(
        moves.leading_xy_token, read_rows(rows, points, cols=COLS, params=params).points_xy_token
    )


def test_the_support_of_a_point_worked_by_hand() -> None:
    params = MatchingParams(read_out="displacements", support_radius=2)
    inside = query_tokens(torch.tensor([[3.25, 2.0]]), rows=5, cols=7, params=params)
    used = inside.weights[0] > 0
    at = inside.tokens[inside.slots[0, used]]
    # Tents of 3/8, 7/8, 5/8 and 1/8 over columns 2 ... 5, and of 1/2, 1 and 1/2 over rows 1 ... 3; each sums to 2.
    x, y = torch.tensor([3.0, 7.0, 5.0, 1.0]) / 16, torch.tensor([1.0, 2.0, 1.0]) / 4
    expected = {7 * (1 + j) + 2 + i: float(x[i] * y[j]) for i in range(4) for j in range(3)}
    assert dict(zip(at.tolist(), inside.weights[0, used].tolist(), strict=True)) == pytest.approx(expected)
    corner = query_tokens(torch.tensor([[-0.3, 4.4]]), rows=5, cols=7, params=params)
    assert corner.weights.sum() == pytest.approx(1.0)


def test_zero_padding_pulls_points_beyond_the_last_token_centre_to_the_corner() -> None:
    released = MatchingParams.preset("released")
    descriptor = torch.cat([unmistakable(1, rows=3, cols=8)] * 2, dim=1)
    params = replace(released, temperature=1.0)
    beyond = torch.tensor([[8.0, 1.0]])
    pulled = match_points(descriptor, descriptor, beyond, params=params).points_xy_token[1, 0]
    held = match_points(descriptor, descriptor, beyond, params=replace(params, padding="border"))
    assert pulled[0] < 7 * (1 - 0.1)
    assert held.points_xy_token[1, 0, 0] == pytest.approx(7.0, abs=1e-4)


def test_pixel_centres_of_tokens_are_whole_token_coordinates_only_in_the_corrected_convention() -> None:
    centre = torch.tensor([[8.0, 24.0]])
    assert points_to_tokens(centre, stride_px=16).tolist() == [[0.0, 1.0]]
    released = MatchingParams.preset("released")
    assert points_to_tokens(centre, stride_px=16, params=released).tolist() == [[0.5, 1.5]]
    for params in (CORRECTED, released):
        tokens = points_to_tokens(centre, stride_px=16, params=params)
        assert torch.equal(tokens_to_points(tokens, stride_px=16, params=params), centre)


def test_each_head_alone_is_the_mean_with_all_weight_on_that_head() -> None:
    query, key = draw(7, heads=3)
    points = every_token() * 0.9
    per_head = match_points_per_head(query, key, points, cycle=True)
    assert per_head.points_xy_token.shape == (3, FRAMES, ROWS * COLS, 2)
    alone = match_points(query[1:2], key[1:2], points, cycle=True)
    torch.testing.assert_close(per_head.probability[1], alone.probability)
    assert per_head.cycle_error_token is not None
    torch.testing.assert_close(per_head.cycle_error_token[1], alone.cycle_error_token)
    weighted = match_points(query, key, points, head_weights=torch.tensor([0.0, 5.0, 0.0]))
    torch.testing.assert_close(weighted.probability, alone.probability)
    mean, heads = match_points_with_heads(query, key, points)
    torch.testing.assert_close(heads.probability, per_head.probability)
    torch.testing.assert_close(mean.probability, match_points(query, key, points).probability)


def test_fusing_averages_match_probabilities_of_layers_and_steps() -> None:
    first, second = draw(8), draw(9, heads=5)
    points = every_token()[:3]
    fused = match_points_fused([first, second], points)
    maps = [match_probabilities(*pair, points, target_frame=1) for pair in (first, second)]
    best = torch.stack(maps).mean(dim=0).flatten(1).amax(dim=1)
    torch.testing.assert_close(fused.probability[1], best)
    same = match_points_fused([first, first], points)
    torch.testing.assert_close(same.probability, match_points(*first, points).probability)


def test_cycle_error_tells_a_token_that_two_others_claim() -> None:
    descriptor = unmistakable(2).clone()
    descriptor[:, 1, 4, 6] = descriptor[:, 0, 0, 0]
    descriptor[:, 0, 4, 6] = 0.5 * descriptor[:, 0, 0, 0]
    params = MatchingParams(temperature=1.0)
    for chosen in (params, replace(params, directions="forward")):
        matches = match_points(
            descriptor, descriptor, torch.tensor([[6.0, 4.0], [3.0, 2.0]]), params=chosen, cycle=True
        )
        assert matches.cycle_error_token is not None
        usurped, kept = matches.cycle_error_token[1].tolist()
        assert usurped == pytest.approx(math.hypot(6, 4))
        assert kept == 0


def test_top_matches_are_ordered_and_begin_with_the_match() -> None:
    query, key = draw(10)
    points = every_token()[:4]
    maps = match_probabilities(query, key, points, target_frame=1)
    top = top_matches(maps, k=3)
    assert (top.probability.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(top.points_xy_token[:, 0], match_points(query, key, points).points_xy_token[1])
    with pytest.raises(ValueError, match="k is 36"):
        top_matches(maps, k=36)


def test_cosine_ignores_the_norm_that_the_dot_product_follows() -> None:
    feature = unmistakable(2).clone()
    feature[:, 1, 0, 0] = 10 * (feature[:, 1, 0, 0] + 0.5 * feature[:, 1, 3, 5])
    point = torch.tensor([[5.0, 3.0]])
    by_cosine = match_features(feature, point).points_xy_token[1]
    by_dot = match_features(feature, point, params=MatchingParams(feature_similarity="dot")).points_xy_token[1]
    torch.testing.assert_close(by_cosine, point)
    torch.testing.assert_close(by_dot, torch.tensor([[0.0, 0.0]]))


def text_of(seed: int, num_text: int, heads: int = HEADS) -> Tensor:
    return torch.randn(heads, num_text, CHANNELS, generator=torch.Generator().manual_seed(seed))


def test_attention_rows_equal_a_plain_softmax_over_text_and_video() -> None:
    query, key = draw(11)
    text_key, mask = text_of(1, 3), torch.tensor([True, False, True])
    points = torch.tensor([[2.2, 1.4], [6.9, -0.9]])
    rows = attention_rows(query, key, text_key, mask, points, source_frame=1)
    asking = query[:, 1, [1, 0], [2, 6]]
    answering = torch.cat([text_key[:, mask], key.flatten(1, 3)], dim=1)
    plain = (asking @ answering.transpose(1, 2) / CHANNELS**0.5).softmax(dim=-1).mean(dim=0)
    torch.testing.assert_close(rows, plain, atol=1e-6, rtol=0)
    reduced = attention_of_points(query, key, text_key, mask, points, source_frame=1)
    video = plain[:, 2:].reshape(2, FRAMES, ROWS * COLS)
    torch.testing.assert_close(reduced.frame_max, video.amax(dim=-1).T, atol=1e-6, rtol=0)
    torch.testing.assert_close(reduced.frame_mass, video.sum(dim=-1).T, atol=1e-6, rtol=0)
    torch.testing.assert_close(reduced.text_max, plain[:, :2].amax(dim=-1), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), num_text=st.integers(0, 3))
def test_attention_mass_over_text_and_frames_is_one_for_every_head(seed: int, num_text: int) -> None:
    query, key = draw(seed)
    args = (query, key, text_of(seed, num_text), torch.ones(num_text, dtype=torch.bool), every_token())
    for rows in (attention_of_points(*args), attention_of_points_per_head(*args)):
        total = rows.text_mass + rows.frame_mass.sum(dim=-2)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_padded_text_takes_attention_only_when_counted() -> None:
    query, key = draw(12)
    text_key, points = text_of(2, 3), every_token()[:2]
    nothing_counts = torch.zeros(3, dtype=torch.bool)
    masked = attention_of_points(query, key, text_key, nothing_counts, points)
    counted = attention_of_points(
        query, key, text_key, nothing_counts, points, params=MatchingParams(padded_text="counted")
    )
    assert masked.text_mass.tolist() == [0.0, 0.0]
    assert (counted.text_mass > 0).all()


def test_few_points_at_a_time_give_the_same_attention() -> None:
    query, key = torch.randn(2, 1, 3, 23, 31, 2, generator=torch.Generator().manual_seed(13))
    args = (query, key, torch.zeros(1, 0, 2), torch.zeros(0, dtype=torch.bool), every_token(23, 31))
    whole, split = (attention_of_points(*args, params=MatchingParams(memory_limit_mb=mb)) for mb in (512, 1))
    torch.testing.assert_close(split.frame_mass, whole.frame_mass)
    torch.testing.assert_close(split.frame_max, whole.frame_max)


def test_latent_frames_are_read_where_a_causal_autoencoder_puts_them() -> None:
    ramp = torch.arange(3.0).reshape(3, 1, 1).expand(3, 2, 2)
    frames = latent_to_frames(ramp, num_frames=11, temporal_stride=4)
    assert frames.shape == (11, 2, 2)
    torch.testing.assert_close(frames[:, 0, 0], torch.clamp(torch.arange(11) / 4, max=2))
    per_head = latent_to_frames(ramp.expand(5, 3, 2, 2), num_frames=11, temporal_stride=4)
    torch.testing.assert_close(per_head[3], frames)


@pytest.mark.parametrize("name", ["corrected", "released"])
@pytest.mark.parametrize("first_frames", [1, 4])
def test_stored_positions_are_brought_to_frames_as_tensors_are(name: Any, first_frames: int) -> None:
    """Matches of 3 heads, 5 latent frames (17 or 20 frames) and 7 points, one without a position in the last frame."""
    points = np.random.default_rng(0).normal(size=(3, 5, 7, 2)).astype(np.float32)
    points[:, 4, 6] = np.nan
    how = {"num_frames": 16 + first_frames, "temporal_stride": 4, "first_frames": first_frames}
    expected = latent_to_frames(torch.from_numpy(points), **how, params=MatchingParams.preset(name)).numpy()
    found = stored_to_frames(**how, params=MatchingParams.preset(name))(points)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window_radius", -1, "window_radius is -1"),
        ("window_temperature", 0.0, "window_temperature is 0.0"),
        ("temperature", -2.0, "temperature is -2.0"),
        ("memory_limit_mb", 0, "memory_limit_mb is 0"),
        ("read_out", "nearest", "rows | argmax_map | displacements"),
        ("support_radius", 0, "support_radius is 0"),
        ("support_agreement_token", 0.0, "support_agreement_token is 0"),
        ("radius", 2, "unknown key match.matching.radius"),
    ],
)
def test_impossible_params_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as refused:
        MatchingParams.preset("corrected", {name: value})
    assert message in str(refused.value)


def test_null_keeps_what_the_preset_says_and_a_value_replaces_it() -> None:
    params = MatchingParams.preset("released", {"padding": None, "window_radius": 2})
    assert (params.padding, params.window_radius, params.read_out) == ("zeros", 2, "argmax_map")
    assert MatchingParams.preset("corrected") == MatchingParams()


def test_unusable_input_is_named() -> None:
    query, key = draw(14)
    with pytest.raises(ValueError, match="query point 1 is"):
        match_points(query, key, torch.tensor([[0.0, 0.0], [float("nan"), 1.0]]))
    with pytest.raises(ValueError, match="source_frame is 3"):
        match_points(query, key, every_token(), source_frame=3)
    with pytest.raises(ValueError, match="expected 2 numbers, none negative, not all zero"):
        match_points(query, key, every_token(), head_weights=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="pairs is empty"):
        match_points_fused([], every_token())


def test_scores_too_large_for_a_plain_power_equal_the_plain_version() -> None:
    query, key = draw(16, scale=30.0)
    text_key, points = 30 * text_of(3, 3), every_token()
    blocked, plain = (MatchingParams(backend=backend) for backend in ("blocked", "reference"))
    found, expected = (match_points(query, key, points, params=params) for params in (blocked, plain))
    torch.testing.assert_close(found.probability, expected.probability, atol=1e-3, rtol=0)
    mask = torch.tensor([True, False, True])
    for of_blocked, of_plain in zip(
        *(attention_of_points_with_heads(query, key, text_key, mask, points, params=p) for p in (blocked, plain)),
        strict=True,
    ):
        torch.testing.assert_close(of_blocked.frame_max, of_plain.frame_max, atol=1e-3, rtol=0)
        torch.testing.assert_close(of_blocked.text_mass, of_plain.text_mass, atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", ["blocked", "reference"])
def test_no_points_have_no_matches_and_no_attention(backend: Any) -> None:
    query, key = draw(18)
    params, nowhere = MatchingParams(backend=backend), torch.zeros(0, 2)
    of_mean, of_heads = match_points_with_heads(query, key, nowhere, params=params)
    assert of_mean.probability.shape == (FRAMES, 0)
    assert of_heads.probability.shape == (HEADS, FRAMES, 0)
    args = (query, key, text_of(5, 3), torch.tensor([True, False, True]), nowhere)
    attention, attention_of_heads = attention_of_points_with_heads(*args, params=params)
    assert attention.frame_max.shape == (FRAMES, 0)
    assert attention_of_heads.frame_max.shape == (HEADS, FRAMES, 0)


def test_attention_of_mean_and_heads_together_is_what_each_gives_alone() -> None:
    query, key = draw(17)
    args = (query, key, text_of(4, 3), torch.tensor([True, False, True]), every_token() * 0.9)
    of_mean, of_heads = attention_of_points_with_heads(*args)
    for together, alone in ((of_mean, attention_of_points(*args)), (of_heads, attention_of_points_per_head(*args))):
        torch.testing.assert_close(together.frame_max, alone.frame_max, atol=0, rtol=0)
        torch.testing.assert_close(together.text_mass, alone.text_mass, atol=0, rtol=0)


def test_what_was_handed_out_is_held_though_others_take_its_place() -> None:
    made: list[weakref.ref[Tensor]] = []

    @kept
    def numbers(size: int) -> Tensor:
        tensor = torch.arange(size)
        made.append(weakref.ref(tensor))
        return tensor

    before = numbers(3)
    with handed_out() as held:
        assert numbers(3) is before
    del before
    for size in range(10, 50):
        numbers(size)
    assert held[0] is made[0]()
    assert torch.equal(held[0], torch.arange(3))
    assert numbers(3) is not held[0]
    assert made[1]() is None
    held.clear()
    assert made[0]() is None


def test_what_is_handed_out_inside_and_outside_is_told_apart() -> None:
    @kept
    def double(number: int) -> list[int]:
        return [2 * number]

    with handed_out() as nothing:
        pass
    with handed_out() as outer:
        one = double(1)
        with handed_out() as inner:
            two = double(2)
        with suppress(KeyError), handed_out() as failed:
            three = double(3)
            raise KeyError
        four = double(4)
    double(5)
    assert [nothing, inner, failed, outer] == [[], [two], [three], [one, two, three, four]]


def test_points_asked_for_once_more_are_the_same_tensors_and_all_are_handed_out() -> None:
    with handed_out() as first:
        match_points(*draw(3), every_token())
    with handed_out() as again:
        match_points(*draw(4), every_token())
    assert len(first) == len(again) > 0
    assert all(one is other for one, other in zip(first, again, strict=True))


def test_what_a_clip_matcher_recorded_goes_with_it() -> None:
    matcher = ClipMatcher(MatchSection(device="cpu"), np.zeros((2, 2), np.float32), 16, ())
    descriptors = dict(zip(("query", "key", "feature"), (*draw(5), draw(5)[0]), strict=True))
    matcher.match(descriptors.__getitem__)
    recordings = weakref.ref(matcher._recordings)
    gc.disable()  # a GPU's memory must not wait for it
    try:
        del matcher
        assert recordings() is None
    finally:
        gc.enable()


def test_latent_frames_and_points_that_do_not_exist_are_named_by_every_function() -> None:
    query, key = torch.randn(2, 2, 3, 5, 7, 11, generator=torch.Generator().manual_seed(3))
    text, mask, points = torch.zeros(2, 0, 11), torch.zeros(0, dtype=torch.bool), torch.tensor([[1.0, 2.0]])
    attention = (attention_of_points, attention_of_points_per_head, attention_rows)
    for frame in (-1, 3):
        for reduced in attention:
            with pytest.raises(ValueError, match=rf"source_frame is {frame}; it must lie in 0\.\.\.2"):
                reduced(query, key, text, mask, points, source_frame=frame)
        with pytest.raises(ValueError, match=rf"target_frame is {frame}; it must lie in 0\.\.\.2"):
            match_probabilities(query, key, points, target_frame=frame)
    for reduced in attention:
        with pytest.raises(ValueError, match=r"query point 1 is \[nan, 1\.0\]; coordinates must be finite"):
            reduced(query, key, text, mask, torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]))


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:99", "meta"])
def test_a_device_that_cannot_match_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device is '?{name}"):
        matching_device(name)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=found: found)
        assert matching_device("auto") == device
    assert matching_device("cpu") == "cpu"
