"""The small backbone's training at sizes that take seconds: it learns, it resumes, and its folder loads."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from torch import Tensor, nn
from transformers import T5EncoderModel

from difftrack.rendering import VOCABULARY, Motion, RenderSpec, Scene, centred, close_up, sample_scene, shape_card
from difftrack.training import (
    ArchitectureParams,
    AutoencoderTraining,
    ClipBatch,
    ClipShape,
    ClipStream,
    LatentBatch,
    LatentPools,
    PoolParams,
    Replicas,
    TextTraining,
    TransformerTraining,
    VideoDenoiser,
    _data,
    adopt_text_encoder,
    autoencoder_loss,
    encode_batch,
    frame_times,
    load_transformer_of_another_text_encoder,
    load_weights,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    phrases_of,
    probe_clips,
    random_prompts,
    reconstruction_psnr,
    rotary_tables,
    save_pipeline,
    time_autoencoder,
    to_model_range,
    tokenize,
    train_autoencoder,
    train_text_encoder,
    train_transformer,
    worker_pool,
)
from difftrack.training._loop import Average, Budget, TrainingLog, learning_rate
from difftrack.training._optimizers import Muon, make_optimizers, set_learning_rate
from difftrack.training._precision import PrecisionWorker
from difftrack.training._transformer import _levels_of_cards, _noise_levels
from difftrack.workflows.curves import LayerCurves

SIZES = ArchitectureParams(
    height=16,
    width=24,
    num_frames=9,
    num_layers=3,
    num_heads=2,
    num_channels=16,
    latent_channels=5,
    autoencoder_widths=(8, 8, 16),
    text_length=11,
    text_layers=1,
)
CPU = torch.device("cpu")
FAST = AutoencoderTraining(
    max_steps=6, max_seconds=1e12, batch_size=2, precision="float32", peak_learning_rate=3e-3, log_every=1
)
STEPS = TransformerTraining(max_steps=6, max_seconds=1e12, log_every=1, probe_seconds=1e6, peak_learning_rate=3e-3)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors are tiny, so more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stream() -> Iterator[ClipStream]:
    with ThreadPoolExecutor(1) as pool:
        yield ClipStream(role="train", num_textures=3, device=CPU, seed=0, pool=pool)


@pytest.fixture(scope="module")
def batch(stream: ClipStream) -> ClipBatch:
    return next(stream.batches(ClipShape(9, 16, 24), 2))


def _autoencoder() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return make_autoencoder(SIZES)


def _denoiser() -> VideoDenoiser:
    torch.manual_seed(0)
    return VideoDenoiser(make_transformer(SIZES), make_text_encoder(SIZES, make_tokenizer(SIZES)))


def _weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def _log(path: Path, name: str) -> list[Any]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate(p, peak=2.0, warmup=0.1, constant=0.4) for p in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    half = 2 * (0.02 + 0.98 * 0.5)
    np.testing.assert_allclose(rates, [0, 1, 2, 2, 2, half, 0.04])


def test_a_budget_ends_at_the_first_of_its_limits() -> None:
    assert Budget(max_steps=10, max_seconds=1e12, step=4).progress == pytest.approx(0.4, abs=1e-3)
    assert Budget(max_steps=10, max_seconds=100.0, step=4, spent=70.0).progress == pytest.approx(0.7, abs=1e-3)
    assert Budget(max_steps=10, max_seconds=100.0, step=11).progress == 1
    assert Budget(max_steps=10, max_seconds=0.0).progress == 1


def test_a_log_forgets_what_its_checkpoint_never_saw(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "a" / "log.jsonl", Budget(max_steps=10, max_seconds=1e12))
    for step in (1, 2, 3):
        log.budget.step = step
        log.write(loss=0.5 * step)
    with log.path.open("a") as file:
        file.write('{"step": 4, "sec')
    log.budget.step = 2
    log.rewind()
    assert _log(log.path, "loss") == [0.5, 1.0]


def test_the_average_approaches_weights_that_stand_still() -> None:
    module = nn.Linear(3, 2)
    average = Average(module, decay=0.5)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(8.0)
    for step in range(100, 103):
        average.update(step)
    torch.testing.assert_close(average.values["weight"], start + 7.0)


@pytest.mark.parametrize("seed", range(5))
def test_frames_taken_apart_start_at_zero_and_keep_one_stride(seed: int) -> None:
    spec = RenderSpec(seed=seed, num_frames=13)
    assert frame_times(spec, "whole").tolist() == list(range(13))
    steps = np.diff(frame_times(spec, "apart"))
    assert (steps >= 1).all()
    assert len(set(steps[1:])) == 1


def test_the_stream_gives_easy_and_hard_batches_that_are_never_repeated(stream: ClipStream) -> None:
    batches = list(islice(stream.batches(ClipShape(2, 16, 24), 3), 3))
    clips = {clip.numpy().tobytes() for batch in batches for clip in batch.frames}
    assert len(clips) == 9
    assert all(batch.frames.shape == (3, 2, 16, 24, 3) for batch in batches)
    words = {word for batch in batches for prompt in batch.prompts for word in prompt.split()}
    assert words <= set(VOCABULARY)


@pytest.mark.parametrize(("share", "pattern"), [(0.0, "eeeee"), (0.5, "eheheh"), (0.6, "ehehhehehh"), (1.0, "hhh")])
def test_hard_batches_come_in_their_share(monkeypatch: pytest.MonkeyPatch, share: float, pattern: str) -> None:
    splits, sample = [], _data._sample_scenes

    def watched(base: RenderSpec, *args: Any, **choices: Any) -> Any:
        splits.append(base.split)
        return sample(base, *args, **choices)

    monkeypatch.setattr(_data, "_sample_scenes", watched)
    with ThreadPoolExecutor(1) as pool:
        stream = ClipStream(role="train", num_textures=2, device=CPU, seed=3, pool=pool)
        for _ in islice(stream.batches(ClipShape(2, 8, 16), 1, hard_share=share), len(pattern)):
            pass
    assert "".join(split[0] for split in splits[: len(pattern)]) == pattern


def test_ways_of_objects_in_centred_clips_lie_around_the_middle() -> None:
    base = RenderSpec(seed=0, role="train", num_frames=13)
    specs, plain = _data._sample_scenes(base, range(40), 2, 0.0, 0.0)
    _, all_centred = _data._sample_scenes(base, range(40), 2, 1.0, 0.0)
    _, some = _data._sample_scenes(base, range(40), 2, 0.5, 0.0)

    def middle(scene: Scene) -> np.ndarray:
        motion = Motion.stack([scene], device=CPU, dtype=torch.float64)
        travelled = motion.path("travel", torch.tensor([[12.0]], dtype=torch.float64))[0, 0, :, None]
        halfway: np.ndarray = (motion["center"][0] + motion["heading"][0] * travelled / 2).numpy()
        return halfway

    moving = [number for number, spec in enumerate(specs) if spec.kind == "object"]
    for number in moving:
        np.testing.assert_allclose(middle(all_centred[number]), 0.35 * plain[number].center, atol=1e-9)
        np.testing.assert_array_equal(all_centred[number].heading, plain[number].heading)
    kept = [number for number in moving if (some[number].center == plain[number].center).all()]
    assert 0 < len(kept) < len(moving)
    for number in set(range(40)) - set(moving):
        np.testing.assert_array_equal(all_centred[number].center, plain[number].center)


def test_close_ups_are_chosen_among_clips_whose_objects_move_and_lie_around_the_middle() -> None:
    base = RenderSpec(seed=0, role="train", num_frames=13, split="hard")
    specs, plain = _data._sample_scenes(base, range(40), 2, 0.0, 0.0)
    _, closer = _data._sample_scenes(base, range(40), 2, 0.0, 1.0)
    _, some = _data._sample_scenes(base, range(40), 2, 0.0, 0.5)
    moving = [number for number, spec in enumerate(specs) if spec.kind == "object"]
    for number in range(40):
        if number in moving:
            expected = centred(close_up(plain[number]), num_frames=13)
            assert closer[number].shapes == plain[number].shapes[:1]
            np.testing.assert_array_equal(closer[number].center, expected.center)
        else:
            assert closer[number].shapes == plain[number].shapes
    assert 0 < sum(len(some[number].shapes) == 1 for number in moving) < len(moving)


def test_a_pool_of_cards_holds_cards_alone_around_the_middle() -> None:
    base = RenderSpec(seed=0, role="train", num_frames=13)
    specs, cards = _data._sample_scenes(base, range(40), 2, 0.0, 1.0, cards=True)
    assert {spec.kind for spec in specs} == {"object"}
    for spec, card in zip(specs, cards, strict=True):
        expected = centred(shape_card(sample_scene(spec, num_textures=2)), num_frames=13)
        np.testing.assert_array_equal(card.radius, expected.radius)
        np.testing.assert_array_equal(card.center, expected.center)
        np.testing.assert_allclose(card.center[1] + card.heading[1] * card.travel.at(12.0)[1] / 2, 0, atol=1e-9)


def test_most_levels_of_cards_hide_the_outline_and_many_are_the_noisiest() -> None:
    params, levels = replace(STEPS, card_levels=0.8), torch.full((20_000,), 77)
    moved = _levels_of_cards(levels, 1000, params, torch.Generator().manual_seed(0))
    assert float((moved == 77).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float((moved == 999).float().mean()) == pytest.approx(0.1 + 0.7 / 260, abs=0.01)
    assert int(moved[moved != 77].min()) >= 740
    between = (moved != 77) & (moved < 870)
    assert float(between.float().mean()) == pytest.approx(0.7 / 2, abs=0.015)


def test_levels_that_are_not_uniform_lie_around_their_mean() -> None:
    def median(mean: float) -> float:
        params = replace(STEPS, uniform_levels=0.0, logit_mean=mean)
        return float(_noise_levels(5000, 1000, params, torch.Generator().manual_seed(0)).float().median())

    assert median(0.0) == pytest.approx(500, abs=15)
    assert median(1.5) == pytest.approx(1000 / (1 + np.exp(-1.5)), abs=10)


def test_the_same_seed_gives_the_same_stream() -> None:
    frames = []
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            stream = ClipStream(role="train", num_textures=2, device=CPU, seed=7, pool=pool)
            frames.append(next(stream.batches(ClipShape(2, 8, 16, "apart"), 2)).frames)
    assert torch.equal(*frames)


def test_the_autoencoder_learns_and_says_how_large_its_latents_are(tmp_path: Path, batch: ClipBatch) -> None:
    autoencoder = _autoencoder()
    before = reconstruction_psnr(autoencoder.eval(), batch.frames, frames_alone=False)
    train_autoencoder(autoencoder, repeat(batch), replace(FAST, max_steps=9), tmp_path)
    losses = _log(tmp_path / "autoencoder.jsonl", "loss")
    assert losses[-1] < 0.9 * losses[0]
    assert reconstruction_psnr(autoencoder, batch.frames, frames_alone=False) > before + 0.5
    assert _log(tmp_path / "autoencoder.jsonl", "frames")[:6] == [9, 9, 1, 9, 9, 1]
    latents = encode_batch(autoencoder, batch.frames, frames_alone=False)
    assert float(latents.std()) == pytest.approx(1, abs=0.02)


def test_without_the_absolute_error_the_loss_is_what_psnr_measures(batch: ClipBatch) -> None:
    worker = PrecisionWorker(_autoencoder(), "float32")
    videos = to_model_range(batch.frames)

    def loss(weight: float) -> tuple[float, dict[str, Tensor]]:
        params = replace(FAST, l1_weight=weight, kl_weight=0.0)
        value, logged = autoencoder_loss(worker, videos, params, torch.Generator().manual_seed(0))
        return float(value.detach()), logged

    alone, logged = loss(0.0)
    assert alone == pytest.approx(8 * 4 * 10 ** (-float(logged["psnr_db"]) / 10), rel=1e-5)
    assert loss(2.0)[0] - alone == pytest.approx(2 * (loss(1.0)[0] - alone), rel=1e-4)
    assert loss(1.0)[0] > alone


def test_a_frozen_encoder_keeps_its_latents(tmp_path: Path, batch: ClipBatch) -> None:
    autoencoder = _autoencoder()
    start = deepcopy(autoencoder)
    train_autoencoder(autoencoder, repeat(batch), replace(FAST, max_steps=3, train_encoder=False), tmp_path)
    assert torch.equal(_weights(autoencoder.encoder), _weights(start.encoder))
    assert not torch.equal(_weights(autoencoder.decoder), _weights(start.decoder))
    assert autoencoder.config.scaling_factor == start.config.scaling_factor


def test_a_gradient_of_the_autoencoder_that_is_not_finite_is_dropped_and_counted(
    tmp_path: Path, batch: ClipBatch
) -> None:
    autoencoder, steps = _autoencoder(), count(1)
    last = autoencoder.decoder.conv_out.conv.weight
    last.register_hook(lambda gradient: gradient * torch.nan if next(steps) == 3 else gradient)
    train_autoencoder(autoencoder, repeat(batch), replace(FAST, max_steps=5), tmp_path)
    assert torch.isfinite(_weights(autoencoder)).all()
    assert _log(tmp_path / "autoencoder.jsonl", "dropped") == [0, 0, 1, 1, 1]


def test_no_time_leaves_the_autoencoder_as_it_is(tmp_path: Path, batch: ClipBatch) -> None:
    autoencoder = _autoencoder()
    train_autoencoder(autoencoder, repeat(batch), replace(FAST, max_seconds=0.0), tmp_path)
    assert torch.equal(_weights(autoencoder), _weights(_autoencoder()))
    assert autoencoder.config.scaling_factor == _autoencoder().config.scaling_factor


def _interrupted(batch: ClipBatch, after: int) -> Iterator[ClipBatch]:
    yield from repeat(batch, after)
    raise KeyboardInterrupt


def test_an_interrupted_autoencoder_goes_on_as_if_it_had_never_stopped(tmp_path: Path, batch: ClipBatch) -> None:
    params = replace(FAST, save_seconds=0.0)
    straight, resumed = _autoencoder(), _autoencoder()
    train_autoencoder(straight, repeat(batch), params, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(resumed, _interrupted(batch, 3), params, tmp_path / "resumed")
    fresh = _autoencoder()
    train_autoencoder(fresh, repeat(batch), params, tmp_path / "resumed")
    torch.testing.assert_close(_weights(fresh), _weights(straight))
    logs = [_log(tmp_path / name / "autoencoder.jsonl", "step")[:6] for name in ("straight", "resumed")]
    assert logs == [[1, 2, 3, 4, 5, 6]] * 2


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_every_way_of_computing_takes_steps(batch: ClipBatch, precision: Any) -> None:
    params = replace(FAST, precision=precision, channels_last=True)
    first, each = time_autoencoder(_autoencoder(), batch.frames, params, rounds=1)
    assert first > 0
    assert each > 0


def test_a_bfloat16_worker_trains_the_float32_weights() -> None:
    torch.manual_seed(0)
    master = nn.Linear(5, 3)
    worker = PrecisionWorker(master, "bfloat16")
    inputs = torch.randn(7, 5)
    worker.module(inputs.to(worker.dtype)).float().square().sum().backward()
    worker.hand_over()
    expected = 2 * master(inputs).T @ inputs
    torch.testing.assert_close(master.weight.grad, expected, rtol=0.03, atol=0.1)
    with torch.no_grad():
        master.weight.add_(1.0)
    worker.refresh()
    assert torch.equal(_weights(worker.module)[:15].reshape(3, 5), master.weight.to(torch.bfloat16))


def test_muon_takes_the_matrices_of_blocks_and_adamw_the_rest() -> None:
    denoiser = _denoiser()
    adamw, muon = make_optimizers(denoiser, "muon", betas=(0.9, 0.95), weight_decay=0.01)
    names = {id(value): name for name, value in denoiser.named_parameters()}
    hidden = {names[id(value)] for value in muon.param_groups[0]["params"]}
    rest = {names[id(value)] for value in adamw.param_groups[0]["params"]}
    assert "transformer.transformer_blocks.2.attn1.to_q.weight" in hidden
    assert {"transformer.proj_out.weight", "text_encoder.shared.weight"} <= rest
    assert not any("norm" in name or "bias" in name for name in hidden)
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    set_learning_rate([adamw, muon], 0.25)
    assert adamw.param_groups[0]["lr"] == muon.param_groups[0]["lr"] == 0.25


def test_muon_in_stacks_goes_where_torch_goes() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(7, 5), (5, 7), (7, 5), (3, 3)]
    own = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(value.detach().clone()) for value in own]
    stacked = Muon(own, weight_decay=0.01)
    torch_muon = torch.optim.Muon(theirs, lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    set_learning_rate([stacked, torch_muon], 0.02)
    for _ in range(5):
        for mine, other in zip(own, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        stacked.step()
        torch_muon.step()
    for mine, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=4e-3)  # five steps of 0.01, rounded to bfloat16


class _Fixed:
    """Clips that depend only on the step's random numbers."""

    def __init__(self, *, stop_after: int = 10**6) -> None:
        self._left = stop_after

    def draw(self, choice: np.random.Generator, generator: torch.Generator) -> LatentBatch:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        length = int(choice.integers(2, 4))
        pattern = torch.linspace(-1, 1, 4 * 6).reshape(4, 6).expand(3, length, 5, 4, 6)
        tokens = torch.randint(3, 9, (3, 11), generator=generator)
        return LatentBatch(pattern.clone(), tokens, frames_alone=bool(choice.random() < 0.5))

    def refresh(self, seconds: float) -> None:
        pass


@pytest.fixture(scope="module")
def probe() -> LayerCurves:
    specs = [RenderSpec(seed=1, role="tune", split="easy", num_frames=9, height=16, width=24)]
    specs.append(replace(specs[0], split="hard"))
    clips = probe_clips(specs, device=CPU, grid=3)
    return LayerCurves(clips, _autoencoder().eval(), make_tokenizer(SIZES))


def _train(
    denoiser: VideoDenoiser, source: Any, params: TransformerTraining, probe: LayerCurves, folder: Path
) -> VideoDenoiser:
    saved: list[Tensor] = []
    return train_transformer(
        denoiser,
        source,
        make_scheduler(),
        params,
        probe=probe,
        empty_prompt=tokenize(make_tokenizer(SIZES), ("",), SIZES.text_length, CPU),
        folder=folder,
        save=lambda averaged: saved.append(_weights(averaged)),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_transformer_learns_and_its_average_lags_behind(tmp_path: Path, probe: LayerCurves, optimizer: Any) -> None:
    denoiser = _denoiser()
    params = replace(STEPS, optimizer=optimizer, max_steps=14, constant_share=0.5)
    averaged = _train(denoiser, _Fixed(), params, probe, tmp_path)
    losses = _log(tmp_path / "transformer.jsonl", "loss")
    assert np.mean(losses[-4:]) < 0.85 * np.mean(losses[:4])
    difference = (_weights(averaged) - _weights(denoiser)).abs()
    assert 0 < float(difference.max()) < 0.5
    measured = _log(tmp_path / "transformer.jsonl", "accuracy")
    assert _log(tmp_path / "transformer.jsonl", "timestep") == [19, 199, 399, 599, 799, 999]
    for accuracy in measured:
        assert [list(accuracy), list(accuracy["whole"])] == [["whole", "apart"], ["easy", "hard"]]
        shares = np.array([accuracy[view][split] for view in accuracy for split in accuracy[view]])
        assert shares.shape == (4, SIZES.num_layers)
        assert ((shares >= 0) & (shares <= 1)).all()


class _Poisoned:
    """Clips as in `_Fixed`, except that those of the third step are not finite."""

    def __init__(self) -> None:
        self._fixed, self._drawn = _Fixed(), 0

    def draw(self, choice: np.random.Generator, generator: torch.Generator) -> LatentBatch:
        batch = self._fixed.draw(choice, generator)
        self._drawn += 1
        return replace(batch, latents=batch.latents * torch.nan) if self._drawn == 3 else batch

    def refresh(self, seconds: float) -> None:
        self._fixed.refresh(seconds)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_is_dropped_and_counted(
    tmp_path: Path, probe: LayerCurves, optimizer: Any
) -> None:
    params = replace(STEPS, optimizer=optimizer, max_steps=4)
    averaged = _train(_denoiser(), _Poisoned(), params, probe, tmp_path)
    assert torch.isfinite(_weights(averaged)).all()
    assert _log(tmp_path / "transformer.jsonl", "dropped") == [0, 0, 1, 1]
    assert np.isnan(_log(tmp_path / "transformer.jsonl", "loss")).tolist() == [False, False, True, False]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_text_encoder_that_is_not_trained_stays_as_it_is(tmp_path: Path, probe: LayerCurves, optimizer: Any) -> None:
    denoiser, start = _denoiser(), _denoiser()
    params = replace(STEPS, max_steps=3, optimizer=optimizer, weight_decay=0.1, train_text_encoder=False)
    averaged = _train(denoiser, _Fixed(), params, probe, tmp_path)
    for trained in (denoiser, averaged):
        assert torch.equal(_weights(trained.text_encoder), _weights(start.text_encoder))
        assert not torch.equal(_weights(trained.transformer), _weights(start.transformer))


def test_the_last_weights_are_saved_before_they_are_measured(tmp_path: Path, probe: LayerCurves) -> None:
    saved: list[tuple[Tensor, list[int]]] = []
    log = tmp_path / "transformer.jsonl"
    averaged = train_transformer(
        _denoiser(),
        _Fixed(),
        make_scheduler(),
        replace(STEPS, max_steps=5, save_seconds=1e9),
        probe=probe,
        empty_prompt=tokenize(make_tokenizer(SIZES), ("",), SIZES.text_length, CPU),
        folder=tmp_path,
        save=lambda averaged: saved.append((_weights(averaged), _log(log, "timestep"))),
    )
    [(weights, measured)] = saved
    assert torch.equal(weights, _weights(averaged))
    assert measured == []
    assert _log(log, "timestep") == [19, 199, 399, 599, 799, 999]


def test_an_interrupted_transformer_goes_on_as_if_it_had_never_stopped(tmp_path: Path, probe: LayerCurves) -> None:
    params = replace(STEPS, save_seconds=0.0)
    straight = _train(_denoiser(), _Fixed(), params, probe, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        _train(_denoiser(), _Fixed(stop_after=4), params, probe, tmp_path / "resumed")
    resumed = _train(_denoiser(), _Fixed(), params, probe, tmp_path / "resumed")
    torch.testing.assert_close(_weights(resumed), _weights(straight))
    steps = [_log(tmp_path / name / "transformer.jsonl", "loss") for name in ("straight", "resumed")]
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)


PoolsMaker = Callable[..., LatentPools]


@pytest.fixture
def pools(stream: ClipStream) -> PoolsMaker:
    def make(**changes: Any) -> LatentPools:
        values: dict[str, Any] = {
            "whole": 4,
            "apart": 3,
            "long": 2,
            "other": 2,
            "other_sizes": ((24, 16),),
            "tokens_per_step": 60,
            "fill_seconds": 0.0,
        }
        return LatentPools(
            _autoencoder().eval(),
            stream,
            make_tokenizer(SIZES),
            PoolParams(**{**values, **changes}),
            size=(16, 24),
            text_length=SIZES.text_length,
        )

    return make


def test_pools_give_every_kind_of_clip_and_keep_to_the_number_of_tokens(pools: PoolsMaker) -> None:
    made = pools(other_share=0.25, cards=2, cards_share=0.25)
    made.fill()
    assert all(made.sizes.values())
    seen = set()
    for step in range(40):
        drawn = made.draw(np.random.default_rng(step), torch.Generator().manual_seed(step))
        clips, length, channels, rows, cols = drawn.latents.shape
        assert channels == SIZES.latent_channels
        assert drawn.tokens.shape == (clips, SIZES.text_length)
        assert clips == max(1, 60 // (length * rows * cols // 4))
        assert (rows, cols) in {(4, 6), (6, 4)}
        assert length in (range(5, 14) if drawn.frames_alone else (5, 9, 13))
        assert not (drawn.cards and drawn.frames_alone)
        seen.add((drawn.cards, drawn.frames_alone, (rows, cols)))
    assert len(seen) == 5


def test_new_clips_replace_the_oldest_within_their_share_of_the_time(pools: PoolsMaker) -> None:
    made = pools(apart_share=0.0, long_share=0.0, other_share=0.0, refresh_share=0.5)
    made.fill()
    before = made.sizes["whole"]
    assert list(made.sizes) == ["whole"]
    made.refresh(0.0)
    assert made.sizes["whole"] == before
    first = made.draw(np.random.default_rng(0), torch.Generator().manual_seed(0))
    for _ in range(2):
        made.refresh(1e6)
    assert made.sizes["whole"] > before
    again = made.draw(np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert not torch.equal(first.latents, again.latents)
    still = pools(refresh_share=0.0)
    still.fill()
    before = still.sizes["whole"]
    still.refresh(1e6)
    assert still.sizes["whole"] == before


def test_frames_encoded_alone_know_nothing_of_each_other(batch: ClipBatch) -> None:
    autoencoder = _autoencoder().eval()
    both = encode_batch(autoencoder, batch.frames, frames_alone=True)
    one = encode_batch(autoencoder, batch.frames[:, 4:5], frames_alone=True)
    assert both.shape == (2, 9, 5, 4, 6)
    torch.testing.assert_close(both[:, 4:5], one, atol=1e-5, rtol=1e-4)


def test_impossible_shares_are_named() -> None:
    with pytest.raises(ValueError, match=r"-0\.1"):
        PoolParams(long_share=-0.1)
    with pytest.raises(ValueError, match=r"refresh_share is 1.0"):
        PoolParams(refresh_share=1.0)
    with pytest.raises(ValueError, match=r"hard_share is 1\.5"):
        PoolParams(hard_share=1.5)
    with pytest.raises(ValueError, match=r"centred_share is -0\.5"):
        PoolParams(centred_share=-0.5)
    with pytest.raises(ValueError, match=r"close_up_share is 2\.0"):
        PoolParams(close_up_share=2.0)


def _save(folder: Path, sizes: ArchitectureParams = SIZES) -> Path:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(sizes)
    save_pipeline(
        folder,
        autoencoder=make_autoencoder(sizes),
        transformer=make_transformer(sizes),
        text_encoder=make_text_encoder(sizes, tokenizer),
        tokenizer=tokenizer,
    )
    return folder


def test_the_saved_folder_is_a_stock_pipeline(tmp_path: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(_save(tmp_path), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    choices = {"num_frames": 9, "num_inference_steps": 2, "max_sequence_length": SIZES.text_length}
    frames = pipeline(prompt="a red circle moves left", output_type="np", **choices).frames
    assert frames.shape == (1, 9, 16, 24, 3)
    assert np.isfinite(frames).all()


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> dict[str, bytes]:
        return {str(file.relative_to(tmp_path)): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def killed(_: CogVideoXPipeline, folder: Path, **__: object) -> None:
        (folder / "vae").mkdir(parents=True)
        (folder / "vae" / "config.json").write_text("{")
        raise KeyboardInterrupt

    _save(tmp_path / "pipeline")
    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(CogVideoXPipeline, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path / "pipeline")
    assert {name: content for name, content in files().items() if name.startswith("pipeline")} == before
    assert (tmp_path / ".pipeline.new").exists()
    (tmp_path / "pipeline").rename(tmp_path / ".pipeline.old")  # between two renames
    with monkeypatch.context() as patch:
        patch.setattr(CogVideoXPipeline, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path / "pipeline")
    assert {name: content for name, content in files().items() if name.startswith("pipeline")} == before
    _save(tmp_path / "pipeline")
    assert files() == before


@pytest.mark.parametrize(("rows", "cols"), [(4, 6), (6, 4), (8, 6)])
def test_rotary_tables_are_those_of_the_stock_pipeline(tmp_path: Path, rows: int, cols: int) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(_save(tmp_path), dtype=torch.float32)
    stock = pipeline._prepare_rotary_positional_embeddings(rows * 4, cols * 4, 7, CPU)
    for own, theirs in zip(rotary_tables(pipeline.transformer, 7, rows, cols), stock, strict=True):
        assert torch.equal(own, theirs)


def test_training_goes_on_from_saved_weights_and_says_where_it_cannot(tmp_path: Path) -> None:
    folder = _save(tmp_path / "small")
    torch.manual_seed(1)
    transformer = make_transformer(SIZES)
    load_weights(transformer, folder / "transformer")
    torch.manual_seed(0)
    expected = CogVideoXPipeline.from_pretrained(folder, dtype=torch.float32).transformer
    assert torch.equal(_weights(transformer), _weights(expected))
    with pytest.raises(ValueError, match="start_from"):
        load_weights(make_transformer(replace(SIZES, num_layers=4)), folder / "transformer")
    with pytest.raises(ValueError, match="absent"):
        load_weights(make_autoencoder(SIZES), tmp_path / "absent")


def test_every_word_of_a_prompt_is_one_token() -> None:
    tokenizer = make_tokenizer(SIZES)
    ids = tokenizer(" ".join(VOCABULARY)).input_ids
    assert len(ids) == len(VOCABULARY) + 1
    assert tokenizer.unk_token_id not in ids


def _train_as_replica(rank: int, folder: Path, port: int) -> None:
    """One of two processes; it saves its weights."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    replicas = Replicas.join()
    weight = nn.Linear(2, 3)
    for value in weight.parameters():
        value.grad = torch.full_like(value, 1.0 + 4.0 * rank)
    replicas.average_gradients(weight.parameters())
    denoiser = _denoiser()
    params = replace(STEPS, max_steps=3, save_seconds=0.0)
    averaged = train_transformer(
        denoiser,
        _Fixed(),
        make_scheduler(),
        params,
        probe=_NoProbe(),  # type: ignore[arg-type]
        empty_prompt=torch.zeros((1, SIZES.text_length), dtype=torch.long),
        folder=folder / "run",
        save=lambda _: (folder / f"saved-{rank}").touch(),
        replicas=replicas,
    )
    seen = {"gradient": weight.weight.grad, "weights": _weights(denoiser), "averaged": _weights(averaged)}
    torch.save({**seen, "agreed": replicas.agree(7.0 + rank)}, folder / f"{rank}.pt")
    replicas.leave()


class _NoProbe:
    def accuracy(self, *_: object) -> dict[str, float]:
        return {}


@pytest.mark.usefixtures("warm_workers")
def test_replicas_keep_one_set_of_weights_and_the_first_writes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_train_as_replica, args=(tmp_path, port), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["agreed"] == second["agreed"] == 7.0
    assert (first["gradient"] == 3.0).all()
    for name in ("gradient", "weights", "averaged"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    assert not torch.equal(first["weights"], _weights(_denoiser()))
    assert [(tmp_path / f"saved-{rank}").exists() for rank in (0, 1)] == [True, False]
    assert len(_log(tmp_path / "run" / "transformer.jsonl", "loss")) == 3


def test_phrases_begin_at_objects_the_background_and_the_camera() -> None:
    prompt = (
        "a red striped circle moves down and right and a blue photo star stands still"
        " over a gray cloudy background the camera pans up and left and zooms in"
    )
    assert phrases_of(prompt) == ([0] * 8 + [-1] + [1] * 6 + [2] * 5 + [3] * 9, [0, 1, 3, 4])
    assert phrases_of("a red circle over a blue background") == ([0, 0, 0, 1, 1, 1, 1], [0, 3])
    assert phrases_of("") == ([], [])


def test_random_prompts_are_the_renderers_and_the_same_every_time() -> None:
    prompts = random_prompts(range(40, 90))
    assert prompts[3:] == random_prompts(range(43, 90))
    assert len(set(prompts)) == 50
    assert {word for prompt in prompts for word in prompt.split()} <= set(VOCABULARY)
    assert sum("camera" in prompt for prompt in prompts) == 20
    for prompt in prompts:
        phrases, roles = phrases_of(prompt)
        objects = prompt.count(" and a ") + 1
        assert roles[:objects] == [0, 1, 2][:objects]
        assert roles[objects:] == [3, 4][: 1 + ("camera" in prompt)]
        assert phrases.count(-1) == objects - 1


def test_a_text_encoder_learns_which_words_belong_together() -> None:
    sizes = replace(SIZES, text_length=15, text_layers=2)
    tokenizer = make_tokenizer(sizes)

    def train(steps: int) -> dict[str, float]:
        torch.manual_seed(0)
        params = TextTraining(num_prompts=500, max_steps=steps, batch_size=8, constant_share=0.8)
        encoder = make_text_encoder(sizes, tokenizer)
        return train_text_encoder(encoder, tokenizer, params, text_length=15, device=CPU)

    untrained, trained = train(0), train(220)
    assert list(trained) == ["own_word", "role", "phrase_words"]
    assert untrained["phrase_words"] < 0.01
    assert trained["own_word"] > 0.9
    assert trained["role"] > untrained["role"] + 0.3
    assert trained["phrase_words"] > 0.05


def test_a_transformer_keeps_understanding_the_words_of_a_turned_text_encoder() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(13, 5, generator=generator)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
    shift = torch.randn(5, generator=generator)
    old = nn.Linear(5, 7)
    tokens = torch.randint(13, (71, 3), generator=generator)
    new = adopt_text_encoder(old, lambda ids: words[ids], lambda ids: 2 * words[ids] @ turn + shift, tokens)
    torch.testing.assert_close(new.weight, old.weight @ turn / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(new.bias, old.bias - old.weight @ turn @ shift / 2, rtol=0, atol=1e-5)


def test_a_text_encoder_of_another_width_is_adopted() -> None:
    generator = torch.Generator().manual_seed(0)
    words, wider = torch.randn(11, 3, generator=generator), torch.randn(3, 5, generator=generator)
    old = nn.Linear(3, 2)
    tokens = torch.arange(11)[:, None]
    new = adopt_text_encoder(old, lambda ids: words[ids], lambda ids: words[ids] @ wider, tokens)
    torch.testing.assert_close(new(words @ wider), old(words), rtol=0, atol=1e-4)


def _turned(encoder: T5EncoderModel) -> T5EncoderModel:
    """An encoder with the same embeddings, rotated: writes to its stream are rotated, and reads are rotated back."""
    width = encoder.config.d_model
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)))[0]
    turned = deepcopy(encoder)
    with torch.no_grad():
        for name, weight in turned.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                weight.copy_(turn.T @ weight)
            elif weight.ndim == 2 and weight.shape[1] == width:
                weight.copy_(weight @ turn)
    return turned


def test_a_transformer_behind_another_text_encoder_predicts_what_it_did(tmp_path: Path) -> None:
    pipeline = CogVideoXPipeline.from_pretrained(_save(tmp_path / "small"), dtype=torch.float32)
    tokens = tokenize(pipeline.tokenizer, tuple(random_prompts(range(80))), SIZES.text_length, CPU)
    other, transformer = _turned(pipeline.text_encoder), make_transformer(SIZES)
    load_transformer_of_another_text_encoder(transformer, other, tmp_path / "small", tokens[:77])
    noisy = torch.randn(3, 2, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    inputs = (noisy, tokens[77:], torch.tensor([19, 399, 999]), rotary_tables(transformer, 2, 4, 6))
    with torch.no_grad():
        expected = VideoDenoiser(pipeline.transformer, pipeline.text_encoder)(*inputs)
        torch.testing.assert_close(VideoDenoiser(transformer, other)(*inputs), expected, atol=1e-4, rtol=0)
        assert (VideoDenoiser(pipeline.transformer, other)(*inputs) - expected).abs().max() > 1e-2
    with pytest.raises(ValueError, match="start_from"):
        load_transformer_of_another_text_encoder(transformer, other, tmp_path / "absent", tokens)


def test_scenes_are_drawn_by_spawned_processes_where_there_is_no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difftrack.training._data.get_all_start_methods", lambda: ["spawn"])
    with worker_pool(1) as pool:
        assert pool._mp_context.get_start_method() == "spawn"  # type: ignore[attr-defined]
