"""RAFT and a vision transformer as trackers: real code, with random or known weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from difftrack.annotation import Tracker, TrackerUnavailableError, make_tracker
from difftrack.annotation._dino import _read_out
from difftrack.annotation._raft import follow_flow
from difftrack.testing import TrackerLaws, moving_texture

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
needs_torchvision = pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not installed")

QUERIES = np.asarray([(0, 30.5, 40.25), (5, 50, 33), (10, 60, 21.5)], dtype=np.float32)


# dense flow, chained


def constant_flow(velocity: tuple[float, float]) -> object:
    return lambda here, there: np.full((67, 97, 2), velocity, np.float32) * np.float32(there - here)


def test_a_constant_flow_carries_points_both_ways() -> None:
    frames = np.zeros((11, 67, 97, 3), np.uint8)
    tracks = follow_flow(frames, QUERIES, constant_flow((1.5, -0.75)), max_round_trip_px=1.0, tracker="mine")
    elapsed = np.arange(11)[:, None] - QUERIES[:, 0]
    expected = QUERIES[:, 1:] + elapsed[..., None] * np.float32([1.5, -0.75])
    np.testing.assert_allclose(tracks.points_xy_px, expected, atol=1e-4)
    assert tracks.visible.all()
    assert tracks.tracker == "mine"


def test_flow_is_read_between_pixels_and_a_way_that_does_not_lead_back_ends_the_track() -> None:
    """The flow grows by 1 per column: at x = 2.0, between the centres 1.5 and 2.5, it is (1 + 2) / 2."""

    def flow(here: int, there: int) -> np.ndarray:
        grows = np.zeros((5, 7, 2), np.float32)
        if there > here:
            grows[..., 0] = np.arange(7)
        return grows

    frames, query = np.zeros((3, 5, 7, 3), np.uint8), np.asarray([(0, 2.0, 2.5)], np.float32)
    tracks = follow_flow(frames, query, flow, max_round_trip_px=1.0, tracker="mine")
    assert tracks.points_xy_px[1, 0].tolist() == [3.5, 2.5]
    assert tracks.visible[:, 0].tolist() == [True, False, False]
    loose = follow_flow(frames, query, flow, max_round_trip_px=1.6, tracker="mine")
    assert loose.visible[:, 0].tolist() == [True, True, False]


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is installed")
def test_without_torchvision_raft_names_the_package_the_weights_and_their_licence() -> None:
    with pytest.raises(
        TrackerUnavailableError, match=r"package torchvision.*raft_large_C_T_SKHT_V2.*BSD-3-Clause"
    ) as raised:
        make_tracker("raft").track(np.zeros((2, 67, 97, 3), np.uint8), QUERIES[:1])
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("raft") / "raft.pth"
    torch.save(raft_small(weights=None).state_dict(), file)
    return file


@needs_torchvision
class TestRaft(TrackerLaws):
    """The small model with random weights."""

    queries = ((0, 30.5, 40.25), (1, 50.0, 33.0), (2, 60.0, 21.5))
    num_frames = 3

    @pytest.fixture
    def tracker(self, raft_weights: Path) -> Tracker:
        return make_tracker(
            "raft", {"model": "small", "checkpoint": str(raft_weights), "device": "cpu", "iterations": 2}
        )

    @pytest.mark.parametrize("query", [(0.0, 300.0, 40.0)])
    def test_a_query_outside_the_clip_is_refused_in_one_line(
        self, tracker: Tracker, frames: np.ndarray, query: tuple[float, float, float]
    ) -> None:
        super().test_a_query_outside_the_clip_is_refused_in_one_line(tracker, frames, query)

    def test_a_file_that_is_no_weights_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "raft.pth").write_bytes(b"damaged")
        with pytest.raises(TrackerUnavailableError, match=r"raft_small_C_T_V2.*raft\.pth"):
            make_tracker("raft", {"model": "small", "checkpoint": str(tmp_path / "raft.pth")}).track(
                np.zeros((2, 67, 97, 3), np.uint8), QUERIES[:1]
            )


# a vision transformer


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of two layers with random weights, made for 24 x 24 pixels; clips have another size."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(image_size=24, patch_size=4, **sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder


class TestDino(TrackerLaws):
    @pytest.fixture
    def tracker(self, vit: Path) -> Tracker:
        return make_tracker("dino", {"path": str(vit), "device": "cpu", "upsampling": 1})


def test_any_vision_transformer_of_transformers_does(tmp_path: Path) -> None:
    """DINOv2's own class, which has another interface for pictures of another size."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(tmp_path)
    tracks = make_tracker("dino", {"path": str(tmp_path), "device": "cpu"}).track(
        moving_texture(num_frames=2), QUERIES[:1]
    )
    assert np.isfinite(tracks.points_xy_px).all()


def test_a_random_transformer_finds_the_very_patch_again_in_a_still_clip(vit: Path) -> None:
    """The feature at a patch's centre is that patch's: its cosine with itself is 1, and all others are lower."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 20, 28, 3), dtype=np.uint8).repeat(3, axis=0)
    queries = np.asarray([(0, 4 * 3 + 2, 4 * 1 + 2), (1, 4 * 5 + 2, 4 * 4 + 2)], np.float32)
    settings = {"path": str(vit), "device": "cpu", "upsampling": 1, "window_radius": 0}
    tracks = make_tracker("dino", settings).track(frames, queries)
    np.testing.assert_allclose(tracks.points_xy_px, np.repeat(queries[None, :, 1:], 3, axis=0), atol=1e-4)
    assert tracks.visible.all()


def test_the_read_out_by_hand() -> None:
    """Cosines 0.5 and 0.5 - 0.05 ln 3 side by side at temperature 0.05: weights 3/4 and 1/4 of two centres."""
    cosine = torch.full((1, 3, 5), -1.0)
    cosine[0, 1, 2], cosine[0, 1, 3] = 0.5, 0.5 - 0.05 * float(np.log(3))
    place, best = _read_out(cosine, 1, 0.05)
    np.testing.assert_allclose(place.numpy(), [[0.75 * 2.5 + 0.25 * 3.5, 1.5]], atol=1e-5)
    assert float(best) == 0.5


def test_missing_weights_are_named_with_their_licence_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    frames = np.zeros((2, 67, 97, 3), np.uint8)
    with pytest.raises(
        TrackerUnavailableError, match=r"dinov2-small \(Apache-2\.0\).*no route.*hf download.*dino\.path"
    ):
        make_tracker("dino").track(frames, QUERIES[:1])
    with pytest.raises(TrackerUnavailableError, match=r"the weights .*has no config\.json"):
        make_tracker("dino", {"path": str(tmp_path)}).track(frames, QUERIES[:1])
