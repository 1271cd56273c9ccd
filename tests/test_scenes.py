"""Cuts between scenes and frames that show nothing."""

import numpy as np
import pytest

from difftrack.scenes import Scenes, find_scenes

HEIGHT, WIDTH = 41, 67


def picture(seed: int) -> np.ndarray:
    """A picture of coarse blots in a few colours."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (3, 3), dtype=np.uint8)
    blots = colours[rng.integers(0, 3, (8, 12))]
    return np.kron(blots, np.ones((7, 7, 1), dtype=np.uint8))[:HEIGHT, :WIDTH]


def clip(seed: int, num_frames: int, step_px: int = 1) -> np.ndarray:
    """A picture that moves to the right and re-enters on the left."""
    return np.stack([np.roll(picture(seed), step_px * frame, axis=1) for frame in range(num_frames)])


def test_a_cut_lies_where_one_scene_follows_another() -> None:
    frames = np.concatenate([clip(1, 5), clip(2, 3), clip(3, 1), clip(4, 4)])
    assert find_scenes(frames[:8]).cuts == (5,)
    assert find_scenes(np.concatenate([clip(1, 5), clip(2, 3), clip(4, 4)])).cuts == (5, 8)
    assert find_scenes(frames[:8], cuts=False).starts == (0,)


def test_motion_is_no_cut() -> None:
    assert find_scenes(clip(1, 7)).cuts == ()
    assert find_scenes(clip(1, 7, step_px=9)).cuts == ()


def test_what_is_over_after_one_frame_is_no_cut() -> None:
    frames = clip(1, 7)
    frames[3] = 255
    assert find_scenes(frames).cuts == ()
    assert find_scenes(frames).blank.tolist() == [False] * 3 + [True] + [False] * 3


def test_a_fade_ends_a_scene_where_it_is_nearly_black() -> None:
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    shaded = np.stack([row * 255 / HEIGHT, col * 255 / WIDTH, (row + col) % 256], axis=-1)
    frames = (shaded * np.linspace(1, 0, 11)[:, None, None, None]).astype(np.uint8)
    scenes = find_scenes(frames)
    assert all(cut >= 9 for cut in scenes.cuts)
    assert scenes.blank.tolist() == [False] * 10 + [True]


def test_frames_share_the_scene_that_they_lie_in_and_a_blank_one_shares_none() -> None:
    scenes = Scenes(starts=(0, 2), blank=np.array([False, False, True, False, False]))
    shared = scenes.shared_with(np.array([0, 3, 2]))
    assert shared[:, 0].tolist() == [True, True, False, False, False]
    assert shared[:, 1].tolist() == [False, False, False, True, True]
    assert not shared[:, 2].any()


@pytest.mark.parametrize("starts", [(), (1,), (0, 4, 3), (0, 2, 2)])
def test_scenes_out_of_order_are_refused(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="scenes start at"):
        Scenes(starts=starts, blank=np.zeros(5, dtype=bool))


def test_a_single_frame_has_one_scene() -> None:
    assert find_scenes(clip(1, 1)).starts == (0,)
