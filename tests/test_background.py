"""Background work: in order, within bounds, complete at the end, its errors kept."""

import threading

import numpy as np
import pytest

from difftrack.background import Background
from difftrack.datasets import Clip, read_clip, write_clip


def test_calls_run_in_their_order_in_one_other_thread() -> None:
    seen: list[tuple[int, str]] = []
    with Background() as background:
        for number in range(7):
            background.submit(lambda number=number: seen.append((number, threading.current_thread().name)))
    assert [number for number, _ in seen] == list(range(7))
    assert {name for _, name in seen} == {"background_0"}


def test_no_more_wait_than_there_are_places() -> None:
    """With two places, the third call is accepted when the first is over."""
    go, taken = threading.Event(), threading.Event()
    with Background(most=2) as background:
        first = background.submit(lambda: go.wait(30))
        background.submit(lambda: None)
        third = threading.Thread(target=lambda: (background.submit(lambda: None), taken.set()))
        third.start()
        assert not taken.wait(0.2)
        assert not first.done()
        go.set()
        assert taken.wait(30)
        third.join()


def test_an_error_is_kept_for_the_one_who_asks_and_the_next_call_runs() -> None:
    with Background(most=1) as background:
        failed = background.submit(lambda: [][0])
        later = background.submit(lambda: None)
    assert later.result() is None
    with pytest.raises(IndexError):
        failed.result()


def test_what_was_begun_is_whole_when_the_block_is_left_by_an_interrupt() -> None:
    done = threading.Event()

    def interrupted() -> None:
        with Background() as background:
            background.submit(lambda: (threading.Event().wait(0.1), done.set()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done.is_set()


def test_a_number_of_places_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        Background(most=0)


def test_a_video_written_in_the_background_has_the_bytes_of_one_that_is_waited_for(tmp_path) -> None:  # noqa: ANN001
    frames = np.random.default_rng(3).integers(0, 256, (5, 33, 47, 3), dtype=np.uint8)
    clips = [
        Clip(name, frames[:number], fps=7.0, prompt="", source="rendered") for name, number in (("a", 5), ("b", 3))
    ]
    for clip in clips:
        write_clip(tmp_path / "here", clip)
    with Background(most=1) as background:
        for clip in clips:
            background.submit(lambda clip=clip: write_clip(tmp_path / "beside", clip))
    for clip in clips:
        here, beside = (tmp_path / folder / clip.name / "frames.mp4" for folder in ("here", "beside"))
        assert here.read_bytes() == beside.read_bytes()
        assert np.array_equal(read_clip(tmp_path / "beside", clip.name).frames, clip.frames)
