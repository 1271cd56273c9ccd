"""Chunks cover clips; hand-made descriptors whose motion is known are tracked."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from difftrack.params import ParamsError, parse
from difftrack.tracking import ChunkParams, chunk_schedule


@given(st.integers(2, 131), st.integers(2, 17), st.booleans(), st.integers(0, 5))
def test_every_frame_is_in_some_chunk_and_every_chunk_is_full(
    num_frames: int, chunk_len: int, interleaved: bool, overlap: int
) -> None:
    stride = max(1, chunk_len - 1 - overlap)
    params = ChunkParams(chunk_len=chunk_len, interleaved=interleaved, chunk_stride=stride)
    chunks = chunk_schedule(num_frames, params)
    assert set().union(*chunks) == set(range(num_frames))
    for chunk in chunks:
        assert chunk[0] == 0
        assert len(chunk) == min(params.chunk_len, num_frames)
        assert list(chunk) == sorted(set(chunk))


@given(st.integers(2, 131), st.integers(2, 17), st.booleans())
def test_without_overlap_no_schedule_has_fewer_chunks(num_frames: int, chunk_len: int, interleaved: bool) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len, interleaved=interleaved))
    assert (len(chunks) - 1) * (chunk_len - 1) < num_frames - 1 <= len(chunks) * (chunk_len - 1)


@given(st.integers(20, 131), st.integers(3, 17))
def test_interleaved_chunks_span_the_clip(num_frames: int, chunk_len: int) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len))
    widest_gap = -(-(num_frames - 1) // (min(chunk_len, num_frames) - 1))
    for chunk in chunks:
        gaps = [later - earlier for earlier, later in pairwise(chunk[1:])]
        assert max(gaps, default=0) <= widest_gap


@given(st.integers(2, 61), st.integers(2, 13), st.sets(st.integers(-61, 60), max_size=3))
def test_every_anchor_inside_the_clip_reaches_every_frame(num_frames: int, chunk_len: int, extra: set[int]) -> None:
    chunks = chunk_schedule(num_frames, ChunkParams(chunk_len=chunk_len, anchors=(0, *extra)))
    anchors = {0} | {a % num_frames for a in extra if -num_frames <= a < num_frames}
    assert {chunk[0] for chunk in chunks} == anchors
    for anchor in anchors:
        assert set().union(*(chunk for chunk in chunks if chunk[0] == anchor)) == set(range(num_frames))


def test_interleaving_worked_by_hand() -> None:
    assert chunk_schedule(8, ChunkParams(chunk_len=4)) == [(0, 1, 3, 5), (0, 1, 4, 6), (0, 2, 4, 7)]
    assert chunk_schedule(7, ChunkParams(chunk_len=4)) == [(0, 1, 3, 5), (0, 2, 4, 6)]
    assert chunk_schedule(7, ChunkParams(chunk_len=4, anchors=(3,))) == [(3, 0, 2, 5), (3, 1, 4, 6)]


def test_consecutive_chunks_worked_by_hand() -> None:
    params = ChunkParams(chunk_len=4, interleaved=False)
    assert chunk_schedule(8, params) == [(0, 1, 2, 3), (0, 4, 5, 6), (0, 5, 6, 7)]


def test_104_frames_take_nine_chunks_of_thirteen() -> None:
    assert len(chunk_schedule(104, ChunkParams())) == 9
    assert len(chunk_schedule(104, ChunkParams(schedule="released"))) == 15


def test_a_clip_is_cut_at_its_longest_allowed_length() -> None:
    assert chunk_schedule(40, ChunkParams(chunk_len=5, video_max_len=3)) == [(0, 1, 2)]


def test_impossible_cuts_are_refused_with_the_value() -> None:
    with pytest.raises(ValueError, match=r"1 frame"):
        chunk_schedule(1, ChunkParams())
    with pytest.raises(ValueError, match=r"12 frames.*13.*covering"):
        chunk_schedule(12, ChunkParams(schedule="released"))
    with pytest.raises(ValueError, match=r"\[9\].*7 frames"):
        chunk_schedule(7, ChunkParams(anchors=(9,)))
    with pytest.raises(ParamsError, match=r"extract\.tracking.*chunk_stride is 13.*12"):
        parse(ChunkParams, {"chunk_stride": 13}, "extract.tracking")
    for bad in ({"chunk_len": 1}, {"anchors": []}, {"video_max_len": 1}, {"schedule": "released", "anchors": [3]}):
        with pytest.raises(ParamsError, match=next(reversed(bad))):
            parse(ChunkParams, bad, "extract.tracking")
