"""What lies in the folders of the pipeline and is needed by none of the given params files."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difftrack.artifacts import MANIFEST
from difftrack.datasets import clip_names
from difftrack.extraction import ClipReader, ExtractParams, kept_in
from difftrack.keeping import Kept, kept_entries
from difftrack.ownership import ArtifactKind, remove
from difftrack.params import parse
from difftrack.planning._params import VIEWS, outline_clips, store_of
from difftrack.store import (
    DescriptorSpec,
    StoredGroup,
    StoreError,
    StoreParams,
    foreign_group,
    read_manifest,
    remove_group,
    stored_bytes,
    stored_group,
    stored_groups,
)

__all__ = ["Leftover", "find_leftovers", "uncertain_clips"]

BY_BACKBONE = ("descriptors", "matches", "survey", "scores", "predictions")
"""Of `paths`: folders with one folder per backbone."""


SCORES = ArtifactKind(
    name="a folder of scores",
    marker="scores.json",
    proof=lambda said: {"convention", "match_convention"} <= said.keys(),
    files=("scores.json", "scores.csv", "best_layers.json", "summary.json"),
)
PREDICTIONS = ArtifactKind(
    name="a folder of predictions",
    marker="metrics.json",
    proof=lambda said: {"mean", "clips", "failed", "params"} <= said.keys(),
    files=("*.npz", "metrics.json", "metrics.csv", "summary.json"),
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that can go."""

    root: str
    """A store, or a folder of results."""
    group: str
    """Of the store; empty for all of it."""
    num_bytes: int
    why: str
    kept: Kept | None = None
    """What lies aside there, if it is that."""

    def remove(self) -> None:
        """Remove it from disk, if it is still proven to be this project's.

        Raises:
            ValueError: it is not, or lies outside the folder that params name.
        """
        if self.kept is not None:
            self.kept.remove()
        elif self.group:
            remove_group(self.root, self.group)
        else:
            remove(Path(self.root), _foreign(Path(self.root)), folder=Path(self.root).parent)


@dataclass(frozen=True, slots=True)
class _Need:
    """What a params file wants in one store."""

    params: StoreParams
    specs: Mapping[str, DescriptorSpec] | None
    """By group; None where that cannot be told, and then everything is needed."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Clips that cannot be read for now, and why; their groups are needed."""

    def covers(self, group: StoredGroup) -> bool:
        if self.specs is None or group.name.split("/")[0] in self.unreadable:
            return True
        spec = self.specs.get(group.name)
        return spec is not None and _comparable(spec, self.params) == _comparable(
            DescriptorSpec.from_json(group.contents["spec"]), parse(StoreParams, group.contents["params"], "params")
        )


def find_leftovers(params_files: Sequence[Mapping[str, Any]]) -> Iterator[Leftover]:
    """Find what no params file needs.

    Needed is what the stages would keep: every backbone that a params file names, and of its descriptors every group
    that one of them would write as it is. A backbone that cannot be opened here, because its weights are elsewhere,
    keeps all of its descriptors, and so does a clip that cannot be read for now (`uncertain_clips`). What lies aside in
    `paths.kept` is a leftover, but for descriptors that one of several params files needs. What does not prove to be
    this project's own is never named.

    Args:
        params_files: Whole params files.
    """
    needs: dict[str, list[_Need]] = {}
    for params in params_files:
        for backbone in params["backbones"]:
            for view in VIEWS:
                needs.setdefault(store_of(params, backbone, view), []).append(_need(params, backbone, view))
    named = {backbone for params in params_files for backbone in params["backbones"]}
    folders = {params["paths"][kind] for params in params_files for kind in BY_BACKBONE if kind in params["paths"]}
    for folder in sorted(folders):
        yield from _of_unknown_backbones(Path(folder), named)
    for store, wanted in needs.items():
        for group in stored_groups(store):
            if not any(need.covers(group) for need in wanted):
                known = any(need.specs is None or group.name in need.specs for need in wanted)
                why = "was written with other params" if known else "no clip of this name, or no such chunk of it"
                yield Leftover(store, group.name, group.num_bytes, why)
    for folder in sorted({folder for params in params_files for folder in _kept_folders(params)}):
        yield from _kept(folder, needs)


def _kept_folders(params: Mapping[str, Any]) -> Iterator[str]:
    """Where stages keep what is not asked for any more; without `paths.kept` that is beside each output."""
    paths = params["paths"]
    stores = [store_of(params, name, view) for name in params["backbones"] for view in VIEWS]
    if "kept" in paths:
        yield paths["kept"]
        yield from (kept_in(paths["kept"], store) for store in stores)
    else:
        yield from (f"{folder}.kept" for folder in (paths["clips"], *stores))


def _kept(folder: str, needs: Mapping[str, Sequence[_Need]]) -> Iterator[Leftover]:
    for kept in kept_entries(folder):
        kind, _, below = kept.kind.partition("/")
        stores = {store: own for store, own in needs.items() if kind == "descriptors" and store.endswith(f"/{below}")}
        if kept.problem() is None and not any(_is_missed(kept, store, own) for store, own in stores.items()):
            since = time.strftime("%Y-%m-%d", time.localtime(kept.since))
            yield Leftover(kept.place, "", kept.num_bytes, f"not asked for since {since}", kept)


def _is_missed(kept: Kept, store: str, needs: Sequence[_Need]) -> bool:
    """Whether a params file needs a group that lies aside and that its store does not hold."""
    aside, there = stored_group(kept.place, "content"), stored_group(store, kept.name)
    if aside is None:
        return False
    named = StoredGroup(kept.name, aside.num_bytes, aside.contents)
    return any(need.covers(named) and not (there is not None and need.covers(there)) for need in needs)


def _of_unknown_backbones(folder: Path, named: set[str]) -> Iterator[Leftover]:
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and entry.name not in named and _foreign(entry) is None:
            yield Leftover(str(entry), "", stored_bytes(entry), f"no params file names the backbone {entry.name}")


def uncertain_clips(params_files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Clips that cannot be read for now, and why: what is stored of them is kept."""
    found: dict[str, str] = {}
    for params in params_files:
        for backbone in params["backbones"]:
            for view in VIEWS:
                found |= _need(params, backbone, view).unreadable
    return found


def _foreign(folder: Path) -> str | None:
    """Say what in a backbone's folder of results is not proven to be this project's; None where all of it is."""
    if folder.is_symlink():
        return f"{folder} is a link"
    problems = [kind.problem(folder) for kind in (SCORES, PREDICTIONS)]
    if None in problems:
        return None
    views = [folder / view for view in VIEWS if (folder / view).is_dir()]
    stores = views if views and {entry.name for entry in folder.iterdir()} <= {*VIEWS, ".gitignore"} else [folder]
    return next((found for store in stores if (found := _foreign_store(store))), None)


def _foreign_store(folder: Path) -> str | None:
    """Say what in a store is not a group of this project; files beside the groups are not, but for the manifest."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not (entry.is_dir() or entry.name in ("zarr.json", MANIFEST, ".gitignore")):
            return f"{entry} is no group of a store"
    try:
        read_manifest(folder)
    except StoreError as error:
        return str(error)
    return foreign_group(folder)


def _unreadable(clips: Path, outlined: Collection[str], problems: Mapping[str, str]) -> dict[str, str]:
    """Folders of clips of which it cannot be told what they need: damaged, empty, or not for this backbone to read."""
    folders = [entry.name for entry in clips.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    unknown = {name: f"{clips / name} holds no clip that can be read" for name in folders if name not in outlined}
    return unknown | dict(problems)


def _need(params: Mapping[str, Any], backbone: str, view: str) -> _Need:
    extract = parse(ExtractParams, params["extract"], "extract")
    clips = Path(params["paths"]["clips"])
    try:
        source = ClipReader.open(params, backbone=backbone, view=view, folder=clips)
    except (ValueError, OSError):
        return _Need(extract.store, None)
    outlines, problems = outline_clips(source, clip_names(clips))
    specs = {group: spec for groups in outlines.values() for group, spec in groups.items()}
    return _Need(extract.store, specs, _unreadable(clips, outlines, problems))


def _comparable(spec: DescriptorSpec, params: StoreParams) -> tuple[dict[str, Any], StoreParams]:
    """All but which text tokens count, which only the text encoder knows."""
    return {key: value for key, value in spec.to_json().items() if key != "text_mask"}, params
