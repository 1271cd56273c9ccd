import json
import logging
import math
import shutil
import warnings
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from diffusers.models import attention_processor
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from difftrack.backbones import (
    AttentionCall,
    Backbone,
    BackboneError,
    CaptureError,
    ModelParams,
    intercept,
    load_backbone,
    round_trip_error,
)
from difftrack.datasets import write_clip
from difftrack.extraction import ClipReader
from difftrack.store.torch_writer import WriteQueue

PROMPT = "a red disc moves left"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(scope="session")
def backbone(folder: Path) -> Backbone:
    return load_backbone(f"path:{folder}")


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def latents() -> Tensor:
    return torch.randn(3, 6, 10, 14, generator=torch.Generator().manual_seed(0))


def captured(backbone: Backbone, latents: Tensor, *, layers: list[int], step: int = 7, prompt: str = PROMPT) -> dict:
    schedule = backbone.schedule(10)
    records = backbone.capture(latents, step, schedule, backbone.embed(prompt), layers=layers)
    return {record.layer: record for record in records}


# What the backbone says about itself


def test_counts_and_strides_come_from_the_configs(backbone: Backbone) -> None:
    assert (backbone.num_layers, backbone.num_heads, backbone.num_channels) == (4, 2, 16)
    assert (backbone.spatial_stride, backbone.patch_size, backbone.stride_px, backbone.temporal_stride) == (4, 2, 8, 4)
    assert backbone.text_length == 11


def test_grid_of_a_clip_encoded_whole_and_of_frames_encoded_alone(backbone: Backbone) -> None:
    whole = backbone.token_grid(9, 40, 56)
    assert (whole.num_latent_frames, whole.rows, whole.cols, whole.temporal_stride) == (3, 5, 7, 4)
    alone = backbone.token_grid(6, 40, 56, frames_alone=True)
    assert (alone.num_latent_frames, alone.temporal_stride) == (6, 1)


@pytest.mark.parametrize(
    ("size", "said"),
    [((9, 41, 56), "height 41.*multiple of 8.*40 or 48"), ((9, 40, 4), "width 4"), ((12, 40, 56), "nearest: 13"),
     ((10, 40, 56), "nearest: 9"), ((0, 40, 56), "num_frames")],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(
    backbone: Backbone, size: tuple[int, int, int], said: str
) -> None:
    with pytest.raises(BackboneError, match=said):
        backbone.check_size(*size)


# Latents and prompts


def test_latents_are_the_scaled_posterior_mode(backbone: Backbone, frames: np.ndarray) -> None:
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).unsqueeze(0) / 127.5 - 1
    vae = backbone.vae
    with torch.no_grad():
        expected = vae.encode(video).latent_dist.mode()[0].transpose(0, 1) * 0.7
    torch.testing.assert_close(backbone.encode(frames, frames_alone=False), expected, rtol=0, atol=0)
    torch.testing.assert_close(backbone.encode(frames, frames_alone=False), backbone.encode(frames, frames_alone=False))


def test_a_frame_encoded_alone_is_the_stock_autoencoders_for_half_the_work(
    backbone: Backbone, frames: np.ndarray
) -> None:
    """A causal kernel of 3 taps in time sees one frame as a kernel of rows and columns: 9 products of 27."""
    video = torch.from_numpy(frames[2:5]).permute(0, 3, 1, 2).unsqueeze(2) / 127.5 - 1
    with torch.no_grad(), FlopCounterMode(display=False) as stock:
        expected = backbone.vae.encode(video).latent_dist.mode()[:, :, 0] * backbone.vae_config.scaling_factor
    with FlopCounterMode(display=False) as ours:
        found = backbone.encode(frames[2:5], frames_alone=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ours.get_total_flops() < 0.5 * stock.get_total_flops()
    assert not [module for module in backbone.vae.modules() if "forward" in module.__dict__]


def test_a_frame_encoded_alone_does_not_depend_on_the_others(folder: Path, frames: np.ndarray) -> None:
    in_threes = load_backbone(f"path:{folder}", ModelParams(vae_batch_frames=3))
    latents = in_threes.encode(frames, frames_alone=True)
    assert latents.shape == (9, 6, 10, 14)
    torch.testing.assert_close(latents[5:6], in_threes.encode(frames[5:6], frames_alone=True))


@pytest.mark.parametrize("batch", [1, 2, 4, 9, "auto"])
def test_frames_encoded_alone_are_the_same_bits_in_batches_of_any_size(
    folder: Path, frames: np.ndarray, batch: int | str
) -> None:
    one_by_one = load_backbone(f"path:{folder}", ModelParams(vae_batch_frames=1)).encode(frames, frames_alone=True)
    batched = load_backbone(f"path:{folder}", ModelParams(vae_batch_frames=batch))  # type: ignore[arg-type]
    assert torch.equal(batched.encode(frames, frames_alone=True), one_by_one)


def test_a_prompt_that_is_too_long_warns_and_names_what_is_cut(backbone: Backbone) -> None:
    with pytest.warns(UserWarning, match="11 text tokens.*quickly"):
        embedding = backbone.embed("a red disc moves left a blue square moves right a disc moves quickly")
    assert embedding.tokens.shape == (11, 13)


def test_what_is_cut_from_a_prompt_is_said_once_and_no_indexing_error_is_threatened(folder: Path) -> None:
    """Published tokenizers know the largest length of a prompt, too."""
    long = load_backbone(f"path:{folder}")
    long.components["tokenizer"].model_max_length = 11
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default")
            for _ in range(2):
                long.embed("a red disc moves left a blue square moves right a disc moves quickly")
    finally:
        logger.removeHandler(handler)
    assert said == []
    assert [str(warning.message).split(": ")[-1] for warning in warned] == ["'moves right a disc moves quickly'"]


# The seam


def test_output_with_capture_is_bit_identical_and_nothing_stays_on_the_model(
    backbone: Backbone, latents: Tensor
) -> None:
    prompt, timestep = backbone.embed(PROMPT), torch.tensor(700)
    before = backbone.predict(latents, timestep, prompt)
    attributes = [set(module.__dict__) for module in backbone.transformer.modules()]
    seen = []

    def tap(call: AttentionCall) -> Tensor:
        seen.append(call.layer)
        return call.run()

    with intercept(dict(enumerate(backbone.attention_modules())), tap):
        during = backbone.predict(latents, timestep, prompt)
    assert seen == [0, 1, 2, 3]
    assert torch.equal(before, during)
    assert torch.equal(before, backbone.predict(latents, timestep, prompt))
    assert [set(module.__dict__) for module in backbone.transformer.modules()] == attributes


def test_attention_recomputed_from_the_tapped_tensors_is_the_modules_own(backbone: Backbone, latents: Tensor) -> None:
    module = backbone.attention_modules()[2]
    calls: list[AttentionCall] = []
    outputs: list[Tensor] = []
    handle = module.to_out[0].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    try:
        with intercept({2: module}, lambda call: (calls.append(call), call.run())[1]):
            backbone.predict(latents, torch.tensor(300), backbone.embed(PROMPT))
    finally:
        handle.remove()
    (call,) = calls
    again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=call.mask)
    assert (again.transpose(1, 2).flatten(2) - outputs[0]).abs().max() == 0.0
    explicit = torch.softmax(call.query @ call.key.transpose(2, 3) / math.sqrt(16), dim=-1) @ call.value
    torch.testing.assert_close(explicit, again, atol=1e-6, rtol=1e-5)


def test_a_function_that_returns_something_else_replaces_attention(backbone: Backbone, latents: Tensor) -> None:
    prompt, timestep = backbone.embed(PROMPT), torch.tensor(700)
    plain = backbone.predict(latents, timestep, prompt)
    with intercept({1: backbone.attention_modules()[1]}, lambda call: call.value):
        replaced = backbone.predict(latents, timestep, prompt)
    assert not torch.equal(plain, replaced)
    assert torch.equal(plain, backbone.predict(latents, timestep, prompt))


def test_an_error_inside_leaves_no_hook_and_no_function_mode(backbone: Backbone, latents: Tensor) -> None:
    modules = dict(enumerate(backbone.attention_modules()))

    def fail(call: AttentionCall) -> Tensor:
        raise RuntimeError(f"layer {call.layer}")

    with pytest.raises(RuntimeError, match="layer 0"), intercept(modules, fail):
        backbone.predict(latents, torch.tensor(700), backbone.embed(PROMPT))
    assert not any("_diffusers_hook" in module.__dict__ for module in modules.values())
    assert torch.overrides._get_current_function_mode() is None


def test_keys_shared_by_several_heads_are_repeated() -> None:
    query, key = torch.zeros(1, 6, 5, 3), torch.arange(2.0).view(1, 2, 1, 1).expand(1, 2, 5, 3)
    call = AttentionCall(0, {"query": query, "key": key, "value": key, "enable_gqa": True})
    assert call.key[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]


# Capture


def test_early_exit_gives_bit_equal_descriptors(backbone: Backbone, latents: Tensor) -> None:
    every = captured(backbone, latents, layers=[0, 1, 2, 3])
    for layer in (1, 2):
        alone = captured(backbone, latents, layers=[layer])[layer]
        for kind in ("query", "key", "feature", "text_key"):
            assert torch.equal(getattr(alone, kind), getattr(every[layer], kind)), kind


def test_nothing_past_the_last_wanted_layer_runs(backbone: Backbone, latents: Tensor) -> None:
    ran: list[int] = []
    blocks = backbone.transformer.transformer_blocks
    handles = [
        block.ff.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(blocks)
    ]
    try:
        captured(backbone, latents, layers=[2])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]


def test_only_the_wanted_kinds_come_back(backbone: Backbone, latents: Tensor) -> None:
    schedule, prompt = backbone.schedule(10), backbone.embed(PROMPT)
    (record,) = backbone.capture(latents, 3, schedule, prompt, layers=[1], kinds=["key"])
    assert record.query is None
    assert record.feature is None
    assert record.key is not None
    assert record.key.shape == (2, 3, 5, 7, 16)
    assert record.text_key.shape == (2, 11, 16)
    assert record.text_mask.all()


def test_tokens_run_latent_frame_row_col(backbone: Backbone, latents: Tensor) -> None:
    changed = latents.clone()
    changed[2, :, 2 * 4 : 2 * 5, 2 * 3 : 2 * 4] += 1
    before, after = (captured(backbone, x, layers=[0])[0] for x in (latents, changed))
    differs = (before.query != after.query).any(dim=0).any(dim=-1)
    assert differs.nonzero().tolist() == [[2, 4, 3]]
    assert torch.equal(before.text_key, after.text_key)


def test_text_never_reaches_the_video_grid_at_layer_0(backbone: Backbone, latents: Tensor) -> None:
    one, other = (captured(backbone, latents, layers=[0], prompt=p)[0] for p in ("a red disc", "blue square turns up"))
    assert torch.equal(one.query, other.query)
    assert torch.equal(one.key, other.key)
    assert not torch.equal(one.text_key, other.text_key)


def test_the_latents_own_values_are_never_written(backbone: Backbone, latents: Tensor) -> None:
    kept = latents.clone()
    captured(backbone, latents, layers=[0, 3])
    assert torch.equal(latents, kept)


def test_fused_projections_are_captured_alike(folder: Path, latents: Tensor) -> None:
    fused = load_backbone(f"path:{folder}")
    plain = captured(fused, latents, layers=[1])[1]
    fused.transformer.fuse_qkv_projections()
    torch.testing.assert_close(captured(fused, latents, layers=[1])[1].query, plain.query, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_doubles_nothing(folder: Path, latents: Tensor) -> None:
    checkpointed = load_backbone(f"path:{folder}")
    plain = captured(checkpointed, latents, layers=[0, 1])
    checkpointed.transformer.enable_gradient_checkpointing()
    assert torch.equal(captured(checkpointed, latents, layers=[0, 1])[1].query, plain[1].query)


def test_another_attention_backend_is_refused_not_silently_empty(folder: Path, latents: Tensor) -> None:
    foreign = load_backbone(f"path:{folder}")

    class Foreign(attention_processor.CogVideoXAttnProcessor2_0):
        _attention_backend = "flex"

        def __call__(self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None):  # noqa: ANN001, ANN204
            return hidden_states, encoder_hidden_states

    foreign.transformer.set_attn_processor(Foreign())
    with pytest.raises(CaptureError, match=r"0 records for 2 layers.*attention backend \(here: flex\)"):
        captured(foreign, latents, layers=[0, 1])


def test_a_cache_hook_that_skips_layers_is_named(folder: Path, latents: Tensor) -> None:
    from diffusers import PyramidAttentionBroadcastConfig

    cached = load_backbone(f"path:{folder}")
    cached.transformer.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=lambda: 500,
            spatial_attention_block_identifiers=("transformer_blocks",),
        )
    )
    prompt, timestep = cached.embed(PROMPT), torch.tensor(700)
    cached.predict(latents, timestep, prompt)
    with pytest.raises(CaptureError, match=r"cache hook.*disable_cache"):
        captured(cached, latents, layers=[0, 1, 2, 3])


def test_a_layer_that_runs_again_is_named(backbone: Backbone, latents: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    block = backbone.transformer.transformer_blocks[1]
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda *args, **kwargs: (forward(*args, **kwargs), forward(*args, **kwargs))[1]
    )
    with pytest.raises(CaptureError, match=r"layer 1 attended more than once.*gradient checkpointing"):
        captured(backbone, latents, layers=[1, 3])


def test_a_sink_sees_each_layer_while_the_forward_goes_on(backbone: Backbone, latents: Tensor) -> None:
    schedule, prompt = backbone.schedule(10), backbone.embed(PROMPT)
    events: list[object] = []
    handles = [
        block.ff.register_forward_pre_hook(lambda *_, layer=layer: events.append(("after", layer)))
        for layer, block in enumerate(backbone.transformer.transformer_blocks)
    ]
    try:
        backbone.capture_into(lambda record: events.append(record.layer), latents, 4, schedule, prompt, layers=[0, 2])
    finally:
        for handle in handles:
            handle.remove()
    assert events == [0, ("after", 0), ("after", 1), 2]


@pytest.mark.parametrize("layers", [[4], [-1], []])
def test_layers_out_of_range_are_refused_with_the_range(backbone: Backbone, latents: Tensor, layers: list[int]) -> None:
    with pytest.raises(BackboneError, match="layers 0 to 3"):
        captured(backbone, latents, layers=layers)


def test_steps_out_of_range_are_refused_with_the_range(backbone: Backbone, latents: Tensor) -> None:
    with pytest.raises(BackboneError, match=r"step 10 .* 0 \(noisiest\) to 9"):
        captured(backbone, latents, layers=[0], step=10)


# Noise, inversion, sampling


def stock_scheduler(folder: Path, num_inference_steps: int) -> CogVideoXDDIMScheduler:
    scheduler = CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


def test_schedule_is_trailing_whatever_the_checkpoint_says(backbone: Backbone) -> None:
    assert backbone.schedule(50).timesteps[[0, 1, 49]].tolist() == [999, 979, 19]


@pytest.mark.parametrize("step", [0, 13, 49])
def test_noise_and_sampling_step_equal_the_stock_schedulers(
    backbone: Backbone, folder: Path, latents: Tensor, step: int
) -> None:
    schedule, stock = backbone.schedule(50), stock_scheduler(folder, 50)
    noise, timestep = torch.randn_like(latents), stock.timesteps[step]
    expected = stock.add_noise(latents.double(), noise.double(), timestep.view(1)).float()
    torch.testing.assert_close(schedule.add_noise(latents, noise, step), expected, atol=1e-6, rtol=1e-5)
    (expected, *_) = stock.step(noise, timestep, latents, return_dict=False)
    torch.testing.assert_close(schedule.advance(latents, noise, step), expected.float(), atol=2e-6, rtol=1e-5)


def linear_denoiser(latents: Tensor, timestep: Tensor) -> Tensor:
    """A velocity that is linear in the latents and differs between levels."""
    return (0.9 - 1.7 * float(timestep) / 1000) * latents + 0.1 * latents.flip(-1)


def test_fixed_point_inversion_returns_within_1e_6_and_explicit_does_not(backbone: Backbone, latents: Tensor) -> None:
    schedule, clean = backbone.schedule(50), latents.double()
    error = {}
    for form in ("fixed_point", "explicit"):
        *_, (step, noisy) = schedule.invert(clean, linear_denoiser, form=form, iterations=15)
        assert step == 0
        error[form] = round_trip_error(schedule, clean, noisy, linear_denoiser, step=0)
    assert error["fixed_point"] <= 1e-6
    assert 1e-4 < error["explicit"] < 0.5


def test_inversion_asks_the_model_at_the_levels_that_sampling_visits(backbone: Backbone, latents: Tensor) -> None:
    schedule = backbone.schedule(5)
    asked: list[int] = []

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        asked.append(int(timestep))
        return torch.zeros_like(latents)

    steps = [step for step, _ in schedule.invert(latents, denoise, form="explicit")]
    assert steps == [4, 3, 2, 1, 0]
    assert asked == [199, 199, 399, 599, 799]


@pytest.mark.parametrize(("cfg_scale", "tolerance"), [(1.0, 0.0), (6.0, 5e-6)])
def test_trajectory_starts_at_the_seeds_noise_and_its_captures_equal_captures_on_the_way(
    backbone: Backbone, cfg_scale: float, tolerance: float
) -> None:
    """Bit-equal for one branch; with two, a batch of two rounds its matrix products differently in the last bit."""
    on_the_way: list[Tensor] = []
    with intercept(
        {2: backbone.attention_modules()[2]},
        lambda call: (on_the_way.append(call.query[-1].clone()), call.run())[1],
    ):
        generated = backbone.generate(
            PROMPT, seed=42, num_inference_steps=3, cfg_scale=cfg_scale, num_frames=9, height=40, width=56
        )
    assert generated.frames.shape == (9, 40, 56, 3)
    assert generated.trajectory.latents.shape == (3, 3, 6, 10, 14)
    noise = torch.randn(3, 6, 10, 14, generator=torch.Generator("cpu").manual_seed(42))
    assert torch.equal(generated.trajectory.latents[0], noise)
    schedule, prompt = backbone.schedule(3), backbone.embed(PROMPT)
    for step, query in enumerate(on_the_way):
        (later,) = backbone.capture(generated.trajectory.latents[step], step, schedule, prompt, layers=[2])
        torch.testing.assert_close(later.query.flatten(1, 3), query[:, 11:], rtol=0, atol=tolerance)


def test_lengths_that_the_stock_decoder_returns_too_long_are_refused(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"num_frames 13 cannot be sampled.*8 k \+ 1, such as 9"):
        backbone.generate(PROMPT, seed=0, num_inference_steps=1, cfg_scale=1.0, num_frames=13, height=40, width=56)


# Memory switches


def test_a_released_text_encoder_is_loaded_again_for_the_next_prompt(folder: Path, backbone: Backbone) -> None:
    frugal = load_backbone(f"path:{folder}", ModelParams(release_text_encoder=True))
    frugal.embed("blue disc")
    assert "text_encoder" not in frugal.components._loaded
    assert torch.equal(frugal.embed(PROMPT).tokens, backbone.embed(PROMPT).tokens)


def test_sliced_encoding_gives_the_same_latents(folder: Path, backbone: Backbone, frames: np.ndarray) -> None:
    sliced = load_backbone(f"path:{folder}", ModelParams(vae_slicing=True))
    torch.testing.assert_close(sliced.encode(frames, frames_alone=True), backbone.encode(frames, frames_alone=True))


# Names, folders, fingerprints


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(BackboneError, match=r"'cogvideox-9b'.*cogvideox-2b.*wan2\.1-1\.3b.*path:DIR"):
        load_backbone("cogvideox-9b")


@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox_t2v_5b"])
def test_absent_weights_say_what_is_missing_how_to_fetch_it_and_what_runs_instead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = (
        r"CogVideoX-5b.*model_index\.json.*transformer.*hf download zai-org/CogVideoX-5b.*cogvideox-mini, which comes"
    )
    with pytest.raises(BackboneError, match=said):
        load_backbone(name, ModelParams(local_files_only=True))


def test_pickles_are_refused_and_missing_shards_named(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BackboneError, match=r"vae holds diffusion_pytorch_model\.bin, a pickle"):
        load_backbone(f"path:{broken}")
    weights.with_suffix(".bin").unlink()
    with pytest.raises(BackboneError, match=r"vae holds no \*\.safetensors"):
        load_backbone(f"path:{broken}")
    weights.touch()
    index = {"weight_map": {"a": "part-1-of-2.safetensors"}}
    (broken / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match=r"lacks part-1-of-2\.safetensors"):
        load_backbone(f"path:{broken}")


def test_code_that_comes_with_a_checkpoint_is_not_run(folder: Path, tmp_path: Path) -> None:
    foreign = shutil.copytree(folder, tmp_path / "foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps(index | {"vae": ["my_module", "MyVAE"]}))
    with pytest.raises(BackboneError, match=r"vae is my_module\.MyVAE"):
        load_backbone(f"path:{foreign}")


def test_fingerprint_follows_content_not_place(folder: Path, backbone: Backbone, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_backbone("mine", ModelParams(path=str(moved))).fingerprint == backbone.fingerprint
    config = moved / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("3.0", "1.0"))
    assert load_backbone("mine", ModelParams(path=str(moved))).fingerprint != backbone.fingerprint


# CogVideoX 1.5 and 2B variants of the family


def test_two_latent_frames_in_one_token_frame(tmp_path: Path, frames: np.ndarray) -> None:
    newer = load_backbone(f"path:{save_cogvideox(tmp_path, patch_size_t=2, patch_bias=False)}")
    assert newer.token_grid(9, 40, 56).num_latent_frames == 2
    assert newer.token_grid(9, 40, 56).temporal_stride == 8
    with pytest.raises(BackboneError, match=r"8 k \+ 1; nearest: 9"):
        newer.check_size(13, 40, 56)
    latents = newer.encode(frames, frames_alone=False)
    assert latents.shape == (4, 6, 10, 14)
    assert torch.equal(latents[0], latents[1])
    assert captured(newer, latents, layers=[1])[1].query.shape == (2, 2, 5, 7, 16)
    alone = newer.encode(frames[:3], frames_alone=True)
    assert alone.shape == (6, 6, 10, 14)
    assert torch.equal(alone[2], alone[3])


def test_sincos_positions_are_run_at_another_size(tmp_path: Path) -> None:
    older = load_backbone(f"path:{save_cogvideox(tmp_path, use_rotary_positional_embeddings=False)}")
    latents = torch.randn(2, 6, 6, 22)
    assert captured(older, latents, layers=[3])[3].key.shape == (2, 2, 3, 11, 16)


# What is in memory


def test_what_was_changed_in_memory_gives_another_record_and_loading_alone_does_not(tmp_path: Path) -> None:
    folder = save_cogvideox(tmp_path)
    fresh = load_backbone(f"path:{folder}").made_by()
    backbone = load_backbone(f"path:{folder}")
    backbone.embed("a red disc")
    backbone.encode(np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8), frames_alone=False)
    assert backbone.transformer is not None
    assert backbone.made_by() == fresh
    weight = next(backbone.transformer.parameters())
    weight.data[0] += 1e-3
    assert backbone.made_by().difference(fresh) == "transformer"
    weight.data[0] -= 1e-3
    before = backbone.made_by()
    backbone.components["scheduler"].register_to_config(timestep_spacing="linspace")
    assert backbone.made_by().difference(before) == "scheduler"


def test_locks_ownership_and_wording_are_no_part_of_what_made_descriptors_or_clips(
    tmp_path: Path,
) -> None:
    backbone = load_backbone(f"path:{save_cogvideox(tmp_path)}")
    rooms = backbone.made_by(ClipReader.__module__, WriteQueue.__module__, write_clip.__module__).code.keys()
    assert {"backbones", "extraction", "geometry", "media", "store"} <= rooms
    assert not rooms & {"keeping", "locks", "ownership", "provenance", "wording"}


def test_a_lora_that_is_put_into_the_transformer_gives_another_record_for_each_of_its_scales(tmp_path: Path) -> None:
    class Lora(torch.nn.Linear):
        scaling = MappingProxyType({"style": 1.0})

    backbone = load_backbone(f"path:{save_cogvideox(tmp_path)}")
    block = backbone.transformer.transformer_blocks[1].attn1
    records = [backbone.made_by().digest()]
    block.to_q.__class__ = Lora
    for scale in (1.0, 0.5):
        block.to_q.scaling = {"style": scale}
        records.append(backbone.made_by().digest())
    assert len(set(records)) == 3
