"""Laws for every tracker."""

import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from difftrack.annotation import Tracker
from difftrack.datasets import Tracks

__all__ = ["TrackerLaws", "moving_texture"]


def moving_texture(
    *, velocity_px: tuple[float, float] = (1.5, -0.75), num_frames: int = 11, height: int = 67, width: int = 97
) -> UInt8[np.ndarray, "frame row col rgb"]:
    """Make a clip of a smooth moving texture, evaluated analytically and so free of resampling errors.

    Args:
        velocity_px: Velocity (x, y) in pixels per frame.
        num_frames: Number of frames.
        height: Height in pixels.
        width: Width in pixels.
    """
    rng = np.random.default_rng(0)
    waves = rng.uniform(0.1, 0.45, (23, 2)) * rng.choice([-1, 1], (23, 2))
    phases = rng.uniform(0, 2 * np.pi, 23)
    y, x = np.mgrid[:height, :width] + 0.5
    frames = []
    for frame in range(num_frames):
        dx, dy = (frame * along for along in velocity_px)
        angle = (x - dx)[..., None] * waves[:, 0] + (y - dy)[..., None] * waves[:, 1] + phases
        frames.append(128 + 20 * np.sin(angle).sum(-1))
    grey = np.clip(np.stack(frames), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


_OUTSIDE = [
    (11.0, 30.0, 40.0),
    (0.5, 30.0, 40.0),
    (0.0, 300.0, 40.0),
    (0.0, 30.0, -9.0),
    (0.0, float("nan"), 3.0),
]
"""Query points (frame, x, y) outside a clip of 11 frames and 97 x 67 pixels."""


class TrackerLaws:
    """Laws of a tracker.

    A subclass overrides the fixture `tracker`. `motion_tolerance_px` enables the test of known motion.
    """

    motion_tolerance_px: float | None = None
    """Largest allowed error on a smooth texture that moves 1.5 pixels per frame; None skips the test."""
    velocity_px = (1.5, -0.75)
    num_frames = 11
    queries = ((0, 30.5, 40.25), (5, 50.0, 33.0), (10, 60.0, 21.5))
    """Query points (frame, x, y) whose motion stays inside 97 x 67 pixels."""

    @pytest.fixture
    def tracker(self) -> Tracker:
        """The tracker under test."""
        raise NotImplementedError("a subclass of TrackerLaws must override the fixture `tracker`")

    @pytest.fixture
    def frames(self) -> np.ndarray:
        """A clip of a moving texture [frame, row, col, rgb]."""
        return moving_texture(velocity_px=self.velocity_px, num_frames=self.num_frames)

    @pytest.fixture
    def query_points(self) -> Float32[np.ndarray, "point txy"]:
        """Query points in the first, a middle and the last frame."""
        return np.asarray(self.queries, dtype=np.float32)

    def follow(self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray) -> Tracks:
        """Run the tracker and check the format of its tracks."""
        tracks = tracker.track(frames, query_points)
        shape = (len(frames), len(query_points))
        assert tracks.points_xy_px.shape == (*shape, 2)
        assert tracks.points_xy_px.dtype == np.float32
        assert tracks.visible.shape == shape
        assert tracks.visible.dtype == np.bool_
        assert (tracks.height, tracks.width) == frames.shape[1:3]
        assert tracks.tracker
        return tracks

    def test_tracks_pass_through_their_queries_and_are_numbers_everywhere(
        self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray
    ) -> None:
        """At its query, a point is visible and has exactly the query's position."""
        tracks = self.follow(tracker, frames, query_points)
        start, points = query_points[:, 0].astype(int), np.arange(len(query_points))
        assert np.isfinite(tracks.points_xy_px).all()
        np.testing.assert_array_equal(tracks.points_xy_px[start, points], query_points[:, 1:])
        assert tracks.visible[start, points].all()
        np.testing.assert_array_equal(tracks.query_points, query_points)

    def test_permuting_queries_permutes_tracks(
        self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray
    ) -> None:
        """The track of a point does not depend on other points."""
        order = [2, 0, 1]
        tracks = self.follow(tracker, frames, query_points)
        other = self.follow(tracker, frames, query_points[order])
        np.testing.assert_allclose(other.points_xy_px, tracks.points_xy_px[:, order], atol=1e-3)
        np.testing.assert_array_equal(other.visible, tracks.visible[:, order])
        alone = self.follow(tracker, frames, query_points[1:2])
        np.testing.assert_allclose(alone.points_xy_px[:, 0], tracks.points_xy_px[:, 1], atol=1e-3)

    def test_the_same_clip_gives_the_same_tracks_and_is_not_written_to(
        self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray
    ) -> None:
        """Frames and queries may be read-only arrays."""
        frames.setflags(write=False)
        query_points.setflags(write=False)
        one, other = (self.follow(tracker, frames, query_points) for _ in range(2))
        np.testing.assert_array_equal(one.points_xy_px, other.points_xy_px)
        np.testing.assert_array_equal(one.visible, other.visible)

    def test_points_outside_the_picture_are_not_visible(
        self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray
    ) -> None:
        """Points that leave the image near the border are never visible outside it."""
        height, width = frames.shape[1:3]
        border = np.asarray([(0, width - 0.5, 0.5), (0, width - 2.0, 3.0)], dtype=np.float32)
        tracks = self.follow(tracker, frames, border)
        x, y = np.moveaxis(tracks.points_xy_px, -1, 0)
        outside = (x < 0) | (x > width) | (y < 0) | (y > height)
        assert not (tracks.visible & outside).any()

    def test_a_single_frame_gives_the_queries_back(self, tracker: Tracker, frames: np.ndarray) -> None:
        """In a single frame, tracks equal the queries."""
        queries = np.asarray([(0, 30.5, 40.25)], dtype=np.float32)
        tracks = self.follow(tracker, frames[:1], queries)
        np.testing.assert_array_equal(tracks.points_xy_px, queries[None, :, 1:])

    @pytest.mark.parametrize(
        "query",
        _OUTSIDE,
    )
    def test_a_query_outside_the_clip_is_refused_in_one_line(
        self, tracker: Tracker, frames: np.ndarray, query: tuple[float, float, float]
    ) -> None:
        """The error is a `ValueError`."""
        with pytest.raises(ValueError, match="query point 0") as raised:
            tracker.track(frames, np.asarray([query], dtype=np.float32))
        assert "\n" not in str(raised.value)

    def test_known_motion_is_followed_both_ways(
        self, tracker: Tracker, frames: np.ndarray, query_points: np.ndarray
    ) -> None:
        """Tracks follow known motion from the first, a middle and the last frame, to within `motion_tolerance_px`."""
        if self.motion_tolerance_px is None:
            pytest.skip("motion_tolerance_px is None: known motion is not tested")
        elapsed = np.arange(len(frames))[:, None] - query_points[:, 0]
        expected = query_points[:, 1:] + elapsed[..., None] * np.asarray(self.velocity_px, dtype=np.float32)
        tracks = self.follow(tracker, frames, query_points)
        np.testing.assert_allclose(tracks.points_xy_px, expected, atol=self.motion_tolerance_px)
        assert tracks.visible.all()
