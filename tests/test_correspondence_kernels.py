"""The fused kernels against the plain version: compiled where there is CUDA, else in Triton's interpreter on the CPU.

The interpreter runs the same kernels one program at a time; it checks indices, masks and arithmetic, not speed.
"""

import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from difftrack.correspondence import (
    CORRECTED,
    AttentionRows,
    ClipMatcher,
    MatchingParams,
    MatchSection,
    attention_of_points_with_heads,
    match_features,
    match_points,
    match_points_per_head,
    match_points_with_heads,
    match_rows,
    query_tokens,
    read_rows,
)
from difftrack.correspondence._cuda_graphs import Recordings, side_by_side

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON_CUDA = torch.cuda.is_available()
if HAS_TRITON and not ON_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed here (it comes with torch for CUDA)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning"),
]
if ON_CUDA:
    pytestmark.append(pytest.mark.gpu)

DEVICE = "cuda" if ON_CUDA else "cpu"
HEADS, FRAMES, ROWS, COLS = 3, 4, 11, 13
KINDS = [(48, torch.float32), (64, torch.float16), (128, torch.float32)]
"""Channels and dtypes; the interpreter multiplies the bit patterns of bfloat16, so that one is for CUDA only."""
if ON_CUDA:
    KINDS = [(n, dtype) for n in (48, 64, 128) for dtype in (torch.float32, torch.bfloat16, torch.float16)]
HALF = torch.bfloat16 if ON_CUDA else torch.float16
FUSED, PLAIN = (replace(CORRECTED, backend=backend) for backend in ("triton", "reference"))


@pytest.fixture(autouse=True)
def small_sizes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hopper kernels run at sizes that normally go to the kernels for any GPU."""
    if ON_CUDA:
        monkeypatch.setattr("difftrack.correspondence.kernels._pair_rows._FEWEST_SCORES", 0)


def draw(seed: int, channels: int, dtype: torch.dtype = torch.float32, *, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, FRAMES, rows, COLS, HEADS, channels, generator=generator).to(DEVICE, dtype)
    return query.permute(3, 0, 1, 2, 4), key.permute(3, 0, 1, 2, 4)


def points_between_tokens(count: int = 17) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([COLS + 1, ROWS + 1]) - 1


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
@pytest.mark.parametrize("directions", ["both", "forward"])
def test_fused_match_probabilities_equal_the_plain_version(channels: int, dtype: torch.dtype, directions: Any) -> None:
    query, key = draw(15, channels, dtype)
    for tokens in (torch.arange(ROWS * COLS), torch.tensor([3, 71, 140])):
        fused, plain = (
            match_rows(
                [(query, key)],
                tokens.to(DEVICE),
                source_frame=1,
                target_frames=range(2, 4),
                params=replace(params, directions=directions),
            )
            for params in (FUSED, PLAIN)
        )
        torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-4)
        assert fused.sum() > 0


def test_fused_rows_follow_head_weights_and_temperature() -> None:
    query, key = draw(16, 64)
    for weights in (torch.tensor([0.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])):
        fused, plain = (
            match_rows(
                [(query, key)],
                torch.tensor([5, 9], device=DEVICE),
                source_frame=0,
                target_frames=range(3, 4),
                params=replace(params, temperature=0.5),
                head_weights=[weights],
            )
            for params in (FUSED, PLAIN)
        )
        torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_large_scores_neither_overflow_nor_vanish(dtype: torch.dtype) -> None:
    query, key = draw(17, 64, dtype)
    fused, plain = (
        match_rows([(40 * query, 40 * key)], torch.arange(19, device=DEVICE), source_frame=0, target_frames=range(1, 2),
                   params=params)
        for params in (FUSED, PLAIN)
    )  # fmt: skip
    torch.testing.assert_close(fused, plain, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_key_that_comes_late_may_beat_the_first_ones_by_whatever_it_likes(dtype: torch.dtype) -> None:
    query, key = draw(23, 64, dtype)
    key[:, :, -1, -2] = 30 * query[:, :1, 0, 5]
    tokens = torch.tensor([5, 9], device=DEVICE)
    fused, plain = (
        match_rows([(query, key)], tokens, source_frame=0, target_frames=range(1, 3), params=params)
        for params in (FUSED, PLAIN)
    )
    assert (plain[:, 0].argmax(dim=-1) == ROWS * COLS - 2).all()
    torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("num_rows", [3, 5, 10, 31])
def test_rows_of_any_length_equal_the_plain_ones(num_rows: int) -> None:
    query, key = draw(24, 64, HALF, rows=num_rows)
    for count in (1, 7, num_rows * COLS):
        tokens = torch.randperm(num_rows * COLS, generator=torch.Generator().manual_seed(count))[:count].to(DEVICE)
        fused, plain = (
            match_rows([(query, key)], tokens, source_frame=2, target_frames=range(2), params=params)
            for params in (FUSED, PLAIN)
        )
        torch.testing.assert_close(fused, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"window_radius": 2, "window_temperature": 0.5},
        {"second_softmax": True, "padding": "zeros"},
        {"read_out": "displacements", "window_radius": 1},
        {"read_out": "argmax_map", "query_margin": "grid", "second_softmax": True, "window_radius": 1},
    ],
)
def test_the_fused_read_out_equals_the_plain_one(overrides: dict[str, Any]) -> None:
    points = query_tokens(
        points_between_tokens(),
        rows=ROWS,
        cols=COLS,
        params=replace(CORRECTED, **overrides),
        device=torch.device(DEVICE),
    )
    generator = torch.Generator().manual_seed(18)
    rows = torch.rand(2, len(points.tokens), ROWS * COLS, generator=generator).to(DEVICE) ** 8
    rows[:, :, ::7] = 0.0
    fused, plain = (
        read_rows(rows, points, cols=COLS, params=replace(params, **overrides)) for params in (FUSED, PLAIN)
    )
    torch.testing.assert_close(fused.points_xy_token, plain.points_xy_token, atol=1e-3, rtol=0)
    torch.testing.assert_close(fused.probability, plain.probability, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused.margin, plain.margin, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("source_frame", [0, 2])
def test_fused_matches_of_mean_and_heads_equal_the_plain_ones(source_frame: int) -> None:
    query, key = draw(19, 64, HALF)
    found = {
        params.backend: [
            match_points(query, key, points_between_tokens(), params=params, source_frame=source_frame),
            *match_points_with_heads(query, key, points_between_tokens(), params=params, source_frame=source_frame),
            match_points_per_head(query, key, points_between_tokens(), params=params, source_frame=source_frame),
        ]
        for params in (FUSED, PLAIN)
    }
    for fused, plain in zip(*found.values(), strict=True):
        torch.testing.assert_close(fused.probability, plain.probability, atol=1e-6, rtol=1e-4)
        assert (fused.points_xy_token == plain.points_xy_token).float().mean() > 0.99


@pytest.mark.parametrize("name", ["corrected", "released"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_fused_feature_matches_equal_the_plain_ones(name: Any, dtype: torch.dtype) -> None:
    feature, _ = draw(20, 16, dtype)
    fused, plain = (
        match_features(
            feature, points_between_tokens().clamp(min=-0.5), params=MatchingParams.preset(name, {"backend": backend})
        )
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(fused.probability, plain.probability, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(fused.points_xy_token, plain.points_xy_token, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("channels", "dtype"), KINDS)
def test_fused_attention_equals_the_plain_version_with_padded_text(channels: int, dtype: torch.dtype) -> None:
    query, key = draw(21, channels, dtype)
    for num_text, kept in ((5, [0, 3]), (5, []), (0, [])):
        text_key = torch.randn(HEADS, num_text, channels, generator=torch.Generator().manual_seed(22)).to(DEVICE, dtype)
        mask = torch.zeros(num_text, dtype=torch.bool)
        mask[kept] = True
        fused, plain = (
            attention_of_points_with_heads(
                query, key, text_key, mask.to(DEVICE), points_between_tokens(), params=params, source_frame=1
            )
            for params in (FUSED, PLAIN)
        )
        for of_fused, of_plain in zip(fused, plain, strict=True):
            assert_same_attention(of_fused, of_plain)


def assert_same_attention(fused: AttentionRows, plain: AttentionRows) -> None:
    for name in ("text_max", "text_mass", "frame_max", "frame_mass"):
        torch.testing.assert_close(getattr(fused, name), getattr(plain, name), atol=1e-6, rtol=1e-4)
    total = fused.text_mass + fused.frame_mass.sum(dim=-2)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def cell(seed: int, channels: int = 48) -> dict[str, Tensor]:
    """What one (step, layer) leaves on the CPU, each kind laid out as a backbone leaves it."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(3, FRAMES, ROWS, COLS, HEADS, channels, generator=generator).permute(0, 4, 1, 2, 3, 5)
    text_key = torch.randn(7, HEADS, channels, generator=generator).transpose(0, 1)
    return {**dict(zip(("query", "key", "feature"), video, strict=True)), "text_key": text_key}


def matchers(convention: Any, text_mask: tuple[bool, ...], *, per_head: bool = True) -> tuple[ClipMatcher, ClipMatcher]:
    """One matcher on the CPU, one on the GPU."""
    points = (16 * points_between_tokens()).numpy().clip(0)
    on_cpu, on_gpu = (
        ClipMatcher(MatchSection(convention=convention, device=device, per_head=per_head), points, 16, text_mask)
        for device in ("cpu", "cuda")
    )
    return on_cpu, on_gpu


ON_HOPPER = ON_CUDA and torch.cuda.get_device_capability()[0] == 9


@pytest.mark.skipif(not ON_HOPPER, reason="its kernels need a Hopper GPU")
def test_a_hopper_gpu_runs_its_own_kernels_and_those_for_any_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from difftrack.correspondence.kernels import _gpu, _pair_rows

    query, key = draw(25, 128, HALF, rows=31)
    assert _gpu.on_hopper(query.flatten(2, 3), key.flatten(2, 3))
    assert not _gpu.on_hopper(query.flatten(2, 3).float())

    def found() -> list[Tensor]:
        tokens = torch.arange(0, 400, 3, device=DEVICE)
        return [
            match_rows(
                [(query, key)],
                tokens,
                source_frame=1,
                target_frames=range(2, 4),
                params=replace(FUSED, directions=directions),
                head_weights=[torch.tensor([1.0, 2.0, 3.0])],
            )
            for directions in ("both", "forward")
        ]

    own = found()
    monkeypatch.setattr(_pair_rows, "on_hopper", lambda *_: False)
    for fast, slow in zip(own, found(), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-7, rtol=2e-5)


@pytest.mark.skipif(not ON_HOPPER, reason="its kernels need a Hopper GPU")
@pytest.mark.parametrize("broken", ["fails", "is off"])
def test_where_the_kernels_for_hopper_do_not_run_one_warning_says_so_and_others_do(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from difftrack.correspondence.kernels import _gpu

    def largest_error(device: torch.device) -> float:
        if broken == "fails":
            raise TypeError(f"an interface has changed on {device}")
        return 0.5

    monkeypatch.setattr(_gpu, "_largest_error", largest_error)
    _gpu._run_here.cache_clear()
    query, _ = draw(26, 64, HALF)
    with pytest.warns(UserWarning, match="kernels for Hopper GPUs") as warned:
        found = [_gpu.on_hopper(query) for _ in range(2)]
    assert found == [False, False]
    assert len(warned) == 1
    _gpu._run_here.cache_clear()


@pytest.mark.skipif(ON_HOPPER, reason="on a Hopper GPU they run")
def test_other_devices_never_try_the_kernels_for_hopper() -> None:
    from difftrack.correspondence.kernels._gpu import on_hopper

    assert not on_hopper(draw(27, 64, HALF)[0])


def test_tiles_are_loaded_of_descriptors_that_lie_on_sixteen_bytes() -> None:
    from difftrack.correspondence.kernels._gpu import _in_tiles

    wide = torch.zeros(3, 2, 5, 144, dtype=torch.bfloat16)
    assert _in_tiles(wide[..., :128])
    assert _in_tiles(wide[..., 8:72].transpose(0, 2))
    for other in (
        wide,  # more channels than a tile has
        wide[..., 1:65],  # starts between two tiles
        wide[..., :20],  # would lie between two tiles once gathered
        wide[..., :64].float(),
        wide[:1, ..., :64].expand(3, -1, -1, -1),  # all heads at one place
        wide[..., :64].transpose(-1, -2),
    ):
        assert not _in_tiles(other)


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
@pytest.mark.parametrize("convention", ["corrected", "released"])
@pytest.mark.parametrize("text_mask", [(), (True,) * 5 + (False,) * 2])
@pytest.mark.parametrize("per_head", [True, False])
def test_recorded_matches_of_every_cell_are_those_of_a_cpu(
    convention: Any, text_mask: tuple[bool, ...], per_head: bool
) -> None:
    on_cpu, on_gpu = matchers(convention, text_mask, per_head=per_head)
    for seed in (1, 2, 1, 3) * 2:  # first plainly, then recorded, then replayed
        found, expected = (matcher.match(cell(seed).__getitem__) for matcher in (on_gpu, on_cpu))
        assert list(found) == list(expected)
        for name, (axes, values) in found.items():
            assert axes == expected[name][0]
            np.testing.assert_allclose(values, expected[name][1], atol=2e-4, rtol=1e-3)


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_a_recording_reads_what_lies_in_its_place_now_and_changes_no_input() -> None:
    _, on_gpu = matchers("corrected", (True,) * 7)
    places = {kind: torch.empty_like(tensor, device="cuda") for kind, tensor in cell(0).items()}
    found: dict[int, list[dict[str, np.ndarray]]] = {1: [], 2: []}
    for seed in (1, 2) * 4:
        for kind, tensor in cell(seed).items():
            places[kind].copy_(tensor)
        found[seed].append({name: values for name, (_, values) in on_gpu.match(places.__getitem__).items()})
        for kind, tensor in cell(seed).items():
            assert torch.equal(places[kind].cpu(), tensor)
    assert [type(known).__name__ for known in on_gpu._recordings._known.values()] == ["_Recording"]
    for first, *others in found.values():
        assert len(others) == 3
        assert all(first[name].tobytes() == other[name].tobytes() for other in others for name in first)
    assert (found[1][0]["match_probability"] != found[2][0]["match_probability"]).any()


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_a_recording_outlives_what_others_keep_for_other_points() -> None:
    _, on_gpu = matchers("corrected", (True,) * 7)
    given = {kind: tensor.to("cuda") for kind, tensor in cell(4).items()}
    before = [on_gpu.match(given.__getitem__) for _ in range(7)][-1]
    for seed in range(40):
        points = 16 * torch.rand(17, 2, generator=torch.Generator().manual_seed(seed)).numpy() * [COLS - 1, ROWS - 1]
        ClipMatcher(on_gpu.section, points.astype(np.float32), 16, (True,) * 6 + (False,)).match(given.__getitem__)
    after = on_gpu.match(given.__getitem__)
    assert all(after[name][1].tobytes() == values.tobytes() for name, (_, values) in before.items())


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_no_points_are_matched_again_and_again() -> None:
    _, on_gpu = matchers("corrected", (True,) * 7)
    nowhere = ClipMatcher(on_gpu.section, np.zeros((0, 2), np.float32), 16, (True,) * 7)
    given = {kind: tensor.to("cuda") for kind, tensor in cell(5).items()}
    for _ in range(7):
        assert nowhere.match(given.__getitem__)["match_probability"][1].shape == (FRAMES, 0)


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_what_was_forgotten_is_recorded_again() -> None:
    recordings: Recordings[str] = Recordings(after=1, most=1)
    places = [torch.full((7,), float(value), device="cuda") for value in (2, 3)]

    def squared(given: Mapping[str, Tensor]) -> tuple[str, Tensor]:
        first, second = side_by_side([lambda: given["x"] * given["x"], lambda: given["x"] + 1])
        return "squared, and one more", torch.cat([first, second])

    for index in (0, 0, 0, 1, 1, 1, 0, 0, 0):
        labels, numbers = recordings(squared, {"x": places[index]})
        value = (2, 3)[index]
        assert labels == "squared, and one more"
        assert numbers.tolist() == [value**2] * 7 + [value + 1] * 7


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_a_computation_that_fails_while_it_is_recorded_fails_alone() -> None:
    recordings: Recordings[str] = Recordings(after=1)
    x, calls = torch.ones(5, device="cuda"), list[bool]()

    def twice(given: Mapping[str, Tensor]) -> tuple[str, Tensor]:
        def refuse() -> Tensor:
            calls.append(torch.cuda.is_current_stream_capturing())
            if calls.count(True) == 1 and calls[-1]:
                raise ValueError("not now")
            return given["x"]

        return "", torch.cat(side_by_side([lambda: given["x"], refuse]))

    recordings(twice, {"x": x})
    with pytest.raises(ValueError, match="not now"):
        recordings(twice, {"x": x})
    for _ in range(4):
        assert recordings(twice, {"x": x})[1].tolist() == [1.0] * 10
    assert calls.count(True) == 2


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_clips_one_after_another_do_not_pile_up_memory() -> None:
    given = {kind: tensor.to("cuda") for kind, tensor in cell(5).items()}

    def reserved_after(num_clips: int) -> int:
        for _ in range(num_clips):
            _, on_gpu = matchers("corrected", (True,) * 7)
            for _ in range(7):
                on_gpu.match(given.__getitem__)
        return torch.cuda.memory_reserved()

    before = reserved_after(2)
    assert reserved_after(6) <= before


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_more_places_take_hardly_more_memory() -> None:
    _, on_gpu = matchers("corrected", (True,) * 7)
    places = [{kind: tensor.to("cuda") for kind, tensor in cell(seed).items()} for seed in range(12)]

    def reserved_after(some: list[dict[str, Tensor]]) -> int:
        for given in some * 7:
            on_gpu.match(given.__getitem__)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    before = reserved_after(places[:1])
    assert reserved_after(places) < before + 8 * 2**20


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA's launches are recorded")
def test_threads_that_share_a_matcher_take_turns() -> None:
    _, on_gpu = matchers("corrected", (True,) * 7)
    places = [{kind: tensor.to("cuda") for kind, tensor in cell(seed).items()} for seed in range(4)]
    alone = [on_gpu.match(given.__getitem__) for given in places]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: on_gpu.match(places[index % 4].__getitem__), range(200)))
    for index, found in enumerate(together):
        for name, (_, values) in found.items():
            assert values.tobytes() == alone[index % 4][name][1].tobytes()
