"""Applies section `extract` of params.yaml to the clips on disk."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Num

from difftrack.artifacts import Manifest
from difftrack.backbones import ModelParams, Trajectory, Work, load_backbone, read_trajectory
from difftrack.chunks import chunk_schedule
from difftrack.datasets import Clip, ClipEntry, read_clip, read_clip_outline
from difftrack.extraction._clip_extraction import ClipExtraction
from difftrack.extraction._extract import Extractor
from difftrack.extraction._params import AnalysisParams, ExtractParams, TrackingParams, TrackingViewParams
from difftrack.params import ParamsError, parse
from difftrack.store import DescriptorSpec

__all__ = ["ClipReader"]

_MOST_EXPECTED = 2
"""Clips read ahead: the next clip, and the one announced after it."""


_WORK: Mapping[str, Work] = {"analysis": "encode", "tracking": "encode_frames"}


def _size_of(view: AnalysisParams | TrackingViewParams) -> tuple[int | None, int, int]:
    """Default (frames, height, width) of clips, those of the backbone's own clips."""
    return view.num_frames if isinstance(view, AnalysisParams) else None, view.height, view.width


class ClipReader:
    """Gives an extractor the clips of a folder, their trajectories and the chunk schedule."""

    def __init__(self, extractor: Extractor, folder: Path) -> None:
        self.extractor = extractor
        self.if_too_large = "make the size smaller"
        """Way out if memory runs out during a clip, for messages."""
        self._folder = folder
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._expected: dict[str, Future[tuple[Clip, Num[np.ndarray, "frame height width rgb"] | None]]] = {}

    @classmethod
    def open(cls, params: Mapping[str, Any], *, backbone: str, view: str, folder: Path) -> "ClipReader":
        """Build from a whole params.yaml; sets `extract.threads` for this process.

        Args:
            params: All sections.
            backbone: Name in `backbones`.
            view: Name of a view in `extract`.
            folder: Folder of the clips.

        Raises:
            ValueError: the params cannot be used, or the backbone cannot be found.
        """
        if backbone not in params["backbones"]:
            raise ParamsError(f"params.yaml: no backbones.{backbone}; there are {', '.join(params['backbones'])}")
        model = parse(ModelParams, params["backbones"][backbone] or {}, f"backbones.{backbone}")
        extract = parse(ExtractParams, params["extract"], "extract")
        if extract.threads is not None:
            torch.set_num_threads(extract.threads)
        chosen = extract.view(view)
        loaded = load_backbone(backbone, model, size=_size_of(chosen), works=[_WORK[view]])
        reader = cls(Extractor(loaded, chosen), folder)
        sizes = "num_frames, height or width" if view == "analysis" else "height or width"
        reader.if_too_large = f"set backbones.{backbone}.memory to auto, or make extract.{view}.{sizes} smaller"
        return reader

    def expect(self, name: str) -> None:
        """Read and resize a clip in another thread for `prepare`; at most two clips wait."""
        if name not in self._expected:
            self._expected[name] = self._reading.submit(self._read, name)
        while len(self._expected) > _MOST_EXPECTED:
            self._expected.pop(next(iter(self._expected))).cancel()

    def prepare(self, name: str) -> ClipExtraction:
        """Return a clip that is ready to run; see `Extractor.prepare`."""
        expected = self._expected.pop(name, None)
        clip, resized = (read_clip(self._folder, name), None) if expected is None else expected.result()
        return self.extractor.prepare(
            clip, chunks=self._chunks(clip.num_frames), trajectory=self._trajectory(clip), resized=resized
        )

    def outline(self, name: str) -> dict[str, DescriptorSpec]:
        """Describe a clip's groups from its clip.json; see `Extractor.outline`."""
        clip = read_clip_outline(self._folder, name)
        return self.extractor.outline(clip, chunks=self._chunks(clip.num_frames))

    def manifest(self, clips: Iterable[ClipEntry]) -> Manifest:
        """Return the groups to expect from clips with these numbers of frames, without clips that are too short."""
        groups, left_out = dict[str, tuple[str, ...]](), dict[str, str]()
        for clip in clips:
            try:
                groups[clip.name] = () if clip.num_frames is None else self._groups(clip.name, clip.num_frames)
            except ValueError as error:
                left_out[clip.name] = str(error)
        return Manifest(groups, left_out)

    def _groups(self, name: str, num_frames: int) -> tuple[str, ...]:
        return tuple(self.extractor.frames_of_groups(name, num_frames, self._chunks(num_frames)))

    def _read(self, name: str) -> tuple[Clip, Num[np.ndarray, "frame height width rgb"] | None]:
        """Return a clip and its frames as the backbone sees them; no frames if this backbone sampled it."""
        clip = read_clip(self._folder, name)
        if self.extractor.params.mode.of(clip) == "generate":
            return clip, None
        return clip, self.extractor.resize(clip, chunks=self._chunks(clip.num_frames))

    def _chunks(self, num_frames: int) -> list[tuple[int, ...]] | None:
        params = self.extractor.params
        if not isinstance(params, TrackingParams):
            return None
        native_len = self.extractor.backbone.native_token_frames
        return chunk_schedule(num_frames, params.chunks, native_len=native_len)

    def _trajectory(self, clip: Clip) -> Trajectory | None:
        file = self._folder / clip.name / "trajectory.safetensors"
        if self.extractor.params.mode.of(clip) != "generate" or not file.exists():
            return None
        return read_trajectory(file, fingerprint=self.extractor.backbone.fingerprint)
