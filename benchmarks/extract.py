"""What keeping descriptors costs the model that computes them, and what a second GPU brings; random weights.

Usage: python -m benchmarks.extract [--shape cogvideox-2b] [--clips 8] [--workers 1 2] [--folder DIR]

Extracts query, key and feature of three layers at one step of `clips` random clips, twice: into a store, and with the
descriptors dropped where they are computed. With several numbers of workers it also runs `clips` and twice as many on
each; the difference of the two does not contain the start. Results go to benchmarks/results/extract.json.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from difftrack.datasets import Clip, write_clip
from difftrack.distribution import ClipWorker, Job, ProgressCallback, run_clips
from difftrack.pipeline.extract import ExtractJob

RESULTS = Path(__file__).parent / "results" / "extract.json"


@dataclass(frozen=True)
class Shape:
    """A model and the size of its clips."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    size: tuple[int, int, int]
    """Frames, height, width."""
    layers: tuple[int, int, int]
    dtype: str


SHAPES = {
    "cogvideox-2b": Shape({}, {}, (49, 480, 720), (10, 17, 25), "bfloat16"),
    "tiny": Shape(
        {"num_attention_heads": 2, "num_layers": 4, "text_embed_dim": 32, "max_text_seq_length": 11, "in_channels": 4,
         "out_channels": 4, "sample_frames": 9, "sample_height": 10, "sample_width": 14},
        {"block_out_channels": (4, 8, 8, 8), "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2},
        (9, 80, 112), (0, 2, 3), "float32",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DiscardJob(Job):
    """The same job, with its results dropped at once."""

    extract: ExtractJob

    def open(self) -> ClipWorker:
        """Return a worker that drops every result."""
        return _Discarder(self.extract)


@dataclass(frozen=True)
class _Discarder(ClipWorker):
    job: ExtractJob

    def expect(self, clip: str) -> None:
        self.job.source().expect(clip)

    def run(self, clip: str, report: ProgressCallback) -> Future[None]:
        extraction = self.job.source().prepare(clip)
        for group in extraction.groups:
            extraction.run(extraction.plan(group), lambda unit: None)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None:
        """Do nothing: no write is under way."""


@dataclass
class Watch:
    """This process and its GPU, sampled during a run."""

    memory_bytes: list[int] = field(default_factory=list)
    gpu_busy: list[float] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="cogvideox-2b")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, default=None, help="where weights, clips and stores go for a while")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        job = _inputs(Path(folder), SHAPES[given.shape], 2 * given.clips)
        names = [f"clip-{index:03d}" for index in range(2 * given.clips)]
        results = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__,
            "shape": given.shape,
            "clips": given.clips,
            "dump": _dump_against_none(job, names[: given.clips]),
        }
        if len(given.workers) > 1:
            results["seconds_for_as_many_clips_more"] = {
                count: _steady_seconds(job, names, count) for count in given.workers
            }
    print(json.dumps(results, indent=2))
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**before, f"{given.shape}, {results['device']}": results}, indent=2) + "\n")


def _dump_against_none(job: ExtractJob, clips: Sequence[str]) -> dict[str, float | None]:
    """Run both ways in turn with the model warm, and keep the better time of two."""
    discard = DiscardJob(job)
    _run(discard, clips[:2])
    loaded = psutil.Process().memory_info().rss
    _run(job, clips[:2])  # pins its buffers
    without, with_dump = [], []
    for _ in range(2):
        shutil.rmtree(job.store)
        without.append(_watched(discard, clips))
        with_dump.append(_watched(job, clips))
    best, base = min(with_dump, key=lambda w: w.seconds), min(without, key=lambda w: w.seconds)
    num_bytes = sum(file.stat().st_size for file in Path(job.store).rglob("*") if file.is_file())
    return {
        "seconds_without": base.seconds,
        "seconds_with": best.seconds,
        "with_over_without": best.seconds / base.seconds,
        "gpu_busy_without": float(np.mean(base.gpu_busy)) if base.gpu_busy else None,
        "gpu_busy_with": float(np.mean(best.gpu_busy)) if best.gpu_busy else None,
        "host_memory_over_model_bytes": max(max(watch.memory_bytes) for watch in with_dump) - loaded,
        "stored_bytes": num_bytes,
    }


def _steady_seconds(job: ExtractJob, clips: Sequence[str], workers: int) -> float:
    """Time of twice as many clips minus the time of half of them: starting and loading cancel."""
    seconds = []
    for some in (clips[: len(clips) // 2], clips):
        shutil.rmtree(job.store, ignore_errors=True)
        started = time.perf_counter()
        _run(job, some, workers=workers)
        seconds.append(time.perf_counter() - started)
    return seconds[1] - seconds[0]


def _run(job: Job, clips: Sequence[str], *, workers: int = 1) -> None:
    problems = {clip: problem for clip, problem in run_clips(job, clips, workers=workers) if problem}
    if problems:
        raise RuntimeError(f"clips failed: {problems}")


def _watched(job: Job, clips: Sequence[str]) -> Watch:
    with _watching() as watch:
        started = time.perf_counter()
        _run(job, clips)
        watch.seconds = time.perf_counter() - started
    print(f"{type(job).__name__}: {len(clips)} clips in {watch.seconds:.2f} s", flush=True)
    return watch


@contextmanager
def _watching(every_s: float = 0.1) -> Iterator[Watch]:
    watch, over, process = Watch(), threading.Event(), psutil.Process()

    def sample() -> None:
        while not over.wait(every_s):
            watch.memory_bytes.append(process.memory_info().rss)
            if torch.cuda.is_available():
                watch.gpu_busy.append(torch.cuda.utilization() / 100)

    watch.memory_bytes.append(process.memory_info().rss)
    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def _inputs(folder: Path, shape: Shape, num_clips: int) -> ExtractJob:
    """Write a pipeline of random weights and random clips."""
    _save_pipeline(folder / "backbone", shape)
    num_frames, height, width = shape.size
    for index in range(num_clips):
        frames = np.random.default_rng(index).integers(0, 256, (num_frames, height // 16, width // 16, 3), np.uint8)
        clip = Clip(f"clip-{index:03d}", frames, fps=8.0, prompt="a disc", source="rendered")
        write_clip(folder / "clips", clip)  # small files: reading video is not what is measured
    view = {"height": height, "width": width, "layers": shape.layers, "steps": [49]}
    params = {
        "item": {"backbone": "random", "view": "analysis"},
        "backbones": {"random": {"path": str(folder / "backbone"), "dtype": shape.dtype}},
        "extract": {"analysis": {**view, "num_frames": num_frames}, "tracking": view},
    }
    return ExtractJob(json.dumps(params), folder / "clips", str(folder / "store"), str(folder / "kept"))


def _save_pipeline(folder: Path, shape: Shape) -> None:
    dtype = getattr(torch, shape.dtype)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -9.0) for letter in "acdeimosv")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        transformer = CogVideoXTransformer3DModel(**shape.transformer).to(dtype)
        blocks = len(shape.vae.get("block_out_channels", (0,) * 4))
        sides = {
            "down_block_types": ("CogVideoXDownBlock3D",) * blocks,
            "up_block_types": ("CogVideoXUpBlock3D",) * blocks,
        }
        vae = AutoencoderKLCogVideoX(**sides, **shape.vae).to(dtype)
        width = transformer.config.text_embed_dim
        text = T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ).to(dtype)
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=vae,
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
