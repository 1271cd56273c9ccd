"""The section on guidance: samples with and without it side by side, and their measures."""

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
from difftrack.reports._figure_cache import Drawings
from difftrack.reports._overlay import captioned, side_by_side, size_beside
from difftrack.reports._page import Gallery, GalleryClip, Headline, Section, Table
from difftrack.reports._params import OverlayParams
from difftrack.wording import counted, listed

__all__ = ["Samples", "guidance_headlines", "guidance_section", "read_samples"]

_FILE = "measures.json"
_LED_BY = "cycle_error_px"
"""The measure of the headline: guidance should improve consistency."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """How one measure is formatted."""

    name: str
    unit: str
    decimals: int
    scale: float = 1.0

    @property
    def label(self) -> str:
        """Name and unit, for a table."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def plain(self, value: float) -> str:
        """Format a value without unit."""
        return f"{self.scale * value:.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """Format a difference without unit; zero has no sign."""
        text = self.plain(abs(value))
        sign = "" if not float(text) else "-" if value < 0 else "+"
        return f"{sign}{text}"

    def mean(self, found: Interval) -> str:
        """Format a mean and its interval, if there is one."""
        return _with_interval(found, self.plain)

    def difference(self, found: Interval) -> str:
        """Format a mean difference and its interval, if there is one."""
        return _with_interval(found, self.signed)


_MEASURES = {
    "motion_px": _Measure("motion", "px per frame", 2),
    "dynamic_degree": _Measure("share of dynamic clips", "", 2),
    "warped_error": _Measure("error of the warped frame", "thousandths", 3, scale=1000.0),
    "cycle_error_px": _Measure("tracking error there and back", "px", 2),
    "sharpness": _Measure("sharpness", "", 0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Results of sampling the same prompts in several variants; the first one is the reference."""

    ways: Mapping[str, Mapping[str, Any] | None]
    """Variant -> its guidance; None for plain sampling."""
    means: Mapping[str, Mapping[str, Interval]]
    """Variant -> measure -> mean over prompts."""
    differences: Mapping[str, Mapping[str, Interval]]
    """Each variant but the first -> measure -> mean over prompts of its difference from the first, with equal seeds."""
    prompts: Mapping[str, str]
    """Folder of a prompt's samples -> the prompt."""
    read: Callable[[str, str], Clip]
    """(folder, variant) -> the sample."""


def read_samples(folder: Path) -> Samples | None:
    """Open the results of the guide stage; None if it has not run.

    Raises:
        ValueError: the measures exist but cannot be used.
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
    """Summarise the effect of guidance in one number; None without a comparison."""
    if samples is None:
        return []
    first, *others = samples.ways
    for way in others:
        if (led := samples.differences[way].get(_LED_BY)) is not None:
            return [_headline(samples, first, way, led)]
    return []


def _headline(samples: Samples, first: str, way: str, led: Interval) -> Headline:
    measure, motion = _MEASURES[_LED_BY], samples.differences[way].get("motion_px")
    before, after = (measure.mean(samples.means[name][_LED_BY]) for name in (first, way))
    interval = "" if led.low is None else f" Difference: {measure.difference(led)}."
    moved = "" if motion is None else f" Motion changes by {_MEASURES['motion_px'].difference(motion)} px per frame."
    return Headline(
        f"{measure.signed(led.mean)} {measure.unit}",
        f"{measure.name}, by guidance",
        f"{before} px {first}, {after} px {way}, mean over {counted(len(samples.prompts), 'prompt')}; lower is more "
        f"consistent.{interval}{moved}{_one_prompt(samples)}",
    )


def guidance_section(samples: Samples | None, *, drawings: Drawings, params: OverlayParams, max_videos: int) -> Section:
    """Show the samples of every prompt side by side, with a table of their measures.

    Args:
        samples: Samples; None if the guide stage has not run, which the section then says.
        drawings: Receives the videos.
        params: How videos are drawn.
        max_videos: Maximum number of prompts that are shown.
    """
    if samples is None or not samples.prompts:
        lead = "There are no samples with and without guidance here; the guide stage makes them (dvc repro guide)."
        return Section(anchor="guidance", short="Guidance", title="Guidance", lead=lead, blocks=[])
    names = list(samples.prompts)[:max_videos]
    gallery = Gallery(
        title="The same prompt and seed, sampled in each variant.",
        caption="Guidance steers sampling away from a prediction in which the chosen layers do not attend to other "
        "frames.",
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
    return GalleryClip(name, detail, video, f"{width} / {height}", list(clips), first.fps)


def _write_ways(ways: Mapping[str, UInt8[np.ndarray, "frame row col rgb"]], scale: int, fps: float, path: Path) -> None:
    panels = [captioned(_enlarged(own, scale), way) for way, own in ways.items()]
    write_video(path, side_by_side(panels), fps, lossless=False)


def _enlarged(frames: UInt8[np.ndarray, "frame row col rgb"], scale: int) -> UInt8[np.ndarray, "frame _ _ rgb"]:
    return np.stack([cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for frame in frames])


def _lead(samples: Samples) -> str:
    num_prompts, first = counted(len(samples.prompts), "prompt"), next(iter(samples.ways))
    ways = listed([f"{way} ({_how(guidance)})" for way, guidance in samples.ways.items()])
    changes = "".join(_changes(way, first, own) for way, own in samples.differences.items())
    return f"{num_prompts} sampled from one seed: {ways}.{changes}{_one_prompt(samples)}"


def _one_prompt(samples: Samples) -> str:
    """Warn if a mean is over a single prompt."""
    return " A single prompt gives no interval and says little about others." if len(samples.prompts) == 1 else ""


def _how(guidance: Mapping[str, Any] | None) -> str:
    if guidance is None:
        return "no guidance"
    layers = [str(layer) for layer in sorted(guidance["layers"])]
    return f"guided by {'layer' if len(layers) == 1 else 'layers'} {listed(layers)} at scale {guidance['scale']:g}"


def _changes(way: str, first: str, differences: Mapping[str, Interval]) -> str:
    """Describe a variant's changes in related measures: less motion alone makes a video more consistent."""
    parts = [
        f"{_MEASURES[name].name} by {_MEASURES[name].difference(differences[name])} {_MEASURES[name].unit}".rstrip()
        for name in (_LED_BY, "motion_px", "sharpness")
        if name in differences
    ]
    return f" Against {first}, {way} sampling changes {listed(parts)}." if parts else ""


def _measures_table(samples: Samples) -> Table:
    first, *others = samples.ways
    rows = [
        [
            measure.label,
            *(measure.mean(samples.means[way][name]) for way in samples.ways),
            *(measure.difference(samples.differences[way][name]) for way in others),
        ]
        for name, measure in _MEASURES.items()
        if name in samples.means[first]
    ]
    one = len(samples.prompts) == 1
    interval = "of one prompt, without an interval" if one else "with 95 % bootstrap intervals over prompts"
    return Table(
        title="Measures of the samples.",
        caption=f"Means {interval}. Motion: speed of the fastest twentieth of the pixels. Error of the warped frame "
        "and tracking there and back: lower is more consistent. Lengths are at a shorter side of 256 px. A clip "
        "without motion has no errors and a blurred one has few: compare the errors with motion and sharpness.",
        head=["measure", *samples.ways, *(f"{way} minus {first}" for way in others)],
        rows=rows,
    )


def _prompts_left_out(samples: Samples, shown: Sequence[str]) -> list[Table]:
    """List the prompts whose videos are not shown."""
    rows = [[name, prompt] for name, prompt in samples.prompts.items() if name not in shown]
    if not rows:
        return []
    caption = "The means above include these; report.max_videos sets how many are shown."
    return [Table("Prompts without a video here", caption, ["sample", "prompt"], rows, folded=True, prose=True)]


def _intervals(measures: Mapping[str, Mapping[str, float | None]]) -> dict[str, Interval]:
    return {name: Interval(**found) for name, found in measures.items()}  # type: ignore[arg-type]


def _with_interval(found: Interval, show: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return show(found.mean)
    return f"{show(found.mean)} [{show(found.low)}, {show(found.high)}]"
