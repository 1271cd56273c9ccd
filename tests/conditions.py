"""Pipelines as people run them: what is done to a small one of every family, and what capture makes of it.

`python tests/conditions.py` runs all of it and writes tests/fixtures/conditions.json, from which the table in
docs/backbones.md is made; `tests/test_conditions.py` holds both to what happens now.
"""

import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
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
    TaylorSeerCacheConfig,
    UniPCMultistepScheduler,
)
from peft import LoraConfig
from tiny_pipelines import ROWS, Unguarded, clip_size
from torch import Tensor

from difftrack.backbones import Backbone, BackboneError, ModelParams, wrap_pipeline

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
}
"""Row of tests/tiny_pipelines.py that stands for each family."""

EXACT, CLOSE, OTHER = "exact", "within 1e-4", "as it computes"
"""Bit-equal to the capture of the plain pipeline; within a tolerance of it; or another model's numbers, taken from its
own attention: the output with capture is bit-equal to that without."""
REFUSED, ABSENT = "refused", "not offered"
"""One line says why; or diffusers does not do it with this class."""
WRONG = "WRONG"

PROMPT = "a red disc moves left"


class NotOffered(Exception):
    """Diffusers does not do this with such a pipeline."""


@dataclass(frozen=True)
class Subject:
    """A fresh pipeline of one family, and what its plain capture gives."""

    name: str
    folder: Path
    plain: dict[int, Tensor]
    latents: Tensor
    clip: Any

    def pipeline(self) -> Any:
        return load_pipeline(self.folder)

    def captured(self, pipeline: Any) -> tuple[dict[int, Tensor], bool, Backbone]:
        """Queries and keys of first and last layer, and whether capture left the output as it is."""
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
    """How the capture of an altered pipeline compares with the plain one's, or another's."""
    found, same_output, _ = of.captured(pipeline)
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
    """One, or two experts."""
    held = (pipeline.transformer, getattr(pipeline, "transformer_2", None))
    return [transformer for transformer in held if transformer is not None]


def lora_loaded(of: Subject) -> str:
    """Other numbers than without; its weights are in the fingerprint; the repr names it."""
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
    except (AttributeError, RuntimeError) as error:  # a class without it, or whose projections have other names
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


def cached(config: Callable[[Any], Any]) -> Callable[[Subject], str]:
    """While it is on, nothing is captured; once it is off, what the plain pipeline gives."""

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
    """Latents of the clip, as the plain autoencoder gives them."""

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


def sampled(of: Subject, pipeline: Any, *, cfg_scale: float, tolerance: float = 0.0, **choices: Any) -> str:
    """Captures from the trajectory, beside those while the pipeline samples."""
    from difftrack.backbones import intercept

    backbone = wrap_pipeline(pipeline, params=ModelParams(embedded_guidance=cfg_scale))
    queries: list[Tensor] = []
    with intercept({1: backbone.attention_modules()[1]}, lambda call: (queries.append(call.query), call.run())[1]):
        num_frames, height, width = of.clip.shape[:3]
        size = {"num_frames": num_frames, "height": height, "width": width}
        image = {"image": of.clip[0]} if backbone.needs_image else {}
        generated = backbone.generate(
            PROMPT, seed=3, num_inference_steps=3, cfg_scale=cfg_scale, **size, **image, **choices
        )
    schedule, prompt = backbone.schedule(3, grid=backbone.token_grid(*of.clip.shape[:3])), backbone.embed(PROMPT)
    if schedule.num_inference_steps != 3:
        return WRONG
    branches = [branch for call in queries for branch in call]
    per_step, worst = len(branches) // 3, 0.0
    for step, latents in enumerate(generated.trajectory.latents):
        conditioning = {}
        if backbone.needs_image:
            conditioning["conditioning"] = backbone.condition(of.clip[0], len(latents), frames_alone=False)
        inputs = generated.trajectory.inputs_at(step)
        (record,) = backbone.capture(
            latents, step, schedule, prompt, layers=[1], kinds=["query"], inputs=inputs, **conditioning
        )
        query = record.query.flatten(1, 3)
        first = backbone.num_text_tokens if backbone.text_position == "first" else 0
        there = branches[step * per_step : (step + 1) * per_step]
        worst = max(worst, min(float((b[:, first : first + query.shape[1]] - query).abs().max()) for b in there))
    return EXACT if worst == 0 else CLOSE if worst <= 1e-4 else WRONG


def scheduler(kind: Any, **changes: Any) -> Callable[[Subject], str]:
    def run(of: Subject) -> str:
        pipeline = of.pipeline()
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **changes)
        try:
            return sampled(of, pipeline, cfg_scale=6.0 if of.name == "hunyuan-video" else 1.0)
        except BackboneError:
            raise
        except (TypeError, ValueError, AttributeError) as error:  # the stock pipeline's own: it cannot use this one
            raise NotOffered from error

    return run


def guidance(cfg_scale: float) -> Callable[[Subject], str]:
    return lambda of: sampled(of, of.pipeline(), cfg_scale=cfg_scale)


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
}


SIGNS = {EXACT: "=", CLOSE: "≈", OTHER: "○", REFUSED: "✗", ABSENT: "·", WRONG: "WRONG"}
PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
_MARKED = re.compile(r"(?<=<!-- conditions -->\n).*?(?=<!-- end of conditions -->)", re.DOTALL)


def rendered(table: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown of condition x family."""
    rows = [["", *table], ["---"] * (len(table) + 1)]
    rows += [[condition, *(SIGNS[found[condition]] for found in table.values())] for condition in CONDITIONS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def on_the_page() -> str:
    """The table as docs/backbones.md has it."""
    return _MARKED.search(PAGE.read_text(encoding="utf-8"))[0]


def outcome(condition: str, of: Subject) -> tuple[str, str]:
    """What happens, and why where it is refused."""
    try:
        return CONDITIONS[condition](of), ""
    except NotOffered:
        return ABSENT, ""
    except BackboneError as error:
        return REFUSED, str(error)


@contextmanager
def quiet() -> Iterator[None]:
    """Without a guardrail, which is not installed, and without the libraries' warnings."""
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
    table: dict[str, dict[str, str]] = {}
    chosen = sys.argv[1:] or list(FAMILIES)
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with quiet():
        for family in chosen:
            with tempfile.TemporaryDirectory() as folder:
                of = subject(family, Path(folder))
                table[family] = {}
                for condition in CONDITIONS:
                    found, why = outcome(condition, of)
                    table[family][condition] = found
                    print(f"{family:18}{condition:36}{found:16}{why[:150]}", flush=True)  # noqa: T201
            ordered = {name: table[name] for name in FAMILIES if name in table}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    if list(ordered) == list(FAMILIES):
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_MARKED.sub(lambda _: rendered(ordered), page), encoding="utf-8")


if __name__ == "__main__":
    main()
