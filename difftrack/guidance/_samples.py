"""Samples prompts in several variants from one seed, and stores the results.

Under the folder of all samples:

    000/plain/              frames.mp4 (lossless) and clip.json: a clip of `difftrack.datasets`, with its provenance
    000/plain.mp4 for viewing; also plain_first.png, plain_middle.png and plain_last.png 000/side_by_side.mp4 all
    variants in one picture measures.json, .csv measures of every clip by `difftrack.quality`
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from difftrack.backbones import Backbone
from difftrack.background import Background
from difftrack.clip_shelf import ClipShelf, clip_identity
from difftrack.datasets import CLIP, Clip, write_clip
from difftrack.documents import read_json
from difftrack.guidance._errors import GuidanceError
from difftrack.guidance._guide import check_layers, guided
from difftrack.guidance._measures import check_measures, write_measures
from difftrack.guidance._params import Guidance, GuideParams
from difftrack.interrupts import one_too_large
from difftrack.interventions import calls_at
from difftrack.keeping import Keeper
from difftrack.locks import lock_of
from difftrack.media import read_image, write_image, write_video
from difftrack.ownership import OwnershipError, remove
from difftrack.provenance import MadeBy

__all__ = ["SampleOutcome", "sample_prompts"]

_CAPTION_PX = 16
"""Height of the strip with a variant's name."""
_APART = (write_measures.__module__, *(user.__module__ for user in (Background, ClipShelf, Keeper, lock_of, remove)))
"""Modules that do not affect a sample's frames."""


_IF_TOO_LARGE = "set backbones.{backbone}.memory to auto, or make guide.num_frames, height or width smaller"


@dataclass(frozen=True, slots=True)
class SampleOutcome:
    """Result of one prompt."""

    number: int
    prompt: str
    problem: str | None
    """Why it could not be sampled; None if all its files exist."""


def sample_prompts(
    backbone: Backbone,
    prompts: Sequence[tuple[int, str]],
    params: GuideParams,
    *,
    ways: Mapping[str, Guidance | None],
    folder: Path,
    keeper: Keeper,
    anew: bool = False,
    drop_others: bool = False,
) -> Iterator[SampleOutcome]:
    """Sample every prompt in every variant, one after the other, and measure all samples at the end.

    An existing, undamaged clip with the same provenance is reused according to `params.reuse`; any other clip of its
    name is moved aside. If a prompt fails, its outcome says so and the others continue.

    Args:
        backbone: Backbone to sample.
        prompts: Number, which names the folder, and text of each prompt.
        params: Settings of all variants.
        ways: Name -> guidance; None is plain sampling.
        folder: Folder of all samples; created if missing.
        keeper: Takes the clips that are no longer needed.
        anew: Reuse nothing.
        drop_others: Move aside samples of earlier prompts whose numbers are not among these, and nothing else.

    Yields:
        The outcome of each prompt when it is finished.

    Raises:
        GuidanceError: a layer does not exist, or the folder holds foreign measures or numbered folders; nothing is
            sampled then.
        LockError: another process samples into the folder.
    """
    for guidance in ways.values():
        if guidance is not None:
            check_layers(guidance, backbone.num_layers)
    with lock_of(folder).acquire():
        check_measures(folder)
        for number, _ in prompts:
            if problem := _not_ours(folder / _name(number), ways):
                raise GuidanceError(
                    f"nothing was overwritten: {problem}; move it, or name another folder for the samples"
                )
        folder.mkdir(parents=True, exist_ok=True)
        if drop_others:
            _drop_what_is_gone(folder, {_name(number) for number, _ in prompts}, keeper)
        made_by = backbone.made_by(__name__, write_clip.__module__, without=_APART)
        sampled: list[tuple[int, str]] = []
        under_way: deque[_UnderWay] = deque()
        with Background() as background:
            for number, prompt in prompts:
                under_way.append(_UnderWay(number, prompt))
                shelf = ClipShelf(
                    folder / _name(number),
                    keeper,
                    reuse=params.reuse,
                    anew=anew,
                    above=f"{_name(number)}/",
                    say=keeper.say,
                )
                try:
                    with one_too_large(_IF_TOO_LARGE.format(backbone=params.backbone)):
                        _sample_in_all_ways(
                            backbone,
                            under_way[-1],
                            params,
                            ways=ways,
                            shelf=shelf,
                            made_by=made_by,
                            background=background,
                        )
                except (ValueError, OSError, RuntimeError) as error:
                    under_way[-1].problem = str(error)
                while under_way and under_way[0].is_written:
                    yield _settled(under_way.popleft(), sampled)
            while under_way:
                yield _settled(under_way.popleft(), sampled)
        keeper.settle()
        write_measures(folder, {_name(number): prompt for number, prompt in sampled}, ways)


def _name(number: int) -> str:
    return f"{number:03d}"


def _image(folder: Path, number: int) -> Path:
    return folder / f"{_name(number)}.png"


def _drop_what_is_gone(folder: Path, names: set[str], keeper: Keeper) -> None:
    for samples in sorted({clip.parents[1] for clip in folder.glob("*/*/clip.json")}):
        if samples.name not in names and samples.name.isdecimal() and samples.name == _name(int(samples.name)):
            if _not_ours(samples):  # clips without proof of origin stay
                continue
            shelf = ClipShelf(samples, keeper, above=f"{samples.name}/")
            ways = [clip.parent.name for clip in sorted(samples.glob("*/clip.json"))]
            for way in ways:
                shelf.lay_aside(way, why="params.yaml now names other prompts")
            with suppress(OwnershipError):
                remove(samples, _not_ours(samples, ways), folder=folder)


def _not_ours(samples: Path, ways: Collection[str] = ()) -> str | None:
    """Name foreign contents in the folder of one prompt; None if there are none.

    Own contents are clips that say so and their views, and, for the variants in `ways`, damaged clips and views without
    a clip, which a killed run leaves.
    """
    if not samples.exists():
        return None
    if samples.is_symlink() or not samples.is_dir():
        return f"{samples} is a link or not a folder"
    clips = [entry for entry in sorted(samples.iterdir()) if entry.is_dir() and not entry.name.endswith(".part")]
    views = {
        "side_by_side.mp4",
        *(name for way in {*ways, *(clip.name for clip in clips)} for name in _view_names(way)),
    }
    for clip in clips:
        if problem := CLIP.stranger(clip) or _not_sampled(clip, damaged=clip.name in ways):
            return problem
    others = [entry for entry in samples.iterdir() if entry.is_file() and entry.name.removesuffix(".part") not in views]
    others = [entry for entry in others if not (entry.name.startswith(".") and entry.name.endswith(".part"))]
    return f"{others[0]} is not a view of a sample" if others else None


def _not_sampled(clip: Path, *, damaged: bool) -> str | None:
    """Return a message if a clip does not state that it was sampled; with `damaged` its clip.json may be invalid."""
    try:
        said = read_json(clip / "clip.json")
        sampled = said["source"] == "generated" and "sampling" in said["details"]
    except ValueError:
        sampled = damaged
    except (OSError, KeyError, TypeError):
        sampled = False
    return None if sampled else f"{clip} is not a sample"


@dataclass(slots=True)
class _UnderWay:
    """One prompt whose files may still be being written."""

    number: int
    prompt: str
    problem: str | None = None
    writes: list[Future[None]] = field(default_factory=list)

    @property
    def is_written(self) -> bool:
        """Return whether all its files are written."""
        return all(write.done() for write in self.writes)


def _settled(one: _UnderWay, sampled: list[tuple[int, str]]) -> SampleOutcome:
    """Return a prompt's outcome once all its files exist, and record it as sampled on success."""
    for write in one.writes:
        try:
            write.result()
        except (ValueError, OSError, RuntimeError) as error:
            one.problem = one.problem or str(error)
    if one.problem is None:
        sampled.append((one.number, one.prompt))
    return SampleOutcome(one.number, one.prompt, one.problem)


def _sample_in_all_ways(
    backbone: Backbone,
    one: _UnderWay,
    params: GuideParams,
    *,
    ways: Mapping[str, Guidance | None],
    shelf: ClipShelf,
    made_by: MadeBy,
    background: Background,
) -> None:
    """Sample a prompt in every variant; files are written while the next variant is sampled."""
    folder, number, prompt = shelf.root, one.number, one.prompt
    folder.mkdir(exist_ok=True)
    side_by_side = folder / "side_by_side.mp4"
    clips = {}
    for way, guidance in ways.items():
        details = {"sampling": _how(backbone, number, params, guidance)}
        before = _description(folder, way)
        clip = shelf.take_up(way, clip_identity(prompt, params.seed, params.fps, details), made_by)
        if clip is None:
            side_by_side.unlink(missing_ok=True)
            frames = _sample(backbone, number, prompt, params, guidance)
            details["made_by"] = made_by.to_json()
            clip = Clip(way, frames, params.fps, prompt, "generated", params.seed, details)
            one.writes.append(background.submit(partial(_write, shelf, clip)))
        elif before != _description(folder, way) or not _views(folder, way):
            side_by_side.unlink(missing_ok=True)
            one.writes.append(background.submit(partial(_write_views, folder, clip)))
        clips[way] = clip.frames
    if len(clips) > 1 and not side_by_side.exists():
        one.writes.append(background.submit(partial(_write_beside, side_by_side, clips, params.fps)))


def _write(shelf: ClipShelf, clip: Clip) -> None:
    _write_views(shelf.root, clip)
    shelf.write(clip)  # last, because a clip implies that its views exist


def _write_beside(file: Path, clips: Mapping[str, UInt8[np.ndarray, "frame row col rgb"]], fps: float) -> None:
    pictures = [_captioned(frames, way) for way, frames in clips.items()]
    write_video(file, np.concatenate(pictures, axis=2), fps, lossless=False)


def _how(backbone: Backbone, number: int, params: GuideParams, guidance: Guidance | None) -> dict[str, Any]:
    """Return everything besides the prompt that determines a sample."""
    kept = ("seed", "num_inference_steps", "cfg_scale", "num_frames", "height", "width", "fps")
    return {
        "backbone": backbone.fingerprint,
        **backbone.loading_choices(),
        "guidance": {**asdict(guidance), "layers": sorted(guidance.layers)} if guidance and guidance.scale else None,
        "image": None if params.images is None else sha256(_image(params.images, number).read_bytes()).hexdigest(),
        **{name: getattr(params, name) for name in kept},
    }


def _description(folder: Path, way: str) -> str:
    """Return the existing clip's description; empty if there is none."""
    file = folder / way / "clip.json"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _sample(
    backbone: Backbone, number: int, prompt: str, params: GuideParams, guidance: Guidance | None
) -> UInt8[np.ndarray, "frame row col rgb"]:
    grid = backbone.token_grid(params.num_frames, params.height, params.width)
    image = None if params.images is None else read_image(_image(params.images, number))
    with nullcontext() if guidance is None else guided(backbone, guidance, grid=grid, calls=calls_at(params.cfg_scale)):
        return backbone.generate(
            prompt,
            seed=params.seed,
            num_inference_steps=params.num_inference_steps,
            cfg_scale=params.cfg_scale,
            num_frames=params.num_frames,
            height=params.height,
            width=params.width,
            image=image,
        ).frames


def _write_views(folder: Path, clip: Clip) -> None:
    write_video(folder / f"{clip.name}.mp4", clip.frames, clip.fps, lossless=False)
    for position, frame in {"first": 0, "middle": clip.num_frames // 2, "last": -1}.items():
        write_image(folder / f"{clip.name}_{position}.png", clip.frames[frame])


def _view_names(way: str) -> tuple[str, ...]:
    return (f"{way}.mp4", *(f"{way}_{position}.png" for position in ("first", "middle", "last")))


def _views(folder: Path, way: str) -> bool:
    return all((folder / name).exists() for name in _view_names(way))


def _captioned(
    frames: UInt8[np.ndarray, "frame row col rgb"], caption: str
) -> UInt8[np.ndarray, "frame captioned_row col rgb"]:
    """Add a strip on top with the variant's name."""
    strip = np.zeros((_CAPTION_PX, *frames.shape[2:]), dtype=np.uint8)
    cv2.putText(strip, caption, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([np.broadcast_to(strip, (len(frames), *strip.shape)), frames], axis=1)
