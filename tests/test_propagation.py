"""Labels carried along descriptors; J, F and PCK by hand and against the official evaluation of DAVIS."""

from itertools import permutations

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from torch import Tensor

from difftrack.propagation import (
    DescriptorChunk,
    PropagationKind,
    PropagationParams,
    badja_scales,
    boundary_f,
    box_labels,
    boxes_of_labels,
    davis_scores,
    jhmdb_scales,
    keypoint_labels,
    keypoints_of_labels,
    mask_labels,
    masks_of_labels,
    pck,
    propagate_labels,
    region_similarity,
    summarize,
)

HEADS, ROWS, COLS, CHANNELS = 2, 5, 7, 11
KINDS: tuple[PropagationKind, ...] = ("query_key", "feature", "query_query", "key_key")


def _chunk(frames: tuple[int, ...], *, seed: int = 0, still: bool = False) -> DescriptorChunk:
    """Random descriptors; where the picture stands still they are the same in every frame, and as query and key."""
    generator = torch.Generator().manual_seed(seed)
    shape = (HEADS, len(frames), ROWS, COLS, CHANNELS)
    query, key = (torch.randn(shape, generator=generator) for _ in range(2))
    if still:
        query = key = query[:, :1].expand(shape)
    return DescriptorChunk(frames, lambda: [(query, key)])


def _some_labels(num_classes: int = 3, *, seed: int = 1) -> Tensor:
    return torch.randn(num_classes, ROWS, COLS, generator=torch.Generator().manual_seed(seed)).softmax(dim=0)


# propagation


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_all_classes_sum_to_one_in_every_token(kind: PropagationKind) -> None:
    found = propagate_labels([_chunk((0, 3, 5, 8))], {0: _some_labels()}, PropagationParams(kind=kind))
    assert set(found) == {0, 3, 5, 8}
    for labels in found.values():
        torch.testing.assert_close(labels.sum(dim=0), torch.ones(ROWS, COLS))
        assert (labels >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_stands_still_keeps_its_mask(kind: PropagationKind) -> None:
    mask = np.zeros((ROWS * 4, COLS * 4), dtype=np.uint8)
    mask[5:13, 9:22] = 2
    mask[14:19, 3:11] = 7
    given = mask_labels(mask, rows=ROWS, cols=COLS)
    sharp = PropagationParams(kind=kind, top_k=1, temperature=0.01, radius_token=None)
    found = propagate_labels([_chunk((0, 1, 2, 3), still=True)], {0: given.labels}, sharp)
    start = masks_of_labels(given.labels, given.objects, height=20, width=28)
    for labels in found.values():
        torch.testing.assert_close(labels, given.labels)
        np.testing.assert_array_equal(masks_of_labels(labels, given.objects, height=20, width=28), start)
    assert set(np.unique(start)) == {0, 2, 7}


@pytest.mark.parametrize("temperature", [None, 1e-4])
def test_radius_zero_keeps_the_mask_in_place_whatever_matches(temperature: float | None) -> None:
    labels = _some_labels()
    params = PropagationParams(radius_token=0, temperature=temperature)  # at 1e-4 all probabilities vanish here
    found = propagate_labels([_chunk((0, 1, 2, 3, 4))], {0: labels}, params)
    for carried in found.values():
        torch.testing.assert_close(carried, labels)


def test_the_order_of_classes_is_the_order_of_results() -> None:
    labels, chunk = _some_labels(), _chunk((0, 1, 2, 3))
    found = propagate_labels([chunk], {0: labels}, PropagationParams())
    for order in permutations(range(3)):
        permuted = propagate_labels([chunk], {0: labels[list(order)]}, PropagationParams())
        for frame, carried in permuted.items():
            torch.testing.assert_close(carried, found[frame][list(order)])


def test_two_tokens_share_labels_by_their_match_probabilities() -> None:
    """Scores 0 and ln 3 give 1/4 and 3/4; the context has the labels 1 and 0."""
    query, key = torch.zeros(1, 2, 1, 2, 1), torch.zeros(1, 2, 1, 2, 1)
    query[0, 1] = 1.0
    key[0, 0, 0, 1] = float(np.log(3))
    chunk = DescriptorChunk((0, 1), lambda: [(query, key)])
    labels = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    forward = PropagationParams(directions="forward", top_k=None)
    found = propagate_labels([chunk], {0: labels}, forward)[1]
    torch.testing.assert_close(found, torch.tensor([[[0.25, 0.25]], [[0.75, 0.75]]]))
    best = propagate_labels([chunk], {0: labels}, PropagationParams(directions="forward", top_k=1))[1]
    torch.testing.assert_close(best, torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]]))


def test_the_context_is_the_anchor_and_the_labelled_frames_before_the_target() -> None:
    """Frame 1 swaps two tokens and frame 2 sees only frame 1, so where frame 1 counts it swaps them back."""
    basis = 40 * torch.eye(2)
    query, key = torch.zeros(1, 3, 1, 2, 2), torch.zeros(1, 3, 1, 2, 2)
    key[0, 0, 0], query[0, 1, 0], key[0, 1, 0], query[0, 2, 0] = basis, basis.flip(0), 2 * basis, basis
    chunk = DescriptorChunk((0, 1, 2), lambda: [(query, key)])
    labels = torch.tensor([[[1.0, 0.0]]])
    params = PropagationParams(directions="forward", top_k=1, num_context=0)
    alone = propagate_labels([chunk], {0: labels}, params)
    torch.testing.assert_close(alone[1], torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(alone[2], labels)
    both = propagate_labels([chunk], {0: labels}, PropagationParams(directions="forward", top_k=2, num_context=1))
    torch.testing.assert_close(both[2], torch.tensor([[[0.5, 0.5]]]))


def test_a_frame_in_two_chunks_is_labelled_once_and_then_leads_on() -> None:
    first, second = _chunk((0, 1, 2)), _chunk((0, 2, 3), seed=4)
    labels, leading = _some_labels(), PropagationParams(num_context=4)
    found = propagate_labels([first, second], {0: labels}, leading)
    torch.testing.assert_close(found[2], propagate_labels([first], {0: labels}, leading)[2])
    given = propagate_labels([second], {0: labels, 2: found[2]}, leading)
    torch.testing.assert_close(found[3], given[3])
    assert not torch.allclose(found[3], propagate_labels([second], {0: labels}, leading)[3])


def test_frames_before_the_anchor_are_reached_too() -> None:
    chunk = _chunk((3, 1, 2, 4, 5), still=True)
    found = propagate_labels([chunk], {3: _some_labels()}, PropagationParams(top_k=1, temperature=0.01))
    for frame in (1, 2, 4, 5):
        torch.testing.assert_close(found[frame], _some_labels())


def test_memory_bounds_change_no_label() -> None:
    """247 tokens with two frames of context take 1.4 MB of scores, so 1 MB means two parts."""
    query, key = torch.randn(2, HEADS, 3, 13, 19, CHANNELS, generator=torch.Generator().manual_seed(3))
    chunk = DescriptorChunk((0, 1, 2), lambda: [(query, key)])
    labels = torch.randn(3, 13, 19, generator=torch.Generator().manual_seed(5)).softmax(dim=0)
    found, small = (
        propagate_labels([chunk], {0: labels}, PropagationParams(memory_limit_mb=limit, num_context=1))[2]
        for limit in (96, 1)
    )
    torch.testing.assert_close(small, found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_context": -1}, "num_context is -1"),
        ({"radius_token": -3}, "radius_token is -3"),
        ({"top_k": 0}, "top_k is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"kind": "feature", "heads": (1,)}, "joins all heads"),
        ({"layers": ()}, "layers is empty"),
    ],
)
def test_impossible_options_are_refused_with_their_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PropagationParams(**change)  # type: ignore[arg-type]


def test_labels_of_a_frame_at_which_no_chunk_begins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"given for frames \[4\], but the chunks start at frames \[0\]"):
        propagate_labels([_chunk((0, 4))], {4: _some_labels()}, PropagationParams())


def test_labels_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        propagate_labels([_chunk((0, 4))], {0: torch.ones(1, ROWS, COLS + 1)}, PropagationParams())


# labels of tokens


def test_a_mask_gives_each_token_the_exact_share_of_its_area() -> None:
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[:, :1] = 9
    mask[3, 5] = 4
    found = mask_labels(mask, rows=2, cols=4)  # tokens of 2 x 1.5 px
    assert found.objects == (4, 9)
    torch.testing.assert_close(found.labels[2], torch.tensor([[2 / 3, 0, 0, 0], [2 / 3, 0, 0, 0]]))
    torch.testing.assert_close(found.labels[1], torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1 / 3]]))
    torch.testing.assert_close(found.labels.sum(dim=0), torch.ones(2, 4))
    with pytest.raises(ValueError, match="the mask is empty"):
        mask_labels(np.zeros((4, 6), dtype=np.uint8), rows=2, cols=4)


def test_boxes_come_back_where_they_were_and_may_overlap() -> None:
    boxes = np.array([[8, 4, 40, 36], [24, 20, 56, 44], [0, 0, 12, 12]], dtype=np.float32)
    labels = box_labels(boxes, height=48, width=64, rows=12, cols=16)
    assert labels.max() == 1
    np.testing.assert_allclose(boxes_of_labels(labels, height=48, width=64), boxes, atol=1)
    assert np.isnan(boxes_of_labels(torch.zeros(1, 12, 16), height=48, width=64)).all()
    with pytest.raises(ValueError, match="box 0 is"):
        box_labels(np.array([[70.0, 2, 90, 8]]), height=48, width=64, rows=12, cols=16)


@pytest.mark.parametrize(("sigma", "tolerance"), [(None, 1e-5), (0.8, 0.05)])
def test_keypoints_are_read_between_tokens(sigma: float | None, tolerance: float) -> None:
    points = np.array([[3.25, 4.6], [8.0, 5.0], [6.5, 3.5]])
    found = keypoint_labels(points, rows=11, cols=13, sigma_token=sigma)
    torch.testing.assert_close(found.labels.sum(dim=(1, 2)), torch.ones(3))
    read = keypoints_of_labels(found.labels, radius_token=found.radius_token)
    np.testing.assert_allclose(read, points, atol=tolerance)
    assert np.isnan(keypoints_of_labels(torch.zeros(1, 11, 13), radius_token=1)).all()


# J and F


def test_region_similarity_by_hand() -> None:
    found, truth = np.zeros((5, 7), dtype=bool), np.zeros((5, 7), dtype=bool)
    assert region_similarity(found, truth) == 1
    truth[:2, :3] = True
    assert region_similarity(found, truth) == 0
    found[:3, :2] = True  # 4 of 6 + 6 - 4
    assert region_similarity(found, truth) == pytest.approx(0.5)


def test_boundary_f_by_hand() -> None:
    """A square of 3 x 3 has 12 contour pixels: those left of, above and on its border, offset by half a pixel."""
    truth = np.zeros((30, 40), dtype=bool)
    truth[10:13, 10:13] = True
    assert boundary_f(truth, truth) == 1
    assert boundary_f(np.zeros_like(truth), truth) == 0
    assert boundary_f(np.zeros_like(truth), np.zeros_like(truth)) == 1
    far = np.roll(truth, 15, axis=1)
    assert boundary_f(far, truth) == 0
    beside = np.roll(truth, 1, axis=1)
    assert boundary_f(beside, truth, bound_th=1.0) == 1  # a disc of radius 1 reaches the neighbours
    # The diagonal is 50 px, and 0.008 of it, rounded up, 1 px. Two px to the side, of the 12 contour pixels, which are
    # a ring of 4 x 4, those of the far column are out of reach.
    assert boundary_f(np.roll(truth, 2, axis=1), truth) == pytest.approx(8 / 12)


def _discs(seed: int) -> tuple[UInt8[np.ndarray, "frame row col"], UInt8[np.ndarray, "frame row col"]]:
    """Two moving discs as truth and ellipses near them as predictions; the second one is lost in frame 3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:61, :89]
    truth = np.zeros((7, 61, 89), dtype=np.uint8)
    found = truth.copy()
    for number in (1, 2):
        row, col, radius, down, across = rng.uniform((15, 20, 8, -2, -3), (45, 70, 16, 2, 3))
        for frame in range(7):
            away_y, away_x = y - row - down * frame, x - col - across * frame
            truth[frame][away_y**2 + away_x**2 < radius**2] = number
            shift_y, shift_x, scale = rng.uniform((-4, -4, 0.7), (4, 4, 1.3))
            ellipse = (away_y - shift_y) ** 2 * 1.5 + (away_x - shift_x) ** 2
            found[frame][ellipse < (radius * scale) ** 2] = number
    found[3][found[3] == 2] = 0
    return found, truth


# davisinteractive 1.0.4 (PyPI), metrics.batched_jaccard and batched_f_measure, of _discs(5), per object and frame
OFFICIAL_J = (
    (0.392670157068, 0.518279569892, 0.711985688730, 0.591093117409, 0.435064935065, 0.782986111111, 0.647634584013),
    (0.687585266030, 0.741040462428, 0.764560099133, 0.0, 0.716778523490, 0.424556213018, 0.695652173913),
)
OFFICIAL_F = (
    (0.109756097561, 0.282426778243, 0.462176947746, 0.292397660819, 0.025, 0.669902912621, 0.184426229508),
    (0.535714285714, 0.309059755837, 0.454384410983, 0.0, 0.248464163823, 0.0, 0.271544997399),
)


def test_j_and_f_are_the_official_evaluations() -> None:
    found, truth = _discs(5)
    for place, number in enumerate((1, 2)):
        pairs = [(mine == number, true == number) for mine, true in zip(found, truth, strict=True)]
        np.testing.assert_allclose([region_similarity(*pair) for pair in pairs], OFFICIAL_J[place], atol=1e-11)
        np.testing.assert_allclose([boundary_f(*pair) for pair in pairs], OFFICIAL_F[place], atol=1e-11)


def test_a_sequence_is_scored_without_its_first_and_its_last_frame() -> None:
    found, truth = _discs(5)
    scores = davis_scores(found, truth)
    assert [score.object_number for score in scores] == [1, 2]
    for place, score in enumerate(scores):
        assert score.region.mean == pytest.approx(np.mean(OFFICIAL_J[place][1:-1]))
        assert score.boundary.mean == pytest.approx(np.mean(OFFICIAL_F[place][1:-1]))
        assert score.j_and_f == pytest.approx((score.region.mean + score.boundary.mean) / 2)
    spoilt = found.copy()
    spoilt[0], spoilt[-1] = 0, 0
    assert davis_scores(spoilt, truth) == scores


def test_recall_and_decay_by_hand() -> None:
    """Nine frames: the quarters are frames 0 to 2, 2 to 4, 4 to 6 and 6 to 8; one half is not more than one half."""
    values = np.array([1.0, 0.9, 0.8, 0.5, 0.5, 0.6, 0.3, 0.2, 0.1])
    summary = summarize(values)
    assert summary.mean == pytest.approx(4.9 / 9)
    assert summary.recall == pytest.approx(4 / 9)
    assert summary.decay == pytest.approx(0.9 - 0.2)
    assert summarize(np.linspace(1, 0, 1001)).decay == pytest.approx(0.75)  # beyond the official 8 bits


def test_objects_that_swap_numbers_swap_scores() -> None:
    found, truth = _discs(5)
    swap = np.array([0, 2, 1], dtype=np.uint8)
    one, two = davis_scores(found, truth)
    again = davis_scores(swap[found], swap[truth])
    assert (again[0].region, again[1].region) == (two.region, one.region)


def test_void_of_davis_2017_is_no_object_and_white_of_2016_is_one() -> None:
    found, truth = _discs(5)
    truth[0, 0, 0] = 255
    assert [score.object_number for score in davis_scores(found, truth)] == [1, 2]
    white = np.where(truth > 0, np.uint8(255), np.uint8(0))
    assert [score.object_number for score in davis_scores(white, white)] == [255]
    with pytest.raises(ValueError, match="at least three frames"):
        davis_scores(found[:2], truth[:2])


# PCK


def test_pck_by_hand_leaves_out_the_first_frame_and_what_is_not_known() -> None:
    true = np.zeros((3, 2, 2))
    found = true.copy()
    found[0] = 99
    found[1, 0] = (3, 4)  # 5 px away
    found[1, 1] = np.nan
    found[2, 1] = (6, 8)  # 10 px away
    known = np.array([[True, True], [True, True], [False, True]])
    scales = np.array([1.0, 10.0, 20.0])
    assert pck(found, true, known, scales, threshold=0.5) == pytest.approx(2 / 3)
    assert pck(found, true, known, scales, threshold=0.4) == 0
    assert pck(found, true, known, scales, threshold=0.5, average="points") == pytest.approx((1 + 0.5) / 2)
    assert np.isnan(pck(found, true, np.zeros((3, 2), dtype=bool), scales, threshold=0.5))


def test_scales_of_jhmdb_and_badja_by_hand() -> None:
    points = np.array([[[0, 0], [30, 40], [900, 900]], [[5, 5], [5, 5], [5, 5]]], dtype=np.float64)
    known = np.array([[True, True, False], [False, False, False]])
    scales = jhmdb_scales(points, known)
    assert scales[0] == pytest.approx(0.6 * 50)
    assert np.isnan(scales[1])
    masks = np.zeros((2, 10, 13), dtype=bool)
    masks[1, :9, :9] = True
    assert badja_scales(masks).tolist() == [0, 9]
