"""Train the backbone of this folder on one GPU or several; everything that decides the result stands in params.yaml.

    python train.py all RUNS --seconds 1500     autoencoder, text encoder and transformer, within a total time
    python train.py autoencoder RUNS            one of them
    python train.py text RUNS
    python train.py transformer RUNS
    python train.py speed RUNS                  seconds per step of the autoencoder, by how it computes
    python train.py ship RUNS                   copy a finished run over the weights of this folder
    torchrun --nproc-per-node 2 train.py ...    the same on two GPUs of one machine

RUNS receives logs, samples, checkpoints from which a killed run goes on when it is started again, and `pipeline/`, the
averaged weights as a folder that stock diffusers loads. `--set transformer.optimizer=muon` changes one parameter.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import curves
import torch
import yaml
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from diffusers.utils import logging as diffusers_logging
from samples import save_strips
from transformers.utils import logging as transformers_logging

from difftrack.params import ParamsError, parse
from difftrack.rendering import RenderSpec
from difftrack.training import (
    ArchitectureParams,
    AutoencoderTraining,
    ClipShape,
    ClipStream,
    LatentPools,
    PoolParams,
    ProbeClip,
    Replicas,
    TextTraining,
    TransformerTraining,
    VideoDenoiser,
    load_transformer_of_another_text_encoder,
    load_weights,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    probe_clips,
    random_prompts,
    reconstruction_psnr,
    save_pipeline,
    time_autoencoder,
    tokenize,
    train_autoencoder,
    train_text_encoder,
    train_transformer,
    worker_pool,
)
from difftrack.workflows.curves import LayerCurves

HERE = Path(__file__).resolve().parent
COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")


@dataclass(frozen=True)
class TrainParams:
    """params.yaml of this folder."""

    architecture: ArchitectureParams
    autoencoder: AutoencoderTraining
    text_encoder: TextTraining
    pool: PoolParams
    transformer: TransformerTraining
    seed: int = 0
    """Seed of the weights and of the first training clip; a run that continues earlier weights needs another one."""
    num_textures: int = 2500
    num_probe_clips: int = 16
    """Number of clips per split, of the role `tune`."""
    finish_seconds: float = 30.0
    """Seconds kept at the end of `all` for measuring and saving."""


@dataclass
class Run:
    """One process's part of a run: what its stages share."""

    params: TrainParams
    folder: Path
    device: torch.device
    replicas: Replicas
    pool: Executor
    seconds: float | None
    start: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the run should be over."""
        return float("inf") if self.seconds is None else self.seconds - (time.monotonic() - self.start)

    @cached_property
    def stream(self) -> ClipStream:
        """Training clips; every start of a run, and every replica, gets clips of its own."""
        starts, number = self.folder / "starts.json", 0
        if self.replicas.first:
            number = json.loads(starts.read_text()) if starts.exists() else 0
            self.folder.mkdir(parents=True, exist_ok=True)
            starts.write_text(json.dumps(number + 1))
        number = int(self.replicas.agree(number))
        seed = self.params.seed * 1000 + (number * 100 + self.replicas.rank) * 10**7
        return ClipStream(
            role="train", num_textures=self.params.num_textures, device=self.device, seed=seed, pool=self.pool
        )

    @cached_property
    def probe_clips(self) -> list[ProbeClip]:
        """Clips of the role `tune`, as many easy as hard, object and scene clips in turn."""
        sizes = self.params.architecture
        specs = [
            RenderSpec(
                seed=seed,
                role="tune",
                kind=("object", "scene")[seed % 2],
                split=split,
                num_frames=sizes.num_frames,
                height=sizes.height,
                width=sizes.width,
            )
            for split in ("easy", "hard")
            for seed in range(self.params.num_probe_clips)
        ]
        return probe_clips(specs, device=self.device, mapper=self.stream.map)


def main() -> None:
    """Parse the command line and run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["all", "autoencoder", "text", "transformer", "speed", "ship"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seconds", type=float, help="total time of `all`, from its start to its end")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one parameter")
    arguments = parser.parse_args()
    if arguments.stage == "ship":
        ship(arguments.runs)
        return
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    params = read_params(HERE / "params.yaml", arguments.set)
    replicas = Replicas.join()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(params.seed)
    with worker_pool(max(1, (os.cpu_count() or 2) // replicas.count - 1)) as pool:
        run = Run(params, arguments.runs, device, replicas, pool, arguments.seconds)
        _ = run.stream
        stages = {
            "all": train_all,
            "autoencoder": train_vae,
            "text": train_text,
            "transformer": train_denoiser,
            "speed": print_speed,
        }
        stages[arguments.stage](run)
        pool.shutdown(cancel_futures=True)
        replicas.leave()


def read_params(path: Path, changes: list[str]) -> TrainParams:
    """Read params.yaml and apply the changes of the command line."""
    values = yaml.safe_load(path.read_text())
    for change in changes:
        name, _, value = change.partition("=")
        *sections, key = name.split(".")
        target: dict[str, Any] = values
        for section in sections:
            target = target[section]
        target[key] = yaml.safe_load(value)
    return parse(TrainParams, values, "backbone")


def train_all(run: Run) -> None:
    """Train autoencoder and text encoder, unless they are finished already, then the transformer.

    A transformer that continues earlier weights keeps its text encoder, unless another one was trained.
    """
    if not (run.folder / "autoencoder" / "config.json").exists():
        train_vae(run)
    if run.params.transformer.start_from is None and not _has_text_encoder(run):
        train_text(run)
    train_denoiser(run)


def train_vae(run: Run) -> None:
    """Train the autoencoder and write it to RUNS/autoencoder."""
    params, sizes = run.params.autoencoder, run.params.architecture
    autoencoder = make_autoencoder(sizes)
    if params.start_from is not None:
        load_weights(autoencoder, HERE / params.start_from / "vae")
    autoencoder.to(run.device)
    shape = ClipShape(sizes.num_frames, sizes.height, sizes.width)
    batches = run.stream.batches(shape, params.batch_size)
    seconds = run.replicas.agree(min(params.max_seconds, run.left - run.params.finish_seconds))
    limited = replace(params, max_seconds=seconds)
    train_autoencoder(autoencoder, batches, limited, run.folder, replicas=run.replicas)
    if run.replicas.first:
        _finish_vae(run, autoencoder)
    run.replicas.wait()


def _finish_vae(run: Run, autoencoder: AutoencoderKLCogVideoX) -> None:
    line = {}
    for split in ("easy", "hard"):
        clips = torch.stack([clip.frames for clip in run.probe_clips if clip.spec.split == split])
        line[split] = {
            "whole": round(reconstruction_psnr(autoencoder, clips, frames_alone=False), 2),
            "apart": round(reconstruction_psnr(autoencoder, clips, frames_alone=True), 2),
        }
    report(f"autoencoder: reconstruction of tune clips, dB: {line}")
    (run.folder / "reconstruction.json").write_text(json.dumps(line))
    autoencoder.save_pretrained(run.folder / "autoencoder")


def train_text(run: Run) -> None:
    """Train the text encoder on prompts alone and write it to RUNS/text_encoder."""
    sizes, tokenizer = run.params.architecture, make_tokenizer(run.params.architecture)
    encoder = make_text_encoder(sizes, tokenizer)  # in every replica, so that all draw the same weights afterwards, too
    if run.replicas.first:
        shares = train_text_encoder(
            encoder, tokenizer, run.params.text_encoder, text_length=sizes.text_length, device=run.device
        )
        report(f"text encoder: shares of the words of new prompts: {shares}")
        (run.folder / "text_encoder.json").write_text(json.dumps(shares))
        encoder.save_pretrained(run.folder / "text_encoder")
    run.replicas.wait()


def _has_text_encoder(run: Run) -> bool:
    """Whether a text encoder was trained on prompts alone."""
    return bool(run.replicas.agree((run.folder / "text_encoder" / "config.json").exists()))


def train_denoiser(run: Run) -> None:
    """Train the transformer on latents of RUNS/autoencoder, and the text encoder on request; write RUNS/pipeline."""
    params, sizes, device = run.params.transformer, run.params.architecture, run.device
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(run.folder / "autoencoder", dtype=torch.float32)
    encoder = autoencoder.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
    tokenizer = make_tokenizer(sizes)
    transformer, text_encoder = make_transformer(sizes), make_text_encoder(sizes, tokenizer)
    another = _has_text_encoder(run)
    if another:
        load_weights(text_encoder, run.folder / "text_encoder")
    elif params.start_from is None and not params.train_text_encoder:
        raise SystemExit(f"{run.folder} holds no text encoder; train.py text makes it, or set train_text_encoder: true")
    if params.start_from is not None and another:
        known = tokenize(tokenizer, (*random_prompts(range(512)), *[""] * 16), sizes.text_length, torch.device("cpu"))
        load_transformer_of_another_text_encoder(transformer, text_encoder, HERE / params.start_from, known)
    elif params.start_from is not None:
        load_weights(transformer, HERE / params.start_from / "transformer")
        load_weights(text_encoder, HERE / params.start_from / "text_encoder")
    denoiser = VideoDenoiser(transformer, text_encoder).to(device)
    size = (sizes.height, sizes.width)
    pools = LatentPools(
        encoder, run.stream, tokenizer, run.params.pool, size=size, text_length=sizes.text_length, replicas=run.replicas
    )
    pools.fill()
    report(f"clips encoded before training: {pools.sizes}")
    probe = LayerCurves(run.probe_clips, encoder, tokenizer)
    prompts = [clip.prompt for clip in run.probe_clips[:: max(1, len(run.probe_clips) // 4)]]
    number = iter(range(10**6))

    def save(averaged: VideoDenoiser) -> None:
        save_pipeline(
            run.folder / "pipeline",
            autoencoder=AutoencoderKLCogVideoX.from_pretrained(run.folder / "autoencoder"),
            transformer=averaged.transformer,
            text_encoder=averaged.text_encoder,
            tokenizer=tokenizer,
        )
        pipeline = CogVideoXPipeline(tokenizer, averaged.text_encoder, encoder, averaged.transformer, make_scheduler())
        save_strips(pipeline, prompts, run.folder / "samples" / f"{next(number):04d}.png", num_frames=sizes.num_frames)

    spent = _spent(run.folder / "transformer.jsonl")
    seconds = run.replicas.agree(min(params.max_seconds, spent + run.left - run.params.finish_seconds))
    limited = replace(params, max_seconds=seconds)
    train_transformer(
        denoiser,
        pools,
        make_scheduler(),
        limited,
        probe=probe,
        empty_prompt=tokenize(tokenizer, ("",), sizes.text_length, device),
        folder=run.folder,
        save=save,
        replicas=run.replicas,
    )
    report(f"clips encoded in all: {pools.sizes}")
    run.replicas.wait()


def print_speed(run: Run) -> None:
    """Time the ways in which the autoencoder can compute."""
    sizes, params = run.params.architecture, run.params.autoencoder
    batch = next(run.stream.batches(ClipShape(sizes.num_frames, sizes.height, sizes.width), params.batch_size))
    for line in _speeds(sizes, params, batch.frames):
        report(line)


def _speeds(sizes: ArchitectureParams, params: AutoencoderTraining, frames: torch.Tensor) -> Iterator[str]:
    if not frames.is_cuda:
        ways = [replace(params, precision="float32", channels_last=False)]
    else:
        plain = replace(params, precision="bfloat16", channels_last=False, compile="none")
        ways = [
            replace(plain, precision="autocast"),
            plain,
            replace(plain, channels_last=True),
            replace(plain, channels_last=True, compile="largest"),
            replace(plain, compile="largest"),
        ]
    for way in ways:
        first, each = time_autoencoder(make_autoencoder(sizes).to(frames.device), frames, way)
        said = f"{way.precision}, channels_last {way.channels_last}, compile {way.compile}"
        yield f"{said}: first three steps {first:.1f} s, then {each:.4f} s per step"


def ship(runs: Path) -> None:
    """Copy the pipeline and curves of a finished run over this folder's; of a run of the autoencoder, only that."""
    pipeline, autoencoder = runs / "pipeline", runs / "autoencoder"
    if (pipeline / "model_index.json").exists():
        for component in COMPONENTS:
            shutil.rmtree(HERE / component, ignore_errors=True)
            shutil.copytree(pipeline / component, HERE / component)
        shutil.copy(pipeline / "model_index.json", HERE)
    elif (autoencoder / "config.json").exists():
        _ship_autoencoder(autoencoder)
    else:
        raise SystemExit(f"{runs} holds no pipeline and no autoencoder; is the run finished?")
    run = 1 + curves.last_run()
    for name in ("autoencoder", "transformer"):
        if (runs / f"{name}.jsonl").exists():
            curves.append(runs / f"{name}.jsonl", name, run=run)


def _ship_autoencoder(folder: Path) -> None:
    """Copy an autoencoder whose encoder is the one that the transformer here was trained with."""
    trained, shipped = (
        AutoencoderKLCogVideoX.from_pretrained(path, dtype=torch.float16) for path in (folder, HERE / "vae")
    )
    ours = shipped.encoder.state_dict()
    if any(not torch.equal(value, ours[name]) for name, value in trained.encoder.state_dict().items()):
        raise SystemExit(
            f"the encoder in {folder} is not the shipped one: train a transformer on it, or set train_encoder to false"
        )
    with tempfile.TemporaryDirectory() as saved:
        trained.save_pretrained(saved)
        for file in Path(saved).glob("*.safetensors"):
            shutil.copyfile(file, HERE / "vae" / file.name)


def report(line: str) -> None:
    """Print at once, also through a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _spent(log: Path) -> float:
    """Seconds that earlier parts of an interrupted run trained; the checkpoint may record fewer."""
    checkpoint = log.with_suffix(".pt")
    return float(torch.load(checkpoint, weights_only=True, map_location="cpu")["spent"]) if checkpoint.exists() else 0.0


if __name__ == "__main__":
    try:
        main()
    except ParamsError as error:
        raise SystemExit(str(error)) from error
