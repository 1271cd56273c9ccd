"""The explorer's page in a real Chromium, against the real server."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
import tiny_data_folder as toy
from PIL import Image

import difftrack as dt
from difftrack.explorer._explore import Explorer, make_explorer
from difftrack.media import write_video
from difftrack.tracking import TrackParams

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")

CHROMIUM = os.environ.get("DIFFTRACK_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here, so that the page is not tested: install chromium"),
]

INFERNO_END = (252, 255, 164)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_data(tmp_path_factory.mktemp("data"), prompt="a <b>circle</b> moves & turns")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Explorer]:
    explorer = make_explorer(data)
    explorer.start()
    yield explorer
    explorer.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class View:
    """Open one page, and record its errors."""

    def __init__(self, context: Any, url: str) -> None:
        self.url = url
        self.page = context.new_page()
        self.page.set_default_timeout(40_000)
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda asked: self._note(asked.url))

    def _hear(self, said: Any) -> None:
        if said.type == "error":
            self.problems.append(f"{said.text} ({said.location['url']})")

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "data:")):
            self.elsewhere.append(url)

    def open(self, **state: str) -> "View":
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}#{urlencode(state)}")
        return self

    def look(self, point: str = "0,61,47.5", *, step: int = 17, layer: int = 5, **state: str) -> "View":
        """Open a clip with a point, and wait for the matches."""
        lens = json.dumps({"s": toy.ANALYSIS, "t": step, "l": layer})
        self.open(**{"clip": "rolling", "p": point, "v0": lens, **state})
        self.page.wait_for_selector(".tile .facts:not(:empty)")
        return self

    @property
    def painted(self) -> int:
        return int(self.page.evaluate("Number(document.documentElement.dataset.painted || 0)"))

    @contextlib.contextmanager
    def repainted(self) -> Iterator[None]:
        """Wait for a repaint that the code inside the context causes."""
        self.settle()
        before = self.painted
        yield
        self.page.wait_for_selector(f'html[data-painted]:not([data-painted="{before}"])', state="attached")
        self.settle()

    def settle(self) -> None:
        """Wait until no request is under way."""
        for _ in range(2):
            self.page.wait_for_selector('html[data-busy="0"]', state="attached")
            self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    @property
    def state(self) -> dict[str, str]:
        found = parse_qs(self.page.evaluate("location.hash").removeprefix("#"))
        return {name: values[0] for name, values in found.items()}

    @property
    def points(self) -> list[tuple[float, ...]]:
        return [tuple(map(float, part.split(","))) for part in self.state["p"].split(";")]

    def matches(self, pane: int = 0) -> dict[int, tuple[float, float, float]]:
        """Frame -> x, y and probability, read from the tiles of a view."""
        pane_tiles = self.page.locator(".pane").nth(pane).locator(".tile")
        said = pane_tiles.locator(".offscreen").all_text_contents()
        found = [re.match(r"Frame (\d+): match at x ([\d.]+), y ([\d.]+), probability ([\d.]+)", text) for text in said]
        return {int(m[1]): (float(m[2]), float(m[3]), float(m[4])) for m in found if m}

    def click(self, x: float, y: float, **options: Any) -> None:
        """Click into the source frame at pixels of the clip."""
        box = self.page.locator("canvas.source").bounding_box()
        height, width = toy.CLIP_SIZE
        place = {"x": x / width * box["width"], "y": y / height * box["height"]}
        self.page.locator("canvas.source").click(position=place, **options)


@pytest.fixture
def view(browser: Any, server: Explorer) -> Iterator[View]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    found = View(context, server.url)
    yield found
    context.close()
    assert found.problems == []
    assert found.elsewhere == []


def expected(data: Path, point: tuple[float, ...], **options: Any) -> dict[int, tuple[float, float, float]]:
    """What dt.match returns, rounded as the tiles round it."""
    frame, x, y = point
    chosen = {"clip": "rolling", "step": 17, "layer": 5, **options}
    store = dt.open_store(data / "descriptors" / toy.ANALYSIS)
    found = dt.match(store, [(x, y)], frame=int(frame), **chosen).dataset.isel(point=0)
    return {
        int(shown): (
            round(float(found["xy_px"].sel(frame=shown)[0]), 1),
            round(float(found["xy_px"].sel(frame=shown)[1]), 1),
            round(float(found["probability"].sel(frame=shown)), 3),
        )
        for shown in found["frame"].values
        if shown != frame
    }


def assert_same(shown: dict[int, tuple[float, ...]], wanted: dict[int, tuple[float, ...]]) -> None:
    assert shown.keys() == wanted.keys()
    for frame, numbers in wanted.items():
        assert shown[frame] == pytest.approx(numbers, abs=0.0011)


def test_the_gallery_shows_clips_and_finds_them_by_prompt_and_name(view: View) -> None:
    view.open()
    view.page.wait_for_selector(".card")
    assert view.page.locator(".card:visible").count() == len(toy.CLIPS)
    view.page.get_by_label("Search clips").fill("SLID toy/tracking")
    assert view.page.locator(".card:visible .card-name").all_text_contents() == ["sliding"]
    assert view.page.locator(".card:visible .card-prompt").text_content() == "a <b>circle</b> moves & turns"
    view.page.locator(".card:visible").click()
    view.page.wait_for_selector("canvas.source")
    assert view.state["clip"] == "sliding"


def test_a_click_paints_the_matches_of_dt_match(view: View, data: Path) -> None:
    view.open(clip="rolling", v0=json.dumps({"s": toy.ANALYSIS, "t": 17, "l": 5}))
    view.page.wait_for_selector(".tile")
    with view.repainted():
        view.click(61, 47)
    ((frame, x, y),) = view.points
    assert (frame, x, y) == (0, pytest.approx(61, abs=0.6), pytest.approx(47, abs=0.6))
    assert_same(view.matches(), expected(data, view.points[0]))


def test_the_heat_map_is_that_of_dt_match_to_a_pixel(view: View, data: Path) -> None:
    view.look(o=json.dumps({"opacity": 1, "truth": False}))
    view.settle()
    store = dt.open_store(data / "descriptors" / toy.ANALYSIS)
    maps = dt.match(store, [(61, 47.5)], clip="rolling", step=17, layer=5).probabilities()
    rows, cols = maps.sizes["row"], maps.sizes["col"]
    colors = np.asarray(view.page.evaluate("import('./static/colors.js').then((own) => [...own.table('inferno')])"))
    colors = colors.reshape(256, 3)
    for at, frame in enumerate(maps["frame"].values.tolist()):
        drawn, plain = view.page.evaluate(
            """async ([at, frame, rows, cols]) => {
              const canvas = document.querySelectorAll('.tile canvas')[at];
              const read = (context, size) => Array.from({ length: rows * cols }, (_, index) => [
                ...context.getImageData(Math.floor((index % cols + 0.75) / cols * size.width),
                                        Math.floor((Math.floor(index / cols) + 0.75) / rows * size.height), 1, 1).data,
              ]);
              const asked = { headers: { 'x-difftrack': 'page' } };
              const answer = await fetch(`api/frame?clip=rolling&frame=${frame}`, asked);
              const other = document.createElement('canvas');
              other.width = canvas.width; other.height = canvas.height;
              const context = other.getContext('2d');
              context.imageSmoothingEnabled = false;
              context.drawImage(await createImageBitmap(await answer.blob()), 0, 0, other.width, other.height);
              return [read(canvas.getContext('2d'), canvas), read(context, other)];
            }""",
            [at, frame, rows, cols],
        )
        share = (maps.sel(frame=frame).values / maps.sel(frame=frame).values.max()).ravel()
        alpha = np.sqrt(share)[:, None]
        blend = alpha * colors[np.rint(255 * share).astype(int)] + (1 - alpha) * np.asarray(plain)[:, :3] / 2
        apart = np.abs(np.asarray(drawn)[:, :3] - blend).max(axis=1)
        assert np.count_nonzero(apart > 4) <= 6, apart  # tokens under a mark
        assert np.median(apart) <= 2
        best = np.asarray(drawn)[share.argmax(), :3]
        assert np.abs(best - INFERNO_END).max() <= 4 or apart[share.argmax()] > 4


def test_layer_step_head_kind_direction_and_position_switch_the_view(view: View, data: Path) -> None:
    view.look()
    point, chosen = view.points[0], dict[str, Any]()
    page = view.page
    for change, options in (
        (lambda: page.get_by_label("Layer", exact=True).press("ArrowRight"), {"layer": 7}),
        (lambda: page.get_by_label("Step", exact=True).press("ArrowLeft"), {"step": 3}),
        (lambda: page.get_by_role("button", name="Head 2").click(), {"heads": (2,)}),
        (lambda: page.get_by_role("button", name="Head 0").click(), {"heads": (0, 2)}),
        (lambda: page.get_by_label("Kind").select_option("feature"), {"kind": "feature"}),
    ):
        with view.repainted():
            change()
        chosen |= options  # earlier changes stay
        assert_same(view.matches(), expected(data, point, **chosen))
    params = dt.TrackParams().matching.preset(
        "corrected",
        {"directions": "forward", "window_radius": 1, "temperature": 2.0, "feature_temperature": 2.0},
    )
    for label, value in (("Direction", "forward"), ("Position", "1")):
        with view.repainted():
            page.get_by_label(label).select_option(value)
    with view.repainted():
        page.get_by_label("Temperature").fill("2")
        page.get_by_label("Temperature").press("Enter")
    assert_same(view.matches(), expected(data, point, params=params, **chosen))


def test_a_point_is_dragged_and_its_matches_follow(view: View, data: Path) -> None:
    view.look()
    box = view.page.locator("canvas.source").bounding_box()
    height, width = toy.CLIP_SIZE

    def place(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    view.page.mouse.move(*place(61, 47.5))
    view.page.mouse.down()
    with view.repainted():
        view.page.mouse.move(*place(80, 60), steps=4)
        view.page.mouse.move(*place(120, 30), steps=6)
        view.page.mouse.up()
    ((_, x, y),) = view.points
    assert (x, y) == (pytest.approx(120, abs=0.6), pytest.approx(30, abs=0.6))
    assert_same(view.matches(), expected(data, view.points[0]))
    view.page.keyboard.press("u")
    view.settle()
    assert view.points == [(0, 61, 47.5)]


def test_a_cell_of_the_map_and_a_small_multiple_are_buttons(view: View, data: Path) -> None:
    view.look()
    view.page.wait_for_selector('.panel[data-done="true"]')
    with view.repainted():
        view.page.locator('.cell[data-at="2,3"]').click()
    assert_same(view.matches(), expected(data, view.points[0], layer=2, step=3))
    with view.repainted():
        view.page.get_by_role("button", name="All heads").click()
    assert view.page.locator(".tile").count() == len(toy.HEADS)
    with view.repainted():
        view.page.get_by_role("button", name="Look at head 3").click()
    assert_same(view.matches(), expected(data, view.points[0], layer=2, step=3, heads=(3,)))
    view.page.get_by_role("tab", name="Head \u00d7 layer").click()
    view.page.wait_for_selector('.panel[data-done="true"] .cell[data-at="1,7"]:not(:empty)')
    with view.repainted():
        view.page.locator('.cell[data-at="1,7"]').click()
    assert_same(view.matches(), expected(data, view.points[0], layer=7, step=3, heads=(1,)))


def test_attention_is_shown_by_frame_and_by_word(view: View) -> None:
    view.look(tab="attention")
    view.page.wait_for_selector(".bars")
    text = view.page.locator(".panel").inner_text()
    assert "own frame" in text
    assert "frame 4" in text
    assert "Words by mass" in text
    assert view.page.locator(".bars").nth(2).locator("tr").count() == sum(toy.TEXT_MASK)


def test_a_word_shows_its_map_over_the_frames(view: View) -> None:
    view.look(tab="attention")
    view.page.get_by_role("button", name="circle", exact=True).click()
    view.page.wait_for_selector(".word-maps canvas")
    assert view.page.locator(".word-maps canvas").count() == view.page.locator(".bars").nth(1).locator("tr").count()
    assert "\u201ccircle\u201d over the frames" in view.page.locator(".word-maps").inner_text()
    assert view.page.get_by_role("button", name="circle", exact=True).get_attribute("aria-pressed") == "true"
    assert not view.page.get_by_role("button", name="(special)").count()
    view.page.locator("input.phrase").fill("a circle")
    view.page.locator("input.phrase").press("Enter")
    view.page.get_by_role("heading", name="\u201ca circle\u201d over the frames").wait_for()


def test_live_tracks_are_those_of_dt_track_and_the_setting_can_be_copied(view: View, data: Path) -> None:
    context = view.page.context
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.look("0,61,47.5;0,100,20", tab="tracks")
    view.page.wait_for_selector(".metrics strong")
    slider = view.page.get_by_label("smoothing_radius", exact=True)
    slider.press("Home")
    slider.press("ArrowRight")
    view.page.locator("summary", has_text="Visibility").click()
    view.page.get_by_label("visibility.min_confidence", exact=True).press("End")
    view.settle()
    view.page.get_by_role("button", name="Copy as params.yaml").click()
    view.page.wait_for_selector("#notice:visible")
    copied = view.page.evaluate("navigator.clipboard.readText()")
    assert copied == "track:\n  smoothing_radius: 1\n  visibility:\n    min_confidence: 1\n"
    with (
        view.page.expect_download() as first,
        view.page.expect_download(lambda each: "tracks" in each.suggested_filename) as download,
    ):
        view.page.get_by_role("button", name="CSV").click()
    assert first.value.suggested_filename == "rolling-matches.csv"
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    params = TrackParams(smoothing_radius=1, visibility=dt.TrackParams().visibility.__class__(min_confidence=1.0))
    store = dt.open_store(data / "descriptors" / toy.TRACKING)
    from difftrack.api._clips import remember_clip

    remember_clip(store, toy.clip("rolling"))
    wanted = dt.track(store, clip="rolling", points=[(61, 47.5), (100, 20)], params=params)
    found = np.asarray([[float(row["x_px"]), float(row["y_px"])] for row in rows]).reshape(2, toy.NUM_FRAMES, 2)
    np.testing.assert_allclose(found, wanted.points_xy_px.swapaxes(0, 1), atol=1e-4)
    seen = np.asarray([row["visible"] == "true" for row in rows]).reshape(2, toy.NUM_FRAMES)
    np.testing.assert_array_equal(seen, wanted.visible.T)


def test_a_link_reproduces_the_view(view: View, browser: Any, server: Explorer) -> None:
    view.look(
        "0,61,47.5;2,100.5,20", a="1", layer=2, tab="table", o=json.dumps({"map": "magma", "log": True, "top": 3})
    )
    with view.repainted():
        view.page.get_by_role("button", name="Compare").click()
    with view.repainted():
        view.page.locator(".pane").nth(1).get_by_label("Kind").select_option("key_key")
    view.settle()
    link, state = view.page.url, view.state
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    other = View(context, server.url)
    other.page.goto(link)
    other.page.wait_for_selector(".pane:nth-child(2) .tile .facts:not(:empty)")
    other.settle()
    assert other.state == state
    for pane in (0, 1):
        assert other.matches(pane) == view.matches(pane)
    assert view.matches(0) != view.matches(1)
    assert other.page.locator(".numbers").first.inner_text() == view.page.locator(".numbers").first.inner_text()
    assert other.problems == []
    context.close()


def test_two_views_share_their_points(view: View, data: Path) -> None:
    view.look()
    with view.repainted():
        view.page.get_by_role("button", name="Compare").click()
    view.page.locator(".pane").nth(1).get_by_label("Layer", exact=True).press("Home")
    with view.repainted():
        view.click(100, 80)
    point = view.points[0]
    assert_same(view.matches(0), expected(data, point))
    assert_same(view.matches(1), expected(data, point, step=3, layer=2))
    view.page.get_by_role("button", name="Close view A").click()
    view.settle()
    assert_same(view.matches(0), expected(data, point, step=3, layer=2))


def test_pictures_and_numbers_are_saved(view: View, data: Path) -> None:
    view.look()
    view.settle()
    with view.page.expect_download() as picture:
        view.page.get_by_role("button", name="PNG").click()
    image = Image.open(picture.value.path())
    assert image.format == "PNG"
    assert image.width > 700
    assert len(np.unique(np.asarray(image.convert("RGB"))[::8, ::8].reshape(-1, 3), axis=0)) > 200
    with view.page.expect_download() as numbers:
        view.page.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(numbers.value.path()).read_text())))
    found = {int(row["frame"]): tuple(float(row[name]) for name in ("x_px", "y_px", "probability")) for row in rows}
    assert_same(found, expected(data, view.points[0]))
    store = dt.open_store(data / "descriptors" / toy.ANALYSIS)
    cycles = dt.match(store, [(61, 47.5)], clip="rolling", step=17, layer=5)["cycle_error_px"].isel(point=0)
    for row in rows:
        assert float(row["cycle_error_px"]) == pytest.approx(float(cycles.sel(frame=int(row["frame"]))), abs=1e-3)


def test_all_works_from_the_keyboard(view: View, data: Path) -> None:
    view.open(clip="rolling", v0=json.dumps({"s": toy.ANALYSIS, "t": 17, "l": 5}))
    view.page.wait_for_selector(".tile")
    height, width = toy.CLIP_SIZE
    press = view.page.keyboard.press
    with view.repainted():
        press("ArrowDown")
    assert view.points == [(0, width / 2, height / 2)]
    with view.repainted():
        press("Shift+ArrowRight")
        press("ArrowUp")
    assert view.points == [(0, width / 2 + 10, height / 2 - 1)]
    with view.repainted():
        press("]")
    assert_same(view.matches(), expected(data, view.points[0], layer=7))
    with view.repainted():
        press(";")
    assert_same(view.matches(), expected(data, view.points[0], layer=7, step=3))
    with view.repainted():
        press("3")
    assert view.page.locator(".tile").count() == len(toy.LAYERS)
    press("u")
    view.settle()
    assert "view" not in view.state
    press("?")
    assert view.page.locator("dialog").is_visible()
    press("Escape")
    assert not view.page.locator("dialog").is_visible()
    press("Delete")
    view.settle()
    assert "p" not in view.state
    view.page.get_by_role("tab", name="Layer \u00d7 step").focus()
    press("ArrowRight")
    assert view.state["tab"] == "heads"


def test_points_may_start_in_any_frame_and_one_that_is_not_stored_is_named(view: View, data: Path) -> None:
    view.look()
    view.page.get_by_label("Frame", exact=True).press("ArrowRight")
    view.click(30, 30, modifiers=["Shift"])
    view.page.wait_for_selector(".pane .problem:visible")
    assert "no stored latent frame describes frame 1" in view.page.locator(".pane .problem").inner_text()
    view.settle()  # the page may ask again when the other points move; each refusal is on Chromium's console
    assert view.problems
    assert all("404" in said and "/api/" in said for said in view.problems)
    view.problems.clear()
    view.page.keyboard.press("Delete")
    view.page.get_by_label("Frame", exact=True).press("ArrowRight")
    with view.repainted():
        view.click(40, 50, modifiers=["Shift"])
    assert view.points[1][0] == 2
    assert_same(view.matches(), expected(data, view.points[1]))


def test_light_and_dark_follow_the_system_and_the_button(browser: Any, server: Explorer) -> None:
    context = browser.new_context(color_scheme="dark")
    view = View(context, server.url).open()
    view.page.wait_for_selector(".card")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert view.page.evaluate(ground) == "rgb(17, 20, 24)"
    view.page.get_by_role("button", name="Light colours").click()
    assert view.page.evaluate(ground) == "rgb(255, 255, 255)"
    view.open()
    view.page.wait_for_selector(".card")
    assert view.page.evaluate(ground) == "rgb(255, 255, 255)"
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_page(browser: Any, server: Explorer, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    view = View(context, server.url)
    for state in ({}, *({"tab": tab} for tab in ("map", "heads", "attention", "tracks", "table"))):
        (view.look if state else view.open)(**state)
        view.page.wait_for_selector(".card, .tile .facts:not(:empty)")
        view.settle()
        assert view.page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_hostile_names_and_prompts_stay_text(browser: Any, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    evil = "<img src=x onerror=window.hacked=1>"
    about = json.loads((tmp_path / "clips" / "rolling" / "clip.json").read_text())
    about["prompt"] = f"{evil}</script><script>window.hacked=1</script>"
    (tmp_path / "clips" / "rolling" / "clip.json").write_text(json.dumps(about))
    named = tmp_path / "descriptors" / f"{evil[:12]} onerror=window.hacked=1>"
    (tmp_path / "descriptors" / "toy").rename(named)
    explorer = make_explorer(tmp_path)
    explorer.start()
    context = browser.new_context()
    view = View(context, explorer.url).open()
    view.page.wait_for_selector(".card")
    assert (
        evil
        in view.page.locator(".card-prompt").first.inner_text() + view.page.locator(".card-prompt").nth(1).inner_text()
    )
    view.page.locator(".card").first.click()
    view.page.wait_for_selector(".tile")
    assert named.name in view.page.locator("select.store").inner_text()
    assert view.page.evaluate("window.hacked") is None
    assert view.page.locator("img[src=x]").count() == 0
    context.close()
    explorer.close()


def test_a_damaged_shard_is_named_on_the_page_and_the_rest_stays_usable(
    browser: Any, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    toy.damage_unit(tmp_path, "rolling", layer=5)
    explorer = make_explorer(tmp_path)
    explorer.start()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    view = View(context, explorer.url)
    view.look(layer=7)
    view.page.wait_for_selector('.panel[data-done="true"]')
    broken = view.page.locator(".cell.broken")
    assert broken.count() == 1
    assert "damaged" in broken.get_attribute("aria-label")
    broken.click()
    view.page.wait_for_selector(".pane .problem:visible")
    assert "rolling/key" in view.page.locator(".pane .problem").inner_text()
    with view.repainted():
        view.page.locator('.cell[data-at="2,17"]').click()
    assert_same(view.matches(), expected(data, view.points[0], layer=2))
    assert not view.page.locator(".pane .problem").is_visible()
    context.close()
    explorer.close()


def test_two_browsers_at_once_get_their_own_answers(view: View, browser: Any, server: Explorer, data: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    other = View(context, server.url)
    view.look()
    other.look(layer=2)
    for x, y in ((30, 30), (70, 90), (150, 20)):
        view.click(x, y)
        other.click(176 - x, 112 - y)
    view.settle()
    other.settle()
    assert_same(view.matches(), expected(data, view.points[0]))
    assert_same(other.matches(), expected(data, other.points[0], layer=2))
    assert other.problems == []
    context.close()


def test_a_server_that_comes_back_is_asked_again(browser: Any, data: Path) -> None:
    first = make_explorer(data)
    first.start()
    port = int(first.url.rstrip("/").rpartition(":")[2])
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    view = View(context, first.url)
    view.look()
    view.settle()
    first.close()
    view.page.get_by_label("Layer", exact=True).press("ArrowRight")
    view.page.wait_for_selector("#notice:visible")
    assert "does not answer" in view.page.locator("#notice").inner_text()
    second = make_explorer(data, port=port)
    second.start()
    view.page.wait_for_selector("#notice:has-text('is back')")
    view.page.wait_for_selector(".tile .facts:not(:empty)")
    view.settle()
    assert_same(view.matches(), expected(data, view.points[0], layer=7))
    context.close()
    second.close()


def test_a_token_is_wanted_where_other_machines_can_reach_the_server(browser: Any, data: Path) -> None:
    explorer = make_explorer(data, host="0.0.0.0")
    explorer.start()
    plain, _, fragment = explorer.url.partition("#")
    context = browser.new_context()
    without_token = View(context, plain).open()
    without_token.page.wait_for_selector(".problem")
    assert "token" in without_token.page.locator(".problem").inner_text()
    guest = View(browser.new_context(), plain)
    guest.page.goto(f"{plain}#{fragment}")
    guest.page.wait_for_selector(".card")
    guest.page.locator(".card").first.click()
    guest.page.wait_for_selector("canvas.source")
    assert guest.state["token"] == fragment.removeprefix("token=")
    guest.page.context.close()
    context.close()
    explorer.close()


def test_a_dropped_video_is_extracted_and_shown(browser: Any, tmp_path: Path) -> None:
    from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox

    folder = save_cogvideox(tmp_path / "tiny", num_layers=2, num_attention_heads=1)  # at the published size
    frames = np.random.default_rng(3).integers(0, 255, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_video(tmp_path / "my <video>.mp4", frames, 8.0, lossless=True)
    (tmp_path / "data").mkdir()
    toy.write_group(tmp_path / "data", "analysis", "rolling", toy.FRAMES, seed=1)
    explorer = make_explorer(tmp_path / "data", backbone=f"path:{folder}", device="cpu")
    explorer.start()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    view = View(context, explorer.url).open()
    view.page.wait_for_selector(".drop")
    view.page.set_input_files("input[type=file]", tmp_path / "my <video>.mp4")
    view.page.wait_for_selector("canvas.source", timeout=120_000)
    assert view.state["clip"] == "my__video_"
    with view.repainted():
        view.page.keyboard.press("ArrowRight")
    assert len(view.matches()) >= 1
    stores = view.page.locator("select.store option").all_text_contents()
    assert any("analysis" in name for name in stores)
    assert any("tracking" in name for name in stores)
    assert view.problems == []
    context.close()
    explorer.close()


def test_the_report_opened_from_disk_follows_what_its_reader_chooses(browser: Any, tmp_path: Path) -> None:
    import tiny_results as tiny

    from difftrack.reports import ReportParams, write_report

    tiny.write_store(tmp_path / "store")
    params = ReportParams(max_videos=0)
    write_report(
        tmp_path / "report", tiny.footage(), [tiny.backbone_results(tmp_path / "store", params)], params=params
    )
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, asked, problems = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "report" / "index.html").as_uri())
    figure = page.locator("figure.maps").first
    figure.scroll_into_view_if_needed()
    page.wait_for_selector("figure.maps[data-drawn]")
    assert figure.get_attribute("data-drawn") == "0,4,49,0"
    figure.get_by_label("Layer").select_option("1")
    figure.get_by_label("Step").select_option("20")
    figure.get_by_label("Head").select_option("1")
    figure.get_by_label("Point").select_option(index=0)
    assert figure.get_attribute("data-drawn") == "0,1,20,2"
    assert "px off" in figure.locator(".said").nth(1).inner_text()
    assert "difftrack explore --clip square" in figure.inner_text()
    assert problems == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    context.close()


def test_axe_finds_no_serious_fault(browser: Any, server: Explorer, tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is missing, so that axe-core does not check the page")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4"],
        capture_output=True,
        check=False,
        timeout=120,
    )
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if done.returncode or not script.exists():
        pytest.skip("axe-core could not be fetched from npm, so that it does not check the page")
    faults = []
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True)
        view = View(context, server.url)
        pages = (
            {},
            {"tab": "map"},
            {"tab": "heads", "view": "heads"},
            {"tab": "attention"},
            {"tab": "tracks"},
            {"tab": "table"},
        )
        for state in pages:
            (view.look if state else view.open)(**state)
            view.page.wait_for_selector(".card, .tile .facts:not(:empty)")
            view.settle()
            view.page.evaluate(script.read_text() + "; 0")
            found = view.page.evaluate("axe.run().then((result) => result.violations)")
            faults += [
                (scheme, state, fault["id"], fault["nodes"][0]["html"][:200], fault["nodes"][0].get("failureSummary"))
                for fault in found
                if fault["impact"] in ("serious", "critical")
            ]
        context.close()
    assert faults == []
