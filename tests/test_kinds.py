"""Kinds of matching, bands of rotary frequencies, and what a store must know for them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import difftrack as dt
from difftrack.correspondence import (
    CORRECTED,
    MATCH_KINDS,
    RELEASED,
    ClipMatcher,
    MatchingParams,
    MatchKind,
    MatchSection,
    comparable,
    descriptors_of,
    match_features,
    match_points,
    match_points_per_head,
    pair_of_kind,
)
from difftrack.geometry import TokenGrid
from difftrack.params import ParamsError, parse
from difftrack.rotary import AXES, FrequencyBands, RotaryLayout
from difftrack.store import DescriptorSpec, StoreParams, create_group, fingerprint_of, open_store
from difftrack.tracking import ChunkDescriptors, TrackParams, track_clip

HEADS, FRAMES, ROWS, COLS, CHANNELS = 2, 3, 5, 7, 16
LAYOUT = RotaryLayout.interleaved(4, 6, 6)
ENTRIES = ("query", "key", "value", "feature", "query_pre_rotary", "key_pre_rotary")
TURNED = tuple(kind for kind in MATCH_KINDS if kind not in ("value", "feature"))
SLOW = FrequencyBands(temporal=(0.5, 1.0), vertical=(1 / 3, 1.0), horizontal=(0.0, 2 / 3))
KEPT_BY_SLOW = (2, 3, 6, 7, 8, 9, 10, 11, 12, 13)
POINTS = torch.tensor([[1.0, 2.0], [3.25, 0.5], [6.0, 4.0]])


@pytest.fixture(scope="module")
def descriptors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    shape = (HEADS, FRAMES, ROWS, COLS, CHANNELS)
    return {entry: torch.randn(shape, generator=generator) for entry in ENTRIES}


# Layouts


def test_an_interleaved_layout_pairs_neighbours_axis_by_axis() -> None:
    layout = RotaryLayout.interleaved(2, 4, 6)
    assert layout.temporal == ((0, 1),)
    assert layout.vertical == ((2, 3), (4, 5))
    assert layout.horizontal == ((6, 7), (8, 9), (10, 11))


def test_a_layout_in_halves_pairs_a_channel_with_that_of_the_second_half() -> None:
    layout = RotaryLayout.halves(2, 4, 6)
    assert layout.temporal == ((0, 6),)
    assert layout.vertical == ((1, 7), (2, 8))
    assert layout.horizontal == ((3, 9), (4, 10), (5, 11))


def test_a_layout_in_halves_of_axes_pairs_within_an_axis() -> None:
    layout = RotaryLayout.halves_of_axes(2, 4, 6)
    assert layout.temporal == ((0, 1),)
    assert layout.vertical == ((2, 4), (3, 5))
    assert layout.horizontal == ((6, 9), (7, 10), (8, 11))


def test_a_layout_that_names_a_channel_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each at most once"):
        RotaryLayout(temporal=((0, 1),), vertical=((1, 2),))


def test_a_band_keeps_whole_pairs_and_all_channels_that_do_not_turn() -> None:
    assert LAYOUT.channels(FrequencyBands(), CHANNELS) == tuple(range(CHANNELS))
    assert LAYOUT.channels(SLOW, CHANNELS) == KEPT_BY_SLOW
    none = FrequencyBands(temporal=(0.0, 0.0), vertical=(0.0, 0.0), horizontal=(1.0, 1.0))
    assert RotaryLayout.halves(2, 2, 2).channels(none, 8) == (6, 7)


@pytest.mark.parametrize(("num", "first", "kept"), [(22, 0.1, 20), (21, 0.1, 19), (22, 0.15, 19), (100, 0.29, 71)])
def test_the_first_frequency_of_a_band_is_rounded_down_as_in_heft(num: int, first: float, kept: int) -> None:
    layout = RotaryLayout.interleaved(2 * num, 0, 0)
    assert len(layout.channels(FrequencyBands(temporal=(first, 1.0)), 2 * num)) == 2 * kept


def test_bands_split_the_product_of_two_turned_descriptors(descriptors: Mapping[str, Tensor]) -> None:
    """The two halves of every axis add up to the whole, as a sum over frequencies does."""
    query, key = descriptors["query"], descriptors["key"]
    nothing = (0.0, 0.0)
    parts = [
        FrequencyBands(temporal=(0.0, 0.5), vertical=nothing, horizontal=nothing),
        FrequencyBands(temporal=(0.5, 1.0), vertical=nothing, horizontal=nothing),
        FrequencyBands(temporal=nothing, horizontal=nothing),
        FrequencyBands(temporal=nothing, vertical=nothing),
    ]
    total = torch.zeros(())
    for part in parts:
        (own_query, own_key), _ = comparable(
            (query, key), "query_key", params=CORRECTED, frequencies=part, rotary=LAYOUT
        )
        total = total + (own_query * own_key).sum(dim=-1)
    torch.testing.assert_close(total, (query * key).sum(dim=-1))


def test_a_band_of_one_axis_does_not_feel_moves_along_the_others() -> None:
    """Rotated by hand: two keys that differ only in their row are the same in the bands of time and of columns."""
    generator = torch.Generator().manual_seed(3)
    plain = torch.randn(CHANNELS, generator=generator, dtype=torch.float64)

    def at(frame: int, row: int, col: int) -> Tensor:
        turned = plain.clone()
        for place, axis in zip((frame, row, col), AXES, strict=True):
            for number, (a, b) in enumerate(getattr(LAYOUT, axis)):
                angle = torch.tensor(place * 10.0**-number, dtype=torch.float64)
                turned[a] = plain[a] * angle.cos() - plain[b] * angle.sin()
                turned[b] = plain[a] * angle.sin() + plain[b] * angle.cos()
        return turned

    blind = list(LAYOUT.channels(FrequencyBands(vertical=(0.0, 0.0)), CHANNELS))
    assert torch.equal(at(1, 2, 3)[blind], at(1, 5, 3)[blind])
    assert not torch.equal(at(1, 2, 3)[blind], at(2, 2, 3)[blind])
    assert not torch.equal(at(1, 2, 3), at(1, 5, 3))


@pytest.mark.parametrize(
    ("band", "message"),
    [((0.5, 0.2), "0 <= from <= to"), ((-0.1, 1.0), "0 <= from"), ((0.0, float("nan")), "nan")],
)
def test_a_band_that_is_none_is_refused(band: tuple[float, float], message: str) -> None:
    with pytest.raises(ParamsError, match=rf"match.frequencies.*vertical.*{message}"):
        parse(MatchSection, {"frequencies": {"vertical": list(band)}}, "match")


def test_bands_that_leave_no_channel_are_refused(descriptors: Mapping[str, Tensor]) -> None:
    none = FrequencyBands(temporal=(0.0, 0.0), vertical=(0.0, 0.0), horizontal=(0.0, 0.0))
    with pytest.raises(ValueError, match="keep none of 16 channels"):
        pair_of_kind(descriptors.__getitem__, "key_key", params=CORRECTED, frequencies=none, rotary=LAYOUT)


# Kinds


def test_every_kind_names_two_descriptors() -> None:
    assert [descriptors_of(kind) for kind in MATCH_KINDS] == [
        ("query", "key"),
        ("query", "query"),
        ("key", "key"),
        ("value", "value"),
        ("feature", "feature"),
        ("query_pre_rotary", "key_pre_rotary"),
        ("query_pre_rotary", "query_pre_rotary"),
        ("key_pre_rotary", "key_pre_rotary"),
    ]


def test_query_with_key_in_all_frequencies_is_handed_on_untouched(descriptors: Mapping[str, Tensor]) -> None:
    (query, key), params = pair_of_kind(descriptors.__getitem__, "query_key", params=RELEASED)
    assert query is descriptors["query"]
    assert key is descriptors["key"]
    assert params is RELEASED


@pytest.mark.parametrize(
    ("kind", "frequencies"),
    [*((kind, SLOW) for kind in TURNED), *((kind, FrequencyBands()) for kind in (*TURNED, "value"))],
)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_kind_is_the_softmax_of_its_own_products(
    descriptors: Mapping[str, Tensor], kind: MatchKind, frequencies: FrequencyBands, similarity: Any
) -> None:
    """Against the formula, written out for one point of frame 0 in frame 2: token (row 2, col 1)."""
    params = replace(CORRECTED, directions="forward", feature_similarity=similarity, feature_temperature=0.3)
    pair, own = pair_of_kind(descriptors.__getitem__, kind, params=params, frequencies=frequencies, rotary=LAYOUT)
    found = match_points_per_head(*pair, torch.tensor([[1.0, 2.0]]), params=own)

    chosen = list(range(CHANNELS)) if frequencies.keeps_all else list(KEPT_BY_SLOW)
    source, target = (descriptors[entry][..., chosen] for entry in descriptors_of(kind))
    temperature = len(chosen) ** 0.5
    if not kind.startswith("query_key"):
        temperature = 0.3
        if similarity == "cosine":
            source, target = normalize(source, dim=-1), normalize(target, dim=-1)
    products = torch.einsum("hc,hnc->hn", source[:, 0, 2, 1], target[:, 2].flatten(1, 2))
    expected = (products / temperature).softmax(dim=-1).max(dim=-1)
    torch.testing.assert_close(found.probability[:, 2, 0], expected.values)
    places = torch.stack([expected.indices % COLS, expected.indices // COLS], dim=-1).float()
    torch.testing.assert_close(found.points_xy_token[:, 2, 0], places)


def test_a_feature_as_a_pair_matches_as_match_features_does(descriptors: Mapping[str, Tensor]) -> None:
    params = replace(CORRECTED, directions="forward")
    pair, own = pair_of_kind(descriptors.__getitem__, "feature", params=params)
    found, known = (
        match_points(*pair, POINTS, params=own),
        match_features(descriptors["feature"], POINTS, params=params),
    )
    torch.testing.assert_close(found.points_xy_token, known.points_xy_token)
    torch.testing.assert_close(found.probability, known.probability)


@pytest.mark.parametrize("kind", ["value", "feature"])
def test_frequencies_of_what_does_not_turn_are_refused(descriptors: Mapping[str, Tensor], kind: MatchKind) -> None:
    with pytest.raises(ValueError, match=f"frequencies are chosen for {kind}"):
        pair_of_kind(descriptors.__getitem__, kind, params=CORRECTED, frequencies=SLOW, rotary=LAYOUT)
    with pytest.raises(ValueError, match=f"kind is {kind}, which has no rotary positions"):
        TrackParams(kind=kind, frequencies=SLOW)


def test_frequencies_without_a_layout_are_refused_with_the_way_out(descriptors: Mapping[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"no rotary layout.*run extract again"):
        pair_of_kind(descriptors.__getitem__, "key_key", params=CORRECTED, frequencies=SLOW)


def test_every_kind_of_a_section_is_matched_and_named_and_attention_keeps_all_frequencies(
    descriptors: Mapping[str, Tensor],
) -> None:
    points_px = POINTS.numpy() * 16 + 8
    every = MatchSection(kinds=MATCH_KINDS, frequencies=SLOW, device="cpu")
    found = ClipMatcher(every, points_px, 16, (), LAYOUT).match(descriptors.__getitem__)
    for kind in MATCH_KINDS:
        prefix = "" if kind == "query_key" else f"{kind}_"
        assert found[f"{prefix}match_xy_px"][1].shape == (FRAMES, 3, 2)
        if kind != "feature":
            assert found[f"head_{prefix}match_xy_px"][1].shape == (HEADS, FRAMES, 3, 2)
    plain = ClipMatcher(MatchSection(device="cpu"), points_px, 16, ()).match(descriptors.__getitem__)
    for name in plain:
        same = np.array_equal(plain[name][1], found[name][1])
        assert same == ("attention" in name or "text" in name or "feature" in name), name


# Tracking


@pytest.mark.parametrize("kind", MATCH_KINDS)
def test_a_clip_that_stands_still_is_tracked_by_every_kind(descriptors: Mapping[str, Tensor], kind: MatchKind) -> None:
    """Every frame has the first one's descriptors, with key equal to query: all points stay where they are."""
    still = {entry: tensor[:, :1].expand(-1, FRAMES, -1, -1, -1) for entry, tensor in descriptors.items()}
    still |= {"key": 4 * still["query"], "key_pre_rotary": 4 * still["query_pre_rotary"]}
    source, target = descriptors_of(kind)
    frequencies = SLOW if kind in TURNED else FrequencyBands()
    chunk = ChunkDescriptors((0, 1, 2), lambda step, layer: (still[source], still[target]), rotary=LAYOUT)
    grid = TokenGrid(num_latent_frames=FRAMES, rows=ROWS, cols=COLS, stride_px=16, temporal_stride=1)
    queries = np.array([[0, 24.0, 40.0], [1, 88.0, 56.0]], dtype=np.float32)
    params = TrackParams(kind=kind, frequencies=frequencies, device="cpu")
    tracks = track_clip([chunk], queries, sources=[(49, 0)], grid=grid, params=params)
    np.testing.assert_allclose(tracks.points_xy_px, np.broadcast_to(queries[:, 1:], (FRAMES, 2, 2)), atol=0.5)


def test_a_temperature_beside_a_kind_with_its_own_is_refused() -> None:
    matching = replace(TrackParams().matching, temperature=3.0)
    with pytest.raises(ValueError, match="kind is key_key, but matching sets temperature"):
        TrackParams(kind="key_key", matching=matching)
    assert TrackParams(kind="query_key_pre_rotary", matching=matching).matching.temperature == 3.0


# Stores


def _spec(**more: Any) -> DescriptorSpec:
    return DescriptorSpec(
        steps=(49,),
        timesteps=(19.0,),
        layers=(6,),
        heads=tuple(range(HEADS)),
        num_channels=CHANNELS,
        grid=TokenGrid(num_latent_frames=FRAMES, rows=ROWS, cols=COLS, stride_px=16, temporal_stride=4),
        frames=(0, 4, 8),
        clip_size=(80, 112),
        size=(80, 112),
        **more,
    )


def test_a_layout_is_described_and_no_part_of_the_fingerprint() -> None:
    """So older stores keep their fingerprints."""
    plain, described = _spec(), _spec(rotary=LAYOUT)
    assert "rotary" not in plain.to_json()
    assert DescriptorSpec.from_json(described.to_json()) == described
    assert fingerprint_of(described, StoreParams()) == fingerprint_of(plain, StoreParams())


@pytest.fixture
def store(tmp_path: Path, descriptors: Mapping[str, Tensor]) -> str:
    root = str(tmp_path / "store")
    with create_group(root, "clip", _spec(kinds=ENTRIES)) as writer:
        writer.write(49, 6, {entry: tensor.numpy() for entry, tensor in descriptors.items()})
        writer.finish()
    return root


def test_a_store_without_layout_gets_it_when_it_is_taken_up_and_keeps_its_numbers(store: str) -> None:
    before = {file: file.read_bytes() for file in Path(store).rglob("c.*") if file.is_file()}
    assert before
    with pytest.raises(ValueError, match="no rotary layout"):
        dt.match(open_store(store), [(24, 40)], frequencies={"temporal": (0.5, 1.0)})
    with create_group(store, "clip", _spec(kinds=ENTRIES, rotary=LAYOUT)) as writer:
        assert writer.missing() == []
        writer.finish()
    assert open_store(store).spec("clip").rotary == LAYOUT
    assert {file: file.read_bytes() for file in before} == before
    found = dt.match(open_store(store), [(24, 40)], frequencies={"temporal": (0.5, 1.0)})
    plain = dt.match(open_store(store), [(24, 40)])
    assert not np.array_equal(found.probability.values, plain.probability.values)
    assert found.probabilities().shape == (2, ROWS, COLS)


def test_a_notebook_matches_every_kind_of_a_store_and_names_an_unknown_one(
    store: str, descriptors: Mapping[str, Tensor]
) -> None:
    for kind in MATCH_KINDS:
        found = dt.match(open_store(store), [(24, 40)], kind=kind)
        assert found.dataset.attrs["kind"] == kind
        rounded = {entry: tensor.half().float() for entry, tensor in descriptors.items()}
        pair, own = pair_of_kind(rounded.__getitem__, kind, params=MatchingParams())
        known = match_points(*pair, torch.tensor([[1.0, 2.0]]), params=own)
        np.testing.assert_allclose(found.probability.values, known.probability.numpy(), rtol=1e-5)
    with pytest.raises(ValueError, match="kind is 'query'; known: query_key, query_query"):
        dt.match(open_store(store), [(24, 40)], kind="query")
