"""The stores and clips that the server can show, and their tracks and predictions on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import UInt8

from difftrack.artifacts import ArtifactError
from difftrack.datasets import Clip, Tracks, clip_names, read_clip, read_tracks
from difftrack.documents import read_json, read_yaml
from difftrack.explorer._cache import BoundedCache
from difftrack.explorer._errors import ExplorerError, NotFoundError, check_place
from difftrack.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_video
from difftrack.params import parse
from difftrack.store import DescriptorSpec, Store, StoreError, StorePath, open_store
from difftrack.tracking import PredictedTracks, TrackParams, read_predictions
from difftrack.workflows.match import clip_groups, stored_clip_names

__all__ = ["Catalog", "StoreEntry", "is_video", "open_catalog"]

CLIP_BYTES = 96_000_000
"""Cache size of decoded frames."""


class StoreEntry:
    """A readable store; its groups are listed once, so that clicks need not wait for it.

    Args:
        name: Name of the store on the page: `<backbone>/<view>` in a data folder.
        backbone: Name of the backbone, which determines its tokenizer and predictions.
        store: The store.
        frames: Clips in memory.
    """

    def __init__(self, name: str, backbone: str, store: Store, frames: Mapping[str, Clip] | None = None) -> None:
        self.name = name
        self.backbone = backbone
        self.store = store
        self.frames = dict(frames or {})
        self._groups = {clip: clip_groups(store, clip) for clip in stored_clip_names(store)}

    @property
    def clips(self) -> list[str]:
        """Names of the stored clips, complete or not."""
        return list(self._groups)

    def groups(self, clip: str) -> list[tuple[str, int | None]]:
        """Return the groups of a clip with their chunk numbers.

        Raises:
            NotFoundError: the store lacks the clip.
        """
        if clip not in self._groups:
            raise NotFoundError(f"store {self.name} holds no clip {clip!r}")
        return self._groups[clip]

    def spec(self, clip: str) -> DescriptorSpec:
        """Return the spec of a clip, or of its first chunk.

        Raises:
            StoreError: the group is incomplete or damaged.
        """
        return self.store.spec(self.groups(clip)[0][0])


@dataclass(frozen=True, slots=True)
class Found:
    """Stores of a data folder."""

    stores: Mapping[str, StoreEntry]
    problems: Mapping[str, str]
    """Name -> reason why it cannot be opened."""


class Catalog:
    """Stores and clips by name. Names from the page are only looked up here and never become paths.

    Args:
        stores: Initial stores.
        data: Folder with `clips`, `tracks` and `predictions`, if there is one.
        paths: Their places, if not in `data`.
        find: Finds further stores; called now and by `refresh`.
        title: Title of the page.
        track: Options of tracking from the params file next to the data.
    """

    def __init__(
        self,
        stores: Mapping[str, StoreEntry],
        *,
        paths: Mapping[str, Path] | None = None,
        find: Callable[[], Found] | None = None,
        title: str = "",
        track: Mapping[str, Any] | None = None,
    ) -> None:
        self.track = dict(track or {})
        self.title = title
        self.problems: Mapping[str, str] = {}
        self._find = find
        self._changing = Lock()
        self._given = dict(stores)
        self._stores = dict(stores)
        self._paths = dict(paths or {})
        self._clips: BoundedCache[Clip] = BoundedCache(CLIP_BYTES, lambda clip: clip.frames.nbytes)
        self.refresh()

    def refresh(self) -> None:
        """Search again for stores that have been written since."""
        if self._find is None:
            return
        found = self._find()
        with self._changing:
            self.problems = found.problems
            self._stores = {**found.stores, **self._given}

    def add(self, entry: StoreEntry) -> None:
        """Add a store; it replaces one of the same name."""
        with self._changing:  # a search under way in another thread must not lose it
            self._given[entry.name] = entry
            self._stores = {**self._stores, entry.name: entry}

    def store(self, name: str) -> StoreEntry:
        """Return a store.

        Raises:
            NotFoundError: there is no store of this name.
        """
        if name not in self._stores:
            raise NotFoundError(f"there is no store {name!r}; there are {', '.join(self._stores) or 'none'}")
        return self._stores[name]

    def stores(self) -> list[StoreEntry]:
        """Return all stores."""
        return list(self._stores.values())

    def clip_names(self) -> list[str]:
        """Return the names of all clips: stored ones, and those of the folder of clips."""
        names = {name for entry in self.stores() for name in entry.clips}
        return sorted(names | set(self._clips_on_disk()))

    def about_clip(self, name: str) -> dict[str, Any]:
        """Describe a clip without reading its frames."""
        for entry in self.stores():
            if (clip := entry.frames.get(name)) is not None:
                return {"prompt": clip.prompt, "source": clip.source, "fps": clip.fps, "num_frames": clip.num_frames}
        if name not in self._clips_on_disk():
            return {}
        try:
            said = read_json(self._paths["clips"] / name / "clip.json")
            return {
                "prompt": str(said["prompt"]),
                "source": str(said["source"]),
                "fps": float(said["fps"]),
                "num_frames": int(said["num_frames"]),
            }
        except (ValueError, OSError, KeyError, TypeError) as error:
            return {"problem": f"clip.json of {name} cannot be used ({' '.join(str(error).split())})"}

    def clip(self, name: str) -> Clip:
        """Return a clip with its frames.

        Raises:
            NotFoundError: its frames are not available.
            DatasetError: its files are damaged.
        """
        for entry in self.stores():
            if (clip := entry.frames.get(name)) is not None:
                return clip
        if name not in self._clips_on_disk():
            raise NotFoundError(f"the frames of clip {name!r} are not available; name their folder with --clips")
        return self._clips.get(name, lambda: read_clip(self._paths["clips"], name))

    def first_frame(self, name: str) -> UInt8[np.ndarray, "row col rgb"]:
        """Return a clip's first frame, without decoding others.

        Raises:
            NotFoundError: its frames are not available.
            MediaError: its video is damaged.
        """
        if name in self._clips_on_disk() and not any(name in entry.frames for entry in self.stores()):
            frame: np.ndarray = read_video(self._paths["clips"] / name / "frames.mp4", max_frames=1).frames[0]
            return frame
        first: np.ndarray = self.clip(name).frames[0]
        return first

    def tracks(self, clip: str) -> Tracks | None:
        """Return the tracks that the annotate stage wrote for a clip, or None.

        Raises:
            DatasetError: their file is damaged.
        """
        folder = self._paths.get("tracks")
        if folder is None or clip not in self.clip_names() or not (folder / f"{clip}.npz").exists():
            return None
        return read_tracks(folder, clip)

    def predictions(self, clip: str) -> Iterator[tuple[str, np.ndarray, Mapping[str, PredictedTracks]]]:
        """Yield (backbone, query points, tracker -> tracks) from the track stage; damaged files are skipped."""
        folder = self._paths.get("predictions")
        if folder is None or clip not in self.clip_names():
            return
        for backbone in dict.fromkeys(entry.backbone for entry in self.stores()):
            path = folder / backbone / f"{clip}.npz"
            if path.is_file():
                try:
                    query_points, found = read_predictions(path)
                except ArtifactError:
                    continue
                yield backbone, query_points, found

    def best_layers(self, backbone: str) -> list[int]:
        """Return a backbone's layers, best first, as the score stage ranked them.

        Raises:
            ExplorerError: there is no ranking, or its file is damaged.
        """
        folder = self._paths.get("scores")
        if folder is None or backbone not in {entry.backbone for entry in self.stores()}:
            raise ExplorerError("layers: best needs a ranking of layers next to the store, but there is none")
        file = folder / backbone / "best_layers.json"
        try:
            return [int(layer) for layer in read_json(file)["layers"]]
        except FileNotFoundError as error:
            raise ExplorerError(
                f"layers: best needs {file.name} of {backbone}, which the stage score writes"
            ) from error
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise ExplorerError(f"{file.name} of {backbone} cannot be used ({' '.join(str(error).split())})") from error

    def _clips_on_disk(self) -> list[str]:
        folder = self._paths.get("clips")
        if folder is None or not folder.is_dir():
            return []
        try:
            return clip_names(folder)
        except ValueError:
            return []


def open_catalog(source: StorePath, *, clips: Path | None = None) -> Catalog:
    """Find the stores and clips of a data folder, a workspace or a store.

    Args:
        source: A folder that holds `descriptors`, a workspace whose params.yaml names such folders, or a store: its
            folder or fsspec URL.
        clips: Folder of the clips, if it is not next to the stores.

    Raises:
        ExplorerError: there is nothing to explore.
    """
    text = str(source)
    root = Path(text)
    check_place(text)
    if "://" not in text:
        paths = _paths_in(root)
        if paths["descriptors"].is_dir():
            return _data_catalog(root, paths, clips)
    try:
        open_store(source)
    except StoreError as error:
        videos = ", ".join(sorted(VIDEO_SUFFIXES))
        raise ExplorerError(
            f"{error}; expected a folder with descriptors in it, a store, or a video: {videos}"
        ) from error
    *above, view = text.rstrip("/").split("/")
    backbone = above[-1] if above else ""
    name = f"{backbone}/{view}" if backbone else view
    paths = _paths_beside(root) if "://" not in text else {}
    if clips is not None:
        paths["clips"] = clips

    def find() -> Found:
        return Found({name: StoreEntry(name, backbone or view, open_store(source))}, {})

    return Catalog({}, paths=paths, find=find, title=text)


def is_video(path: Path) -> bool:
    """Return whether a path is a video file or a folder of images."""
    if path.is_dir():
        return any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def _data_catalog(root: Path, paths: dict[str, Path], clips: Path | None) -> Catalog:
    if clips is not None:
        paths = {**paths, "clips": clips}
    catalog = Catalog(
        {},
        paths=paths,
        find=lambda: _find_stores(paths["descriptors"]),
        title=root.resolve().name,
        track=_track_options(root),
    )
    if not catalog.stores() and not catalog.problems:
        raise ExplorerError(f"{paths['descriptors']} holds no store; `difftrack repro` writes those of the pipeline")
    return catalog


def _find_stores(descriptors: Path) -> Found:
    stores, problems = {}, {}
    for folder in sorted(descriptors.glob("*/*")):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        name = f"{folder.parent.name}/{folder.name}"
        try:
            stores[name] = StoreEntry(name, folder.parent.name, open_store(folder))
        except StoreError as error:
            problems[name] = str(error)
    return Found(stores, problems)


def _paths_in(root: Path) -> dict[str, Path]:
    """Locate the artifacts of a workspace or a data folder."""
    names = ("descriptors", "clips", "tracks", "predictions", "scores")
    named: Mapping[str, Any] = {}
    if (root / "params.yaml").is_file():
        values = read_yaml(root / "params.yaml")
        named = values.get("paths") or {} if isinstance(values, dict) else {}
    found = {}
    for name in names:
        own = named.get(name)
        here = root / own if isinstance(own, str) else root / name
        beside = here.exists() or (name == "scores" and (root / "descriptors").is_dir())  # scores may be written later
        found[name] = here if isinstance(own, str) or beside else root / "data" / name
    return found


def _track_options(root: Path) -> dict[str, Any]:
    """Read the options of tracking from the params file in a data folder or above it; empty if it is unusable."""
    known = {each.name for each in fields(TrackParams)}
    for file in (root / "params.yaml", root.resolve().parent / "params.yaml"):
        if file.is_file():
            try:
                section = read_yaml(file)["track"]
                chosen = {key: value for key, value in section.items() if key in known and value is not None}
                parse(TrackParams, chosen, "track", file=file)
            except (ValueError, KeyError, TypeError, AttributeError):
                return {}
            return chosen
    return {}


def _paths_beside(store: Path) -> dict[str, Path]:
    """Locate artifacts that belong to a store at DATA/descriptors/<backbone>/<view>."""
    data = store.resolve().parent.parent.parent
    if store.resolve().parent.parent.name != "descriptors":
        return {}
    return {name: data / name for name in ("clips", "tracks", "predictions", "scores")}
