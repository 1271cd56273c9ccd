"""What the shipped backbone can do, on clips that neither training nor the choice of a checkpoint has seen.

Usage: python -m benchmarks.backbone [--clips 64] [--pipeline DIR] [--device auto] [--steps 0 9 19 29 39 44 49]

Clips are rendered with the role `eval`, half of them object clips and half camera moves. A match is correct within 8
px, one token. Shares are of all visible points of a 12 x 12 grid in all later latent frames. Matches are those of eq.
6, an argmax over tokens; at the cleanest step they are also read by displacements, as the tracker reads them. Results
are printed and go to benchmarks/results/backbone.json.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks._backbone_report import print_results, targets
from benchmarks.matching import machine
from benchmarks.prompts import NUM_INFERENCE_STEPS, velocity_errors
from difftrack.annotation import lucas_kanade
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.correspondence import (
    MatchingParams,
    attention_of_points,
    match_features,
    match_points_with_heads,
    points_to_tokens,
    tokens_to_points,
)
from difftrack.rendering import RenderSpec
from difftrack.training import probe_clips, worker_pool

RESULTS = Path(__file__).parent / "results" / "backbone.json"
CLEANEST = NUM_INFERENCE_STEPS - 1
THRESHOLD_PX = 8.0
GRID = 12
DISPLACEMENTS = MatchingParams(read_out="displacements", window_radius=1)
READINGS = ("query_key", "heads", "feature", "query_key_displacements", "heads_displacements")
OTHER_SIZES = ((96, 160), (160, 128), (128, 128), (192, 288))
OTHER_LENGTHS = (33, 49)

Split = Literal["easy", "hard"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Case:
    """A rendered clip and its exact tracks."""

    frames: np.ndarray
    prompt: str
    points_xy_px: np.ndarray
    visible: np.ndarray


@dataclass
class Tally:
    """Correct matches of many clips, pooled over points."""

    right: dict[str, Any] = field(default_factory=lambda: defaultdict(int))
    total: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, points_xy_px: np.ndarray, case: Case, frames: Sequence[int]) -> None:
        """Count points `[..., frame, point, xy]` given at video frames `frames`; the first frame does not count."""
        truth, seen = case.points_xy_px[list(frames)][1:], case.visible[list(frames)][1:]
        distance = np.linalg.norm(points_xy_px[..., 1:, :, :] - truth, axis=-1)
        self.right[name] = self.right[name] + ((distance < THRESHOLD_PX) & seen).sum(axis=(-2, -1))
        self.total[name] += int(seen.sum())

    def shares(self, name: str) -> np.ndarray:
        """Share of visible points matched within the threshold."""
        return np.asarray(self.right[name]) / max(self.total[name], 1)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64, help="per split")
    parser.add_argument("--pipeline", default=str(shipped_backbone()))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 9, 19, 29, 39, 44, CLEANEST])
    parser.add_argument("--first-seed", type=int, default=500_000)
    arguments = parser.parse_args()
    steps = sorted({*arguments.steps, CLEANEST})
    backbone = load_backbone(f"path:{arguments.pipeline}", ModelParams(device=arguments.device))
    few = max(1, arguments.clips // 4)
    results: dict[str, Any] = {"machine": machine(str(backbone.device)), "clips_per_split": arguments.clips}
    results |= {"fingerprint": backbone.fingerprint, "first_seed": arguments.first_seed, "steps": steps}
    results["splits"] = {}
    for split in SPLITS:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.clips)
        cases = _cases(backbone.device, seeds, split)
        results["splits"][split] = {
            "baselines": _baselines(backbone, cases),
            "whole": _accuracy(backbone, cases, steps, frames_alone=False),
            "apart": _accuracy(backbone, cases, [CLEANEST], frames_alone=True),
            "reconstruction_db": _reconstruction(backbone, cases[:few]),
        }
        if split == "easy":
            results["prompt"] = _prompt_effect(backbone, cases[:few], [step for step in steps if step < CLEANEST])
    results["other"] = _other_sizes_and_lengths(backbone, few, arguments.first_seed)
    results["seconds"] = _seconds(backbone)
    for split in SPLITS:
        cases = _cases(backbone.device, range(arguments.first_seed, arguments.first_seed + few), split)
        results["splits"][split]["untrained"] = _untrained(backbone, cases)
    results["targets"] = targets(results)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print_results(results)


def _cases(
    device: torch.device, seeds: range, split: Split, *, num_frames: int = 17, size: tuple[int, int] = (128, 192)
) -> list[Case]:
    """Clips rendered on the device, object clips and camera moves by turns; points on objects alone in object clips."""
    height, width = size
    specs = [
        RenderSpec(
            seed=seed,
            role="eval",
            kind="scene" if seed % 2 else "object",
            split=split,
            num_frames=num_frames,
            height=height,
            width=width,
        )
        for seed in seeds
    ]
    with worker_pool() as pool:
        clips = probe_clips(specs, device=device, grid=GRID, mapper=pool.map)
    return [Case(clip.frames.cpu().numpy(), clip.prompt, clip.points_xy_px, clip.visible) for clip in clips]


def _accuracy(
    backbone: Backbone, cases: Sequence[Case], steps: Sequence[int], *, frames_alone: bool, every: int | None = None
) -> dict[str, Any]:
    """Shares matched by query-key of every layer and head and by features, and where the layers attend.

    Per step, noisiest first; by displacements at the cleanest alone.

    Args:
        backbone: Runs once per clip and step.
        cases: Clips of one size.
        steps: Of 50.
        frames_alone: Encode each frame by itself.
        every: Take every so many frames; the temporal stride where None.
    """
    schedule = backbone.schedule(NUM_INFERENCE_STEPS)
    tally, cross = Tally(), []
    stride = every or backbone.temporal_stride
    for number in _progress(len(cases), f"match, frames {'alone' if frames_alone else 'whole'}"):
        case = cases[number]
        frames = range(0, len(case.frames), stride)
        shown = case.frames[frames.start : frames.stop : stride] if frames_alone else case.frames
        latents = backbone.encode(shown, frames_alone=frames_alone)
        prompt = backbone.embed("" if frames_alone else case.prompt)
        tokens = points_to_tokens(
            torch.from_numpy(case.points_xy_px[0]).to(backbone.device), stride_px=backbone.stride_px
        )
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number)).to(latents)
        for step in steps:
            found: dict[str, list[np.ndarray]] = defaultdict(list)
            masses = []
            noisy = schedule.add_noise(latents, noise, step)
            for record in backbone.capture(noisy, step, schedule, prompt, layers=range(backbone.num_layers)):
                query, key, feature = (_known(part).float() for part in (record.query, record.key, record.feature))
                mean, heads = match_points_with_heads(query, key, tokens)
                found["query_key"].append(_pixels(mean.points_xy_token, backbone))
                found["heads"].append(_pixels(heads.points_xy_token, backbone))
                found["feature"].append(_pixels(match_features(feature, tokens).points_xy_token, backbone))
                if step == CLEANEST:
                    mean, heads = match_points_with_heads(query, key, tokens, params=DISPLACEMENTS)
                    found["query_key_displacements"].append(_pixels(mean.points_xy_token, backbone))
                    found["heads_displacements"].append(_pixels(heads.points_xy_token, backbone))
                    rows = attention_of_points(query, key, record.text_key.float(), record.text_mask, tokens)
                    masses.append(float(rows.frame_mass[1:].sum(dim=0).mean()))
            for name, points in found.items():
                tally.add(f"{name}/{step}", np.stack(points), case, frames)
            if masses:
                cross.append(masses)
    named = {
        name: [tally.shares(f"{name}/{step}").tolist() for step in steps if f"{name}/{step}" in tally.total]
        for name in READINGS
    }
    return {
        "points": tally.total[f"query_key/{steps[-1]}"],
        **named,
        "cross_frame_mass": np.mean(cross, axis=0).tolist(),
    }


def _baselines(backbone: Backbone, cases: Sequence[Case]) -> dict[str, float]:
    """Shares for no motion, for Lucas-Kanade on all frames, and for the cosine of the clean latents of a token."""
    tally = Tally()
    patch = backbone.patch_size
    for number in _progress(len(cases), "baselines"):
        case = cases[number]
        frames = range(0, len(case.frames), backbone.temporal_stride)
        still = np.broadcast_to(case.points_xy_px[0], case.points_xy_px[list(frames)].shape)
        tally.add("no motion", still, case, frames)
        followed = lucas_kanade(case.frames, np.insert(case.points_xy_px[0], 0, 0, axis=1)).points_xy_px
        tally.add("Lucas-Kanade", followed[list(frames)], case, frames)
        latents = backbone.encode(case.frames, frames_alone=False)
        tokens = latents.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5).flatten(3)
        points = torch.from_numpy(case.points_xy_px[0]).to(backbone.device)
        matches = match_features(tokens[None].float(), points_to_tokens(points, stride_px=backbone.stride_px))
        tally.add("cosine of latents", _pixels(matches.points_xy_token, backbone), case, frames)
    return {name: float(tally.shares(name)) for name in tally.right}


def _untrained(backbone: Backbone, cases: Sequence[Case]) -> list[float]:
    """Shares by query-key per layer with random weights of the same sizes; the backbone's own weights are lost."""
    torch.manual_seed(0)
    random = type(backbone.transformer).from_config(backbone.transformer.config)
    backbone.transformer.load_state_dict(random.state_dict())
    shares: list[float] = _accuracy(backbone, cases, [CLEANEST], frames_alone=False)["query_key"][0]
    return shares


def _reconstruction(backbone: Backbone, cases: Sequence[Case]) -> dict[str, float]:
    """Mean PSNR over clips, encoded whole and with frames alone."""
    ratios: dict[str, list[float]] = {"whole": [], "apart": []}
    for case in cases:
        for name, alone in (("whole", False), ("apart", True)):
            latents = backbone.encode(case.frames, frames_alone=alone) / backbone.vae.config.scaling_factor
            stacked = latents.transpose(0, 1)[None] if not alone else latents[:, :, None]
            with torch.no_grad():
                restored = backbone.vae.decode(stacked).sample.float().clamp(-1, 1).cpu()
            restored = restored[0].transpose(0, 1) if not alone else restored[:, :, 0]
            truth = torch.from_numpy(case.frames).permute(0, 3, 1, 2) / 127.5 - 1
            ratios[name].append(float(-10 * torch.log10((restored - truth).square().mean() / 4)))
    return {name: float(np.mean(values)) for name, values in ratios.items()}


def _prompt_effect(backbone: Backbone, cases: Sequence[Case], steps: Sequence[int]) -> dict[str, list[float]]:
    """Error of the predicted velocity with the right prompt, that of another clip of the same kind, and none.

    Kinds alternate (`_cases`); a camera move's prompt for an object would be wrong in everything.
    """
    errors = np.mean(
        [
            velocity_errors(backbone, case.frames, (case.prompt, cases[number - 2].prompt, ""), steps, seed=number)
            for number, case in enumerate(cases)
        ],
        axis=0,
    )
    return dict(zip(("right", "wrong", "none"), errors.tolist(), strict=True))


def _other_sizes_and_lengths(backbone: Backbone, num_clips: int, first_seed: int) -> list[dict[str, Any]]:
    """The best layer's share at the cleanest step, and that of no motion."""
    rows = []
    shapes = [(17, size, False) for size in OTHER_SIZES] + [(length, (128, 192), False) for length in OTHER_LENGTHS]
    for num_frames, size, alone in [*shapes, (49, (128, 192), True)]:
        seeds = range(first_seed, first_seed + num_clips)
        cases = _cases(backbone.device, seeds, "easy", num_frames=num_frames, size=size)
        shares = _accuracy(backbone, cases, [CLEANEST], frames_alone=alone)["query_key"][0]
        still = Tally()
        for case in cases:
            frames = range(0, num_frames, backbone.temporal_stride)
            still.add(
                "no motion", np.broadcast_to(case.points_xy_px[0], case.points_xy_px[list(frames)].shape), case, frames
            )
        rows.append(
            {
                "frames": num_frames,
                "size": list(size),
                "frames_alone": alone,
                "best_layer": int(np.argmax(shares)),
                "share": max(shares),
                "no_motion": float(still.shares("no motion")),
            }
        )
    return rows


def _seconds(backbone: Backbone) -> dict[str, float]:
    """Seconds of the best of three runs, 17 frames at 128 x 192."""
    frames = np.random.default_rng(0).integers(0, 256, size=(17, 128, 192, 3), dtype=np.uint8)
    prompt, schedule = backbone.embed("a red circle"), backbone.schedule(NUM_INFERENCE_STEPS)
    latents = backbone.encode(frames, frames_alone=False)
    timings = {
        "encode": lambda: backbone.encode(frames, frames_alone=False),
        "encode_frames_alone": lambda: backbone.encode(frames, frames_alone=True),
        "forward": lambda: backbone.predict(latents, schedule.timesteps[25], prompt),
    }
    return {name: _best_seconds(call) for name, call in timings.items()}


def _best_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(4):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _pixels(points_xy_token: Tensor, backbone: Backbone) -> np.ndarray:
    pixels: np.ndarray = tokens_to_points(points_xy_token, stride_px=backbone.stride_px).cpu().numpy()
    return pixels


def _known(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise RuntimeError("a descriptor that was asked for is missing")
    return tensor


def _progress(count: int, what: str) -> Iterator[int]:
    yield from track(range(count), what, disable=not Console().is_terminal)


if __name__ == "__main__":
    main()
