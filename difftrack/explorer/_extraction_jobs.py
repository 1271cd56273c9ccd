"""Videos that are dropped onto the page, extracted in the background into a folder that the server removes."""

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
"""A larger file is refused while it comes in."""
MOST_STORED_BYTES = 4 << 30
"""Descriptors of one video take no more, before compression."""
MOST_JOBS = 4
"""Videos that wait or are extracted at a time."""


@dataclass(frozen=True, slots=True)
class ExtractionParams:
    """Backbone and extent of the extraction of one video."""

    backbone: str = "cogvideox-mini"
    """A name that `difftrack models` lists, or `path:DIR`."""
    device: str = "auto"
    num_steps: int = 4
    """Steps of the analysis view, spread evenly over the schedule, the last one among them."""
    max_frames: int = 33
    """Frames of the video that are read."""


@dataclass(slots=True)
class Job:
    """One video on its way."""

    id: str
    clip: str
    stage: str = "waiting"
    """`waiting`, `loading the backbone`, `extracting`, `done` or `failed`."""
    done: int = 0
    """Bytes of descriptors that are there."""
    total: int = 0
    error: str = ""
    stores: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give the job's state as JSON."""
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
        catalog: Gets the stores.
        params: What is extracted.
    """

    def __init__(self, catalog: Catalog, params: ExtractionParams) -> None:
        self.params = params
        self._catalog = catalog
        self._jobs: dict[str, Job] = {}
        self._folder: Path | None = None
        self._waiting: SimpleQueue[tuple[Job, Path, bool] | None] = SimpleQueue()
        self._worker: threading.Thread | None = None

    def upload_path(self, name: str) -> Path:
        """Give the file into which an upload goes.

        Args:
            name: As the browser calls the file; its ending chooses the reader, the rest becomes the clip's name.

        Raises:
            ExplorerError: the ending is none of a video's, or too many videos wait.
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
            name: Becomes the clip's name.
            owned: Remove the file when it is read.
        """
        job = Job(uuid.uuid4().hex[:12], plain_name(Path(name).stem)[:100])
        self._jobs[job.id] = job
        self._waiting.put((job, file, owned))
        if self._worker is None:  # a daemon, for a server that is stopped not to wait for a model
            self._worker = threading.Thread(target=self._work, name="difftrack-extraction", daemon=True)
            self._worker.start()
        return job

    def job(self, identity: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: there is none.
        """
        if identity not in self._jobs:
            raise NotFoundError(f"there is no extraction {identity!r}; a server that was started anew forgets them")
        return self._jobs[identity]

    def all(self) -> list[Job]:
        """Return all jobs of this server, in the order in which they came."""
        return list(self._jobs.values())

    def close(self) -> None:
        """Stop taking videos and remove what was extracted."""
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
        except Exception as error:  # whatever it is, the page says so and the server goes on
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
    """Give the (height, width) to run a clip at: the clip's, cut to fit; None where the backbone's own is known."""
    if model.made_for is not None:
        return None
    for multiple in (1, 8, 16, 32, 64):
        height, width = (side // multiple * multiple for side in (clip.height, clip.width))
        try:
            model.check_image_size(height, width)
        except ValueError:
            continue
        return height, width
    raise ExplorerError(f"{model.name} takes no size near {clip.width}x{clip.height} px; extract with `dt.extract`")


def _into(job: Job) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if total > MOST_STORED_BYTES:
            raise ExplorerError(
                f"descriptors of {job.clip} would take {total / 1e9:.1f} GB, at most {MOST_STORED_BYTES / 1e9:.1f}; "
                "cut the video, or extract it with `difftrack extract` and explore the store"
            )
        job.done, job.total = done, total

    return report
