"""Class and configs decide which pipelines are supported; all others are refused by name before anything loads."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    UniPCMultistepScheduler,
)
from tiny_pipelines import (
    HEIGHT,
    NUM_FRAMES,
    WIDTH,
    save_cogvideox,
    save_cogvideox_i2v,
    save_hunyuan,
    save_ltx,
    save_wan,
    save_wan_i2v,
)
from typer.testing import CliRunner

import difftrack as dt
from difftrack.backbones import BackboneError, load_backbone
from difftrack.backbones._family import BackboneFamily, PipelineOutline
from difftrack.cli import app

# diffusers' own: numpy 2 on a tensor, in two schedulers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SAVED = {
    "cogvideox": save_cogvideox,
    "cogvideox-i2v": save_cogvideox_i2v,
    "hunyuan": save_hunyuan,
    "ltx": save_ltx,
    "wan": save_wan,
    "wan-i2v": save_wan_i2v,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def folder_of(saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Any:
    """Copy a tiny pipeline with its class, configs and components changed."""

    def make(name: str, *, pipeline: str | None = None, index: Mapping[str, Any] | None = None, **configs: Any) -> Path:
        if name not in saved:
            saved[name] = SAVED[name](tmp_path_factory.mktemp("saved") / name)
        folder = Path(shutil.copytree(saved[name], tmp_path / name))
        model_index = json.loads((folder / "model_index.json").read_text()) | dict(index or {})
        if pipeline is not None:
            model_index["_class_name"] = pipeline
        (folder / "model_index.json").write_text(json.dumps(model_index))
        for component, changes in configs.items():
            file = folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return make


REFUSED = {
    "CogVideoX-Fun-Control": (
        ("cogvideox-i2v", {"pipeline": "CogVideoXFunControlPipeline"}),
        "CogVideoXFunControlPipeline passes CogVideoXTransformer3DModel other inputs than the supported "
        "pipelines: CogVideoXPipeline, CogVideoXImageToVideoPipeline",
    ),
    "CogVideoX-Fun-InP": (
        ("cogvideox-i2v", {"transformer": {"in_channels": 13}}),
        "its transformer reads 13 channels, but CogVideoXImageToVideoPipeline passes 12",
    ),
    "CogVideoX from text on weights for images": (
        ("cogvideox-i2v", {"pipeline": "CogVideoXPipeline"}),
        "its transformer reads 12 channels, but CogVideoXPipeline passes 6",
    ),
    "CogVideoX from video": (("cogvideox", {"pipeline": "CogVideoXVideoToVideoPipeline"}), "other inputs than"),
    "LTX image to video": (
        ("ltx", {"pipeline": "LTXImageToVideoPipeline"}),
        "LTXImageToVideoPipeline passes LTXVideoTransformer3DModel other inputs than .*: LTXPipeline, LTXCondition",
    ),
    "HunyuanVideo-I2V": (
        ("hunyuan", {"pipeline": "HunyuanVideoImageToVideoPipeline"}),
        "HunyuanVideoImageToVideoPipeline passes HunyuanVideoTransformer3DModel other inputs",
    ),
    "HunyuanVideo-I2V under the class for text": (
        ("hunyuan", {"transformer": {"image_condition_type": "token_replace"}}),
        r"reads an image \(image_condition_type token_replace\), but only text to video is supported",
    ),
    "HunyuanVideo with the image's channels": (
        ("hunyuan", {"transformer": {"in_channels": 13}}),
        "its transformer reads 13 channels, but HunyuanVideoPipeline passes 6",
    ),
    "Wan FLF2V": (
        ("wan-i2v", {"transformer": {"pos_embed_seq_len": 34}}),
        r"reads a first and a last image \(pos_embed_seq_len\), but only a first one",
    ),
    "Wan Fun-Control": (
        ("wan-i2v", {"transformer": {"in_channels": 18}}),
        "its transformer reads 18 channels, but WanImageToVideoPipeline passes 16",
    ),
    "Wan from text on weights for images": (
        ("wan-i2v", {"pipeline": "WanPipeline"}),
        "its transformer reads 16 channels, but WanPipeline passes 6",
    ),
    "Wan from video": (("wan", {"pipeline": "WanVideoToVideoPipeline"}), "WanVideoToVideoPipeline passes Wan.* other"),
}


@pytest.mark.parametrize("checkpoint", REFUSED)
def test_a_pipeline_that_wants_other_inputs_is_refused_by_name_before_anything_loads(
    folder_of: Any, checkpoint: str
) -> None:
    (name, changes), said = REFUSED[checkpoint]
    folder = folder_of(name, **changes)
    with pytest.raises(BackboneError, match=said) as caught:
        load_backbone(f"path:{folder}")
    assert str(caught.value).startswith(f"path:{folder}: ")
    checked = CliRunner().invoke(app, ["models", "--check", f"path:{folder}", "--device", "cpu"])
    assert checked.exit_code == 1
    assert "ok" not in checked.output.split()


def test_a_pipeline_object_that_wants_other_inputs_is_refused_likewise(folder_of: Any) -> None:
    pipeline = LTXPipeline.from_pretrained(folder_of("ltx"))
    assert dt.wrap(pipeline).num_layers == 4
    with pytest.raises(BackboneError, match=r"LTXImageToVideoPipeline passes .* other inputs"):
        dt.wrap(LTXImageToVideoPipeline(**pipeline.components))


def test_a_class_of_ones_own_that_derives_from_a_captured_pipeline_is_one(folder_of: Any) -> None:
    class Mine(CogVideoXPipeline):
        pass

    assert dt.wrap(Mine.from_pretrained(folder_of("cogvideox"))).num_layers == 4


@pytest.mark.parametrize("name", ["cogvideox-i2v", "wan-i2v"])
def test_a_check_of_a_folder_gives_the_transformer_a_real_image(folder_of: Any, name: str) -> None:
    """A placeholder has as many channels as the transformer reads, whatever the autoencoder gives."""
    checked = CliRunner().invoke(app, ["models", "--check", f"path:{folder_of(name)}", "--device", "cpu"])
    assert [line.split()[0] for line in checked.output.splitlines()[1:]] == ["ok"] * 5


SCHEDULERS = (DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_without_known_levels_is_refused_when_a_pipeline_is_wrapped_and_before_it_samples(
    folder_of: Any, scheduler: Any
) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(folder_of("cogvideox"))
    wrapped = dt.wrap(pipeline)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    said = rf"the levels of its scheduler {scheduler.__name__} are not known.*set"
    with pytest.raises(BackboneError, match=said):
        dt.wrap(pipeline)
    calls: list[object] = []
    pipeline.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(BackboneError, match=said):
        wrapped.generate(
            "a disc", seed=1, num_inference_steps=3, cfg_scale=6.0, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH
        )
    assert calls == []


def test_the_schedulers_of_cogvideox_itself_are_taken(folder_of: Any) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(folder_of("cogvideox"))
    pipeline.scheduler = CogVideoXDPMScheduler.from_config(pipeline.scheduler.config)
    assert dt.wrap(pipeline).schedule(5).num_inference_steps == 5


@pytest.mark.parametrize("name", ["wan", "hunyuan", "ltx"])
def test_a_scheduler_that_is_none_of_flow_matching_is_refused(folder_of: Any, name: str) -> None:
    """UniPC without flow sigmas has levels of another kind, which would be mistaken for shares of noise."""
    folder = folder_of(name, index={"scheduler": ["diffusers", "UniPCMultistepScheduler"]})
    (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "UniPCMultistepScheduler"}')
    with pytest.raises(BackboneError, match="UniPCMultistepScheduler has no flow-matching levels; set one"):
        load_backbone(f"path:{folder}")


def test_a_family_that_names_no_pipelines_takes_any() -> None:
    outline = PipelineOutline(pipelines=("Anything",), components={}, configs={}, settings={})
    family = BackboneFamily(name="toy", backbone="toy:Toy", transformers=("Toy",))
    assert family.problem(outline) is None
