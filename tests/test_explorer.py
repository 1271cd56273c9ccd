import asyncio
import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data_folder as toy
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import difftrack as dt
from difftrack.cli import app as command_line
from difftrack.correspondence import MatchingParams, back_sums
from difftrack.explorer import ExplorerError, explorer_app, open_catalog
from difftrack.explorer._answers import Answers
from difftrack.explorer._cache import BoundedCache
from difftrack.explorer._explore import Explorer, is_local, make_explorer, use_threads
from difftrack.explorer._extraction_jobs import MOST_UPLOAD_BYTES
from difftrack.explorer._live_tracking import LiveTracker
from difftrack.explorer._questions import (
    AttentionQuestion,
    CellsQuestion,
    Lens,
    MapsQuestion,
    MatchQuestion,
    TrackQuestion,
    WordQuestion,
)
from difftrack.explorer._truth import other_tracks, true_tracks
from difftrack.explorer._wire import finite, pack, quantised
from difftrack.explorer._words import PADDING, text_words
from difftrack.metrics import track_scores
from difftrack.rotary import FrequencyBands
from difftrack.store import open_store
from difftrack.tracking import TrackParams
from difftrack.workflows.words import word_maps

SLOW = FrequencyBands(temporal=(0.0, 0.0), horizontal=(0.5, 1.0))
LENS = Lens(store=toy.ANALYSIS, clip="rolling", step=17, layer=5)
POINT = (0, 61.0, 47.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def answers(data: Path) -> Answers:
    return Answers(open_catalog(data))


@pytest.fixture(scope="module")
def tracker(data: Path) -> LiveTracker:
    return LiveTracker(open_catalog(data))


def store(data: Path, name: str) -> dt.Store:
    return dt.open_store(data / "descriptors" / name)


# ---- answers are the library's


def test_another_point_of_a_frame_divides_by_the_same_sums_and_another_lens_by_its_own(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums make up nearly all the work of matching in both directions, and depend on no point."""
    made: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(kwargs["source_frame"])
        return back_sums(*args, **kwargs)

    monkeypatch.setattr("difftrack.explorer._answers.back_sums", counted)
    asked = Answers(open_catalog(data))

    def ask(lens: Lens, x: float, frame: int = 0) -> int:
        before = len(made)
        asked.match(MatchQuestion(lens, (frame, x, 47.5)))
        return len(made) - before

    assert [ask(LENS, x) for x in (61.0, 13.0, 40.5)] == [1, 0, 0]
    assert [ask(LENS, 61.0, frame=4), ask(LENS, 13.0, frame=4)] == [1, 0]
    assert ask(replace(LENS, direction="back"), 13.0) == 0
    assert ask(replace(LENS, direction="forward"), 13.0) == 0
    assert [ask(replace(LENS, temperature=1.7), 13.0), ask(LENS.only_head(1), 13.0), ask(LENS, 14.0)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("lens", "options"),
    [
        (LENS, {}),
        (Lens(toy.ANALYSIS, "rolling", 3, 7, kind="feature"), {"kind": "feature"}),
        (Lens(toy.ANALYSIS, "sliding", 3, 2, kind="key_key", heads=(1, 3)), {"kind": "key_key", "heads": (1, 3)}),
        (
            Lens(toy.ANALYSIS, "sliding", 3, 2, kind="query_query", frequencies=SLOW),
            {"kind": "query_query", "frequencies": SLOW},
        ),
        (Lens(toy.ANALYSIS, "rolling", 17, 5, direction="forward"), {"params": MatchingParams(directions="forward")}),
        (Lens(toy.ANALYSIS, "rolling", 17, 5, temperature=1.7), {"params": MatchingParams(temperature=1.7)}),
        (Lens(toy.ANALYSIS, "rolling", 17, 5, window=1), {"params": MatchingParams(window_radius=1)}),
        (Lens(toy.TRACKING, "rolling", 17, 7), {}),
        (
            Lens(toy.ANALYSIS, "rolling", 17, 5, convention="released"),
            {"params": MatchingParams.preset("released")},
        ),
    ],
)
@pytest.mark.parametrize("frame", [0, 4])
def test_matches_and_probabilities_are_those_of_dt_match(
    data: Path, answers: Answers, lens: Lens, options: Mapping[str, Any], frame: int
) -> None:
    x, y = POINT[1:]
    expected = dt.match(
        store(data, lens.store),
        [(x, y)],
        clip=lens.clip,
        step=lens.step,
        layer=lens.layer,
        frame=frame,
        **options,
    )
    header, maps = answers.match(MatchQuestion(lens, (frame, x, y), cycle=True, top_k=3))
    frames = header["frames"]
    assert frames == [shown for shown in expected["frame"].values.tolist() if shown != frame]
    found = {name: [match[name] for match in header["matches"]] for name in ("xy", "probability", "margin", "cycle")}
    at = expected.dataset.sel(frame=frames, point=0)
    np.testing.assert_allclose(found["xy"], at["xy_px"].values, atol=1e-4)
    np.testing.assert_allclose(found["probability"], at["probability"].values, rtol=1e-5)
    np.testing.assert_allclose(found["margin"], at["margin"].values, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["cycle"], at["cycle_error_px"].values, atol=1e-3)
    if lens.convention == "corrected":
        np.testing.assert_allclose(maps, expected.probabilities().sel(frame=frames).values, rtol=1e-5)
    for match, probabilities in zip(header["matches"], maps, strict=True):
        best = np.sort(probabilities.ravel())[::-1][:3]
        np.testing.assert_allclose([top["probability"] for top in match["top"]], best, rtol=1e-6)


def test_forward_and_back_are_the_two_halves_of_both(answers: Answers) -> None:
    maps = {
        direction: answers.match(MatchQuestion(Lens(toy.ANALYSIS, "rolling", 17, 5, direction=direction), POINT))[1]
        for direction in ("both", "forward", "back")
    }
    np.testing.assert_allclose((maps["forward"] + maps["back"]) / 2, maps["both"], atol=1e-6)
    np.testing.assert_allclose(maps["forward"].sum(axis=(1, 2)), 1, rtol=1e-5)
    assert np.abs(maps["forward"] - maps["back"]).max() > 0.01


def test_a_head_of_weight_zero_is_left_out_and_equal_weights_are_none(answers: Answers) -> None:
    def maps(**options: Any) -> np.ndarray:
        return answers.match(MatchQuestion(Lens(toy.ANALYSIS, "rolling", 17, 5, **options), POINT))[1]

    np.testing.assert_allclose(maps(heads=(0, 2), weights=(1.0, 0.0)), maps(heads=(0,)), rtol=1e-5)
    np.testing.assert_allclose(maps(heads=(0, 2), weights=(0.3, 0.3)), maps(heads=(0, 2)), rtol=1e-5)


@pytest.mark.parametrize(("axis", "labels"), [("head", toy.HEADS), ("layer", toy.LAYERS), ("step", toy.STEPS)])
def test_small_multiples_show_what_each_lens_shows_alone(answers: Answers, axis: str, labels: tuple[int, ...]) -> None:
    header, maps = answers.maps(MapsQuestion(LENS, POINT, target=4, axis=axis))  # type: ignore[arg-type]
    assert [cell["label"] for cell in header["cells"]] == list(labels)
    for label, shown in zip(labels, maps, strict=True):
        alone = {"head": {"heads": (label,)}, "layer": {"layer": label}, "step": {"step": label}}[axis]
        lens = Lens(**{**{"store": toy.ANALYSIS, "clip": "rolling", "step": 17, "layer": 5}, **alone})
        np.testing.assert_array_equal(shown, answers.match(MatchQuestion(lens, POINT))[1][1])


@pytest.mark.parametrize("measure", ["error", "cycle", "margin", "entropy", "probability"])
def test_every_cell_of_a_map_says_what_its_lens_says(data: Path, answers: Answers, measure: str) -> None:
    cells = list(answers.cells(CellsQuestion(LENS, POINT, measure=measure)))  # type: ignore[arg-type]
    assert {(cell["step"], cell["layer"]) for cell in cells} == {(s, la) for s in toy.STEPS for la in toy.LAYERS}
    assert cells[0]["step"] == LENS.step
    (truth,) = true_tracks(answers.catalog, "rolling", [POINT])
    for cell in cells:
        lens = Lens(toy.ANALYSIS, "rolling", cell["step"], cell["layer"])
        for match in answers.match(MatchQuestion(lens, POINT, cycle=True))[0]["matches"]:
            frame = match["frame"]
            if measure == "error":
                assert truth is not None
                apart = np.hypot(*(np.asarray(match["xy"]) - truth.points_xy_px[frame]))
                wanted = apart if truth.visible[frame] else np.nan
            else:
                wanted = match[measure]
            np.testing.assert_allclose(cell["values"][str(frame)], wanted, rtol=1e-6)


def test_a_head_by_layer_map_holds_every_head_alone(answers: Answers) -> None:
    cells = list(answers.cells(CellsQuestion(LENS, POINT, axes="head_layer")))
    assert {(cell["head"], cell["layer"]) for cell in cells} == {(h, la) for h in toy.HEADS for la in toy.LAYERS}
    one = next(cell for cell in cells if (cell["head"], cell["layer"]) == (3, 7))
    lens = Lens(toy.ANALYSIS, "rolling", 17, 7, heads=(3,))
    alone = answers.match(MatchQuestion(lens, POINT))[0]["matches"]
    assert one["values"] == {str(match["frame"]): match["margin"] for match in alone}


def test_attention_is_shared_by_frames_and_text_and_masked_words_get_none(answers: Answers) -> None:
    found = answers.attention(AttentionQuestion(LENS, POINT))
    assert found["own"] + found["others"] + found["text"] == pytest.approx(1, abs=1e-5)
    assert sum(each["mass"] for each in found["frames"]) == pytest.approx(found["own"] + found["others"])
    assert len(found["words"]) == sum(toy.TEXT_MASK)
    assert sum(word["mass"] for word in found["words"]) == pytest.approx(found["text"], rel=1e-4)


def test_words_have_the_names_that_the_store_says_and_their_maps_are_those_of_the_library(
    answers: Answers, data: Path
) -> None:
    found = answers.attention(AttentionQuestion(LENS, POINT))
    assert [word["word"] for word in found["words"]] == ["a", "circle", "moves", "(special)"]
    header, maps = answers.word(WordQuestion(LENS, "circle"))
    store = open_store(data / "descriptors" / "toy" / "analysis")
    wanted = word_maps(store, LENS.clip, "circle", steps=LENS.step, layers=LENS.layer)
    np.testing.assert_array_equal(maps, wanted.values)
    assert (header["frames"], header["pieces"]) == (wanted.frame.values.tolist(), ["circle"])
    with pytest.raises(ValueError, match="'square' is not in the prompt, whose words are a, circle, moves"):
        answers.word(WordQuestion(LENS, "square"))


def test_entropy_is_one_of_a_uniform_row_and_zero_of_a_certain_one() -> None:
    from torch import tensor

    from difftrack.explorer._answers import _entropy

    assert _entropy(tensor([0.25] * 4)) == pytest.approx(1)
    assert _entropy(tensor([0.0, 1.0, 0.0])) == pytest.approx(0)
    assert _entropy(tensor([0.5, 0.5, 0.0, 0.0])) == pytest.approx(0.5)


def test_words_are_pieces_of_the_prompt_then_padding_and_numbers_where_there_is_no_tokenizer() -> None:
    words = text_words("cogvideox-mini", "a red circle", 9)
    assert "".join(words[:3]) == "aredcircle"
    assert words[-1] == PADDING
    assert len(words) == 9
    assert text_words("unknown", "a red circle", 2) == ["token 0", "token 1"]


# ---- live tracking


def test_live_tracks_are_those_of_dt_track_also_where_only_a_later_decision_changed(
    data: Path, tracker: LiveTracker
) -> None:
    points = ((0, 61.0, 47.5), (2, 100.0, 20.0))
    settings: list[dict[str, Any]] = [
        {},
        {"smoothing_radius": 0},
        {"motion_cost": 0.7, "motion_limit_token": 2.0},
        {"visibility": {"min_confidence": 0.8}},
        {"layers": (5,), "heads": (0, 2)},
        {"convention": "released"},
        {},
    ]
    clip = toy.clip("rolling")
    saved = store(data, toy.TRACKING)
    from difftrack.api._clips import remember_clip
    from difftrack.params import parse

    remember_clip(saved, clip)
    for options in settings:
        found = tracker.track(TrackQuestion(toy.TRACKING, "rolling", points, options))["tracks"]
        expected = dt.track(
            saved, clip="rolling", queries=np.asarray(points, np.float32), params=parse(TrackParams, options, "track")
        )
        np.testing.assert_array_equal([track["xy"] for track in found], expected.points_xy_px.swapaxes(0, 1))
        np.testing.assert_array_equal([track["visible"] for track in found], expected.visible.T)
        np.testing.assert_array_equal(
            np.asarray([track["confidence"] for track in found], np.float32), expected.confidence.T
        )


def test_scores_are_those_of_the_track_stage(data: Path, tracker: LiveTracker) -> None:
    truth = toy.tracks("rolling")
    expected = dt.track(store(data, toy.TRACKING), clip="rolling", queries=truth.query_points, cuts="ignore")
    scores = tracker.score(TrackQuestion(toy.TRACKING, "rolling", options={"cuts": "ignore"}))["scores"]
    wanted = track_scores(expected.tracks, truth)
    assert scores["delta_avg"] == wanted["average_pts_within_thresh"]
    assert scores["average_jaccard"] == wanted["average_jaccard"]
    assert scores["occlusion_accuracy"] == wanted["occlusion_accuracy"]
    assert scores["num_points"] == 3


def test_heads_by_layer_may_come_with_the_names_that_json_gives_them(tracker: LiveTracker) -> None:
    text = TrackQuestion(toy.TRACKING, "rolling", (POINT,), {"layers": (5, 7), "heads": {"5": (1,), "7": (0, 2)}})
    numbers = TrackQuestion(toy.TRACKING, "rolling", (POINT,), {"layers": (5, 7), "heads": {5: (1,), 7: (0, 2)}})
    assert tracker.track(text) == tracker.track(numbers)


def test_the_best_layer_is_that_of_the_scores_beside_the_store(data: Path, tmp_path: Path) -> None:
    """Best layers first; the tracking view holds layers 5 and 7."""
    best = TrackQuestion(toy.TRACKING, "rolling", (POINT,), {"layers": "best"})
    shutil.copytree(data, tmp_path / "data")
    for opened in (tmp_path / "data", tmp_path / "data/descriptors" / toy.TRACKING):
        tracker = LiveTracker(open_catalog(opened))
        place = replace(best, store=tracker._catalog.stores()[-1].name)
        file = tmp_path / "data/scores/toy/best_layers.json"
        file.unlink(missing_ok=True)
        with pytest.raises(
            ExplorerError, match=r"layers: best needs best_layers\.json of toy, which the stage score writes"
        ):
            tracker.track(place)
        file.parent.mkdir(parents=True, exist_ok=True)
        found = []
        for ranking in ([7, 5], [5, 7]):
            file.write_text(json.dumps({"layers": ranking}))
            found.append(tracker.track(place))
            assert found[-1] == tracker.track(replace(place, options={"layers": ranking[:1]}))
        assert found[0] != found[1]
        file.write_text('{"layers": ["?"]}')
        with pytest.raises(ExplorerError, match=r"best_layers\.json of toy cannot be used"):
            tracker.track(place)


@pytest.mark.parametrize(("said", "cores", "used"), [(None, 64, 4), (None, 2, 2), ("7", 64, 64)])
def test_a_server_takes_few_threads_unless_it_is_told_how_many(
    monkeypatch: pytest.MonkeyPatch, said: str | None, cores: int, used: int
) -> None:
    now = [cores]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: now.__setitem__(0, number))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    use_threads()
    assert now == [used]


def test_an_analysis_view_is_not_tracked(tracker: LiveTracker) -> None:
    with pytest.raises(ExplorerError, match="toy/analysis is an analysis view; tracking needs"):
        tracker.track(TrackQuestion(toy.ANALYSIS, "rolling", (POINT,)))


# ---- truth


def test_the_true_track_of_any_point_of_a_rendered_clip_is_computed(data: Path) -> None:
    from difftrack.rendering import exact_tracks

    (found,) = true_tracks(open_catalog(data), "rolling", [POINT])
    expected, visible = exact_tracks(toy.render_spec("rolling"), np.asarray([POINT], np.float32))
    assert found is not None
    assert found.source == "exact"
    np.testing.assert_allclose(found.points_xy_px, expected[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.visible, visible[:, 0])


def test_of_other_clips_the_nearest_annotated_point_stands_for_the_truth(data: Path, tmp_path: Path) -> None:
    plain = dt.Clip("rolling", toy.clip("rolling").frames, 5.0, "", "folder")
    from difftrack.datasets import write_clip

    write_clip(tmp_path / "clips", plain)
    catalog = open_catalog(data, clips=tmp_path / "clips")
    near, far, other_frame = true_tracks(catalog, "rolling", [(0, 32.0, 41.0), (0, 60.0, 100.0), (4, 30.0, 40.0)])
    assert near is not None
    np.testing.assert_array_equal(near.points_xy_px, toy.tracks("rolling").points_xy_px[:, 0])
    assert near.distance_px == pytest.approx(np.hypot(2, 1))
    assert far is None
    assert other_frame is None


def test_tracks_that_the_track_stage_wrote_are_found_by_their_query_point(data: Path) -> None:
    near, far = other_tracks(open_catalog(data), "rolling", [(0, 31.0, 40.0), (0, 170.0, 10.0)])
    assert list(near) == ["no_motion"]
    assert near["no_motion"]["xy"] == [[30.0, 40.0]] * toy.NUM_FRAMES
    assert far == {}


# ---- what there is


def test_a_data_folder_a_workspace_and_a_store_are_found(data: Path, tmp_path: Path) -> None:
    assert [entry.name for entry in open_catalog(data).stores()] == [toy.ANALYSIS, toy.TRACKING]
    (tmp_path / "params.yaml").write_text(
        f"paths: {{descriptors: {data}/descriptors, clips: {data}/clips}}\n"
        "track: {layers: [7], smoothing_radius: 1}\n"
    )
    workspace = open_catalog(tmp_path)
    assert workspace.clip_names() == sorted(toy.CLIPS)
    assert workspace.track == {"layers": [7], "smoothing_radius": 1}
    alone = open_catalog(data / "descriptors" / "toy" / "analysis")
    assert [entry.name for entry in alone.stores()] == [toy.ANALYSIS]
    assert alone.clip("rolling").num_frames == toy.NUM_FRAMES


def test_what_is_written_while_the_server_runs_is_there_when_the_page_is_loaded_again(
    data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "descriptors" / "toy" / "analysis", tmp_path / "descriptors" / "toy" / "analysis")
    catalog = open_catalog(tmp_path)
    page = Page(explorer_app(catalog))
    toy.write_group(tmp_path, "analysis", "later", toy.FRAMES, seed=5)
    toy.write_group(tmp_path, "fresh", "rolling", toy.FRAMES, seed=6)
    assert page("/api/match", {"lens": lens(clip="later"), "point": [0, 1, 1]})[0] == 404
    assert [each["name"] for each in page("/api/library")[1]["stores"]] == [toy.ANALYSIS, "toy/fresh"]
    assert page("/api/match", {"lens": lens(clip="later"), "point": [0, 1, 1]})[0] == 200


def test_a_store_behind_a_url_is_explored_without_frames(data: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(data / "descriptors" / "toy" / "analysis"), "/bucket/toy/analysis", recursive=True)
    catalog = open_catalog("memory://bucket/toy/analysis")
    lens = Lens(catalog.stores()[0].name, "rolling", 17, 5)
    assert Answers(catalog).match(MatchQuestion(lens, POINT))[0]["frames"] == [2, 4]
    with pytest.raises(ExplorerError, match="frames of clip 'rolling' are not available"):
        catalog.clip("rolling")
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_where_there_is_nothing_to_explore_one_line_says_so(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    outcome = CliRunner().invoke(command_line, ["explore", str(tmp_path / missing), "--no-browser"])
    assert outcome.exit_code == 1
    assert missing in outcome.output
    assert len(outcome.output.strip().splitlines()) == 1


# ---- the cache


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 30))
def test_a_cache_never_holds_more_than_its_budget_and_always_gives_the_right_value(
    keys: list[int], budget: int
) -> None:
    cache: BoundedCache[bytes] = BoundedCache(budget, len)
    for key in keys:
        assert cache.get(key, lambda key=key: bytes([key]) * (3 * key + 1)) == bytes([key]) * (3 * key + 1)
        assert 0 <= cache.held <= budget


def test_a_cache_forgets_what_was_used_least_recently() -> None:
    made: list[str] = []
    cache: BoundedCache[str] = BoundedCache(2, lambda _: 1)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]


def test_descriptors_that_are_kept_stay_within_the_budget_whatever_is_asked(data: Path) -> None:
    unit = 2 * 4 * 3 * 7 * 11 * 13
    small = Answers(open_catalog(data), budget=3 * unit)
    for cell in small.cells(CellsQuestion(LENS, POINT)):
        assert "values" in cell
        assert 0 < small.held_bytes <= 3 * unit


# ---- the wire


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    arrays = {
        name: np.frombuffer(
            content, about["dtype"], count=int(np.prod(about["shape"])), offset=4 + length + about["offset"]
        ).reshape(about["shape"])
        for name, about in header["arrays"].items()
    }
    return header, arrays


def test_quantised_maps_come_back_to_a_hundred_thousandth_of_their_largest_value(answers: Answers) -> None:
    maps = answers.match(MatchQuestion(LENS, POINT))[1]
    values, largest = quantised(maps)
    header, arrays = unpacked(
        pack({"largest": largest.tolist(), "name": "ä"}, {"maps": values, "b": np.arange(3, dtype=np.uint8)})
    )
    again = arrays["maps"] / 65535 * np.asarray(header["largest"])[:, None, None]
    assert np.abs(again - maps).max() <= largest.max() / 65535
    assert (4 + struct.unpack_from("<I", pack(header, {}))[0]) % 4 == 0
    np.testing.assert_array_equal(arrays["b"], [0, 1, 2])
    assert quantised(np.zeros((1, 2, 3), np.float32))[0].max() == 0


def test_what_is_no_number_is_null_in_json() -> None:
    assert finite({"a": [1.0, float("nan")], "b": (float("inf"), "x")}) == {"a": [1.0, None], "b": [None, "x"]}


# ---- the server


class Page:
    """Call an application as a browser does, without a socket."""

    def __init__(self, app: Any, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = {"host": "127.0.0.1:7860", "x-difftrack": "page", **(headers or {})}

    def __call__(
        self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        from urllib.parse import unquote

        plain, _, query = path.partition("?")
        given = {**self.headers, **(headers or {})}
        chunks = body if isinstance(body, list) else [b"" if body is None else json.dumps(body).encode()]
        messages = [
            {"type": "http.request", "body": chunk, "more_body": at + 1 < len(chunks)}
            for at, chunk in enumerate(chunks)
        ]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET" if body is None else "POST",
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
            "server": ("127.0.0.1", 7860),
            "client": ("127.0.0.1", 5),
        }
        sent: list[Any] = []

        async def ask() -> None:
            waiting = iter(messages)

            async def receive() -> Any:
                for message in waiting:
                    return message
                await asyncio.sleep(60)
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await self.app(scope, receive, send)

        asyncio.run(ask())
        start = sent[0]
        content = b"".join(message.get("body", b"") for message in sent[1:])
        found = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        kind = found.get("content-type", "")
        if kind.startswith("application/json"):
            return start["status"], json.loads(content), found
        return start["status"], content, found


@pytest.fixture(scope="module")
def page(data: Path) -> Page:
    return Page(explorer_app(open_catalog(data)))


def lens(**edit: Any) -> dict[str, Any]:
    return {"store": toy.ANALYSIS, "clip": "rolling", "step": 17, "layer": 5, **edit}


TRACKED = {"store": toy.TRACKING, "clip": "rolling", "points": [[0, 1, 1]]}


def test_the_page_gets_the_library_its_clips_frames_and_answers(page: Page, answers: Answers) -> None:
    library = page("/api/library")[1]
    assert [clip["name"] for clip in library["clips"]] == sorted(toy.CLIPS)
    assert library["stores"][0] == {"name": toy.ANALYSIS, "backbone": "toy", "clips": sorted(toy.CLIPS)}
    about = page("/api/clip?clip=rolling")[1]
    assert about["stores"][0]["frames"] == list(toy.FRAMES)
    assert about["stores"][1]["chunks"] == [list(frames) for frames in toy.CHUNKS]
    assert page("/api/frame?clip=rolling&frame=3")[2]["content-type"] == "image/jpeg"
    status, content, _ = page("/api/match", {"lens": lens(), "point": list(POINT)})
    header, arrays = unpacked(content)
    expected, maps = answers.match(MatchQuestion(LENS, POINT))
    assert status == 200
    assert header["matches"] == finite(expected["matches"])
    np.testing.assert_array_equal(arrays["maps"], quantised(maps)[0])
    lines = page("/api/cells", {"lens": lens(), "point": list(POINT)})[1].decode().splitlines()
    assert len(lines) == len(toy.STEPS) * len(toy.LAYERS)
    assert set(page("/api/options")[1]) == {"TrackSection", "MatchingParams", "VisibilityParams"}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/clip?clip=../rolling", None, 404, "there is no clip"),
        ("/api/frame?clip=..%2F..%2Fetc&frame=0", None, 404, "are not available"),
        ("/api/frame?clip=rolling&frame=99", None, 404, "has frames 0 ... 4"),
        ("/api/frame?clip=rolling&frame=-1", None, 422, "expected a whole number"),
        ("/api/thumbnail?clip=/etc/passwd", None, 404, "are not available"),
        ("/api/jobs?id=../../x", None, 404, "there is no extraction"),
        ("/static/..%2f_app.py", None, 404, ""),
        ("/static/%2e%2e", None, 404, ""),
        ("/static/_app.py", None, 404, "no such file"),
        ("/api/match", {"lens": lens(store="../toy"), "point": [0, 1, 1]}, 404, "there is no store"),
        ("/api/match", {"lens": lens(clip="../x"), "point": [0, 1, 1]}, 404, "holds no clip"),
        ("/api/match", {"lens": lens(layer=4), "point": [0, 1, 1]}, 422, "layer 4"),
        ("/api/match", {"lens": lens(heads=[9]), "point": [0, 1, 1]}, 404, "heads \\[9\\]"),
        ("/api/match", {"lens": lens(), "point": [1, 1, 1]}, 404, "no stored latent frame describes frame 1"),
        ("/api/match", {"lens": lens(), "point": [0, 1e9, 1]}, 422, "outside the clip of 176x112 px"),
        ("/api/match", {"lens": lens(), "point": [0, 1, 1], "path": "/etc"}, 422, "unknown key question.path"),
        ("/api/match", {"lens": lens(window=10**9), "point": [0, 1, 1]}, 422, "window is 1000000000"),
        ("/api/match", {"lens": lens(weights=[1.0]), "point": [0, 1, 1]}, 422, "expected one for each head"),
        ("/api/tracks", {"clip": "rolling", "points": [[0, 1, 1]] * 65}, 422, "at most 64"),
        ("/api/track", TRACKED | {"options": {"motion": 1}}, 422, "track.motion"),
        ("/api/match", [b"{" * 100], 400, "not valid JSON"),
        ("/api/match", [b" " * 600_000] * 2, 413, "too long"),
        ("/api/cells", {"lens": lens(store="none"), "point": [0, 1, 1]}, 404, "there is no store"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line_with_a_status(
    page: Page, path: str, body: Any, status: int, said: str
) -> None:
    import re

    got, content, _ = page(path, body)
    assert got == status
    text = content["error"] if isinstance(content, dict) else content.decode()
    assert re.search(said, text)
    assert "\n" not in text


def test_a_browser_may_load_nothing_from_elsewhere_and_show_the_page_in_no_frame(page: Page) -> None:
    for path in ("/", "/static/main.js", "/api/library", "/static/none"):
        headers = page(path)[2]
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_only_this_server_s_own_page_may_ask(data: Path, page: Page) -> None:
    assert page("/api/library", headers={"x-difftrack": ""})[0] == 401
    assert page("/api/library", headers={"host": "evil.example"})[0] == 421
    assert page("/", headers={"host": "evil.example:7860"})[0] == 421
    assert page("/api/library", headers={"host": "localhost:1"})[0] == 200
    with_token = Page(explorer_app(open_catalog(data), token="s3cret", local=False), {"host": "gpu-box:7860"})
    assert with_token("/api/library")[0] == 401
    assert with_token("/api/match", {"lens": lens(), "point": list(POINT)})[0] == 401
    assert with_token("/api/library", headers={"x-difftrack": "s3cret"})[0] == 200
    assert with_token("/")[0] == 200


def test_a_damaged_unit_is_named_and_the_rest_stays_usable(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    toy.damage_unit(tmp_path, "rolling", layer=5)
    page = Page(explorer_app(open_catalog(tmp_path)))
    status, content, _ = page("/api/match", {"lens": lens(), "point": list(POINT)})
    assert status == 422
    assert "rolling/key" in content["error"]
    assert page("/api/match", {"lens": lens(layer=7), "point": list(POINT)})[0] == 200
    assert page("/api/match", {"lens": lens(clip="sliding"), "point": list(POINT)})[0] == 200
    cells = [json.loads(line) for line in page("/api/cells", {"lens": lens(), "point": list(POINT)})[1].splitlines()]
    assert [(cell["step"], cell["layer"]) for cell in cells if "error" in cell] == [(17, 5)]
    header, _ = unpacked(page("/api/maps", {"lens": lens(), "point": list(POINT), "target": 2, "axis": "layer"})[1])
    assert [cell["label"] for cell in header["cells"] if "error" in cell] == [5]


def test_a_damaged_group_and_a_damaged_store_are_shown_with_their_reason(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    (tmp_path / "descriptors" / "toy" / "analysis" / "rolling" / "zarr.json").write_text("{}")
    (tmp_path / "descriptors" / "toy" / "broken").mkdir()
    page = Page(explorer_app(open_catalog(tmp_path)))
    assert [problem["name"] for problem in page("/api/library")[1]["problems"]] == ["toy/broken"]
    stores = page("/api/clip?clip=rolling")[1]["stores"]
    by_name = {each["name"]: each for each in stores}
    assert toy.TRACKING in by_name
    assert by_name[toy.TRACKING]["usable"]
    if toy.ANALYSIS in by_name:
        assert not by_name[toy.ANALYSIS]["usable"]
        assert "rolling" in by_name[toy.ANALYSIS]["problems"][0]["error"]


def test_uploads_are_videos_of_bounded_size(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page("/api/videos?name=x.txt", [b"abc"])[0] == 422
    assert page("/api/videos?name=x.mp4", [b""])[0] == 422
    assert MOST_UPLOAD_BYTES < 1 << 30
    monkeypatch.setattr("difftrack.explorer._app.MOST_UPLOAD_BYTES", 1000)
    assert page("/api/videos?name=x.mp4", [b"a" * 600] * 2)[0] == 413


def test_an_upload_that_is_no_video_fails_with_the_reason_and_leaves_nothing(data: Path) -> None:
    import time

    page = Page(explorer_app(open_catalog(data)))
    status, job, _ = page("/api/videos?name=..%2F..%2Fevil%3Cb%3E.mp4", [b"no video at all"])
    assert status == 200
    assert job["clip"] == "evil_b_"
    deadline = time.monotonic() + 30
    while (job := page(f"/api/jobs?id={job['id']}")[1])["stage"] != "failed":
        assert time.monotonic() < deadline
    assert "upload-" in job["error"]
    assert page("/api/library")[1]["jobs"][0]["stage"] == "failed"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.2", "gpu-box")),
    ],
)
def test_an_address_is_local_where_no_other_machine_reaches_it(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_any_other_address_puts_a_random_token_into_the_link(data: Path) -> None:
    links = []
    for _ in range(2):
        explorer = make_explorer(data, host="0.0.0.0")
        explorer._listener.close()
        links.append(explorer.url)
    tokens = [link.partition("#token=")[2] for link in links]
    assert min(map(len, tokens)) >= 32
    assert tokens[0] != tokens[1]
    here = make_explorer(data)
    here._listener.close()
    assert "#" not in here.url
    assert here.url.startswith("http://127.0.0.1:")


def test_a_taken_port_is_one_line(data: Path) -> None:
    first = make_explorer(data)
    port = first._listener.getsockname()[1]
    with pytest.raises(ExplorerError, match=f"127.0.0.1:{port} cannot be listened on"):
        make_explorer(data, port=port)
    first._listener.close()


def test_a_notebook_shows_the_page_of_a_server_that_runs_beside_it(data: Path) -> None:
    import urllib.request

    explorer = dt.explore(store(data, toy.ANALYSIS), clips=data / "clips")
    try:
        assert isinstance(explorer, Explorer)
        assert f'src="{explorer.url}"' in explorer._repr_html_()
        request = urllib.request.Request(f"{explorer.url}api/library", headers={"x-difftrack": "page"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert "http://localhost:*" in response.headers["content-security-policy"]
            assert len(json.load(response)["clips"]) == len(toy.CLIPS)
    finally:
        explorer.close()
