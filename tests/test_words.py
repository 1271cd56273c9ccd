"""Maps of words: laws of the maths, stores of tiny pipelines of both kinds of attention, and the verb."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox, save_wan
from typer.testing import CliRunner

import difftrack as dt
from difftrack.backbones import BackboneError
from difftrack.chunks import ChunkParams
from difftrack.cli import app
from difftrack.correspondence import attention_of_points_per_head, text_attention
from difftrack.datasets import Clip, write_clip
from difftrack.media import read_video
from difftrack.reports import export_words, word_maps_at
from difftrack.reports._examples import stored_example
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._page import Strips
from difftrack.reports._word_section import _maps as section_maps
from difftrack.reports._word_section import drawn_phrases, words_section
from difftrack.store import StoreError, clip_group, create_group, export_group, import_group, open_store
from difftrack.text_tokens import PADDING, SPECIAL, TextTokens, WordError

HEADS, FRAMES, ROWS, COLS, CHANNELS, TEXT = 2, 3, 5, 7, 11, 13
PROMPT = "a red disc moves left"


def random_parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, HEADS, FRAMES, ROWS, COLS, CHANNELS, generator=generator)
    text_key = torch.randn(HEADS, TEXT, CHANNELS, generator=generator)
    return query, key, text_key, torch.arange(TEXT) < 9


# the maths


def test_one_head_with_two_text_tokens_and_one_video_token_is_worked_by_hand() -> None:
    query = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 1, 4)
    text_key = torch.tensor([[np.log(2.0), 0, 0, 0], [np.log(3.0), 0, 0, 0]]).view(1, 2, 4)
    key = torch.tensor([np.log(5.0), 0, 0, 0]).view(1, 1, 1, 1, 4)
    mask = torch.tensor([True, True])
    maps = text_attention(query, text_key, mask, [[0], [1], [0, 1]], key=key)
    torch.testing.assert_close(maps.flatten(), torch.tensor([0.2, 0.3, 0.5]))
    crossed = text_attention(query, text_key, mask, [[0], [1], [0, 1]])
    torch.testing.assert_close(crossed.flatten(), torch.tensor([0.4, 0.6, 1.0]))


def test_maps_of_all_tokens_sum_to_the_mass_of_the_text_that_the_scores_have() -> None:
    query, key, text_key, mask = random_parts()
    maps = text_attention(query, text_key, mask, [[token] for token in range(TEXT)], key=key)
    assert maps.shape == (HEADS, TEXT, FRAMES, ROWS, COLS)
    grid = torch.stack(torch.meshgrid(torch.arange(COLS), torch.arange(ROWS), indexing="xy"), dim=-1).flatten(0, 1)
    for frame in range(FRAMES):
        rows = attention_of_points_per_head(query, key, text_key, mask, grid.float(), source_frame=frame)
        torch.testing.assert_close(maps[:, :, frame].sum(dim=1).flatten(1), rows.text_mass, atol=1e-6, rtol=1e-5)
    assert (maps[:, 9:] == 0).all()  # masked


def test_cross_attention_pays_all_of_its_attention_to_the_text() -> None:
    query, _, text_key, mask = random_parts()
    maps = text_attention(query, text_key, mask, [range(TEXT)])
    torch.testing.assert_close(maps, torch.ones_like(maps))


def test_reordered_text_tokens_and_split_groups_change_nothing() -> None:
    query, key, text_key, mask = random_parts()
    order = torch.randperm(TEXT, generator=torch.Generator().manual_seed(1))
    places = torch.argsort(order)
    one = text_attention(query, text_key, mask, [[2, 5, 8]], key=key)
    moved = text_attention(query, text_key[:, order], mask[order], [places[[2, 5, 8]].tolist()], key=key)
    torch.testing.assert_close(one, moved)
    parts = text_attention(query, text_key, mask, [[2, 5], [8]], key=key)
    torch.testing.assert_close(one[:, 0], parts.sum(dim=1))


def test_scores_far_from_zero_overflow_nothing_and_no_text_is_no_mass() -> None:
    query, key, text_key, mask = random_parts()
    maps = text_attention(100 * query, 100 * text_key, mask, [range(TEXT)], key=100 * key)
    assert torch.isfinite(maps).all()
    assert 0 <= maps.min() <= maps.max() <= 1 + 1e-6
    nothing = text_attention(query, text_key, torch.zeros(TEXT, dtype=torch.bool), [range(TEXT)])
    assert (nothing == 0).all()
    with pytest.raises(ValueError, match="text token 13 does not exist; the text has 13 tokens"):
        text_attention(query, text_key, mask, [[13]])


# stores


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> dt.Backbone:
    return dt.load_backbone(f"path:{save_cogvideox(tmp_path_factory.mktemp('cogvideox'))}", device="cpu")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> dt.Backbone:
    return dt.load_backbone(f"path:{save_wan(tmp_path_factory.mktemp('wan'))}", device="cpu")


def noise_clip(prompt: str = PROMPT, *, height: int = HEIGHT, width: int = WIDTH) -> dt.Clip:
    frames = np.random.default_rng(0).integers(0, 256, (9, height, width, 3), dtype=np.uint8)
    return Clip("noise", frames, 8.0, prompt, "folder")


OPTIONS = {"view": "analysis", "size": (HEIGHT, WIDTH), "num_inference_steps": 5, "steps": [1, 3], "progress": False}


@pytest.fixture(scope="module")
def joint_store(joint: dt.Backbone) -> dt.Store:
    return dt.extract(joint, noise_clip(height=2 * HEIGHT, width=3 * WIDTH), layers=[0, 2], **OPTIONS)


def cross_store(model: dt.Backbone, **options: object) -> dt.Store:
    given = {**OPTIONS, "size": (32, 48), "descriptors": ("cross_query",), "layers": [0, 1], **options}
    return dt.extract(model, noise_clip(), **given)


def test_a_store_says_which_word_each_text_token_stands_for(joint_store: dt.Store) -> None:
    found = joint_store.text_tokens("noise")
    assert found is not None
    assert found.prompt == PROMPT
    assert found.labels() == ["a", "a", "red", "disc", "moves", "left", SPECIAL, *[PADDING] * 4]  # \u2581, then a


def test_words_of_joint_attention_sum_to_its_text_mass_and_keep_their_axes(joint_store: dt.Store) -> None:
    every = dt.words(joint_store, share_of="attention", per=("head", "step", "layer"))
    assert every.dims == ("step", "layer", "head", "word", "frame", "row", "col")
    assert every.word.values.tolist() == ["a", "red", "disc", "moves", "left", SPECIAL, PADDING]
    assert (every.step.values.tolist(), every.layer.values.tolist()) == ([1, 3], [0, 2])
    assert every.frame.values.tolist() == [0, 4, 8]
    np.testing.assert_allclose(every.y_px.values[:2], [8.0, 24.0])  # tokens of 8 px, and the clip is twice as high
    np.testing.assert_allclose(every.x_px.values[:2], [12.0, 36.0])
    spec = joint_store.spec("noise")
    mask = torch.tensor(spec.text_mask)
    query, key, text_key = (
        torch.from_numpy(joint_store.sel(clip="noise", step=3, layer=2, kind=kind)).float()
        for kind in ("query", "key", "text_key")
    )
    point = torch.tensor([[4.0, 1.0]])
    rows = attention_of_points_per_head(query, key, text_key, mask, point, source_frame=1)
    mass = every.sum("word").sel(step=3, layer=2).isel(frame=1, row=1, col=4).values
    np.testing.assert_allclose(mass, rows.text_mass[:, 0].numpy(), atol=1e-6)


def test_a_word_is_the_mean_over_what_is_not_kept_apart(joint_store: dt.Store) -> None:
    whole = {"share_of": "attention"}
    apart = dt.words(joint_store, "disc", per=("step", "layer", "head"), **whole)
    mean = dt.words(joint_store, "disc", **whole)
    assert mean.dims == ("frame", "row", "col")
    np.testing.assert_allclose(mean.values, apart.mean(("step", "layer", "head")).values, atol=1e-7)
    one = dt.words(joint_store, "DISC", steps=3, layers=[2], heads=1, **whole)
    np.testing.assert_allclose(one.values, apart.sel(step=3, layer=2, head=1).values, atol=1e-7)
    phrase = dt.words(joint_store, "red disc", **whole)
    np.testing.assert_allclose(phrase.values, (mean + dt.words(joint_store, "red", **whole)).values, atol=1e-6)
    assert phrase.attrs["pieces"] == ["red", "disc"]
    assert phrase.attrs["attention"] == "joint"


def test_shares_of_the_text_sum_to_one(joint_store: dt.Store) -> None:
    every = dt.words(joint_store, layers=2)
    np.testing.assert_allclose(every.sum("word").values, 1.0, atol=1e-5)
    whole = dt.words(joint_store, share_of="attention", layers=2)
    shares = whole.sel(word="disc") / whole.sum("word")
    np.testing.assert_allclose(every.sel(word="disc").values, shares.values, atol=1e-6)


def test_a_tracking_view_gives_every_frame_once(joint: dt.Backbone) -> None:
    chunks = ChunkParams(chunk_len=4, interleaved=False, chunk_stride=2)
    store = dt.extract(
        joint,
        noise_clip(),
        size=(HEIGHT, WIDTH),
        num_inference_steps=5,
        layers=[1],
        prompt="clip",
        chunks=chunks,
        progress=False,
    )
    maps = dt.words(store, "disc")
    assert maps.frame.values.tolist() == list(range(9))
    group = clip_group("noise", 0)
    assert store.spec(group).frames[0] == 0


def test_the_empty_prompt_of_a_tracking_view_says_the_way_out(joint: dt.Backbone) -> None:
    store = dt.extract(joint, noise_clip(), size=(HEIGHT, WIDTH), num_inference_steps=5, layers=[1], progress=False)
    with pytest.raises(WordError, match="the prompt, which is empty: extract with the clip's own prompt"):
        dt.words(store, "disc")


def test_letters_of_an_unknown_word_are_its_pieces_and_a_long_prompt_is_cut(joint: dt.Backbone) -> None:
    with pytest.warns(UserWarning, match="cut from the prompt"):
        store = dt.extract(joint, noise_clip("disc abc and disc square left up"), layers=[0], **OPTIONS)
    text = store.text_tokens("noise")
    assert text is not None
    cat = dt.words(store, "abc")
    assert cat.attrs["pieces"] == ["a", "a", "b", "c"]  # the mark of a word's start counts as its first letter
    assert any("cut from the prompt: " in note for note in cat.attrs["notes"])
    with pytest.raises(WordError, match="was not read"):
        dt.words(store, "up")
    assert any("2 times" in note for note in dt.words(store, "disc").attrs["notes"])
    first = dt.words(store, "disc", occurrence=0)
    both = first + dt.words(store, "disc", occurrence=1)
    np.testing.assert_allclose(dt.words(store, "disc").values, both.values, atol=1e-6)


def test_cross_attention_is_captured_with_its_text_and_every_token_pays_all_to_it(crossed: dt.Backbone) -> None:
    store = cross_store(crossed)
    spec = store.spec("noise")
    assert spec.entries == ("cross_query", "text_key")
    assert spec.joint_text_mask == ()
    every = dt.words(store, per=("layer", "head"))
    assert every.attrs["attention"] == "cross"
    np.testing.assert_allclose(every.sum("word").values, 1.0, atol=1e-5)
    assert {"red", "disc", SPECIAL, PADDING} <= set(every.word.values.tolist())
    query, text_key = (
        torch.from_numpy(store.sel(clip="noise", step=3, layer=1, kind=kind)).float()
        for kind in ("cross_query", "text_key")
    )
    tokens = store.text_tokens("noise").find("disc")[0].tokens  # type: ignore[union-attr]
    rows = (query.flatten(1, 3) @ text_key.mT / query.shape[-1] ** 0.5).softmax(dim=-1)[..., list(tokens)].sum(-1)
    found = dt.words(store, "disc", steps=3, layers=1, per=("head",))
    np.testing.assert_allclose(found.values.reshape(len(rows), -1), rows.numpy(), atol=1e-6)


def test_text_of_cross_attention_takes_no_part_in_the_scores_of_the_video(crossed: dt.Backbone) -> None:
    from difftrack.correspondence import MatchSection
    from difftrack.datasets import Tracks
    from difftrack.workflows.match import match_stored_clip

    points = np.asarray([[0.0, 10.0, 12.0], [0.0, 30.0, 20.0]], np.float32)
    tracks = Tracks(
        points_xy_px=np.broadcast_to(points[:, 1:], (9, 2, 2)).copy(),
        visible=np.ones((9, 2), bool),
        query_points=points,
        height=HEIGHT,
        width=WIDTH,
        tracker="exact",
    )
    plain = cross_store(crossed, descriptors=("query", "key"))
    beside = cross_store(crossed, descriptors=("query", "key", "cross_query"))
    section = MatchSection(kinds=("query_key",))
    one, other = (match_stored_clip(store, "noise", tracks, section) for store in (plain, beside))
    for name in ("attention_mass", "text_mass", "match_xy_px"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    assert (other["text_mass"].values == 0).all()


def test_what_a_store_lacks_is_said_in_one_line(
    joint: dt.Backbone, crossed: dt.Backbone, joint_store: dt.Store
) -> None:
    with pytest.raises(StoreError, match=r"layers \[5\] of noise are not stored; there are 0, 2"):
        dt.words(joint_store, "disc", layers=5)
    with pytest.raises(ValueError, match=r"per is \['step', 'step'\]; expected some of step, layer, head"):
        dt.words(joint_store, "disc", per=("step", "step"))
    with pytest.raises(StoreError, match="stored without text keys: extract it with"):
        dt.words(cross_store(crossed, descriptors=("query", "key")), "disc")
    with pytest.raises(BackboneError, match="has no cross-attention"):
        dt.extract(joint, noise_clip(), layers=[0], descriptors=("cross_query",), **OPTIONS)


def test_a_store_of_an_earlier_version_is_told_the_words(
    joint: dt.Backbone, joint_store: dt.Store, tmp_path: Path
) -> None:
    spec = joint_store.spec("noise")
    with create_group(tmp_path / "old", "noise", spec) as writer:
        for step, layer in spec.units:
            values = {kind: joint_store.sel(clip="noise", step=step, layer=layer, kind=kind) for kind in spec.entries}
            writer.write(step, layer, values)
        writer.finish()
    old = open_store(tmp_path / "old")
    with pytest.raises(StoreError, match=r"has no words for the text tokens .* extract it again, or pass text="):
        dt.words(old, "disc")
    text = joint.text_tokens(PROMPT, joint.embed(PROMPT))
    np.testing.assert_array_equal(dt.words(old, "disc", text=text).values, dt.words(joint_store, "disc").values)
    short = TextTokens("disc", ((0, 4),), ("prompt",))
    with pytest.raises(StoreError, match="noise has 11 text tokens, but text= has 1"):
        dt.words(old, "disc", text=short)


def test_words_go_with_a_group_that_is_exported_and_taken_in(joint_store: dt.Store, tmp_path: Path) -> None:
    for suffix in ("safetensors", "nc", "zarr"):
        file = tmp_path / f"part.{suffix}"
        export_group(joint_store, "noise", file, layers=[2])
        import_group(file, tmp_path / suffix)
        again = open_store(tmp_path / suffix)
        np.testing.assert_array_equal(dt.words(again, "disc").values, dt.words(joint_store, "disc", layers=2).values)


def test_a_part_without_cross_queries_takes_no_text_along(crossed: dt.Backbone, tmp_path: Path) -> None:
    store = cross_store(crossed, descriptors=("query", "key", "cross_query"))
    spec = export_group(store, "noise", tmp_path / "part.safetensors", kinds=["query", "key"])
    assert spec.text_mask == ()
    import_group(tmp_path / "part.safetensors", tmp_path / "store")
    assert open_store(tmp_path / "store").text_tokens("noise") is None


# pictures and the verb


def test_maps_between_their_frames_are_interpolated() -> None:
    maps = np.stack([np.full((2, 3), value, np.float32) for value in (0.0, 4.0, 2.0)])
    every = word_maps_at(maps, [1, 5, 9], 11)
    np.testing.assert_allclose(every[:, 0, 0], [0, 0, 1, 2, 3, 4, 3.5, 3, 2.5, 2, 2])


def test_the_verb_writes_video_picture_and_maps_and_writes_over_nothing(joint: dt.Backbone, tmp_path: Path) -> None:
    clip = noise_clip()
    write_clip(tmp_path / "clips", clip)
    store = str(tmp_path / "store")
    dt.extract(joint, clip, layers=[0, 2], to=store, **OPTIONS)
    asked = ["words", store, "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--word", "disc"]
    runner = CliRunner()
    listed = runner.invoke(app, ["words", store])
    assert listed.exit_code == 0, listed.output
    assert listed.output.splitlines()[:3] == [f"prompt: {PROMPT}", "a\t2 tokens", "red\t1 token"]
    made = runner.invoke(app, [*asked, "--word", "red disc", "--layer", "2"])
    assert made.exit_code == 0, made.output
    names = ["noise-disc-red_disc.npz", "noise-disc-red_disc.png", "noise-disc.mp4", "noise-red_disc.mp4"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    assert read_video(tmp_path / "out" / "noise-disc.mp4").frames.shape[0] == 9
    saved = np.load(tmp_path / "out" / "noise-disc-red_disc.npz")
    np.testing.assert_array_equal(saved["maps"][0], dt.words(open_store(store), "disc", layers=2).values)
    assert saved["frames"].tolist() == [0, 4, 8]
    again = runner.invoke(app, asked)
    assert again.exit_code == 1
    assert "noise-disc.mp4 already exists and is not overwritten" in again.output
    unknown = runner.invoke(app, [*asked[:-1], "square"])
    assert unknown.exit_code == 1
    assert unknown.output.startswith("difftrack: 'square' is not in the prompt, whose words are a, red, disc")


def test_the_report_shows_the_words_of_the_first_example_that_has_any(
    joint_store: dt.Store, crossed: dt.Backbone, tmp_path: Path
) -> None:
    clip, nothing = noise_clip(height=2 * HEIGHT, width=3 * WIDTH), np.zeros((0, 2), np.float32)
    without = stored_example(cross_store(crossed, descriptors=("query", "key")), noise_clip(), nothing)
    example = stored_example(joint_store, clip, nothing)
    with Drawings(tmp_path) as drawings:
        assert words_section("tiny", [without], drawings) == []
        (section,) = words_section("tiny", [without, example], drawings)
    (block,) = section.blocks
    assert isinstance(block, Strips)
    assert [row.label for row in block.rows] == ["clip", "red disc moves"]
    assert all((tmp_path / row.image).is_file() for row in block.rows)
    assert PROMPT in block.caption
    assert "all layers at step 3" in block.caption
    (found,) = section_maps(example, ["disc"], [0, 2], 3, [0, 2])
    np.testing.assert_allclose(found, dt.words(joint_store, "disc", steps=3).values[[0, 2]], atol=1e-6)


def test_the_report_draws_what_the_prompt_names() -> None:
    def phrases(prompt: str, length: int = 99) -> list[str]:
        offsets = [match.span() for match in re.finditer(r"\w+|[^\w\s]", prompt)][:length]
        text = TextTokens.of_offsets(prompt, offsets, [False] * len(offsets), num_tokens=len(offsets))
        return drawn_phrases(text)

    assert phrases("A red panda walking through the forest, at night") == ["red panda walking", "forest"]
    assert phrases("the cat and the cat in a box") == ["cat", "box"]
    assert phrases("dogs, running over grass") == ["dogs", "running", "grass"]
    assert phrases("a big, red dog") == ["big", "red", "dog"]  # not a phrase: it contains a comma
    assert phrases("a red panda walks", length=2) == ["red"]
    assert phrases("") == []


def test_words_that_would_share_a_file_name_are_refused(tmp_path: Path) -> None:
    maps = np.zeros((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="would share a file name"):
        export_words(tmp_path, noise_clip(), {"a-b": maps, "a b": maps}, [0])
