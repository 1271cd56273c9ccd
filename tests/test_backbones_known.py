"""The named backbones: what their classes state, and whether capture works for each, small and random."""

import inspect
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from tiny_pipelines import ROWS, VARIANTS, Unguarded, clip_size

from difftrack.backbones import (
    ALIASES,
    CHECKPOINTS,
    KNOWN,
    Backbone,
    BackboneError,
    CaptureError,
    ModelParams,
    Trajectory,
    _counts,
    check_capture,
    constructed_backbone,
    load_backbone,
    read_trajectory,
    summaries,
    write_trajectory,
)
from difftrack.backbones._counts import count, counts_of, declaration
from difftrack.backbones._load import check_family, most_alike
from difftrack.backbones._refused import REFUSED
from difftrack.backbones._registry import family_of, find_class
from difftrack.datasets import Clip
from difftrack.documents import read_json
from difftrack.extraction import AnalysisParams, Extractor, ModeParams

TOP = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:__array_wrap__ must accept context:DeprecationWarning",
    "ignore:In CPU autocast, but the target dtype is not supported:UserWarning",
)

# layers x heads x channels, and parameters of the transformer where a count is published or follows from a published
# file's size. (The table; CogVideoX, HunyuanVideo, LTX, Mochi and Wan 2.2 as on their model cards.)
PUBLISHED = {
    "cogvideox-2b": ((30, 30, 64), 1_693_783_872),
    "cogvideox-5b": ((42, 48, 64), None),
    "cogvideox-1.5-5b": ((42, 48, 64), None),
    "cogvideox-2b-i2v": ((30, 30, 64), None),
    "cogvideox-5b-i2v": ((42, 48, 64), None),
    "cogvideox-1.5-5b-i2v": ((42, 48, 64), 5_571_594_880),
    "hunyuan-video": ((60, 24, 128), 12_821_012_544),
    "hunyuan-video-1.5": ((54, 16, 128), None),
    "wan2.1-1.3b": ((30, 12, 128), None),
    "wan2.1-14b": ((40, 40, 128), None),
    "wan2.1-i2v-14b": ((40, 40, 128), 16_394_878_784),
    "wan2.2-ti2v-5b": ((30, 24, 128), 4_999_787_712),
    "wan2.2-t2v-a14b": ((40, 40, 128), 2 * 14_288_491_584),
    "wan2.2-i2v-a14b": ((40, 40, 128), 2 * 14_288_901_184),
    "ltx-2b": ((28, 32, 64), 1_923_385_472),
    "ltx-13b": ((48, 32, 128), 13_042_569_344),
    "mochi-1": ((48, 24, 128), 10_027_677_744),
    "allegro": ((32, 24, 96), None),
    "skyreels-v2-1.3b": ((30, 12, 128), None),
    "skyreels-v2-14b": ((40, 40, 128), None),
    "cosmos-predict2-2b": ((28, 16, 128), 1_956_413_440),
    "cosmos-predict2-14b": ((36, 40, 128), None),
    "cosmos-predict2.5-2b": ((28, 16, 128), None),
    "kandinsky-5-lite": ((32, 28, 64), None),
    "kandinsky-5-pro": ((60, 32, 128), None),
    "ltx-2": ((48, 32, 128), None),
    "ltx-2.3": ((48, 32, 128), None),
    "ltx-2.5": ((48, 32, 128), None),
    "easyanimate-5.1-12b": ((48, 48, 64), None),
    "anyflow-1.3b": ((30, 12, 128), None),
    "anyflow-14b": ((40, 40, 128), None),
    "chronoedit-14b": ((40, 40, 128), None),
    "motif-video-2b": ((28, 12, 128), None),
    "kandinsky-6-pro": ((60, 32, 128), None),
    "consisid": ((42, 48, 64), None),
    "wan2.1-vace-1.3b": ((30, 12, 128), None),
    "wan2.1-vace-14b": ((40, 40, 128), None),
    "framepack-i2v": ((60, 24, 128), None),
    "helios-base": ((40, 40, 128), None),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, object]:
    return {row.name: row for row in summaries()}


def test_the_table_that_ships_holds_what_the_classes_count() -> None:
    """`python -m difftrack.backbones._counts` writes the table again."""
    assert {name: counts_of(name) for name in KNOWN} == {name: count(name) for name in KNOWN}
    table = read_json(Path(_counts.__file__).with_name("counts.json"))
    assert {name: row["declared"] for name, row in table.items()} == {
        name: declaration(known) for name, known in KNOWN.items()
    }


def test_a_row_of_another_declaration_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = replace(KNOWN["ltx-2b"], transformer=(KNOWN["ltx-2b"].transformer[0], {"num_layers": 3}))
    monkeypatch.setattr(_counts, "KNOWN", {**KNOWN, "ltx-2b": fewer})
    monkeypatch.setattr("difftrack.backbones._random_init.KNOWN", {**KNOWN, "ltx-2b": fewer})
    assert counts_of("ltx-2b").num_layers == 3


@pytest.mark.parametrize("arguments", [[], ["cogvideox-2b"], ["--memory"], ["nosuch"], ["--check", "nosuch"]])
def test_a_list_or_a_refusal_waits_for_no_library(arguments: list[str]) -> None:
    script = f"""
import sys
from difftrack.cli import app
try:
    app({["models", *arguments]!r}, standalone_mode=False)
except BaseException as end:
    print(end)
print("loaded:", sorted({{"torch", "diffusers", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


def test_every_name_has_a_checkpoint_arguments_and_a_row(rows: dict[str, object]) -> None:
    assert list(CHECKPOINTS) == list(KNOWN) == list(rows) == list(PUBLISHED)
    assert set(ALIASES.values()) <= set(KNOWN)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_the_classes_are_the_published_ones(rows: dict[str, object], name: str) -> None:
    row, (counts, num_parameters) = rows[name], PUBLISHED[name]
    assert (row.num_layers, row.num_heads, row.num_channels) == counts
    if num_parameters is not None:
        assert row.transformer_bytes == 2 * num_parameters


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("cogvideox-2b", (13, 30, 45)),
        ("cogvideox-1.5-5b", (11, 48, 85)),
        ("wan2.1-1.3b", (21, 30, 52)),
        ("ltx-2b", (21, 16, 22)),
        ("mochi-1", (28, 30, 53)),
        ("allegro", (22, 45, 80)),
        ("skyreels-v2-1.3b", (25, 34, 60)),
        ("wan2.1-vace-1.3b", (21, 30, 52)),
        ("framepack-i2v", (10, 30, 52)),
        ("helios-base", (9, 24, 40)),
    ],
)
def test_tokens_at_the_default_size(rows: dict[str, object], name: str, tokens: tuple[int, int, int]) -> None:
    """Counts from the reference measurements of each model."""
    grid = rows[name].grid
    assert (grid.num_latent_frames, grid.rows, grid.cols) == tokens
    assert rows["cogvideox-2b"].query_key_bytes == 2 * 13 * 30 * 45 * 30 * 64 * 2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "hunyuan-video-1.5" else name for name in KNOWN]
)
def test_capture_holds_to_its_laws_on_this_machine(name: str) -> None:
    checks = list(check_capture(name, ModelParams(device="cpu")))
    assert [check.law for check in checks if not check.passed] == []
    assert len(checks) == 5


def test_a_check_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone whose attention is not where its class looks for it."""
    monkeypatch.setattr(
        "difftrack.backbones.families.cogvideox._backbone.CogVideoXBackbone.attention_of", lambda self, _: [self.vae]
    )
    with pytest.raises(CaptureError, match="0 records for 1 layers"):
        list(check_capture("cogvideox-2b", ModelParams(device="cpu")))


def test_a_backbone_without_memory_refuses_nothing_but_work() -> None:
    backbone = constructed_backbone("hunyuan_t2v")
    assert {parameter.device.type for parameter in backbone.transformer.parameters()} == {"meta"}
    with pytest.raises(BackboneError, match="nearest: 5"):
        backbone.check_size(6, 720, 1280)
    with pytest.raises(BackboneError, match=r"unknown backbone 'wan'.*wan2\.1-1\.3b"):
        constructed_backbone("wan")


def test_random_weights_are_the_same_each_time_and_tables_of_positions_are_real() -> None:
    """Tables are not weights: constructors compute them, and no checkpoint has them."""
    params = ModelParams(device="cpu", dtype="bfloat16")
    one, other = (constructed_backbone("cogvideox-2b", params, small=True).transformer for _ in range(2))
    assert {weight.dtype for weight in one.parameters()} == {torch.bfloat16}
    assert all(torch.equal(*weights) for weights in zip(one.parameters(), other.parameters(), strict=True))
    settings = {**KNOWN["cogvideox-2b"].small, "num_layers": 1}
    stock = diffusers.CogVideoXTransformer3DModel(**settings)
    assert torch.equal(one.patch_embed.pos_embedding, stock.patch_embed.pos_embedding)
    assert {weight.device.type for weight in stock.parameters()} == {"cpu"}
    norm = one.transformer_blocks[0].attn1.norm_q
    assert norm.weight.eq(1).all()
    assert 0 < float(one.proj_out.weight.float().std()) < 1


@pytest.mark.parametrize(
    ("name", "frames"),
    [("cogvideox-2b", 13), ("cogvideox-1.5-5b", 21), ("hunyuan-video", 33), ("wan2.1-1.3b", 21), ("mochi-1", 28)],
)
def test_each_backbone_knows_how_many_latent_frames_it_was_trained_on(name: str, frames: int) -> None:
    backbone = constructed_backbone(name, ModelParams(device="cpu"))
    assert backbone.native_latent_frames == frames
    # CogVideoX 1.5 folds two latent frames into one token frame: 21 are 11 with the last one padded.
    assert backbone.native_token_frames == {"cogvideox-1.5-5b": 11}.get(name, frames)


@pytest.mark.parametrize(("name", "read"), [("hunyuan-video", True), ("cogvideox-2b", False), ("wan2.1-1.3b", False)])
def test_an_embedded_guidance_decides_the_numbers_of_those_that_read_it_alone(name: str, read: bool) -> None:
    plain, other = (
        constructed_backbone(name, ModelParams(device="cpu", embedded_guidance=scale)).loading_choices()
        for scale in (6.0, 1.0)
    )
    assert (plain != other) == read
    precise = constructed_backbone(name, ModelParams(device="cpu", dtype="bfloat16")).loading_choices()
    assert precise != plain


def test_backbones_are_measured_where_there_is_no_video_library_and_no_pipeline(tmp_path: Path) -> None:
    """A rented GPU may have torch, diffusers and transformers, and nothing else."""
    code = (
        "import runpy, sys\n"
        "sys.modules |= dict.fromkeys(['av', 'beartype', 'cv2', 'dvc', 'rich', 'skimage', 'typer', 'xarray', 'zarr'])\n"
        f"sys.argv = ['', 'cogvideox-2b', '--tiny', '--repeats', '1', '--out', {str(tmp_path / 'out.json')!r}]\n"
        "runpy.run_module('benchmarks.backbones_gpu', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert {"device", "date", "versions", "results"} <= set(report)
    measured = report["results"]["cogvideox-2b"]
    assert measured["matches_as_in_a_batch_of_two"] > 0.9
    assert measured["matches_as_in_guided_sampling"] == measured["matches_as_in_a_batch_of_two"]
    assert {"tapping_overhead", "capture_overhead", "extraction_is_faster_than_two_branches"} <= set(measured)
    assert all(cost["seconds"] > 0 for cost in measured["costs"].values())


# Sizes that only one family refuses


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("cogvideox-5b-i2v", (49, 480, 736), "learned for 480 x 720"),
        ("cogvideox-5b-i2v", (45, 480, 720), "learned for 49 frames"),
        ("cogvideox-1.5-5b", (49, 768, 1352), "multiple of 16, such as 1344 or 1360"),
        ("mochi-1", (25, 480, 848), None),
        ("mochi-1", (27, 480, 848), r"6 k \+ 1; nearest: 25"),
        ("allegro", (88, 720, 1280), None),
        ("allegro", (85, 720, 1280), "a multiple of 4; nearest: 84"),
        ("allegro", (1, 720, 1280), "a multiple of 4; nearest: 4"),
        ("ltx-2b", (161, 512, 720), "multiple of 32"),
        ("consisid", (45, 480, 720), "learned for 49 frames"),
        ("framepack-i2v", (37, 480, 832), None),
        ("framepack-i2v", (1, 480, 832), "first frame is an image that is not denoised; give it 5 at least"),
        ("helios-base", (5, 384, 640), None),
    ],
)
def test_sizes_follow_each_familys_own_rule(name: str, size: tuple[int, int, int], said: str | None) -> None:
    backbone = constructed_backbone(name)
    if said is None:
        backbone.check_size(*size)
    else:
        with pytest.raises(BackboneError, match=said):
            backbone.check_size(*size)


# What is not captured


@pytest.mark.parametrize("transformer_class", REFUSED)
def test_a_transformer_that_is_not_captured_is_refused_with_the_reason(transformer_class: str) -> None:
    assert hasattr(diffusers, transformer_class)
    with pytest.raises(
        BackboneError, match=re.escape(f"{transformer_class} is not captured: {REFUSED[transformer_class]}")
    ):
        check_family("mine", transformer_class)


@pytest.mark.parametrize(
    ("name", "component", "changes", "said"),
    [
        ("kandinsky-5-lite", "transformer", {"attention_type": "nabla"}, r"attention is of the type nabla: sparse"),
        (
            "cosmos-predict2-2b",
            None,
            {"_class_name": "Cosmos2TextToImagePipeline"},
            "other inputs than the supported pipelines",
        ),
        ("ltx-2", None, {"_class_name": "LTX2ImageToVideoPipeline"}, "other inputs than the supported pipelines"),
        ("cosmos-predict2-2b", "index scheduler", "EulerDiscreteScheduler", "levels of its scheduler"),
        ("consisid", "transformer", {"in_channels": 6}, "reads 6 channels, but ConsisIDPipeline passes 12"),
        ("consisid", "index scheduler", "EulerDiscreteScheduler", "set one of CogVideoXDDIMScheduler"),
        (
            "wan2.1-vace-1.3b",
            None,
            {"_class_name": "WanVideoToVideoPipeline"},
            "other inputs than the supported pipelines",
        ),
        ("framepack-i2v", "transformer", {"has_clean_x_embedder": False}, "made without has_clean_x_embedder"),
        ("helios-base", None, {"_class_name": "HeliosPyramidPipeline"}, "other inputs than the supported pipelines"),
        ("helios-base", "transformer", {"has_multi_term_memory_patch": False}, "has no patches for history"),
        ("helios-base", "scheduler", {"stages": 3}, "through stages of growing size"),
        ("helios-base", "scheduler", {"scheduler_type": "dmd"}, "through stages of growing size, or is distilled"),
    ],
)
def test_other_uses_of_a_familys_transformer_are_refused_before_weights_are_read(
    name: str, component: str | None, changes: Any, said: str, tmp_path: Path
) -> None:
    folder = ROWS[name](tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    if component is None:
        (folder / "model_index.json").write_text(json.dumps(index | changes))
    elif component in ("transformer", "scheduler"):
        file = folder / component / ("config.json" if component == "transformer" else "scheduler_config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    else:
        index["scheduler"] = ["diffusers", changes]
        (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match=said):
        load_backbone(f"path:{folder}")


def test_cosmos_samples_behind_its_guardrail_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its package the message says so; a guardrail that refuses a prompt stops sampling."""
    backbone = saved("cosmos-predict2.5-2b", tmp_path)
    size = {"num_frames": 5, "height": 48, "width": 80}
    with pytest.raises(BackboneError, match=r"guardrail.*pip install cosmos_guardrail"):
        backbone.generate("a", seed=0, num_inference_steps=1, cfg_scale=1.0, **size)
    monkeypatch.setattr("diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict.CosmosSafetyChecker", Unguarded)
    monkeypatch.setattr(Unguarded, "check_text_safety", lambda self, prompt: False)
    with pytest.raises(BackboneError, match=r"guardrail of .* refuses the prompt 'a'"):
        backbone.generate("a", seed=0, num_inference_steps=1, cfg_scale=1.0, **size)


def test_the_sound_of_a_sampled_clip_is_kept_with_its_trajectory(tmp_path: Path) -> None:
    """The mask also decides what is captured: the same latents without it are read alone."""
    backbone = saved("ltx-2", tmp_path)
    generated = backbone.generate(
        "a red disc", seed=0, num_inference_steps=2, cfg_scale=1.0, num_frames=9, height=96, width=160
    )
    file = tmp_path / "trajectory.safetensors"
    write_trajectory(file, generated.trajectory, fingerprint="a")
    read = read_trajectory(file, fingerprint="a")
    assert list(read.inputs) == ["audio_hidden_states"]
    assert torch.equal(read.inputs["audio_hidden_states"], generated.trajectory.inputs["audio_hidden_states"])
    schedule = backbone.schedule(2, grid=backbone.token_grid(9, 96, 160))
    prompt, latents = backbone.embed("a red disc"), read.latents[1]
    heard, alone = (
        next(backbone.capture(latents, 1, schedule, prompt, layers=[3], kinds=["query"], inputs=inputs)).query
        for inputs in (read.inputs_at(1), None)
    )
    assert not torch.equal(heard, alone)


# Images


def saved(name: str, tmp_path: Path, **params: object) -> Backbone:
    return load_backbone("mine", ModelParams(path=str((ROWS | VARIANTS)[name](tmp_path / "pipeline")), **params))


IMAGE = np.random.default_rng(3).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_cogvideox_reads_the_images_mode_at_the_first_latent_frame(tmp_path: Path) -> None:
    backbone = saved("cogvideox-1.5-5b-i2v", tmp_path)
    latents = backbone.condition(IMAGE, 4, frames_alone=False).latents
    alone = backbone.encode(IMAGE[None], frames_alone=True)
    torch.testing.assert_close(latents[:1], alone[:1], atol=1e-5, rtol=1e-5)
    assert latents.shape == (4, 6, 6, 10)
    assert not latents[1:].any()


def test_the_2b_model_reads_the_image_as_a_clip_that_stands_still(tmp_path: Path) -> None:
    backbone = saved("cogvideox-2b-i2v", tmp_path)
    latents = backbone.condition(IMAGE, 3, frames_alone=False).latents
    still = backbone.encode(np.repeat(IMAGE[None], 9, axis=0), frames_alone=False)
    torch.testing.assert_close(latents, still, atol=1e-5, rtol=1e-5)
    alone = backbone.condition(IMAGE, 3, frames_alone=True).latents
    assert torch.equal(alone[0], alone[2])
    first = saved("cogvideox-2b-i2v", tmp_path, image_condition="first_frame")
    assert not first.condition(IMAGE, 3, frames_alone=False).latents[1:].any()


def test_the_name_of_the_2b_model_says_how_it_reads_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = ROWS["cogvideox-5b-i2v"](tmp_path / "stock pipeline")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert load_backbone("cogvideox_i2v_2b").params.image_condition == "every_frame"
    assert load_backbone("cogvideox-5b-i2v").params.image_condition == "checkpoint"
    for name, where in (
        ("cogvideox-2b-i2v", {"path": str(folder)}),
        ("cogvideox-2b-i2v", {"checkpoint": "somebody/fine-tuned"}),
        ("mine", {"checkpoint": CHECKPOINTS["cogvideox-2b-i2v"]}),
    ):
        assert load_backbone(name, ModelParams(**where)).params.image_condition == "every_frame"
    chosen = ModelParams(path=str(folder), image_condition="first_frame")
    assert load_backbone("cogvideox-2b-i2v", chosen).params.image_condition == "first_frame"


def test_wan_reads_a_mask_and_a_clip_that_is_blank_after_the_image(tmp_path: Path) -> None:
    backbone = saved("wan2.1-i2v-14b", tmp_path)
    image = np.random.default_rng(3).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    conditioning = backbone.condition(image, 2, frames_alone=False)
    assert conditioning.latents.shape == (2, 4 + 6, 6, 10)
    assert conditioning.latents[0, :4].eq(1).all()
    assert conditioning.latents[1, :4].eq(0).all()
    assert conditioning.extras["encoder_hidden_states_image"].shape == (1, 17, 6)
    clip = np.concatenate([image[None], np.full((4, 48, 80, 3), 127.5)]).astype(np.float32)
    expected = backbone.encode(clip, frames_alone=False)
    torch.testing.assert_close(conditioning.latents[:, 4:], expected, atol=1e-4, rtol=1e-4)
    alone = backbone.condition(image, 3, frames_alone=True).latents
    assert alone[0, :4].eq(1).all()
    assert alone[1:, :4].eq(0).all()
    assert torch.equal(alone[1], alone[2])


def test_ti2v_holds_the_first_frame_at_timestep_0_and_everything_else_at_the_steps(tmp_path: Path) -> None:
    backbone = saved("wan2.2-ti2v-5b", tmp_path, image_condition="first_frame")
    assert backbone.needs_image
    assert not saved("wan2.2-ti2v-5b", tmp_path).needs_image
    latents = backbone.placeholder_latents(3, 6, 10)
    timesteps = backbone.timestep_input(torch.tensor(700), backbone.grid_of(latents))
    assert timesteps.shape == (1, 3 * 3 * 5)
    assert timesteps[0, :15].eq(0).all()
    assert timesteps[0, 15:].eq(700).all()
    conditioning = backbone.condition(IMAGE.repeat(2, 0).repeat(2, 1), 3, frames_alone=False)
    read = backbone.with_conditioning(latents, conditioning)
    assert torch.equal(read[1:], latents[1:])
    assert torch.equal(read[:1], conditioning.latents)


@pytest.mark.parametrize("name", ["cogvideox-1.5-5b-i2v", "wan2.2-ti2v-5b from an image"])
def test_an_image_is_asked_for_and_refused_where_nothing_reads_it(name: str, tmp_path: Path) -> None:
    backbone, (num_frames, height, width) = saved(name, tmp_path), clip_size(name)
    size = {"num_frames": num_frames, "height": height, "width": width}
    latents, prompt = backbone.placeholder_latents(2 * backbone.latents_per_token_frame, 6, 10), backbone.embed("")
    with pytest.raises(BackboneError, match="condition"):
        backbone.predict(latents, torch.tensor(500), prompt)
    with pytest.raises(BackboneError, match="give generate"):
        backbone.generate("", seed=0, num_inference_steps=1, cfg_scale=1.0, **size)
    from_text = constructed_backbone("wan2.1-1.3b")
    with pytest.raises(BackboneError, match="reads no image"):
        from_text.condition(IMAGE, 2, frames_alone=False)
    with pytest.raises(BackboneError, match="reads no image"):
        from_text.generate(
            "", seed=0, num_inference_steps=1, cfg_scale=1.0, image=IMAGE, num_frames=5, height=32, width=48
        )


def test_the_image_of_a_sampled_clip_is_kept_with_its_trajectory(tmp_path: Path) -> None:
    file = tmp_path / "trajectory.safetensors"
    write_trajectory(file, Trajectory(torch.zeros(1, 2, 3, 5, 7), IMAGE), fingerprint="a")
    read = read_trajectory(file, fingerprint="a")
    assert read.image is not None
    assert np.array_equal(read.image, IMAGE)
    write_trajectory(file, Trajectory(torch.zeros(1, 2, 3, 5, 7)), fingerprint="a")
    assert read_trajectory(file, fingerprint="a").image is None


# Texts, memory


@pytest.mark.parametrize("name", ROWS)
def test_a_prompt_that_is_too_long_warns_and_names_what_is_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = saved(name, tmp_path)
    monkeypatch.setattr(type(backbone), "text_length", property(lambda self: 5))
    with pytest.warns(UserWarning, match="5 text tokens; cut from the prompt: .*quickly"):
        backbone.embed("a red disc moves left up quickly")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.embed("a")


# Checkpoints


def test_a_checkpoint_is_taken_at_its_revision_and_its_commit_goes_into_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = ROWS["cogvideox-2b"](tmp_path / commit)
    asked: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def fetch(*names: object, **choices: object) -> str:
        asked.append((names, choices))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    backbone = load_backbone("cogvideox_t2v_2b", ModelParams(revision="v1"))
    ((names, choices),) = asked
    assert names == ("zai-org/CogVideoX-2b",)
    assert choices["revision"] == "v1"
    assert not [pattern for pattern in choices["allow_patterns"] if pattern.endswith((".bin", ".pt", ".py", "*"))]
    assert backbone.revision == commit
    assert backbone.fingerprint != load_backbone(f"path:{folder}").fingerprint
    view = AnalysisParams(num_frames=9, height=24, width=40, steps=(49,), layers=(1,), mode=ModeParams(folder="clean"))
    clip = Clip("clip", np.zeros((9, 24, 40, 3), np.uint8), fps=8.0, prompt="", source="folder")
    parts = {
        name: Extractor(load_backbone(name), view).prepare(clip).groups["clip"].fingerprint_parts
        for name in ("cogvideox-2b", f"path:{folder}")
    }
    assert parts["cogvideox-2b"]["revision"] == commit
    assert "revision" not in parts[f"path:{folder}"]


@pytest.mark.parametrize("name", ["cogvideox-2b", "hunyuan-video", "wan2.1-i2v-14b"])
def test_every_model_is_read_from_safetensors(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROWS[name](tmp_path / "pipeline")
    asked: dict[str, object] = {}
    for base in (diffusers.ModelMixin, transformers.PreTrainedModel):
        load = base.from_pretrained.__func__

        def watched(kind: type, *args: object, load: Any = load, **choices: object) -> object:
            asked[Path(str(args[0])).name] = choices.get("use_safetensors")
            return load(kind, *args, **choices)

        monkeypatch.setattr(base, "from_pretrained", classmethod(watched))
    components = load_backbone(f"path:{folder}").components
    models = [part for part in components.names if isinstance(components[part], torch.nn.Module)]
    assert len(models) >= 3
    assert asked == dict.fromkeys(models, True)


def test_a_pipeline_of_nobodys_is_refused(tmp_path: Path) -> None:
    folder = ROWS["wan2.1-1.3b"](tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "MyPipeline"}))
    with pytest.raises(BackboneError, match="MyPipeline"):
        load_backbone(f"path:{folder}")


OTHER_SIZES = {"cogvideox-2b": ((480, 736), (512, 768), (768, 1360)), "wan2.1-1.3b": ((768, 1360),)}
"""The size that each model is made for, and sizes at which eight frames at a time exceeded diffusers' 2 GiB."""


@pytest.mark.parametrize("name", KNOWN)
def test_a_checkpoint_without_a_name_is_made_for_the_clips_of_the_published_one_it_is_like(name: str) -> None:
    known = KNOWN[name]
    kind = find_class(known.transformer[0])
    defaults = {key: value.default for key, value in inspect.signature(kind).parameters.items()}
    saved = json.loads(json.dumps(defaults | dict(known.transformer[1]), default=str))
    found = most_alike(family_of(known.transformer[0]), kind, saved)
    assert found is not None
    assert (found.transformer, found.size) == (known.transformer, known.size)


def test_a_checkpoint_of_no_published_shape_takes_the_size_of_its_familys_first() -> None:
    kind = find_class("CogVideoXTransformer3DModel")
    found = most_alike(family_of(kind.__name__), kind, {"num_layers": 7, "num_attention_heads": 3})
    assert found is KNOWN["cogvideox-2b"]


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name, known in KNOWN.items() for size in (known.size[1:], *OTHER_SIZES.get(name, ()))],
)
def test_frames_are_encoded_alone_at_every_listed_size_without_memory(name: str, size: tuple[int, int]) -> None:
    backbone = constructed_backbone(name, ModelParams(device="meta", dtype="bfloat16"))
    batch = backbone.vae_batch(*size)
    assert 1 <= batch <= 8
    frames = np.zeros((batch + 1, *size, 3), np.uint8)
    latents = backbone.encode(frames, frames_alone=True)
    rows, cols = (side // backbone.spatial_stride for side in size)
    fold = backbone.latents_per_token_frame
    assert latents.shape == ((batch + 1) * fold, backbone.num_latent_channels, rows, cols)


def test_a_batch_that_the_autoencoder_cannot_take_is_cut_and_a_frame_refused_with_the_way_out() -> None:
    asked = {"device": "meta", "dtype": "bfloat16"}
    backbone = constructed_backbone("cogvideox-2b", ModelParams(**asked, vae_batch_frames=9))  # type: ignore[arg-type]
    assert [backbone.vae_batch(*size) for size in ((480, 720), (480, 736), (240, 360))] == [8, 7, 9]
    assert constructed_backbone("cogvideox-2b", ModelParams(**asked)).vae_batch(240, 360) == 8  # type: ignore[arg-type]
    with pytest.raises(BackboneError, match=r"one frame of 2160 x 3840 px is more than .* switch vae_tiling on"):
        backbone.vae_batch(2160, 3840)
