"""`dt.probe`: what it measures, that it changes nothing, and that it fits every loop, logger and wrapper."""

import csv
import time
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline, WanPipeline
from diffusers.training_utils import EMAModel
from tiny_pipelines import HEIGHT, WIDTH, save_cogvideox, save_wan
from torch import nn

import difftrack as dt
from difftrack.api._errors import UsageError
from difftrack.reports import draw_emergence

SIZE = (5, HEIGHT, WIDTH)
SMALL: dict[str, Any] = {"size": SIZE, "num_inference_steps": 5, "steps": (3,), "num_clips": 2, "grid": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cogvideox(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture
def pipeline(folder: Path) -> Any:
    return CogVideoXPipeline.from_pretrained(folder)


def _loss(transformer: nn.Module, seed: int) -> torch.Tensor:
    """A loss to train on: the mean square of what the first attention's query projection returns."""
    projection = transformer.transformer_blocks[0].attn1.to_q  # type: ignore[index, union-attr]
    width = projection.in_features  # type: ignore[union-attr]
    return (projection(torch.randn(3, width)) ** 2).mean() + 0 * seed  # type: ignore[operator]


def _train(transformer: nn.Module, steps: int, watch: Any = None) -> None:
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(transformer.parameters(), lr=0.1)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        _loss(transformer, step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if watch is not None:
            watch(step)


def test_training_with_the_probe_is_bit_equal_to_training_without(pipeline: Any, tmp_path: Path) -> None:
    alone = deepcopy(pipeline.transformer).train()
    _train(alone, 4)
    watch = dt.probe(pipeline, every=2, to=tmp_path, **SMALL)
    pipeline.transformer.train()
    pipeline.transformer.transformer_blocks[1].eval()  # a part that the loop keeps out of training
    _train(pipeline.transformer, 4, watch)
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
    assert pipeline.transformer.training
    assert not pipeline.transformer.transformer_blocks[1].training
    assert pipeline.transformer.transformer_blocks[0].training
    assert sorted(set(watch.table["training_step"])) == [2, 4]


def test_the_same_weights_give_the_same_numbers_and_others_give_others(pipeline: Any, tmp_path: Path) -> None:
    watch = dt.probe(pipeline, to=tmp_path, **SMALL)
    first, second = watch.measure(1), watch.measure(2)
    assert first is not None
    assert second is not None
    assert first.equals(second)
    assert first.sizes["layer"] == len(pipeline.transformer.transformer_blocks)
    for name in ("matching_accuracy", "head_confidence", "attention_score"):
        values = first[name].values
        assert ((values >= 0) & (values <= 1)).all()
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.mul_(1.5)
    third = watch.measure(3)
    assert third is not None
    assert not first.equals(third)


def test_a_measurement_has_named_axes_and_its_shares_of_attention_sum_to_one(folder: Path) -> None:
    from difftrack.workflows.probe import EmergenceProbe, ProbeParams, rendered_clips

    model = dt.load_backbone(f"path:{folder}", device="cpu")
    (clip,) = rendered_clips(1, num_frames=5, height=HEIGHT, width=WIDTH, grid=3)
    params = ProbeParams(steps=(4,), num_inference_steps=5, frames_alone=True)
    measured = EmergenceProbe(model, [clip], params)
    (prepared,) = measured._clips
    prepared.noise.copy_(prepared.latents)  # alpha z + sigma z: the latents times a factor
    (found,) = measured.measure().values()
    assert found["matching_accuracy"].dims == ("step", "layer")
    assert prepared.frames == (0, 4)
    assert found["head_attention_score"].dims == ("step", "layer", "head")
    total = found["attention_score"] + found["self_mass"] + found["text_mass"]
    np.testing.assert_allclose(total.values, 1, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*text tokens; cut from the prompt")
def test_the_probe_finds_what_a_store_of_the_same_latents_says(folder: Path, tmp_path: Path) -> None:
    from difftrack.extraction._step_latents import clip_noise
    from difftrack.workflows.probe import EmergenceProbe, ProbeParams, rendered_clips

    model = dt.load_backbone(f"path:{folder}", device="cpu")
    (video,) = rendered_clips(1, num_frames=5, height=HEIGHT, width=WIDTH, grid=3)
    probe = EmergenceProbe(model, [video], ProbeParams(steps=(3,), num_inference_steps=5))
    (prepared,) = probe._clips
    prepared.noise.copy_(clip_noise(video.clip.name, prepared.latents, seed=7))
    (measured,) = probe.measure().values()
    how: dict[str, Any] = {"view": "analysis", "size": (HEIGHT, WIDTH), "progress": False}
    store = dt.extract(model, video.clip, steps=[3], num_inference_steps=5, noise_seed=7, to=tmp_path / "store", **how)
    scored = dt.score(store, video.tracks).dataset
    for name in ("confidence", "attention_score", "self_mass", "text_mass"):
        for both in (name, f"head_{name}"):
            np.testing.assert_allclose(measured[both].values, scored[both].values, rtol=2e-3, err_msg=both)


def test_numbers_go_into_a_table_a_file_and_a_picture_and_a_run_goes_on(pipeline: Any, tmp_path: Path) -> None:
    layers, heads = len(pipeline.transformer.transformer_blocks), pipeline.transformer.config.num_attention_heads
    watch = dt.probe(pipeline, every=10, to=tmp_path, **SMALL)
    assert watch(5) is None
    assert watch(10) is not None
    assert watch(20) is not None
    assert len(watch.table) == 2 * layers * (1 + heads)
    with (tmp_path / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(watch.table)
    assert float(rows[-1]["confidence"]) == pytest.approx(watch.table["confidence"].iloc[-1])
    again = dt.probe(pipeline, every=10, to=tmp_path, **SMALL)  # from a checkpoint of step 15
    again(20)
    assert again.table["training_step"].tolist() == watch.table["training_step"].tolist()
    again(30)
    assert sorted(set(again.table["training_step"])) == [10, 20, 30]
    picture = draw_emergence(again.table, tmp_path / "again.png")
    assert picture.std() > 0
    assert (tmp_path / "emergence.png").stat().st_size > 1000
    (tmp_path / "probe.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="has other columns than this probe"):
        dt.probe(pipeline, every=10, to=tmp_path, **SMALL)(10)


class _TensorBoard:
    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}
        self.images: dict[str, Any] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = (value, step)

    def add_image(self, name: str, picture: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images[name] = picture


class _Logs:
    """W&B's run and accelerate's Accelerator log in this way."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append((values, step))


class _LightningLogger:
    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((metrics, step))


def test_every_kind_of_logger_gets_numbers_per_layer_and_head(pipeline: Any, tmp_path: Path) -> None:
    board, run, lightning, calls = _TensorBoard(), _Logs(), _LightningLogger(), []  # type: ignore[var-annotated]
    watch = dt.probe(pipeline, to=tmp_path, **SMALL)
    for logger in (board, run, lightning, lambda numbers, step: calls.append((numbers, step))):
        watch._logger = logger
        watch.measure(6)
    assert board.scalars.keys() == run.calls[0][0].keys() == lightning.calls[0][0].keys() == calls[0][0].keys()
    assert {step for _, step in board.scalars.values()} == {6}
    assert "probe/matching_accuracy/step03/layer01" in board.scalars
    assert "probe/confidence/step03/layer01/head01" in board.scalars
    assert board.images["probe/emergence"].shape[2] == 3
    watch._logger = object()
    with pytest.raises(UsageError, match="logger is a object; expected add_scalar"):
        watch.measure(7)


def test_averaged_weights_are_measured_and_the_models_own_given_back(pipeline: Any, tmp_path: Path) -> None:
    transformer = pipeline.transformer
    averaged = torch.optim.swa_utils.AveragedModel(transformer)
    ema = EMAModel(transformer.parameters())
    start = dt.probe(pipeline, to=tmp_path / "own", **SMALL).measure(0)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.mul_(1.5)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}

    @contextmanager
    def by_hand() -> Any:
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.div_(1.5)
        yield
        transformer.load_state_dict(before)

    for number, form in enumerate((ema, averaged, by_hand)):
        watch = dt.probe(pipeline, to=tmp_path / str(number), ema=form, **SMALL)
        found = watch.measure(0)
        assert found is not None
        assert start is not None
        for name in ("matching_accuracy", "confidence"):
            np.testing.assert_allclose(found[name].values, start[name].values, atol=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())
    with pytest.raises(UsageError, match="ema is a int"):
        dt.probe(pipeline, to=tmp_path / "int", ema=3, **SMALL).measure(0)


def test_the_first_process_alone_measures(pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = dt.probe(pipeline, every=1, to=tmp_path, rank=1, **SMALL)
    assert second(1) is None
    monkeypatch.setenv("RANK", "3")
    assert dt.probe(pipeline, every=1, to=tmp_path, **SMALL)(1) is None
    assert not (tmp_path / "probe.csv").exists()
    assert dt.probe(pipeline, every=1, to=tmp_path, rank=0, **SMALL)(1) is not None


@pytest.fixture
def alone_in_a_group() -> Any:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
def test_wrapped_transformers_are_measured_as_bare_ones(pipeline: Any, tmp_path: Path) -> None:
    bare = dt.probe(pipeline, to=tmp_path / "bare", **SMALL).measure(0)
    wrapped = nn.parallel.DistributedDataParallel(pipeline.transformer)
    found = dt.probe(pipeline, transformer=wrapped, to=tmp_path / "ddp", **SMALL).measure(0)
    assert found is not None
    assert found.equals(bare)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(pipeline.transformer, mesh=init_device_mesh("cpu", (1,)))
    sharded = dt.probe(pipeline, to=tmp_path / "fsdp", **SMALL)
    assert sharded._sharded
    shown = sharded.measure(0)
    assert shown is not None
    assert bare is not None
    np.testing.assert_allclose(shown["confidence"].values, bare["confidence"].values, atol=1e-5)


def test_another_transformer_than_the_pipelines_and_another_family(tmp_path: Path, pipeline: Any) -> None:
    other = deepcopy(pipeline.transformer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    own, found = (
        dt.probe(pipeline, transformer=held, to=tmp_path / name, **SMALL).measure(0)
        for name, held in (("own", None), ("other", other))
    )
    assert own is not None
    assert not own.equals(found)
    wan = WanPipeline.from_pretrained(save_wan(tmp_path / "wan"))
    crossed = dt.probe(wan, to=tmp_path / "of_wan", **{**SMALL, "size": (5, 32, 48)}).measure(0)
    assert crossed is not None
    assert np.isfinite(crossed["matching_accuracy"].values).all()


def test_a_lightning_callback_measures_once_a_step(pipeline: Any, tmp_path: Path) -> None:
    class Callback:
        """A stand-in for lightning.Callback, which is a plain class."""

    class Trainer:
        global_step = 0

    watch = dt.probe(pipeline, every=2, to=tmp_path, **SMALL)
    callback, trainer = watch.lightning(Callback), Trainer()
    assert isinstance(callback, Callback)
    for trainer.global_step in (1, 1, 2, 2, 3):  # type: ignore[misc]
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert set(watch.table["training_step"]) == {2}


def test_impossible_choices_are_refused(pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every is 0"):
        dt.probe(pipeline, every=0, to=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"steps is \[5\]; expected at least one of 0 ... 4"):
        dt.probe(pipeline, to=tmp_path, **{**SMALL, "steps": (5,)})


@pytest.mark.long
def test_a_probe_of_the_shipped_backbone_takes_no_more_than_ten_seconds_of_the_cpu(tmp_path: Path) -> None:
    """2 % of a training of one step a second that is measured every 500 steps."""
    watch = dt.probe(dt.load_backbone("cogvideox-mini", device="cpu"), to=tmp_path)
    started = time.process_time()
    assert watch.measure(0) is not None
    assert time.process_time() - started < 10
