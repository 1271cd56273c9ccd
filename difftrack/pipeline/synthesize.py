"""Stage: params -> clips, rendered, sampled from a backbone, or read from the user's files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from difftrack.backbones import Backbone, ModelParams, Trajectory, load_backbone, write_trajectory
from difftrack.background import Background
from difftrack.clip_shelf import ClipShelf, clip_identity
from difftrack.datasets import (
    Clip,
    ClipFailure,
    DatasetError,
    FolderParams,
    TrackedVideo,
    clip_folders,
    clip_names,
    drop_clips,
    read_folder,
    write_clip,
    write_manifest,
)
from difftrack.interrupts import one_too_large
from difftrack.keeping import Keeper
from difftrack.media import read_image
from difftrack.params import parse
from difftrack.pipeline._stage import Paths, each, kept_folder, run, say, tell
from difftrack.prompts import read_prompts
from difftrack.rendering import render_clip
from difftrack.synthesis import GeneratedSection, RenderedSection, SynthesizeSection
from difftrack.wording import counted

TRAJECTORY = "trajectory.safetensors"


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Write `clips` and, last, their manifest; a clip that cannot be made is named at the end, after the others.

    Clips that are no longer wanted are laid aside in `kept` when all that are wanted could be made. Until then the
    manifest keeps those of the last one: a run that fails takes nothing away.
    """
    section = parse(SynthesizeSection, params["synthesize"], "synthesize")
    root, failures = outs["clips"], list[ClipFailure]()
    root.mkdir(parents=True, exist_ok=True)
    before = _last_names(root)
    clip_folders(root, known=before)
    keeper = Keeper(kept_folder(outs, "clips"), "clips", budget=section.keep_bytes)
    shelf = ClipShelf(root, keeper, reuse=section.reuse, anew=params.get("force", False))
    names = set()
    if "rendered" in section.sources:
        names |= set(_render(shelf, section.rendered))
    if "generated" in section.sources and section.generated is not None:
        names |= set(_generate(shelf, section.generated, params["backbones"], failures))
    if "folder" in section.sources and section.folder is not None:
        names |= set(_copy(shelf, section.folder, failures))
    if failures:
        keeper.settle()
        write_manifest(root, names | {name for name in before if (root / name).is_dir()})
        listed = "; ".join(str(failure) for failure in failures)
        raise DatasetError(
            f"{counted(len(failures), 'clip')} cannot be used, {len(names)} can: {listed}. "
            "For each: fix the file, or name it in synthesize.folder.skip"
        )
    gone = clip_folders(root, known=before) - names
    unfinished = {name for name in gone if name.startswith(".")}  # what killed runs were writing
    for name in sorted(gone - unfinished):
        shelf.lay_aside(name, why="params.yaml asks for other clips now")
    drop_clips(root, unfinished)
    keeper.settle()
    write_manifest(root, names)


def _last_names(root: Path) -> set[str]:
    """Names of the clips that there had to be until now; a manifest that cannot be read names none."""
    try:
        return set(clip_names(root))
    except DatasetError:
        return set()


def _render(shelf: ClipShelf, section: RenderedSection) -> Iterator[str]:
    specs = list(section.specs())
    for name, spec in each(specs, "render", names=[name for name, _ in specs]):
        rendered = render_clip(spec)
        clip = Clip(
            name=name,
            frames=rendered.frames,
            fps=section.fps,
            prompt=rendered.prompt,
            source="rendered",
            seed=spec.seed,
            details={"render": spec.to_json(), "textures": list(rendered.textures)},
            # A camera's motion is asked about everywhere, an object's on the object.
            object_mask=rendered.object_mask if spec.kind == "object" else None,
        )
        shelf.write(clip)
        yield name


def _generate(
    shelf: ClipShelf, section: GeneratedSection, backbones: Mapping[str, Any], failures: list[ClipFailure]
) -> Iterator[str]:
    """Sample prompts; a clip that is there already and was made in the same way is kept."""
    model = parse(ModelParams, backbones.get(section.backbone) or {}, f"backbones.{section.backbone}")
    size = (section.num_frames, section.height, section.width)
    backbone = load_backbone(section.backbone, model, size=size, works=["sample"])
    tell(backbone.remarks)
    smaller = (
        f"set backbones.{section.backbone}.memory to auto, or make synthesize.generated.num_frames, height or width "
        "smaller"
    )
    made_by = backbone.made_by(write_clip.__module__)
    prompts = read_prompts(section.prompts, indices=section.indices)
    names = [f"generated-{number:03d}" for number, _ in prompts]
    writing: list[tuple[str, Future[None]]] = []
    with Background() as background:
        for name, (number, prompt) in zip(names, each(prompts, "generate", names=names), strict=True):
            try:
                image = None if section.images is None else read_image(section.images / _image_name(number))
                details = _sampling(section, backbone, number, image)
                asked = (prompt, section.seed, section.fps, {"sampling": details})
                if shelf.take_up(name, clip_identity(*asked), made_by, also=[TRAJECTORY]):
                    yield name
                    continue
                with one_too_large(smaller):
                    clip, trajectory = _sample(name, prompt, section, backbone, details, image)
                made = replace(clip, details={**clip.details, "made_by": made_by.to_json()})
                write = partial(_write, shelf, made, trajectory, fingerprint=backbone.fingerprint)
                writing.append((name, background.submit(write)))
            except (ValueError, OSError) as error:
                failures.append(ClipFailure(name, str(error)))
            while writing and writing[0][1].done():
                yield from _written(*writing.pop(0), failures)
        for name, written in writing:
            yield from _written(name, written, failures)


def _write(shelf: ClipShelf, clip: Clip, trajectory: Trajectory, *, fingerprint: str) -> None:
    shelf.write(clip)
    write_trajectory(shelf.root / clip.name / TRAJECTORY, trajectory, fingerprint=fingerprint)


def _written(name: str, written: Future[None], failures: list[ClipFailure]) -> Iterator[str]:
    """The name of a clip that could be written, once it is."""
    try:
        written.result()
    except (ValueError, OSError) as error:
        failures.append(ClipFailure(name, str(error)))
    else:
        yield name


def _image_name(number: int) -> str:
    return f"{number:03d}.png"


def _sampling(section: GeneratedSection, backbone: Backbone, number: int, image: np.ndarray | None) -> dict[str, Any]:
    kept = ("num_inference_steps", "cfg_scale", "num_frames", "height", "width")
    return {
        "backbone": section.backbone,
        "fingerprint": backbone.fingerprint,
        "loading": backbone.loading_choices(),
        "number": number,
        "image": None if image is None else _image_name(number),
        **({} if image is None else {"image_sha256": _content_hash(image)}),
        **{key: getattr(section, key) for key in kept},
    }


def _content_hash(image: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _sample(
    name: str,
    prompt: str,
    section: GeneratedSection,
    backbone: Backbone,
    details: Mapping[str, Any],
    image: np.ndarray | None,
) -> tuple[Clip, Trajectory]:
    given = {} if image is None else {"image": image}
    sampled = backbone.generate(
        prompt,
        seed=section.seed,
        num_inference_steps=section.num_inference_steps,
        cfg_scale=section.cfg_scale,
        num_frames=section.num_frames,
        height=section.height,
        width=section.width,
        **given,
    )
    clip = Clip(name, sampled.frames, section.fps, prompt, "generated", section.seed, {"sampling": details})
    return clip, sampled.trajectory


def _copy(shelf: ClipShelf, section: FolderParams, failures: list[ClipFailure]) -> Iterator[str]:
    for item in each(read_folder(section, failures, say=partial(say, "synthesize")), "read"):
        clip, tracks = (item.clip, item.tracks) if isinstance(item, TrackedVideo) else (item, None)
        shelf.write(clip, given_tracks=tracks)
        yield clip.name


def run_stage() -> None:
    """Run this stage with what the command line names."""
    run("synthesize", main, whole=True, resumes=True, borrows="copies")
