"""Switches for small cards: what leaves memory, and that captures do not change."""

import gc
import importlib.util
import weakref
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from tiny_pipelines import ROWS, clip_size
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel
from typer.testing import CliRunner

from difftrack import backbones
from difftrack.backbones import (
    KNOWN,
    Backbone,
    BackboneError,
    MemoryNeed,
    ModelParams,
    load_backbone,
    memory_needs,
    need_of,
)
from difftrack.cli import app

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning"),
]

FAMILIES = (
    "cogvideox-5b",
    "cogvideox-1.5-5b-i2v",
    "hunyuan-video",
    "hunyuan-video-1.5",
    "wan2.1-i2v-14b",
    "ltx-2b",
    "mochi-1",
    "allegro",
    "skyreels-v2-1.3b",
)
"""One row for each class of transformer and of autoencoder; two of the rows start from an image."""
PROMPT = "a red disc moves left"


@pytest.fixture(scope="module", params=FAMILIES)
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, ROWS[request.param](tmp_path_factory.mktemp("pipeline"))


def loaded(folder: Path, **params: Any) -> Backbone:
    return load_backbone(f"path:{folder}", ModelParams(**{"device": "cpu", **params}))


def clip(name: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*clip_size(name), 3), dtype=np.uint8)


def everything(name: str, backbone: Backbone) -> dict[str, Tensor]:
    """Run a clip through every component: prompt, autoencoder, image, transformer cut off and whole, prompt again."""
    frames = clip(name)
    prompt, latents = backbone.embed(PROMPT), backbone.encode(frames, frames_alone=False)
    conditions = {}
    if backbone.needs_image:
        conditions["conditioning"] = backbone.condition(frames[0], len(latents), frames_alone=False)
    schedule = backbone.schedule(10, grid=backbone.grid_of(latents))
    found = {"prompt": prompt.tokens, "latents": latents}
    for asked in (prompt, backbone.embed("blue")):  # the second forward follows one that ended early
        for record in backbone.capture(latents, 4, schedule, asked, layers=[1, 2], **conditions):
            assert record.query is not None
            assert record.feature is not None
            found |= {f"{record.layer} {len(found)}": torch.cat([record.query, record.feature]).clone()}
    found["output"] = backbone.predict(latents, torch.tensor(500), prompt, **conditions)
    return {what: tensor.cpu() for what, tensor in found.items()}


def sampled(name: str, backbone: Backbone) -> np.ndarray:
    num_frames, height, width = clip_size(name)
    image = {"image": clip(name)[0]} if backbone.needs_image else {}
    return backbone.generate(
        PROMPT,
        seed=3,
        num_inference_steps=2,
        cfg_scale=1.0,
        num_frames=num_frames,
        height=height,
        width=width,
        **image,
    ).frames


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    assert [what for what in one if not torch.equal(one[what], other[what])] == []
    assert all(bool(tensor.isfinite().all()) for tensor in one.values())


# Offload


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Imitate offloading to a GPU on the CPU: weights that are away hold NaN. Yields the modules that are present."""
    hooks: Any = accelerate.hooks
    here: list[nn.Module] = []
    kept: dict[int, list[Tensor]] = {}

    def leave(hook: object, module: nn.Module) -> nn.Module:
        if id(module) not in kept:
            kept[id(module)] = [weight.detach().clone() for weight in module.parameters()]
        for weight in module.parameters():
            weight.data.fill_(torch.nan)
        here[:] = [other for other in here if other is not module]
        return module

    def arrive(hook: Any, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if hook.prev_module_hook is not None:
            hook.prev_module_hook.offload()
        for weight, value in zip(module.parameters(), kept[id(module)], strict=True):
            weight.data.copy_(value)
        here[:] = [*(other for other in here if other is not module), module]
        return args, kwargs

    monkeypatch.setattr(hooks.CpuOffload, "init_hook", leave)
    monkeypatch.setattr(hooks.CpuOffload, "pre_forward", arrive)
    monkeypatch.setattr("difftrack.backbones._components.refuse_offload", lambda device: None)
    return here


def test_model_offload_changes_no_capture_and_no_sample(row: tuple[str, Path], poisoned: list[nn.Module]) -> None:
    name, folder = row
    resident, offloaded = loaded(folder), loaded(folder, cpu_offload=True)
    same(everything(name, resident), everything(name, offloaded))
    assert np.array_equal(sampled(name, resident), sampled(name, offloaded))


def test_text_encoder_and_transformer_are_never_on_the_gpu_together(poisoned: list[nn.Module], tmp_path: Path) -> None:
    offloaded = loaded(ROWS["cogvideox-5b"](tmp_path), cpu_offload=True)
    everything("cogvideox-5b", offloaded)
    assert offloaded.transformer in poisoned
    offloaded.embed(PROMPT)
    assert poisoned == [offloaded.components["text_encoder"]] or poisoned == []
    assert not [module for module in poisoned if module is offloaded.transformer]


def test_weights_that_come_layer_by_layer_change_no_capture(row: tuple[str, Path]) -> None:
    """accelerate's own offload of every layer: weights are on the device meta except while the layer runs."""
    name, folder = row
    resident, offloaded = loaded(folder), loaded(folder)
    transformer = offloaded.transformer
    accelerate.cpu_offload(transformer, execution_device=torch.device("cpu"))
    blocks = [module for module in transformer.modules() if isinstance(module, nn.Linear)]
    assert {block.weight.device.type for block in blocks} == {"meta"}
    same(everything(name, resident), everything(name, offloaded))


def test_offload_with_a_released_text_encoder_loads_nothing_again(poisoned: list[nn.Module], tmp_path: Path) -> None:
    offloaded = loaded(ROWS["wan2.1-1.3b"](tmp_path), cpu_offload=True, release_text_encoder=True)
    offloaded.embed(PROMPT)
    encoder = offloaded.components["text_encoder"]
    assert encoder not in poisoned
    offloaded.embed("blue")
    assert offloaded.components["text_encoder"] is encoder


def test_offload_says_what_it_lacks(tmp_path: Path) -> None:
    folder = ROWS["cogvideox-5b"](tmp_path)
    with pytest.raises(BackboneError, match=r"cpu_offload is set but the device is cpu; it needs a GPU.*release"):
        loaded(folder, cpu_offload=True).embed(PROMPT)


@pytest.mark.gpu
def test_model_offload_on_a_gpu_changes_no_capture(row: tuple[str, Path]) -> None:
    name, folder = row
    resident, offloaded = (loaded(folder, device="cuda", cpu_offload=offload) for offload in (False, True))
    same(everything(name, resident), everything(name, offloaded))
    assert next(offloaded.transformer.parameters()).device.type == "cuda"
    offloaded.embed(PROMPT)
    assert next(offloaded.transformer.parameters()).device.type == "cpu"
    assert np.array_equal(sampled(name, resident), sampled(name, offloaded))


def test_a_backbone_that_is_let_go_leaves_memory(row: tuple[str, Path]) -> None:
    """Nothing may keep a component alive between calls: the next one needs its place on the card."""
    name, folder = row
    backbone = loaded(folder)
    everything(name, backbone)
    left = weakref.ref(backbone.transformer)
    del backbone
    gc.collect()
    assert left() is None


# Text encoders


def held(backbone: Backbone) -> set[str]:
    return {name for name, part in backbone.components._loaded.items() if isinstance(part, nn.Module)}


def test_questions_load_nothing_and_prompts_load_text_alone(row: tuple[str, Path]) -> None:
    """A card that cannot hold both components can then hold one after the other."""
    name, folder = row
    backbone = loaded(folder, release_text_encoder=True)
    assert backbone.num_layers == 4
    grid = backbone.token_grid(*clip_size(name))
    backbone.schedule(10, grid=grid)
    assert backbone.num_heads * backbone.num_channels * backbone.text_channels * backbone.text_length > 0
    assert backbone.num_text_tokens >= 0
    assert held(backbone) == set()
    backbone.embed(PROMPT)
    assert held(backbone) == set()
    keeping = loaded(folder)
    keeping.token_grid(*clip_size(name))
    keeping.embed(PROMPT)
    assert held(keeping) <= {"text_encoder", "text_encoder_2"}


def test_the_transformer_makes_room_for_the_next_prompts_text_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[tuple[str, str]] = []
    backbone = loaded(ROWS["cogvideox-5b"](tmp_path), release_text_encoder=True)
    everything("cogvideox-5b", backbone)
    monkeypatch.setattr(nn.Module, "to", lambda part, to: (moves.append((type(part).__name__, to.type)), part)[1])
    monkeypatch.setattr(backbone.components, "device", torch.device("cuda"))
    assert isinstance(backbone.components["text_encoder"], T5EncoderModel)
    backbone.components.release_text()
    names = ("CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX")
    assert set(moves[:2]) == {(name, "cpu") for name in names}
    assert moves[2] == ("T5EncoderModel", "cuda")
    assert set(moves[3:]) == {(name, "cuda") for name in names}


def test_a_released_text_encoder_is_gone_and_the_prompt_is_the_same(row: tuple[str, Path]) -> None:
    name, folder = row
    kept, released = loaded(folder), loaded(folder, release_text_encoder=True)
    encoder = weakref.ref(released.components["text_encoder"])
    assert torch.equal(released.embed(PROMPT).tokens, kept.embed(PROMPT).tokens)
    gc.collect()
    assert encoder() is None
    same(everything(name, kept), everything(name, released))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_text_encoder_says_what_it_needs(
    tmp_path: Path, quantization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = loaded(ROWS["cogvideox-5b"](tmp_path), text_encoder_quantization=quantization)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    said = rf"text_encoder_quantization is {quantization}.*bitsandbytes, which is missing.*\[memory\].*release_text"
    with pytest.raises(BackboneError, match=said):
        backbone.embed("a disc")
    assert backbone.encode(clip("cogvideox-5b"), frames_alone=True).shape == (9, 6, 6, 10)


def test_quantisation_reaches_from_pretrained_for_text_encoders_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("transformers.utils.quantization_config.BitsAndBytesConfig.post_init", lambda config: None)
    asked: list[dict[str, Any]] = []
    folder = ROWS["cogvideox-5b"](tmp_path)
    encoder = loaded(folder).components["text_encoder"]
    monkeypatch.setattr(
        type(encoder), "from_pretrained", lambda *_, **choices: (asked.append(choices), (encoder, {}))[1]
    )
    backbone = loaded(folder, text_encoder_quantization="nf4")
    backbone.embed(PROMPT)
    assert backbone.transformer is not None
    (choices,) = asked
    assert choices["use_safetensors"] is True
    assert choices["quantization_config"].load_in_4bit
    assert choices["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert choices["device_map"] == {"": torch.device("cpu")}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_text_encoder_embeds_nearly_alike(tmp_path: Path, quantization: Any) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = ROWS["cogvideox-5b"](tmp_path)
    torch.manual_seed(0)
    wide = T5Config(vocab_size=60, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2)  # blocks of 32 channels
    T5EncoderModel(wide).save_pretrained(folder / "text_encoder")
    backbone = loaded(folder, text_encoder_quantization=quantization)
    tokens, whole = backbone.embed(PROMPT).tokens, loaded(folder).embed(PROMPT).tokens
    kinds = {"int8": bitsandbytes.nn.Linear8bitLt, "nf4": bitsandbytes.nn.Linear4bit}
    assert any(isinstance(module, kinds[quantization]) for module in backbone.components["text_encoder"].modules())
    assert not torch.equal(tokens, whole)
    assert float((tokens - whole).norm() / whole.norm()) < {"int8": 0.1, "nf4": 0.5}[quantization]


# Autoencoders


def test_every_autoencoder_can_be_sliced_and_tiled(row: tuple[str, Path]) -> None:
    """Sliced latents are the same, up to the order of summation in a batch."""
    name, folder = row
    plain, switched = loaded(folder), loaded(folder, vae_slicing=True, vae_tiling=True)
    assert switched.vae.use_slicing
    assert switched.vae.use_tiling
    if name.startswith("cogvideox"):
        switched.vae.enable_tiling(16, 24, 0.5, 0.5)
    assert switched.encode(clip(name), frames_alone=False).shape == plain.encode(clip(name), frames_alone=False).shape
    sliced = loaded(folder, vae_slicing=True)
    for frames_alone in (False, True):
        latents = (backbone.encode(clip(name), frames_alone=frames_alone) for backbone in (plain, sliced))
        torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-4)


def test_tiles_change_latents_a_little(tmp_path: Path) -> None:
    folder = ROWS["cogvideox-5b-i2v"](tmp_path)
    plain, tiled = loaded(folder), loaded(folder, vae_tiling=True)
    tiled.vae.enable_tiling(16, 24, 0.5, 0.5)
    one, other = (backbone.encode(clip("cogvideox-5b-i2v"), frames_alone=False) for backbone in (plain, tiled))
    assert one.shape == other.shape
    assert not torch.equal(one, other)
    assert float((one - other).norm() / one.norm()) < 1


def test_tiles_that_give_latents_of_another_size_are_refused(tmp_path: Path) -> None:
    """Tiles of 20 x 28 px of the stock autoencoder overlap by fractions of latent pixels here; it does not notice."""
    tiled = loaded(ROWS["cogvideox-5b-i2v"](tmp_path), vae_tiling=True)
    with pytest.raises(BackboneError, match=r"12 x 15 latents for 40 x 56 px instead of 10 x 14.*vae_tiling"):
        tiled.encode(clip("cogvideox-5b-i2v"), frames_alone=False)


# What fits which card


def need() -> MemoryNeed:
    """Text 10, transformer 12, others 3, activations 2; encode 5, frames 9 (3 one by one), decode 7; tiles 1, 2, 1."""
    gb = 10**9
    return MemoryNeed(
        "",
        text_bytes=10 * gb,
        transformer_bytes=12 * gb,
        running_bytes=12 * gb,
        other_bytes=3 * gb,
        activation_bytes=2 * gb,
        working_bytes={"encode": 5 * gb, "encode_frames": 9 * gb, "sample": 7 * gb},
        tiled_bytes={"encode": 1 * gb, "encode_frames": 2 * gb, "sample": 1 * gb},
        sliced_bytes=3 * gb,
    )


def test_a_need_is_that_of_what_is_done_at_a_time() -> None:
    """CUDA 1. Encoding: 1 + 10 + 15 + 5; text goes: 1 + 15 + 5; one by one: 1 + max(10, 3 + 5, 12 + 2)."""
    ways = ((), ("release_text_encoder",), ("cpu_offload",))
    assert [need().needed(way, ["encode"]) // 10**9 for way in ways] == [31, 21, 15]
    assert [need().needed(way, ["encode_frames"]) // 10**9 for way in ways] == [35, 25, 15]
    assert need().needed(("vae_slicing",), ["encode_frames"]) == 29 * 10**9
    assert need().needed(("vae_tiling",), ["sample"]) == 30 * 10**9  # two branches of 2 exceed tiles of 1
    assert need().needed(("vae_slicing",), ["encode"]) == need().needed((), ["encode"])
    assert need().needed() == need().needed((), ["encode_frames"])


def test_the_mildest_switches_that_fit_are_taken() -> None:
    def taken(card: int, work: str) -> tuple[str, ...] | None:
        return need().switches_for(int(card * 10**9 / 0.95) + 9, [work])

    assert [taken(card, "encode") for card in (31, 30, 21, 20, 15)] == [
        (),
        ("release_text_encoder",),
        ("release_text_encoder",),
        ("cpu_offload",),
        ("cpu_offload",),
    ]
    assert [taken(card, "encode_frames") for card in (35, 34, 28, 24, 19, 15, 14)] == [
        (),
        ("vae_slicing",),
        ("release_text_encoder",),
        ("vae_slicing", "release_text_encoder"),
        ("vae_slicing", "release_text_encoder"),
        ("cpu_offload",),
        None,
    ]


@pytest.fixture
def small_card(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """A card whose size must be given, because there is none."""
    card: dict[str, int | None] = {"bytes": None}
    monkeypatch.setattr("difftrack.backbones._load.card_bytes", lambda device: card["bytes"])
    return card


def test_memory_auto_sets_what_makes_it_fit_and_says_so(tmp_path: Path, small_card: dict[str, int | None]) -> None:
    folder = ROWS["cogvideox-5b"](tmp_path)
    plain = loaded(folder)
    assert loaded(folder, memory="auto").remarks == ()  # no card, nothing to choose
    whole = need_of(plain, plain.components._folder.num_values(), (9, 40, 56))
    assert whole.transformer_bytes == 4 * sum(weight.numel() for weight in plain.transformer.parameters())
    small_card["bytes"] = int(whole.needed((), ["encode_frames"]) / 0.95) - 10**6
    size = (9, 40, 56)
    params = ModelParams(device="cpu", memory="auto")
    auto = load_backbone(f"path:{folder}", params, size=size, works=["encode_frames"])
    assert auto.params == ModelParams(device="cpu", memory="auto", vae_slicing=True)
    (said,) = auto.remarks
    assert "sets vae_slicing for" in said
    assert "9x40x56" in said
    assert auto.loading_choices() == plain.loading_choices()  # the numbers do not change
    assert auto.fingerprint == plain.fingerprint
    small_card["bytes"] = int((whole.needed(("cpu_offload",), ["sample"]) - 1) / 0.95)
    tiled = load_backbone(f"path:{folder}", params, size=size, works=["sample"])
    assert tiled.params.vae_tiling
    assert tiled.loading_choices() == {**plain.loading_choices(), "vae_tiling": True}
    small_card["bytes"] = 1
    (said,) = load_backbone(f"path:{folder}", params, size=size).remarks
    assert "not enough" in said


def test_the_table_of_cards_is_computed_and_the_one_in_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[MemoryNeed] = []
    monkeypatch.setattr(backbones, "memory_needs", lambda: (computed.extend(memory_needs()), computed)[1])
    result = CliRunner().invoke(app, ["models", "--memory"])
    needs = {need.name: need for need in computed}
    assert list(needs) == list(KNOWN)
    assert result.exit_code == 0
    assert result.stdout in (Path(__file__).parents[1] / "docs" / "backbones.md").read_text()
    two = needs["cogvideox-2b"]
    assert two.transformer_bytes == 2 * 1_693_783_872
    assert two.text_bytes == 2 * 4_762_310_656  # the text encoder of T5 v1.1 XXL
    assert two.activation_bytes == (13 * 30 * 45 + 226) * 30 * 64 * 16 * 2
