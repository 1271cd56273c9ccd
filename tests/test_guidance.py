"""Cross-attention guidance: exact, cheap in memory, and without effect when it is off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pipelines import REPEATED, ROWS, clip_size
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import difftrack as dt
from difftrack.backbones import AttentionCall, Backbone, Generated, intercept, load_backbone
from difftrack.guidance import (
    Guidance,
    GuidanceError,
    SequenceLayout,
    Variant,
    guide_transformer,
    guided,
    perturbed_attention,
)
from difftrack.interventions._logsumexp import attend_in_blocks, attend_with_logsumexp

pytestmark = [
    # diffusers' own: numpy 2 on a tensor, in a scheduler; autocast to float32 on a CPU, in Mochi's transformer.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning"),
]

PROMPT = "a red disc moves left"
STEPS, CFG_SCALE = 2, 6.0
SAMPLED = ("cogvideox-5b", "hunyuan-video", "wan2.1-1.3b")
"""One row for each way of placing text next to video and of calling the transformer."""
QUICK = (*SAMPLED, "cogvideox-1.5-5b-i2v", "ltx-2b", "mochi-1", "allegro")
VARIANTS: tuple[Variant, ...] = ("zeroed", "masked")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads would only cost time, because every tensor is tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(name: str, folder: Path) -> Backbone:
    backbone = load_backbone(f"path:{ROWS[name](folder)}")
    backbone.name = name
    return backbone


@pytest.fixture(scope="module", params=SAMPLED)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load(request.param, tmp_path_factory.mktemp("sampled"))


@pytest.fixture(scope="module")
def cogvideox(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load("cogvideox-5b", tmp_path_factory.mktemp("one"))


def size_of(backbone: Backbone) -> dict[str, int]:
    return dict(zip(("num_frames", "height", "width"), clip_size(backbone.name), strict=True))


def sample(backbone: Backbone, guidance: Guidance | None = None, **choices: int) -> Generated:
    def run() -> Generated:
        return backbone.generate(
            PROMPT, seed=7, num_inference_steps=STEPS, cfg_scale=CFG_SCALE, **{**size_of(backbone), **choices}
        )

    if guidance is None:
        return run()
    with guided(backbone, guidance, grid=backbone.token_grid(**size_of(backbone))):
        return run()


# Attention


def dense(layout: SequenceLayout, variant: Variant, text_mask: Tensor | None = None) -> Callable[..., Tensor]:
    """Compute perturbed attention by its definition, with a mask over all pairs of tokens."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        num_tokens = query.shape[2]
        frame = torch.full((num_tokens,), -1)
        video = layout.video(num_tokens)
        frame[video] = torch.arange(video.stop - video.start) // layout.tokens_per_frame
        allowed = (frame[:, None] == frame) | (frame[:, None] < 0) | (frame < 0)
        attended = torch.ones(num_tokens, dtype=torch.bool) if text_mask is None else text_mask
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~attended, -torch.inf)
        if variant == "masked":
            return scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1) @ value
        return (scores.softmax(dim=-1) * allowed) @ value

    return attend


def tokens(num_tokens: int, *, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, batch, 3, num_tokens, 7, generator=random)
    return query, key, value


def test_two_frames_of_one_token_worked_by_hand() -> None:
    """The other frame's weight, 3/4, is dropped. Zeroed, 1/4 of the own value remains; masked, all of it."""
    query, key = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [torch.tensor(3.0).log()]])
    value = torch.tensor([[8.0], [80.0]])
    layout = SequenceLayout(2, 1, "none")
    found = {
        variant: perturbed_attention(
            query[None, None], key[None, None], value[None, None], layout, variant=variant
        ).flatten()
        for variant in VARIANTS
    }
    torch.testing.assert_close(found["zeroed"], torch.tensor([2.0, 40.0]))
    torch.testing.assert_close(found["masked"], torch.tensor([8.0, 80.0]))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("text_position", "num_text"), [("first", 11), ("last", 11), ("none", 0), ("last", 0)])
def test_folding_frames_is_the_dense_definition(variant: Variant, text_position: str, num_text: int) -> None:
    layout = SequenceLayout(3, 5, text_position)  # type: ignore[arg-type]
    query, key, value = tokens(15 + num_text)
    found = perturbed_attention(query, key, value, layout, variant=variant)
    torch.testing.assert_close(found, dense(layout, variant)(query, key, value), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_text_gets_no_weight_whatever_each_clip_pads(variant: Variant) -> None:
    layout = SequenceLayout(3, 5, "last")
    query, key, value = tokens(26)
    mask = torch.ones(2, 1, 1, 26, dtype=torch.bool)
    mask[0, ..., 19:], mask[1, ..., 25:] = False, False
    found = perturbed_attention(query, key, value, layout, variant=variant, mask=mask)
    for i in range(2):
        wanted = dense(layout, variant, mask[i, 0, 0])(query[i : i + 1], key[i : i + 1], value[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], wanted, rtol=0, atol=1e-6)


def test_attention_scale_is_the_models_own() -> None:
    layout, (query, key, value) = SequenceLayout(3, 5, "first"), tokens(26)
    for variant in VARIANTS:
        found = perturbed_attention(query, key, value, layout, variant=variant, scale=0.5)
        wanted = perturbed_attention(query * 0.5 * 7**0.5, key, value, layout, variant=variant)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_one_frame_has_no_other_to_be_cut_off_from() -> None:
    query, key, value = tokens(26)
    plain = nn.functional.scaled_dot_product_attention(query, key, value)
    for variant in VARIANTS:
        found = perturbed_attention(query, key, value, SequenceLayout(1, 15, "last"), variant=variant)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


def test_sequence_of_another_size_and_masked_video_are_refused() -> None:
    query, key, value = tokens(26)
    with pytest.raises(GuidanceError, match="over 26 tokens"):
        perturbed_attention(query, key, value, SequenceLayout(3, 5, "none"), variant="zeroed")
    with pytest.raises(GuidanceError, match="over 26 tokens"):
        perturbed_attention(query, key, value, SequenceLayout(3, 9, "first"), variant="zeroed")
    mask = torch.ones(1, 1, 1, 26, dtype=torch.bool)
    mask[..., 3] = False
    with pytest.raises(GuidanceError, match="masks video tokens"):
        perturbed_attention(query[:1], key[:1], value[:1], SequenceLayout(3, 5, "last"), variant="zeroed", mask=mask)


@pytest.mark.parametrize("attend", [attend_with_logsumexp, attend_in_blocks])
def test_logarithms_are_those_of_the_denominators(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    query, key, value = tokens(131)
    output, logarithms = attend(query, key[:, :, :17], value[:, :, :17], scale=0.3)
    scores = 0.3 * query @ key[:, :, :17].transpose(-1, -2)
    torch.testing.assert_close(logarithms, scores.logsumexp(dim=-1), rtol=0, atol=2e-6)
    torch.testing.assert_close(output, scores.softmax(dim=-1) @ value[:, :, :17], rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("num_channels", [64, 44])
def test_the_kernels_of_a_gpu_perturb_as_the_definition_says(
    variant: Variant, dtype: torch.dtype, tolerance: float, num_channels: int
) -> None:
    """Flash attention takes 64 half-precision channels; the memory-efficient kernel takes any other layout."""
    layout, num_tokens = SequenceLayout(3, 37, "first"), 3 * 37 + 11
    random = torch.Generator().manual_seed(1)
    given = torch.randn(3, 2, 5, num_tokens, num_channels, generator=random).to("cuda", dtype)
    wanted = dense(layout, variant)(*(part.double().cpu() for part in given))
    found = perturbed_attention(*given, layout, variant=variant)
    torch.testing.assert_close(found.double().cpu(), wanted, rtol=0, atol=tolerance)


class LargestTensor(TorchDispatchMode):
    """Record the largest number of elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        given = func(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, tuple | list) else (given,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return given


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("portable", [False, True])
def test_no_tensor_over_pairs_of_tokens_is_ever_made(
    variant: Variant, portable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if portable:
        monkeypatch.setattr("difftrack.interventions._attention.attend_with_logsumexp", attend_in_blocks)
    layout, num_tokens = SequenceLayout(13, 89, "first"), 13 * 89 + 43
    query, key, value = torch.randn(3, 1, 1, num_tokens, 8)
    with LargestTensor() as largest:
        perturbed_attention(query, key, value, layout, variant=variant)
    assert largest.elements <= (128 if portable and variant == "zeroed" else 2 * 8) * num_tokens
    with LargestTensor() as largest:
        dense(layout, variant)(query, key, value)
    assert largest.elements == num_tokens**2


# Sampling


@contextmanager
def densely_perturbed(backbone: Backbone, guidance: Guidance) -> Iterator[None]:
    grid = backbone.token_grid(**size_of(backbone))
    layout = SequenceLayout(grid.num_latent_frames, grid.rows * grid.cols, backbone.text_position)

    def attend(call: AttentionCall) -> Tensor:
        mask = None if call.mask is None else call.mask[0, 0, 0]
        return dense(layout, guidance.variant, mask)(call.query, call.key, call.value)

    modules = backbone.attention_modules()
    with intercept({layer: modules[layer] for layer in guidance.layers}, attend):
        yield


def scheduler_of(backbone: Backbone) -> Any:
    """Record what the stock pipeline steps with, and how it prepares it."""
    if backbone.name == "hunyuan-video":
        scheduler = backbone.components.scheduler()
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, STEPS + 1)[:-1])
        return scheduler
    changes = {"timestep_spacing": "trailing"} if backbone.name.startswith("cogvideox") else {}
    scheduler = backbone.components.scheduler(**changes)
    scheduler.set_timesteps(STEPS)
    return scheduler


def sample_in_three_branches(backbone: Backbone, guidance: Guidance, latents: Tensor) -> Tensor:
    """The sampler written out: every branch runs whole, and the three predictions are combined here."""
    scheduler, cond, uncond = scheduler_of(backbone), backbone.embed(PROMPT), backbone.embed("")
    entering = []
    for step, timestep in enumerate(scheduler.timesteps):
        entering.append(latents)
        prediction = of_cond = backbone.predict(latents, timestep, cond)
        if backbone.name != "hunyuan-video":  # the distilled model
            of_uncond = backbone.predict(latents, timestep, uncond)
            prediction = of_uncond + CFG_SCALE * (of_cond - of_uncond)
        if guidance.applies(step):
            with densely_perturbed(backbone, guidance):
                prediction = prediction + guidance.scale * (of_cond - backbone.predict(latents, timestep, cond))
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return torch.stack(entering)


@pytest.mark.parametrize("variant", ["zeroed", pytest.param("masked", marks=pytest.mark.slow)])
def test_guided_sampling_is_the_explicit_loop_over_three_branches(backbone: Backbone, variant: Variant) -> None:
    guidance = Guidance(layers=(1, 3), scale=1.5, variant=variant)
    trajectory = sample(backbone, guidance).trajectory.latents
    wanted = sample_in_three_branches(backbone, guidance, trajectory[0])
    torch.testing.assert_close(trajectory, wanted, rtol=0, atol=5e-6)
    assert float((trajectory - sample(backbone).trajectory.latents).abs().max()) > 1e-3


class CfgCallPattern:
    """Count how often the attention of each layer runs."""

    def __init__(self, backbone: Backbone) -> None:
        self.of_layer = [0] * backbone.num_layers
        self._handles = [
            module.register_forward_pre_hook(lambda *_, layer=layer: self._count(layer))
            for layer, module in enumerate(backbone.attention_modules())
        ]

    def _count(self, layer: int) -> None:
        self.of_layer[layer] += 1

    def __enter__(self) -> "CfgCallPattern":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def test_scale_zero_is_plain_sampling_to_the_bit_and_costs_the_same(cogvideox: Backbone) -> None:
    with CfgCallPattern(cogvideox) as plain_calls:
        plain = sample(cogvideox)
    with CfgCallPattern(cogvideox) as calls:
        guided_by_nothing = sample(cogvideox, Guidance(layers=(1,), scale=0.0))
    assert torch.equal(guided_by_nothing.trajectory.latents, plain.trajectory.latents)
    assert np.array_equal(guided_by_nothing.frames, plain.frames)
    assert calls.of_layer == plain_calls.of_layer == [STEPS] * 4


def test_only_the_wanted_steps_are_guided_and_layers_before_the_first_one_run_once(cogvideox: Backbone) -> None:
    plain = sample(cogvideox).trajectory.latents
    with CfgCallPattern(cogvideox) as calls:
        late = sample(cogvideox, Guidance(layers=(2,), from_step=1)).trajectory.latents
    assert calls.of_layer == [STEPS, STEPS, STEPS + 1, STEPS + 1]
    assert torch.equal(late, plain)  # both entered the steps before the last one was guided
    early = sample(cogvideox, Guidance(layers=(2,), until_step=1)).trajectory.latents
    assert torch.equal(early[0], plain[0])
    assert not torch.equal(early[1], plain[1])


GUIDED = [name for name in ROWS if not name.endswith("a14b") and name not in ("framepack-i2v", "helios-base")]
"""Backbones with two experts (test_two_experts_cannot_be_guided) or with frames of history are refused."""


def _mark(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in QUICK else [pytest.mark.long] if name in REPEATED else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=_mark(name)) for name in GUIDED])
def test_prediction_moves_away_from_the_perturbed_one_by_the_scale(name: str, tmp_path: Path) -> None:
    backbone = load(name, tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (*clip_size(name), 3), dtype=np.uint8)
    latents, prompt = backbone.encode(frames, frames_alone=False), backbone.embed(PROMPT)
    start = backbone.condition(frames[0], len(latents), frames_alone=False) if backbone.needs_image else None
    grid, modules = backbone.token_grid(**size_of(backbone)), backbone.attention_modules()
    layout = SequenceLayout(grid.num_latent_frames, grid.rows * grid.cols, backbone.text_position)

    def predict() -> Tensor:
        return backbone.predict(latents, torch.tensor(500), prompt, conditioning=start)

    plain = predict()
    for variant in VARIANTS:
        guidance = Guidance(layers=(1, 3), scale=0.7, variant=variant)
        with densely_perturbed(backbone, guidance):
            wanted = plain + 0.7 * (plain - predict())
        found = []
        for reuse in (True, False):
            with guide_transformer(backbone.transformer, modules, layout, guidance, calls="cond", reuse=reuse):
                found.append(predict())
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=5e-6)
        assert torch.equal(*found)
        assert float((found[0] - plain).abs().max()) > 5e-4


def test_two_experts_cannot_be_guided(tmp_path: Path) -> None:
    backbone = load("wan2.2-t2v-a14b", tmp_path)
    grid = backbone.token_grid(**size_of(backbone))
    with (
        pytest.raises(GuidanceError, match=r"wan2\.2-t2v-a14b samples with 2 transformers that share the steps"),
        guided(backbone, Guidance(layers=(1,)), grid=grid),
    ):
        pass


def test_nothing_is_left_on_the_transformer_even_after_an_error(cogvideox: Backbone) -> None:
    modules = {name: set(vars(module)) for name, module in cogvideox.transformer.named_modules()}
    sample(cogvideox, Guidance(layers=(1,)))
    with pytest.raises(GuidanceError, match="set it up for the sampled size"):
        sample(cogvideox, Guidance(layers=(1,)), width=48)
    for name, module in cogvideox.transformer.named_modules():
        assert set(vars(module)) - {"_diffusers_hook"} == modules[name] - {"_diffusers_hook"}


class Pipeline:
    """A transformer of one layer over two frames of three tokens, and several ways to call it."""

    def __init__(self, attention: nn.Module | None = None) -> None:
        self.transformer = OneLayer(attention or Attention())
        self.layout = SequenceLayout(2, 3, "none")

    def __call__(self, batch: Tensor, timestep: float = 9.0) -> Tensor:
        prediction: Tensor = self.transformer(batch, timestep=torch.tensor(timestep))[0]
        return prediction

    def guided(self, **choices: Any) -> Any:
        guidance = Guidance(layers=(0,), scale=2.0)
        return guide_transformer(self.transformer, [self.transformer.attention], self.layout, guidance, **choices)


class Attention(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        heads = hidden_states.unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).squeeze(1)


class OneLayer(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
        return (self.attention(hidden_states) * timestep,)

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        yield


def latents(num: int) -> Tensor:
    return torch.randn(num, 6, 5, generator=torch.Generator().manual_seed(3))


def test_calls_in_one_batch_by_name_and_by_order_are_guided_alike() -> None:
    pipeline, (uncond, cond) = Pipeline(), latents(2).split(1)
    shift = 2.0 * (pipeline(cond) - 9 * perturbed_attention(*[cond[None]] * 3, pipeline.layout, variant="zeroed")[0])
    wanted = torch.cat([pipeline(uncond), pipeline(cond)]) + shift
    for calls in ("named", "batched"):
        with pipeline.guided(calls=calls):
            torch.testing.assert_close(pipeline(torch.cat([uncond, cond])), wanted)
    with pipeline.guided():
        with pipeline.transformer.cache_context("cond"):
            of_cond = pipeline(cond)
        with pipeline.transformer.cache_context("uncond"):
            of_uncond = pipeline(uncond)
    torch.testing.assert_close(torch.cat([of_uncond, of_cond]), wanted)
    with pipeline.guided(calls="cond_first"):
        of_cond, of_uncond = pipeline(cond), pipeline(uncond)
        assert not torch.equal(pipeline(cond, timestep=8.0), of_cond)
    torch.testing.assert_close(torch.cat([of_uncond, of_cond]), wanted)


def test_clips_that_are_sampled_together_are_guided_like_each_alone() -> None:
    pipeline, batch = Pipeline(), latents(4)
    with pipeline.guided(num_clips=2):
        together = pipeline(batch)
    for clip in range(2):
        with pipeline.guided():
            torch.testing.assert_close(pipeline(batch[clip::2]), together[clip::2])


def test_half_precision_is_put_together_in_single() -> None:
    pipeline, batch = Pipeline(), latents(2).to(torch.bfloat16)
    assert pipeline(batch).dtype == torch.bfloat16
    with pipeline.guided():
        assert pipeline(batch).dtype == torch.float32


def test_calls_that_cannot_be_told_apart_are_refused() -> None:
    pipeline = Pipeline()
    with pipeline.guided(), pytest.raises(GuidanceError, match="does not name the branch"):
        pipeline(latents(1))
    for name, num, complaint in (("cond", 3, "batch of 3"), ("uncond", 1, "before the conditional one")):
        calling = pytest.raises(GuidanceError, match=complaint)
        with pipeline.guided(), pipeline.transformer.cache_context(name), calling:
            pipeline(latents(num))


class Elsewhere(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        return (hidden_states @ hidden_states.transpose(1, 2)).softmax(dim=-1) @ hidden_states


class Causal(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        heads = hidden_states.unsqueeze(1)
        mask = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).squeeze(1)


def test_attention_that_cannot_be_perturbed_is_refused_rather_than_left_alone() -> None:
    for attention, complaint in ((Elsewhere(), "never called torch"), (Causal(), "equal for all video tokens")):
        pipeline = Pipeline(attention)
        with pipeline.guided(calls="cond"), pytest.raises(GuidanceError, match=complaint):
            pipeline(latents(1))


class PaddedText(nn.Module):
    """Attention over video and two text tokens, which hides the padded one both as key and as query."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        heads = torch.cat([hidden_states, latents(1)[:, :2]], dim=1).unsqueeze(1)
        valid = torch.tensor([True] * 7 + [False])
        mask = (valid[:, None] & valid)[None, None]
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).squeeze(1)[:, :6]


def test_mask_per_query_is_read_as_what_video_attends_to() -> None:
    """HunyuanVideo 1.5 masks in this way."""
    pipeline, cond = Pipeline(PaddedText()), latents(1)
    pipeline.layout = SequenceLayout(2, 3, "last")
    tokens = torch.cat([cond, cond[:, :2]], dim=1)[None]
    mask = torch.tensor([True] * 7 + [False])[None, None, None]
    perturbed = perturbed_attention(tokens, tokens, tokens, pipeline.layout, variant="zeroed", mask=mask)[0, :, :6]
    plain = pipeline(cond)
    with pipeline.guided(calls="cond"):
        torch.testing.assert_close(pipeline(cond), plain + 2.0 * (plain - 9 * perturbed))


def test_layers_and_steps_that_are_none_are_refused(cogvideox: Backbone) -> None:
    for layers in ((), (1, 1), (-1,)):
        with pytest.raises(GuidanceError, match="each once"):
            Guidance(layers=layers)
    with pytest.raises(GuidanceError, match=r"until_step \(\d\) must be greater than from_step"):
        Guidance(layers=(1,), from_step=3, until_step=3)
    with pytest.raises(GuidanceError, match="layers 0 to 3"):
        sample(cogvideox, Guidance(layers=(1, 4)))


@pytest.mark.parametrize("name", ["allegro", "wan2.1-1.3b"])
def test_at_a_scale_of_one_every_call_is_for_the_prompt_whether_or_not_the_pipeline_says_so(
    name: str, tmp_path: Path
) -> None:
    """Allegro's pipeline does not name its branches."""
    backbone = load(name, tmp_path)
    num_frames, height, width = clip_size(name)
    asked = {"layers": [1], "num_inference_steps": 2, "size": (num_frames, height, width), "seed": 5, "compare": False}
    plain, guided_one = (dt.guide(backbone, PROMPT, cfg_scale=1.0, scale=scale, **asked) for scale in (0.0, 30.0))
    assert plain.frames.shape == guided_one.frames.shape
    assert not np.array_equal(plain.frames, guided_one.frames)


def test_a_layer_that_there_is_not_is_refused_before_anything_is_sampled(cogvideox: Backbone) -> None:
    with pytest.raises(GuidanceError, match=r"layers \[9\] cannot be perturbed; there are layers 0 to 3"):
        dt.guide(cogvideox, "", layers=[9], size=clip_size("cogvideox-5b"))
