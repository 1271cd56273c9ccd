"""Trackers against known motion, query grids, and the published layout against published files."""

import os
import re
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from golden_sets import golden_files, load
from PIL import Image

from difftrack.annotation import (
    AnnotateParams,
    AnnotationError,
    CoTracker3Params,
    LucasKanadeParams,
    Tracker,
    annotate_clip,
    cotracker3,
    export_published,
    grabcut_mask,
    import_published,
    lucas_kanade,
    make_tracker,
    published_prompts,
    query_grid,
)
from difftrack.annotation._cotracker import load_cotracker3
from difftrack.annotation._grids import mask_from_file
from difftrack.datasets import Clip, DatasetError, Tracks, Truth, read_tracks, write_clip
from difftrack.media import write_image, write_mask
from difftrack.metrics import ScoringParams, confidence_score
from difftrack.params import ParamsError, parse
from difftrack.rendering import RenderSpec, exact_tracks, render_clip
from difftrack.testing import TrackerLaws, moving_texture

FIXTURES = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))
PUBLISHED = FIXTURES.parent / "data" / "published_tracks" / "cogvideox_t2v_2b"
VELOCITY = np.asarray([1.5, -0.75], dtype=np.float32)
"""Motion of the picture below, pixels per frame, (x, y)."""


def moving_picture(num_frames: int = 11, height: int = 67, width: int = 97) -> Any:
    """Draw a smooth texture that moves by VELOCITY, evaluated at each position: there is no resampling error."""
    velocity = (float(VELOCITY[0]), float(VELOCITY[1]))
    return moving_texture(velocity_px=velocity, num_frames=num_frames, height=height, width=width)


def clip_of(**changes: Any) -> Clip:
    values = {"name": "a", "frames": moving_picture(), "fps": 8.0, "prompt": "a dog", "source": "generated"}
    return Clip(**values | changes)


# query grids


@pytest.mark.parametrize("path", golden_files("09_interp_grid.npz"))
def test_query_grids_are_those_of_the_released_code(path: Path) -> None:
    arrays = load(path)
    named = {name: re.fullmatch(r"grid_(\d+)_(\d+)x(\d+)", name) for name in arrays}
    grids = {name: tuple(map(int, found.groups())) for name, found in named.items() if found}
    assert len(grids) > 2
    for name, (num, height, width) in grids.items():
        np.testing.assert_allclose(query_grid(height, width, num)[:, 1:], arrays[name][0], atol=1e-4, err_msg=name)
        assert not query_grid(height, width, num)[:, 0].any()


def test_a_mask_keeps_the_points_that_lie_on_it() -> None:
    mask = np.zeros((67, 97), dtype=bool)
    mask[:20, 40:] = True
    grid = query_grid(67, 97, 5, mask)
    whole = query_grid(67, 97, 5)
    np.testing.assert_array_equal(grid, whole[(whole[:, 1] >= 40) & (whole[:, 2] < 20)])
    assert 0 < len(grid) < 25


def test_a_mask_between_the_grid_points_is_an_error() -> None:
    mask = np.zeros((67, 97), dtype=bool)
    mask[0, 0] = True
    with pytest.raises(AnnotationError, match="none of the 3 x 3 grid points"):
        query_grid(67, 97, 3, mask)


def test_grabcut_finds_a_bright_object_on_a_dark_ground_every_time_alike() -> None:
    frame = np.random.default_rng(0).integers(0, 60, (67, 97, 3), dtype=np.uint8)
    truth = np.zeros((67, 97), dtype=bool)
    truth[20:45, 30:70] = True
    frame[truth] += np.asarray([150, 100, 20], dtype=np.uint8)
    mask = grabcut_mask(frame)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    np.testing.assert_array_equal(grabcut_mask(frame), mask)
    with pytest.raises(AnnotationError, match="GrabCut segmented"):
        grabcut_mask(np.full((67, 97, 3), 90, dtype=np.uint8))


# Lucas-Kanade


class TestLucasKanade(TrackerLaws):
    motion_tolerance_px = 0.1

    @pytest.fixture
    def tracker(self) -> Tracker:
        return make_tracker("lucas_kanade")


class TestNoMotion(TrackerLaws):
    @pytest.fixture
    def tracker(self) -> Tracker:
        return make_tracker("no_motion")


def test_a_point_that_leaves_the_frame_or_is_covered_stays_invisible() -> None:
    frames = moving_picture()
    frames[4:7, 25:55, 55:80] = 0
    queries = np.asarray([(0, 92, 40), (0, 60, 43)], dtype=np.float32)
    visible = lucas_kanade(frames, queries).visible
    assert visible[:3].all()
    assert not visible[5:, 0].any()
    assert not visible[4:, 1].any()


def test_a_stricter_round_trip_loses_points_sooner() -> None:
    frames = moving_picture()
    noisy = np.clip(frames + np.random.default_rng(1).normal(0, 40, frames.shape), 0, 255).astype(np.uint8)
    queries = query_grid(67, 97, 5)
    loose, strict = (
        lucas_kanade(noisy, queries, LucasKanadeParams(max_round_trip_px=limit)).visible.sum() for limit in (2.0, 0.05)
    )
    assert strict < loose


def test_a_query_outside_the_clip_is_refused_by_every_tracker(hub: Path) -> None:
    for frame, x, y in ((11, 5, 5), (0, 105, 5), (0, float("nan"), 5)):
        queries = np.asarray([(frame, x, y)], dtype=np.float32)
        with pytest.raises(DatasetError, match="query point 0"):
            lucas_kanade(moving_picture(), queries)
        with pytest.raises(DatasetError, match="query point 0"):
            cotracker3(moving_picture(), queries, CoTracker3Params(checkout=hub))


@pytest.mark.parametrize("values", [{"window_px": 1}, {"levels": -1}, {"max_round_trip_px": 0.0}])
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=next(iter(values))):
        parse(LucasKanadeParams, values, "annotate.lucas_kanade")


# CoTracker3

HUBCONF = '''
"""Stands in for the published hub folder: same entry, same call; it "tracks" by the known motion."""
import torch

dependencies = ["torch"]


class Predictor(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(1, 2, bias=False)
        torch.nn.init.zeros_(self.model.weight)
        self.calls = []

    def forward(self, video, queries=None, backward_tracking=False):
        assert video.dtype == torch.float32 and video.shape[2] == 3 and 1 < video.max() <= 255
        self.calls.append((tuple(video.shape), queries.clone(), backward_tracking))
        elapsed = torch.arange(video.shape[1])[:, None] - queries[0, :, 0]
        step = self.model(elapsed[..., None].float())
        tracks = queries[0, :, 1:] + step
        rows, cols = video.shape[-2:]
        inside = (tracks >= 0).all(-1) & (tracks[..., 0] <= cols - 1) & (tracks[..., 1] <= rows - 1)
        if not backward_tracking:
            tracks = torch.where((elapsed < 0)[..., None], torch.zeros_like(tracks), tracks)
        return tracks[None], inside[None] & (video[0, :, 0, 0, 0] > 0)[None, :, None]


def cotracker3_offline(*, pretrained=True, **kwargs):
    predictor = Predictor()
    if pretrained:
        predictor.model.load_state_dict({"weight": torch.tensor([[1.5], [-0.75]])})
    return predictor
'''


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """Make a local checkout that has the published entry point."""
    folder = tmp_path / "co-tracker"
    folder.mkdir()
    (folder / "hubconf.py").write_text(HUBCONF)
    load_cotracker3.cache_clear()
    yield folder
    load_cotracker3.cache_clear()


def calls_of(params: CoTracker3Params) -> list[Any]:
    model: Any = load_cotracker3(params)
    calls: list[Any] = model.calls
    return calls


def test_cotracker3_is_asked_in_its_own_coordinates_and_answers_in_ours(hub: Path) -> None:
    frames = np.maximum(moving_picture(), 1)
    queries = np.asarray([(0, 30.5, 40.25), (5, 50, 33), (10, 60, 21.5)], dtype=np.float32)
    params = CoTracker3Params(checkout=hub, device="cpu")
    tracks = cotracker3(frames, queries, params)
    ((shape, asked, backward),) = calls_of(params)
    assert shape == (1, 11, 3, 67, 97)
    assert backward
    np.testing.assert_array_equal(asked[0], queries - np.asarray([0, 0.5, 0.5], dtype=np.float32))
    elapsed = np.arange(11)[:, None] - queries[:, 0]
    np.testing.assert_allclose(tracks.points_xy_px, queries[:, 1:] + elapsed[..., None] * VELOCITY, atol=1e-4)
    assert tracks.visible.all()
    assert tracks.tracker == "cotracker3"


class TestCoTracker3(TrackerLaws):
    """Test the windows, the coordinates and the model's interface with a stand-in for the weights."""

    motion_tolerance_px = 1e-3

    @pytest.fixture
    def tracker(self, hub: Path) -> Tracker:
        return make_tracker(
            "cotracker3", {"checkout": str(hub), "device": "cpu", "window_frames": 7, "overlap_frames": 3}
        )

    @pytest.fixture
    def frames(self) -> np.ndarray:
        return np.maximum(moving_picture(), 1)


def test_a_long_clip_goes_through_in_windows_both_ways_and_ends_where_one_window_would(hub: Path) -> None:
    frames = np.maximum(moving_picture(num_frames=29), 1)
    queries = np.asarray([(0, 30.5, 40.25), (14, 50, 33), (28, 60, 21.5)], dtype=np.float32)
    params = CoTracker3Params(checkout=hub, device="cpu", window_frames=11, overlap_frames=3)
    windowed = cotracker3(frames, queries, params)
    assert all(shape[1] == 11 for shape, *_ in calls_of(params))
    at_once = cotracker3(frames, queries, CoTracker3Params(checkout=hub, device="cpu"))
    np.testing.assert_allclose(windowed.points_xy_px, at_once.points_xy_px, atol=1e-3)
    np.testing.assert_array_equal(windowed.visible, at_once.visible)


def test_a_point_unseen_throughout_an_overlap_is_lost_and_one_seen_at_its_start_is_not(hub: Path) -> None:
    frames = np.maximum(moving_picture(num_frames=19), 1)
    queries = np.asarray([(0, 30.5, 40.25)], dtype=np.float32)
    params = CoTracker3Params(checkout=hub, device="cpu", window_frames=11, overlap_frames=3)
    frames[9:12, 0, 0] = 0  # the stand-in sees nothing in frames 9 to 11; the windows share 8, 9 and 10
    partly = cotracker3(frames, queries, params)
    np.testing.assert_array_equal(np.flatnonzero(~partly.visible[:, 0]), [9, 10, 11])
    frames[8, 0, 0] = 0
    lost = cotracker3(frames, queries, params)
    np.testing.assert_array_equal(np.flatnonzero(~lost.visible[:, 0]), np.arange(8, 19))


def test_weights_come_from_a_file_when_one_is_given(hub: Path, tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.tensor([[2.0], [3.0]])}}, tmp_path / "weights.pth")
    params = CoTracker3Params(checkout=hub, checkpoint=tmp_path / "weights.pth", device="cpu")
    tracks = cotracker3(np.maximum(moving_picture(), 1), np.asarray([(0, 10, 20)], dtype=np.float32), params)
    np.testing.assert_allclose(tracks.points_xy_px[7, 0], (24, 41), atol=1e-4)


def test_a_checkpoint_that_would_run_code_is_refused(hub: Path, tmp_path: Path) -> None:
    torch.save({"weight": types.SimpleNamespace()}, tmp_path / "weights.pth")
    with pytest.raises(AnnotationError, match=r"cannot be loaded.*weights\.pth contains more than weights"):
        load_cotracker3(CoTracker3Params(checkout=hub, checkpoint=tmp_path / "weights.pth"))


def test_without_network_the_error_says_what_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    load_cotracker3.cache_clear()
    with pytest.raises(AnnotationError, match=r"co-tracker:82e02e80.*no route.*checkout.*lucas_kanade"):
        load_cotracker3(CoTracker3Params())


def test_an_answer_of_another_form_is_refused(hub: Path) -> None:
    (hub / "hubconf.py").write_text(
        HUBCONF.replace("inside[None] &", "inside[None].float() *").replace(
            "> 0)[None, :, None]", "> 0)[None, :, None].float()"
        )
    )
    with pytest.raises(AnnotationError, match=r"visibility torch\.float32"):
        cotracker3(moving_picture(), query_grid(67, 97, 2), CoTracker3Params(checkout=hub, device="cpu"))


@pytest.mark.gpu
def test_the_published_cotracker3_follows_known_motion() -> None:
    queries = np.asarray([(0, 30.5, 40.25), (5, 50, 33)], dtype=np.float32)
    tracks = cotracker3(moving_picture(), queries)
    elapsed = np.arange(11)[:, None] - queries[:, 0]
    np.testing.assert_allclose(tracks.points_xy_px, queries[:, 1:] + elapsed[..., None] * VELOCITY, atol=1.0)


# the published layout


@pytest.mark.parametrize(("kind", "num_points"), [("fg", 400), ("bg", 100)])
def test_published_tracks_go_in_and_come_out_the_same(tmp_path: Path, kind: str, num_points: int) -> None:
    folder = PUBLISHED / kind
    if not folder.exists():
        pytest.skip("no published tracks; set DIFFTRACK_FIXTURES")
    prompts = published_prompts(folder)
    tracks = [import_published(folder, f"{number:03d}") for number in range(len(prompts))]
    assert all(t.num_points == num_points and t.num_frames == 49 for t in tracks)
    assert export_published(tmp_path, zip(tracks, prompts, strict=True)) == 3
    assert published_prompts(tmp_path) == prompts
    for number in range(3):
        for part in ("tracks", "visibility"):
            ours, theirs = (np.load(root / part / f"{number:03d}.npy") for root in (tmp_path, folder))
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_published_positions_are_half_a_pixel_from_ours(tmp_path: Path) -> None:
    for part in ("tracks", "visibility"):
        (tmp_path / part).mkdir()
    np.save(tmp_path / "tracks" / "000.npy", np.zeros((1, 5, 3, 2), dtype=np.float32))
    np.save(tmp_path / "visibility" / "000.npy", np.ones((1, 5, 3), dtype=bool))
    tracks = import_published(tmp_path, "000", height=31, width=47)
    np.testing.assert_array_equal(tracks.query_points, [(0, 0.5, 0.5)] * 3)
    assert published_prompts(tmp_path) == []


def masked_tracks(num: int = 5) -> Tracks:
    mask = np.zeros((67, 97), dtype=bool)
    mask[:40, :50] = True
    queries = query_grid(67, 97, num, mask)
    points = np.repeat(queries[None, :, 1:], 7, axis=0) + np.arange(7, dtype=np.float32)[:, None, None]
    visible = np.ones(points.shape[:2], dtype=bool)
    return Tracks(points_xy_px=points, visible=visible, query_points=queries, height=67, width=97, tracker="exact")


def test_export_puts_the_grid_points_back_that_the_mask_dropped(tmp_path: Path) -> None:
    tracks = masked_tracks()
    export_published(tmp_path, [(tracks, "two\nlines")], num_grid=5)
    points, visible = (np.load(tmp_path / part / "000.npy") for part in ("tracks", "visibility"))
    assert points.shape == (1, 7, 25, 2)
    assert (points.dtype, visible.dtype) == (np.float32, np.bool_)
    assert visible.any(axis=1).sum() == tracks.num_points < 25
    back = import_published(tmp_path, "000", height=67, width=97)
    np.testing.assert_allclose(back.points_xy_px[0], query_grid(67, 97, 5)[:, 1:], atol=1e-4)
    seen = back.select(np.asarray(back.visible.any(axis=0)))
    np.testing.assert_allclose(seen.points_xy_px, tracks.points_xy_px, atol=1e-4)
    assert published_prompts(tmp_path) == ["two lines"]


def test_export_on_another_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="not part of the 7 x 7 grid"):
        export_published(tmp_path, [(masked_tracks(), "")], num_grid=7)


def test_published_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"tracks/000\.npy: cannot be read"):
        import_published(tmp_path, "000")
    for part in ("tracks", "visibility"):
        (tmp_path / part).mkdir()
    np.save(tmp_path / "tracks" / "000.npy", np.zeros((1, 5, 3, 2), dtype=np.float32))
    np.save(tmp_path / "visibility" / "000.npy", np.ones((1, 3, 5), dtype=bool))
    with pytest.raises(AnnotationError, match="expected float"):
        import_published(tmp_path, "000")


# one clip goes in, its tracks come out


@pytest.fixture(scope="module")
def rendered() -> Clip:
    spec = RenderSpec(seed=3, num_frames=5, height=64, width=96)
    result = render_clip(spec)
    return Clip(
        name="rendered",
        frames=result.frames,
        fps=8.0,
        prompt=result.prompt,
        source="rendered",
        seed=3,
        details={"render": spec.to_json()},
        object_mask=result.object_mask,
    )


def test_rendered_clips_get_exact_tracks_on_their_objects(rendered: Clip) -> None:
    tracks = annotate_clip(rendered, AnnotateParams())
    assert tracks.tracker == "exact"
    assert rendered.object_mask is not None
    queries = query_grid(64, 96, 20, rendered.object_mask)
    points, visible = exact_tracks(RenderSpec.from_json(rendered.details["render"]), queries)
    np.testing.assert_array_equal(tracks.points_xy_px, points)
    np.testing.assert_array_equal(tracks.visible, visible)


def test_lucas_kanade_agrees_with_the_renderer_where_it_trusts_itself(rendered: Clip) -> None:
    exact = annotate_clip(rendered, AnnotateParams())
    found = annotate_clip(rendered, AnnotateParams(tracker="lucas_kanade"))
    index = [int(np.flatnonzero((exact.query_points == query).all(axis=1))[0]) for query in found.query_points]
    both = found.visible & exact.visible[:, index]
    error = np.linalg.norm(found.points_xy_px - exact.points_xy_px[:, index], axis=-1)[both]
    assert np.median(error) < 1.0


def test_auto_takes_the_annotation_that_came_with_a_clip_points_never_seen_included() -> None:
    given = lucas_kanade(moving_picture(), query_grid(67, 97, 3))
    given.visible[:, 4] = False
    tracks = annotate_clip(clip_of(), AnnotateParams(), given=given)
    assert (tracks.num_points, tracks.tracker) == (9, "lucas_kanade")
    np.testing.assert_array_equal(tracks.query_points, given.query_points)
    given.visible[:] = False
    with pytest.raises(AnnotationError, match="lucas_kanade finds none of 9 points visible in any frame; leave"):
        annotate_clip(clip_of(), AnnotateParams(), given=given)


def test_a_tracker_that_is_named_starts_at_the_given_query_points() -> None:
    late = np.asarray([(5, 50, 33), (3, 40, 40)], dtype=np.float32)
    given = lucas_kanade(moving_picture(), late)
    tracks = annotate_clip(clip_of(), AnnotateParams(tracker="lucas_kanade"), given=given)
    np.testing.assert_array_equal(tracks.query_points, late)


@pytest.mark.parametrize("kind", ["black and white", "numbers", "palette of DAVIS", "one bit", "colours"])
def test_a_mask_is_read_whichever_way_it_marks_its_objects(tmp_path: Path, kind: str) -> None:
    """Two objects, number 1 and number 8, whose colour in DAVIS is a dark red (64, 0, 0)."""
    numbers = np.zeros((5, 7), dtype=np.uint8)
    numbers[1:3, :3], numbers[4, 2:6] = 1, 8
    if kind == "palette of DAVIS":
        write_mask(tmp_path / "a.png", numbers)
    elif kind == "one bit":
        Image.fromarray(numbers > 0).save(tmp_path / "a.png")
    else:
        colors = np.asarray([(0, 0, 0), (0, 0, 200), *[(0, 0, 0)] * 6, (64, 0, 0)], dtype=np.uint8)
        values = {"black and white": (numbers > 0) * np.uint8(255), "numbers": numbers, "colours": colors[numbers]}
        write_image(tmp_path / "a.png", values[kind])
    np.testing.assert_array_equal(mask_from_file(tmp_path / "a.png", height=5, width=7), numbers > 0)


def test_dark_grey_beside_white_is_no_object(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.asarray([[0, 60, 127, 128, 255]], dtype=np.uint8))
    assert mask_from_file(tmp_path / "a.png", height=1, width=5).tolist() == [[False, False, False, True, True]]


def test_clips_without_a_mask_get_the_scene_grid_and_with_one_the_object_grid(tmp_path: Path) -> None:
    params = AnnotateParams(scene_grid=3, object_grid=7, object_mask="file", object_masks=tmp_path)
    assert annotate_clip(clip_of(), params).num_points == 9
    mask = np.zeros((67, 97), dtype=np.uint8)
    mask[20:, :50] = 255
    write_image(tmp_path / "a.png", mask)
    on_object = annotate_clip(clip_of(), params)
    expected = query_grid(67, 97, 7, mask > 0)
    assert set(map(tuple, on_object.query_points.tolist())) <= set(map(tuple, expected.tolist()))
    write_image(tmp_path / "a.png", mask[:50])
    with pytest.raises(AnnotationError, match="the mask is 97x50, but the clip is 97x67"):
        annotate_clip(clip_of(), params)


def test_import_scales_to_the_clip_and_checks_its_prompt(tmp_path: Path) -> None:
    frames = np.repeat(moving_picture(7)[:, :, :, :1], 3, axis=-1)
    big = masked_tracks()
    export_published(tmp_path, [(big, "a cat"), (big, "a dog")], num_grid=5)
    params = AnnotateParams(tracker="import", published=tmp_path, published_size=(67, 97))
    small = clip_of(frames=np.stack([cv2.resize(f, (41, 29)) for f in frames]))
    tracks = annotate_clip(small, params, number=1)
    seen = tracks.visible.any(axis=0)
    np.testing.assert_allclose(tracks.points_xy_px[:, seen], big.points_xy_px * (41 / 97, 29 / 67), atol=1e-4)
    with pytest.raises(AnnotationError, match=r"line 0 of .*prompt\.txt is not this clip's prompt"):
        annotate_clip(small, params, number=0)
    with pytest.raises(DatasetError, match=r"its tracks are for \(7, 67, 97\)"):
        annotate_clip(clip_of(), params, number=1)


def test_released_confidence_counts_imported_points_that_are_visible_nowhere(tmp_path: Path) -> None:
    """Published object sets hold the whole grid; of the first clip only 29 of 400 points are on the object."""
    export_published(tmp_path, [(masked_tracks(), "a cat")], num_grid=5)
    clip = clip_of(frames=np.repeat(moving_picture(7)[:, :, :, :1], 3, axis=-1), prompt="a cat")
    tracks = annotate_clip(clip, AnnotateParams(tracker="import", published=tmp_path, published_size=(67, 97)))
    num_seen = int(tracks.visible[0].sum())
    assert (tracks.num_points, 0 < num_seen < 25) == (25, True)
    frame_max, text_max = np.full((3, 25), 0.5), np.full(25, 0.25)
    released, corrected = (
        confidence_score(
            frame_max, text_max, tracks.visible, temporal_stride=3, params=ScoringParams.preset(convention)
        ).cross
        for convention in ("released", "corrected")
    )
    np.testing.assert_allclose([released, corrected], [0.5 * num_seen / 25, 0.5])


def test_a_sampled_clip_finds_the_files_of_its_prompt_whichever_others_were_sampled(tmp_path: Path) -> None:
    export_published(tmp_path, [(masked_tracks(), prompt) for prompt in ("a cat", "a dog", "a cow")], num_grid=5)
    frames = np.repeat(moving_picture(7)[:, :, :, :1], 3, axis=-1)
    sampled = replace(clip_of(frames=frames, prompt="a cow"), details={"sampling": {"number": 2}})
    params = AnnotateParams(tracker="import", published=tmp_path, published_size=(67, 97))
    assert annotate_clip(sampled, params, number=0).num_points == 25


def test_imported_tracks_are_a_pseudo_truth_by_the_tracker_that_made_them(tmp_path: Path) -> None:
    export_published(tmp_path, [(masked_tracks(), clip_of().prompt)], num_grid=5)
    params = AnnotateParams(tracker="import", published=tmp_path, published_size=(67, 97))
    clip = clip_of(frames=np.repeat(moving_picture(7)[:, :, :, :1], 3, axis=-1))
    assert annotate_clip(clip, params).truth == Truth("pseudo_truth", "cotracker3")
    assert annotate_clip(clip, replace(params, published_tracker="exact")).truth == Truth("exact")
    assert import_published(tmp_path, "000", height=67, width=97).truth == Truth("pseudo_truth", "cotracker3")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"tracker": "cotracker"},
            "annotate: tracker is 'cotracker': unknown tracker .*; known: cotracker3, dino, .*auto",
        ),
        ({"fallback": "exact"}, "annotate: fallback is 'exact': unknown tracker"),
        ({"trackers": {"raft": {"iterations": 0}}}, r"annotate\.trackers\.raft: iterations is 0"),
        (
            {"trackers": {"dino": {"patch": 14}}},
            r"unknown key annotate\.trackers\.dino\.patch; known: checkpoint, device",
        ),
        ({"trackers": {"lucas_kanade": {}}}, r"the settings of lucas_kanade belong in annotate\.lucas_kanade"),
        ({"trackers": {"rafft": {}}}, "unknown tracker 'rafft'; known: .*raft"),
        ({"tracker": "import"}, "published is null"),
        ({"object_mask": "file"}, "object_masks is null"),
        ({"scene_grid": 0}, "scene_grid is 0"),
        ({"cotracker3": {"overlap_frames": 80}}, "overlap_frames is 80"),
        ({"grid": 20}, "unknown key annotate.grid"),
    ],
)
def test_params_that_cannot_be_are_refused_before_anything_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(AnnotateParams, values, "annotate")


def test_exact_tracks_of_a_clip_that_was_not_rendered_are_refused() -> None:
    with pytest.raises(AnnotationError, match="only for rendered clips, and this clip is generated"):
        annotate_clip(clip_of(), AnnotateParams(tracker="exact"))


def test_a_clip_of_which_nothing_is_visible_is_refused() -> None:
    given = lucas_kanade(moving_picture(), query_grid(67, 97, 3))
    given.visible[:] = False
    with pytest.raises(AnnotationError, match="finds none of 9 points visible"):
        annotate_clip(clip_of(), AnnotateParams(), given=given)


# the stage


def test_the_stage_names_the_clip_that_failed_and_annotates_the_others(tmp_path: Path, rendered: Clip) -> None:
    stage = pytest.importorskip("difftrack.pipeline.annotate")
    clips, tracks = tmp_path / "clips", tmp_path / "tracks"
    for name in ("a", "b", "c"):
        write_clip(clips, clip_of(name=name))
    write_clip(clips, rendered)
    (clips / "b" / "frames.mp4").write_bytes(b"damaged")
    with pytest.raises(SystemExit, match=r"annotate: 1 of 4 clips failed\n  b: .*frames\.mp4"):
        stage.main({"scene_grid": 3}, {"clips": clips}, {"tracks": tracks})
    assert sorted(path.name for path in tracks.iterdir()) == ["a.npz", "c.npz", "rendered.npz"]
    assert read_tracks(tracks, "rendered").tracker == "exact"


def test_the_stage_tries_to_load_a_tracker_once_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered: Clip
) -> None:
    stage = pytest.importorskip("difftrack.pipeline.annotate")
    tries = []

    def unreachable(*_: object, **__: object) -> None:
        tries.append(1)
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "load", unreachable)
    load_cotracker3.cache_clear()
    clips, tracks = tmp_path / "clips", tmp_path / "tracks"
    for name in ("b", "c", "d"):
        write_clip(clips, clip_of(name=name))
    write_clip(clips, rendered)
    with pytest.raises(AnnotationError, match=r"^CoTracker3 cannot be loaded") as raised:
        stage.main({"scene_grid": 3, "fallback": "cotracker3"}, {"clips": clips}, {"tracks": tracks})
    assert str(raised.value).count("no route") == len(tries) == 1
