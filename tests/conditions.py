"""Pipelines as people run them: what is done to a small one of every family, and what capture makes of it.

`python tests/conditions.py` runs all of it (or the families and conditions that are named behind it) and writes
tests/fixtures/conditions.json, from which the table in docs/backbones.md is made; `tests/test_conditions.py` holds both
to what happens now.
"""

import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    ClassifierFreeZeroStarGuidance,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SkipLayerGuidance,
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from tiny_pipelines import ROWS, Unguarded, clip_size
from torch import Tensor, nn

from difftrack.backbones import (
    Backbone,
    BackboneError,
    ModelParams,
    _architecture,
    intercept,
    load_backbone,
    wrap_pipeline,
)
from difftrack.backbones._compiled import compile_blocks

RESULTS = Path(__file__).parent / "fixtures" / "conditions.json"

FAMILIES = {
    "CogVideoX": "cogvideox-5b",
    "HunyuanVideo": "hunyuan-video",
    "HunyuanVideo 1.5": "hunyuan-video-1.5",
    "Wan": "wan2.1-1.3b",
    "Wan A14B": "wan2.2-t2v-a14b",
    "LTX": "ltx-2b",
    "Mochi": "mochi-1",
    "Allegro": "allegro",
    "SkyReels": "skyreels-v2-1.3b",
    "Cosmos": "cosmos-predict2.5-2b",
    "Kandinsky 5": "kandinsky-5-lite",
    "LTX-2": "ltx-2",
    "EasyAnimate": "easyanimate-5.1-12b",
    "AnyFlow": "anyflow-1.3b",
    "ChronoEdit": "chronoedit-14b",
    "Motif": "motif-video-2b",
    "Kandinsky 6": "kandinsky-6-pro",
    "ConsisID": "consisid",
    "Wan VACE": "wan2.1-vace-1.3b",
    "FramePack": "framepack-i2v",
    "Helios": "helios-base",
}
"""The row of tests/tiny_pipelines.py that represents each family."""

EXACT, CLOSE, OTHER = "exact", "within 1e-4", "as it computes"
"""What a claim says: bit-equal to the capture of the plain pipeline, within a tolerance of it, or another model's
numbers.

Another model's numbers come from its own attention: its output with capture is bit-equal to its output without.
"""
REFUSED, ABSENT = "refused", "not offered"
"""The pipeline is refused with one line that says why, or diffusers does not offer this with its class."""
WRONG = "WRONG"
NOT_RUN = "not run"
"""Nothing is claimed: compiling takes a minute a family, or this script cannot apply the condition to the pipeline."""

PROMPT = "a red disc moves left"
NEGATIVE = "blue square"
OTHER_PROMPT = "a blue square turns"


class NotOffered(Exception):
    """Raised where diffusers does not support the condition with such a pipeline."""


class NotRun(Exception):
    """Raised where this script cannot apply the condition to such a pipeline."""


@dataclass(frozen=True)
class Subject:
    """A fresh pipeline of one family, and its plain capture."""

    name: str
    folder: Path
    plain: dict[int, Tensor]
    latents: Tensor
    clip: Any

    def pipeline(self) -> Any:
        return load_pipeline(self.folder)

    def captured(self, pipeline: Any) -> tuple[dict[int, Tensor], bool, Backbone]:
        """Capture queries and keys of the first and last layer, and whether capture left the output unchanged."""
        backbone = wrap_pipeline(pipeline)
        return *capture(backbone, self.latents, self.clip), backbone


def load_pipeline(folder: Path) -> Any:
    index = json.loads((folder / "model_index.json").read_text())
    extra = {"safety_checker": Unguarded()} if index["_class_name"].startswith("Cosmos") else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def capture(backbone: Backbone, latents: Tensor, clip: Any) -> tuple[dict[int, Tensor], bool]:
    grid, prompt = backbone.grid_of(latents), backbone.embed(PROMPT)
    schedule = backbone.schedule(10, grid=grid)
    choices = {}
    if backbone.needs_image:
        choices["conditioning"] = backbone.condition(clip[0], len(latents), frames_alone=False)
    last = backbone.num_layers - 1
    before = backbone.predict(latents, schedule.timesteps[4], prompt, **choices)
    records = backbone.capture(latents, 4, schedule, prompt, layers=[0, last], **choices)
    found = {record.layer: torch.stack([record.query, record.key]).clone() for record in records}
    after = backbone.predict(latents, schedule.timesteps[4], prompt, **choices)
    return found, torch.equal(before, after)


def subject(family: str, folder: Path) -> Subject:
    name = FAMILIES[family]
    ROWS[name](folder)
    backbone = wrap_pipeline(load_pipeline(folder))
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (*clip_size(name), 3), generator=generator, dtype=torch.uint8).numpy()
    latents = backbone.encode(clip, frames_alone=False)
    return Subject(name, folder, capture(backbone, latents, clip)[0], latents, clip)


def compared(of: Subject, pipeline: Any, *, to: dict[int, Tensor] | None = None) -> str:
    """Compare the capture of an altered pipeline with the plain one, or with another model's own."""
    found, same_output, _ = of.captured(pipeline)
    return graded(of, found, same_output, to=to)


def graded(of: Subject, found: dict[int, Tensor], same_output: bool, *, to: dict[int, Tensor] | None = None) -> str:
    """Compare a capture with the plain one, or with another."""
    plain = of.plain if to is None else to
    errors = [float((found[layer] - plain[layer]).abs().max()) for layer in plain]
    if not same_output:
        return WRONG
    if max(errors) == 0:
        return EXACT
    return CLOSE if max(errors) <= 1e-4 else OTHER


# Adapters


def with_lora(of: Subject) -> Any:
    pipeline = of.pipeline()
    generator = torch.Generator().manual_seed(1)
    for transformer in transformers_of(pipeline):
        if not hasattr(transformer, "add_adapter"):
            raise NotOffered
        pattern = re.compile(r".*\.(to_q|to_k|to_query|to_key)$")
        targets = [name for name, part in transformer.named_modules() if pattern.match(name)]
        transformer.add_adapter(LoraConfig(r=2, target_modules=targets), adapter_name="style")
        for name, weight in transformer.named_parameters():
            if "lora_B" in name:
                weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return pipeline


def transformers_of(pipeline: Any) -> list[Any]:
    """The transformers of a pipeline: one, or two experts."""
    held = (pipeline.transformer, getattr(pipeline, "transformer_2", None))
    return [transformer for transformer in held if transformer is not None]


def lora_loaded(of: Subject) -> str:
    """Captures differ from those without the adapter; its weights are in the fingerprint; the repr names it."""
    pipeline = with_lora(of)
    found, same, backbone = of.captured(pipeline)
    told = "LoRA style at scale" in repr(backbone) and backbone.fingerprint != wrap_pipeline(of.pipeline()).fingerprint
    return OTHER if same and told and not torch.equal(found[0], of.plain[0]) else WRONG


def lora_fused(of: Subject) -> str:
    pipeline = with_lora(of)
    loaded, _, _ = of.captured(pipeline)
    before = wrap_pipeline(pipeline).fingerprint
    for transformer in transformers_of(pipeline):
        transformer.fuse_lora()
    if wrap_pipeline(pipeline).fingerprint == before or "(fused)" not in repr(wrap_pipeline(pipeline)):
        return WRONG
    return compared(of, pipeline, to=loaded)


def lora_unfused(of: Subject) -> str:
    pipeline = with_lora(of)
    loaded, _, _ = of.captured(pipeline)
    for transformer in transformers_of(pipeline):
        transformer.fuse_lora()
    for transformer in transformers_of(pipeline):
        transformer.unfuse_lora()
    return compared(of, pipeline, to=loaded)


def lora_deleted(of: Subject) -> str:
    pipeline = with_lora(of)
    for transformer in transformers_of(pipeline):
        transformer.delete_adapters("style")
    return compared(of, pipeline)


# The transformer


def fused_projections(of: Subject) -> str:
    pipeline = of.pipeline()
    try:
        for transformer in transformers_of(pipeline):
            transformer.fuse_qkv_projections()
    except (AttributeError, RuntimeError) as error:  # no such method, or other names
        raise NotOffered from error
    return compared(of, pipeline)


def backend(name: str) -> Callable[[Subject], str]:
    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        for transformer in transformers_of(pipeline):
            transformer.set_attention_backend(name)
        try:
            return compared(of, pipeline)
        finally:
            pipeline.transformer.set_attention_backend("native")

    return run


def compiled(of: Subject) -> str:
    """`compile: true` with the compiler's front end, whose graphs run as they are; see tests/test_compiled.py."""
    stock = _architecture.compile_blocks
    _architecture.compile_blocks = partial(compile_blocks, backend="eager")
    try:
        backbone = load_backbone(f"path:{of.folder}", ModelParams(device="cpu", compile=True))
        return graded(of, *capture(backbone, of.latents, of.clip))
    finally:
        _architecture.compile_blocks = stock
        torch._dynamo.reset()


def compiled_blocks(of: Subject) -> str:
    """The user has compiled the model block by block."""
    pipeline = of.pipeline()
    backbone = wrap_pipeline(pipeline)
    for transformer in transformers_of(pipeline):
        for layer in backbone.layers_of(transformer):
            layer.compile(backend="eager")
    return told(of, pipeline, "compiled")


def compiled_whole(of: Subject) -> str:
    """The user has compiled the model as a whole."""
    pipeline = of.pipeline()
    for name in ("transformer", "transformer_2"):
        if getattr(pipeline, name, None) is not None:
            setattr(pipeline, name, torch.compile(getattr(pipeline, name), backend="eager"))
    return told(of, pipeline, "compiled")


def told(of: Subject, pipeline: Any, words: str, *, same_weights: bool = True) -> str:
    """Compare the capture where the record says how the pipeline is altered and its fingerprint changes with it."""
    backbone = wrap_pipeline(pipeline)
    unchanged = backbone.fingerprint == wrap_pipeline(of.pipeline()).fingerprint
    if words not in repr(backbone) or unchanged != same_weights:
        return WRONG
    try:
        return compared(of, pipeline)
    finally:
        torch._dynamo.reset()


# Weights elsewhere, or in fewer bits


def model_offload(of: Subject) -> str:
    """The hooks of `enable_model_cpu_offload`, whose device is the CPU here."""
    pipeline, last = of.pipeline(), None
    for name in type(pipeline).model_cpu_offload_seq.split("->"):
        if isinstance(model := getattr(pipeline, name, None), nn.Module):
            _, last = accelerate.cpu_offload_with_hook(model, torch.device("cpu"), last)
    return told(of, pipeline, "hook CpuOffload")


def sequential_offload(of: Subject) -> str:
    """The hooks of `enable_sequential_cpu_offload`: weights are on the device meta until their layer runs."""
    pipeline = of.pipeline()
    for transformer in transformers_of(pipeline):
        accelerate.cpu_offload(transformer, torch.device("cpu"), offload_buffers=bool(len(transformer._parameters)))
    if not all(part.weight.is_meta for part in pipeline.transformer.modules() if isinstance(part, nn.Linear)):
        return WRONG
    other = of.pipeline()
    for transformer in transformers_of(other):
        for weight in transformer.parameters():
            weight.data.mul_(1.5)
        accelerate.cpu_offload(transformer, torch.device("cpu"))
    if wrap_pipeline(other).fingerprint == wrap_pipeline(pipeline).fingerprint:
        return WRONG
    return told(of, pipeline, "hook AlignDevicesHook")


def group_offload(kind: str, **choices: Any) -> Callable[[Subject], str]:
    """`enable_group_offload` from the CPU to the CPU."""

    def run(of: Subject) -> str:
        pipeline, cpu = of.pipeline(), torch.device("cpu")
        for transformer in transformers_of(pipeline):
            if not transformer._supports_group_offloading:
                raise NotOffered
            transformer.enable_group_offload(cpu, cpu, offload_type=kind, **choices)
        return told(of, pipeline, "hook group_offloading")

    return run


def layerwise_casting(of: Subject) -> str:
    """Weights stored as 8-bit floats and cast when their layer runs."""
    pipeline = of.pipeline()
    for transformer in transformers_of(pipeline):
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return told(of, pipeline, "float8_e4m3fn", same_weights=False)


def int8_layers(of: Subject) -> str:
    """Linear layers quantised to 8 bits by torch's own quantiser; no package that quantises is installed here."""
    pipeline = of.pipeline()
    backbone = wrap_pipeline(pipeline)
    for transformer in transformers_of(pipeline):
        for layer in backbone.layers_of(transformer):
            torch.ao.quantization.quantize_dynamic(layer, {nn.Linear}, dtype=torch.qint8, inplace=True)
    try:
        return told(of, pipeline, "qint8", same_weights=False)
    except UnboundLocalError as error:  # diffusers asks a layer for the dtype of its weights, and these are packed
        raise NotOffered from error


def cached(config: Callable[[Any], Any]) -> Callable[[Subject], str]:
    """While the cache is on, capture is refused; when it is off again, capture gives what the plain pipeline gives."""

    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        try:
            for transformer in transformers_of(pipeline):
                transformer.enable_cache(config(pipeline))
        except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
            raise NotOffered from error
        try:
            backbone = wrap_pipeline(pipeline)
            schedule = backbone.schedule(10, grid=backbone.grid_of(of.latents))
            choices = {}
            if backbone.needs_image:
                choices["conditioning"] = backbone.condition(of.clip[0], len(of.latents), frames_alone=False)
            list(backbone.capture(of.latents, 4, schedule, backbone.embed(PROMPT), layers=[0], **choices))
        except BackboneError as error:
            for transformer in transformers_of(pipeline):
                transformer.disable_cache()
            if compared(of, pipeline) == EXACT:
                raise
            raise AssertionError(f"{error}, and something is left of it") from error
        return WRONG

    return run


_EVERY = {"spatial_attention_timestep_skip_range": (-1, 1_001), "current_timestep_callback": lambda: 500}
_BLOCKS = ("blocks", "transformer_blocks", "single_transformer_blocks", "visual_transformer_blocks")

CACHES = {
    "cache: PyramidAttentionBroadcast": lambda _: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, spatial_attention_block_identifiers=_BLOCKS, **_EVERY
    ),
    "cache: FasterCache": lambda _: FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=_BLOCKS,
        is_guidance_distilled=True,
        tensor_format="BCFHW",
        **_EVERY,
    ),
    "cache: FirstBlockCache": lambda _: FirstBlockCacheConfig(threshold=0.5),
    "cache: TaylorSeer": lambda _: TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=0, max_order=1),
    "cache: MagCache": lambda _: MagCacheConfig(mag_ratios=[1.0] * 10, num_inference_steps=10),
}


# Autoencoder, scheduler, sampling


def autoencoder(switch: str) -> Callable[[Subject], str]:
    """Latents of the clip as the plain autoencoder computes them."""

    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        if not hasattr(pipeline.vae, switch):
            raise NotOffered
        try:
            getattr(pipeline.vae, switch)()
        except NotImplementedError as error:
            raise NotOffered from error
        error = float((wrap_pipeline(pipeline).encode(of.clip, frames_alone=False) - of.latents).abs().max())
        return EXACT if error == 0 else CLOSE if error <= 1e-4 else OTHER

    return run


DISTILLED = ("hunyuan-video", "framepack-i2v")
"""Rows whose transformer takes the guidance scale as an input, and which run a second branch on request."""


def plain_scale(of: Subject) -> float:
    """The guidance scale at which only one branch runs."""
    return 6.0 if of.name in DISTILLED else 1.0


def sampled(
    of: Subject, pipeline: Any, *, cfg_scale: float, prompts: tuple[str, ...] = (PROMPT,), num_steps: int = 3
) -> str:
    """Captures from the trajectory equal those made while the pipeline samples; every prompt must be a branch there."""
    backbone = wrap_pipeline(pipeline, params=ModelParams(embedded_guidance=cfg_scale))
    stock = backbone.embed
    asked: list[str] = []
    if NEGATIVE in prompts:  # in place of the empty negative prompt
        backbone.embed = lambda prompt: stock(prompt or (asked.append(NEGATIVE) or NEGATIVE))  # type: ignore[func-returns-value]
        if of.name in DISTILLED:
            give, sample = backbone.sampling_inputs, backbone.sample
            asked.append(NEGATIVE)
            backbone.sampling_inputs = lambda prompt: {
                **give(prompt),
                **{f"negative_{name}": value for name, value in give(stock(NEGATIVE)).items()},
            }
            backbone.sample = partial(sample, true_cfg_scale=cfg_scale)
    queries, generated = sampling(of, backbone, cfg_scale=cfg_scale, num_steps=num_steps)
    if NEGATIVE in prompts and not asked:
        raise NotOffered
    schedule = backbone.schedule(num_steps, grid=backbone.token_grid(*of.clip.shape[:3]))
    if schedule.num_inference_steps != num_steps:
        return WRONG
    worst = 0.0
    for step, latents in enumerate(generated.trajectory.latents):
        for prompt in prompts:
            inputs = generated.trajectory.inputs_at(step)
            there = queries[step * len(queries) // num_steps : (step + 1) * len(queries) // num_steps]
            worst = max(worst, error_of(of, backbone, latents, step, schedule, stock(prompt), inputs, there))
    return EXACT if worst == 0 else CLOSE if worst <= 1e-4 else WRONG


def sampling(of: Subject, backbone: Backbone, *, cfg_scale: float, num_steps: int) -> tuple[list[Tensor], Any]:
    """Capture queries of layer 1 of all branches while the pipeline samples, and return them with its result."""
    queries: list[Tensor] = []
    with intercept({1: backbone.attention_modules()[1]}, lambda call: (queries.extend(call.query), call.run())[1]):
        num_frames, height, width = of.clip.shape[:3]
        image = {"image": of.clip[0]} if backbone.needs_image else {}
        generated = backbone.generate(
            PROMPT,
            seed=3,
            num_inference_steps=num_steps,
            cfg_scale=cfg_scale,
            num_frames=num_frames,
            height=height,
            width=width,
            **image,
        )
    return queries, generated


def error_of(
    of: Subject,
    backbone: Backbone,
    latents: Tensor,
    step: int,
    schedule: Any,
    prompt: Any,
    inputs: Mapping[str, Tensor],
    branches: list[Tensor],
) -> float:
    """Distance of a capture from the nearest branch, as a share of its largest value."""
    choices: dict[str, Any] = {"inputs": inputs}
    if backbone.needs_image:
        choices["conditioning"] = backbone.condition(of.clip[0], len(latents), frames_alone=False)
    (record,) = backbone.capture(latents, step, schedule, prompt, layers=[1], kinds=["query"], **choices)
    query, grid = record.query.flatten(1, 3), backbone.grid_of(latents)
    errors = [float((backbone.clip_tokens(branch, grid) - query).abs().max()) for branch in branches]
    return min(errors) / float(query.abs().max())


def several(prompts: tuple[str, ...], **more: Any) -> Callable[[Subject], str]:
    """Two clips in one call of the stock pipeline; each is captured separately from its own latents."""

    def run(of: Subject) -> str:
        pipeline, num_steps = of.pipeline(), 2
        backbone = wrap_pipeline(pipeline)
        draw, give, sample = backbone.draw_noise, backbone.sampling_inputs, backbone.sample
        heard: list[Any] = []

        def two_noises(shape: Any, generator: Any) -> Tensor:
            if not backbone.draws_own_noise:
                return torch.cat([draw(shape, generator), draw(shape, generator)])
            whole = backbone.to_batch(torch.empty(shape, device="meta")).shape
            return torch.randn((2, *whole[1:]), generator=generator)

        def listened(pipe: Any, recorder: Any, **arguments: Any) -> Any:
            heard.append((recorder, arguments))
            return sample(pipe, recorder, **arguments, **more)

        backbone.draw_noise = two_noises
        backbone.sampling_inputs = lambda prompt: joined([give(backbone.embed(each)) for each in prompts])
        backbone.sample = listened
        try:
            queries, _ = sampling(of, backbone, cfg_scale=plain_scale(of), num_steps=2)
        except BackboneError:
            raise
        except (TypeError, ValueError, RuntimeError, AssertionError, IndexError) as error:  # it takes one
            raise NotOffered from error
        ((recorder, _),) = heard
        if any(len(latents) != 2 for latents in recorder.entering):
            raise NotOffered from ValueError("the stock pipeline makes one clip all the same")
        schedule = backbone.schedule(num_steps, grid=backbone.token_grid(*of.clip.shape[:3]))
        scheduler, worst = backbone.sampling_scheduler(), 0.0
        scheduler.set_timesteps(num_steps) if of.name == "allegro" else None
        for step, latents in enumerate(recorder.entering):
            there = queries[step * len(queries) // num_steps : (step + 1) * len(queries) // num_steps]
            for which in range(2):
                one = backbone.latents_as_read(latents[which : which + 1], step, scheduler)
                inputs = {name: of_clip(values[step], which) for name, values in recorder.inputs.items()}
                prompt = backbone.embed(prompts[which % len(prompts)])
                clip = backbone.from_batch(one, of.latents.shape)
                worst = max(worst, error_of(of, backbone, clip, step, schedule, prompt, inputs, there))
        return EXACT if worst == 0 else CLOSE if worst <= 1e-4 else WRONG

    return run


def of_clip(values: Tensor, which: int) -> Tensor:
    """Select the part of one clip where the clips do not share it."""
    return values[which : which + 1] if len(values) == 2 else values


def joined(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Encode several prompts in one batch as the stock pipeline does.

    Raises:
        NotRun: the prompts are not padded to one length.
    """
    lengths = {
        name: {each[name].shape[1:] for each in inputs} for name in inputs[0] if isinstance(inputs[0][name], Tensor)
    }
    if uneven := [name for name, found in lengths.items() if len(found) > 1]:
        raise NotRun from ValueError(f"{', '.join(uneven)} of the prompts have different lengths")
    return {
        name: torch.cat([each[name] for each in inputs]) if isinstance(value, Tensor) else value
        for name, value in inputs[0].items()
    }


def padding(of: Subject) -> str:
    """Change the padding where the prompt's mask hides it; nothing of it reaches what is captured."""
    pipeline = of.pipeline()
    backbone = wrap_pipeline(pipeline)
    stock = backbone.embed
    if bool(stock(PROMPT).mask.all()):
        raise NotOffered

    def other(prompt: str) -> Any:
        embedded = stock(prompt)
        return replace(embedded, tokens=embedded.tokens + (~embedded.mask).unsqueeze(1).to(embedded.tokens))

    backbone.embed = other
    return graded(of, *capture(backbone, of.latents, of.clip))


def guider(kind: Any, **choices: Any) -> Callable[[Subject], str]:
    """Use another guider than the pipeline's own, where it has one."""

    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        if getattr(pipeline, "guider", None) is None:
            raise NotOffered
        pipeline.register_modules(guider=kind(guidance_scale=6.0, **choices))
        return sampled(of, pipeline, cfg_scale=6.0, prompts=(PROMPT, ""))

    return run


def scheduler(kind: Any, **changes: Any) -> Callable[[Subject], str]:
    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **changes)
        try:
            return sampled(of, pipeline, cfg_scale=plain_scale(of))
        except BackboneError:
            raise
        except (TypeError, ValueError, AttributeError) as error:  # the pipeline's own: it cannot use this one
            raise NotOffered from error

    return run


def guidance(cfg_scale: float) -> Callable[[Subject], str]:
    return lambda of: sampled(of, of.pipeline(), cfg_scale=cfg_scale)


def negative(of: Subject) -> str:
    """A negative prompt instead of the empty one is a branch of its own and changes no other branch."""
    return sampled(of, of.pipeline(), cfg_scale=6.0, prompts=(PROMPT, NEGATIVE))


_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}

CONDITIONS: dict[str, Callable[[Subject], str]] = {
    "LoRA loaded": lora_loaded,
    "LoRA fused": lora_fused,
    "LoRA fused and unfused": lora_unfused,
    "LoRA deleted": lora_deleted,
    "fuse_qkv_projections": fused_projections,
    "attention backend native": backend("native"),
    "attention backend _native_math": backend("_native_math"),
    "attention backend flex": backend("flex"),
    "compile: true": compiled,
    "torch.compile of the blocks": compiled_blocks,
    "torch.compile of the transformer": compiled_whole,
    "enable_model_cpu_offload": model_offload,
    "enable_sequential_cpu_offload": sequential_offload,
    "group offloading, by layer": group_offload("leaf_level"),
    "group offloading, by block": group_offload("block_level", num_blocks_per_group=1),
    "fp8 layerwise casting": layerwise_casting,
    "int8 linear layers": int8_layers,
    **{name: cached(config) for name, config in CACHES.items()},
    "VAE tiling": autoencoder("enable_tiling"),
    "VAE slicing": autoencoder("enable_slicing"),
    "scheduler UniPC, flow sigmas": scheduler(UniPCMultistepScheduler, **_FLOW),
    "scheduler DPM++, flow sigmas": scheduler(DPMSolverMultistepScheduler, **_FLOW),
    "scheduler FlowMatchEuler": scheduler(FlowMatchEulerDiscreteScheduler),
    "scheduler FlowMatchHeun": scheduler(FlowMatchHeunDiscreteScheduler),
    "scheduler FlowMatchLCM": scheduler(FlowMatchLCMScheduler),
    "scheduler Euler": scheduler(EulerDiscreteScheduler),
    "guidance scale 1": guidance(1.0),
    "guidance scale 6": guidance(6.0),
    "negative prompt": negative,
    "guider CFG-Zero*": guider(ClassifierFreeZeroStarGuidance),
    "guider APG": guider(AdaptiveProjectedGuidance),
    "guider SLG": guider(SkipLayerGuidance, skip_layer_guidance_layers=[2]),
    "two prompts in one call": several((PROMPT, OTHER_PROMPT)),
    "num_videos_per_prompt 2": several((PROMPT,), num_videos_per_prompt=2),
    "padding of the prompt": padding,
}


SIGNS = {EXACT: "=", CLOSE: "≈", OTHER: "○", REFUSED: "✗", ABSENT: "·", WRONG: "WRONG", NOT_RUN: "?"}
PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
_MARKED = re.compile(r"(?<=<!-- conditions -->\n).*?(?=<!-- end of conditions -->)", re.DOTALL)


def rendered(table: Mapping[str, Mapping[str, str]]) -> str:
    """Write the table of conditions by family as Markdown."""
    rows = [["", *table], ["---"] * (len(table) + 1)]
    rows += [
        [condition, *(SIGNS[found.get(condition, NOT_RUN)] for found in table.values())] for condition in CONDITIONS
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def on_the_page() -> str:
    """Read the table as it is in docs/backbones.md."""
    return _MARKED.search(PAGE.read_text(encoding="utf-8"))[0]


def outcome(condition: str, of: Subject) -> tuple[str, str]:
    """Say what happens and, if the pipeline is refused, why."""
    try:
        return CONDITIONS[condition](of), ""
    except NotOffered as error:
        return ABSENT, str(error.__cause__ or "")
    except NotRun as error:
        return NOT_RUN, str(error.__cause__)
    except BackboneError as error:
        return REFUSED, str(error)


@contextmanager
def quiet() -> Iterator[None]:
    """Build the pipeline without a guardrail, which is not installed, and without warnings of the libraries."""
    modules = [
        getattr(diffusers.pipelines.cosmos, name)
        for name in ("pipeline_cosmos2_video2world", "pipeline_cosmos2_5_predict")
    ]
    kept = [module.CosmosSafetyChecker for module in modules]
    for module in modules:
        module.CosmosSafetyChecker = Unguarded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
            for module, kind in zip(modules, kept, strict=True):
                module.CosmosSafetyChecker = kind


def main() -> None:
    chosen = [name for name in sys.argv[1:] if name in FAMILIES] or list(FAMILIES)
    conditions = [name for name in sys.argv[1:] if name in CONDITIONS] or list(CONDITIONS)
    table: dict[str, dict[str, str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with quiet():
        for family in chosen:
            with tempfile.TemporaryDirectory() as folder:
                of = subject(family, Path(folder))
                rows = table.setdefault(family, {})
                for condition in conditions:
                    try:
                        found, why = outcome(condition, of)
                    except Exception as error:
                        found, why = WRONG, f"{type(error).__name__}: {error}"
                    rows[condition] = found
                    print(f"{family:18}{condition:36}{found:16}{why[:150]}", flush=True)  # noqa: T201
            table[family] = {name: rows[name] for name in CONDITIONS if name in rows}
            ordered = {name: table[name] for name in FAMILIES if name in table}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    if list(ordered) == list(FAMILIES):
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_MARKED.sub(lambda _: rendered(ordered), page), encoding="utf-8")


if __name__ == "__main__":
    main()
