"""Train the backbone of this folder: `python train.py autoencoder|transformer RUNS` (one GPU; see params.yaml).

RUNS receives the logs, a checkpoint from which an interrupted run goes on, and the finished pipeline folder.
"""

import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKLCogVideoX

from difftrack.params import parse
from difftrack.rendering import RenderSpec
from difftrack.training import (
    ArchitectureParams,
    AutoencoderTraining,
    ClipStream,
    Denoiser,
    PoolParams,
    Probe,
    TransformerTraining,
    fill_pools,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    probe_clips,
    save_pipeline,
    tokenize,
    train_autoencoder,
    train_transformer,
)

NUM_PROBE_CLIPS = 32


def main(stage: str, runs: Path) -> None:
    """Run one training stage."""
    params = yaml.safe_load(Path(__file__).with_name("params.yaml").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(params["seed"])
    {"autoencoder": _autoencoder, "transformer": _transformer}[stage](params, runs, device)


def _stream(params: Mapping[str, Any], sizes: ArchitectureParams, device: torch.device, *, part: int) -> ClipStream:
    size = (sizes.height, sizes.width)
    seed = params["seed"] + part * 10**9
    return ClipStream(role="train", num_textures=params["num_textures"], device=device, size=size, seed=seed)


def _autoencoder(params: Mapping[str, Any], runs: Path, device: torch.device) -> None:
    sizes = parse(ArchitectureParams, params["architecture"], "architecture")
    training = parse(AutoencoderTraining, params["autoencoder"], "autoencoder")
    autoencoder = make_autoencoder(sizes).to(device)
    train_autoencoder(autoencoder, _stream(params, sizes, device, part=0), training, runs / "autoencoder.jsonl")
    autoencoder.save_pretrained(runs / "autoencoder")


def _transformer(params: Mapping[str, Any], runs: Path, device: torch.device) -> None:
    sizes = parse(ArchitectureParams, params["architecture"], "architecture")
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(runs / "autoencoder").to(device).eval().requires_grad_(False)
    tokenizer = make_tokenizer(sizes)
    specs = [
        RenderSpec(seed=seed, role="tune", kind=("object", "scene")[seed % 2], split=("easy", "hard")[seed // 2 % 2])
        for seed in range(NUM_PROBE_CLIPS)
    ]
    with ProcessPoolExecutor(mp_context=get_context("forkserver")) as processes:
        clips = [clip for [clip] in processes.map(probe_clips, [[spec] for spec in specs])]
    probe = Probe(clips, autoencoder, tokenizer, sizes.text_length)
    pools = fill_pools(
        autoencoder,
        _stream(params, sizes, device, part=1),
        tokenizer,
        parse(PoolParams, params["pool"], "pool"),
        text_length=sizes.text_length,
        device=device,
    )
    sys.stdout.write(f"encoded {({name: pool.size for name, pool in pools.items()})}\n")
    sys.stdout.flush()
    denoiser = Denoiser(make_transformer(sizes), make_text_encoder(sizes, tokenizer)).to(device)

    def save(averaged: Denoiser) -> None:
        save_pipeline(
            runs / "pipeline",
            autoencoder=autoencoder,
            transformer=averaged.transformer,
            text_encoder=averaged.text_encoder,
            tokenizer=tokenizer,
        )

    averaged = train_transformer(
        denoiser,
        pools,
        make_scheduler(),
        parse(TransformerTraining, params["transformer"], "transformer"),
        probe=probe,
        empty_prompt=tokenize(tokenizer, ("",), sizes.text_length, device),
        folder=runs,
        save=save,
    )
    save(averaged)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
