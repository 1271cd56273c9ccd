"""Reports on this machine: versions, device, attention, weights, caches, optional parts, and a self-test."""

import importlib.metadata
import importlib.util
import itertools
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from difftrack.rendering import RenderSpec

__all__ = ["Finding", "Report", "examine", "self_test"]

Status = Literal["ok", "absent", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    section: str
    name: str
    status: Status
    """`absent`: an optional part is missing; `FAIL`: something does not work."""
    found: str
    way_out: str = ""
    """How to fix it; empty if nothing is wrong."""

    def line(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.status:<7}{self.name}: {self.found}{f'; {self.way_out}' if self.way_out else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """All findings.

    Args:
        findings: Findings in the order of the sections.
    """

    findings: tuple[Finding, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether nothing has failed; absent parts do not count."""
        return all(finding.status != "FAIL" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        keys = ("section", "name", "status", "found", "way_out")
        rows = [{key: getattr(finding, key) for key in keys} for finding in self.findings]
        return {"passed": self.passed, "findings": rows}

    def text(self) -> str:
        """Return the report as text, one line per finding."""
        sections = itertools.groupby(self.findings, lambda finding: finding.section)
        parts = ["\n".join([name, *(f"  {finding.line()}" for finding in found)]) for name, found in sections]
        return "\n\n".join(parts)


def examine(*, device: str = "auto", test: bool = True) -> Report:
    """Examine this machine and this installation.

    Nothing is downloaded, and files are only written to a temporary folder.

    Args:
        device: Device of the self-test: `cpu`, `cuda`, `cuda:1`, or `auto`.
        test: Also run the self-test, which takes about ten seconds.
    """
    parts: list[Callable[[], Iterator[Finding]]] = [
        _versions,
        _device,
        _attention,
        _weights,
        _caches,
        _optional,
        _extensions,
    ]
    findings = [finding for part in parts for finding in _guarded(part)]
    if test:
        findings += self_test(device=device)
    return Report(tuple(findings))


def _guarded(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn another library's error into one line, so that the other parts are still reported."""
    try:
        yield from part()
    except Exception as error:  # a broken installation may raise anything
        name = part.__name__.strip("_")
        yield Finding(
            name, name, "FAIL", _one_line(error), "install again: pip install --force-reinstall difftrack-video"
        )


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


# Versions


LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "zarr", "xarray", "av", "opencv-python-headless", "dvc")


def _versions() -> Iterator[Finding]:
    here = _version("difftrack-video") or "a checkout that is not installed"
    yield Finding("versions", "difftrack", "ok", f"{here}, from {Path(__file__).parent}")
    yield Finding("versions", "python", "ok", f"{platform.python_version()} on {platform.platform()}")
    wanted = _wanted()
    for name in LIBRARIES:
        version = _version(name)
        if version is None:
            yield Finding("versions", name, "FAIL", "not installed", f"pip install '{wanted.get(name, name)}'")
        elif not _fits(version, wanted.get(name)):
            yield Finding(
                "versions", name, "FAIL", f"{version}; expected {wanted[name]}", f"pip install '{wanted[name]}'"
            )
        else:
            yield Finding("versions", name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wanted() -> dict[str, str]:
    """Return the requirements of the installed package by name; empty in a checkout that is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("difftrack-video") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in lines]
    return {needed.name: f"{needed.name}{needed.specifier}" for needed in parsed if needed.marker is None}


def _fits(version: str, wanted: str | None) -> bool:
    from packaging.requirements import Requirement

    return wanted is None or Requirement(wanted).specifier.contains(version, prereleases=True)


# Device


def _device() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(
        "device",
        "cpu",
        "ok",
        f"{cores} cores, {torch.get_num_threads()} threads of torch, {memory.available / 1e9:.0f} of "
        f"{memory.total / 1e9:.0f} GB of memory free, {torch.backends.cpu.get_cpu_capability()}",
    )
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"torch {torch.__version__} is built for CUDA {built} but finds no GPU" if built else "torch is a CPU build"
        )
        yield Finding("device", "cuda", "absent", why, "" if built is None else "check the driver with nvidia-smi")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        found = (
            f"{name}, compute {major}.{minor}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, CUDA {torch.version.cuda}"
        )
        yield Finding("device", f"cuda:{index}", "ok", found)


# Attention


def _attention() -> Iterator[Finding]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    on_cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_cuda else torch.float32
    tokens = torch.ones(1, 1, 16, 64, device="cuda" if on_cuda else "cpu", dtype=dtype)
    where = f"{'cuda' if on_cuda else 'cpu'}, {str(dtype).removeprefix('torch.')}"
    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    runs = []
    for name, kernel in kernels.items():
        try:
            with _quiet(), sdpa_kernel(kernel):
                torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        except RuntimeError:
            continue
        runs.append(name)
    status: Status = "ok" if runs else "FAIL"
    mend = "" if runs else "install another build of torch"
    yield Finding("attention", "torch", status, f"{', '.join(runs) or 'no kernel'} ({where})", mend)
    packages = {
        "flash-attn": "flash_attn",
        "sageattention": "sageattention",
        "xformers": "xformers",
        "kernels": "kernels",
    }
    there = [f"{name} {_version(name) or ''}".strip() for name, module in packages.items() if _has(module)]
    yield Finding("attention", "diffusers' other backends", "ok" if there else "absent", ", ".join(there) or "none")
    triton = _has("triton")
    found = "Triton kernels" if on_cuda and triton else "torch, in blocks"
    yield Finding("attention", "matching here", "ok", found, "pip install triton" if on_cuda and not triton else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's warnings about kernels that do not run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# Weights and caches


def _weights() -> Iterator[Finding]:
    from difftrack.backbones import CHECKPOINTS, SHIPPED, missing_weights, shipped_backbone

    try:
        folder = shipped_backbone()
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        complete = all((folder / name).is_dir() for name in ("transformer", "vae", "text_encoder")) and size > 0
    except FileNotFoundError as error:
        yield Finding("weights", SHIPPED, "FAIL", _one_line(error), "install the package again")
    else:
        found = f"{size / 1e6:.0f} MB in {folder}"
        mend = "" if complete else "the folder is incomplete: install the package again, or `git checkout` it"
        yield Finding("weights", SHIPPED, "ok" if complete else "FAIL", found, mend)
    here = [name for name in CHECKPOINTS if missing_weights(name, None) is None]
    found = ", ".join(here) or f"none of {len(CHECKPOINTS)} named checkpoints"
    way_out = "" if here else "`difftrack models` lists them; `hf download REPOSITORY` downloads one"
    yield Finding("weights", "checkpoints", "ok" if here else "absent", found, way_out)


def _caches() -> Iterator[Finding]:
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, folder in (("checkpoints", Path(HF_HUB_CACHE)), ("torch hub", Path(torch.hub.get_dir()))):
        yield _folder(name, folder)
    for name in ("data", "data/kept", ".dvc/cache"):
        if Path(name).is_dir():
            yield _folder(f"{name} of this folder", Path(name))
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding("caches", "disk of this folder", "ok", f"{free / 1e9:.0f} GB free")


def _folder(name: str, folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("caches", name, "absent", f"{folder} does not exist")
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return Finding("caches", name, "ok", f"{size / 1e9:.2f} GB in {folder.absolute()}")


# Optional parts


OPTIONAL = {
    "Dask (extract.scheduler)": ("distributed", "pip install 'difftrack-video[dist]'"),
    "S3 (s3://...)": ("s3fs", "pip install 'difftrack-video[s3]'"),
    "quantised text encoders": ("bitsandbytes", "pip install 'difftrack-video[memory]'"),
    "the tracker raft": ("torchvision", "pip install torchvision"),
    "LoRA adapters": ("peft", "pip install peft"),
}


def _optional() -> Iterator[Finding]:
    for name, (module, way_out) in OPTIONAL.items():
        if _has(module):
            yield Finding("optional parts", name, "ok", f"{module} {_version(module) or ''}".strip())
        else:
            yield Finding("optional parts", name, "absent", f"{module} is not installed", way_out)


def _extensions() -> Iterator[Finding]:
    from difftrack.annotation import TRACKERS
    from difftrack.backbones._registry import FAMILIES

    for noun, registry in (("backbone families", FAMILIES), ("trackers", TRACKERS)):
        names = registry.names()
        yield Finding("extensions", noun, "ok", ", ".join(names))
        for problem in registry.problems():
            yield Finding("extensions", noun, "FAIL", problem, "repair or uninstall that package")


# The self-test


def self_test(*, device: str = "auto") -> list[Finding]:
    """Run the shipped backbone over a small rendered clip, and compare the tracks with the clip's exact motion.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, or `auto`.

    Returns:
        One finding per test, in order; the first failure ends the self-test.
    """
    findings: list[Finding] = []
    state: dict[str, Any] = {"device": device}
    for name, step, way_out in STEPS:
        begin = time.perf_counter()
        try:
            found = step(state)
        except Exception as error:  # a broken installation may raise anything
            return [*findings, Finding("self-test", name, "FAIL", _one_line(error), way_out)]
        findings.append(Finding("self-test", name, "ok", f"{found} ({time.perf_counter() - begin:.1f} s)"))
    return findings


def _load(state: dict[str, Any]) -> str:
    from difftrack.api._backbones import load_backbone

    model = state["model"] = load_backbone("cogvideox-mini", device=state["device"])
    return f"{model.num_layers} layers of {model.num_heads} heads"


def _render(state: dict[str, Any]) -> str:
    from difftrack.api._clips import read_clip
    from difftrack.rendering import render_clip

    state["clip"] = read_clip(render_clip(CLIP).frames, name="self-test")
    return f"{CLIP.num_frames} frames of {CLIP.height}x{CLIP.width} px"


def _extract(state: dict[str, Any]) -> str:
    from difftrack.api._extract import extract

    store = state["store"] = extract(state["model"], state["clip"], layers=[6], size=(128, 192), progress=False)
    query = store.sel(clip="self-test", chunk=0, step=49, layer=6, kind="query")
    if not np.isfinite(query).all():
        raise ValueError("descriptors are not finite")
    return f"descriptors of {query.shape[1]} frames"


def _track(state: dict[str, Any]) -> str:
    from difftrack.api._track import track
    from difftrack.rendering import exact_tracks

    points = grid_of_points(CLIP)
    truth, visible = exact_tracks(CLIP, np.concatenate([np.zeros((len(points), 1), np.float32), points], axis=1))
    tracks = state["tracks"] = track(state["store"], points=[(float(px), float(py)) for px, py in points])
    error = np.linalg.norm(np.asarray(tracks.points_xy_px) - truth, axis=-1)[-1]
    close = float((error[visible[-1]] < MOST_ERROR_PX).mean())
    if close < LEAST_CLOSE:
        raise ValueError(
            f"{100 * close:.0f} % of the points end within {MOST_ERROR_PX} px of their exact place; expected "
            f"{100 * LEAST_CLOSE:.0f} %"
        )
    return f"{100 * close:.0f} % of {len(points)} points end within {MOST_ERROR_PX} px of their exact place"


def grid_of_points(spec: RenderSpec) -> Float[np.ndarray, "point xy"]:
    """Return the points that the self-test tracks, in pixels of frame 0."""
    x, y = np.meshgrid(np.linspace(0.2, 0.8, 5) * spec.width, np.linspace(0.2, 0.8, 5) * spec.height)
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


def _write(state: dict[str, Any]) -> str:
    import tempfile

    from difftrack.api._clips import read_clip

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "overlay.mp4"
        state["tracks"].overlay(to=file)
        again = read_clip(file)
        return f"{again.num_frames} frames written and read"


CLIP = RenderSpec(seed=7, kind="scene", num_frames=5)
"""The clip of the self-test: the camera moves, so that no point stays within 3 px."""
MOST_ERROR_PX = 3.0
"""Maximum error: less than half a token of the shipped backbone."""
LEAST_CLOSE = 0.8
"""Minimum share of points that a working installation tracks through this clip."""
STEPS: tuple[tuple[str, Callable[[dict[str, Any]], str], str], ...] = (
    ("load the backbone", _load, "install the package again; it contains the weights"),
    ("render a clip", _render, "reinstall scikit-image and opencv-python-headless"),
    ("extract descriptors", _extract, "try `difftrack doctor --device cpu`, and report both outputs"),
    ("track points", _track, "report this with the output of `difftrack doctor --json`"),
    ("write and read a video", _write, "reinstall av: pip install --force-reinstall av"),
)
"""Steps of the self-test: name, function, and the way out if it fails."""
