"""Stage: params -> clips, rendered, sampled from a backbone, or read from the user's files."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from difftrack.backbones import Backbone, ModelParams, Trajectory, load_backbone, write_trajectory
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
from difftrack.keeping import Keeper
from difftrack.media import read_image
from difftrack.params import parse
from difftrack.prompts import read_prompts
from difftrack.provenance import Reuse
from difftrack.rendering import RenderSpec, Role, render_clip
from difftrack.wording import counted
from stages._run import Paths, each, kept_folder, run

TRAJECTORY = "trajectory.safetensors"


@dataclass(frozen=True, slots=True)
class RenderedSection:
    """`synthesize.rendered`: clips of the renderer; clip number i of a kind and split has seed `seed` + i.

    Raises:
        ValueError: a number is out of range.
    """

    easy_object: int = 0
    """Clips of objects that move before a background: clear textures, short ways."""
    easy_scene: int = 0
    """Clips of a scene through which the camera moves."""
    hard_object: int = 0
    """As `easy_object`, with deformation, shadows, exposure changes, motion blur and longer ways."""
    hard_scene: int = 0
    """As `easy_scene`, as hard as `hard_object`."""
    seed: int = 0
    """Of the first clip of each kind; the next has the next."""
    role: Role = "eval"
    """Which textures and random streams; nothing is shared between train, tune and eval."""
    num_frames: int = 17
    """Of every clip."""
    height: int = 128
    """In pixels."""
    width: int = 192
    """In pixels."""
    fps: float = 8.0
    """Frames per second at which the clip plays."""

    def __post_init__(self) -> None:
        for name in ("easy_object", "easy_scene", "hard_object", "hard_scene"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        _check_fps(self.fps)

    def specs(self) -> Iterator[tuple[str, RenderSpec]]:
        """Names and specifications of all clips."""
        for split, kind in (("easy", "object"), ("easy", "scene"), ("hard", "object"), ("hard", "scene")):
            for number in range(self.seed, self.seed + getattr(self, f"{split}_{kind}")):
                spec = RenderSpec(
                    seed=number,
                    role=self.role,
                    kind=kind,  # type: ignore[arg-type]
                    split=split,  # type: ignore[arg-type]
                    num_frames=self.num_frames,
                    height=self.height,
                    width=self.width,
                )
                yield f"rendered-{split}-{kind}-{number:03d}", spec


@dataclass(frozen=True, slots=True)
class GeneratedSection:
    """`synthesize.generated`: clips sampled from a backbone.

    Raises:
        ValueError: a number is out of range.
    """

    backbone: str
    """One of the section `backbones`."""
    prompts: Path
    """One prompt per line."""
    indices: Path | None = None
    """A file with the numbers of the prompts to take; null takes all."""
    images: Path | None = None
    """For image-to-video: a folder of first frames NNN.png, numbered like the prompts."""
    seed: int = 42
    """Of the noise that sampling starts from, the same for every prompt."""
    num_inference_steps: int = 50
    """Denoising steps."""
    cfg_scale: float = 6.0
    """Scale of classifier-free guidance, as the stock pipeline means it."""
    num_frames: int = 17
    """Of every clip; what a backbone can sample is in docs/backbones.md."""
    height: int = 128
    """In pixels."""
    width: int = 192
    """In pixels."""
    fps: float = 8.0
    """Frames per second at which the clip plays."""

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        _check_fps(self.fps)


def _check_fps(fps: float) -> None:
    if not fps > 0:
        raise ValueError(f"fps is {fps}; it must be positive")


@dataclass(frozen=True, slots=True)
class SynthesizeSection:
    """`synthesize`: where clips come from.

    Raises:
        ValueError: a source is asked for and has no section.
    """

    sources: tuple[Literal["rendered", "generated", "folder"], ...]
    """Where clips come from; each has its section below."""
    reuse: Reuse = "exact"
    """Which sampled clips are taken up. exact: those that the same params, code, library versions and loaded weights
    made. params: the same params are enough; the stage names what differs, and the clip records it."""
    keep_bytes: float = 1e9
    """Of clips that are not asked for any more, on disk; beyond it those that were used least recently go."""
    rendered: RenderedSection = field(default_factory=RenderedSection)
    generated: GeneratedSection | None = None
    folder: FolderParams | None = None

    def __post_init__(self) -> None:
        if not self.keep_bytes >= 0:
            raise ValueError(f"keep_bytes is {self.keep_bytes}; it must not be negative")
        for source in self.sources:
            if getattr(self, source) is None:
                raise ValueError(f"sources names {source}, and {source} is null; describe it or leave it out")


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
    backbone = load_backbone(section.backbone, model)
    made_by = backbone.made_by(write_clip.__module__)
    prompts = read_prompts(section.prompts, indices=section.indices)
    names = [f"generated-{number:03d}" for number, _ in prompts]
    for name, (number, prompt) in zip(names, each(prompts, "generate", names=names), strict=True):
        try:
            image = None if section.images is None else read_image(section.images / _image_name(number))
            details = _sampling(section, backbone, number, image)
            asked = (prompt, section.seed, section.fps, {"sampling": details})
            if not shelf.take_up(name, clip_identity(*asked), made_by, also=[TRAJECTORY]):
                clip, trajectory = _sample(name, prompt, section, backbone, details, image)
                shelf.write(replace(clip, details={**clip.details, "made_by": made_by.to_json()}))
                write_trajectory(shelf.root / name / TRAJECTORY, trajectory, fingerprint=backbone.fingerprint)
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
    for item in each(read_folder(section, failures), "read"):
        clip, tracks = (item.clip, item.tracks) if isinstance(item, TrackedVideo) else (item, None)
        shelf.write(clip, given_tracks=tracks)
        yield clip.name


if __name__ == "__main__":
    run("synthesize", main, whole=True, resumes=True)
