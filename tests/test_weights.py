"""Weights that are not what their config says are refused by name, in one line and in no time."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import save_cogvideox

from difftrack.backbones import BackboneError, ModelParams, load_backbone
from difftrack.backbones._components import FolderComponents
from difftrack.backbones._folder import PipelineFolder

pytestmark = pytest.mark.timeout(30)

COMPONENTS = ("transformer", "vae", "text_encoder")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    save_cogvideox(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "pipeline")
    return tmp_path / "pipeline"


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def load(folder: Path, component: str, **params: Any) -> None:
    FolderComponents(PipelineFolder(folder), ModelParams(**params))[component]


def refusal(folder: Path, component: str, **params: Any) -> str:
    with pytest.raises(BackboneError) as caught:
        load(folder, component, **params)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert str(folder / component) in message
    return message


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor], str], None]) -> str:
    """Edit the tensors of a component; the name of the one that was edited."""
    file = weights_of(folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = max(
        (name for name in tensors if tensors[name].ndim == 2), key=lambda name: tensors[name].numel(), default=""
    )
    name = name or max(tensors, key=lambda name: tensors[name].numel())
    edit(tensors, name)
    save_file(tensors, file, {"format": "pt"})
    return name


def spoil(value: float) -> Callable[[dict[str, torch.Tensor], str], None]:
    def edit(tensors: dict[str, torch.Tensor], name: str) -> None:
        tensors[name].view(-1)[-1] = value

    return edit


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_that_is_whole_loads(folder: Path, component: str) -> None:
    load(folder, component)
    load(folder, component, dtype="bfloat16")


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(folder: Path, component: str, value: float) -> None:
    name = change(folder / component, spoil(value))
    assert f"{name.split('.')[-1]} holds values that are not finite in float" in refusal(folder, component)


def test_weights_beyond_the_dtype_name_the_dtype(folder: Path) -> None:
    change(folder / "transformer", spoil(1e6))
    load(folder, "transformer", dtype="float32")
    assert "not finite in float16; take another dtype" in refusal(folder, "transformer", dtype="float16")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_missing_tensor_is_refused_by_name(folder: Path, component: str) -> None:
    change(folder / component, lambda tensors, name: tensors.pop(name))
    message = refusal(folder, component)
    assert "the weights lack" in message.replace("lacks", "lack") or "values, and the weights hold" in message


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_tensor_too_many_is_refused_by_name(folder: Path, component: str) -> None:
    change(folder / component, lambda tensors, name: tensors.update(stranger=torch.zeros(3)))
    assert "has stranger, which the class" in refusal(folder, component)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_tensor_under_another_name_is_refused_by_both_or_one(folder: Path, component: str) -> None:
    name = change(folder / component, lambda tensors, name: tensors.update(renamed=tensors.pop(name)))
    assert any(word in refusal(folder, component) for word in (name, "renamed"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_tensor_of_another_shape_is_refused(folder: Path, component: str) -> None:
    def widen(tensors: dict[str, torch.Tensor], name: str) -> None:
        tensors[name] = torch.zeros(tensors[name].shape[0] + 1, *tensors[name].shape[1:])

    change(folder / component, widen)
    assert "shape" in refusal(folder, component)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def say_more(file: Path) -> None:
    file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    "damage", [truncate, say_more, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"\0" * 100)]
)
def test_damaged_files_are_refused_when_the_folder_is_opened(
    folder: Path, component: str, damage: Callable[[Path], Any]
) -> None:
    file = weights_of(folder / component)
    damage(file)
    with pytest.raises(
        BackboneError, match=r"safetensors is damaged or cut short .*; copy or fetch .* again"
    ) as caught:
        load_backbone(f"path:{folder}")
    assert str(file) in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="a FIFO of Unix")
@pytest.mark.parametrize("name", ["transformer/weights.json", "tokenizer/spiece.model", "vae/extra/a.txt"])
def test_a_fifo_in_a_component_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(BackboneError, match="is no regular file; take it out"):
        load_backbone(f"path:{folder}")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "has no mapping `weight_map`"),
        ('{"weight_map": null}', "has no mapping `weight_map`"),
        ('{"weight_map": {"a": "../../../etc/passwd"}}', r"names the file '\.\./\.\./\.\./etc/passwd'"),
        ('{"weight_map": {"a": 3}}', "names the file '3'"),
        ('{"weight_map": {"a": "diffusion_pytorch_model-2.safetensors"}}', "lacks diffusion_pytorch_model-2"),
    ],
)
def test_an_index_of_weights_that_is_none_is_refused(folder: Path, index: str, message: str) -> None:
    (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"path:{folder}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**6}, r"num_layers is 1000000, and the weights hold \d+ tensors"),
        ({"attention_head_dim": 10**10}, "attention_head_dim is 10000000000; at most"),
        ({"sample_width": 10**6, "sample_height": 10**6}, r"sample_\* make \d+ latent pixels"),
    ],
)
def test_a_config_that_no_weights_can_fill_is_refused_before_a_model_is_made(
    folder: Path, changes: dict[str, int], message: str
) -> None:
    file = folder / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"path:{folder}")


def test_a_model_with_more_values_than_its_files_is_refused_before_it_takes_memory(folder: Path) -> None:
    file = folder / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_head_dim": 1 << 15}))
    assert "values, and the weights hold" in refusal(folder, "transformer")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("[]", "names no pipeline"),
        ('{"_class_name": 3}', "names no pipeline"),
        ('{"_class_name": "A", "../../etc": ["diffusers", "B"]}', r"'\.\./\.\./etc' is .*; a component is"),
        ('{"_class_name": "A", "vae": ["diffusers"]}', "'vae' is .*; a component is"),
        ('{"_class_name": "A", "vae": [{"a": 1}, "B"]}', "'vae' is .*; a component is"),
    ],
)
def test_a_model_index_that_is_none_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "model_index.json").write_text(content)
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"path:{folder}")


@pytest.mark.parametrize("content", ["{", "[" * 200_000, "[]", "null"])
@pytest.mark.parametrize("name", ["transformer/config.json", "text_encoder/config.json"])
def test_a_config_that_is_none_is_refused(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(BackboneError, match=r"config\.json"):
        load_backbone(f"path:{folder}")


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"])
def test_other_files_that_cannot_be_read_are_one_line(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 200_000)
    assert "cannot be loaded" in refusal(folder, name.split("/")[0])
