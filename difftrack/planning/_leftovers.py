"""Find data in the pipeline's folders that no given params file needs."""

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
"""Keys of `paths` whose folder contains one folder per backbone."""


SCORES = ArtifactKind(
    name="a folder of scores",
    marker="scores.json",
    proof=lambda content: {"convention", "match_convention"} <= content.keys(),
    files=("scores.json", "scores.csv", "best_layers.json", "summary.json"),
)
PREDICTIONS = ArtifactKind(
    name="a folder of predictions",
    marker="metrics.json",
    proof=lambda content: {"mean", "clips", "failed", "params"} <= content.keys(),
    files=("*.npz", "metrics.json", "metrics.csv", "summary.json"),
)


@dataclass(frozen=True, slots=True)
class Leftover:
    """Data that can be removed."""

    root: str
    """Path of a store or a folder of results."""
    group: str
    """Group in the store; empty for the whole folder."""
    num_bytes: int
    why: str
    kept: Kept | None = None
    """The entry, if the data is a kept artifact."""

    def remove(self) -> None:
        """Remove the data if it is still proven to belong to this project.

        Raises:
            ValueError: it is not proven, or lies outside the folder named in params.
        """
        if self.kept is not None:
            self.kept.remove()
        elif self.group:
            remove_group(self.root, self.group)
        else:
            remove(Path(self.root), _foreign(Path(self.root)), folder=Path(self.root).parent)


@dataclass(frozen=True, slots=True)
class _Need:
    """What a params file needs in one store."""

    params: StoreParams
    specs: Mapping[str, DescriptorSpec] | None
    """Group -> spec; None if unknown, so that everything is needed."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Clip that cannot be read at present -> the reason; its groups are needed."""

    def covers(self, group: StoredGroup) -> bool:
        if self.specs is None or group.name.split("/")[0] in self.unreadable:
            return True
        spec = self.specs.get(group.name)
        return spec is not None and _comparable(spec, self.params) == _comparable(
            DescriptorSpec.from_json(group.contents["spec"]), parse(StoreParams, group.contents["params"], "params")
        )


def find_leftovers(params_files: Sequence[Mapping[str, Any]]) -> Iterator[Leftover]:
    """Find data that no params file needs.

    The stages need every backbone named in a params file, and every group of its descriptors that a params file would
    write unchanged. If a backbone cannot be opened here because its weights are elsewhere, all of its descriptors are
    needed. The same holds for a clip that cannot be read at present (`uncertain_clips`). Artifacts in `paths.kept` are
    leftovers, except for descriptors that one of several params files needs. Data that is not proven to belong to this
    project is never listed.

    Args:
        params_files: Contents of whole params files.
    """
    needs: dict[str, list[_Need]] = {}
    for params in params_files:
        for backbone in params["backbones"]:
            for view in VIEWS:
                needs.setdefault(store_of(params, backbone, view), []).append(_need(params, backbone, view))
    named = {backbone for params in params_files for backbone in params["backbones"]}
    folders = {params["paths"][kind] for params in params_files for kind in BY_BACKBONE if kind in params["paths"]}
    for folder in sorted(folders):
        yield from _unknown_backbones(Path(folder), named)
    for store, store_needs in needs.items():
        for group in stored_groups(store):
            if not any(need.covers(group) for need in store_needs):
                known = any(need.specs is None or group.name in need.specs for need in store_needs)
                why = "was written with other params" if known else "its clip or chunk no longer exists"
                yield Leftover(store, group.name, group.num_bytes, why)
    for folder in sorted({folder for params in params_files for folder in _kept_folders(params)}):
        yield from _kept(folder, needs)


def _kept_folders(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield the folders of kept artifacts: `paths.kept`, or, if it is not set, a folder beside each output."""
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
            yield Leftover(kept.place, "", kept.num_bytes, f"not used since {since}", kept)


def _is_missed(kept: Kept, store: str, needs: Sequence[_Need]) -> bool:
    """Whether a params file needs a kept group that its store does not contain."""
    aside, there = stored_group(kept.place, "content"), stored_group(store, kept.name)
    if aside is None:
        return False
    named = StoredGroup(kept.name, aside.num_bytes, aside.contents)
    return any(need.covers(named) and not (there is not None and need.covers(there)) for need in needs)


def _unknown_backbones(folder: Path, named: set[str]) -> Iterator[Leftover]:
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.is_dir() and entry.name not in named and _foreign(entry) is None:
            yield Leftover(str(entry), "", stored_bytes(entry), f"no params file names the backbone {entry.name}")


def uncertain_clips(params_files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return clips that cannot be read at present, with the reason; their stored data is needed."""
    found: dict[str, str] = {}
    for params in params_files:
        for backbone in params["backbones"]:
            for view in VIEWS:
                found |= _need(params, backbone, view).unreadable
    return found


def _foreign(folder: Path) -> str | None:
    """Return what in a backbone's folder of results is not proven to belong to this project; None if all of it is."""
    if folder.is_symlink():
        return f"{folder} is a link"
    problems = [kind.problem(folder) for kind in (SCORES, PREDICTIONS)]
    if None in problems:
        return None
    views = [folder / view for view in VIEWS if (folder / view).is_dir()]
    stores = views if views and {entry.name for entry in folder.iterdir()} <= {*VIEWS, ".gitignore"} else [folder]
    return next((found for store in stores if (found := _foreign_store(store))), None)


def _foreign_store(folder: Path) -> str | None:
    """Return what in a store is not a group of this project; besides groups only the manifest is expected."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or not (entry.is_dir() or entry.name in ("zarr.json", MANIFEST, ".gitignore")):
            return f"{entry} is not a group of a store"
    try:
        read_manifest(folder)
    except StoreError as error:
        return str(error)
    return foreign_group(folder)


def _unreadable(clips: Path, outlined: Collection[str], problems: Mapping[str, str]) -> dict[str, str]:
    """Return folders of clips whose needs are unknown: damaged, empty, or unsuitable for this backbone."""
    folders = [entry.name for entry in clips.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    unknown = {name: f"{clips / name} contains no readable clip" for name in folders if name not in outlined}
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
    """Return all comparable parts; the text mask is left out, because only the text encoder can compute it."""
    return {key: value for key, value in spec.to_json().items() if key != "text_mask"}, params
