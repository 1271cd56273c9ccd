"""`dt.propagate` and `difftrack propagate`, on a real tiny pipeline."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox
from typer.testing import CliRunner

import difftrack as dt
from difftrack.api._errors import UsageError
from difftrack.chunks import ChunkParams
from difftrack.cli import app
from difftrack.media import mask_palette, read_mask, read_video, write_mask, write_video

FRAMES, CLIP_HEIGHT, CLIP_WIDTH = 7, 53, 71


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(scope="module")
def model(folder: Path) -> dt.Backbone:
    return dt.load_backbone(f"path:{folder}", device="cpu")


@pytest.fixture(scope="module")
def clip() -> dt.Clip:
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, CLIP_HEIGHT, CLIP_WIDTH, 3), dtype=np.uint8)
    return dt.read_clip(frames, name="noise")


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    mask = np.zeros((CLIP_HEIGHT, CLIP_WIDTH), dtype=np.uint8)
    mask[10:40, 8:30] = 2
    mask[20:50, 36:60] = 5
    return mask


CHUNKS = ChunkParams(chunk_len=4, interleaved=False, chunk_stride=2)


@pytest.fixture(scope="module")
def store(model: dt.Backbone, clip: dt.Clip) -> dt.Store:
    return dt.extract(
        model,
        clip,
        size=(HEIGHT, WIDTH),
        num_inference_steps=5,
        layers=[1, 3],
        descriptors=("query", "key", "feature"),
        chunks=CHUNKS,
        progress=False,
    )


def test_a_mask_goes_through_a_store_as_through_the_model(
    model: dt.Backbone, clip: dt.Clip, store: dt.Store, mask: np.ndarray
) -> None:
    options = {"layers": (1, 3), "top_k": None}
    stored = dt.propagate(store, mask=mask, **options)
    live = dt.propagate(
        model,
        clip,
        mask=mask,
        size=(HEIGHT, WIDTH),
        num_inference_steps=5,
        chunks=CHUNKS,
        progress=False,
        **options,
    )
    assert stored.masks is not None
    assert live.masks is not None
    assert stored.masks.shape == (FRAMES, CLIP_HEIGHT, CLIP_WIDTH)
    assert stored.labels.objects == (2, 5)
    np.testing.assert_allclose(stored.soft, live.soft, atol=0.02)  # the store holds half precision
    np.testing.assert_array_equal(stored.masks[0], mask)
    assert set(np.unique(stored.masks)) <= {0, 2, 5}
    np.testing.assert_allclose(stored.soft.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["feature", "query_query", "key_key"])
def test_every_stored_kind_carries_labels(store: dt.Store, mask: np.ndarray, kind: str) -> None:
    found = dt.propagate(store, mask=mask, kind=kind, radius_token=1)
    assert not np.array_equal(found.soft[0], found.soft[-1])
    np.testing.assert_allclose(found.soft.sum(axis=1), 1, atol=1e-5)


def test_radius_zero_keeps_masks_boxes_and_points_in_pixels_of_the_clip(store: dt.Store, mask: np.ndarray) -> None:
    points = [(12.5, 20.0), (50.0, 33.25)]
    found = dt.propagate(store, points=points, radius_token=0)
    assert found.points_xy_px is not None
    np.testing.assert_allclose(found.points_xy_px, np.broadcast_to(points, (FRAMES, 2, 2)), atol=1e-3)
    given = dt.propagate(store, boxes=[(8, 10, 40, 45)], radius_token=0)
    assert given.boxes_xyxy_px is not None
    stride = CLIP_WIDTH / found.soft.shape[3]
    np.testing.assert_allclose(
        given.boxes_xyxy_px[1:], np.broadcast_to((8, 10, 40, 45), (FRAMES - 1, 1, 4)), atol=stride
    )
    masks = dt.propagate(store, mask=mask, radius_token=0).masks
    assert masks is not None
    np.testing.assert_array_equal(masks[1:], np.broadcast_to(masks[1], masks[1:].shape))


def test_results_are_saved_drawn_and_described(
    store: dt.Store, clip: dt.Clip, mask: np.ndarray, tmp_path: Path
) -> None:
    found = dt.propagate(store, mask=mask)
    assert found.masks is not None
    assert repr(found).startswith("<Propagation of noise: 2 objects in 7 frames, over ")
    with np.load(found.save(tmp_path / "labels.npz")) as arrays:
        np.testing.assert_array_equal(arrays["masks"], found.masks)
        np.testing.assert_array_equal(arrays["objects"], [2, 5])
    folder = found.save(tmp_path / "masks")
    np.testing.assert_array_equal(read_mask(folder / "00006.png"), found.masks[6])
    with pytest.raises(UsageError, match="is not empty"):
        found.save(folder)
    with pytest.raises(UsageError, match="labels are saved as"):
        found.save(tmp_path / "labels.csv")
    drawn = read_video(found.overlay(to=tmp_path / "drawn.mp4")).frames
    assert drawn.shape[0] == FRAMES
    inside = drawn[0][15:35, 12:26].astype(float).mean(axis=(0, 1))
    halfway = (clip.frames[0][15:35, 12:26].mean(axis=(0, 1)) + mask_palette()[2]) / 2
    np.testing.assert_allclose(inside, halfway, atol=12)  # video compression is lossy


def test_wrong_calls_are_refused_in_one_line(
    model: dt.Backbone, store: dt.Store, clip: dt.Clip, mask: np.ndarray
) -> None:
    with pytest.raises(UsageError, match="give one of mask=, boxes= and points="):
        dt.propagate(store)
    with pytest.raises(UsageError, match="give one of mask=, boxes= and points="):
        dt.propagate(store, mask=mask, points=[(1, 2)])
    with pytest.raises(UsageError, match="a backbone needs the clip's frames"):
        dt.propagate(model, "noise", mask=mask)
    with pytest.raises(UsageError, match="a store holds its own clips"):
        dt.propagate(store, clip, mask=mask)
    with pytest.raises(ValueError, match="the mask is 70x53 px, but the clip 71x53"):
        dt.propagate(store, mask=mask[:, :70])
    with pytest.raises(ValueError, match=r"given for frames \[3\], but the chunks start at frames \[0\]"):
        dt.propagate(store, mask=mask, frame=3)
    with pytest.raises(ValueError, match=r"layers \[2\] are not stored"):
        dt.propagate(store, mask=mask, layers=(2,))
    with pytest.raises(ValueError, match="query point 1 is"):
        dt.propagate(store, points=[(3, 4), (300, 4)])


def _project(folder: Path, backbone: Path) -> Path:
    tracking = {
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 5,
        "steps": [4],
        "layers": [1, 2],
        "chunks": {"chunk_len": 4},
    }
    params = {
        "backbones": {"tiny": {"path": str(backbone)}},
        "extract": {"tracking": tracking},
        "track": {"layers": [2], "heads": {2: [1]}, "baselines": ["no_motion"]},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "params.yaml"


def _run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_writes_masks_arrays_and_an_overlay(
    folder: Path, clip: dt.Clip, mask: np.ndarray, tmp_path: Path
) -> None:
    video, first, out = tmp_path / "my video.mp4", tmp_path / "first.png", tmp_path / "out"
    write_video(video, clip.frames, 5.0, lossless=True)
    write_mask(first, mask)
    params = _project(tmp_path, folder)
    for _ in range(2):  # a second call writes over its own files
        status, said, error = _run("propagate", video, "--mask", first, "--params", params, "--out", out)
        assert status == 0, error
    assert [Path(line).name for line in said.splitlines()] == [
        "my-video-labels.npz",
        "my-video-labels.mp4",
        "my-video-masks",
    ]
    with np.load(out / "my-video-labels.npz") as arrays:
        for number, own in enumerate(arrays["masks"]):
            np.testing.assert_array_equal(read_mask(out / "my-video-masks" / f"{number:05d}.png"), own)
    np.testing.assert_array_equal(read_mask(out / "my-video-masks" / "00000.png"), mask)
    (out / "my-video-labels.npz").unlink()
    status, _, error = _run("propagate", video, "--mask", first, "--params", params, "--out", out)
    assert status == 1
    assert "this program did not write it" in error


def test_the_verb_wants_one_kind_of_labels(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    assert _run("propagate", video)[0] == 2
    assert _run("propagate", video, "--mask", "a.png", "--points", "1,2")[0] == 2
    assert _run("propagate", video, "--boxes", "1,2,3")[0] == 2
