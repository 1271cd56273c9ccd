"""DAVIS, JHMDB and BADJA as published, and masks as pictures. Broken files are named, and the rest is read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from difftrack.datasets import ClipFailure, DatasetError, KeypointVideo, load_badja, load_davis, load_jhmdb
from difftrack.media import MediaError, mask_palette, read_mask, write_image, write_mask

HEIGHT, WIDTH, FRAMES, JOINTS = 23, 37, 5, 3


def frames_of(folder: Path, *, first: int = 0, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(len(folder.name)).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for number, frame in enumerate(noise, start=first):
        write_image(folder / f"{number:05d}{suffix}", frame)


def mask_of(*objects: int) -> np.ndarray:
    """Bars of three columns."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for place, number in enumerate(objects):
        mask[4:15, 3 + 5 * place : 6 + 5 * place] = number
    return mask


# masks as pictures


def test_a_mask_comes_back_from_its_png(tmp_path: Path) -> None:
    mask = mask_of(1, 7, 255)
    write_mask(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, mask_palette()[mask])


def test_the_palette_is_that_of_pascal_voc_and_davis() -> None:
    assert mask_palette()[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert mask_palette()[[8, 255]].tolist() == [[64, 0, 0], [224, 224, 192]]
    assert len(np.unique(mask_palette(), axis=0)) == 256


def test_white_on_black_is_object_1_and_colours_are_numbered_in_their_order(tmp_path: Path) -> None:
    for mode in ("L", "1"):
        Image.fromarray((mask_of(1) * 255).astype(np.uint8)).convert(mode).save(tmp_path / "white.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "white.png"), mask_of(1))
    Image.fromarray(mask_of(2, 6)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), mask_of(2, 6))
    colors = np.array([[0, 0, 0], [255, 9, 0], [3, 200, 0]], dtype=np.uint8)
    Image.fromarray(colors[mask_of(1, 2)]).save(tmp_path / "colors.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "colors.png"), mask_of(2, 1))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", noise)
    write_image(tmp_path / "grey.png", noise[..., 0])
    for name, what in (("photo.png", "colours"), ("grey.png", "grey levels")):
        with pytest.raises(MediaError, match=f"{name}: has .* {what}, so it is not a mask"):
            read_mask(tmp_path / name)


# DAVIS


def davis(root: Path, *, resolution: str = "480p") -> Path:
    for name, objects in (("bear", (1,)), ("two", (1, 2))):
        frames_of(root / "JPEGImages" / resolution / name)
        folder = root / "Annotations" / resolution / name
        folder.mkdir(parents=True)
        for number in range(FRAMES):
            if name == "bear":
                Image.fromarray((mask_of(1) * 255).astype(np.uint8)).save(folder / f"{number:05d}.png")
            elif number < 2:
                write_mask(folder / f"{number:05d}.png", mask_of(*objects))
    return root


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution", ""])
def test_davis_is_read_in_all_its_layouts(tmp_path: Path, resolution: str) -> None:
    bear, two = load_davis(davis(tmp_path, resolution=resolution))
    assert (bear.clip.name, two.clip.name) == ("bear", "two")
    assert bear.clip.frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(bear.masks, np.stack([mask_of(1)] * FRAMES))
    assert bear.annotated.all()
    assert two.annotated.tolist() == [True, True, False, False, False]
    np.testing.assert_array_equal(two.masks[1], mask_of(1, 2))
    assert not two.masks[2:].any()


def test_davis_splits_name_sequences_or_their_files(tmp_path: Path) -> None:
    davis(tmp_path)
    for split, text in (
        ("2017/val", "two\n\n"),
        ("480p/val", "/JPEGImages/480p/two/00000.jpg /Annotations/x.png\n" * 2),
    ):
        path = tmp_path / "ImageSets" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert [video.clip.name for video in load_davis(tmp_path, split=split, max_frames=3)] == ["two"]
    with pytest.raises(DatasetError, match="the split does not exist; available: 2017/val, 480p/val"):
        next(load_davis(tmp_path, split="2016/val"))
    (tmp_path / "ImageSets" / "2017" / "bad.txt").write_text("../../etc\n..\n")
    with pytest.raises(DatasetError, match="is not a valid clip name"):
        next(load_davis(tmp_path, split="2017/bad"))


def test_what_is_wrong_with_a_sequence_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    davis(tmp_path)
    write_mask(tmp_path / "Annotations/480p/bear/00003.png", np.ones((3, 5), dtype=np.uint8))
    failures: list[ClipFailure] = []
    assert [video.clip.name for video in load_davis(tmp_path, failures=failures)] == ["two"]
    assert str(failures[0]) == "bear: 00003.png is 5x3 px, but its frame is 37x23"
    (tmp_path / "Annotations/480p/two/00000.png").unlink()
    with pytest.raises(DatasetError, match="two: clip two: the mask of the first frame is missing or empty"):
        list(load_davis(tmp_path, skip=["bear"]))
    with pytest.raises(DatasetError, match="does not contain JPEGImages and Annotations"):
        next(load_davis(tmp_path / "JPEGImages"))


# JHMDB


def jhmdb(root: Path) -> Path:
    for number, name in enumerate(("first_clip", "second_clip")):
        frames_of(root / "Rename_Images" / "catch" / name, first=1, suffix=".png")
        folder = root / "joint_positions" / "catch" / name
        folder.mkdir(parents=True)
        points = np.arange(2 * JOINTS * FRAMES, dtype=np.float64).reshape(2, JOINTS, FRAMES) + 1 + number
        savemat(folder / "joint_positions.mat", {"pos_img": points, "scale": np.ones((1, FRAMES))}, do_compression=True)
    splits = root / "splits"
    splits.mkdir()
    (splits / "catch_test_split1.txt").write_text("first_clip.avi 1\nsecond_clip.avi 2\n")
    return root


def test_joints_of_jhmdb_lie_in_the_pixels_of_the_frames(tmp_path: Path) -> None:
    (video,) = load_jhmdb(jhmdb(tmp_path))
    assert video.clip.name == "second_clip"
    assert video.points_xy_px.shape == (FRAMES, JOINTS, 2)
    # MATLAB's pixel 2 is the second; its centre is at 1.5 here. x runs over joints and frames first.
    assert video.points_xy_px[0, 0].tolist() == [1.5, 1.5 + JOINTS * FRAMES]
    assert video.points_xy_px[1, 2].tolist() == [1.5 + 2 * FRAMES + 1, 1.5 + (JOINTS + 2) * FRAMES + 1]
    assert video.known.all()
    assert [own.clip.name for own in load_jhmdb(tmp_path, part=1)] == ["first_clip"]
    assert len(list(load_jhmdb(tmp_path, split=None))) == 2
    with pytest.raises(DatasetError, match=r"contains no \*_test_split3.txt with clips of part 2"):
        next(load_jhmdb(tmp_path, split=3))


def test_files_of_joints_that_are_damaged_or_claim_too_much_are_refused(tmp_path: Path) -> None:
    jhmdb(tmp_path)
    path = tmp_path / "joint_positions/catch/second_clip/joint_positions.mat"
    whole = path.read_bytes()
    for content, cause in (
        (whole[: len(whole) // 2], "is not a readable MATLAB file"),
        (b"MATLAB 7.3 MAT-file" + bytes(400), "is not a readable MATLAB file"),
        (bytes(1 << 19), "at most"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"second_clip: .*{cause}"):
            list(load_jhmdb(tmp_path))
    savemat(path, {"pos_img": np.zeros((1 << 23, 1), dtype=np.float32)}, do_compression=True)
    with pytest.raises(DatasetError, match="at most 4194304 floats are read"):
        list(load_jhmdb(tmp_path))
    savemat(path, {"other": np.zeros(3)})
    with pytest.raises(DatasetError, match="contains no pos_img"):
        list(load_jhmdb(tmp_path))
    path.unlink()
    failures: list[ClipFailure] = []
    assert not list(load_jhmdb(tmp_path, failures=failures))
    assert "the file does not exist" in failures[0].cause


# BADJA


def badja(root: Path, **changes: Any) -> Path:
    frames_of(root / "DAVIS" / "JPEGImages" / "dog")
    (root / "joint_annotations").mkdir()
    silhouettes = root / "DAVIS" / "Annotations" / "dog"
    silhouettes.mkdir(parents=True)
    entries = []
    for number in (1, 3):
        twice = np.kron(mask_of(1), np.ones((2, 2), dtype=np.uint8))  # another size than the frames
        Image.fromarray(twice * 255).save(silhouettes / f"{number:05d}.png")
        entries.append(
            {
                "image_path": f"DAVIS/JPEGImages/dog/{number:05d}.jpg",
                "segmentation_path": f"DAVIS/Annotations/dog/{number:05d}.png",
                "joints": [[2, 11 + number], [0, 0], [7, 5]],
                "visibility": [1, 0, number == 3],
                **changes,
            }
        )
    (root / "joint_annotations" / "dog.json").write_text(json.dumps(entries))
    return root


def test_a_video_of_badja_begins_at_its_first_annotated_frame(tmp_path: Path) -> None:
    (video,) = load_badja(badja(tmp_path))
    assert isinstance(video, KeypointVideo)
    assert video.clip.name == "dog"
    assert video.clip.num_frames == FRAMES - 1
    assert video.known.tolist() == [[True, False, False], [False] * 3, [True, False, True], [False] * 3]
    assert video.points_xy_px[0, 0].tolist() == [12.5, 2.5]  # (row 2, col 12) is x 12.5, y 2.5
    assert video.points_xy_px[2, 2].tolist() == [5.5, 7.5]
    assert video.masks is not None
    np.testing.assert_array_equal(video.masks[0], mask_of(1) > 0)
    assert not video.masks[1].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_path": "/etc/passwd"}, "must be a path inside the folder of the data set"),
        ({"segmentation_path": "DAVIS/../../x.png"}, "must be a path inside the folder of the data set"),
        ({"image_path": None}, "image_path is None"),
        ({"image_path": "DAVIS/JPEGImages/dog/99999.jpg"}, "does not contain 99999.jpg"),
        ({"joints": [[1, 2, 3]]}, "joints are"),
        ({"joints": "many"}, "cannot be read"),
        ({"visibility": [0, 0, 0]}, "no keypoint is known in the first frame"),
    ],
)
def test_annotation_of_badja_that_leads_elsewhere_or_is_damaged_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        list(load_badja(badja(tmp_path, **changes)))
