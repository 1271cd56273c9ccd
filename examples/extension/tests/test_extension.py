"""The toy family and the toy tracker obey the laws of `difftrack.testing`."""

from pathlib import Path

import pytest
from difftrack_example.save import save
from difftrack_example.template import Template

from difftrack.annotation import Tracker, make_tracker
from difftrack.backbones import KNOWN, Backbone, load_backbone
from difftrack.provenance import code_of
from difftrack.testing import BackboneLaws, TrackerLaws


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(f"path:{save(tmp_path_factory.mktemp('toy'))}")


class TestToyBackbone(BackboneLaws):
    features = ("heads", "attention", "block", "attention_input", "mlp_input")  # its MLP ends outside of `feed_forward`
    gives_unrotated = False  # one projection makes query, key and value

    @pytest.fixture
    def backbone(self, toy: Backbone) -> Backbone:
        return toy

    @pytest.fixture
    def clip_size(self) -> tuple[int, int, int]:
        return 9, 24, 40


class TestTemplate(TrackerLaws):
    """Template matching finds whole pixels only: each of five frames of 1.5 pixels is off by at most half a pixel."""

    motion_tolerance_px = 5.5

    @pytest.fixture
    def tracker(self) -> Tracker:
        return Template()


def test_the_code_of_transformer_autoencoder_and_pipeline_is_on_record(toy: Backbone) -> None:
    found = toy.made_by("difftrack.extraction").code["difftrack_example"]
    modules = [f"difftrack_example.{name}" for name in ("backbone", "models", "pipeline")]
    assert found == code_of(*modules)["difftrack_example"]
    assert found != code_of(modules[0])["difftrack_example"]


def test_the_entry_points_lead_here() -> None:
    assert KNOWN["toy-tiny"].repository == "nobody/toy-tiny"
    assert make_tracker("template", {"radius_px": 3}) == Template(radius_px=3)
    assert Path(__file__).parents[1].name == "extension"
