"""Selection and settings of the trackers that produce (pseudo) ground truth."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["AnnotateParams", "CoTracker3Params", "LucasKanadeParams", "TrackerSettings"]

TrackerSettings = Mapping[str, Mapping[str, Any]]
"""Name of a tracker -> its settings, as in params.yaml."""

_SPECIAL = ("auto", "exact", "import")
"""Values of `annotate.tracker` besides registered trackers."""
_OWN_SECTIONS = ("lucas_kanade", "cotracker3")
_LIGHT = frozenset({*_SPECIAL, "lucas_kanade", "cotracker3", "no_motion", "raft", "dino"})
"""Names that are accepted without importing the registry, whose modules import array libraries."""


_PINNED = re.compile(r"[\w.-]+/[\w.-]+:[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class LucasKanadeParams:
    """Settings of the Lucas-Kanade tracker.

    Raises:
        ValueError: a number is out of range.
    """

    window_px: int = 15
    """Side of the compared patch, in pixels of each pyramid level."""
    levels: int = 3
    """Number of times that the image is halved, for large motion."""
    iterations: int = 30
    """Maximum number of solver steps per level."""
    epsilon_px: float = 0.01
    """The solver stops when a step is shorter than this."""
    min_eigenvalue: float = 1e-4
    """Patches with less texture than this are not tracked."""
    max_round_trip_px: float = 1.0
    """Maximum forward-backward error in pixels for a point to stay visible."""

    def __post_init__(self) -> None:
        for name in ("window_px", "iterations"):
            if getattr(self, name) < 3:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 3")
        for name in ("levels", "min_eigenvalue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("epsilon_px", "max_round_trip_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True, slots=True)
class CoTracker3Params:
    """CoTracker3's model and the windows in which clips are processed.

    Raises:
        ValueError: a number is out of range, or the repository is not pinned to a commit.
    """

    repository: str = "facebookresearch/co-tracker:82e02e8029753ad4ef13cf06be7f4fc5facdda4d"
    """GitHub owner/name:commit. torch.hub downloads and runs this code, and the code downloads its weights, which are
    read as tensors only. A branch or tag is refused, because it may point to different code later."""
    checkout: Path | None = None
    """A local copy of the repository, used instead of `repository`."""
    checkpoint: Path | None = None
    """A local file of weights (.pth read without code, or .safetensors) that replaces the download."""
    device: str = "auto"
    """Torch device; `auto` uses CUDA if available."""
    window_frames: int = 80
    """Maximum number of frames processed together; longer clips are processed in windows."""
    overlap_frames: int = 16
    """Frames shared by neighbouring windows; a point that is invisible in all of them is lost."""

    def __post_init__(self) -> None:
        if not _PINNED.fullmatch(self.repository):
            raise ValueError(
                f"repository is {self.repository!r}; it must be owner/name:commit with all 40 digits of the commit, "
                "because its code is run; for a branch, set `checkout` to a local copy"
            )
        if not 1 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames is {self.overlap_frames}, window_frames {self.window_frames}; expected "
                "1 <= overlap_frames < window_frames"
            )


@dataclass(frozen=True, slots=True)
class AnnotateParams:
    """Which tracker produces the (pseudo) ground truth, and from which query points.

    Raises:
        ValueError: a number is out of range, or a required folder is not set.
    """

    tracker: str = "auto"
    """`auto` (exact tracks for rendered clips, otherwise the clip's own annotation, otherwise `fallback`), `exact`,
    `import`, or a registered tracker: lucas_kanade, cotracker3, raft, dino, no_motion, or a tracker from another
    package."""
    fallback: str = "lucas_kanade"
    """The registered tracker that `auto` uses for clips without known truth."""
    object_grid: int = 20
    """Query points along each side for clips with an object mask; only points on the object are kept."""
    scene_grid: int = 10
    """Query points along each side for clips without an object mask."""
    object_mask: Literal["none", "file", "grabcut"] = "none"
    """Object mask of clips without their own: `none` uses the scene grid; `file` reads object_masks/<clip>.png and uses
    the scene grid if the file is missing; `grabcut` segments the object in the middle of frame 0."""
    object_masks: Path | None = None
    """Folder of masks for `file`: the size of the clip, white on black."""
    published: Path | None = None
    """Folder for `import`, with tracks/, visibility/ and prompt.txt; files are named by clip or by number."""
    published_size: tuple[int, int] = (480, 720)
    """(height, width) in pixels of the videos on which the imported tracks were computed."""
    published_tracker: str = "cotracker3"
    """The tracker that produced the imported tracks, which are its pseudo-truth; or `exact` or `annotated`."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    cotracker3: CoTracker3Params = field(default_factory=CoTracker3Params)
    trackers: TrackerSettings = field(default_factory=dict)
    """Settings of the other trackers, by name, such as `dino: {path: weights/dinov2-small}` (docs/extending.md)."""

    def __post_init__(self) -> None:
        for name in ("object_grid", "scene_grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.published_tracker:
            raise ValueError("published_tracker is empty; set it to a tracker's name, exact, or annotated")
        _check_registered(self)
        if self.tracker == "import" and self.published is None:
            raise ValueError("tracker is 'import', but published is null; set published to the folder to import from")
        if self.object_mask == "file" and self.object_masks is None:
            raise ValueError("object_mask is 'file', but object_masks is null; set object_masks to the folder of masks")


def _check_registered(params: AnnotateParams) -> None:
    """Check that trackers are registered; the registry is imported only for names outside `_LIGHT`."""
    if {params.tracker, params.fallback} - _LIGHT or params.fallback in _SPECIAL or params.trackers:
        from difftrack.annotation._trackers import check_trackers

        named = {} if params.tracker in _SPECIAL else {"tracker": params.tracker}
        check_trackers(
            named | {"fallback": params.fallback},
            params.trackers,
            section="annotate",
            own=_OWN_SECTIONS,
            also=_SPECIAL,
        )
