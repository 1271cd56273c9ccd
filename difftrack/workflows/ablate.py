"""Measures the effect of heads and layers: samples a grid of interventions, prompts and seeds next to plain samples.

Under the folder of a grid:

    cells/plain/000-42.json          one artifact per cell: a sample's measures and provenance cells/plain/000-42.mp4
    its frames, lossless, the reference for others cells/zero-l04-h02/000-42.json   of a variant: an intervention in one
    place, or guidance cells/zero-l04-h02/matching.json matching accuracy of the other layers, on rendered clips with
    exact tracks ablation.json, ablation.csv      all variants, with intervals and differences from plain
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import UInt8

from difftrack.artifacts import write_text
from difftrack.backbones import Backbone
from difftrack.documents import read_json
from difftrack.guidance import Guidance, Variant, guided
from difftrack.interventions import InterventionError, SkipLayer, calls_at, intervening, read_intervention
from difftrack.locks import lock_of
from difftrack.media import read_video, write_video
from difftrack.provenance import MadeBy, Reuse, reuse_problem
from difftrack.quality import measure_video
from difftrack.workflows.probe import EmergenceProbe, ProbeParams, rendered_clips
from difftrack.workflows.prompt_following import JUDGED_OF, prompt_following

__all__ = [
    "MARKER",
    "MEASURES",
    "PLAIN",
    "AblateParams",
    "Ablation",
    "Cell",
    "Way",
    "ablate",
    "plan_ablation",
    "ways_of",
]

PLAIN = "plain"
"""Name of the variant without intervention."""
MEASURES: Mapping[str, str] = {
    "motion_px": "speed of the fastest twentieth of the pixels, px per frame",
    "warped_error": "identity: squared change of tracked content from frame to frame; lower is better",
    "cycle_error_px": "identity: distance of points from their start, tracked there and back; lower is better",
    "sharpness": "variance of the Laplacian",
    "prompt_following": "relative increase of the plain model's error on the sample with another prompt",
    "error": "root mean square difference from the plain sample of the same prompt and seed, pixels in [0, 1]",
}
"""Measures of a sample."""
MARKER = "ablation.json"
"""File of the summary, which also marks the folder of a grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateParams:
    """Settings of a grid.

    Raises:
        ValueError: a value is out of its range.
    """

    interventions: tuple[str, ...] = ("zero",)
    """Interventions in the form of `interventions.read_intervention`."""
    each: Literal["head", "layer"] = "head"
    """Intervene in each head alone, or in each layer; `skip` always acts on a layer."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    heads: Literal["all"] | tuple[int, ...] = "all"
    steps: Literal["all"] | tuple[int, ...] = "all"
    branches: Literal["all"] | tuple[Literal["cond", "uncond"], ...] = "all"
    guidances: tuple[tuple[Variant, float, tuple[int, ...]], ...] = ()
    """Guidance to compare: variant, scale, layers."""
    seeds: tuple[int, ...] = (42, 43)
    num_inference_steps: int = 50
    cfg_scale: float = 6.0
    num_frames: int = 17
    height: int = 128
    width: int = 192
    judged_steps: tuple[int, ...] = (10,)
    """Steps of 50 whose noise levels compare a sample's prompt with another one; none skips this."""
    matching_clips: int = 4
    """Number of rendered clips for the matching accuracy of the other layers; 0 skips this."""
    matching_step: int = 35
    """Step of 50 for this matching."""
    reuse: Reuse = "exact"
    """exact: reuse cells made with the same code, libraries and weights. params: the same settings are enough."""

    def __post_init__(self) -> None:
        if not self.interventions and not self.guidances:
            raise ValueError("there is nothing to do: give interventions or guidance")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}; expected at least one, each once")
        if self.num_inference_steps < 1 or self.matching_clips < 0:
            raise ValueError(
                f"num_inference_steps is {self.num_inference_steps} and matching_clips {self.matching_clips}; expected "
                "num_inference_steps of at least 1 and matching_clips of at least 0"
            )
        if any(not 0 <= step < JUDGED_OF - 1 for step in self.judged_steps):
            raise ValueError(f"judged_steps are {list(self.judged_steps)}; expected steps from 0 to {JUDGED_OF - 2}")


@dataclass(frozen=True, slots=True)
class Way:
    """One variant of sampling: plain, with an intervention in one place, or guided."""

    name: str
    intervention: str | None = None
    """The intervention as text; None for plain samples and guidance."""
    layer: int | None = None
    head: int | None = None
    """Head; None for a whole layer."""
    guidance: Guidance | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One artifact: a variant with a prompt and a seed, or the matching of a variant."""

    way: Way
    prompt: int | None
    """Number of the prompt; None for matching."""
    seed: int | None
    file: Path
    done: bool
    """Whether it exists with the requested settings."""
    num_forwards: int
    """Number of transformer forwards, of one branch each, to make it."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """A grid and its progress."""

    cells: tuple[Cell, ...]

    @property
    def waiting(self) -> tuple[Cell, ...]:
        """Unfinished cells."""
        return tuple(cell for cell in self.cells if not cell.done)


def ways_of(params: AblateParams, num_layers: int, num_heads: int) -> list[Way]:
    """List all variants of a grid, plain first.

    Raises:
        InterventionError: a word is not an intervention, or a layer or head does not exist.
    """
    ways = [Way(PLAIN)]
    for words in params.interventions:
        layers = read_intervention(words, layers=params.layers).chosen("layers", num_layers)
        whole = params.each == "layer" or words == "skip"
        heads = (None,) if whole else read_intervention(words, heads=params.heads).chosen("heads", num_heads)
        slug = words.replace(":", "-")
        for layer in layers:
            ways += [
                Way(f"{slug}-l{layer:02d}" + ("" if head is None else f"-h{head:02d}"), words, layer, head)
                for head in heads
            ]
    for variant, scale, layers in params.guidances:
        guidance = Guidance(layers=layers, scale=scale, variant=variant)
        ways.append(Way(f"guided-{variant}-{scale:g}-l{'-'.join(map(str, layers))}", guidance=guidance))
    return ways


def plan_ablation(
    backbone: Backbone, prompts: Sequence[tuple[int, str]], params: AblateParams, folder: Path
) -> Ablation:
    """List all cells and whether they are finished; runs no model.

    Args:
        backbone: Backbone to sample.
        prompts: Number and text of each prompt.
        params: Settings of the grid.
        folder: Folder of the grid.
    """
    return Ablation(tuple(cell for cell, _ in _planned(backbone, prompts, params, folder)))


def ablate(
    backbone: Backbone,
    prompts: Sequence[tuple[int, str]],
    params: AblateParams,
    folder: Path,
) -> Iterator[Cell]:
    """Compute every unfinished cell, one file each; a killed run resumes where it stopped.

    All ways are sampled with one prompt and seed before the next: a run that is stopped leaves whole pairs behind.

    Yields:
        Each finished cell, the plain one of a pair first.

    Raises:
        InterventionError: the folder holds something else.
        LockError: another process works in it.
    """
    if (marker := folder / MARKER).exists() and not _is_summary(marker):
        raise InterventionError(f"{marker} belongs to something else, so it is not overwritten; name another folder")
    with lock_of(folder).acquire():
        matcher = _Matcher(backbone, params)
        texts = dict(prompts)
        for cell, identity in _by_pair(_planned(backbone, prompts, params, folder), tuple(texts)):
            if cell.done:
                continue
            started = time.process_time()
            found = matcher.measure(cell.way) if cell.prompt is None else _sampled(backbone, texts, cell, params)
            made_by = _made_by(backbone).to_json()
            about = {"identity": identity, "made_by": made_by, "cpu_seconds": round(time.process_time() - started, 2)}
            cell.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(cell.file, json.dumps({**found, **about}, indent=1) + "\n")
            yield replace(cell, done=True)


def _planned(
    backbone: Backbone, prompts: Sequence[tuple[int, str]], params: AblateParams, folder: Path
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    made_by = _made_by(backbone)
    texts = dict(prompts)
    branches = 2 if params.cfg_scale > 1 else 1
    for way in ways_of(params, backbone.num_layers, backbone.num_heads):
        place = folder / "cells" / way.name
        extra = 0 if way.guidance is None else 1
        forwards = params.num_inference_steps * (branches + extra) + 2 * len(params.judged_steps)
        for number in texts:
            for seed in params.seeds:
                identity = _identity(backbone, way, texts, number, seed, params)
                file = place / f"{number:03d}-{seed}.json"
                frames = way.name != PLAIN or file.with_suffix(".mp4").exists()
                done = frames and _is_done(file, identity, made_by, params.reuse)
                yield Cell(way, number, seed, file, done, forwards), identity
        if params.matching_clips and way.guidance is None and _can_be_matched(way):
            identity = _identity_of_matching(backbone, way, params)
            file = place / "matching.json"
            done = _is_done(file, identity, made_by, params.reuse)
            yield Cell(way, None, None, file, done, params.matching_clips), identity


def _by_pair(
    planned: Iterable[tuple[Cell, dict[str, Any]]], numbers: Sequence[int]
) -> list[tuple[Cell, dict[str, Any]]]:
    """Sort cells by seed and prompt; matchings go with the first pair."""
    listed = list(planned)
    seeds = list(dict.fromkeys(cell.seed for cell, _ in listed if cell.seed is not None))

    def place(entry: tuple[Cell, dict[str, Any]]) -> tuple[int, int]:
        prompt, seed = entry[0].prompt, entry[0].seed
        return (0, 0) if prompt is None or seed is None else (seeds.index(seed), numbers.index(prompt))

    return sorted(listed, key=place)


def _can_be_matched(way: Way) -> bool:
    """Remove freezing: a single forward has no earlier step to freeze."""
    return way.intervention is None or not read_intervention(way.intervention).needs_moment


def _made_by(backbone: Backbone) -> MadeBy:
    return backbone.made_by(__name__)


def _identity(
    backbone: Backbone, way: Way, texts: Mapping[int, str], number: int, seed: int, params: AblateParams
) -> dict[str, Any]:
    """Return everything that determines a sample's measures, as JSON."""
    sampling = ("num_inference_steps", "cfg_scale", "num_frames", "height", "width", "judged_steps")
    kept = {name: getattr(params, name) for name in sampling}
    about = {
        **_of_way(backbone, way, params),
        "prompt": texts[number],
        "other_prompt": _other(texts, number) if params.judged_steps else None,
        "seed": seed,
        **kept,
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _identity_of_matching(backbone: Backbone, way: Way, params: AblateParams) -> dict[str, Any]:
    sampling = ("num_frames", "height", "width", "matching_clips", "matching_step")
    about = {**_of_way(backbone, way, params), **{name: getattr(params, name) for name in sampling}}
    about = {**about, "steps": "all", "branches": "all"}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _of_way(backbone: Backbone, way: Way, params: AblateParams) -> dict[str, Any]:
    acts = way.intervention is not None
    return {
        "backbone": backbone.fingerprint,
        **backbone.loading_choices(),
        "way": asdict(way),
        "steps": params.steps if acts else "all",
        "branches": params.branches if acts else "all",
    }


def _is_done(file: Path, identity: Mapping[str, Any], made_by: MadeBy, reuse: Reuse) -> bool:
    try:
        said = read_json(file)
        return said["identity"] == identity and reuse_problem(made_by, said["made_by"], reuse) is None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_summary(file: Path) -> bool:
    try:
        said = read_json(file)
        return isinstance(said, dict) and {"ways", "measures"} <= said.keys()
    except (OSError, ValueError):
        return False


# Samples


def _sampled(backbone: Backbone, texts: Mapping[int, str], cell: Cell, params: AblateParams) -> dict[str, Any]:
    """Sample and measure one cell."""
    number, seed = cell.prompt, cell.seed
    if number is None or seed is None:
        raise ValueError(f"{cell.file} is not the cell of a sample")
    with _acting(backbone, cell.way, params):
        frames = backbone.generate(
            texts[number],
            seed=seed,
            num_inference_steps=params.num_inference_steps,
            cfg_scale=params.cfg_scale,
            num_frames=params.num_frames,
            height=params.height,
            width=params.width,
        ).frames
    measured: dict[str, Any] = asdict(measure_video(frames))
    del measured["dynamic_degree"]
    if params.judged_steps:
        prompts = (texts[number], _other(texts, number))
        measured["prompt_following"] = prompt_following(backbone, frames, *prompts, steps=params.judged_steps)
    plain = cell.file.parents[1] / PLAIN / f"{number:03d}-{seed}.mp4"
    if cell.way.name == PLAIN:
        plain.parent.mkdir(parents=True, exist_ok=True)
        write_video(plain, frames, 8.0, lossless=True)
    measured["error"] = _difference(frames, read_video(plain).frames)
    return {"measures": measured}


def _acting(backbone: Backbone, way: Way, params: AblateParams) -> AbstractContextManager[Any]:
    grid, calls = (
        backbone.token_grid(params.num_frames, params.height, params.width),
        calls_at(params.cfg_scale),
    )
    if way.guidance is not None:
        return guided(backbone, way.guidance, grid=grid, calls=calls)
    if way.intervention is None:
        return nullcontext()
    heads = {} if way.head is None else {"heads": way.head}
    intervention = read_intervention(
        way.intervention, layers=way.layer, **heads, steps=params.steps, branches=params.branches
    )
    return intervening(backbone, [intervention], grid=grid, calls=calls)


def _difference(one: UInt8[np.ndarray, "frame row col rgb"], other: UInt8[np.ndarray, "frame row col rgb"]) -> float:
    return float(np.sqrt(np.square((one.astype(np.float64) - other) / 255).mean()))


def _other(texts: Mapping[int, str], number: int) -> str:
    """Return the next prompt; None if there is only one."""
    numbers = list(texts)
    following = numbers[(numbers.index(number) + 1) % len(numbers)]
    return "" if following == number else texts[following]


# Matching


class _Matcher:
    """Matches rendered clips while an intervention acts."""

    def __init__(self, backbone: Backbone, params: AblateParams) -> None:
        self._backbone = backbone
        self._params = params
        self._probes: dict[tuple[tuple[int, ...], bool], EmergenceProbe] = {}

    def measure(self, way: Way) -> dict[str, Any]:
        """Compute the accuracy of each clip per layer; for the plain model also per head."""
        backbone, params = self._backbone, self._params
        skips = way.intervention is not None and isinstance(read_intervention(way.intervention), SkipLayer)
        layers = tuple(layer for layer in range(backbone.num_layers) if not (skips and layer == way.layer))
        probe = self._probe(layers, per_head=way.name == PLAIN)
        with _acting(backbone, way, replace(params, steps="all", branches="all")):
            measured = probe.measure()
        found: dict[str, Any] = {
            "layers": list(layers),
            "accuracy": {name: _numbers(scores["matching_accuracy"]) for name, scores in measured.items()},
        }
        if way.name == PLAIN:
            by_head = {name: scores["head_matching_accuracy"] for name, scores in measured.items()}
            found["head_accuracy"] = {name: _numbers(scores) for name, scores in by_head.items()}
        return {"matching": found}

    def _probe(self, layers: tuple[int, ...], *, per_head: bool) -> EmergenceProbe:
        if (layers, per_head) not in self._probes:
            params = self._params
            size = {"num_frames": params.num_frames, "height": params.height, "width": params.width}
            clips = rendered_clips(params.matching_clips, **size)
            asked = ProbeParams(steps=(params.matching_step,), layers=layers, per_head=per_head)
            self._probes[layers, per_head] = EmergenceProbe(self._backbone, clips, asked)
        return self._probes[layers, per_head]


def _numbers(scores: xr.DataArray) -> list[Any]:
    """Return the values of the only step: [layer], or [layer, head]."""
    of_step = scores.isel(step=0)
    numbers: list[Any] = of_step.transpose(
        *(axis for axis in ("layer", "head") if axis in of_step.dims)
    ).values.tolist()
    return numbers
