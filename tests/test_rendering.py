"""Rendered clips: the drawing, the exact tracks, the prompts, and roles that share nothing."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from torch import Tensor

from difftrack.rendering import (
    PHOTOS,
    VOCABULARY,
    Motion,
    RenderSpec,
    Role,
    Scene,
    Texture,
    close_up,
    describe,
    exact_masks,
    exact_tracks,
    layer_textures,
    make_texture,
    on_object,
    render_batch,
    render_clip,
    sample_scene,
    shape_card,
)
from difftrack.rendering._motion import bend, unbend
from difftrack.rendering._render import layer_at
from difftrack.rendering._scene import FAR, MAX_OBJECTS, RADIUS_SAMPLES, Oscillation
from difftrack.rendering._textures import PALETTE, TEXTURE_SIZE, nearest_color

SPEC = RenderSpec(seed=7, num_frames=5, height=64, width=88)
UNITS_PER_PX = 128 / SPEC.height
RNG = np.random.default_rng()
LAYERS = 1 + MAX_OBJECTS
ROLES: tuple[Role, ...] = get_args(Role)

Hand = Callable[..., None]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Pictures are tiny, so more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _still() -> Oscillation:
    zeros = np.zeros(LAYERS)
    return Oscillation(zeros, zeros, zeros)


def _still_scene(radii: list[float], centers: list[tuple[float, float]]) -> Scene:
    """Still discs over a still background, back to front, in units."""
    unused = LAYERS - 1 - len(radii)
    names = ("travel", "sway", "spin", "zoom", "stretch", "tilt_swing")
    paths: dict[str, Any] = {name: _still() for name in names}
    return replace(
        sample_scene(SPEC),
        **paths,
        radius=np.repeat([[FAR], *[[r] for r in radii], *[[-FAR]] * unused], RADIUS_SAMPLES, axis=1),
        center=np.array([(0.0, 0.0), *centers, *[(0.0, 0.0)] * unused]),
        heading=np.repeat([[1.0, 0.0]], LAYERS, axis=0),
        angle=np.zeros(LAYERS),
        tilt=np.zeros((LAYERS, 2)),
        wave_amplitude=np.zeros((LAYERS, 2, 2)),
        camera_heading=np.array([1.0, 0.0]),
        camera=Oscillation(np.zeros(3), np.zeros(3), np.zeros(3)),
        parallax=np.ones(LAYERS),
        exposure=np.zeros(4),
        shadow=np.zeros(3),
        shutter=0.0,
        shapes=("circle",) * len(radii),
    )


def _only(layer: int, amplitude: float, rate: float) -> Oscillation:
    """`amplitude * sin(rate * t)` for one layer."""
    chosen = np.arange(LAYERS) == layer
    return Oscillation(amplitude * chosen, rate * chosen, np.zeros(LAYERS))


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    """Let the renderer use a scene made here instead of the one that its spec draws."""

    def use(scene: Scene) -> None:
        monkeypatch.setattr("difftrack.rendering._render.sample_scene", lambda spec: scene)

    return use


def _px(x_units: float, y_units: float) -> tuple[float, float]:
    return SPEC.width / 2 + x_units / UNITS_PER_PX, SPEC.height / 2 + y_units / UNITS_PER_PX


def _query(*points: tuple[float, float], frame: int = 0) -> np.ndarray:
    return np.array([(frame, *point) for point in points], dtype=np.float32)


def test_a_travelling_disc_carries_its_points_by_exactly_its_path(by_hand: Hand) -> None:
    by_hand(replace(_still_scene([20.0], [(0.0, 0.0)]), travel=_only(1, amplitude=30.0, rate=0.1)))
    tracks, visible = exact_tracks(SPEC, _query(_px(3, -5), _px(40, 0)))
    shift = 30 * np.sin(0.1 * np.arange(SPEC.num_frames)) / UNITS_PER_PX
    np.testing.assert_allclose(tracks[:, 0] - tracks[0, 0], np.stack([shift, 0 * shift], axis=1), atol=1e-4)
    np.testing.assert_allclose(tracks[:, 1], tracks[[0] * SPEC.num_frames, 1], atol=1e-4)
    assert visible.all()


def test_a_growing_disc_moves_its_points_away_from_its_own_centre(by_hand: Hand) -> None:
    by_hand(replace(_still_scene([24.0], [(10.0, 0.0)]), zoom=_only(1, amplitude=0.5, rate=0.3)))
    tracks, _ = exact_tracks(SPEC, _query(_px(10 + 8, 6)))
    scale = np.exp(0.5 * np.sin(0.3 * np.arange(SPEC.num_frames)))
    expected = [_px(10 + 8 * s, 6 * s) for s in scale]
    np.testing.assert_allclose(tracks[:, 0], expected, atol=1e-4)


def test_a_disc_that_spins_turns_clockwise_on_the_screen(by_hand: Hand) -> None:
    by_hand(replace(_still_scene([24.0], [(0.0, 0.0)]), spin=_only(1, amplitude=np.pi, rate=np.pi / 6)))
    tracks, _ = exact_tracks(SPEC, _query(_px(12, 0)))
    # Frame 1 is at angle pi sin(pi / 6) = a quarter turn: a tip that pointed right points down.
    np.testing.assert_allclose(tracks[1, 0], _px(0, 12), atol=1e-4)


def test_the_camera_moves_layers_by_their_parallax(by_hand: Hand) -> None:
    scene = _still_scene([20.0], [(0.0, 0.0)])
    camera = Oscillation(np.array([10.0, 0.0, 0.0]), np.array([0.2, 0.0, 0.0]), np.zeros(3))
    by_hand(replace(scene, camera=camera, parallax=np.array([1.0, 1.5, 1.0, 1.0, 1.0])))
    tracks, _ = exact_tracks(SPEC, _query(_px(0, 0), _px(-40, 0)))
    moved = (tracks[-1] - tracks[0])[:, 0] * UNITS_PER_PX
    np.testing.assert_allclose(moved, [15 * np.sin(0.8), 10 * np.sin(0.8)], atol=1e-4)


def test_a_nearer_disc_hides_what_it_covers_and_gives_it_back(by_hand: Hand) -> None:
    scene = _still_scene([10.0, 10.0], [(0.0, 0.0), (-32.0, 0.0)])
    # In front: from -32 to 0 at frame 1 (covers), to +32 or so at frame 3 (gives back).
    by_hand(replace(scene, travel=_only(2, amplitude=64.0, rate=np.pi / 6)))
    tracks, visible = exact_tracks(SPEC, _query(_px(0, 0), _px(0, 20)))
    assert visible.T.tolist() == [[True, False, True, True, True], [True] * 5]
    np.testing.assert_allclose(tracks[1, 0], _px(0, 0), atol=1e-4)


def test_a_point_that_leaves_the_picture_is_followed_but_not_visible(by_hand: Hand) -> None:
    by_hand(replace(_still_scene([20.0], [(0.0, 0.0)]), travel=_only(1, amplitude=130.0, rate=np.pi / 6)))
    tracks, visible = exact_tracks(SPEC, _query(_px(0, 0)))
    assert visible[:, 0].tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(tracks[3, 0], _px(130, 0), atol=1e-3)


def test_a_point_asked_for_later_is_followed_to_both_sides(by_hand: Hand) -> None:
    by_hand(replace(_still_scene([20.0], [(0.0, 0.0)]), travel=_only(1, amplitude=30.0, rate=0.1)))
    there, _ = exact_tracks(SPEC, _query(_px(3, -5)))
    back, _ = exact_tracks(SPEC, _query(tuple(there[3, 0]), frame=3))
    np.testing.assert_allclose(back, there, atol=1e-4)


def _colors_at(frames: np.ndarray, points_xy_px: np.ndarray) -> Tensor:
    """Colours between pixel centres, [frame, point, rgb] in 0 ... 255."""
    size = torch.tensor([frames.shape[2], frames.shape[1]])
    grid = torch.from_numpy(points_xy_px) / size * 2 - 1
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    sampled = torch.nn.functional.grid_sample(images, grid[:, :, None], align_corners=False)
    return sampled[..., 0].transpose(1, 2)


@pytest.mark.parametrize(("kind", "split"), [("object", "easy"), ("scene", "hard")])
def test_what_is_drawn_along_a_track_stays_the_same_and_only_there(kind: str, split: str) -> None:
    drawn = RenderSpec(seed=11, kind=kind, split=split, num_frames=3, height=56, width=72)  # type: ignore[arg-type]
    scene = sample_scene(drawn)
    unlit = replace(scene, shadow=np.zeros(3), exposure=np.zeros(4))
    texels = torch.stack([torch.from_numpy(t.pixels) for t in layer_textures(drawn, scene)])[None, : scene.num_layers]
    motion = Motion.stack([unlit], device=torch.device("cpu"))
    times = torch.arange(drawn.num_frames).float()[None]
    frames = render_batch(motion, texels, times, (drawn.height, drawn.width), shutter_samples=1)[0].numpy()
    points = np.random.default_rng(3).uniform([6, 6], [drawn.width - 6, drawn.height - 6], size=(151, 2))
    tracks, visible = exact_tracks(drawn, np.insert(points, 0, 0, axis=1).astype(np.float32))
    errors = {}
    for shift in product([-2, 0, 2], [-2, 0, 2]):
        error = (
            (_colors_at(frames, tracks + np.array(shift, dtype=np.float32)) - _colors_at(frames, tracks)[:1])
            .abs()
            .mean(-1)
        )
        errors[shift] = float(error[torch.from_numpy(visible)].mean())
    best = min(errors, key=lambda shift: errors[shift])
    assert best == (0, 0)
    others = [error for shift, error in errors.items() if shift != (0, 0)]
    assert errors[0, 0] < 0.5 * min(others)


def test_the_same_spec_gives_the_same_bytes_and_a_longer_clip_begins_with_the_shorter() -> None:
    short = RenderSpec(seed=5, split="hard", num_frames=2, height=24, width=40)
    first, again, longer = (render_clip(spec) for spec in (short, short, replace(short, num_frames=3)))
    assert first.frames.tobytes() == again.frames.tobytes()
    assert first.frames.tobytes() == longer.frames[:2].tobytes()
    assert first.prompt == again.prompt
    other = render_clip(replace(short, seed=6))
    assert other.frames.tobytes() != first.frames.tobytes()


def test_the_object_mask_is_where_an_object_is_in_front() -> None:
    rendered = render_clip(replace(SPEC, num_frames=1, height=32, width=48))
    rows, cols = np.nonzero(rendered.object_mask)
    assert 0 < len(rows) < rendered.object_mask.size
    points = np.stack([cols + 0.5, rows + 0.5], axis=1)
    assert on_object(replace(SPEC, height=32, width=48), points).all()


def test_bending_undoes_unbending_where_it_bends_most() -> None:
    scenes = [sample_scene(RenderSpec(seed=seed, split="hard")) for seed in range(7)]
    motion = Motion.stack(scenes, device=torch.device("cpu"), dtype=torch.float64)
    points = torch.from_numpy(RNG.uniform(-60, 60, size=(7, 3, LAYERS, 11, 2)))
    time = torch.from_numpy(RNG.uniform(0, 50, size=(7, 3)))
    bent = bend(motion, points, time)
    assert float((bent - points).norm(dim=-1).max()) > 1
    np.testing.assert_allclose(unbend(motion, bent, time), points, atol=1e-6)
    np.testing.assert_allclose(bend(motion, unbend(motion, points, time), time), points, atol=1e-6)


def test_a_query_point_belongs_to_the_frontmost_layer(by_hand: Hand) -> None:
    scene = _still_scene([20.0, 6.0], [(0.0, 0.0), (0.0, 0.0)])
    motion = Motion.stack([scene], device=torch.device("cpu"))
    points = torch.tensor([[[0.0, 0.0], [12.0, 0.0], [25.0, 0.0]]])
    assert layer_at(motion, points, torch.zeros(1, 1), num_layers=3)[0].tolist() == [2, 1, 0]


def test_the_model_card_names_every_photograph_and_its_role() -> None:
    card = Path(__file__).parents[1] / "data" / "backbones" / "cogvideox-mini" / "README.md"
    rows = [row.split(" | ") for row in card.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    named = {(row[2], file) for row in rows for file in re.findall(r"`(\w+\.(?:png|jpg))`", row[0])}
    assert named == {(role, Path(photo.path).name) for role, photos in PHOTOS.items() for photo in photos}


def test_roles_share_no_photograph() -> None:
    files = {role: {(p.package, p.path) for p in photos} for role, photos in PHOTOS.items()}
    pictures = {
        role: {(resources.files(package) / path).read_bytes() for package, path in named}
        for role, named in files.items()
    }
    for a, b in combinations(ROLES, 2):
        assert not files[a] & files[b]
        assert not pictures[a] & pictures[b]
    assert all(files.values())


def test_roles_share_no_random_stream() -> None:
    textures = {make_texture(role, index).pixels.tobytes() for role in ROLES for index in range(3)}
    assert len(textures) == 9
    headings = {tuple(sample_scene(RenderSpec(seed=s, role=r)).heading.ravel()) for s in range(29) for r in ROLES}
    assert len(headings) == 87


def test_splits_and_kinds_of_one_seed_are_different_clips() -> None:
    scenes = [
        sample_scene(RenderSpec(seed=3, split=split, kind=kind)).heading.tobytes()
        for split in ("easy", "hard")
        for kind in ("object", "scene")
    ]
    assert len(set(scenes)) == 4


def _words(count: int) -> list[Texture]:
    return [make_texture("eval", index) for index in range(count)]


def test_prompts_use_the_vocabulary_alone() -> None:
    textures = _words(LAYERS)
    said = set()
    for seed, split, kind in product(range(97), ("easy", "hard"), ("object", "scene")):
        spec = RenderSpec(seed=seed, split=split, kind=kind)  # type: ignore[arg-type]
        said |= set(describe(spec, sample_scene(spec), textures).split())
    photographed = {photo.word for photos in PHOTOS.values() for photo in photos}
    assert photographed <= set(VOCABULARY)
    assert said <= set(VOCABULARY)
    assert {"clockwise", "quickly", "camera", "growing", "left"} <= said


DIRECTIONS = ("right", "down and right", "down", "down and left", "left", "up and left", "up", "up and right")


@pytest.mark.parametrize(("eighth", "words"), list(enumerate(DIRECTIONS)))
def test_direction_words_agree_with_the_tracks(by_hand: Hand, eighth: int, words: str) -> None:
    angle = eighth * np.pi / 4 + 0.3
    heading = np.repeat([[np.cos(angle), np.sin(angle)]], LAYERS, axis=0)
    scene = replace(_still_scene([20.0], [(0.0, 0.0)]), travel=_only(1, amplitude=40.0, rate=0.05), heading=heading)
    by_hand(scene)
    tracks, _ = exact_tracks(SPEC, _query(_px(0, 0)))
    moved = tracks[-1, 0] - tracks[0, 0]
    assert ("right" in words) == (moved[0] > 1.5)
    assert ("left" in words) == (moved[0] < -1.5)
    assert ("down" in words) == (moved[1] > 1.5)
    assert ("up" in words) == (moved[1] < -1.5)
    [sentence] = describe(SPEC, scene, _words(LAYERS)).split(" over ")[:1]
    assert sentence.endswith(f"circle moves quickly {words}")


def test_the_camera_pans_against_the_picture(by_hand: Hand) -> None:
    spec = replace(SPEC, kind="scene")
    scene = replace(
        _still_scene([], []), camera=Oscillation(np.array([20.0, 0, 0]), np.array([0.1, 0, 0]), np.zeros(3))
    )
    by_hand(scene)
    tracks, _ = exact_tracks(spec, _query(_px(0, 0)))
    assert tracks[-1, 0, 0] > tracks[0, 0, 0]
    assert describe(spec, scene, _words(LAYERS)).endswith("the camera pans left")


def test_hard_clips_move_farther_than_easy_ones() -> None:
    medians = {}
    for split in ("easy", "hard"):
        lengths = []
        for seed in range(13):
            spec = RenderSpec(seed=seed, split=split, num_frames=6)
            tracks, _ = exact_tracks(spec, _query((61, 53), (131, 89)))
            lengths += [np.linalg.norm(b - a, axis=-1).mean() for a, b in pairwise(tracks)]
        medians[split] = np.median(lengths)
    assert medians["hard"] > 1.3 * medians["easy"]


def test_a_spec_survives_json() -> None:
    spec = RenderSpec(seed=13, role="tune", kind="scene", split="hard", num_frames=3, height=40, width=56)
    assert RenderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_what_cannot_be_rendered_is_named() -> None:
    with pytest.raises(ValueError, match="-3"):
        RenderSpec(seed=0, height=-3)
    with pytest.raises((ValueError, BeartypeCallHintViolation), match="medium"):
        RenderSpec.from_json({"seed": 0, "split": "medium"})
    with pytest.raises(ValueError, match="speed"):
        RenderSpec.from_json({"seed": 0, "speed": 3})
    with pytest.raises(ValueError, match="no seed"):
        RenderSpec.from_json({"role": "eval"})
    with pytest.raises(ValueError, match=r"\[5.0, 1.0, 2.0\]"):
        exact_tracks(SPEC, np.array([[0, 1, 2], [5, 1, 2]], dtype=np.float32))


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((90, 180, 175), "cyan"),
        ((60, 70, 130), "blue"),
        ((118, 120, 124), "gray"),
        ((22, 20, 24), "black"),
        ((240, 238, 232), "white"),
        ((110, 80, 60), "brown"),
        ((60, 90, 55), "green"),
        ((225, 150, 185), "pink"),
    ],
)
def test_shades_keep_the_word_of_their_hue(rgb: tuple[int, int, int], word: str) -> None:
    texels = np.broadcast_to(np.asarray(rgb, dtype=np.float32) / 255, (TEXTURE_SIZE, TEXTURE_SIZE, 3))
    assert nearest_color(texels) == word
    assert nearest_color(np.ascontiguousarray(texels[::-1])) == word


@pytest.mark.parametrize("word", list(PALETTE))
def test_the_palette_is_called_by_its_own_words(word: str) -> None:
    assert nearest_color(np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), PALETTE[word], dtype=np.float32)) == word


def test_a_close_up_shows_one_object_larger_upright_and_rigid() -> None:
    specs = [RenderSpec(seed=seed, split="hard", role="train") for seed in range(60)]
    scenes = [sample_scene(spec) for spec in specs]
    assert max(len(scene.shapes) for scene in scenes) > 2
    for scene in scenes:
        close = close_up(scene)
        assert close.shapes == scene.shapes[:1]
        np.testing.assert_allclose(close.radius[1], 1.5 * scene.radius[1])
        np.testing.assert_array_equal(close.radius[2:], -FAR)
        np.testing.assert_array_equal(close.radius[0], FAR)
        np.testing.assert_array_equal(close.heading, scene.heading)
        # Rigid and flat: the rest of the object's motion keeps the shape of its outline; the background's stays.
        for path in ("stretch", "tilt_swing"):
            assert not getattr(close, path).amplitude[1:].any()
            assert getattr(close, path).amplitude[0] == getattr(scene, path).amplitude[0]
        for warp in ("tilt", "wave_amplitude"):
            assert not getattr(close, warp)[1:].any()
            np.testing.assert_array_equal(getattr(close, warp)[0], getattr(scene, warp)[0])
        if close.shapes[0] == "triangle":
            # A corner points up (y is down), give or take a tenth of half a turn.
            angle = np.linspace(0, 2 * np.pi, RADIUS_SAMPLES, endpoint=False)
            corners = (angle[np.flatnonzero(close.radius[1] > 0.99 * close.radius[1].max())] + close.angle[1]) % (
                2 * np.pi
            )
            assert np.abs(corners - 1.5 * np.pi).min() <= 0.1 * np.pi + 0.1


def test_cards_show_every_shape_over_the_same_area_and_only_travel() -> None:
    def inside(scene: Scene, time: float) -> np.ndarray:
        grid = np.stack(np.meshgrid(np.arange(-95.5, 96), np.arange(-63.5, 64)), axis=-1).reshape(1, -1, 2)
        motion, moment = Motion.stack([scene], device=torch.device("cpu")), torch.full((1, 1), time)
        found = layer_at(motion, torch.from_numpy(grid).float(), moment, num_layers=scene.num_layers)
        return (found > 0).numpy().reshape(128, 192)

    areas = {}
    for seed in range(60):
        card = shape_card(sample_scene(RenderSpec(seed=seed, role="train", split="hard")))
        first, card_to_right = inside(card, 0.0), replace(card, heading=np.tile([[1.0, 0.0]], (LAYERS, 1)))
        areas.setdefault(card.shapes[0], first.sum())
        moved = round(float(card.travel.at(3.0)[1]))
        exact = replace(card_to_right.travel, amplitude=card.travel.amplitude * moved / card.travel.at(3.0)[1])
        later = inside(replace(card_to_right, travel=exact), 3.0)
        np.testing.assert_array_equal(later, np.roll(first, moved, axis=1))
        assert (card.shutter, card.exposure.any(), card.shadow.any()) == (0.0, False, False)
    assert len(areas) == 10
    assert np.ptp(list(areas.values())) < 0.03 * np.mean(list(areas.values()))


def test_an_object_of_a_close_up_covers_more_than_one_in_its_scene() -> None:
    spec = RenderSpec(seed=0, num_frames=1)
    scene = next(scene for seed in range(20) if len((scene := sample_scene(replace(spec, seed=seed))).shapes) == 1)
    grid = np.stack(np.meshgrid(np.arange(-95, 96, 2.0), np.arange(-63, 64, 2.0)), axis=-1).reshape(1, -1, 2)

    def covered(one: Scene) -> float:
        motion = Motion.stack([one], device=torch.device("cpu"))
        points = torch.from_numpy(grid).float()
        return float((layer_at(motion, points, torch.zeros(1, 1), num_layers=one.num_layers) > 0).float().mean())

    middle = replace(scene, center=0 * scene.center)
    assert covered(close_up(middle)) == pytest.approx(1.5**2 * covered(middle), rel=0.05)


@pytest.mark.parametrize("split", ["easy", "hard"])
def test_masks_show_the_object_that_a_track_is_on_and_frame_0_of_the_object_mask(split: Any) -> None:
    spec = replace(SPEC, seed=11, split=split)
    masks = exact_masks(spec)
    assert masks.shape == (spec.num_frames, spec.height, spec.width)
    np.testing.assert_array_equal(masks[0] > 0, render_clip(replace(spec, num_frames=1)).object_mask)
    assert set(np.unique(masks)) <= set(range(sample_scene(spec).num_layers))
    y, x = np.mgrid[4:60:8, 4:84:8] + 0.5
    queries = np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1).astype(np.float32)
    points, visible = exact_tracks(spec, queries)
    on = masks[0, queries[:, 2].astype(int), queries[:, 1].astype(int)]
    assert len(set(on.tolist())) > 1
    inside = visible & (points < (spec.width, spec.height)).all(-1)
    later = [masks[frame][tuple(points[frame, inside[frame]].astype(int).T[::-1])] for frame in range(spec.num_frames)]
    same = [(own == on[inside[frame]]).mean() for frame, own in enumerate(later)]
    assert min(same) > 0.9  # a point less than a pixel from an outline may lie in a pixel of the other side
    assert not np.array_equal(masks[0], masks[-1])
