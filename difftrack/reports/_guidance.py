"""The section on guidance: samples with and without it side by side, and what they measure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from difftrack.datasets import Clip, read_clip
from difftrack.media import write_video
from difftrack.quality import Interval
from difftrack.reports._drawings import Drawings
from difftrack.reports._overlay import OverlayParams, captioned, side_by_side, size_beside
from difftrack.reports._page import Gallery, GalleryClip, Headline, Section, Table
from difftrack.reports._style import MISSING
from difftrack.wording import counted, listed

__all__ = ["Samples", "guidance_headlines", "guidance_section", "read_samples"]

_FILE = "measures.json"
_LED_BY = "cycle_error_px"
"""The measure of the headline: guidance is there to keep things consistent."""
_MEASURES = {
    "motion_px": ("motion, px per frame", 2),
    "dynamic_degree": ("share of dynamic clips", 2),
    "warped_error": ("error of the warped frame, x 1000", 3),
    "cycle_error_px": ("tracking there and back, px", 2),
    "sharpness": ("sharpness", 0),
}
"""Measure -> its name for people, and how many decimals are shown."""
_SCALES = {"warped_error": 1000.0}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What sampling the same prompts in several ways gave; the first way is what others are compared with."""

    ways: Mapping[str, Mapping[str, Any] | None]
    """Way of sampling -> how it was guided; None for plain sampling."""
    means: Mapping[str, Mapping[str, Interval]]
    """Way -> measure -> its mean over prompts."""
    differences: Mapping[str, Mapping[str, Interval]]
    """Every way but the first -> measure -> mean over prompts of its difference from the first, from equal seeds."""
    prompts: Mapping[str, str]
    """Folder of a prompt's samples -> the prompt."""
    read: Callable[[str, str], Clip]
    """(folder, way) -> the sample."""


def read_samples(folder: Path) -> Samples | None:
    """Open what the guide stage wrote; None where it has not run.

    Raises:
        ValueError: the measures are there and cannot be used.
    """
    if not (folder / _FILE).is_file():
        return None
    try:
        measures = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        first, *others = measures["ways"]
        differences = measures[f"differences_from_{first}"]
        return Samples(
            ways=measures["ways"],
            means={way: _intervals(measures["means"][way]) for way in (first, *others)},
            differences={way: _intervals(differences[way]) for way in others},
            prompts={str(row["name"]): str(row["prompt"]) for row in measures["clips"]},
            read=lambda name, way: read_clip(folder / name, way),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / _FILE} cannot be used ({error!r}); run the guide stage again") from error


def guidance_headlines(samples: Samples | None) -> list[Headline]:
    """What guidance changes, in one number; nothing where nothing is compared."""
    found = [(way, own) for way, own in (samples.differences if samples else {}).items() if _LED_BY in own]
    if samples is None or not found:
        return []
    way, own = found[0]
    before, after = (samples.means[name][_LED_BY].mean for name in (next(iter(samples.ways)), way))
    motion = f" Motion, px per frame: {_difference('motion_px', own['motion_px'])}." if "motion_px" in own else ""
    return [
        Headline(
            f"{_signed(_LED_BY, own[_LED_BY].mean)} px",
            "tracking error there and back, by guidance",
            f"{_plain(_LED_BY, before)} px without and {_plain(_LED_BY, after)} px with guidance, over "
            f"{counted(len(samples.prompts), 'prompt')}: {_difference(_LED_BY, own[_LED_BY])}. Lower is more "
            f"consistent.{motion}{_one_prompt(samples)}",
        )
    ]


def guidance_section(samples: Samples | None, *, drawings: Drawings, params: OverlayParams, max_videos: int) -> Section:
    """Put the samples of every prompt side by side, with a table of what they measure.

    Args:
        samples: None where the guide stage has not run: the section then says so.
        drawings: Take the videos.
        params: How large the videos are.
        max_videos: Most prompts that are shown.
    """
    if samples is None or not samples.prompts:
        lead = "There are no samples with and without guidance. The stage `guide` makes them: `dvc repro guide`."
        return Section(anchor="guidance", short="Guidance", title="Guidance", lead=lead, blocks=[])
    names = list(samples.prompts)[:max_videos]
    gallery = Gallery(
        title="The same prompt and seed, sampled in each way.",
        caption="Guidance steers sampling away from a prediction in which the chosen layers see no other frame.",
        clips=[_sample(samples, name, drawings, params) for name in names],
    )
    return Section(
        anchor="guidance",
        short="Guidance",
        title="Sampling with and without guidance",
        lead=_lead(samples),
        blocks=[*([gallery] if names else []), _measures_table(samples), *_prompts_left_out(samples, names)],
    )


def _sample(samples: Samples, name: str, drawings: Drawings, params: OverlayParams) -> GalleryClip:
    clips = {way: samples.read(name, way) for way in samples.ways}
    first, video = next(iter(clips.values())), f"videos/guidance-{name}.mp4"
    scale = params.scale(first.width)
    drawings.draw(partial(_write_ways, {way: clip.frames for way, clip in clips.items()}, scale, first.fps), video)
    height, width = (size + size % 2 for size in size_beside(first.height, first.width, len(clips), params))
    detail = f"{samples.prompts[name]} ({counted(first.num_frames, 'frame')}, seed {first.seed})"
    return GalleryClip(name, detail, video, f"{width} / {height}", list(clips))


def _write_ways(ways: Mapping[str, UInt8[np.ndarray, "frame row col rgb"]], scale: int, fps: float, path: Path) -> None:
    panels = [captioned(_enlarged(own, scale), way) for way, own in ways.items()]
    write_video(path, side_by_side(panels), fps, lossless=False)


def _enlarged(frames: UInt8[np.ndarray, "frame row col rgb"], scale: int) -> UInt8[np.ndarray, "frame _ _ rgb"]:
    return np.stack([cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for frame in frames])


def _lead(samples: Samples) -> str:
    first, num_prompts = next(iter(samples.ways)), counted(len(samples.prompts), "prompt")
    guided = {way: own for way, own in samples.ways.items() if own is not None}
    how = " ".join(f"{_how(way, own)}" for way, own in guided.items())
    found = "".join(_finding(way, first, own) for way, own in samples.differences.items() if _LED_BY in own)
    return f"{num_prompts}, each sampled in {counted(len(samples.ways), 'way')}. {how}{found}{_one_prompt(samples)}"


def _one_prompt(samples: Samples) -> str:
    """Warn where a mean is of one prompt."""
    return " One prompt gives no interval and says little about others." if len(samples.prompts) == 1 else ""


def _how(way: str, guidance: Mapping[str, Any]) -> str:
    layers = [str(layer) for layer in sorted(guidance.get("layers", ()))]
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {listed(layers)}" if layers else "no layer"
    return f"The way `{way}` is steered by {where} at scale {guidance.get('scale', MISSING)}."


def _finding(way: str, first: str, differences: Mapping[str, Interval]) -> str:
    """What a way changes, in measures to be read together: less motion is more consistent as such."""
    parts = [
        f"{_MEASURES[name][0]} by {_difference(name, differences[name])}"
        for name in (_LED_BY, "motion_px", "sharpness")
        if name in differences
    ]
    return f" Against `{first}`, `{way}` changes {'; '.join(parts)}."


def _measures_table(samples: Samples) -> Table:
    first, *others = samples.ways
    names = [name for name in samples.means[first] if name in _MEASURES]
    rows = [
        [
            _MEASURES[name][0],
            *(_with_interval(name, samples.means[way][name]) for way in samples.ways),
            *(_difference(name, samples.differences[way][name]) for way in others),
        ]
        for name in names
    ]
    one = len(samples.prompts) == 1
    interval = "of one prompt, without an interval" if one else "with 95 % bootstrap intervals over prompts"
    return Table(
        title="What the samples measure.",
        caption=f"Means {interval}. Motion: speed of the fastest twentieth of the pixels. Error of the warped frame "
        "and tracking there and back: lower is more consistent. Lengths are at a shorter side of 256 px. A clip "
        "without motion has no errors and a blurred one has few: read the errors beside motion and sharpness.",
        head=["measure", *samples.ways, *(f"{way} less {first}" for way in others)],
        rows=rows,
    )


def _prompts_left_out(samples: Samples, shown: Sequence[str]) -> list[Table]:
    """List the prompts whose videos are not shown."""
    rows = [[name, prompt] for name, prompt in samples.prompts.items() if name not in shown]
    if not rows:
        return []
    caption = "The means above are over these, too; report.max_videos says how many are shown."
    return [Table("Prompts without a video here", caption, ["sample", "prompt"], rows, folded=True, prose=True)]


def _intervals(measures: Mapping[str, Mapping[str, float | None]]) -> dict[str, Interval]:
    return {name: Interval(**found) for name, found in measures.items()}  # type: ignore[arg-type]


def _plain(name: str, value: float) -> str:
    return f"{_SCALES.get(name, 1.0) * value:.{_MEASURES[name][1]}f}"


def _signed(name: str, value: float) -> str:
    """With its sign; zero has none."""
    text = _plain(name, abs(value))
    sign = "" if not float(text) else "-" if value < 0 else "+"
    return f"{sign}{text}"


def _with_interval(name: str, found: Interval, show: Callable[[str, float], str] = _plain) -> str:
    """A mean and, where there is one, its interval."""
    if found.low is None or found.high is None:
        return show(name, found.mean)
    return f"{show(name, found.mean)} [{show(name, found.low)}, {show(name, found.high)}]"


def _difference(name: str, found: Interval) -> str:
    return _with_interval(name, found, _signed)
