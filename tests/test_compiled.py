"""`compile: true`: captures and guidance of compiled blocks, from graphs that are made once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from torch import Tensor
from torch._dynamo.utils import counters

from difftrack.backbones import AttentionCall, Backbone, ModelParams, intercept, load_backbone
from difftrack.backbones._compiled import _OperatorMode, compile_blocks
from difftrack.guidance import Guidance, guided

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of the libraries

LAYERS = 11
"""More blocks than the graphs of one block that the compiler keeps by default, 8."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("pipeline"), num_layers=LAYERS)


@pytest.fixture(autouse=True)
def traced_only() -> Iterator[None]:
    """The compiler's front end only: its graphs, run as they are, give the bits of the model."""
    with pytest.MonkeyPatch.context() as patch:
        traced = partial(compile_blocks, backend="eager")
        patch.setattr("difftrack.backbones._architecture.compile_blocks", traced)
        torch._dynamo.reset()
        counters.clear()
        yield
    torch._dynamo.reset()


def loaded(folder: Path, **params: Any) -> Backbone:
    return load_backbone(f"path:{folder}", ModelParams(device="cpu", **params))


def run(backbone: Backbone) -> tuple[Tensor, Any, Any]:
    latents, prompt = backbone.placeholder_latents(3, 10, 14), backbone.placeholder_prompt()
    return latents, backbone.schedule(10, grid=backbone.grid_of(latents)), prompt


def captured(backbone: Backbone, *layers: int) -> dict[str, Tensor]:
    latents, schedule, prompt = run(backbone)
    records = backbone.capture(latents, 4, schedule, prompt, layers=layers)
    found = {}
    for record in records:
        kinds = {"query": record.query, "key": record.key, "feature": record.feature, "text": record.text_key}
        found |= {f"{kind} {record.layer}": tensor.clone() for kind, tensor in kinds.items() if tensor is not None}
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.skipif(
    hasattr(_OperatorMode.__torch_function__, "__wrapped__"),
    reason="the import hook checks types inside of graphs: run with -o addopts=''",
)
def test_blocks_share_their_graphs_and_captures_make_no_others(folder: Path) -> None:
    plain, compiled = loaded(folder), loaded(folder, compile=True)
    latents, schedule, prompt = run(plain)
    whole = [backbone.predict(latents, schedule.timesteps[4], prompt) for backbone in (plain, compiled)]
    assert torch.equal(*whole)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs < LAYERS  # several graphs each where an import hook checks types inside the blocks; 2 otherwise
    for layers in ((0, 3), (LAYERS - 1,), tuple(range(LAYERS)), (5, 7)):
        assert same(captured(compiled, *layers), captured(plain, *layers))
    assert torch.equal(compiled.predict(latents, schedule.timesteps[4], prompt), whole[0])  # nothing is left behind
    assert counters["stats"]["unique_graphs"] == graphs


def test_attention_is_replaced_in_compiled_blocks_and_only_in_the_chosen_one(folder: Path) -> None:
    plain, compiled = loaded(folder), loaded(folder, compile=True)
    latents, schedule, prompt = run(plain)
    outputs = []
    for backbone in (plain, compiled):
        seen: list[int] = []

        def zeroed(call: AttentionCall, seen: list[int] = seen) -> Tensor:
            seen.append(call.layer)
            return torch.zeros_like(call.query)

        with intercept({4: backbone.attention_modules()[4]}, zeroed):
            outputs.append(backbone.predict(latents, schedule.timesteps[4], prompt))
        assert seen == [4]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], plain.predict(latents, schedule.timesteps[4], prompt))


def test_what_a_sink_keeps_is_its_own(folder: Path) -> None:
    """The compiler writes into memory that the model no longer needs, so a record may not be a view of it."""
    backbone, kept = loaded(folder, compile=True), []
    with intercept({2: backbone.attention_modules()[2]}, lambda call: (kept.append(call.query), call.run())[1]):
        latents, schedule, prompt = run(backbone)
        backbone.predict(latents, schedule.timesteps[4], prompt)
    (query,) = kept
    before = query.clone()
    backbone.predict(2 * latents, schedule.timesteps[4], prompt)
    assert torch.equal(query, before)


def test_guidance_samples_the_same_clip_from_compiled_blocks(folder: Path) -> None:
    clips = []
    for backbone in (loaded(folder), loaded(folder, compile=True)):
        grid = backbone.token_grid(NUM_FRAMES, HEIGHT, WIDTH)
        size = {"num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
        with guided(backbone, Guidance(layers=(3, 6), scale=1.0), grid=grid, calls="named"):
            sampled = backbone.generate("a red disc", seed=3, num_inference_steps=2, cfg_scale=6.0, **size)
        clips.append(sampled.trajectory.latents)
    torch.testing.assert_close(*clips, rtol=0, atol=1e-5)


def test_what_a_store_records_says_that_blocks_are_compiled(folder: Path) -> None:
    plain, compiled = loaded(folder), loaded(folder, compile=True)
    assert compiled.loading_choices() == {**plain.loading_choices(), "compile": True}
    assert compiled.fingerprint == plain.fingerprint
    assert list(compiled.transformer.state_dict()) == list(plain.transformer.state_dict())


@pytest.mark.long
def test_the_compilers_own_kernels_stay_within_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difftrack.backbones._architecture.compile_blocks", compile_blocks)
    plain, compiled = loaded(folder), loaded(folder, compile=True)
    own, other = captured(plain, 0, 5, LAYERS - 1), captured(compiled, 0, 5, LAYERS - 1)
    assert list(own) == list(other)
    for name, tensor in own.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)
