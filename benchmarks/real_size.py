"""Run the presets end to end at a backbone's real size, with random weights, on one GPU.

This builds a pipeline folder whose transformer, autoencoder and text encoder have the published shapes and random
bfloat16 weights, two prompts, and a TAP-Vid pickle of two rendered clips. It then calls `difftrack preset NAME --first
2` as a user would, and samples the processes of each stage while it runs: seconds, peak memory of the GPU and of the
host, the share of time in which the GPU was busy, and the bytes that the stage left. Comparisons with the paper mean
nothing here, because the weights are random.

    python -m benchmarks.real_size --work /scratch/real_size
    python -m benchmarks.real_size --work /tmp/real_size --tiny --presets real-cogvideox-2b

`--direct` calls the stages one after the other, as DVC would, for a machine without DVC; `report` and `score`, which
load no model, are left out. `--clips` takes more clips, so that the start of a process counts less. `--tiny` builds a
pipeline of a few thousand weights and lowers sizes and steps, to try the script without a GPU. Results go to
benchmarks/results/real_size.json.
"""

import argparse
import datetime
import json
import os
import pickle
import platform
import shlex
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "real_size.json"
PROMPTS = (
    "a red disc moves left over a blue floor",
    "a green square turns slowly beside a tree",
    "two boats drift apart",
    "a cat jumps over a box",
)
PRESETS = ("analysis-cogvideox-2b", "real-cogvideox-2b", "tracking-davis-cogvideox-2b", "guidance-cogvideox-2b")
NAME = "cogvideox-2b"
INTERVAL_S = 0.2


@dataclass
class Stage:
    """The measurements of one stage."""

    seconds: float = 0.0
    gpu_peak_gb: float = 0.0
    host_peak_gb: float = 0.0
    busy: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, float | None]:
        """Round for a table; busy is the share of samples in which a kernel ran."""
        return {
            "seconds": round(self.seconds, 1),
            "gpu_peak_gb": round(self.gpu_peak_gb, 2),
            "host_peak_gb": round(self.host_peak_gb, 2),
            "gpu_busy": round(float(np.mean(self.busy)), 3) if self.busy else None,
            "gpu_busy_once_begun": self._busy_once_begun(),
            "gpu_idle_before_s": round(self.seconds * self._begun() / len(self.busy), 1) if self.busy else None,
        }

    def _begun(self) -> int:
        """Ignore samples until the model runs for the first time: a second of kernels."""
        window = round(1 / INTERVAL_S)
        runs = np.convolve(np.asarray(self.busy) > 0.5, np.ones(window), mode="valid") >= window
        return int(np.argmax(runs)) if runs.any() else len(self.busy)

    def _busy_once_begun(self) -> float | None:
        rest = self.busy[self._begun() :]
        return round(float(np.mean(rest)), 3) if rest else None


class Sampler(threading.Thread):
    """Watches the processes below this one and finds their stage."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stages: dict[str, Stage] = defaultdict(Stage)
        self.ended = threading.Event()
        self._gpu = _gpu()

    def run(self) -> None:
        """Sample until `ended` is set."""
        last = time.perf_counter()
        while not self.ended.wait(INTERVAL_S):
            now = time.perf_counter()
            name, resident = _running_stage()
            stage = self.stages[name]
            stage.seconds += now - last
            stage.host_peak_gb = max(stage.host_peak_gb, resident / 1e9)
            if self._gpu is not None:
                busy, used = self._gpu()
                stage.busy.append(busy)
                stage.gpu_peak_gb = max(stage.gpu_peak_gb, used / 1e9)
            last = now


def _gpu() -> Any:  # noqa: ANN401
    """Return a function that gives the GPU's busy share of the last moment and its bytes in use."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    device = pynvml.nvmlDeviceGetHandleByIndex(0)

    def sample() -> tuple[float, int]:
        rates, memory = pynvml.nvmlDeviceGetUtilizationRates(device), pynvml.nvmlDeviceGetMemoryInfo(device)
        return rates.gpu / 100, memory.used

    return sample


def _running_stage() -> tuple[str, int]:
    """The name of the stage that runs below this process, and the resident bytes of all processes there."""
    name, resident = "between stages", 0
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
            resident += process.memory_info().rss
        except psutil.Error:
            continue
        for module, argument in pairwise(words):
            if module == "-m" and argument.startswith("stages."):
                view = next((word.removeprefix("item.view=") for word in words if word.startswith("item.view=")), "")
                name = " ".join(part for part in (argument.removeprefix("stages."), view) if part)
            elif argument == "difftrack.pipeline" and words.index(argument) + 1 < len(words):
                name = words[words.index(argument) + 1]
    return name, resident


def build_pipeline(folder: Path, *, tiny: bool) -> Path:
    """Save a CogVideoX pipeline of random weights, with the shapes of CogVideoX-2B or tiny ones."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    from difftrack.backbones import KNOWN

    if (folder / "model_index.json").is_file():
        return folder
    known = KNOWN[NAME]
    arguments = dict(known.transformer[1])
    text = dict(known.encoders["text_encoder"][1])
    autoencoder: dict[str, Any] = {}
    if tiny:
        arguments |= {**known.small, "num_layers": 30, "attention_head_dim": 16}
        text |= {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        autoencoder = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}
    letters = [(chr(code), -9.0) for code in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        models = {
            "text_encoder": T5EncoderModel(T5Config(**text)),
            "vae": AutoencoderKLCogVideoX(scaling_factor=1.15258426, **autoencoder),
            "transformer": CogVideoXTransformer3DModel(**arguments),
        }
    models = {name: model.to(torch.bfloat16) for name, model in models.items()}
    kind, options = known.scheduler
    assert kind == "CogVideoXDDIMScheduler"
    words = T5Tokenizer(vocab=pieces + letters, extra_ids=0)
    scheduler = CogVideoXDDIMScheduler(**options)
    CogVideoXPipeline(tokenizer=words, scheduler=scheduler, **models).save_pretrained(folder)
    return folder


def write_inputs(folder: Path, *, num_frames: int, height: int, width: int) -> None:
    """Write prompts and a TAP-Vid pickle of two rendered clips with their exact tracks."""
    from difftrack.annotation import query_grid
    from difftrack.rendering import RenderSpec, exact_tracks, render_clip

    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    clips = {}
    for seed in (3, 5):
        spec = RenderSpec(seed=seed, num_frames=num_frames, height=height, width=width)
        points_xy_px, visible = exact_tracks(spec, query_grid(height, width, 5))
        video = []
        for frame in render_clip(spec).frames:
            coded = BytesIO()
            Image.fromarray(frame).save(coded, "JPEG", quality=95)
            video.append(coded.getvalue())
        points = np.moveaxis(points_xy_px, 0, 1) / (width, height)
        clips[f"rendered_{seed}"] = {
            "video": video,
            "points": points.astype(np.float32),
            "occluded": ~np.moveaxis(visible, 0, 1),
        }
    (folder / "clips.pkl").write_bytes(pickle.dumps(clips))


def settings(preset: str, work: Path, model: Path, *, tiny: bool) -> list[str]:
    """The `--set` words that make a preset read what was built here."""
    found = [f"backbones.{NAME}.path={model}"]
    if preset.startswith("analysis"):
        found += [f"synthesize.generated.prompts={work / 'prompts.txt'}", "annotate.tracker=lucas_kanade"]
        found += ["annotate.published=null"]
    elif preset.startswith("guidance"):
        found += [f"guide.prompts={work / 'prompts.txt'}"]
    else:
        found += [f"synthesize.folder.path={work / 'clips.pkl'}"]
    if not tiny:
        return found
    size = ["height=48", "width=80"]
    sections = {
        "analysis": ("synthesize.generated", "extract.analysis"),
        "real": ("extract.analysis",),
        "guidance": ("guide",),
    }.get(preset.split("-")[0], ("extract.tracking",))
    for section in sections:
        steps = [] if section == "extract.tracking" else ["num_frames=9"]
        found += [f"{section}.{word}" for word in (*size, *steps)]
        found += [f"{section}.num_inference_steps=3"] if section in ("synthesize.generated", "guide") else []
    if preset.startswith("analysis"):
        found += ["extract.analysis.num_inference_steps=3", "extract.analysis.steps=[2]"]
    if preset.startswith("real"):
        found += ["survey.steps=[49]"]
    return found


def stage_commands(
    preset: str, work: Path, model: Path, *, tiny: bool, clips: int, stages: Sequence[str]
) -> list[list[str]]:
    """Open a preset's workspace; return the stages that load a model, or that one of them needs, as commands."""
    from difftrack.params import read_params
    from difftrack.presets import apply_preset, open_workspace, read_overrides, read_preset

    chosen, place = read_preset(preset), work / preset
    params = apply_preset(
        chosen, read_params(ROOT / "params.yaml"), read_overrides(settings(preset, work, model, tiny=tiny))
    )
    params = open_workspace(place, ROOT, chosen, params, first=clips, name=preset)
    start = [sys.executable, "-m", "difftrack.pipeline"]
    if preset.startswith("guidance"):
        return [[*start, "guide", f"prompts={params['guide']['prompts']}", "--", "samples=data/samples"]]
    view = "tracking" if preset.startswith("tracking") else "analysis"
    store = f"descriptors=data/descriptors/{NAME}/{view}"
    item = [f"item.backbone={NAME}", f"item.view={view}"]
    found = [
        [*start, "synthesize", "--", "clips=data/clips", "kept=data/kept"],
        [*start, "annotate", "clips=data/clips", "--", "tracks=data/tracks"],
        [*start, "extract", "clips=data/clips", *item, "--", store, "kept=data/kept"],
    ]
    if view == "tracking":
        reads = [store, "tracks=data/tracks", "clips=data/clips"]
        return [*found, [*start, "track", *reads, "--", f"predictions=data/predictions/{NAME}"]]
    reads = ["clips=data/clips", "tracks=data/tracks", f"item.backbone={NAME}"]
    found.append([*start, "survey", *reads, "--", f"matches=data/survey/{NAME}", "kept=data/kept"])
    return [command for command in found if not stages or command[3] in stages]


def run_preset(
    preset: str,
    work: Path,
    model: Path,
    *,
    tiny: bool,
    direct: bool = False,
    clips: int = 2,
    stages: Sequence[str] = (),
) -> dict[str, Any]:
    """Run one preset as a separate command, or its stages one by one; return the measurements."""
    place, top = work / preset, ROOT
    words = [word for setting in settings(preset, work, model, tiny=tiny) for word in ("--set", setting)]
    commands = [[sys.executable, "cli.py", "preset", preset, "--first", str(clips), "--work", str(place), *words]]
    if direct:
        commands, top = stage_commands(preset, work, model, tiny=tiny, clips=clips, stages=stages), place
    for command in commands:
        print("$", shlex.join(command), flush=True)
    sampler = Sampler()
    sampler.start()
    started = time.perf_counter()
    with (work / f"{preset}.log").open("w") as log:
        environment = {
            **os.environ,
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        status = 0
        for command in commands:
            status = status or subprocess.call(command, cwd=top, env=environment, stdout=log, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - started
    sampler.ended.set()
    sampler.join()
    kept = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in sorted((place / "data").glob("*"))
        if folder.is_dir() and not folder.is_symlink()
    }
    cache = sum(file.stat().st_size for file in (place / ".dvc" / "cache").rglob("*") if file.is_file())
    return {
        "preset": preset,
        "clips": clips,
        "direct": direct,
        "exit_status": status,
        "seconds": round(seconds, 1),
        "stages": {name: stage.to_json() for name, stage in sampler.stages.items()},
        "bytes": {name: count for name, count in kept.items() if count} | {"dvc cache": cache},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, run, and write the results after every preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder with room for 40 GB")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--direct", action="store_true", help="call the stages, without DVC")
    parser.add_argument("--stages", nargs="*", default=(), help="with --direct: only these of an analysis")
    parser.add_argument("--clips", type=int, default=2, help="prompts, or clips of the two that are rendered")
    parser.add_argument("--tiny", action="store_true", help="a few thousand weights, on any device")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    model = build_pipeline(work / "pipeline", tiny=given.tiny)
    frames, height, width = (14, 96, 160) if given.tiny else (50, 480, 854)
    write_inputs(work, num_frames=frames, height=height, width=width)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "zarr")},
        "python": platform.python_version(),
        "tiny": given.tiny,
        "build_seconds": round(time.perf_counter() - started, 1),
        "pipeline_bytes": sum(file.stat().st_size for file in model.rglob("*.safetensors")),
        "presets": [],
    }
    torch.cuda.empty_cache()
    for preset in given.presets:
        found = run_preset(
            preset, work, model, tiny=given.tiny, direct=given.direct, clips=given.clips, stages=given.stages
        )
        results["presets"].append(found)
        given.out.write_text(json.dumps(results, indent=1) + "\n")
        print(preset, "exit", found["exit_status"], f"{found['seconds']} s", flush=True)
        for name, stage in found["stages"].items():
            print(f"  {name:<20}", *(f"{key} {value}" for key, value in stage.items()), flush=True)


if __name__ == "__main__":
    main()
