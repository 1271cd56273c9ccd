import itertools
import json
import re
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from tiny_results import (
    backbone_results,
    cause_study,
    clip,
    footage,
    score_map,
    score_maps,
    scores_json,
    tracks,
    write_store,
)

from difftrack.backbones import shipped_backbone
from difftrack.backbones._folder import PipelineFolder
from difftrack.correspondence import CORRECTED
from difftrack.datasets import Clip, Tracks, write_clip, write_tracks
from difftrack.guidance import Guidance
from difftrack.guidance._measures import write_measures
from difftrack.media import read_video
from difftrack.metrics import ClipScores, scores_by_truth
from difftrack.pipeline.report import main
from difftrack.reports import (
    BackboneResults,
    OverlayParams,
    ReportClips,
    ReportParams,
    Samples,
    ScoreMaps,
    TrackedClip,
    cause_correlation,
    draw_query,
    draw_tracks,
    example_clips,
    maps_from_scores,
    query_point,
    read_cause_study,
    read_samples,
    read_tracked_clip,
    results_from_metrics,
    write_report,
)
from difftrack.reports._analysis import analysis_sections
from difftrack.reports._cause_section import causes_section
from difftrack.reports._curves import draw_accuracy_by_step
from difftrack.reports._examples import ExampleView, moving_points, trajectories
from difftrack.reports._figure_cache import Drawings, digest
from difftrack.reports._guidance import guidance_headlines, guidance_section
from difftrack.reports._heatmaps import draw_score_maps
from difftrack.reports._overlay import with_legend
from difftrack.reports._page import Gallery, Headline, Page, Section, Table, render_page
from difftrack.reports._strips import pca_colors, spread_indices, without_position
from difftrack.reports._style import inline_svg, point_colors, save_png, save_svg, spread_labels
from difftrack.reports._tracking import median_error_by_frame
from difftrack.store import StoreError, open_store
from difftrack.tracking import PredictedTracks, no_motion, write_predictions


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("descriptors")
    write_store(root)
    return root


@pytest.fixture(scope="module")
def report(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    params = ReportParams()
    write_report(folder, footage(), [backbone_results(store, params)], params=params)
    return folder


class Elements(HTMLParser):
    """Attributes of all elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


# --- the page


def test_page_refers_to_nothing_but_files_beside_it(report: Path) -> None:
    page = (report / "index.html").read_text()
    references = [value for value in Elements(page).values("src", "href", "xlink:href") if value[0] != "#"]
    assert len(references) > 10
    for reference in references:
        assert reference.startswith("data:") or (report / reference).is_file(), reference
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", page))
    assert all(address.startswith("http://www.w3.org/") for address in addresses), addresses


def test_page_has_no_id_twice(report: Path) -> None:
    ids = Elements((report / "index.html").read_text()).values("id")
    assert sorted(set(ids)) == sorted(ids)


def test_words_of_a_prompt_are_shown_and_not_obeyed(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert "a <b>square</b> moves" not in page
    assert "a <b>square</b> moves" in Elements(page).text


def test_same_results_give_the_same_report_byte_for_byte(report: Path, store: Path, tmp_path: Path) -> None:
    params = ReportParams()
    write_report(tmp_path, footage(), [backbone_results(store, params)], params=params)
    files = sorted(path.relative_to(report) for path in report.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [file for file in files if (report / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_over_another_one_is_the_report_in_an_empty_folder(report: Path, store: Path, tmp_path: Path) -> None:
    other = ReportParams(overlay=OverlayParams(trail_frames=2), layers=(1,), heads=(1,))
    for params in (other, ReportParams()):
        write_report(tmp_path, footage(), [backbone_results(store, params)], params=params)
    assert _bytes_of(tmp_path) == _bytes_of(report)


def test_only_drawings_that_would_differ_are_drawn_again(store: Path, tmp_path: Path) -> None:
    def write(params: ReportParams) -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        write_report(tmp_path, footage(), [backbone_results(store, params)], params=params)
        drawn = (path for path in tmp_path.rglob("*.*") if path.stat().st_mtime_ns != before.get(path))
        return {str(path.relative_to(tmp_path)) for path in drawn}

    pages = {"drawn.json", "headlines.json", "index.html"}
    assert len(write(ReportParams())) > 10
    assert write(ReportParams()) == pages
    assert write(ReportParams(title="Another")) == pages
    assert write(ReportParams(title="Another", overlay=OverlayParams(upscale=1))) == pages | {"videos/tiny-square.mp4"}


@pytest.mark.parametrize("name", ["videos/tiny-square.mp4", "figures/tiny-scores.svg", "drawn.json"])
def test_a_drawing_that_was_damaged_is_drawn_again(report: Path, store: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(report, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(b"cut short")
    write_report(tmp_path, footage(), [backbone_results(store, ReportParams())], params=ReportParams())
    assert _bytes_of(tmp_path) == _bytes_of(report)


def test_files_of_others_in_the_folder_of_a_report_are_left_alone(store: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/mine.mp4").write_bytes(b"mine")
    for params in (ReportParams(), ReportParams(max_videos=0)):
        write_report(tmp_path, footage(), [backbone_results(store, params)], params=params)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["mine.mp4"]


@dataclass(frozen=True)
class Shown:
    values: np.ndarray
    name: str = "a"
    read: object = field(default=None, compare=False)


def test_digests_differ_where_values_do_and_nowhere_else() -> None:
    ones = np.ones((2, 3), np.float32)
    values = [
        *(
            ones,
            ones.T,
            ones.astype(np.float64),
            ones * 2,
            [1, 1.0],
            [[1], 1.0],
            {"a": 1},
            {"b": 1},
            "1",
            1,
            None,
            True,
        ),
        *(Shown(ones), Shown(ones, "b"), partial(clip, "a"), partial(clip, name="a"), partial(tracks)),
        *(
            score_map(0.0, 1.0),
            score_map(0.0, 1.0).rename(layer="row"),
            score_map(0.0, 1.0).assign_coords(layer=[1, 5]),
        ),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(Shown(ones.copy(), read=print)) == digest(Shown(ones))
    assert digest(np.asfortranarray(ones)) == digest(ones)
    with pytest.raises(TypeError, match="cannot compare a function with an earlier one"):
        digest([clip])


def test_video_shows_truth_and_prediction_beside_each_other_at_twice_the_size(report: Path) -> None:
    video = read_video(report / "videos" / "tiny-square.mp4")
    num_frames, height, width = clip().frames.shape[:3]
    assert video.frames.shape == (num_frames, 2 * height + 22, 2 * (2 * width) + 8, 3)


def test_headlines_say_what_the_scores_say(report: Path) -> None:
    text = Elements((report / "index.html").read_text()).text
    assert "87 %" in text
    assert "+31 points" in text
    assert "60.0" in text


def test_a_video_of_ones_own_is_never_said_to_be_tracked_right(store: Path, tmp_path: Path) -> None:
    """Only the pseudo-truth of Lucas-Kanade exists: the page speaks of agreement, and leaves Lucas-Kanade out."""
    params = ReportParams(layers=(4,), steps=(49,))
    guessed = replace(tracks(), tracker="lucas_kanade")
    shown = replace(footage(), truth={"square": guessed})
    exact = backbone_results(store, params)
    mine = replace(
        exact,
        scores=replace(exact.scores, pseudo_truth="lucas_kanade"),
        examples=example_clips(open_store(str(store)), shown, params),
        tracked=[replace(clip, truth=guessed) for clip in exact.tracked],
        results=[replace(exact.results[0], pseudo_truth="lucas_kanade")],
    )
    write_report(tmp_path, shown, [mine], params=params)
    text = Elements((tmp_path / "index.html").read_text()).text
    headlines = json.loads((tmp_path / "headlines.json").read_text())
    said = " ".join([text, *(" ".join(headline.values()) for headline in headlines)])
    assert not re.search(r"accurac|of points matched by|exact|annotated|\bthe truth\b", said, re.IGNORECASE)
    assert headlines[0]["label"] == "agreement with Lucas-Kanade of layer 4"
    assert headlines[3]["label"] == "agreement of zero-shot tracks with Lucas-Kanade"
    assert "pseudo-truth by Lucas-Kanade" in text
    assert "cross: the pseudo-truth by Lucas-Kanade" in text
    figures = {name: (tmp_path / "figures" / f"tiny-{name}.svg").read_text() for name in ("error-by-frame", "scores")}
    assert "median distance to Lucas-Kanade" in figures["error-by-frame"]
    assert "Agreement with Lucas-Kanade" in figures["scores"]


def write_samples(folder: Path, num_prompts: int) -> None:
    """The output of the guide stage: the guided sample of each prompt moves, the plain one stands still."""
    for number in range(num_prompts):
        for way, step in (("plain", 0), ("guided", 2 + number)):
            frames = np.random.default_rng(number).integers(0, 255, (3, 34, 46, 3), dtype=np.uint8)
            moving = np.stack([np.roll(frames[0], step * frame, axis=1) for frame in range(3)])
            write_clip(folder / f"{number:03d}", Clip(way, moving, 5.0, f"prompt <{number}>", "generated", seed=7))
    names = {f"{number:03d}": f"prompt <{number}>" for number in range(num_prompts)}
    write_measures(folder, names, {"plain": None, "guided": Guidance(layers=(4, 1), scale=0.5)})


def guidance_page(samples: Samples | None, folder: Path, max_videos: int = 12) -> tuple[Section, list[Headline]]:
    folder.mkdir(exist_ok=True)
    with Drawings(folder) as drawings:
        section = guidance_section(samples, drawings=drawings, params=OverlayParams(), max_videos=max_videos)
    return section, guidance_headlines(samples)


def test_guidance_is_shown_side_by_side_with_what_it_measures(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", 2)
    samples = read_samples(tmp_path / "samples")
    assert samples is not None
    section, (headline,) = guidance_page(samples, tmp_path / "report")
    gallery, table = section.blocks
    assert isinstance(gallery, Gallery)
    assert [(clip.name, clip.panels) for clip in gallery.clips] == [
        ("000", ["plain", "guided"]),
        ("001", ["plain", "guided"]),
    ]
    video = read_video(tmp_path / "report" / gallery.clips[1].video).frames
    assert video.shape == (3, 2 * 34 + 22, 2 * 2 * 46 + 8, 3)
    assert isinstance(table, Table)
    assert list(table.head) == ["measure", "plain", "guided", "guided minus plain"]
    motion = samples.differences["guided"]["motion_px"]
    cells = dict(zip(table.head, next(row for row in table.rows if row[0] == "motion, px per frame"), strict=True))
    assert cells["guided minus plain"] == f"+{motion.mean:.2f} [+{motion.low:.2f}, +{motion.high:.2f}]"
    error = samples.differences["guided"]["cycle_error_px"]
    assert headline.value == f"{error.mean:+.2f} px"
    assert "2 prompts" in headline.meaning
    assert "guided by layers 1 and 4 at scale 0.5" in section.lead


def test_one_guided_prompt_is_said_to_prove_little(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", 1)
    section, (headline,) = guidance_page(read_samples(tmp_path / "samples"), tmp_path / "report", max_videos=0)
    assert "over 1 prompt;" in headline.meaning
    assert "A single prompt gives no interval" in headline.meaning
    assert [type(block).__name__ for block in section.blocks] == ["Table", "Table"]
    assert not [cell for row in section.blocks[0].rows for cell in row if "[" in cell]  # type: ignore[union-attr]


def test_samples_that_are_drawn_already_are_kept_and_others_drawn_again(tmp_path: Path) -> None:
    video = tmp_path / "report" / "videos" / "guidance-000.mp4"

    def drawn() -> int:
        guidance_page(read_samples(tmp_path / "samples"), tmp_path / "report")
        return video.stat().st_mtime_ns

    write_samples(tmp_path / "samples", 1)
    first = drawn()
    assert drawn() == first
    frames = np.zeros((3, 34, 46, 3), dtype=np.uint8)
    write_clip(tmp_path / "samples" / "000", Clip("plain", frames, 5.0, "prompt <0>", "generated", seed=7))
    assert drawn() != first


def test_without_samples_the_report_says_so(report: Path, tmp_path: Path) -> None:
    assert read_samples(tmp_path) is None
    assert "the guide stage makes them" in Elements((report / "index.html").read_text()).text
    assert len(json.loads((report / "headlines.json").read_text())) == 4
    (tmp_path / "measures.json").write_text('{"ways": {}}')
    with pytest.raises(ValueError, match=r"measures\.json cannot be used .*run the guide stage again"):
        read_samples(tmp_path)


def test_each_backbone_gets_its_own_sections(store: Path, tmp_path: Path) -> None:
    params = ReportParams(max_videos=0, clips=("square",), layers=(4,), steps=(49,))
    first = backbone_results(store, params)
    scores = ScoreMaps(**{name: getattr(first.scores, name) for name in ScoreMaps.__slots__} | {"backbone": "other"})
    second = BackboneResults("other", scores, [], [], [], {"backbone": "other"})
    write_report(tmp_path, footage(), [first, second], params=params)
    anchors = Elements((tmp_path / "index.html").read_text()).values("id")
    assert {"backbones", "tiny-where", "tiny-results", "other-where"} <= set(anchors)
    assert "other-results" not in anchors


def test_heads_named_in_the_params_are_drawn_one_by_one(store: Path, tmp_path: Path) -> None:
    params = ReportParams(heads=(0, 1), layers=(4,), steps=(49,), positions=((12.0, 12.0),), max_videos=0)
    write_report(tmp_path, footage(), [backbone_results(store, params)], params=params)
    strips = {path.name for path in (tmp_path / "strips").iterdir()}
    assert {f"tiny-square-point0-layer4-step49-head{head}.png" for head in (0, 1)} <= strips


def test_position_outside_the_clip_is_named(store: Path) -> None:
    with pytest.raises(ValueError, match=r"\(99, 12\) lies outside clip square of 56x40"):
        backbone_results(store, ReportParams(positions=((99.0, 12.0),)))


def test_unknown_clip_is_named_with_those_there_are(store: Path) -> None:
    with pytest.raises(ValueError, match="no clip 'circle'; known: square"):
        backbone_results(store, ReportParams(clips=("circle",)))


def test_empty_lists_in_the_params_are_refused() -> None:
    with pytest.raises(ValueError, match="steps is empty"):
        ReportParams(steps=())


# --- figures


def test_figures_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first.png", "second.png"):
        save_png(draw_score_maps({"Matching accuracy": score_map(0.0, 1.0)}), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def _inline(figure: Figure, folder: Path) -> str:
    save_svg(figure, folder / "figure.svg")
    return inline_svg((folder / "figure.svg").read_text(encoding="utf-8"), name="one")


def test_ink_of_inline_figures_follows_the_page(tmp_path: Path) -> None:
    svg = _inline(draw_accuracy_by_step(score_map(0.0, 1.0), highlight=[4]), tmp_path)
    assert svg.startswith("<svg")
    assert "var(--ink)" in svg or "var(--muted)" in svg
    assert "layer 4" in svg


def test_score_maps_survive_empty_cells(tmp_path: Path) -> None:
    values = score_map(0.0, 1.0)
    values[0, 1] = np.nan
    assert "nan" not in _inline(draw_score_maps({"Matching accuracy": values}), tmp_path)


def test_layers_are_ranked_by_their_best_step() -> None:
    maps = score_maps()
    assert maps.layers_by_accuracy() == [4, 1]
    assert maps.best_cell() == (4, 49)


def test_sentences_about_layers_agree_with_their_number(tmp_path: Path) -> None:
    accuracy = score_map(0.02, 0.87)
    with Drawings(tmp_path) as drawings:
        (one, *_), (two, *_) = (
            analysis_sections(replace(score_maps(), matching_accuracy=values), drawings=drawings)
            for values in (accuracy, accuracy * 0 + 0.5)
        )
    assert one.lead.startswith("Of 2 layers, one comes within a tenth of the best matching accuracy: layer 4. ")
    assert two.lead.startswith("Of 2 layers, 2 come within a tenth of the best matching accuracy: 1 and 4. ")


def test_labels_are_pushed_apart_and_not_further_than_needed() -> None:
    placed = spread_labels(np.asarray([10.0, 50.0, 11.0]), gap=3.0)
    np.testing.assert_allclose(placed, [9.0, 50.0, 12.0])


def test_tiles_are_spread_from_first_to_last() -> None:
    assert spread_indices(13, most=4) == [0, 4, 8, 12]
    assert spread_indices(2, most=5) == [0, 1]


def test_tokens_with_equal_descriptors_have_equal_colours_in_all_frames() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(3, 11)).astype(np.float32)
    labels = rng.integers(0, 3, size=(2, 5, 7))
    colors = pca_colors(kinds[labels])
    for kind in range(3):
        assert len(np.unique(colors[labels == kind], axis=0)) == 1
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 3


# --- tracks


def _one_point(num_frames: int, *, visible: list[bool] | None = None) -> np.ndarray:
    """Frames of 13 x 19 px, drawn at four times the size: a point that moves 4 px to the right per frame."""
    frames = np.full((num_frames, 13, 19, 3), 100, dtype=np.uint8)
    points = np.asarray([[(2.5 + 4 * frame, 6.5)] for frame in range(num_frames)], dtype=np.float32)
    seen = np.asarray(visible or [True] * num_frames)[:, None]
    return draw_tracks(
        frames, points, seen, params=OverlayParams(upscale=4, point_radius_px=3.0, brightness=1.0, trail_frames=3)
    )


def test_visible_point_is_filled_and_occluded_one_is_hollow() -> None:
    drawn = _one_point(2, visible=[True, False])
    color = point_colors(np.asarray([[2.5, 6.5]]))[0]
    np.testing.assert_array_equal(drawn[0, 26, 10], color)
    np.testing.assert_array_equal(drawn[1, 26, 26], (100, 100, 100))
    assert (drawn[1, 20:33, 20:33] != 100).any()


def test_trail_fades_behind_the_point() -> None:
    drawn = _one_point(4).astype(int)
    strength = [np.abs(drawn[frame, 26, 18] - 100).max() for frame in (1, 2, 3)]
    assert strength[0] > strength[1] > strength[2] > 0


def test_trail_does_not_bridge_an_occlusion() -> None:
    drawn = _one_point(3, visible=[True, False, True])
    np.testing.assert_array_equal(drawn[2, 26, 14:22], np.full((8, 3), 100))


def _six_points(steps_px: list[list[float]]) -> np.ndarray:
    """Six points, one below the other, on 61 x 101 px (diagonal 118 px): px to the right from frame to frame."""
    x = 5.5 + np.cumsum([[0.0] * 6, *steps_px], axis=0)
    points = np.stack([x, np.broadcast_to(5.5 + 10 * np.arange(6), x.shape)], axis=-1).astype(np.float32)
    frames = np.full((len(points), 61, 101, 3), 100, dtype=np.uint8)
    params = OverlayParams(upscale=1, point_radius_px=1.5, brightness=1.0)
    return draw_tracks(frames, points, np.ones(points.shape[:2], bool), params=params)


def test_a_trail_breaks_where_its_point_alone_jumps_and_goes_on_behind_it() -> None:
    """One point moves by 40 px where the others move by 3; a jump begins at 0.06 * 118 = 7.1 px."""
    drawn = _six_points([[3] * 6, [3] * 5 + [40], [3] * 6])[-1]
    assert (drawn[55, 15:45] == 100).all()  # between 8.5 and 48.5, where it never was
    assert (drawn[55, 6:8] != 100).any()  # before the jump
    assert (drawn[55, 49:50] != 100).any()  # and after it
    assert (drawn[45, 8:12] != 100).any(axis=-1).all()  # a neighbour's trail is whole


def test_what_moves_with_everything_does_not_jump_and_half_as_far_again_neither() -> None:
    """The camera pans by 20 px a frame: here that is usual, and 30 px are less than four times as far."""
    drawn = _six_points([[20] * 5 + [30]])[-1]
    for row, last in [(5, 25), (45, 25), (55, 35)]:
        assert (drawn[row, 8 : last - 3] != 100).any(axis=-1).all()


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_a_radius_that_cannot_be_drawn_is_refused_before_anything_is_tracked(radius: float) -> None:
    with pytest.raises(ValueError, match=f"point_radius_px is {radius}; it must be positive"):
        OverlayParams(point_radius_px=radius)


@pytest.mark.parametrize(
    ("num_points", "radius_px"),
    [(1, 1920 / 130), (25, 1920 / 130), (400, (1920 * 1080 / 400) ** 0.5 / 10), (40_000, 1.25)],
)
def test_points_are_smaller_the_more_there_are(num_points: int, radius_px: float) -> None:
    """400 points of 1920 x 1080 px are 72 px apart; none is too small to be seen."""
    assert OverlayParams().radius_px(1080, 1920, num_points) == pytest.approx(radius_px)
    assert OverlayParams(point_radius_px=3.0).radius_px(1080, 1920, num_points) == 3.0


def test_a_dense_grid_leaves_the_video_to_be_seen() -> None:
    """400 points cover less than a tenth of it, rims included."""
    rows, cols = np.mgrid[0:20, 0:20]
    points = np.stack([(cols + 0.5) * 37, (rows + 0.5) * 23], axis=-1).reshape(1, 400, 2).astype(np.float32)
    params = OverlayParams(upscale=1, brightness=1.0)
    drawn = draw_tracks(np.full((1, 460, 740, 3), 100, np.uint8), points, np.ones((1, 400), bool), params=params)
    assert 0.02 < (drawn != 100).any(axis=-1).mean() < 0.1


@pytest.mark.parametrize(("width", "trail_frames", "marks"), [(640, 8, 3), (640, 0, 2), (160, 8, 1), (40, 8, 0)])
def test_a_legend_says_what_dots_rings_and_lines_are_as_far_as_there_is_room(
    width: int, trail_frames: int, marks: int
) -> None:
    frames = np.full((2, 31, width, 3), 100, dtype=np.uint8)
    shown = list(with_legend(frames, radius_px=4.0, trail_frames=trail_frames))
    assert len(shown) == 2
    assert shown[0].shape == (31 + 22, width, 3)
    assert (shown[0][:31] == 100).all()
    strip = shown[1][31:].astype(int)
    _, _, boxes, _ = cv2.connectedComponentsWithStats((strip[..., 0] - strip[..., 2] > 60).astype(np.uint8))
    found = sorted(boxes[1:].tolist())  # left, top, width, height, area of each mark, from left to right
    assert len(found) == marks
    filled = [area / (wide * high) for _, _, wide, high, area in found]
    assert filled[:1] == [pytest.approx(np.pi / 4, abs=0.15)][:marks]  # a dot
    assert all(share < 0.65 for share in filled[1:2])  # a ring
    assert all(wide > 2 * high for _, _, wide, high, _ in found[2:])  # a line
    white = (strip.min(axis=-1) > 150).any(axis=0)
    assert white.any() == (marks > 0)  # words
    assert not white[-2:].any()  # none of them cut off


def test_point_is_not_drawn_before_its_query_nor_where_it_is_no_number() -> None:
    frames = np.full((3, 13, 19, 3), 100, dtype=np.uint8)
    points = np.full((3, 2, 2), 6.0, dtype=np.float32)
    points[:, 1] = np.nan
    drawn = draw_tracks(
        frames,
        points,
        np.ones((3, 2), bool),
        query_frames=[2, 0],
        params=OverlayParams(upscale=2, point_radius_px=3.0, brightness=1.0),
    )
    assert (drawn[:2] == 100).all()
    assert (drawn[2] != 100).any()


def test_points_are_coloured_by_their_start_and_not_by_their_number() -> None:
    starts = np.asarray([(1.0, 2.0), (11.0, 3.0), (5.0, 17.0)])
    colors = point_colors(starts)
    np.testing.assert_array_equal(point_colors(starts[[2, 0, 1]]), colors[[2, 0, 1]])
    assert len(np.unique(colors, axis=0)) == 3


def test_error_is_measured_at_256_and_counted_from_the_query() -> None:
    points = np.zeros((4, 2, 2), np.float32)
    queries = np.asarray([(0, 0, 0), (2, 0, 0)], np.float32)
    truth = Tracks(points, np.ones((4, 2), bool), queries, height=128, width=64, tracker="exact")
    off = points.copy()
    off[1:, 0] = [(1, 0), (0, 1), (3, 4)]
    off[3, 1] = (0, 3)
    found = PredictedTracks(off, truth.visible, np.ones((4, 2), np.float32))
    errors = median_error_by_frame([TrackedClip("clip", truth, {"tiny": found})], "tiny")
    np.testing.assert_allclose(errors, [(4 + 6) / 2, 2, np.hypot(12, 8)])


def test_what_only_position_gives_a_descriptor_is_taken_away_and_the_rest_is_kept() -> None:
    rng = np.random.default_rng(0)
    frame, row, col = (rng.normal(size=(count, 11)) for count in (2, 3, 5))
    position = frame[:, None, None] + row[None, :, None] + col[None, None]
    np.testing.assert_allclose(without_position(position), 0, atol=1e-5)
    content = rng.normal(size=(2, 3, 5, 11))
    shown = without_position(content)
    np.testing.assert_allclose(without_position(content + position), shown, atol=1e-5)
    np.testing.assert_allclose(without_position(shown), shown, atol=1e-5)
    spot = np.zeros((2, 3, 5, 1))
    spot[1, 2, 3] = 30.0
    assert without_position(spot)[1, 2, 3, 0] == pytest.approx(30 - 30 / 15 - 30 / 10 - 30 / 6 + 2 * 30 / 30)


def test_points_that_leave_the_inner_picture_are_chosen_only_where_no_other_is() -> None:
    """In 40 x 100 px, 4 px along every edge are the outer part; only visible points count."""
    starts = np.asarray([(50, 20), (90, 20), (30, 10), (60, 30)], np.float32)
    motion = np.asarray([(0, 5), (6, 0), (0, -6), (0, -5)], np.float32)
    points = starts + np.arange(3, dtype=np.float32)[:, None, None] * motion
    queries = np.concatenate([np.zeros((4, 1), np.float32), starts], axis=1)
    visible = np.ones((3, 4), bool)
    visible[2, 2] = False
    leaving = Tracks(points, visible, queries, 40, 100, "exact")
    assert moving_points(leaving, num=2).query_points[:, 1:].tolist() == [[50, 20], [60, 30]]
    outer = leaving.select(np.asarray([False, True, False, False]))
    assert moving_points(outer, num=2).query_points[:, 1:].tolist() == [[90, 20]]


def test_examples_are_of_exact_clips_before_annotated_ones_and_those_before_guesses(tmp_path: Path) -> None:
    kinds = {
        "a": ("generated", "lucas_kanade"),
        "b": ("folder", "cotracker3"),
        "c": ("folder", "annotated"),
        "d": ("rendered/easy", "exact"),
    }
    for name in kinds:
        write_store(tmp_path, name)
    shown = ReportClips(
        truth={name: replace(tracks(), tracker=tracker) for name, (_, tracker) in kinds.items()},
        read=clip,
        kind=lambda name: kinds[name][0],
    )
    chosen = example_clips(open_store(str(tmp_path)), shown, ReportParams())
    assert [example.clip.name for example in chosen] == ["d", "c", "a"]


def test_points_that_move_far_and_lie_apart_are_chosen() -> None:
    starts = np.asarray([(9, 9), (10, 9), (44, 34), (24, 24)], np.float32)
    motion = np.asarray([(0, 0), (9, 0), (8, 0), (0, 1)], np.float32)
    points = starts + np.arange(3, dtype=np.float32)[:, None, None] * motion
    queries = np.concatenate([np.zeros((4, 1), np.float32), starts], axis=1)
    chosen = moving_points(Tracks(points, np.ones((3, 4), bool), queries, 53, 71, "exact"), num=2)
    assert chosen.query_points[:, 1:].tolist() == [[10, 9], [44, 34]]


# --- outputs of other stages


def test_scores_become_maps_with_empty_cells_left_empty() -> None:
    maps = maps_from_scores(scores_json(), backbone="tiny")
    xr.testing.assert_allclose(maps.matching_accuracy.transpose("layer", "step"), score_maps().matching_accuracy)
    assert np.isnan(maps.confidence.sel(step=0, layer=1))
    assert maps.head_accuracy is None
    assert [(group.name, group.layer, group.step) for group in maps.groups] == [
        ("exact or annotated truth", 4, 49),
        ("rendered/easy", 4, 49),
    ]
    assert (maps.pseudo_truth, maps.measure) == (None, "matching accuracy")


def test_scores_without_query_and_key_say_what_is_missing() -> None:
    scores = scores_json()
    del scores["groups"]["truth"]["scores"]["matching_accuracy"]
    with pytest.raises(ValueError, match=r"scores.json of tiny lacks 'matching_accuracy'"):
        maps_from_scores(scores, backbone="tiny")


def metrics_json(**means: dict[str, Any]) -> dict[str, Any]:
    """The output of the track stage for one clip, `square`."""
    return {"mean": {}, "pseudo_truth": {}, "truth": {"square": {"kind": "exact", "tracker": None}}, **means}


def scores_of(value: float) -> dict[str, float | None]:
    names = ["average_pts_within_thresh", "average_jaccard", *(f"pts_within_{px}" for px in (1, 2, 4, 8, 16))]
    return dict.fromkeys(names, value) | {"occlusion_accuracy": None}


def test_metrics_become_rows_with_the_backbone_first_and_nothing_where_nothing_was_scored() -> None:
    scores = scores_of(0.25)
    metrics = metrics_json(mean={"tracker": scores, "no_motion": scores}, clips={"square": {"tracker": scores}})
    (results,) = results_from_metrics(metrics, backbone="tiny")
    best, still = results.methods
    assert results.pseudo_truth is None
    assert (best.name, still.name) == ("tiny", "no motion")
    assert best.mean.deltas == (0.25,) * 5
    assert np.isnan(best.clips["square"].occlusion_accuracy)
    assert still.clips == {}


def test_results_against_a_pseudo_truth_are_apart_and_without_its_tracker() -> None:
    guess = {"kind": "pseudo_truth", "tracker": "lucas_kanade"}
    clips: dict[str, dict[str, Any]] = {
        "square": {"tracker": scores_of(0.5), "lucas_kanade": scores_of(0.75)},
        "guessed": {"tracker": scores_of(0.125), "lucas_kanade": None},
    }
    metrics = metrics_json(
        mean=clips["square"],
        pseudo_truth={"lucas_kanade": {"clips": ["guessed"], "mean": clips["guessed"]}},
        truth={"guessed": guess, "square": {"kind": "exact", "tracker": None}},
        clips=clips,
    )
    known, guessed = results_from_metrics(metrics, backbone="tiny")
    assert [(method.name, list(method.clips)) for method in known.methods] == [
        ("tiny", ["square"]),
        ("Lucas-Kanade", ["square"]),
    ]
    assert guessed.pseudo_truth == "lucas_kanade"
    assert [(method.name, list(method.clips)) for method in guessed.methods] == [("tiny", ["guessed"])]
    alone = results_from_metrics({**metrics, "mean": {}}, backbone="tiny")
    assert [part.pseudo_truth for part in alone] == ["lucas_kanade"]
    clips["square"]["tracker"] = None
    assert [part.pseudo_truth for part in results_from_metrics(metrics, backbone="tiny")] == ["lucas_kanade"]


def test_metrics_that_lack_something_are_named() -> None:
    with pytest.raises(ValueError, match=r"metrics.json of tiny cannot be used .*pts_within_1"):
        results_from_metrics(metrics_json(mean={"tracker": {}}, clips={"square": {}}), backbone="tiny")
    with pytest.raises(ValueError, match=r"metrics.json of tiny cannot be used .*run the track stage again"):
        results_from_metrics({"mean": {"tracker": scores_of(0.5)}, "clips": {}}, backbone="tiny")


def test_truth_is_cut_to_what_was_tracked(tmp_path: Path) -> None:
    truth = tracks()
    found = PredictedTracks(truth.points_xy_px[:2], truth.visible[:2], np.ones((2, 2), np.float32))
    write_predictions(tmp_path / "square.npz", truth.query_points, {"tracker": found})
    tracked = read_tracked_clip(tmp_path / "square.npz", truth, backbone="tiny")
    assert tracked.truth.num_frames == 2
    assert list(tracked.methods) == ["tiny"]


def test_stage_reports_on_every_backbone_and_does_without_tracks(store: Path, tmp_path: Path) -> None:
    deps = {name: tmp_path / name for name in ("clips", "tracks", "descriptors", "scores", "predictions")}
    write_clip(deps["clips"], clip())
    write_tracks(deps["tracks"], "square", tracks())
    for backbone in ("left over", "one", "two"):
        write_store(deps["descriptors"] / backbone / "analysis")
        (deps["scores"] / backbone).mkdir(parents=True)
        (deps["scores"] / backbone / "scores.json").write_text(json.dumps(scores_json()))
    params = {"report": {"max_videos": 1}, "backbones": {"two": None, "one": {}, "not scored yet": {}}}
    main(params, deps, {"report": tmp_path / "report"})
    anchors = Elements((tmp_path / "report" / "index.html").read_text()).values("id")
    assert {"backbones", "one-where", "two-where", "one-maps"} <= set(anchors)
    assert "one-tracks" not in anchors
    assert "one-causes" not in anchors  # the shipped study was made with other weights
    assert anchors.index("two-where") < anchors.index("one-where")
    assert not [anchor for anchor in anchors if anchor.startswith("left")]
    assert json.loads((tmp_path / "report" / "headlines.json").read_text())[0]["value"] == "87 %"


# --- causes


def written_study(file: Path, **changes: Any) -> Path:
    file.write_text(json.dumps({**cause_study(), **changes}))
    return file


def test_causes_are_shown_with_what_they_were_measured_on(tmp_path: Path) -> None:
    """The best head moves 1.5 and 1.625 px more in the two samples, and loses 15 points of a hundred."""
    study = read_cause_study(written_study(tmp_path / "mine.json"))
    (tmp_path / "report").mkdir()
    with Drawings(tmp_path / "report") as drawings:
        section = causes_section("tiny", study, drawings)
    assert section.anchor == "tiny-causes"
    for said in (
        "mine.json, 2 pairs of prompt and seed",
        "9x40x56 px",
        "5 rendered clips (a card, 2026-12-01; torch 1.2.3)",
    ):
        assert said in section.lead
    figure, table = section.blocks
    assert isinstance(table, Table)
    assert figure.png == "figures/tiny-causes.png"
    assert (tmp_path / "report" / figure.png).stat().st_size > 10_000
    assert table.rows[2] == [
        "4",
        "0",
        "75.0",
        "+1.56 [+1.50, +1.62]",
        "+3.00 [+3.00, +3.00]",
        "-15.00 [-15.00, -15.00]",
        "12.50 [12.50, 12.50]",
    ]
    assert cause_correlation(study.summary, "zero", "motion_px") == (1.0, 1.0, 1.0)
    assert cause_correlation(study.summary, "zero", "matching_accuracy") == (-1.0, None, None)


def test_the_study_that_ships_is_of_the_weights_that_ship() -> None:
    study = read_cause_study()
    assert study.backbone == PipelineFolder(shipped_backbone()).fingerprint()
    assert "the study that comes with difftrack" in study.source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": cause_study()["ways"][:1]}, r"mine\.json has no intervention in single heads"),
        (
            {"params": {}},
            r"mine\.json is not a study of heads \(KeyError\('num_inference_steps'\)\); `difftrack ablate` ",
        ),
        ({"ways": [1]}, r"mine\.json is not a study of heads"),
    ],
)
def test_a_study_that_cannot_be_used_says_what_writes_one(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_cause_study(written_study(tmp_path / "mine.json", **changes))


def test_stage_shows_the_study_of_the_weights_that_it_shows_and_no_other(tmp_path: Path) -> None:
    deps = {name: tmp_path / name for name in ("clips", "tracks", "descriptors", "scores", "predictions")}
    write_clip(deps["clips"], clip())
    write_tracks(deps["tracks"], "square", tracks())
    write_store(deps["descriptors"] / "one" / "analysis")
    (deps["scores"] / "one").mkdir(parents=True)
    (deps["scores"] / "one" / "scores.json").write_text(json.dumps(scores_json()))

    def sections(study: Path) -> None:
        params = {"report": {"max_videos": 0, "causes": str(study)}, "backbones": {"one": None}}
        main(params, deps, {"report": tmp_path / "report"})

    def shown() -> set[str]:
        return set(Elements((tmp_path / "report" / "index.html").read_text()).values("id"))

    sections(written_study(tmp_path / "mine.json"))
    assert {"one-where", "one-causes"} <= shown()
    with pytest.raises(SystemExit, match=r"report\.causes: .*other\.json is of other weights than one"):
        sections(written_study(tmp_path / "other.json", backbone="of others"))
    assert shown() & {"one-where", "one-causes"} == {"one-where"}
    with pytest.raises(SystemExit, match=r"report\.causes: .*gone\.json"):
        sections(tmp_path / "gone.json")


def test_stage_reports_on_what_was_tracked_and_never_scored(tmp_path: Path) -> None:
    """Results as the tracking presets leave them: no analysis view, no scores."""
    deps = {name: tmp_path / name for name in ("clips", "tracks", "descriptors", "scores", "predictions")}
    write_clip(deps["clips"], clip())
    write_tracks(deps["tracks"], "square", tracks())
    (deps["predictions"] / "one").mkdir(parents=True)
    found = {"tracker": no_motion(tracks().query_points, num_frames=3)}
    write_predictions(deps["predictions"] / "one" / "square.npz", tracks().query_points, found)
    scores = {"square": ClipScores.compare(found, tracks())}
    metrics = {**scores_by_truth(scores), "left_out": {}, "failed": {}, "params": {}}
    (deps["predictions"] / "one" / "metrics.json").write_text(json.dumps(metrics))
    main({"report": {}, "backbones": {"one": None}}, deps, {"report": tmp_path / "report"})
    anchors = Elements((tmp_path / "report" / "index.html").read_text()).values("id")
    assert {"one-tracks", "one-results"} <= set(anchors)
    assert "one-where" not in anchors
    assert (tmp_path / "report" / "videos" / "one-square.mp4").exists()
    (headline,) = json.loads((tmp_path / "report" / "headlines.json").read_text())
    assert headline["label"].startswith("δ avg of zero-shot tracks")


def test_stage_reports_on_scores_of_a_whole_map_of_which_one_unit_is_kept(tmp_path: Path) -> None:
    """Results as the analysis presets leave them: pictures show stored layers, whatever layer is best in the map."""
    deps = {name: tmp_path / name for name in ("clips", "tracks", "descriptors", "scores", "predictions")}
    write_clip(deps["clips"], clip())
    write_tracks(deps["tracks"], "square", tracks())
    write_store(deps["descriptors"] / "one" / "analysis", units=((20, 1),))
    (deps["scores"] / "one").mkdir(parents=True)
    (deps["scores"] / "one" / "scores.json").write_text(json.dumps(scores_json()))
    section: dict[str, Any] = {"frames": "all", "kinds": ["query_key", "feature"], "trajectories": True}
    section |= {"clips": "all", "token_positions": [[1, 1]]}
    main({"report": section, "backbones": {"one": None}}, deps, {"report": tmp_path / "report"})
    drawn = {file.name for folder in ("strips", "videos") for file in (tmp_path / "report" / folder).iterdir()}
    assert drawn == {
        "one-square-maps.js",
        "one-square-maps.png",
        "one-square-point0-layer1-step20.png",
        "one-square-feature-point0-layer1-step20.png",
        "one-square-colors-frames.png",
        "one-square-colors-layer1-step20.png",
        "one-square-query_key-layer1-step20.mp4",
        "one-square-feature-layer1-step20.mp4",
    }
    page = (tmp_path / "report" / "index.html").read_text()
    assert "square, point (12, 12), by features." in page  # the centre of token (1, 1), tokens of 8 px
    assert all(page.count(f">frame {frame}<") >= 3 for frame in range(3))  # of query, key and feature


def test_a_trajectory_of_one_layer_follows_what_moves_by_whole_tokens(store: Path) -> None:
    (example,) = example_clips(open_store(str(store)), footage(), ReportParams(kinds=("feature",)))
    for kind in ("query_key", "feature"):
        found = trajectories(example, ExampleView(4, 20, None), CORRECTED, kind)
        np.testing.assert_allclose(found[:, 0], [[12, 12], [20, 12], [28, 12]], atol=0.05)


def test_a_token_that_is_not_there_is_named(store: Path) -> None:
    with pytest.raises(
        ValueError, match=r"token_positions: \(5, 2\) is not a token of square; there are 5 rows and 7 col"
    ):
        example_clips(open_store(str(store)), footage(), ReportParams(token_positions=((5, 2),)))
    with pytest.raises(ValueError, match="positions and token_positions are both given"):
        ReportParams(positions=((1.0, 2.0),), token_positions=((1, 2),))


def test_stage_says_which_backbones_have_scores_where_none_of_the_wanted_has(tmp_path: Path) -> None:
    deps = {name: tmp_path / name for name in ("clips", "tracks", "descriptors", "scores", "predictions")}
    write_clip(deps["clips"], clip())
    (deps["scores"] / "other").mkdir(parents=True)
    (deps["scores"] / "other" / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no scores for one; there are scores for other"):
        main({"report": {}, "backbones": {"one": None}}, deps, {"report": tmp_path / "report"})


# --- one question to a store


def test_query_follows_a_scene_that_moves_by_whole_tokens(store: Path) -> None:
    matches = query_point(open_store(str(store)), clip="square", step=20, layer=4, point_xy_px=(12.0, 12.0))
    assert [(match.frame, match.x_px, match.y_px) for match in matches] == [(0, 12, 12), (1, 20, 12), (2, 28, 12)]


def test_query_can_ask_for_one_frame(store: Path) -> None:
    opened = open_store(str(store))
    (match,) = query_point(opened, clip="square", step=20, layer=4, point_xy_px=(12.0, 12.0), frame=2)
    assert match.frame == 2
    with pytest.raises(StoreError, match=r"frame 9 of square; there are \[0, 1, 2\]"):
        query_point(opened, clip="square", step=20, layer=4, point_xy_px=(12.0, 12.0), frame=9)


def test_query_picture_has_a_tile_for_the_point_and_one_for_each_later_frame(store: Path, tmp_path: Path) -> None:
    picture = draw_query(open_store(str(store)), clip(), step=20, layer=4, point_xy_px=(12.0, 12.0))
    tile_width = (picture.shape[1] - 2 * 6) // 3
    assert picture.shape == (round(tile_width * 40 / 56), 3 * tile_width + 2 * 6, 3)


# The page on a phone and without a mouse


@pytest.fixture(scope="module")
def page(report: Path) -> str:
    return (report / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_reaches_beyond_the_page_in_a_browser(report: Path, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 844}, is_mobile=width < 500, has_touch=True)
        seen = context.new_page()
        seen.goto((report / "index.html").as_uri())
        seen.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert seen.evaluate("document.documentElement.scrollWidth") == width
        heads = seen.locator(".strip.head > div > span")
        boxes = [heads.nth(number).bounding_box() for number in range(heads.count())]
        beside = [(a, b) for a, b in itertools.pairwise(boxes) if a["y"] == b["y"]]
        assert all(a["x"] + a["width"] <= b["x"] for a, b in beside)
        seen.locator("a.open.drawing").first.tap()
        assert seen.evaluate("document.querySelector('dialog svg').getBoundingClientRect().width") > 900
        seen.locator("dialog form button").tap()
        player = seen.locator(".player").first
        player.scroll_into_view_if_needed()
        for _ in range(2):
            player.locator("button[title='one frame on']").tap()
            seen.wait_for_timeout(200)
        assert seen.evaluate("document.querySelector('.clip video').paused")
        assert player.locator("span").inner_text() == "frame 2"
        browser.close()


LONG_NAME = "name_without_a_blank_" * 7 + "&" + "x" * 50


def page_of_long_names() -> str:
    numbers = Table("Clips", LONG_NAME, ("clip", "δ avg", "AJ"), [(LONG_NAME, "60.0", "50.0"), ("dog", "1.0", "2.0")])
    about = Table("About", "", ("what", "value"), [("report.overlay.brightness", LONG_NAME)], prose=True)
    sections = [Section("a", "A", LONG_NAME, LONG_NAME, [numbers, about])]
    return render_page(Page(LONG_NAME, LONG_NAME, [Headline("1 %", LONG_NAME, LONG_NAME)], sections))


def test_long_names_may_break_between_their_words_and_stay_escaped() -> None:
    page = page_of_long_names()
    assert '<td><span class="long">name_<wbr>without_<wbr>a_<wbr>blank_<wbr>name_' in page
    assert f"blank_<wbr>&amp;{'x' * 50}</span></td>" in page
    assert "<td>dog</td>" in page
    assert "<td>report.<wbr>overlay.<wbr>brightness</td>" in page


@pytest.mark.slow
def test_long_names_reach_beyond_no_page_in_a_browser(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no chromium")
    (tmp_path / "index.html").write_text(page_of_long_names())
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (390, 1280):
            seen = browser.new_page(viewport={"width": width, "height": 844})
            seen.goto((tmp_path / "index.html").as_uri())
            assert seen.evaluate("document.documentElement.scrollWidth") == width
            assert seen.locator("td", has_text="50.0").bounding_box()["x"] < width
        browser.close()


def test_a_clip_table_names_each_method_once_over_its_columns(page: str) -> None:
    assert '<th scope="colgroup" colspan="3">' in page
    assert "tiny: δ avg" not in page


def test_videos_say_their_rate_and_have_controls_without_the_script(page: str) -> None:
    videos = re.findall(r"<video [^>]*>", page)
    assert videos
    for video in videos:
        assert re.search(r'data-fps="[\d.]+"', video)
        assert " controls" in video
        assert "autoplay" not in video


def test_figures_and_strips_are_links_to_files_that_are_there(page: str, report: Path) -> None:
    links = re.findall(r'<a class="open[^"]*" href="([^"]+)" aria-label="Enlarge: [^"]+">', page)
    assert any(link.startswith("figures/") for link in links)
    assert any(link.startswith("strips/") for link in links)
    assert all((report / link).is_file() for link in links)
