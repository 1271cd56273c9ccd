"""Clips, tracks and their files; TAP-Vid and the user's folders. Broken files are named, and the rest is read."""

import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_sets import about
from PIL import Image

from difftrack.datasets import (
    Clip,
    ClipFailure,
    DatasetError,
    FolderParams,
    TrackedVideo,
    Tracks,
    Truth,
    check_query_points,
    clip_names,
    group_by_truth,
    load_tapvid_folder,
    load_tapvid_pickle,
    plain_name,
    read_clip,
    read_clip_kind,
    read_folder,
    read_given_tracks,
    read_manifest,
    read_table,
    read_tracks,
    tapvid_queries,
    unique_names,
    working_frames,
    write_clip,
    write_manifest,
    write_tracks,
)
from difftrack.datasets._names import check_name
from difftrack.geometry import rescale_points
from difftrack.media import MediaError, write_image, write_video
from difftrack.params import ParamsError, parse

FIXTURES = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))


def frames_of(num_frames: int = 7, height: int = 31, width: int = 47, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def jpeg(frame: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def entry(num_points: int = 5, num_frames: int = 7, *, as_jpeg: bool = False, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    frames = frames_of(num_frames, seed=seed)
    return {
        "video": [jpeg(frame) for frame in frames] if as_jpeg else frames,
        "points": rng.uniform(0.1, 0.9, (num_points, num_frames, 2)).astype(np.float32),
        "occluded": np.zeros((num_points, num_frames), dtype=bool),
    }


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def clip_of(name: str = "a", **changes: Any) -> Clip:
    return Clip(**{"name": name, "frames": frames_of(), "fps": 8.0, "prompt": "a dog", "source": "folder"} | changes)


def tracks_of(num_frames: int = 7, num_points: int = 5) -> Tracks:
    points = np.random.default_rng(1).uniform(1, 30, (num_frames, num_points, 2)).astype(np.float32)
    queries = np.concatenate([np.zeros((num_points, 1)), points[0]], axis=1).astype(np.float32)
    visible = np.ones((num_frames, num_points), dtype=bool)
    return Tracks(points_xy_px=points, visible=visible, query_points=queries, height=31, width=47, tracker="annotated")


# clips and tracks


def test_tracks_say_whether_they_are_exact_annotated_or_a_pseudo_truth_and_by_which_tracker() -> None:
    truths = {name: replace(tracks_of(), tracker=name).truth for name in ("lucas_kanade", "exact", "annotated")}
    assert truths == {
        "lucas_kanade": Truth("pseudo_truth", "lucas_kanade"),
        "exact": Truth("exact"),
        "annotated": Truth("annotated"),
    }
    assert [truth.known for truth in truths.values()] == [False, True, True]
    assert list(map(str, truths.values())) == ["pseudo-truth by lucas_kanade", "exact", "annotated"]
    assert group_by_truth(truths) == {"truth": ["exact", "annotated"], "pseudo_truth/lucas_kanade": ["lucas_kanade"]}
    for kind, tracker in (("exact", "lucas_kanade"), ("pseudo_truth", None), ("pseudo_truth", "")):
        with pytest.raises(ValueError, match="pseudo_truth needs a tracker's name"):
            Truth(kind, tracker)
    with pytest.raises(DatasetError, match="tracker is empty"):
        replace(tracks_of(), tracker="")


def test_a_clip_comes_back_as_it_was_written(tmp_path: Path) -> None:
    mask = np.random.default_rng(2).random((31, 47)) > 0.5
    clip = clip_of(source="rendered", seed=3, details={"render": {"size": [1, 2]}}, object_mask=mask, fps=29.97)
    write_clip(tmp_path, clip, tracks_of())
    back = read_clip(tmp_path, "a")
    np.testing.assert_array_equal(back.frames, clip.frames)
    assert back.object_mask is not None
    np.testing.assert_array_equal(back.object_mask, mask)
    assert (back.fps, back.prompt, back.source, back.seed, back.details) == (
        29.97,
        "a dog",
        "rendered",
        3,
        clip.details,
    )
    given = read_given_tracks(tmp_path, "a")
    assert given is not None
    np.testing.assert_array_equal(given.points_xy_px, tracks_of().points_xy_px)


def test_a_clip_without_mask_or_annotation_has_none(tmp_path: Path) -> None:
    write_clip(tmp_path, clip_of())
    assert read_clip(tmp_path, "a").object_mask is None
    assert read_given_tracks(tmp_path, "a") is None
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["clip.json", "frames.mp4"]


def test_writing_the_same_clip_and_tracks_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for root in (tmp_path / "one", tmp_path / "two"):
        write_clip(root, clip_of(details={"b": 1, "a": 2}), tracks_of())
        write_tracks(root, "a", tracks_of())
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_writing_a_clip_again_replaces_all_of_it(tmp_path: Path) -> None:
    write_clip(tmp_path, clip_of(), tracks_of())
    write_clip(tmp_path, clip_of(prompt="a cat"))
    assert read_clip(tmp_path, "a").prompt == "a cat"
    assert read_given_tracks(tmp_path, "a") is None


def test_clips_are_listed_by_name_and_unfinished_ones_are_not(tmp_path: Path) -> None:
    for name in ("b", "a10", "a2"):
        write_clip(tmp_path, clip_of(name))
    (tmp_path / ".c.part").mkdir()
    (tmp_path / ".c.part" / "clip.json").write_text("{}")
    (tmp_path / "d").mkdir()
    assert clip_names(tmp_path) == ["a10", "a2", "b"]
    with pytest.raises(DatasetError, match="the folder of clips does not exist"):
        clip_names(tmp_path / "absent")


def test_the_manifest_names_clips_that_are_deleted_or_damaged_and_no_others(tmp_path: Path) -> None:
    for name in ("b", "a", "c", "extra"):
        write_clip(tmp_path, clip_of(name, source="rendered" if name == "b" else "folder"))
    write_manifest(tmp_path, ["c", "b", "a"])
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b" / "clip.json").write_text("")
    found = read_manifest(tmp_path)
    assert [(clip.name, clip.source, clip.num_frames) for clip in found.clips] == [
        ("a", "folder", 7),
        ("b", "rendered", 7),
        ("c", "folder", 7),
    ]
    assert not found.assumed
    assert found.remarks(tmp_path) == []
    with pytest.raises(DatasetError, match=r"a: the clip does not exist; run the synthesize stage again"):
        read_clip(tmp_path, "a")
    before = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, ["a", "b", "c", "c"])
    assert (tmp_path / "manifest.json").read_bytes() == before, "what cannot be read is as the last manifest has it"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["manifest.json"]


def test_without_a_manifest_every_folder_of_a_clip_counts_and_that_is_said(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_clip(tmp_path, clip_of(name))
    (tmp_path / "a" / "clip.json").unlink()
    (tmp_path / "b" / "frames.mp4").unlink()
    found = read_manifest(tmp_path)
    assert [(clip.name, clip.num_frames) for clip in found.clips] == [("a", None), ("b", 7), ("c", 7)]
    assert found.remarks(tmp_path) == [
        f"{tmp_path} contains no manifest.json: the 3 clips found there are assumed to be complete"
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"version": 1}',
        '{"version": 2, "clips": []}',
        '{"version": 1, "clips": [{"name": "a"}]}',
        '{"version": 1, "clips": [{"name": "../a", "source": "folder", "num_frames": 7}]}',
        '{"version": 1, "clips": [{"name": "a", "source": "moon", "num_frames": 7}]}',
        '{"version": 1, "clips": [{"name": "a", "source": "folder", "num_frames": -7}]}',
        '{"version": 1, "clips": ["a"]}',
        "\x00\xff",
    ],
)
def test_a_damaged_manifest_is_refused_by_name_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"^.*manifest\.json: [^\n]*; (remove it and )?run the [^\n]*$"):
        clip_names(tmp_path)


def test_the_fingerprint_is_that_of_frames_and_prompt() -> None:
    clip = clip_of()
    changed = frames_of()
    changed[6, 30, 46, 2] ^= 1
    assert clip.fingerprint() == clip_of("other", seed=7, fps=5.0).fingerprint()
    assert clip.fingerprint() != clip_of(prompt="a cat").fingerprint()
    assert clip.fingerprint() != clip_of(frames=changed).fingerprint()
    assert clip.fingerprint() != clip_of(frames=clip.frames.reshape(7, 47, 31, 3)).fingerprint()


def test_frames_that_were_swapped_behind_the_back_are_noticed(tmp_path: Path) -> None:
    write_clip(tmp_path, clip_of())
    write_video(tmp_path / "a" / "frames.mp4", frames_of(seed=9), 8.0, lossless=True)
    with pytest.raises(DatasetError, match=r"does not match clip\.json"):
        read_clip(tmp_path, "a")


def test_broken_clip_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the clip does not exist; available: none"):
        read_clip(tmp_path, "a")
    write_clip(tmp_path, clip_of())
    data = (tmp_path / "a" / "frames.mp4").read_bytes()
    (tmp_path / "a" / "frames.mp4").write_bytes(data[:-500])
    with pytest.raises(MediaError, match=r"a/frames\.mp4"):
        read_clip(tmp_path, "a")
    (tmp_path / "a" / "clip.json").write_text('{"fps": 8.0}')
    with pytest.raises(DatasetError, match=r"a/clip\.json.*prompt"):
        read_clip(tmp_path, "a")


def test_the_kind_of_a_clip_is_told_without_its_frames(tmp_path: Path) -> None:
    write_clip(tmp_path, clip_of("drawn", source="rendered", details={"render": {"split": "hard"}}))
    write_clip(tmp_path, clip_of("filmed", source="folder"))
    (tmp_path / "filmed" / "frames.mp4").unlink()
    assert read_clip_kind(tmp_path, "drawn") == "rendered/hard"
    assert read_clip_kind(tmp_path, "filmed") == "folder"
    with pytest.raises(DatasetError, match=r"painted: the clip does not exist"):
        read_clip_kind(tmp_path, "painted")
    (tmp_path / "filmed" / "clip.json").write_text('{"fps": 8.0}')
    with pytest.raises(DatasetError, match=r"filmed/clip\.json.*details"):
        read_clip_kind(tmp_path, "filmed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "'a/b' is not a valid clip name"),
        ({"name": ".."}, "is not a valid clip name"),
        ({"fps": 0.0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"frames": np.zeros((0, 31, 47, 3), dtype=np.uint8)}, "expected uint8 RGB"),
    ],
)
def test_a_clip_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        clip_of(**changes)


def test_details_that_json_cannot_hold_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="clip a: details"):
        write_clip(tmp_path, clip_of(details={"array": np.zeros(2)}))
    assert list(tmp_path.iterdir()) == []


def test_tracks_of_another_length_do_not_join_a_clip(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"clip a is \(7, 31, 47\).*\(11, 31, 47\)"):
        write_clip(tmp_path, clip_of(), tracks_of(num_frames=11))


def test_damaged_tracks_are_named(tmp_path: Path) -> None:
    write_tracks(tmp_path, "a", tracks_of())
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"a\.npz: is not an npz file, or is truncated.*run the annotate stage"):
        read_tracks(tmp_path, "a")
    with pytest.raises(DatasetError, match=r"b\.npz: the tracks do not exist"):
        read_tracks(tmp_path, "b")


def test_selecting_points_keeps_their_queries() -> None:
    tracks = tracks_of()
    some = tracks.select(np.array([False, True, False, True, False]))
    np.testing.assert_array_equal(some.query_points, tracks.query_points[[1, 3]])
    np.testing.assert_array_equal(some.points_xy_px, tracks.points_xy_px[:, [1, 3]])


@pytest.mark.parametrize(
    ("query", "accepted"),
    [
        ((0, 0, 0), True),
        ((6, 47, 31), True),
        ((3, -0.5, 31.5), True),
        ((7, 5, 5), False),
        ((-1, 5, 5), False),
        ((2.5, 5, 5), False),
        ((0, 48.5, 5), False),
        ((0, 5, -2), False),
        ((0, np.nan, 5), False),
    ],
)
def test_query_points_must_lie_in_the_clip(query: tuple[float, float, float], accepted: bool) -> None:
    points = np.asarray([(1, 2, 3), query], dtype=np.float32)
    if accepted:
        check_query_points(points, num_frames=7, height=31, width=47)
    else:
        with pytest.raises(DatasetError, match="query point 1 is"):
            check_query_points(points, num_frames=7, height=31, width=47)


# TAP-Vid's query protocols


def test_first_queries_start_where_each_point_is_first_seen() -> None:
    points = np.arange(3 * 7 * 2, dtype=np.float64).reshape(3, 7, 2)
    occluded = np.ones((3, 7), dtype=bool)
    occluded[0, 2:] = False
    occluded[2, 6] = False
    queries, source = tapvid_queries(points, occluded, mode="first")
    np.testing.assert_array_equal(queries, [(2, 4, 5), (6, 40, 41)])
    np.testing.assert_array_equal(source, [0, 2])


def test_strided_queries_are_every_fifth_frame_in_which_a_point_is_seen() -> None:
    points = np.arange(2 * 11 * 2, dtype=np.float64).reshape(2, 11, 2)
    occluded = np.zeros((2, 11), dtype=bool)
    occluded[0, 5] = True
    queries, source = tapvid_queries(points, occluded, mode="strided")
    np.testing.assert_array_equal(queries, [(0, 0, 1), (0, 22, 23), (5, 32, 33), (10, 20, 21), (10, 42, 43)])
    np.testing.assert_array_equal(source, [0, 1, 1, 0, 1])


READER = FIXTURES / "08_tapvid_reader.npz"


@pytest.fixture
def golden() -> Any:
    if not READER.exists():
        pytest.skip(f"no {READER.name}; set DIFFTRACK_FIXTURES")
    return np.load(READER)


def every(array: str) -> int:
    """Read from the README which rows and columns an array of the set keeps: `every 16th row`, or all."""
    found = re.search(r"every (\d+)(?:nd|rd|th) row", about(READER, array))
    return int(found[1]) if found else 1


def test_both_query_protocols_agree_with_the_released_reader(golden: Any) -> None:
    points, occluded = golden["q_points"].astype(np.float64) * 256, golden["q_occluded"]
    queries, source = tapvid_queries(points, occluded, mode="first")
    np.testing.assert_allclose(queries, golden["first_query_points"], atol=2e-5)
    np.testing.assert_allclose(points[source], golden["first_target_points"], atol=2e-5)
    np.testing.assert_array_equal(occluded[source], golden["first_occluded"])
    queries, source = tapvid_queries(points, occluded, mode="strided")
    np.testing.assert_allclose(queries, golden["strided_query_points"][:, [0, 2, 1]], atol=2e-5)
    np.testing.assert_allclose(points[source], golden["strided_target_points"], atol=2e-5)
    np.testing.assert_array_equal(source, golden["strided_trackgroup"])


def test_the_released_resize_is_reproduced(golden: Any) -> None:
    num_frames, _, height, width = golden["resized"].shape
    small = working_frames(golden["video"][:num_frames], height=height, width=width, convention="released")
    np.testing.assert_allclose(small.transpose(0, 3, 1, 2), golden["resized"], atol=5e-3)
    big, step = golden["big_video"], every("big_resized")
    assert tuple(step * side for side in golden["big_resized"].shape[2:]) == (height, width)
    aliased = working_frames(big, height=height, width=width, convention="released").transpose(0, 3, 1, 2)
    np.testing.assert_allclose(aliased[:, :, ::step, ::step], golden["big_resized"], atol=5e-3)


def test_a_whole_clip_through_the_released_reader_is_reproduced(golden: Any, tmp_path: Path) -> None:
    second = {"video": golden["ds_video"], "points": golden["q_points"], "occluded": golden["q_occluded"]}
    path = dump(tmp_path / "davis.pkl", {"b_second": second, "a_first": entry()})
    _, tracked = load_tapvid_pickle(path)
    assert tracked.clip.name == "b_second"
    height, width = (int(value) for value in golden["ds_size"])
    frames = working_frames(tracked.clip.frames, height=height, width=width, convention="released")
    np.testing.assert_allclose(frames.mean(axis=(1, 2)), golden["ds_frames_mean"], atol=5e-3)
    step = every("ds_frames_sub")
    np.testing.assert_allclose(frames.transpose(0, 3, 1, 2)[:, :, ::step, ::step], golden["ds_frames_sub"], atol=5e-3)
    tracks, size = tracked.tracks, (tracked.clip.height, tracked.clip.width)
    on_256 = rescale_points(tracks.points_xy_px, from_size=size, to_size=(256, 256))
    np.testing.assert_allclose(on_256, golden["ds_tracks"], atol=1e-3)
    np.testing.assert_array_equal(tracks.visible, golden["ds_visible"])
    at_working_size = rescale_points(tracks.query_points[:, 1:], from_size=size, to_size=(height, width))
    np.testing.assert_array_equal(tracks.query_points[:, 0], golden["ds_query_points"][:, 0])
    np.testing.assert_allclose(at_working_size, golden["ds_query_points"][:, 1:], atol=1e-3)


def test_the_corrected_resize_filters_what_the_released_one_aliases() -> None:
    stripes = np.zeros((1, 61, 301, 3), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    corrected = working_frames(stripes, height=61, width=128)
    released = working_frames(stripes, height=61, width=128, convention="released")
    assert corrected[:, :, 8:-8].std() < 2
    assert released[:, :, 8:-8].std() > 20


# pickles


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("as_jpeg", [False, True])
def test_every_pickle_protocol_gives_the_same_clips(tmp_path: Path, protocol: int, as_jpeg: bool) -> None:
    path = dump(tmp_path / "davis.pkl", {"b": entry(as_jpeg=as_jpeg), "a": entry(3, 11, as_jpeg=as_jpeg)}, protocol)
    first, second = load_tapvid_pickle(path)
    assert [first.clip.name, second.clip.name] == ["a", "b"]
    assert first.clip.frames.shape == (11, 31, 47, 3)
    if not as_jpeg:
        np.testing.assert_array_equal(second.clip.frames, frames_of())
    expected = entry()["points"].transpose(1, 0, 2) * np.asarray([47, 31], dtype=np.float32)
    np.testing.assert_allclose(second.tracks.points_xy_px, expected, atol=1e-5)


def test_a_list_and_other_forms_of_arrays_are_read(tmp_path: Path) -> None:
    plain, unusual = entry(), entry(as_jpeg=True)
    unusual["video"] = np.array(unusual["video"], dtype=object)
    unusual["points"] = np.asfortranarray(unusual["points"].astype(">f8"))
    unusual["occluded"] = unusual["occluded"].astype(np.int64)
    padded = entry(as_jpeg=True)
    padded["video"] = np.array(padded["video"])  # padded to type S, as TAP-Vid's own script does
    path = dump(tmp_path / "rgb.pkl", [plain, unusual, padded, plain])
    tracked = list(load_tapvid_pickle(path))
    assert [video.clip.name for video in tracked] == ["rgb_0000", "rgb_0001", "rgb_0002", "rgb_0003"]
    for video in tracked:
        np.testing.assert_allclose(video.tracks.points_xy_px, tracked[0].tracks.points_xy_px, atol=1e-4)


def test_a_pickle_written_by_python_2_is_read(tmp_path: Path) -> None:
    """Protocol 2 of Python 2 has byte strings where Python 3 has text and bytes."""
    content = np.arange(6, dtype="<f4")
    body = b"".join(
        [
            b"\x80\x02}U\x01a",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K\x03K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", content.nbytes) + content.tobytes() + b"tbs.",
        ]
    )
    (tmp_path / "old.pkl").write_bytes(body)
    failures: list[ClipFailure] = []
    assert list(load_tapvid_pickle(tmp_path / "old.pkl", failures=failures)) == []
    assert failures[0].name == "a"
    assert "is not a TAP-Vid clip" in failures[0].cause


class Payload:
    """An object that runs a command when Python's own unpickler loads it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_pickle_that_would_run_a_command_is_refused_by_name(tmp_path: Path, protocol: int, hidden: bool) -> None:
    payload: Any = Payload(f"touch {tmp_path / 'ran'}")
    content = {"a": entry() | {"video": np.array([payload], dtype=object) if hidden else payload}}
    path = dump(tmp_path / "evil.pkl", content, protocol)
    with pytest.raises(DatasetError, match=rf"evil\.pkl: the pickle names {os.system.__module__}\.system"):
        list(load_tapvid_pickle(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Path("x")}, r"names pathlib"),
        ({"a": {1, 2}}, "EMPTY_SET is refused"),
        ({"a": np.zeros(3, dtype="M8[s]")}, "array of 'M8'"),
        ({"a": np.zeros(3, dtype=[("x", "f4")])}, "array of 'V4'"),
        (7, "is not a pickled dict or list"),
    ],
)
def test_what_is_neither_array_nor_plain_container_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list(load_tapvid_pickle(dump(tmp_path / "odd.pkl", content)))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08 gzip", b"hello"])
def test_what_is_no_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=r"odd\.pkl: is not a pickled dict or list"):
        list(load_tapvid_pickle(tmp_path / "odd.pkl"))


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("as_jpeg", [False, True])
def test_a_truncated_pickle_gives_the_clips_before_the_cut_and_names_the_one_within(
    tmp_path: Path, as_list: bool, as_jpeg: bool
) -> None:
    clips = {name: entry(as_jpeg=as_jpeg, seed=seed) for seed, name in enumerate("abcd")}
    path = dump(tmp_path / "davis.pkl", list(clips.values()) if as_list else clips)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 5 // 8])
    failures: list[ClipFailure] = []
    names = [video.clip.name for video in load_tapvid_pickle(path, failures=failures)]
    assert names == (["davis_0000", "davis_0001"] if as_list else ["a", "b"])
    assert [failure.name for failure in failures] == ["davis_0002" if as_list else "c", "davis.pkl"]
    assert "ends within this clip" in failures[0].cause
    assert "truncated" in failures[1].cause


def test_wherever_a_pickle_is_cut_nothing_but_a_dataset_error_comes_out(tmp_path: Path) -> None:
    small = {name: entry(2, 3) | {"video": np.zeros((3, 2, 5, 3), dtype=np.uint8)} for name in "ab"}
    data = pickle.dumps(small)
    path = tmp_path / "davis.pkl"
    for length in [*range(0, 60), *range(60, len(data), 7)]:
        path.write_bytes(data[:length])
        failures: list[ClipFailure] = []
        try:
            survivors = [video.clip.name for video in load_tapvid_pickle(path, failures=failures)]
        except DatasetError:
            continue
        assert survivors in ([], ["a"], ["a", "b"])
        assert failures


def test_frames_stay_in_the_file_until_their_clip_is_wanted(tmp_path: Path) -> None:
    clips = {
        f"clip{number:02d}": entry(2, 3) | {"video": np.zeros((3, 800, 1000, 3), np.uint8)} for number in range(20)
    }
    path = dump(tmp_path / "davis.pkl", clips)
    code = (
        "import resource, sys; from pathlib import Path; from difftrack.datasets import load_tapvid_pickle\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "clips = load_tapvid_pickle(Path(sys.argv[1])); next(clips); before = peak()\n"
        "print(sum(1 for _ in clips), peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    count, grown_kib = (int(word) for word in done.stdout.split())
    assert count == 19
    assert grown_kib < 40_000  # the file is 144 MB, a clip 7 MB


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"points": np.full((5, 7, 2), np.nan, np.float32)}, "point 0 is visible but not a number"),
        ({"occluded": np.ones((5, 7), dtype=bool)}, "no point is visible"),
        ({"points": np.full((5, 7, 2), 1.5, np.float32)}, r"query point 0 is \(frame 0, x 70.5, y 46.5\)"),
        ({"points": np.zeros((5, 6, 2), np.float32)}, r"points are float32 \(5, 6, 2\)"),
        ({"points": [[[0.5, 0.5]] * 7, [[0.5, 0.5]] * 6]}, "points is ragged"),
        ({"occluded": [[False] * 7, [False] * 6]}, "occluded is ragged"),
        ({"video": frames_of().astype(np.float32)}, "video is float32"),
        ({"video": [b"no jpeg"] * 7}, "an image of 7 bytes"),
        ({"video": None}, "video is a NoneType"),
        ({"video": []}, "video is|has 0 frame"),
        (entry(5, 1), "has 1 frame"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named_and_the_others_go_on(
    tmp_path: Path, broken: dict[str, Any], message: str
) -> None:
    path = dump(tmp_path / "davis.pkl", {"a": entry(), "bad": entry() | broken, "z": entry()})
    failures: list[ClipFailure] = []
    assert [video.clip.name for video in load_tapvid_pickle(path, failures=failures)] == ["a", "z"]
    assert [failure.name for failure in failures] == ["bad"]
    assert failures[0].cause
    with pytest.raises(DatasetError, match=rf"^bad: .*({message})"):
        list(load_tapvid_pickle(path))


def test_positions_of_occluded_points_need_not_be_numbers(tmp_path: Path) -> None:
    half = entry()
    half["occluded"][:, 3:] = True
    half["points"][:, 3:] = np.nan
    (tracked,) = load_tapvid_pickle(dump(tmp_path / "davis.pkl", {"a": half}))
    assert np.isfinite(tracked.tracks.points_xy_px).all()
    assert not tracked.tracks.visible[3:].any()


def test_cutting_clips_short_also_cuts_what_queries_may_know(tmp_path: Path) -> None:
    late = entry()
    late["occluded"][1, :5] = True
    path = dump(tmp_path / "davis.pkl", {"a": late})
    (whole,), (cut,) = load_tapvid_pickle(path), load_tapvid_pickle(path, max_frames=5)
    assert (whole.tracks.num_points, cut.tracks.num_points) == (5, 4)
    assert cut.clip.num_frames == cut.tracks.num_frames == 5


def test_kinetics_shards_come_in_the_order_of_their_names_whichever_are_there(tmp_path: Path) -> None:
    for shard in (7, 2):
        dump(tmp_path / f"{shard:04d}_of_0010.pkl", [entry(as_jpeg=True), entry(as_jpeg=True)])
    dump(tmp_path / "other.pkl", [entry()])
    clips = [video.clip for video in load_tapvid_folder(tmp_path, pattern="*_of_0010.pkl")]
    assert [clip.name for clip in clips] == [
        *("0002_of_0010_0000", "0002_of_0010_0001"),
        *("0007_of_0010_0000", "0007_of_0010_0001"),
    ]
    some = list(load_tapvid_folder(tmp_path, pattern="*_of_0010.pkl", start=1, end=3))
    assert [video.clip.name for video in some] == ["0002_of_0010_0001", "0007_of_0010_0000"]
    with pytest.raises(DatasetError, match="contains no absent"):
        load_tapvid_folder(tmp_path, pattern="absent*.pkl")


def test_a_damaged_shard_is_named_and_the_next_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "0000_of_0010.pkl").write_bytes(b"damaged")
    dump(tmp_path / "0001_of_0010.pkl", [entry()])
    failures: list[ClipFailure] = []
    params = FolderParams(path=tmp_path)
    assert len(list(read_folder(params, failures))) == 1
    assert [failure.name for failure in failures] == ["0000_of_0010.pkl"]


def test_foreign_names_become_names_of_folders(tmp_path: Path) -> None:
    path = dump(tmp_path / "davis.pkl", {"a b/c": entry(), "../up": entry()})
    tracked = list(load_tapvid_pickle(path))
    assert [video.clip.name for video in tracked] == ["_.._up", "a_b_c"]
    assert tracked[1].clip.details == {"file": "davis.pkl", "entry": "a b/c", "position": 1}


# folders


def test_the_format_is_recognised(tmp_path: Path) -> None:
    dump(tmp_path / "davis.pkl", {"a": entry()})
    (tmp_path / "robotap").mkdir()
    dump(tmp_path / "robotap" / "robotap_split0.pkl", {"b": entry()})
    (tmp_path / "kinetics").mkdir()
    dump(tmp_path / "kinetics" / "0003_of_0010.pkl", [entry()])
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "c.mp4", frames_of(), 5.0, lossless=True)
    names = []
    for path in ("davis.pkl", "robotap", "kinetics", "videos", "videos/c.mp4"):
        (item,) = read_folder(FolderParams(path=tmp_path / path))
        names.append(item.clip.name if isinstance(item, TrackedVideo) else item.name)
    assert names == ["a", "b", "0003_of_0010_0000", "c", "c"]


def folder_with_three(path: Path) -> Path:
    write_video(path / "v10.mp4", frames_of(), 5.0, lossless=True)
    write_video(path / "v2.mp4", frames_of(), 5.0, lossless=True)
    (path / "v3").mkdir()
    for index, frame in enumerate(frames_of()):
        write_image(path / "v3" / f"{index}.png", frame)
    return path


def test_videos_and_image_folders_come_in_natural_order_with_their_prompts(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    (tmp_path / "prompts.txt").write_text("two\nthree\nten\n")
    params = FolderParams(path=tmp_path, prompts=tmp_path / "prompts.txt", start=1, fps=3.0)
    clips = [clip for clip in read_folder(params) if isinstance(clip, Clip)]
    assert [(clip.name, clip.prompt, clip.fps) for clip in clips] == [("v3", "three", 3.0), ("v10", "ten", 3.0)]
    np.testing.assert_array_equal(clips[0].frames, frames_of())


def test_a_prompt_that_is_missing_is_an_error_of_that_clip(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    (tmp_path / "prompts.txt").write_text("two\n")
    failures: list[ClipFailure] = []
    assert len(list(read_folder(FolderParams(path=tmp_path, prompts=tmp_path / "prompts.txt"), failures))) == 1
    assert [failure.name for failure in failures] == ["v3", "v10"]
    assert "has only 1 prompts" in failures[0].cause


def test_a_broken_video_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    data = (tmp_path / "v2.mp4").read_bytes()
    (tmp_path / "v2.mp4").write_bytes(data[:300])
    write_video(tmp_path / "v9.mp4", frames_of(num_frames=1), 5.0, lossless=True)
    failures: list[ClipFailure] = []
    names = [clip.name for clip in read_folder(FolderParams(path=tmp_path), failures) if isinstance(clip, Clip)]
    assert names == ["v3", "v10"]
    assert [failure.name for failure in failures] == ["v2.mp4", "v9.mp4"]
    assert "truncated" in failures[0].cause
    assert "has 1 frame" in failures[1].cause


def names_of(params: FolderParams, failures: list[ClipFailure] | None = None) -> list[str]:
    return [item.clip.name if isinstance(item, TrackedVideo) else item.name for item in read_folder(params, failures)]


@pytest.mark.parametrize("skip", [("v2.mp4", "v9.mp4"), ("v2", "v9")])
def test_videos_that_are_skipped_are_not_read_and_the_others_keep_their_numbers(
    tmp_path: Path, skip: tuple[str, ...]
) -> None:
    folder_with_three(tmp_path)
    (tmp_path / "v2.mp4").write_bytes(b"damaged")
    (tmp_path / "v9.mp4").write_bytes(b"damaged")
    (tmp_path / "prompts.txt").write_text("two\nthree\nnine\nten\n")
    params = FolderParams(path=tmp_path, prompts=tmp_path / "prompts.txt", skip=skip)
    clips = [clip for clip in read_folder(params) if isinstance(clip, Clip)]
    assert [(clip.name, clip.prompt) for clip in clips] == [("v3", "three"), ("v10", "ten")]


def test_clips_of_pickles_are_skipped_by_either_of_their_names(tmp_path: Path) -> None:
    bad = entry() | {"video": None}
    dump(tmp_path / "0000_of_0010.pkl", {"a b": bad, "c": entry()})
    dump(tmp_path / "0001_of_0010.pkl", [bad, entry()])
    for name in ("a b", "a_b"):
        params = FolderParams(path=tmp_path, skip=(name, "0001_of_0010_0000"))
        assert names_of(params) == ["c", "0001_of_0010_0001"]
        assert [item.clip.details["position"] for item in read_folder(params) if isinstance(item, TrackedVideo)] == [
            1,
            3,
        ]


def test_a_pickle_that_is_skipped_still_gives_the_clips_before_its_cut(tmp_path: Path) -> None:
    whole = dump(tmp_path / "0000_of_0010.pkl", {"a": entry(), "b": entry(seed=1)}).read_bytes()
    (tmp_path / "0000_of_0010.pkl").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "0001_of_0010.pkl").write_bytes(b"damaged")
    dump(tmp_path / "0002_of_0010.pkl", {"z": entry()})
    failures: list[ClipFailure] = []
    assert names_of(FolderParams(path=tmp_path), failures) == ["a", "z"]
    assert [failure.name for failure in failures] == ["b", "0000_of_0010.pkl", "0001_of_0010.pkl"]
    assert names_of(FolderParams(path=tmp_path, skip=tuple(failure.name for failure in failures))) == ["a", "z"]


def test_skipping_what_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    dump(tmp_path / "davis.pkl", {"a": entry(), "b": entry()})
    for params in (
        FolderParams(path=tmp_path, format="videos", skip=("v10", "v4")),
        FolderParams(path=tmp_path / "davis.pkl", end=1, skip=("b", "v4")),
    ):
        failures: list[ClipFailure] = []
        with pytest.raises(
            DatasetError, match=r"^skip names v4, but there is no such clip; available: (v2, v2\.mp4|a, b, davis)"
        ):
            next(read_folder(params, failures))
        assert not failures


def test_annotation_beside_a_video_is_read_in_either_unit(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    annotation = entry()
    found = []
    for scale in ((1, 1), (47, 31)):
        points = annotation["points"].astype(np.float64) * scale
        np.savez(tmp_path / "v.npz", points=points, occluded=annotation["occluded"])
        (tracked,) = read_folder(FolderParams(path=tmp_path))
        assert isinstance(tracked, TrackedVideo)
        found.append(tracked.tracks.points_xy_px)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[0][3, 2], annotation["points"][2, 3] * (47, 31), atol=1e-4)


def test_points_beside_a_video_are_annotated_unless_the_file_names_their_tracker(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    for given, truth in (({}, Truth("annotated")), ({"tracker": "cotracker3"}, Truth("pseudo_truth", "cotracker3"))):
        np.savez(tmp_path / "v.npz", points=np.full((2, 7, 2), 0.5), **given)
        (tracked,) = read_folder(FolderParams(path=tmp_path))
        assert isinstance(tracked, TrackedVideo)
        assert tracked.tracks.truth == truth
        write_clip(tmp_path / "clips", tracked.clip, tracked.tracks)
        again = read_given_tracks(tmp_path / "clips", "v")
        assert again is not None
        assert again.truth == truth


def test_units_that_are_stated_are_not_guessed(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    np.savez(tmp_path / "v.npz", points=np.full((2, 7, 2), 0.5))
    tracks = []
    for units in ("px", "fraction"):
        (tracked,) = read_folder(parse(FolderParams, {"path": str(tmp_path), "point_units": units}, "folder"))
        assert isinstance(tracked, TrackedVideo)
        tracks.append(tracked.tracks)
    np.testing.assert_array_equal(tracks[0].query_points, [(0, 0.5, 0.5)] * 2)
    np.testing.assert_array_equal(tracks[1].query_points, [(0, 23.5, 15.5)] * 2)
    assert tracks[0].visible.all()


def test_a_table_of_points_is_read_and_missing_rows_are_occluded(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    (tmp_path / "v.csv").write_text("point,frame,x,y,occluded\nnose,2,10,20,0\nnose,3,11,21,true\ntail,0,5,6,false\n")
    (tracked,) = read_folder(FolderParams(path=tmp_path))
    assert isinstance(tracked, TrackedVideo)
    np.testing.assert_array_equal(tracked.tracks.query_points, [(2, 10, 20), (0, 5, 6)])
    np.testing.assert_array_equal(np.argwhere(tracked.tracks.visible), [(0, 1), (2, 0)])


def test_a_cell_that_is_missing_in_a_table_does_not_hide_its_point(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    (tmp_path / "v.csv").write_text("point,frame,x,y,occluded\na,1,10,20\na,2,10,20,\na,3,10,20,1\n")
    (tracked,) = read_folder(FolderParams(path=tmp_path))
    assert isinstance(tracked, TrackedVideo)
    np.testing.assert_array_equal(np.flatnonzero(tracked.tracks.visible[:, 0]), [1, 2])


def test_a_table_that_excel_wrote_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    (tmp_path / "v.csv").write_text("point,frame,x,y\na,0,10,20\n", encoding="utf-8-sig", newline="\r\n")
    (tracked,) = read_folder(FolderParams(path=tmp_path))
    assert isinstance(tracked, TrackedVideo)
    np.testing.assert_array_equal(tracked.tracks.query_points, [(0, 10, 20)])


@pytest.mark.parametrize(
    "text",
    [
        "Point, Frame ,X,Y\r\na,2,10.5,20\r\n\r\n",
        "y;x;point;frame;note\n20;10,5;a;2;x, y\n;;;;\n",
        "point\tframe\tx\ty\na\t2\t10.5\t20\n",
        "point,frame,x,y,,\na,2,10.5,20,,\n",
        'frame,x,y,point\r2,"10.5",20,a',
    ],
)
def test_tables_of_every_spreadsheet_give_the_same_points(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.csv").write_text(text, newline="")
    ((_, cells),) = read_table(tmp_path / "v.csv", ("point", "frame", "x", "y"))
    assert [cells[column] for column in ("point", "frame", "x", "y")] == ["a", "2", "10.5", "20"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("point,frame,x,y\na,0,1,5,2,5\n", "line 2: has 6 cells for 4 columns; write decimals with a point"),
        ("point,frame,x,x,y\na,0,1,5,2\n", "has the column x twice"),
        ("", "has no column point; expected point, frame, x, y; columns are none"),
        ("point,frame,x\n", "has no column y; expected point, frame, x, y; columns are point, frame, x"),
        ("point,frame,x,y\na,0,1,5\na,0,left,5\n", "line 3 cannot be read"),
        ("point,frame,x,y\na,0,1\n", "line 2 cannot be read"),
        ("point,frame,x,y\na,7,1,5\n", "names frame 7, but the clip has 7 frames"),
        ("point,frame,x,y,occluded\na,0,1,5,maybe\n", "cannot be read"),
        ("point,frame,x,y\na,0,nan,5\n", "visible but not a number"),
        ("point,frame,x,y\na,0,99,5\n", "query point 0 is"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(DatasetError, match=rf"v\.mp4: .*{message}"):
        list(read_folder(FolderParams(path=tmp_path)))


def test_annotation_of_another_length_is_refused_unless_the_clip_was_cut(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", frames_of(), 5.0, lossless=True)
    np.savez(tmp_path / "v.npz", points=np.full((2, 11, 2), 0.5))
    with pytest.raises(DatasetError, match="annotates 11 frames, but the clip has 7"):
        list(read_folder(FolderParams(path=tmp_path)))
    np.savez(tmp_path / "v.npz", points=np.full((2, 7, 2), 0.5))
    (tracked,) = read_folder(FolderParams(path=tmp_path, max_frames=3))
    assert isinstance(tracked, TrackedVideo)
    assert tracked.tracks.num_frames == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": "x", "format": "tap"}, "folder.format is 'tap'.*kinetics"),
        ({"path": "x", "start": 3, "end": 3}, "start=3, end=3"),
        ({"path": "x", "max_frames": 1}, "max_frames is 1"),
        ({"path": "x", "fps": 0}, "fps is 0"),
        ({}, "folder.path is missing"),
    ],
)
def test_params_that_cannot_be_are_refused_before_anything_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(FolderParams, values, "folder")


def test_a_folder_with_nothing_to_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="contains no videos"):
        list(read_folder(FolderParams(path=tmp_path)))
    with pytest.raises(DatasetError, match="absent: the file or folder does not exist"):
        list(read_folder(FolderParams(path=tmp_path / "absent")))
    (tmp_path / "camera").mkdir()
    write_video(tmp_path / "camera/a.mp4", frames_of(), 5.0, lossless=True)
    with pytest.raises(DatasetError, match="no folders of images; left out, folder that contains videos: camera"):
        list(read_folder(FolderParams(path=tmp_path)))


def test_the_two_real_clips_are_read_with_every_annotation() -> None:
    path = FIXTURES.parent / "data" / "tapvid_badja.pkl"
    if not path.exists():
        pytest.skip("the real clips are not here; set DIFFTRACK_FIXTURES")
    camel, dog = load_tapvid_pickle(path, "strided")
    assert (camel.clip.name, camel.clip.num_frames, camel.clip.height, camel.clip.width) == ("camel", 18, 480, 854)
    assert (dog.clip.name, dog.clip.num_frames) == ("dog", 12)
    assert set(camel.tracks.query_points[:, 0]) == {0, 5, 10, 15}
    first, _ = load_tapvid_pickle(path)
    assert first.tracks.num_points == 20
    at_query = camel.tracks.points_xy_px[
        camel.tracks.query_points[:, 0].astype(int), np.arange(camel.tracks.num_points)
    ]
    np.testing.assert_array_equal(at_query, camel.tracks.query_points[:, 1:])


# Names, prompts and frames of folder sources


def test_two_clips_whose_files_differ_in_their_ending_or_in_blanks_are_two_clips(tmp_path: Path) -> None:
    for name in ("v.mp4", "v.mov", "a b.mp4", "a_b.mp4"):
        write_video(tmp_path / name, frames_of(), 5.0, lossless=True)
    names = names_of(FolderParams(path=tmp_path))
    assert len(set(names)) == 4
    assert names[2:] == ["v.mov", "v.mp4"]
    assert all(name.startswith("a_b-") for name in names[:2])
    assert names == names_of(FolderParams(path=tmp_path))


@pytest.mark.parametrize("name", ["影片一", "Ελλάδα_2", "हिन्दी", "naïve.1", "a-b"])
def test_names_keep_the_letters_of_every_script(tmp_path: Path, name: str) -> None:
    assert plain_name(name) == name
    write_clip(tmp_path, Clip(name, frames_of(), 5.0, "", "folder"))
    write_manifest(tmp_path, [name])
    assert clip_names(tmp_path) == [name]
    assert read_clip(tmp_path, name).name == name


def test_names_without_a_letter_differ_and_are_names_of_folders(tmp_path: Path) -> None:
    """Emoji alone, marks alone, and file names that are no UTF-8."""
    originals = ["🐱", "🐶", "👍🏽", "...", "-", "a🐱", "a🐶", os.fsdecode(b"a\xff"), os.fsdecode(b"a\xfe")]
    alone, together = [plain_name(name) for name in originals], unique_names(originals)
    assert len(set(alone[:5])) == 5
    assert len(set(together)) == len(originals)
    for name in (*alone, *together):
        check_name(name)


def test_a_name_is_one_whichever_way_its_accents_are_written_and_never_too_long() -> None:
    assert plain_name("e\u0301t\u00e9") == "\u00e9t\u00e9"
    assert plain_name(".git") == "_.git"
    assert plain_name("a/b c;$(d)") == "a_b_c___d_"
    assert len(plain_name("影" * 300).encode()) <= 200
    assert len(set(unique_names(["影" * 300, "影" * 301]))) == 2
    for bad in ("", ".a", "a b", "a/b", "e\u0301", "a\n", "x" * 201):
        with pytest.raises(DatasetError, match="is not a valid clip name"):
            Clip(bad, frames_of(), 5.0, "", "folder")


def test_prompts_of_clips_are_read_as_every_other_file_of_prompts(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf# title\n\ntwo\r\n\nthr\xe2\x80\xa8ee\nten\n")
    clips = list(read_folder(FolderParams(path=tmp_path, prompts=tmp_path / "prompts.txt")))
    assert [clip.prompt for clip in clips if isinstance(clip, Clip)] == ["two", "thr\u2028ee", "ten"]


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path) -> None:
    folder_with_three(tmp_path)
    (tmp_path / "v2.webp").write_bytes(b"")
    (tmp_path / "._v2.mp4").write_bytes(b"")
    said: list[str] = []
    assert len(list(read_folder(FolderParams(path=tmp_path), say=said.append))) == 3
    assert said == [
        f"{tmp_path}: left out, hidden: ._v2.mp4",
        f"{tmp_path}: left out, image beside videos: v2.webp",
    ]


def test_some_frames_of_a_video_at_a_smaller_size_keep_their_points(tmp_path: Path) -> None:
    """Frames 1, 4 and 7 of eight, at half the size; the point moves 2 px a frame, and 1 px a frame of the small one."""
    frames = np.zeros((8, 34, 46, 3), dtype=np.uint8)
    write_video(tmp_path / "v.mp4", frames, 24.0, lossless=True)
    points = np.stack([3.0 + 2 * np.arange(8), np.full(8, 30.0)], axis=-1)[None]
    params = FolderParams(path=tmp_path / "v.mp4", first_frame=1, every=3, longest_side=23)
    for write in ("npz", "csv"):
        if write == "npz":
            np.savez(tmp_path / "v.npz", points=points)
        else:
            (tmp_path / "v.npz").unlink()
            rows = [f"0,{frame},{x},{y}" for frame, (x, y) in enumerate(points[0])]
            (tmp_path / "v.csv").write_text("point,frame,x,y\n" + "\n".join(rows))
        (video,) = read_folder(params)
        assert isinstance(video, TrackedVideo)
        assert video.clip.frames.shape == (3, 17, 23, 3)
        assert video.clip.fps == 8.0
        np.testing.assert_allclose(video.tracks.points_xy_px[:, 0], [[2.5, 15], [5.5, 15], [8.5, 15]])
        assert video.clip.details["taken"] == {"first_frame": 1, "every": 3, "file_size": [34, 46]}


def test_a_folder_source_that_does_not_fit_names_the_options_that_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", np.zeros((8, 34, 46, 3), np.uint8), 24.0, lossless=True)
    monkeypatch.setattr("difftrack.datasets._folders.most_bytes", lambda: 7 * 34 * 46 * 3)
    with pytest.raises(DatasetError, match=r"set synthesize\.folder\.max_frames, every or longest_side"):
        list(read_folder(FolderParams(path=tmp_path)))
    assert len(list(read_folder(FolderParams(path=tmp_path, every=2)))) == 1


@pytest.mark.parametrize("name", ["set.PKL", "set.pickle"])
def test_a_pickle_is_one_whatever_its_ending_looks_like(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04}.")  # an empty dict
    assert list(read_folder(FolderParams(path=tmp_path / name))) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("davis.pkl.gz", "is an archive; unpack it first"),
        ("https://host/v.mp4", "is a URL; only local files and folders can be read, so download it first"),
    ],
)
def test_a_source_that_cannot_be_one_says_why(tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        list(read_folder(FolderParams(path=Path(path))))
