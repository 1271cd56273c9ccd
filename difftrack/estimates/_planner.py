"""Compute the cost of each stage."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from difftrack.annotation import AnnotateParams
from difftrack.backbones import Backbone, ModelParams
from difftrack.chunks import chunk_schedule
from difftrack.estimates._clips import Clips, expected_clips
from difftrack.estimates._costs import Card, StageCost
from difftrack.estimates._model import Model
from difftrack.extraction import AnalysisParams, ExtractParams, TrackingParams
from difftrack.geometry import TokenGrid
from difftrack.guidance import GuideParams
from difftrack.params import parse
from difftrack.prompts import read_prompts
from difftrack.survey import SurveySection
from difftrack.synthesis import SynthesizeSection
from difftrack.wording import counted

__all__ = ["Planner"]

_FLOAT_BYTES = 4
_POINTS = 400
"""Number of points of a clip with imported tracks: the published object grid."""
_LIGHT_CLIP_S = 1.6
"""Seconds per clip for tracking or drawing: descriptors are read and matched (README), or videos written."""
_LOSSLESS_BYTES_PER_PX = 1.8
"""Bytes per pixel of real clips as lossless video."""
_VIDEO_BYTES_PER_PX = 0.1
"""Bytes per pixel of samples as lossy video."""


class Planner:
    """Computes the costs of stages."""

    def __init__(self, params: Mapping[str, Any], root: Path, card: Card, uncached: set[str]) -> None:
        self._params, self._root, self._card, self._uncached = params, root, card, uncached
        self._models: dict[str, Model] = {}

    def costs(self, stage: str) -> Iterator[StageCost]:
        """Yield the costs of a stage, one for each backbone."""
        name, _, view = stage.partition(":")
        backbones = self._params["survey"]["backbones"] if name == "survey" else self._params["backbones"]
        if name == "synthesize":
            yield self._synthesize()
        elif name == "guide":
            yield self._guide()
        elif name == "survey":
            yield from (self._survey(backbone) for backbone in backbones)
        elif name == "extract":
            yield from (self._extract(backbone, view) for backbone in backbones)
        elif name == "track_live":
            yield from (self._track_live(backbone) for backbone in backbones)
        else:
            yield self._light(name)

    def _model(self, name: str) -> Model:
        if name not in self._models:
            given = parse(ModelParams, self._params["backbones"].get(name) or {}, f"backbones.{name}")
            self._models[name] = Model.of(name, given)
        return self._models[name]

    def _cached(self, kind: str, num_bytes: float) -> float:
        return 0.0 if kind in self._uncached else num_bytes

    @cached_property
    def _clips(self) -> list[Clips]:
        return expected_clips(self._params, self._root)

    def _synthesize(self) -> StageCost:
        section, card = parse(SynthesizeSection, self._params["synthesize"], "synthesize"), self._card
        clips = self._clips
        px = sum(own.px for own in clips)
        seconds, forwards, stored = card.light_stage_s + px / card.written_px_per_s, 0.0, _LOSSLESS_BYTES_PER_PX * px
        work = counted(sum(own.count for own in clips), "clip")
        sampled = section.generated
        own = next((own for own in clips if own.source == "generated"), None)
        if sampled is not None and own is not None:
            count = sum(each.count for each in clips if each.source == "generated")
            model = self._model(sampled.backbone)
            grid = model.backbone.token_grid(sampled.num_frames, sampled.height, sampled.width)
            branches = model.num_branches(sampled.cfg_scale)
            forwards = float(count * sampled.num_inference_steps * branches)
            seconds += model.start_s(card) + forwards * model.forward_s(grid, card)
            seconds += count * own.px / own.count / card.decoded_px_per_s
            stored += count * sampled.num_inference_steps * self._latent_bytes(model.backbone, grid)
            branch_text = "two branches" if branches == 2 else "one branch"
            work += f", {count} of them generated: {sampled.num_inference_steps} steps of {branch_text}"
        return StageCost("synthesize", work, seconds, forwards, stored, self._cached("clips", stored))

    def _latent_bytes(self, backbone: Backbone, grid: TokenGrid) -> float:
        """Size of a clip's latents at one step."""
        side = backbone.patch_size
        latents = grid.num_latent_frames * backbone.latents_per_token_frame * grid.rows * grid.cols * side * side
        itemsize = backbone.params.torch_dtype().itemsize if backbone.samples_in_own_dtype else _FLOAT_BYTES
        return float(latents * backbone.num_latent_channels * itemsize)

    def _survey(self, name: str) -> StageCost:
        card, model = self._card, self._model(name)
        survey = parse(SurveySection, self._params["survey"], "survey")
        view = parse(ExtractParams, self._params["extract"], "extract").analysis
        clips = [own for own in self._clips if own.num_frames >= view.num_frames]
        count = sum(own.count for own in clips)
        grid = model.backbone.token_grid(view.num_frames, view.height, view.width)
        steps = view.num_inference_steps if survey.steps == "all" else len(survey.steps)
        layers = model.backbone.num_layers if survey.layers == "all" else len(survey.layers)
        last = model.backbone.num_layers if survey.layers == "all" else max(survey.layers) + 1
        forwards = count * steps * last / model.backbone.num_layers
        units = count * steps * layers
        seconds = model.start_s(card) + forwards * model.forward_s(grid, card) + units * card.matching_s
        seconds += self._encode_s([own for own in clips if own.source != "generated"], view)
        per_latent, per_point = (4 * len(survey.kinds) + 2, 2) if "query_key" in survey.kinds else (4, 0)
        per_unit = self._num_points() * (per_latent * grid.num_latent_frames + per_point) * _FLOAT_BYTES
        work = f"{counted(count, 'clip')}: {counted(steps, 'step')} x {counted(layers, 'layer')} of {name}"
        stored = float(units * per_unit)
        return StageCost("survey", work, seconds, forwards, stored, self._cached("survey", stored))

    def _num_points(self) -> int:
        annotate = parse(AnnotateParams, self._params["annotate"], "annotate")
        return _POINTS if annotate.tracker == "import" else max(annotate.scene_grid, annotate.object_grid) ** 2

    def _encode_s(self, clips: Sequence[Clips], view: AnalysisParams | TrackingParams) -> float:
        """Seconds for reading and encoding clips at the size of a view."""
        used = getattr(view, "num_frames", math.inf)
        px = sum(own.count * min(own.num_frames, used) for own in clips) * view.height * view.width
        return px / self._card.encoded_px_per_s

    def _extract(self, name: str, view_name: str) -> StageCost:
        card, model = self._card, self._model(name)
        view = parse(ExtractParams, self._params["extract"], "extract").view(view_name)
        backbone, clips = model.backbone, self._clips
        if isinstance(view, AnalysisParams):
            clips = [own for own in clips if own.num_frames >= view.num_frames]
            groups = {view.num_frames: sum(own.count for own in clips)}
            encoded = [own for own in clips if getattr(view.mode, own.source) != "generate"]
        else:
            groups, encoded = {}, clips
            for own in clips:
                for chunk in self._chunks(own, view, backbone):
                    groups[chunk] = groups.get(chunk, 0) + own.count
        steps = 1 if self._clean(view) else len(range(view.num_inference_steps) if view.steps == "all" else view.steps)
        layers = range(backbone.num_layers) if view.layers == "all" else view.layers
        share = (max(layers, default=0) + 1) / backbone.num_layers
        forwards = sum(groups.values()) * steps * share
        seconds = model.start_s(card) + self._encode_s(encoded, view)
        for num_frames, count in groups.items():
            grid = backbone.token_grid(
                num_frames, view.height, view.width, frames_alone=not isinstance(view, AnalysisParams)
            )
            seconds += count * steps * share * model.forward_s(grid, card)
        num_groups = sum(groups.values())
        work = f"{counted(num_groups, 'forward' if steps == 1 else 'group')} of {name}, {view_name}"
        return StageCost("extract", work, seconds, forwards)

    def _track_live(self, name: str) -> StageCost:
        """Cost of `extract` in the tracking view followed by `track`, in one process and without a store."""
        run, read = self._extract(name, "tracking"), self._light("track")
        return replace(run, stage="track_live", seconds=run.seconds + read.seconds - self._card.light_stage_s)

    def _clean(self, view: AnalysisParams | TrackingParams) -> bool:
        return all(getattr(view.mode, source) == "clean" for source in ("rendered", "generated", "folder"))

    def _chunks(self, own: Clips, view: TrackingParams, backbone: Backbone) -> list[int]:
        """Return the lengths of a clip's chunks; empty if a rule leaves the clip out."""
        try:
            chunks = chunk_schedule(own.num_frames, view.chunks, native_len=backbone.native_token_frames)
        except ValueError:
            return []
        return [len(chunk) for chunk in chunks]

    def _guide(self) -> StageCost:
        card = self._card
        section = parse(GuideParams, self._params["guide"], "guide")
        model = self._model(section.backbone)
        grid = model.backbone.token_grid(section.num_frames, section.height, section.width)
        count = len(read_prompts(self._root / section.prompts))
        plain = model.num_branches(section.cfg_scale)
        num_layers = section.num_best_layers if section.layers == "best" else len(section.layers)
        first = 0.5 if section.layers == "best" else min(section.layers) / model.backbone.num_layers
        guided = plain + (1 - first)  # the third branch shares the layers before its first perturbed layer
        passes = guided + (plain if section.compare else 0)
        forwards = count * section.num_inference_steps * passes
        videos = count * (2 if section.compare else 1)
        px = videos * section.num_frames * section.height * section.width
        seconds = model.start_s(card) + forwards * model.forward_s(grid, card)
        seconds += px / card.decoded_px_per_s + px / card.written_px_per_s
        ways = "with and without guidance" if section.compare else "with guidance"
        work = f"{counted(count, 'prompt')} {ways} in {counted(num_layers, 'layer')}"
        stored = _VIDEO_BYTES_PER_PX * px
        return StageCost("guide", work, seconds, forwards, stored, self._cached("samples", stored))

    def _light(self, name: str) -> StageCost:
        """Cost of a stage that loads no weights and reads clips, matches or descriptors."""
        card, clips = self._card, self._clips
        seconds = card.light_stage_s
        if name in ("annotate", "track", "report"):
            seconds += sum(own.px for own in clips) / card.read_px_per_s
        if name in ("track", "report"):
            seconds += sum(own.count for own in clips) * _LIGHT_CLIP_S
        return StageCost(name, counted(sum(own.count for own in clips), "clip"), seconds)
