"""Tracks points through one video as a stream: runs the backbone, and keeps neither frames nor a store."""

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import Progress
from rich.progress import track as watched
from torch import Tensor

from difftrack.backbones import Backbone
from difftrack.chunks import chunk_schedule
from difftrack.correspondence import MatchKind, descriptors_of, matching_device
from difftrack.extraction import ClipExtraction, EncodedClip, Extractor, TrackingParams, encode_frames
from difftrack.geometry import rescale_points
from difftrack.scenes import SceneFinder, Scenes
from difftrack.tracking import ChunkDescriptors, PredictedTracks, TrackParams, select_sources, track_clip

__all__ = ["TrackingEstimate", "VideoTracker"]

_COPIES = 3
"""Copies of every candidate in memory while tracks are decided: the matches, the paths' candidates, and their costs."""


@dataclass(frozen=True, slots=True)
class TrackingEstimate:
    """Estimated cost of tracking a video."""

    num_frames: int
    num_chunks: int
    """Number of backbone runs."""
    num_bytes: int
    """Memory in bytes that depends on the video, without the backbone's weights."""

    def __str__(self) -> str:
        return f"{self.num_frames} frames in {self.num_chunks} chunks, about {self.num_bytes / 1e9:.1f} GB"


class VideoTracker:
    """Tracks points through videos with one backbone.

    Args:
        backbone: Backbone to run.
        view: Size and chunks of frames.
        params: How to match, fuse, smooth and predict visibility; determines the captured layers.
        best_layers: Layers by their scores, best first; needed for `layers: best`.

    Raises:
        ValueError: the backbone cannot run with this view, or the device does not exist.
    """

    def __init__(
        self,
        backbone: Backbone,
        view: TrackingParams,
        params: TrackParams,
        *,
        best_layers: Sequence[int] | None = None,
    ) -> None:
        self._backbone, self._view, self._params, self._best_layers = backbone, view, params, best_layers
        self._extractor = Extractor(backbone, view)
        self._device = matching_device(params.device)

    def estimate(self, num_frames: int, num_points: int) -> TrackingEstimate:
        """Estimate the cost for this number of frames and points; loads only the backbone's configs.

        Args:
            num_frames: Number of frames in the video's header.
            num_points: Number of query points.
        """
        backbone, view = self._backbone, self._view
        chunks = self._chunks(num_frames)
        used = 1 + max(max(chunk) for chunk in chunks)
        rows, cols = view.height // backbone.spatial_stride, view.width // backbone.spatial_stride
        latents = used * backbone.latents_per_token_frame * backbone.num_latent_channels * rows * cols * 4
        candidates = used * num_points * self._params.num_candidates * 3 * 4
        grid = backbone.token_grid(len(chunks[0]), view.height, view.width, frames_alone=True)
        num_layers = backbone.num_layers if isinstance(self._params.layers, str) else len(self._params.layers)
        descriptors = grid.num_tokens * backbone.num_heads * backbone.num_channels * 4 * 2 * num_layers
        return TrackingEstimate(used, len(chunks), latents + _COPIES * candidates + 2 * descriptors)

    def encode(
        self,
        name: str,
        frames: Iterable[UInt8[np.ndarray, "row col rgb"]],
        *,
        expected: int | None = None,
        progress: bool = False,
    ) -> tuple[EncodedClip, Scenes]:
        """Read every frame of a video once, and keep its latents and the starts of scenes.

        Args:
            name: Name of the video; seeds the noise, if the view adds any.
            frames: Frames one by one.
            expected: Number of frames, for the progress bar.
            progress: Show a progress bar.

        Raises:
            ValueError: there are fewer than two frames.
        """
        finder = SceneFinder(cuts=self._params.cuts == "end")

        def looked_at() -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
            for frame in watched(frames, description="encode", total=expected, disable=not progress):
                finder.add(frame)
                yield frame

        images = range(0) if not self._backbone.needs_image else self._view.chunks.anchors
        encoded = encode_frames(self._extractor, name, looked_at(), keep=images, expected=expected)
        if encoded.num_frames < 2:
            raise ValueError(f"{name} has {encoded.num_frames} frame(s); tracking needs at least 2")
        return encoded, finder.scenes()

    def track(
        self,
        encoded: EncodedClip,
        query_points: Float[np.ndarray, "point txy"],
        *,
        scenes: Scenes | None = None,
        progress: bool = False,
    ) -> PredictedTracks:
        """Run the backbone over a video's chunks of frames, one after the other, and track through their descriptors.

        Args:
            encoded: Result of `encode`.
            query_points: (frame, x, y), pixels of the video.
            scenes: Scenes that limit tracks; None treats the video as one scene.
            progress: Show a progress bar.

        Returns:
            Tracks in the order of `query_points`, in pixels of the video.

        Raises:
            ValueError: a query point lies outside the video, or a requested layer, step or head is not captured.
        """
        extraction = self._extractor.prepare(encoded, chunks=self._chunks(encoded.num_frames))
        spec = next(iter(extraction.groups.values()))
        sources = select_sources(spec, self._params, best_layers=self._best_layers)
        clip_size = (encoded.height, encoded.width)
        seen = query_points.copy()
        seen[:, 1:] = rescale_points(query_points[:, 1:], from_size=clip_size, to_size=spec.size)
        with Progress(disable=not progress) as bar:
            task = bar.add_task("track", total=len(extraction.groups))
            runs = _Runs(extraction, self._params.kind, sources, self._device, lambda: bar.advance(task))
            chunks = [runs.chunk(group) for group in extraction.groups]
            tracks = track_clip(chunks, seen, sources=sources, grid=spec.grid, params=self._params, scenes=scenes)
        return tracks.rescaled(from_size=spec.size, to_size=clip_size)

    def _chunks(self, num_frames: int) -> list[tuple[int, ...]]:
        return chunk_schedule(num_frames, self._view.chunks, native_len=self._backbone.native_token_frames)


class _Runs:
    """Runs the backbone over a chunk when its descriptors are read, and holds only those of the last chunk."""

    def __init__(
        self,
        extraction: ClipExtraction,
        kind: MatchKind,
        sources: Sequence[tuple[int, int]],
        device: str,
        ran: Callable[[], None],
    ) -> None:
        self._extraction, self._sources, self._device, self._ran = extraction, sources, device, ran
        self._entries = descriptors_of(kind)
        self._group = ""
        self._units: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def chunk(self, group: str) -> ChunkDescriptors:
        """A chunk that runs when it is read."""
        spec = self._extraction.groups[group]
        return ChunkDescriptors(
            frames=spec.frames,
            read=lambda step, layer: self._read(group, step, layer),
            heads=spec.heads,
            rotary=spec.rotary,
        )

    def _read(self, group: str, step: int, layer: int) -> tuple[Tensor, Tensor]:
        if group != self._group:
            self._units, self._group = {}, ""
            plan = self._extraction.plan(group).only(self._sources)
            self._units = {(unit.step, unit.layer): self._pair(unit.arrays) for unit in self._extraction.units(plan)}
            self._group = group
            _return_free_memory()
            self._ran()
        return self._units[step, layer]

    def _pair(self, arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
        found = [self._tensor(arrays[entry]) for entry in dict.fromkeys(self._entries)]
        return found[0], found[-1]

    def _tensor(self, values: np.ndarray) -> Tensor:
        found = torch.from_numpy(values)
        return (found.view(torch.bfloat16) if found.dtype == torch.uint16 else found).to(self._device)


def _return_free_memory() -> None:
    """Return freed memory to the system after each chunk.

    glibc keeps it between blocks that are still used: over a video of hundreds of chunks, about two megabytes a chunk.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
