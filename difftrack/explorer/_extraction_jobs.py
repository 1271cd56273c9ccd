"""Extracts videos dropped onto the page, in the background, into a folder that the server removes."""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from difftrack.datasets import Clip, plain_name
from difftrack.explorer._catalog import Catalog, StoreEntry
from difftrack.explorer._errors import ExplorerError, NotFoundError
from difftrack.media import VIDEO_SUFFIXES
from difftrack.plugins import one_line

if TYPE_CHECKING:
    from difftrack.backbones import Backbone

__all__ = ["ExtractionJobs", "ExtractionParams"]

MOST_UPLOAD_BYTES = 256 << 20
"""Larger files are refused during upload."""
MOST_STORED_BYTES = 4 << 30
"""Maximum size of one video's descriptors before compression."""
MOST_JOBS = 4
"""Maximum number of waiting and running extractions."""


@dataclass(frozen=True, slots=True)
class ExtractionParams:
    """Backbone and size of the extraction of one video."""

    backbone: str = "cogvideox-mini"
    """A name that `difftrack models` lists, or `path:DIR`."""
    device: str = "auto"
    num_steps: int = 4
    """Number of steps in the analysis view, spread evenly over the schedule, including the last."""
    max_frames: int = 33
    """Number of frames read from the video."""


@dataclass(slots=True)
class Job:
    """The extraction of one video."""

    id: str
    clip: str
    stage: str = "waiting"
    """`waiting`, `loading the backbone`, `extracting`, `done` or `failed`."""
    done: int = 0
    """Bytes of descriptors written so far."""
    total: int = 0
    error: str = ""
    stores: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the job's state as JSON."""
        fraction = self.done / self.total if self.total else 0.0
        return {
            "id": self.id,
            "clip": self.clip,
            "stage": self.stage,
            "fraction": fraction,
            "error": self.error,
            "stores": list(self.stores),
        }


class ExtractionJobs:
    """Extracts videos one after the other and adds their stores to a catalog.

    Args:
        catalog: Receives the stores.
        params: Params of the extractions.
    """

    def __init__(self, catalog: Catalog, params: ExtractionParams) -> None:
        self.params = params
        self._catalog = catalog
        self._jobs: dict[str, Job] = {}
        self._folder: Path | None = None
        self._waiting: SimpleQueue[tuple[Job, Path, bool] | None] = SimpleQueue()
        self._worker: threading.Thread | None = None

    def upload_path(self, name: str) -> Path:
        """Return the file for an upload.

        Args:
            name: File name from the browser; its suffix selects the reader, the rest becomes the clip's name.

        Raises:
            ExplorerError: the suffix is not that of a video, or too many videos wait.
        """
        suffix = Path(name).suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            raise ExplorerError(f"{name!r} is not a video; expected {', '.join(sorted(VIDEO_SUFFIXES))}")
        if sum(job.stage not in ("done", "failed") for job in self._jobs.values()) >= MOST_JOBS:
            raise ExplorerError(f"{MOST_JOBS} videos are waiting; try again when one is done")
        return self._root() / f"upload-{uuid.uuid4().hex}{suffix}"

    def start(self, file: Path, name: str, *, owned: bool) -> Job:
        """Extract a video in the background.

        Args:
            file: The video.
            name: Name of the clip.
            owned: Remove the file after it is read.
        """
        job = Job(uuid.uuid4().hex[:12], plain_name(Path(name).stem)[:100])
        self._jobs[job.id] = job
        self._waiting.put((job, file, owned))
        if self._worker is None:  # a daemon, so that a stopped server does not wait for a model
            self._worker = threading.Thread(target=self._work, name="difftrack-extraction", daemon=True)
            self._worker.start()
        return job

    def job(self, identity: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: there is no such job.
        """
        if identity not in self._jobs:
            raise NotFoundError(f"there is no extraction {identity!r}; a restarted server forgets earlier ones")
        return self._jobs[identity]

    def all(self) -> list[Job]:
        """Return all jobs of this server, in order of arrival."""
        return list(self._jobs.values())

    def close(self) -> None:
        """Refuse further videos and remove the extractions."""
        self._waiting.put(None)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while (wanted := self._waiting.get()) is not None:
            self._run(*wanted)

    def _run(self, job: Job, file: Path, owned: bool) -> None:
        from difftrack.api._clips import read_clip

        try:
            clip = read_clip(file, name=job.clip, max_frames=self.params.max_frames)
            if owned:
                file.unlink(missing_ok=True)
            self._extract(job, clip)
            job.stage = "done"
        except Exception as error:  # the page shows any error, and the server continues
            job.stage, job.error = "failed", str(error) if isinstance(error, ValueError) else one_line(error)

    def _extract(self, job: Job, clip: Clip) -> None:
        from difftrack.api._backbones import load_backbone  # diffusers takes seconds and 200 MB
        from difftrack.api._extract import extract

        job.stage = "loading the backbone"
        model = load_backbone(self.params.backbone, device=self.params.device)
        root = self._root() / job.id
        backbone = self.params.backbone
        size, schedule = _size(model, clip), 50
        steps = [round((at + 1) * schedule / self.params.num_steps) - 1 for at in range(self.params.num_steps)]
        names = []
        for number, (view, wanted) in enumerate((("analysis", steps), ("tracking", None))):
            job.stage, job.done, job.total = f"extracting {number + 1} of 2: {view} view", 0, 0
            store = extract(
                model,
                clip,
                view=view,  # type: ignore[arg-type]
                steps=wanted,
                size=size,
                num_inference_steps=schedule,
                to=root / view,
                progress=_into(job),
            )
            name = f"{clip.name}: {backbone}/{view}"
            self._catalog.add(StoreEntry(name, backbone, store, {clip.name: clip}))
            names.append(name)
        job.stores = tuple(names)

    def _root(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="difftrack-explore-"))
        return self._folder


def _size(model: "Backbone", clip: Clip) -> tuple[int, int] | None:
    """Return the (height, width) to run a clip at: the clip's, cut to fit; None if the backbone's own is known."""
    if model.made_for is not None:
        return None
    for multiple in (1, 8, 16, 32, 64):
        height, width = (side // multiple * multiple for side in (clip.height, clip.width))
        try:
            model.check_image_size(height, width)
        except ValueError:
            continue
        return height, width
    raise ExplorerError(f"{model.name} supports no size near {clip.width}x{clip.height} px; extract with `dt.extract`")


def _into(job: Job) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if total > MOST_STORED_BYTES:
            raise ExplorerError(
                f"descriptors of {job.clip} would take {total / 1e9:.1f} GB, at most {MOST_STORED_BYTES / 1e9:.1f}; "
                "cut the video, or extract it with `difftrack extract` and explore the store"
            )
        job.done, job.total = done, total

    return report
