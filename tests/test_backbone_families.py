"""Laws that every architecture obeys, each on a small saved pipeline folder of its own classes."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny_pipelines import save_cogvideox, save_hunyuan, save_wan
from torch import Tensor

from difftrack.backbones import AttentionCall, Backbone, LayerDescriptors, intercept, load_backbone, round_trip_error
from difftrack.datasets import Clip
from difftrack.extraction import AnalysisParams, Extractor, InversionParams, ModeParams

PROMPT = "a red disc moves left"
SAVERS = {
    "cogvideox": save_cogvideox,
    "cogvideox-1.5": lambda folder: save_cogvideox(folder, patch_size_t=2, patch_bias=False),
    "hunyuan": save_hunyuan,
    "wan": save_wan,
    "wan-2.2": lambda folder: save_wan(folder, expand_timesteps=True),
}
SIZES = {"cogvideox": (9, 24, 40), "cogvideox-1.5": (9, 24, 40)}
"""(frames, height, width): 3 rows x 5 cols of tokens, in 2 token frames but for cogvideox, which has 3."""


@dataclass(frozen=True)
class Case:
    name: str
    backbone: Backbone
    size: tuple[int, int, int]
    frames: np.ndarray
    latents: Tensor

    def capture(self, latents: Tensor, layers: list[int], prompt: str = PROMPT) -> dict[int, LayerDescriptors]:
        embedding, schedule = self.backbone.embed(prompt), self.backbone.schedule(10)
        return {
            record.layer: record for record in self.backbone.capture(latents, 4, schedule, embedding, layers=layers)
        }


@pytest.fixture(scope="session", params=sorted(SAVERS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    backbone = load_backbone(f"path:{SAVERS[request.param](tmp_path_factory.mktemp(request.param))}")
    size = SIZES.get(request.param, (5, 48, 80))
    frames = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Case(request.param, backbone, size, frames, backbone.encode(frames, frames_alone=False))


def test_layers_are_numbered_through_all_blocks_in_execution_order(case: Case) -> None:
    order: list[int] = []
    modules = dict(enumerate(case.backbone.attention_modules()))
    with intercept(modules, lambda call: (order.append(call.layer), call.run())[1]):
        case.backbone.predict(case.latents, torch.tensor(500), case.backbone.embed(PROMPT))
    assert order == [0, 1, 2, 3]
    assert case.backbone.num_layers == 4


def test_output_with_capture_is_bit_identical_to_output_without(case: Case) -> None:
    prompt, timestep = case.backbone.embed(PROMPT), torch.tensor(500)
    before = case.backbone.predict(case.latents, timestep, prompt)
    with intercept(dict(enumerate(case.backbone.attention_modules())), AttentionCall.run):
        assert torch.equal(case.backbone.predict(case.latents, timestep, prompt), before)
    assert before.shape == case.latents.shape


def test_attention_recomputed_from_the_captured_tensors_is_the_modules_own(case: Case) -> None:
    errors = []

    def check(call: AttentionCall) -> Tensor:
        own = call.run()
        again = torch.nn.functional.scaled_dot_product_attention(call.query, call.key, call.value, attn_mask=call.mask)
        errors.append(float((own - again).abs().max()))
        return own

    with intercept(dict(enumerate(case.backbone.attention_modules())), check):
        case.backbone.predict(case.latents, torch.tensor(500), case.backbone.embed(PROMPT))
    assert errors == [0.0] * 4


def test_descriptors_have_heads_grid_and_channels(case: Case) -> None:
    grid = case.backbone.token_grid(*case.size)
    assert (grid.num_latent_frames, grid.rows, grid.cols) == (3 if case.name == "cogvideox" else 2, 3, 5)
    for record in case.capture(case.latents, [0, 3]).values():
        for kind in (record.query, record.key, record.feature):
            assert kind.shape == (case.backbone.num_heads, grid.num_latent_frames, 3, 5, case.backbone.num_channels)


def test_tokens_run_latent_frame_row_col(case: Case) -> None:
    """In layer 0 one latent patch changes one query and nothing else."""
    changed = case.latents.clone()
    fold, patch = case.backbone.latents_per_token_frame, case.backbone.patch_size
    changed[fold * 1, :, patch * 2, patch * 3] += 1
    before, after = (case.capture(latents, [0])[0] for latents in (case.latents, changed))
    differs = (before.query != after.query).any(dim=0).any(dim=-1)
    assert differs.nonzero().tolist() == [[1, 2, 3]]
    assert torch.equal(before.text_key, after.text_key)


def test_text_tokens_never_reach_the_video_grid(case: Case) -> None:
    one, other = (case.capture(case.latents, [0], prompt)[0] for prompt in (PROMPT, "blue"))
    if case.name == "hunyuan":
        # Its pooled prompt modulates every layer, so tokens are told apart by being video or text instead.
        assert one.text_key.shape[1] == 256
    else:
        assert torch.equal(one.query, other.query)
        assert torch.equal(one.key, other.key)


def test_padded_text_is_masked_where_the_model_masks_it(case: Case) -> None:
    words = {prompt: case.capture(case.latents, [1], prompt)[1].text_mask for prompt in ("blue", PROMPT)}
    attended = [int(mask.sum()) for mask in words.values()]
    if case.name == "hunyuan":
        assert attended[1] - attended[0] == len(PROMPT.split()) - 1
        assert words["blue"].tolist() == sorted(words["blue"].tolist(), reverse=True)
    else:
        num_text_tokens = {"cogvideox": 11, "cogvideox-1.5": 11}.get(case.name, 0)
        assert attended == [num_text_tokens] * 2


def test_early_exit_gives_bit_equal_descriptors(case: Case) -> None:
    every = case.capture(case.latents, [0, 1, 2, 3])
    alone = case.capture(case.latents, [2])[2]
    for kind in ("query", "key", "feature", "text_key"):
        assert torch.equal(getattr(alone, kind), getattr(every[2], kind)), kind


def test_trajectory_of_one_branch_gives_bit_equal_captures(case: Case) -> None:
    on_the_way: list[Tensor] = []
    with intercept(
        {1: case.backbone.attention_modules()[1]},
        lambda call: (on_the_way.append(call.query.clone()), call.run())[1],
    ):
        num_frames, height, width = case.size
        scale = 6.0 if case.name == "hunyuan" else 1.0
        generated = case.backbone.generate(
            PROMPT, seed=3, num_inference_steps=3, cfg_scale=scale, num_frames=num_frames, height=height, width=width
        )
    assert generated.frames.shape == (*case.size, 3)
    assert generated.trajectory.latents.shape[1:] == case.latents.shape
    assert len(on_the_way) == 3
    schedule, prompt = case.backbone.schedule(3), case.backbone.embed(PROMPT)
    for step, query in enumerate(on_the_way):
        (record,) = case.backbone.capture(generated.trajectory.latents[step], step, schedule, prompt, layers=[1])
        head_major = record.query.flatten(1, 3)
        first = 11 if case.name.startswith("cogvideox") else 0
        assert torch.equal(head_major, query[0, :, first : first + head_major.shape[1]])


def test_levels_are_the_stock_schedulers(case: Case) -> None:
    schedule, stock = case.backbone.schedule(7), case.backbone._sampling_scheduler()
    if case.name == "hunyuan":
        stock.set_timesteps(sigmas=np.linspace(1, 0, 8)[:-1])
    else:
        stock.set_timesteps(7)
    assert torch.equal(schedule.timesteps, stock.timesteps)
    ones, zeros = torch.ones(1), torch.zeros(1)
    for step in range(7):
        noise_share = float(schedule.add_noise(zeros, ones, step))
        data_share = float(schedule.add_noise(ones, zeros, step))
        if case.name.startswith("cogvideox"):
            signal = float(stock.alphas_cumprod[stock.timesteps[step]])
            assert (data_share, noise_share) == pytest.approx((signal**0.5, (1 - signal) ** 0.5), abs=1e-6)
        else:
            sigma = float(stock.sigmas[step])
            assert (data_share, noise_share) == pytest.approx((1 - sigma, sigma), abs=1e-6)


def test_fixed_point_inversion_returns_on_a_linear_denoiser(case: Case) -> None:
    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        return (0.4 - 0.9 * float(timestep) / 1000) * latents + 0.05 * latents.flip(-1)

    schedule, clean = case.backbone.schedule(50), case.latents.double()
    *_, (step, noisy) = schedule.invert(clean, denoise, iterations=15)
    assert step == 0
    assert round_trip_error(schedule, clean, noisy, denoise, step=0) <= 1e-6


@pytest.mark.parametrize("mode", ["add_noise", "ddim_inversion", "clean"])
def test_real_clips_go_through_every_mode(case: Case, mode: str) -> None:
    num_frames, height, width = case.size
    params = AnalysisParams(
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=20,
        steps=(18, 19),
        layers=(1, 3),
        mode=ModeParams(folder=mode),
        inversion=InversionParams(iterations=3),
    )
    clip = Clip("clip", case.frames, fps=8.0, prompt=PROMPT, source="folder")
    extraction = Extractor(case.backbone, params).prepare(clip)
    spec = extraction.groups["clip"]
    units = list(extraction.units("clip", spec.units))
    assert len(units) == len(spec.units) == (2 if mode == "clean" else 4)
    for unit in units:
        assert {entry: array.shape for entry, array in unit.arrays.items()} == {
            entry: spec.entry_shape(entry) for entry in spec.entries
        }
        assert all(np.isfinite(array).all() for array in unit.arrays.values())


def test_frames_encoded_alone_make_a_token_frame_each(case: Case) -> None:
    latents = case.backbone.encode(case.frames[:3], frames_alone=True)
    assert case.capture(latents, [0])[0].key.shape[1] == 3


def test_nothing_of_the_pipeline_is_left_changed(case: Case) -> None:
    attributes = [set(module.__dict__) for module in case.backbone.transformer.modules()]
    case.capture(case.latents, [0, 2])
    assert [set(module.__dict__) for module in case.backbone.transformer.modules()] == attributes
