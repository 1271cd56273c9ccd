"""Which tracker gives the (pseudo) ground truth, and how each is set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["AnnotateParams", "CoTracker3Params", "LucasKanadeParams", "TrackerSettings"]

TrackerSettings = Mapping[str, Mapping[str, Any]]
"""Tracker's name -> its settings, as params.yaml has them."""

_SPECIAL = ("auto", "exact", "import")
"""What `annotate.tracker` may be beside a registered tracker."""
_OWN_SECTIONS = ("lucas_kanade", "cotracker3")
_LIGHT = frozenset({*_SPECIAL, "lucas_kanade", "cotracker3", "no_motion", "raft", "dino"})
"""Names that are known without the registry, whose modules load arrays."""


_PINNED = re.compile(r"[\w.-]+/[\w.-]+:[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class LucasKanadeParams:
    """How points are followed from frame to frame.

    Raises:
        ValueError: a number is out of range.
    """

    window_px: int = 15
    """Side of the patch that is compared, in pixels of each pyramid level."""
    levels: int = 3
    """Times that the picture is halved for large motion."""
    iterations: int = 30
    """Most steps of the solver per level."""
    epsilon_px: float = 0.01
    """The solver stops at steps shorter than this."""
    min_eigenvalue: float = 1e-4
    """Patches with less texture than this are not followed."""
    max_round_trip_px: float = 1.0
    """A point is visible while tracking it there and back ends this close to where it began."""

    def __post_init__(self) -> None:
        for name in ("window_px", "iterations"):
            if getattr(self, name) < 3:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted: at least 3")
        for name in ("levels", "min_eigenvalue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("epsilon_px", "max_round_trip_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True, slots=True)
class CoTracker3Params:
    """Which CoTracker3, and how much of a clip it sees at once.

    Raises:
        ValueError: a number is out of range, or the repository is not pinned to a commit.
    """

    repository: str = "facebookresearch/co-tracker:82e02e8029753ad4ef13cf06be7f4fc5facdda4d"
    """GitHub owner/name:commit; torch.hub fetches this code and runs it, and the code fetches its weights, which are
    read as tensors only. A branch or tag is refused: it may name other code tomorrow."""
    checkout: Path | None = None
    """A local copy of the repository, used in place of `repository`."""
    checkpoint: Path | None = None
    """A local file of weights (.pth read without code, or .safetensors) in place of the download."""
    device: str = "auto"
    """A torch device; `auto` is CUDA where there is any."""
    window_frames: int = 80
    """Most frames at once; longer clips go through in windows."""
    overlap_frames: int = 16
    """Frames that neighbouring windows share; a point unseen in all of them is taken for lost."""

    def __post_init__(self) -> None:
        if not _PINNED.fullmatch(self.repository):
            raise ValueError(
                f"repository is {self.repository!r}; wanted: owner/name:commit with all 40 digits of the commit, as "
                "its code is run; a branch of yours works as a local `checkout`"
            )
        if not 1 <= self.overlap_frames < self.window_frames:
            raise ValueError(
                f"overlap_frames is {self.overlap_frames}, window_frames {self.window_frames}; wanted: "
                "1 <= overlap_frames < window_frames"
            )


@dataclass(frozen=True, slots=True)
class AnnotateParams:
    """Which tracker gives the (pseudo) ground truth, and where its points start.

    Raises:
        ValueError: a number is out of range, or a folder that the choice needs is not given.
    """

    tracker: str = "auto"
    """`auto`: exact for rendered clips, the annotation that came with a clip where one did, else `fallback`; `exact`;
    `import`; or a registered tracker: lucas_kanade, cotracker3, raft, dino, no_motion, or a package's own."""
    fallback: str = "lucas_kanade"
    """The registered tracker that `auto` takes for clips whose truth is not known."""
    object_grid: int = 20
    """Query points along each side for clips with an object mask, of which those on the object are kept."""
    scene_grid: int = 10
    """Query points along each side for clips without."""
    object_mask: Literal["none", "file", "grabcut"] = "none"
    """For clips that carry no mask of their own: `none` takes the scene grid; `file` reads object_masks/<clip>.png and
    takes the scene grid where there is none; `grabcut` cuts the object in the middle of frame 0 out."""
    object_masks: Path | None = None
    """Folder of masks for `file`: as large as the clip, white on black."""
    published: Path | None = None
    """Folder for `import`: tracks/, visibility/ and prompt.txt, under the clips' names or numbered as they are."""
    published_size: tuple[int, int] = (480, 720)
    """(height, width) in pixels of the videos that those tracks were made on."""
    published_tracker: str = "cotracker3"
    """The tracker that made those tracks, whose pseudo-truth they are; `exact` or `annotated` where they are that."""
    lucas_kanade: LucasKanadeParams = field(default_factory=LucasKanadeParams)
    cotracker3: CoTracker3Params = field(default_factory=CoTracker3Params)
    trackers: TrackerSettings = field(default_factory=dict)
    """Settings of the other trackers by name, such as `dino: {path: weights/dinov2-small}` (docs/extending.md)."""

    def __post_init__(self) -> None:
        for name in ("object_grid", "scene_grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted: at least 1")
        if not self.published_tracker:
            raise ValueError("published_tracker is empty; wanted: a tracker's name, exact, or annotated")
        _check_registered(self)
        if self.tracker == "import" and self.published is None:
            raise ValueError("tracker is 'import' and published is null; wanted: the folder to import from")
        if self.object_mask == "file" and self.object_masks is None:
            raise ValueError("object_mask is 'file' and object_masks is null; wanted: the folder of masks")


def _check_registered(params: AnnotateParams) -> None:
    """Refuse trackers that are not registered; the registry, which loads arrays, is asked only about others' names."""
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
