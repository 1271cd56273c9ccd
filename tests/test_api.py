"""The notebook API: one function per question, each on a real tiny pipeline."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from PIL import Image
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox, save_wan

import difftrack as dt
from difftrack.backbones import BackboneError
from difftrack.correspondence import MatchingParams
from difftrack.datasets import DatasetError
from difftrack.media import read_video, write_video
from difftrack.reports import query_point
from difftrack.store import StoreError
from difftrack.tracking import read_predictions

FRAMES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(scope="module")
def model(folder: Path) -> dt.Backbone:
    return dt.load_backbone(f"path:{folder}", device="cpu")


@pytest.fixture(scope="module")
def clip() -> dt.Clip:
    """A texture that moves two pixels to the right with every frame."""
    wide = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 2 * FRAMES, 3), dtype=np.uint8)
    frames = [wide[:, 2 * (FRAMES - frame) : 2 * (FRAMES - frame) + WIDTH] for frame in range(FRAMES)]
    return dt.read_clip(np.stack(frames), name="texture")


def extracted(model: dt.Backbone, clip: dt.Clip, **options: object) -> dt.Store:
    return dt.extract(model, clip, size=(HEIGHT, WIDTH), num_inference_steps=5, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(model: dt.Backbone, clip: dt.Clip) -> dt.Store:
    return extracted(model, clip, layers=[1, 3], descriptors=("query", "key", "feature"))


# Importing


def test_importing_the_package_imports_neither_torch_nor_numpy_and_lists_its_names() -> None:
    script = "import difftrack, sys; print({'torch', 'numpy', 'zarr', 'diffusers'} & set(sys.modules), dir(difftrack))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("set() ")
    assert "'extract'" in done.stdout
    assert set(dt.__all__) == set(dir(dt))


@pytest.mark.parametrize("name", dt.__all__)
def test_every_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    assert getattr(dt, name).__doc__


# Clips


def test_a_clip_is_read_from_arrays_images_files_urls_and_tapvid_entries(tmp_path: Path, clip: dt.Clip) -> None:
    images = [Image.fromarray(frame) for frame in clip.frames]
    folder = tmp_path / "shots"
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    entry = {
        "video": clip.frames,
        "points": np.full((1, FRAMES, 2), 0.5, np.float32),
        "occluded": np.zeros((1, FRAMES), bool),
    }
    for source in (clip.frames, images, list(clip.frames), folder, entry):
        read = dt.read_clip(source, start=2, max_frames=3)
        np.testing.assert_array_equal(read.frames, clip.frames[2:5])
    assert dt.read_clip(folder).name == "shots"
    Image.fromarray(clip.frames[0]).save(folder / "0.png")
    assert dt.read_clip(folder, fps=12.5, prompt="a texture").fps == 12.5


def test_a_url_is_read_like_a_file(tmp_path: Path, clip: dt.Clip) -> None:
    from difftrack.media import write_video

    file = tmp_path / "texture.mp4"
    write_video(file, clip.frames, 11.0, lossless=True)
    read = dt.read_clip(file.as_uri())
    np.testing.assert_array_equal(read.frames, clip.frames)
    assert (read.name, read.fps) == ("texture", 11.0)
    with pytest.raises(DatasetError, match=r"missing\.mp4 cannot be read"):
        dt.read_clip((tmp_path / "missing.mp4").as_uri())


def test_images_of_several_sizes_are_no_clip(clip: dt.Clip) -> None:
    with pytest.raises(DatasetError, match="all of one shape"):
        dt.read_clip([clip.frames[0], clip.frames[1, :-1]])


# Extracting


def test_a_store_in_memory_and_one_on_disk_hold_the_same(
    model: dt.Backbone, clip: dt.Clip, store: dt.Store, tmp_path: Path
) -> None:
    options = {"layers": [1, 3], "descriptors": ("query", "key", "feature")}
    there = extracted(model, clip, to=tmp_path / "store", **options)
    assert there.groups() == store.groups()
    for kind in ("query", "key", "feature"):
        asked = {"clip": "texture", "chunk": 0, "step": 4, "layer": 3, "kind": kind}
        np.testing.assert_array_equal(there.sel(**asked), store.sel(**asked))


def test_what_a_store_holds_is_not_computed_again(
    model: dt.Backbone, clip: dt.Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted(model, clip, layers=[3], to=tmp_path)
    monkeypatch.setattr(type(model), "predict", lambda *args, **kwargs: pytest.fail("the model ran"))
    assert extracted(model, clip, layers=[3], to=tmp_path).spec("texture/chunk_000").layers == (3,)


def test_memory_is_freed_with_the_store(model: dt.Backbone, clip: dt.Clip) -> None:
    import gc

    import fsspec

    memory = fsspec.filesystem("memory")
    before = set(memory.find(""))
    kept = extracted(model, clip, layers=[0])
    assert set(memory.find("")) > before
    del kept
    gc.collect()
    assert set(memory.find("")) == before


# Matching


def test_matches_are_those_of_a_query_to_the_store(store: dt.Store) -> None:
    point = (20.0, 13.0)
    found = dt.match(store, [point], layer=3)
    assert found.dataset.sizes == {"frame": FRAMES, "point": 1, "xy": 2}
    for chunk in range(len(store.groups())):
        for asked in query_point(store, clip="texture", step=4, layer=3, point_xy_px=point, chunk=chunk):
            there = found.dataset.sel(frame=asked.frame, point=0)
            np.testing.assert_allclose(there.xy_px, (asked.x_px, asked.y_px), atol=1e-4)
            np.testing.assert_allclose(there.margin, asked.margin, atol=1e-5)


def test_probabilities_of_a_point_sum_to_one_in_every_frame(store: dt.Store) -> None:
    one_way = MatchingParams(directions="forward")
    maps = dt.match(store, [(20, 13), (31, 9)], layer=1, params=one_way).probabilities(point=1)
    assert maps.sizes == {"frame": FRAMES - 1, "row": 5, "col": 7}
    np.testing.assert_allclose(maps.sum(("row", "col")), 1, atol=1e-3)


def test_points_may_lie_in_any_frame_of_a_chunk(store: dt.Store) -> None:
    found = dt.match(store, [(20, 13)], layer=3, frame=4)
    np.testing.assert_array_equal(found.xy_px.sel(frame=4, point=0), [20, 13])
    assert found["probability"].sel(frame=4).item() == 1


def test_one_head_and_one_kind_are_matched_alone(store: dt.Store) -> None:
    of_all, of_one = dt.match(store, [(20, 13)], layer=3), dt.match(store, [(20, 13)], layer=3, heads=[1])
    assert not np.allclose(of_all.probability, of_one.probability)
    feature = dt.match(store, [(20, 13)], layer=3, kind="feature")
    assert "feature" in repr(feature)
    with pytest.raises(StoreError, match=r"heads \[5\] of texture are not stored; there are \[0, 1\]"):
        dt.match(store, [(20, 13)], layer=3, heads=[5])


def test_what_is_not_named_and_not_alone_is_asked_for(store: dt.Store) -> None:
    with pytest.raises(ValueError, match=r"several layers are stored; name one of \[1, 3\]"):
        dt.match(store, [(20, 13)])
    with pytest.raises(StoreError, match="clip dog is not stored; there are: texture"):
        dt.match(store, [(20, 13)], layer=3, clip="dog")
    with pytest.raises(ValueError, match=r"point \(99, 13\) lies outside the clip of 56x40 px"):
        dt.match(store, [(99, 13)], layer=3)


def test_a_heat_map_shows_the_query_point_and_five_frames(store: dt.Store, clip: dt.Clip) -> None:
    found = dt.match(store, [(20, 13)], layer=3)
    assert found.heatmap(clip).size[0] > 5 * WIDTH
    assert found.heatmap(clip, frames=[2]).size[0] < found.heatmap(clip).size[0]


def test_a_heat_map_finds_the_clip_that_the_store_was_made_from(store: dt.Store, clip: dt.Clip) -> None:
    found = dt.match(store, [(20, 13)], layer=3)
    assert found.heatmap().tobytes() == found.heatmap(clip).tobytes()


def test_a_store_opened_from_disk_is_no_source_of_frames(model: dt.Backbone, clip: dt.Clip, tmp_path: Path) -> None:
    extracted(model, clip, layers=[3], to=tmp_path)
    found = dt.match(dt.open_store(tmp_path), [(20, 13)], layer=3)
    with pytest.raises(ValueError, match=r"a store holds descriptors but no frames; pass heatmap\(\) the clip"):
        found.heatmap()


# Tracking


def test_tracks_begin_where_they_are_asked_for_and_can_be_saved(store: dt.Store, tmp_path: Path) -> None:
    tracks = dt.track(store, points=[(20, 13), (31, 9)], layers=(3,))
    np.testing.assert_allclose(tracks.points_xy_px[0], [(20, 13), (31, 9)], atol=1e-4)
    assert tracks.visible.shape == tracks.confidence.shape == (FRAMES, 2)
    queries, saved = read_predictions(tracks.save(tmp_path / "tracks.npz"))
    np.testing.assert_array_equal(queries, tracks.query_points)
    np.testing.assert_array_equal(saved["tracker"].points_xy_px, tracks.points_xy_px)
    rows = tracks.save(tmp_path / "tracks.csv").read_text().splitlines()
    assert len(rows) == 1 + FRAMES * 2
    with pytest.raises(ValueError, match=r"saved as \.npz or \.csv"):
        tracks.save(tmp_path / "tracks.xlsx")


def test_an_overlay_is_as_long_as_the_clip_and_never_replaces_what_it_is_drawn_on(
    store: dt.Store, clip: dt.Clip, tmp_path: Path
) -> None:
    tracks = dt.track(store, grid=3)
    drawn = tracks.overlay(to=tmp_path / "overlay.mp4")
    assert read_video(drawn).frames.shape == clip.frames.shape
    with pytest.raises(ValueError, match="is the source video"):
        tracks.overlay(drawn, to=drawn)
    assert "<video" in tracks._repr_html_()


def test_saved_tracks_say_by_what_they_were_made(store: dt.Store, model: dt.Backbone, tmp_path: Path) -> None:
    tracks = dt.track(store, points=[(20, 13)], layers=(3,), motion_cost=0.25)
    with np.load(tracks.save(tmp_path / "tracks.npz"), allow_pickle=False) as saved:
        about = {name: saved[name] for name in saved.files}
    assert str(about["backbone_fingerprint"]) == model.fingerprint
    groups = [group for group in store.groups() if group.startswith("texture/")]
    assert about["descriptors"].tolist() == [store.fingerprint(group) for group in groups]
    chosen = json.loads(str(about["params"]))
    assert (chosen["track"]["layers"], chosen["track"]["motion_cost"]) == ([3], 0.25)
    assert chosen["extract.tracking"]["num_inference_steps"] == store_steps(store, groups[0])
    assert (str(about["source"]), about["size"].tolist(), float(about["fps"])) == ("texture", [HEIGHT, WIDTH], 24.0)
    assert str(about["version"]) == version("difftrack-video")


def store_steps(store: dt.Store, group: str) -> int:
    return store.spec(group).fingerprint_parts["num_inference_steps"]


@pytest.mark.parametrize("kind", ["overlay", "labels"])
def test_a_video_without_a_name_is_written_beside_what_has_its_name(
    store: dt.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The same drawing keeps its name; another one gets the next number."""
    monkeypatch.chdir(tmp_path)
    first, other = (
        [dt.track(store, grid=number) for number in (2, 3)]
        if kind == "overlay"
        else [dt.propagate(store, points=[point], layers=(3,)) for point in [(20, 13), (31, 9)]]
    )
    mine = Path(f"texture-{kind}.mp4")
    mine.write_bytes(b"a film of mine")
    written = [first.overlay(), first.overlay(), other.overlay(), first.overlay()]
    assert mine.read_bytes() == b"a film of mine"
    assert [path.name for path in written] == [f"texture-{kind}-{number}.mp4" for number in (2, 2, 3, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({mine.name, *(path.name for path in written)})
    assert first.overlay(to=mine) == mine  # a name that is given is used as it is
    assert read_video(mine).frames.shape[0] == FRAMES


def test_an_overlay_on_a_video_file_plays_at_its_rate(store: dt.Store, clip: dt.Clip, tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", clip.frames, 5.0, lossless=True)
    drawn = dt.track(store, grid=2).overlay(tmp_path / "slow.mp4", to=tmp_path / "drawn.mp4")
    assert read_video(drawn).fps == 5.0


def test_a_store_from_disk_wants_the_frames_for_an_overlay(model: dt.Backbone, clip: dt.Clip, tmp_path: Path) -> None:
    extracted(model, clip, layers=[3], to=tmp_path / "store")
    tracks = dt.track(dt.open_store(tmp_path / "store"), grid=2)
    assert "<video" not in tracks._repr_html_()
    with pytest.raises(ValueError, match="pass overlay"):
        tracks.overlay(to=tmp_path / "a.mp4")
    assert tracks.overlay(clip, to=tmp_path / "a.mp4").exists()


def test_one_way_of_naming_points_is_wanted(store: dt.Store) -> None:
    with pytest.raises(ValueError, match="give one of points=, grid= and queries="):
        dt.track(store, points=[(1, 2)], grid=3)
    late = dt.track(store, queries=np.asarray([(3, 20, 13)], np.float32))
    np.testing.assert_allclose(late.points_xy_px[3, 0], (20, 13), atol=1e-4)


def test_an_analysis_view_is_not_tracked(model: dt.Backbone, clip: dt.Clip) -> None:
    whole = extracted(model, clip, view="analysis", layers=[3])
    assert whole.spec("texture").frames == (0, 4)
    with pytest.raises(ValueError, match="tracking needs extract"):
        dt.track(whole, grid=3)


# Scoring


def test_scores_are_a_tidy_table_and_know_the_best_layer(store: dt.Store, clip: dt.Clip) -> None:
    truth = dt.annotate(clip, scene_grid=3)
    scores = dt.score(store, truth, threshold_px=11.0)
    assert len(scores.table) == 2 * (1 + 2)
    assert set(scores.best(2)) == {1, 3}
    means = scores.table[scores.table["head"].isna()].set_index("layer")
    assert scores.best() == (means["harmonic_mean"].idxmax(),)
    assert scores.heatmap().size[0] > 100
    with pytest.raises(ValueError, match="there is no score speed"):
        scores.best(by="speed")


def test_attention_over_chunks_is_a_mean_and_stays_a_share(model: dt.Backbone, clip: dt.Clip) -> None:
    from difftrack.chunks import ChunkParams

    chunked = extracted(model, clip, layers=[3], chunks=ChunkParams(chunk_len=3))
    assert len(chunked.groups()) == 3
    table = dt.score(chunked, dt.annotate(clip, scene_grid=3)).table
    shares = table["attention_score"] + table["self_mass"] + table["text_mass"]
    np.testing.assert_allclose(shares, 1, atol=1e-3)


# Guiding


def test_guidance_of_no_strength_changes_nothing(model: dt.Backbone) -> None:
    made = dt.guide(model, "a red disc", layers=[2], scale=0.0, size=(9, HEIGHT, WIDTH), num_inference_steps=2)
    assert made.plain is not None
    np.testing.assert_array_equal(made.frames, made.plain)
    assert made.measures["guided"] == made.measures["plain"]


def test_a_guided_sample_differs_from_the_plain_one_and_is_shown_beside_it(model: dt.Backbone, tmp_path: Path) -> None:
    made = dt.guide(model, "a red disc", layers=[2], scale=2.0, size=(9, HEIGHT, WIDTH), num_inference_steps=2)
    assert not np.array_equal(made.frames, made.plain)
    assert read_video(made.save(tmp_path / "both.mp4")).frames.shape == (9, HEIGHT, 2 * WIDTH, 3)


# A loaded pipeline


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> CogVideoXPipeline:
    return CogVideoXPipeline.from_pretrained(folder)


def test_a_live_pipeline_gives_the_descriptors_of_its_folder(
    pipeline: CogVideoXPipeline, clip: dt.Clip, store: dt.Store
) -> None:
    live = extracted(dt.wrap(pipeline), clip, layers=[3])
    asked = {"clip": "texture", "chunk": 0, "step": 4, "layer": 3, "kind": "query"}
    np.testing.assert_array_equal(live.sel(**asked), store.sel(**asked))


def test_a_live_pipeline_is_known_by_what_is_loaded_now(folder: Path) -> None:
    pipe = CogVideoXPipeline.from_pretrained(folder)
    before = dt.wrap(pipe).fingerprint
    assert dt.wrap(CogVideoXPipeline.from_pretrained(folder)).fingerprint == before
    with torch.no_grad():
        weight = pipe.transformer.transformer_blocks[1].attn1.to_q.weight
        weight[[0, 1]] = weight[[1, 0]]  # equal sums
    changed = dt.wrap(pipe).fingerprint
    assert changed != before
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.02)
    assert dt.wrap(pipe).fingerprint not in (before, changed)


def test_another_family_is_wrapped_as_well(tmp_path: Path, clip: dt.Clip) -> None:
    from diffusers import WanPipeline

    pipe = WanPipeline.from_pretrained(save_wan(tmp_path))
    model = dt.wrap(pipe, name="mine")
    live = dt.extract(model, clip, size=(48, 64), layers=[1], num_inference_steps=5, progress=False)
    assert live.spec("texture/chunk_000").grid.rows == 48 // model.stride_px


def test_what_is_no_pipeline_or_of_no_family_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(BackboneError, match="Linear is not a diffusers pipeline"):
        dt.wrap(torch.nn.Linear(2, 3))
    pipe = CogVideoXPipeline.from_pretrained(folder)
    pipe.transformer = torch.nn.Linear(2, 3)
    with pytest.raises(BackboneError, match="no family supports Linear; known: "):
        dt.wrap(pipe)
    pipe.transformer = None
    with pytest.raises(BackboneError, match="the pipeline holds no transformer"):
        dt.wrap(pipe)
