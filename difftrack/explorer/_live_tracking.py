"""Live tracks: matches are cached, so that options that only decide about matches act instantly."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from difftrack.correspondence import matching_device
from difftrack.datasets import DatasetError, Tracks, check_query_points
from difftrack.explorer._cache import BoundedCache
from difftrack.explorer._catalog import Catalog
from difftrack.explorer._errors import ExplorerError
from difftrack.explorer._questions import TrackQuestion
from difftrack.geometry import rescale_points
from difftrack.metrics import track_scores
from difftrack.params import parse
from difftrack.scenes import Scenes, find_scenes
from difftrack.tracking import (
    FrameMatches,
    PredictedTracks,
    TrackParams,
    VisibilityParams,
    decide_tracks,
    match_clip,
    select_sources,
    stored_chunks,
)

__all__ = ["LiveTracker"]

MATCH_BYTES = 48_000_000
"""Cache size of matches."""

MOST_EVALUATED = 400
"""Number of query points from known tracks that are tracked for the scores."""


class LiveTracker:
    """Tracks points as `dt.track` does, and scores the tracks if the truth is known."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._matches: BoundedCache[FrameMatches] = BoundedCache(MATCH_BYTES, _weigh)
        self._scenes: BoundedCache[Scenes] = BoundedCache(1_000_000, lambda scenes: 64 + int(scenes.blank.nbytes))

    def track(self, question: TrackQuestion) -> dict[str, Any]:
        """Track the points of a question.

        Returns:
            `tracks`: for each point `xy`, `visible` and `confidence` per frame; `cuts`: first frames after cuts.

        Raises:
            ExplorerError: the store holds no tracking view of the clip.
            ParamsError: an option is unknown or has a wrong value.
        """
        if not question.points:
            raise ExplorerError("there is no point to track")
        tracks, scenes = self._tracked(question, np.asarray(question.points, np.float32))
        return {
            "tracks": [
                {
                    "xy": tracks.points_xy_px[:, at].tolist(),
                    "visible": tracks.visible[:, at].tolist(),
                    "confidence": tracks.confidence[:, at].tolist(),
                }
                for at in range(len(question.points))
            ],
            "cuts": list(scenes.cuts),
        }

    def score(self, question: TrackQuestion) -> dict[str, Any]:
        """Track the query points of the clip's known tracks, and score the tracks as the track stage does.

        Returns:
            `scores`, null if no tracks are known: delta_avg, average_jaccard and occlusion_accuracy as fractions, the
            number of points, and the source of the truth.

        Raises:
            ExplorerError: as in `track`.
            ParamsError: as in `track`.
        """
        try:
            known = self._catalog.tracks(question.clip)
        except DatasetError as error:
            return {"scores": None, "reason": str(error)}
        if known is None:
            return {"scores": None, "reason": "no tracks of this clip are known"}
        entry = self._catalog.store(question.store)
        num_frames = 1 + max(max(entry.store.spec(group).frames) for group, _ in entry.groups(question.clip))
        truth = _thinned(known, num_frames)
        tracks, _ = self._tracked(question, truth.query_points)
        scores = track_scores(tracks, truth)
        return {
            "scores": {
                "delta_avg": scores["average_pts_within_thresh"],
                "average_jaccard": scores["average_jaccard"],
                "occlusion_accuracy": scores["occlusion_accuracy"],
                "num_points": truth.num_points,
                "truth": str(truth.truth),
            }
        }

    def _tracked(
        self, question: TrackQuestion, query_points: Float[np.ndarray, "point txy"]
    ) -> tuple[PredictedTracks, Scenes]:
        entry, clip = self._catalog.store(question.store), question.clip
        if entry.groups(clip)[0][1] is None:
            raise ExplorerError(f"{entry.name} is an analysis view; tracking needs a store of view tracking")
        params = parse(TrackParams, _layers_as_numbers(question.options), "track", file="the request")
        chunks, spec = stored_chunks(entry.store, clip, kind=params.kind, device=matching_device(params.device))
        num_frames = 1 + max(max(chunk.frames) for chunk in chunks)
        height, width = spec.clip_size
        check_query_points(query_points, num_frames=num_frames, height=height, width=width)
        seen = np.column_stack(
            [query_points[:, 0], rescale_points(query_points[:, 1:], from_size=spec.clip_size, to_size=spec.size)]
        )
        best = self._catalog.best_layers(entry.backbone) if params.layers == "best" else None
        sources = select_sources(spec, params, best_layers=best)
        fingerprints = tuple(entry.store.fingerprint(group) for group, _ in entry.groups(clip))
        matches = self._matches.get(
            (fingerprints, query_points.tobytes(), tuple(sources), repr(_matched_by(params))),
            lambda: match_clip(chunks, seen, sources=sources, grid=spec.grid, params=params),
        )
        scenes = self._scenes_of(clip, num_frames, cuts=params.cuts == "end")
        tracks = decide_tracks(matches, seen, grid=spec.grid, params=params, scenes=scenes)
        return tracks.rescaled(from_size=spec.size, to_size=spec.clip_size), scenes

    def _scenes_of(self, clip: str, num_frames: int, *, cuts: bool) -> Scenes:
        """Find the scenes of a clip with known frames; any other clip counts as one scene."""
        try:
            frames = self._catalog.clip(clip).frames
        except ValueError:
            return Scenes((0,), np.zeros(num_frames, dtype=bool))
        return self._scenes.get((clip, num_frames, cuts), lambda: find_scenes(frames[:num_frames], cuts=cuts))


def _layers_as_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert layer keys, which are strings in JSON, to numbers."""
    return {
        name: {int(key) if str(key).isdecimal() else key: part for key, part in value.items()}
        if name in ("heads", "head_weights") and isinstance(value, Mapping)
        else value
        for name, value in options.items()
    }


def _thinned(tracks: Tracks, num_frames: int) -> Tracks:
    """Keep the points that are queried in the tracked frames, evenly subsampled if there are many."""
    keep = np.asarray(tracks.query_points[:, 0] < num_frames)
    if (count := int(keep.sum())) > MOST_EVALUATED:
        kept = np.flatnonzero(keep)[np.linspace(0, count - 1, MOST_EVALUATED).astype(int)]
        keep = np.zeros_like(keep)
        keep[kept] = True
    return tracks.select(keep)


def _matched_by(params: TrackParams) -> TrackParams:
    """Reset all params that only `decide_tracks` reads; params that are then equal share their matches."""
    return dataclasses.replace(
        params,
        visibility=VisibilityParams(),
        motion_cost=float(params.num_candidates > 1),
        motion_limit_token=1.0,
        smoothing_radius=0,
        smoothing_limit_token=1.0,
        cuts="ignore",
    )


def _weigh(matches: FrameMatches) -> int:
    return sum(part.nbytes for part in (getattr(matches, each.name) for each in dataclasses.fields(matches)))
