"""Weights that do not fit their config are refused by name, in one line, at once."""

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
from tiny_pipelines import save_cogvideox, save_wan

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
    """Edit the tensors of a component; return the name of the edited one."""
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
    assert "not finite in float16; use another dtype" in refusal(folder, "transformer", dtype="float16")


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_missing_tensor_is_refused_by_name(folder: Path, component: str) -> None:
    change(folder / component, lambda tensors, name: tensors.pop(name))
    message = refusal(folder, component)
    assert "the weights lack" in message.replace("lacks", "lack") or "values, but the weights hold" in message


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
    with pytest.raises(BackboneError, match="is not a regular file; remove it"):
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
        ({"num_layers": 10**6}, r"num_layers is 1000000, but the weights hold \d+ tensors"),
        ({"attention_head_dim": 10**10}, "attention_head_dim is 10000000000; it must be at most"),
        ({"sample_width": 10**6, "sample_height": 10**6}, r"sample_\* give \d+ latent pixels"),
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
    assert "values, but the weights hold" in refusal(folder, "transformer")


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


# One loader, with the rules of the libraries themselves


@pytest.fixture(scope="module")
def saved_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class that keeps some modules in float32."""
    return save_wan(tmp_path_factory.mktemp("saved") / "wan")


@pytest.fixture(params=["cogvideox", "wan"])
def either(request: pytest.FixtureRequest, saved: Path, saved_wan: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved if request.param == "cogvideox" else saved_wan, tmp_path / "pipeline"))


def state(folder: Path, component: str = "transformer") -> dict[str, torch.Tensor]:
    model = FolderComponents(PipelineFolder(folder), ModelParams())[component]
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def into_shards(folder: Path, *, stem: str = "diffusion_pytorch_model") -> list[str]:
    """Split a component's file in two; return the names of its tensors, the first shard's first."""
    whole = folder / f"{stem}.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    middle = len(names) // 2
    files = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, part in zip(files, (names[:middle], names[middle:]), strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    index = {name: files[place >= middle] for place, name in enumerate(names)}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    whole.unlink()
    return names


@pytest.mark.parametrize(
    "stranger", ["model.safetensors", "zz.safetensors", "diffusion_pytorch_model-00001-of-00001.safetensors"]
)
def test_a_stray_file_beside_the_weights_never_becomes_the_weights(either: Path, stranger: str) -> None:
    before = state(either)
    sevens = {
        name: torch.full_like(tensor, 7) for name, tensor in load_file(weights_of(either / "transformer")).items()
    }
    save_file(sevens, either / "transformer" / stranger, {"format": "pt"})
    assert same_weights(before, state(either))


@pytest.mark.parametrize("component", COMPONENTS)
def test_shards_are_read_by_their_index(either: Path, component: str) -> None:
    before = state(either, component)
    into_shards(either / component, stem="model" if component == "text_encoder" else "diffusion_pytorch_model")
    assert same_weights(before, state(either, component))


def test_a_tensor_in_a_shard_that_the_index_does_not_name_for_it_is_refused(either: Path) -> None:
    first = into_shards(either / "transformer")[0]
    file = either / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    tensors = load_file(file)
    tensors[first] = torch.full((3,), 7.0)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(
        BackboneError, match=rf"00002-of-00002.safetensors holds {first}, which the index assigns to .*00001"
    ):
        load_backbone(f"path:{either}")


@pytest.mark.parametrize("component", COMPONENTS)
def test_weights_of_one_variant_alone_are_read_whatever_the_class(either: Path, component: str) -> None:
    before = state(either, component)
    file = weights_of(either / component)
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert same_weights(before, state(either, component))


def test_shards_of_one_variant_alone_are_read(either: Path) -> None:
    before = state(either)
    folder = either / "transformer"
    into_shards(folder)
    for number in (1, 2):
        shard = f"-0000{number}-of-00002.safetensors"
        (folder / f"diffusion_pytorch_model{shard}").rename(folder / f"diffusion_pytorch_model.fp16{shard}")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    (folder / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        index.read_text().replace("diffusion_pytorch_model-", "diffusion_pytorch_model.fp16-")
    )
    index.unlink()
    assert same_weights(before, state(either))


def test_several_variants_without_a_plain_one_are_refused(folder: Path) -> None:
    file = weights_of(folder / "vae")
    shutil.copy(file, file.with_name("diffusion_pytorch_model.ema.safetensors"))
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(BackboneError, match="vae holds the variants ema, fp16 of its weights and none without"):
        load_backbone(f"path:{folder}")


def test_a_folder_whose_files_its_class_does_not_read_names_them(folder: Path) -> None:
    file = weights_of(folder / "transformer")
    file.rename(file.with_name("cogvideo.safetensors"))
    with pytest.raises(
        BackboneError, match=r"no diffusion_pytorch_model\.safetensors, .* cogvideo\.safetensors is not read"
    ):
        load_backbone(f"path:{folder}")


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("method", "package"), [("bitsandbytes", "bitsandbytes"), ("quanto", "optimum-quanto"), ("gptq", "gptq")]
)
def test_weights_that_were_quantised_are_never_read_as_if_they_were_not(
    either: Path, component: str, method: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difftrack.backbones._folder.installed", frozenset)
    file = either / component / "config.json"
    quantization = {"quantization_config": {"quant_method": method, "load_in_4bit": True}}
    file.write_text(json.dumps(json.loads(file.read_text()) | quantization))
    with pytest.raises(BackboneError, match=rf"quantised by {method}, but the package {package} is not installed"):
        load_backbone(f"path:{either}")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
def test_an_adapter_beside_the_weights_is_named_and_not_merged(either: Path, component: str, name: str) -> None:
    before = state(either, component)
    save_file({"lora_A.weight": torch.ones(3)}, either / component / name, {"format": "pt"})
    with pytest.warns(UserWarning, match=f"{name} is an adapter and is not applied: .*load_lora_weights"):
        assert same_weights(before, state(either, component))


def test_an_adapter_that_transformers_would_apply_is_refused_by_name(either: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "elsewhere/other", "target_modules": ["q"]}
    (either / "text_encoder/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match=r"text_encoder holds adapter_config\.json: transformers would apply"):
        load_backbone(f"path:{either}")
