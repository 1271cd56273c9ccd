"""Annotate one clip: select the tracker and the query points, and return the tracks."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from difftrack.annotation._errors import AnnotationError
from difftrack.annotation._grids import grabcut_mask, mask_from_file, query_grid
from difftrack.annotation._lucas_kanade import LucasKanade
from difftrack.annotation._params import AnnotateParams
from difftrack.annotation._published import import_published, published_prompts
from difftrack.annotation._trackers import Tracker, make_tracker
from difftrack.datasets import EXACT, Clip, TrackedVideo, Tracks
from difftrack.geometry import rescale_points
from difftrack.wording import counted

__all__ = ["annotate_clip"]


def annotate_clip(clip: Clip, params: AnnotateParams, *, given: Tracks | None = None, number: int = 0) -> Tracks:
    """Compute the tracks of one clip.

    The query points come from the annotation supplied with the clip. Without one, they form a grid in frame 0: the
    object grid if a mask is known, else the scene grid. Points that are never visible are kept;
    `score.scoring.unseen_points` decides whether they count.

    Args:
        clip: The clip.
        params: The tracker and the grid.
        given: The annotation supplied with the clip.
        number: The clip's index among all clips, sorted by name. `import` uses it to find the files, except for a
            generated clip, where the number of its prompt is used.

    Raises:
        AnnotationError: the tracker cannot process this clip, or no point is visible.
        MediaError: a mask cannot be read.
    """
    tracker = _choose(clip, params, given)
    if tracker == "given" and given is not None:
        tracks = given
    elif tracker == "import":
        tracks = _imported(clip, params, number)
    else:
        query_points = given.query_points if given is not None else _grid(clip, params)
        tracks = _track(tracker, clip, query_points, params)
    if not tracks.visible.any():
        raise AnnotationError(
            f"{tracks.tracker} finds none of {counted(tracks.num_points, 'point')} visible in any frame; leave the "
            "clip out, or set annotate.tracker to another tracker"
        )
    return tracks


def _choose(clip: Clip, params: AnnotateParams, given: Tracks | None) -> str:
    rendered = "render" in clip.details
    if params.tracker == "exact" and not rendered:
        raise AnnotationError(
            f"exact tracks exist only for rendered clips, and this clip is {clip.source}; set annotate.tracker to auto"
        )
    if params.tracker != "auto":
        return params.tracker
    if rendered:
        return "exact"
    return "given" if given is not None else params.fallback


def _track(tracker: str, clip: Clip, query_points: Float32[np.ndarray, "point txy"], params: AnnotateParams) -> Tracks:
    if tracker != EXACT:
        return _registered(tracker, params).track(clip.frames, query_points)
    from difftrack.rendering import RenderSpec, exact_tracks  # imports torch, which other trackers do not need

    points, visible = exact_tracks(RenderSpec.from_json(clip.details["render"]), query_points)
    return Tracks(
        points_xy_px=points,
        visible=visible,
        query_points=query_points,
        height=clip.height,
        width=clip.width,
        tracker=EXACT,
    )


def _registered(name: str, params: AnnotateParams) -> Tracker:
    if name == "lucas_kanade":
        return LucasKanade(**asdict(params.lucas_kanade))
    if name == "cotracker3":
        from difftrack.annotation._cotracker import CoTracker3  # imports torch, which other trackers do not need

        return CoTracker3(**asdict(params.cotracker3))
    return make_tracker(name, params.trackers.get(name), section="annotate.trackers")


def _grid(clip: Clip, params: AnnotateParams) -> Float32[np.ndarray, "point txy"]:
    mask = _mask(clip, params)
    num = params.scene_grid if mask is None else params.object_grid
    return query_grid(clip.height, clip.width, num, mask)


def _mask(clip: Clip, params: AnnotateParams) -> Bool[np.ndarray, "row col"] | None:
    if clip.object_mask is not None:
        return clip.object_mask
    if params.object_mask == "grabcut":
        return grabcut_mask(clip.frames[0])
    if params.object_mask == "file" and params.object_masks is not None:
        path = params.object_masks / f"{clip.name}.png"
        return mask_from_file(path, height=clip.height, width=clip.width) if path.exists() else None
    return None


def _imported(clip: Clip, params: AnnotateParams, number: int) -> Tracks:
    folder = params.published or Path()
    own = (folder / "tracks" / f"{clip.name}.npy").exists()
    number = clip.details.get("sampling", {}).get("number", number)  # clips may be generated for a part of the prompts
    prompts = published_prompts(folder)
    if not own and clip.prompt and number < len(prompts) and prompts[number].split() != clip.prompt.split():
        raise AnnotationError(
            f"line {number} of {folder / 'prompt.txt'} is not this clip's prompt; are the lines in another order?"
        )
    height, width = params.published_size
    name, tracker = clip.name if own else f"{number:03d}", params.published_tracker
    tracks = import_published(folder, name, height=height, width=width, tracker=tracker)
    from_size, to_size = (height, width), (clip.height, clip.width)
    points = rescale_points(tracks.points_xy_px, from_size=from_size, to_size=to_size)
    queries = rescale_points(tracks.query_points[:, 1:], from_size=from_size, to_size=to_size)
    scaled = Tracks(
        points_xy_px=points,
        visible=tracks.visible,
        query_points=np.concatenate([tracks.query_points[:, :1], queries], axis=1),
        height=clip.height,
        width=clip.width,
        tracker=tracks.tracker,
    )
    TrackedVideo(clip, scaled)
    return scaled
