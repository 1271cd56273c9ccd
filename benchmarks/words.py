"""Whether maps of words find what the words name: on rendered clips with exact masks, by layer, step and head.

    python -m benchmarks.words tune  [--clips 6]     every (step, layer, head), on clips of the role `tune`
    python -m benchmarks.words study [--clips 6]     the choice made there, and the rest, on clips of the role `eval`

Clips are 17 frames of 128x192, half easy and half hard; object clips and camera moves alternate. They are noised to
each step and read with their own prompts. Only clips whose prompt names two or more objects count, so that there is a
wrong one. The map of every named object is made from its noun ("disc") and from its whole phrase ("red dotted disc").

- pointing: whether the centre of the token with most attention is on the object, mean over frames in which the object
  is visible.
- iou: intersection over union of the object and the tokens with most attention, as many as the object covers, in each
  frame.
- wrong word: the same with the maps of the other objects' words. chance: tokens drawn at random (pointing: the share of
  tokens on the object; iou: the mean over random draws, by hypergeometric means).

Both shares are measured: of all attention, and of the attention to the text. Means are over objects; intervals are 95 %
by bootstrap over clips. Results go to benchmarks/results/words_*.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.progress import track

from benchmarks.matching import machine
from difftrack.backbones import Backbone, ModelParams, load_backbone, shipped_backbone
from difftrack.correspondence import text_attention
from difftrack.datasets import Clip
from difftrack.extraction import AnalysisParams, CapturedUnit, Extractor, ModeParams
from difftrack.rendering import RenderSpec, exact_masks, render_clip, sample_scene
from difftrack.text_tokens import TextTokens

RESULTS = Path(__file__).parent / "results"
STEPS, NUM_STEPS = (0, 14, 28, 42, 49), 50
FIRST_SEED = 740_000
MEASURES = ("pointing", "iou")
SHARES = ("attention", "text")
ASKED = ("noun", "phrase")
NUM_DRAWS = 2000


@dataclass
class Case:
    """A clip with the maps of each object's words and the positions of the objects."""

    name: str
    maps: Float[np.ndarray, "asked share object step layer head latent_frame row col"]
    inside: Bool[np.ndarray, "object latent_frame row col"]
    words: list[str]


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("tune", tune), ("study", study)):
        command = commands.add_parser(name)
        command.add_argument("--clips", type=int, default=6, help="of each split")
        command.add_argument("--backbone", default=str(shipped_backbone()))
        command.add_argument("--device", default="auto")
        command.set_defaults(run=function)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    arguments.run(arguments)


def tune(arguments: argparse.Namespace) -> None:
    """Score every cell, and choose a layer and a head for nouns and for phrases by IoU, mean over steps and shares."""
    clips, info = scored(arguments, "tune", EVERYTHING)
    write(arguments, "tune", info, clips, {"chosen": {asked: best_of(clips, asked) for asked in ASKED}})


def study(arguments: argparse.Namespace) -> None:
    """Score the choice, and every cell, on other clips."""
    chosen = json.loads((RESULTS / "words_tune.json").read_text(encoding="utf-8"))["chosen"]
    combinations: dict[str, Combination] = dict(EVERYTHING)
    for asked in ASKED:
        combinations[f"layer for {asked}s"] = (chosen[asked]["layer"], None)
        combinations[f"head for {asked}s"] = (chosen[asked]["head"][0], chosen[asked]["head"][1])
    clips, info = scored(arguments, "eval", combinations)
    write(arguments, "study", info, clips, {"chosen": chosen})


def best_of(clips: Sequence[Mapping[str, Any]], asked: str) -> dict[str, Any]:
    """The layer and the head of highest IoU for nouns or phrases."""
    iou = np.mean([clip["cells"][asked]["right"][share]["iou"] for clip in clips for share in SHARES], axis=(0, 1))
    layer, head = (int(index) for index in np.unravel_index(iou.argmax(), iou.shape))
    return {"layer": int(iou.mean(axis=1).argmax()), "head": [layer, head]}


Combination = tuple[int | None, int | None]
"""Layers and heads whose maps are averaged, over all steps; None means all of them."""

EVERYTHING: Mapping[str, Combination] = {"all heads of all layers": (None, None)}


def scored(
    arguments: argparse.Namespace, role: str, combinations: Mapping[str, Combination]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure all clips of a role."""
    backbone = load_backbone(f"path:{arguments.backbone}", ModelParams(device=arguments.device))
    start, clips, named = time.process_time(), [], []
    for spec in track(list(specs(arguments.clips, role)), role):
        case = prepare(backbone, spec)
        if case is not None:
            clips.append(measured(case, combinations))
            named.append({"clip": case.name, "words": case.words})
    seconds = time.process_time() - start
    about = {"machine": machine(str(backbone.device)), "backbone": backbone.fingerprint, "clips": named}
    return clips, {**about, "cpu_seconds": seconds}


def specs(count: int, role: str) -> Iterator[RenderSpec]:
    """Clips of a role, half of them hard, object clips and camera moves by turns."""
    for split_at, split in enumerate(("easy", "hard")):
        for index in range(count):
            kind = "object" if index % 2 == 0 else "scene"
            yield RenderSpec(seed=FIRST_SEED + 100 * split_at + index, role=role, split=split, kind=kind)  # type: ignore[arg-type]


def prepare(backbone: Backbone, spec: RenderSpec) -> Case | None:
    """Run the backbone over a clip and map its objects' words; return None if it names fewer than two objects."""
    rendered = render_clip(spec)
    clip = Clip(f"{spec.split}-{spec.kind}-{spec.seed}", rendered.frames, 8.0, rendered.prompt, "rendered")
    params = AnalysisParams(
        num_frames=spec.num_frames,
        height=spec.height,
        width=spec.width,
        steps=STEPS,
        num_inference_steps=NUM_STEPS,
        descriptors=("query", "key"),
        mode=ModeParams(rendered="add_noise"),
    )
    extraction = Extractor(backbone, params).prepare(clip)
    text = extraction.text
    assert text is not None
    named = named_objects(spec, text)
    group = extraction.groups[clip.name]
    inside, seen = covered(spec, group.frames, backbone.stride_px, [layer for layer, *_ in named])
    named = [each for each, is_seen in zip(named, seen, strict=True) if is_seen]
    inside = inside[seen]
    if len(named) < 2:
        return None
    groups = [tokens for at in range(len(ASKED)) for _, *asked in named for tokens in [asked[at]]]
    groups.append(tuple(range(len(text))))
    shape = (len(STEPS), backbone.num_layers, backbone.num_heads)
    maps = np.zeros((len(groups), *shape, *inside.shape[1:]), np.float32)
    mask = torch.tensor(group.text_mask)

    def keep(unit: CapturedUnit) -> None:
        tensors = unit.tensors
        found = text_attention(
            tensors["query"], tensors["text_key"], mask.to(tensors["query"].device), groups, key=tensors["key"]
        )
        maps[:, STEPS.index(unit.step), unit.layer] = found.transpose(0, 1).cpu().numpy()

    extraction.run(extraction.plan(clip.name), keep)
    by_asked = maps[:-1].reshape(len(ASKED), len(named), *maps.shape[1:])
    both = np.stack([by_asked, by_asked / maps[-1]], axis=1)
    return Case(clip.name, both, inside, [" ".join(text.labels()[token] for token in phrase) for *_, phrase in named])


def named_objects(spec: RenderSpec, text: TextTokens) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """The objects that a prompt names: layer of the masks, tokens of the noun, tokens of colour, texture and noun."""
    shapes = sample_scene(spec).shapes
    words = text.words
    found, at = [], 0
    for layer, shape in list(reversed(list(enumerate(shapes, start=1))))[:3]:
        at = next((place for place in range(at, len(words)) if words[place].text == shape), len(words))
        if at < len(words) and all(word.tokens for word in words[at - 2 : at + 1]):
            phrase = tuple(token for word in words[at - 2 : at + 1] for token in word.tokens)
            found.append((layer, words[at].tokens, phrase))
        at += 1
    return found


def covered(
    spec: RenderSpec, frames: Sequence[int], stride: int, layers: Sequence[int]
) -> tuple[Bool[np.ndarray, "object latent_frame row col"], Bool[np.ndarray, " object"]]:
    """Tokens with more than half of their area on each object, and whether it has at least four in every frame."""
    masks = exact_masks(spec)[list(frames)]
    tiles = masks.reshape(len(frames), spec.height // stride, stride, spec.width // stride, stride)
    inside = np.stack([(tiles == layer).mean(axis=(2, 4)) > 0.5 for layer in layers])
    return inside, inside.sum(axis=(2, 3)).min(axis=1) >= 4


def measured(case: Case, combinations: Mapping[str, Combination]) -> dict[str, Any]:
    """Both measures of cells and combinations, mean over objects and frames, for the right word and the others'."""
    chance_ious = [chance_iou(int(frame.sum()), frame.size) for one in case.inside for frame in one]
    result: dict[str, Any] = {
        "chance": {"pointing": float(case.inside.mean()), "iou": float(np.mean(chance_ious))},
        "cells": {asked: right_and_wrong(case, at, lambda maps: maps) for at, asked in enumerate(ASKED)},
        "combinations": {},
    }
    for name, (layer, head) in combinations.items():
        layers = slice(None) if layer is None else slice(layer, layer + 1)
        heads = slice(None) if head is None else slice(head, head + 1)

        def averaged(maps: np.ndarray, layers: slice = layers, heads: slice = heads) -> np.ndarray:
            return maps[:, layers, heads].mean(axis=(0, 1, 2), keepdims=True)

        result["combinations"][name] = {asked: right_and_wrong(case, at, averaged) for at, asked in enumerate(ASKED)}
    return result


def right_and_wrong(case: Case, asked: int, reduce: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Measure maps against the object that their word names, and against the other objects."""
    objects = range(len(case.inside))
    found: dict[str, Any] = {}
    for which in ("right", "wrong"):
        pairs = [(word, thing) for word in objects for thing in objects if (word == thing) == (which == "right")]
        found[which] = {}
        for at, share in enumerate(SHARES):
            scores = [scores_of(reduce(case.maps[asked, at, word]), case.inside[thing]) for word, thing in pairs]
            found[which][share] = {measure: np.mean([each[measure] for each in scores], axis=0) for measure in MEASURES}
    return found


def scores_of(
    maps: Float[np.ndarray, "step layer head latent_frame row col"], inside: Bool[np.ndarray, "latent_frame row col"]
) -> dict[str, Float[np.ndarray, "step layer head"]]:
    """Pointing and IoU of maps, mean over frames."""
    flat = maps.reshape(*maps.shape[:4], -1)
    truth = inside.reshape(len(inside), -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    pointing, iou = np.zeros(flat.shape[:4]), np.zeros(flat.shape[:4])
    for frame, on_object in enumerate(truth):
        count = int(on_object.sum())
        hits = on_object[order[..., frame, :count]].sum(axis=-1)
        pointing[..., frame] = on_object[order[..., frame, 0]]
        iou[..., frame] = hits / (2 * count - hits)
    return {"pointing": pointing.mean(axis=-1), "iou": iou.mean(axis=-1)}


def chance_iou(count: int, total: int) -> float:
    """Expected IoU of `count` tokens drawn at random out of `total`, of which `count` are right."""
    generator = np.random.default_rng(0)
    hits = generator.hypergeometric(count, total - count, count, size=NUM_DRAWS)
    return float(np.mean(hits / (2 * count - hits)))


def interval(values: Float[np.ndarray, " clip"]) -> list[float]:
    """95 % of the means of clips drawn with replacement."""
    generator = np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (NUM_DRAWS, len(values)))].mean(axis=1)
    return [float(np.quantile(means, q)) for q in (0.025, 0.975)]


def write(
    arguments: argparse.Namespace, name: str, info: Mapping[str, Any], clips: Sequence[Any], more: Mapping[str, Any]
) -> None:
    """Write means over clips, with intervals for what is averaged, and print them."""
    summary: dict[str, Any] = {}
    for label, of_clip in clips[0]["combinations"].items():
        for asked in of_clip:
            for share in SHARES:
                row: dict[str, Any] = {}
                for measure in MEASURES:
                    values = {
                        which: np.asarray(
                            [clip["combinations"][label][asked][which][share][measure].item() for clip in clips]
                        )
                        for which in ("right", "wrong")
                    }
                    row[measure] = {which: float(own.mean()) for which, own in values.items()}
                    row[measure]["interval"] = interval(values["right"])
                    row[measure]["less_wrong_interval"] = interval(values["right"] - values["wrong"])
                summary.setdefault(label, {}).setdefault(asked, {})[share] = row
                print(f"{label:26}{asked:8}{share:10}", json.dumps(row), flush=True)
    cells = {
        asked: {
            which: {
                share: {
                    measure: np.mean([clip["cells"][asked][which][share][measure] for clip in clips], axis=0)
                    .round(4)
                    .tolist()
                    for measure in MEASURES
                }
                for share in SHARES
            }
            for which in ("right", "wrong")
        }
        for asked in ASKED
    }
    chance = {measure: float(np.mean([clip["chance"][measure] for clip in clips])) for measure in MEASURES}
    print("chance", chance, json.dumps(more))
    content = {
        **info,
        "measured": time.strftime("%Y-%m-%d"),
        "clips_of_each_split": arguments.clips,
        "steps": STEPS,
        **more,
        "chance": chance,
        "averaged": summary,
        "cells": {"axes": ["step", "layer", "head"], **cells},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"words_{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
