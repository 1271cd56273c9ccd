"""Files that are not this project's own are neither removed nor overwritten, whatever a marker, link or param says."""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difftrack.datasets import Clip, DatasetError, Tracks, clip_folders, drop_clips, write_clip, write_tracks
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._measures import check_measures
from difftrack.guidance._samples import _drop_what_is_gone, _not_ours
from difftrack.keeping import Keeper, kept_entries
from difftrack.ownership import OwnershipError, check_paths, is_inside, remove
from difftrack.planning._leftovers import _foreign, _unknown_backbones
from difftrack.presets._presets import PresetError, read_preset
from difftrack.presets._workspace import open_workspace
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._track_export import export_name
from difftrack.store import StoreError, foreign_group, keep_groups, remove_group
from difftrack.tracking import PredictedTracks, write_predictions

ROOT = Path(__file__).parents[1]
DEFAULT_PATHS = {
    name: f"data/{name}"
    for name in ("clips", "tracks", "descriptors", "matches", "survey", "scores", "predictions", "samples", "report")
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_clip(name: str = "a", details: dict[str, Any] | None = None) -> Clip:
    frames = np.zeros((3, 6, 8, 3), np.uint8)
    return Clip(name, frames, 8.0, "", "generated", details=details or {})


def some_tracks() -> Tracks:
    points = np.ones((3, 1, 2), np.float32)
    queries = np.asarray([[0, 1, 1]], np.float32)
    return Tracks(points, np.ones((3, 1), bool), queries, 6, 8, "annotated")


# reports


@pytest.mark.parametrize("spelling", ["../mine.txt", "{folder}/mine.txt", "notes/mine.txt", "figures/../../mine.txt"])
def test_a_ledger_that_a_stranger_wrote_removes_nothing_beside_the_drawings(spelling: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    (report / "notes").mkdir(parents=True)
    (report / "figures").mkdir()
    mine = [tmp_path / "mine.txt", report / "notes" / "mine.txt"]
    for path in mine:
        path.write_text("mine")
    entry = {"drawn_from": "0" * 64, "content": sha256(mine[0])}
    (report / "drawn.json").write_text(json.dumps({spelling.format(folder=tmp_path): entry}))
    with Drawings(report):
        pass
    assert all(path.exists() for path in mine)


def test_a_drawing_that_was_changed_by_hand_is_kept_and_one_that_was_not_goes(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("kept.svg", "gone.svg"):
        (tmp_path / "figures" / name).write_text(name)
    entries = {f"figures/{name}": sha256(tmp_path / "figures" / name) for name in ("kept.svg", "gone.svg")}
    (tmp_path / "figures" / "kept.svg").write_text("drawn on by hand")
    ledger = {name: {"drawn_from": "0" * 64, "content": content} for name, content in entries.items()}
    (tmp_path / "drawn.json").write_text(json.dumps(ledger))
    with Drawings(tmp_path):
        pass
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["kept.svg"]


@pytest.mark.parametrize("ledger", [None, "[]", '{"figures/a.svg": 3}', '{"index.html": {"content": ""}}', "{"])
def test_a_folder_that_holds_something_and_no_report_is_not_written_into(ledger: str | None, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("my page")
    if ledger is not None:
        (tmp_path / "drawn.json").write_text(ledger)
    before = files_below(tmp_path)
    with pytest.raises(OwnershipError, match="nothing was overwritten"), Drawings(tmp_path):
        pass
    assert files_below(tmp_path) == before


def half_a_report(folder: Path) -> None:
    with Drawings(folder):
        (folder / "figures").mkdir()
        (folder / "figures" / "a.svg").write_text("half")
        raise RuntimeError


def test_a_report_that_broke_off_is_taken_up_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        half_a_report(tmp_path)
    with Drawings(tmp_path):
        pass
    assert (tmp_path / "figures" / "a.svg").exists()


def test_a_report_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "figures").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "report" / "drawn.json").write_text("{}")
    with Drawings(tmp_path / "report") as drawings, pytest.raises(OwnershipError, match="link or leads out"):
        drawings.draw(functools.partial(print), "figures/a.svg")
    (tmp_path / "report" / "index.html").symlink_to(tmp_path / "elsewhere" / "page.html")
    with pytest.raises(OwnershipError, match=r"index\.html is a link"), Drawings(tmp_path / "report"):
        pass


# clips and tracks


def test_a_folder_that_bears_the_name_of_a_clip_is_not_replaced_by_it(tmp_path: Path) -> None:
    for name, content in {"000.png": b"mine", "clip.json": b"{}"}.items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
    (tmp_path / "clip" / "notes.txt").write_text("mine")
    before = files_below(tmp_path)
    for name in ("000", "clip"):
        with pytest.raises(DatasetError, match="was not overwritten"):
            write_clip(tmp_path, a_clip(name))
    assert files_below(tmp_path) == before


def test_a_damaged_clip_may_be_made_anew_and_an_unfinished_one_too(tmp_path: Path) -> None:
    write_clip(tmp_path, a_clip())
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(tmp_path / "a" / "clip.json")
        (tmp_path / ".a.part").mkdir()
        (tmp_path / ".a.part" / "frames.mp4").write_bytes(b"half")
        write_clip(tmp_path, a_clip())
        assert clip_folders(tmp_path) == {"a"}


def test_stale_clips_go_and_what_is_no_clip_stops_all_of_it(tmp_path: Path) -> None:
    write_clip(tmp_path, a_clip("a"))
    write_clip(tmp_path, a_clip("b"))
    drop_clips(tmp_path, {"a"})
    assert clip_folders(tmp_path) == {"b"}
    (tmp_path / "b" / "notes.txt").write_text("mine")
    (tmp_path / "backup.part").mkdir()
    (tmp_path / "backup.part" / "mine.txt").write_text("mine")
    before = files_below(tmp_path)
    with pytest.raises(DatasetError, match="is not a clip; move it elsewhere"):
        clip_folders(tmp_path)
    for name in ("b", "backup.part"):
        with pytest.raises(DatasetError, match="was not removed"):
            drop_clips(tmp_path, {name})
    assert files_below(tmp_path) == before


def test_a_clip_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    write_clip(tmp_path / "elsewhere", a_clip())
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    with pytest.raises(DatasetError, match="is a link or lies outside"):
        drop_clips(tmp_path / "clips", {"a"})
    assert (tmp_path / "elsewhere" / "a" / "frames.mp4").exists()


def test_arrays_of_something_else_are_not_written_over_by_tracks_or_predictions(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mine=np.zeros(3))
    before = files_below(tmp_path)
    predictions = {"tracker": PredictedTracks(np.ones((3, 1, 2)), np.ones((3, 1), bool), np.ones((3, 1)))}
    with pytest.raises(DatasetError, match="does not contain tracks and was not overwritten"):
        write_tracks(tmp_path, "a", some_tracks())
    with pytest.raises(ValueError, match="holds no tracks, so it is not overwritten"):
        write_predictions(tmp_path / "a.npz", np.zeros((1, 3)), predictions)
    (tmp_path / "a-overlay.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a-overlay\.mp4 exists without a-tracks\.npz"):
        export_name(tmp_path, ["a"], "0" * 64)
    assert files_below(tmp_path) == before | {"a-overlay.mp4": b"mine"}


# guided samples


def test_measures_of_something_else_are_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    (tmp_path / "measures.csv").write_text("mine")
    with pytest.raises(GuidanceError, match=r"measures\.csv exists without measures\.json"):
        check_measures(tmp_path)
    (tmp_path / "measures.json").write_text('{"temperature": [20, 21]}')
    with pytest.raises(GuidanceError, match="belongs to something else"):
        check_measures(tmp_path)
    (tmp_path / "measures.json").write_text('{"ways": {}, "means": {}, "clips": []}')
    check_measures(tmp_path)


def test_samples_go_only_where_all_in_their_folder_was_sampled(tmp_path: Path) -> None:
    for number in ("000", "001"):
        write_clip(tmp_path / "samples" / number, a_clip("plain", {"sampling": {}}))
        (tmp_path / "samples" / number / "plain.mp4").write_bytes(b"view")
    (tmp_path / "samples" / "001" / "notes.txt").write_text("mine")
    _drop_what_is_gone(tmp_path / "samples", set(), Keeper(tmp_path / "kept", "samples", budget=1e9))
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["001"]
    assert (tmp_path / "samples" / "001" / "plain" / "clip.json").exists()
    assert [kept.name for kept in kept_entries(tmp_path / "kept")] == ["000/plain"]


def test_a_numbered_folder_of_something_else_is_not_sampled_into(tmp_path: Path) -> None:
    (tmp_path / "000").mkdir()
    (tmp_path / "000" / "holiday.mp4").write_bytes(b"mine")
    assert _not_ours(tmp_path / "000", ["plain"]) == f"{tmp_path / '000' / 'holiday.mp4'} is not a view of a sample"
    (tmp_path / "000" / "holiday.mp4").rename(tmp_path / "000" / "plain.mp4")  # the state that a killed run leaves
    assert _not_ours(tmp_path / "000", ["plain"]) is None


# stores


def test_a_zarr_group_of_another_program_is_no_group_of_the_store(tmp_path: Path) -> None:
    theirs = {"zarr_format": 3, "node_type": "group", "attributes": {"owner": "them"}}
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "zarr.json").write_text(json.dumps(theirs))
    before = files_below(tmp_path)
    for drop in (lambda: keep_groups(tmp_path, []), lambda: remove_group(tmp_path, "theirs")):
        with pytest.raises(StoreError, match="theirs is not a group of the store"):
            drop()
    assert files_below(tmp_path) == before


def test_a_group_behind_a_link_is_not_removed(tmp_path: Path) -> None:
    own = {"schema": "results", "files": {}, "checksum": "0"}
    header = {"zarr_format": 3, "node_type": "group", "attributes": {"difftrack": own}}
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "a" / "zarr.json").write_text(json.dumps(header))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").symlink_to(tmp_path / "other" / "a")
    with pytest.raises(StoreError, match="behind a link"):
        remove_group(tmp_path / "store", "a")
    assert (tmp_path / "other" / "a" / "zarr.json").exists()


# gc


def test_gc_offers_no_folder_that_is_not_proven_to_hold_results(tmp_path: Path) -> None:
    for name, file in {"src": "main.py", "data": "x.npz", "old": "scores.json", "good": "scores.json"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"mine": 1}')
    (tmp_path / "good" / "scores.json").write_text('{"convention": "corrected", "match_convention": ["corrected"]}')
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert [Path(left.root).name for left in _unknown_backbones(tmp_path, set())] == ["good"]


def test_what_changed_between_list_and_removal_stays(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "scores.json").write_text('{"convention": "corrected", "match_convention": ["corrected"]}')
    (left,) = _unknown_backbones(tmp_path, set())
    (tmp_path / "good" / "notes.txt").write_text("mine")
    assert _foreign(tmp_path / "good") is not None
    with pytest.raises(OwnershipError, match="was not removed"):
        left.remove()
    assert (tmp_path / "good" / "notes.txt").exists()
    (tmp_path / "good" / "notes.txt").unlink()
    left.remove()
    assert not (tmp_path / "good").exists()
    assert foreign_group(tmp_path) == str(tmp_path / "")


# params


def test_the_default_paths_and_those_of_every_workspace_are_accepted(tmp_path: Path) -> None:
    check_paths(DEFAULT_PATHS, root=ROOT, inputs={"synthesize.folder.path": "videos"})
    check_paths(DEFAULT_PATHS | {"descriptors": "s3://bucket/descriptors", "clips": str(tmp_path)}, root=ROOT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": "."}, r"paths\.clips is .* overlaps the project"),
        ({"matches": ".."}, r"paths\.matches is .* overlaps the project"),
        ({"tracks": "data"}, r"paths\.tracks is .* overlaps data/prompts of the project"),
        ({"report": "difftrack/reports"}, r"paths\.report is .* overlaps difftrack of the project"),
        ({"report": "docs"}, r"paths\.report is .* overlaps docs of the project"),
        ({"scores": "~"}, r"paths\.scores is .* overlaps a home"),
        ({"scores": "/"}, r"paths\.scores is /, which overlaps"),
        ({"scores": "/etc/scores"}, r"paths\.scores is /etc/scores, which overlaps a system folder"),
        ({"scores": "/mnt"}, r"paths\.scores is /mnt, which overlaps a system folder"),
        ({"scores": "data/clips"}, r"paths\.clips .* and paths\.scores .* overlap"),
        ({"scores": "data/clips/scores"}, r"paths\.clips .* and paths\.scores .* overlap"),
        ({"scores": "data/x/../clips"}, r"paths\.clips .* and paths\.scores .* overlap"),
        ({"clips": "videos/clips"}, r"paths\.clips .* and synthesize\.folder\.path .* overlap"),
    ],
)
def test_paths_that_overlap_each_other_the_project_or_the_system_are_refused(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(OwnershipError, match=message) as error:
        check_paths(DEFAULT_PATHS | changes, root=ROOT, inputs={"synthesize.folder.path": "videos"})
    assert "\n" not in str(error.value)


def test_links_are_resolved_before_folders_are_compared(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert is_inside(tmp_path / "link" / "x", tmp_path / "real")
    assert not is_inside(tmp_path / "real" / "..", tmp_path)
    with pytest.raises(OwnershipError, match="overlap"):
        check_paths({"clips": "real", "scores": "link"}, root=tmp_path)
    (tmp_path / "real" / "sub").symlink_to(os.path.relpath(tmp_path, tmp_path / "real"))
    with pytest.raises(OwnershipError, match="lies outside"):
        remove(tmp_path / "real" / "sub" / "link", None, folder=tmp_path / "real")


# workspaces


def test_a_folder_of_something_else_becomes_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("mine")

    with pytest.raises(PresetError, match="not a workspace of this project"):
        open_workspace(tmp_path, ROOT, read_preset("real-cogvideox-2b"), {"paths": {}})
    assert (tmp_path / "params.yaml").read_text() == "mine"
