"""(Pseudo) ground truth for a clip."""

from typing import Any

from difftrack.annotation import AnnotateParams, annotate_clip
from difftrack.datasets import Clip, Tracks

__all__ = ["annotate"]


def annotate(clip: Clip, *, tracker: str = "lucas_kanade", **options: Any) -> Tracks:  # noqa: ANN401
    """Find tracks of a clip with a tracker, on a grid of points in frame 0.

    Args:
        clip: Result of `read_clip`.
        tracker: The name of any registered tracker, such as `lucas_kanade`, `cotracker3` (fetched by torch.hub),
            `raft`, or `exact` for rendered clips.
        options: Fields of `AnnotateParams`, such as `scene_grid=20`.

    Raises:
        AnnotationError: the tracker cannot annotate this clip.
        TrackerUnavailableError: the tracker's weights or code are missing.
    """
    return annotate_clip(clip, AnnotateParams(tracker=tracker, **options))
