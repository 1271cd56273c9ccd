"""Decides which groups of a store are reused, moved aside or restored."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from difftrack.keeping import Keeper
from difftrack.provenance import MadeBy, Reuse, key_of, reuse_problem
from difftrack.store import (
    DescriptorSpec,
    GroupWriter,
    StoredGroup,
    StoreError,
    StoreParams,
    create_group,
    descriptor_groups,
    fingerprint_of,
    hold_group,
    keep_groups,
    read_results,
    result_groups,
    store_url,
    stored_group,
    surplus_groups,
    write_results,
)
from difftrack.text_tokens import TextTokens

if TYPE_CHECKING:
    import xarray

__all__ = ["GroupShelf", "ResultShelf", "kept_in", "lay_others_aside", "result_identity"]

_RESULTS_WAIT_S = 600.0
"""Maximum wait for a process that writes the same group of results, which takes seconds."""
_OTHER_PARAMS = "other params are asked for now"
_NOT_ASKED_FOR = "no clip or chunk needs them now"


def kept_in(folder: str | Path, store: str) -> str:
    """Return the place for groups moved out of a store: the project's own folder, or beside a store behind a URL."""
    url = store_url(store)
    return f"{url}.kept" if "://" in url and "://" not in str(folder) else str(folder)


@dataclass(frozen=True)
class GroupShelf:
    """One store, and the folder that keeps its unused groups."""

    store: str
    params: StoreParams
    keeper: Keeper
    made_by: MadeBy
    """Provenance of a group written now."""
    reuse: Reuse = "exact"
    replace: bool = True
    """Move aside a group that other params or code made; else refuse."""
    anew: bool = False
    """Reuse nothing: write every unit again."""
    say: Callable[[str], None] = print
    waiting: Callable[[str], None] = print
    """Called with the process that a group waits for, and with a lock that a killed process left."""
    _told: set[str] = field(default_factory=set)

    def open(self, group: str, spec: DescriptorSpec, text: TextTokens | None = None) -> GroupWriter:
        """Open a writer for a group: reuse it in place, restore it from the keeper, or create it.

        Waits while another run writes the group. The writer then holds its lock.

        Args:
            group: Name of the group.
            spec: Contents of the group.
            text: Words of its text tokens, if known.

        Raises:
            StoreError: other params or code made it, and `replace` is false.
        """
        with hold_group(self.store, group, wait_s=inf, say=self.waiting):
            return self._open(group, spec, text)

    def _open(self, group: str, spec: DescriptorSpec, text: TextTokens | None) -> GroupWriter:
        found = stored_group(self.store, group)
        if found is not None and (problem := self._problem(found, spec)) is not None:
            if not self.replace:
                raise StoreError(
                    f"{store_url(self.store)}/{group}: {problem}; set extract.reuse to params, or extract.replace to "
                    "true"
                )
            _lay_aside(self.store, found, self.keeper, why=problem)
            found = None
        if found is None and not self.anew and self._put_back(group, spec):
            found = stored_group(self.store, group)
        if found is not None:
            spec = _reusable_spec(spec, found, self.reuse)
        made_by, reused = self._record(found)
        return create_group(
            self.store,
            group,
            spec,
            params=self.params,
            replace=self.replace,
            made_by=made_by,
            text=text,
            reused=reused,
            anew=self.anew,
        )

    def wanted(self, writer: GroupWriter) -> list[tuple[int, int]]:
        """Return the units to write."""
        return writer.spec.units if self.anew else writer.missing()

    def _problem(self, found: StoredGroup, spec: DescriptorSpec) -> str | None:
        wanted = fingerprint_of(_reusable_spec(spec, found, self.reuse), self.params)
        if found.contents["fingerprint"] != wanted:
            # The store describes differing params when it refuses them.
            return _OTHER_PARAMS if self.replace else None
        changed = reuse_problem(self.made_by, found.contents.get("made_by"), "exact" if self.anew else self.reuse)
        return None if changed is None else f"made again because of a change: {changed}"

    def _put_back(self, group: str, spec: DescriptorSpec) -> bool:
        """Restore a group from the keeper."""
        key = self.keeper.fitting(group, key_of(fingerprint_of(spec, self.params), self.made_by), self.reuse)
        return key is not None and self.keeper.take(f"{store_url(self.store)}/{group}", name=group, key=key)

    def _record(self, found: StoredGroup | None) -> tuple[Mapping[str, Any] | None, bool]:
        """Return provenance for the header, and whether the group is reused although its provenance differs."""
        now = self.made_by.to_json()
        if found is None or self.anew:
            return now, False
        then = found.contents.get("made_by")
        difference = self.made_by.difference(MadeBy.from_json(then))
        if difference is None:
            return now, False
        if difference not in self._told:
            self._told.add(difference)
            self.say(f"reused because the params are equal (extract.reuse: params); differences: {difference}")
        return then, True


@dataclass(frozen=True)
class ResultShelf:
    """One store of results, and the folder that keeps unused ones."""

    store: str
    keeper: Keeper
    reuse: Reuse = "exact"
    anew: bool = False
    """Reuse nothing: compute everything again."""
    say: Callable[[str], None] = print
    _told: set[str] = field(default_factory=set)

    def take_up(self, group: str, identity: str, made_by: MadeBy) -> bool:
        """Return whether valid results exist, restored from the keeper if needed.

        Other results of that name are moved aside.

        Args:
            group: Name of the results.
            identity: From `result_identity`.
            made_by: Provenance of results computed now.

        Raises:
            StoreError: another run writes them.
        """
        with hold_group(self.store, group, wait_s=_RESULTS_WAIT_S):
            return self._take_up(group, identity, made_by)

    def _take_up(self, group: str, identity: str, made_by: MadeBy) -> bool:
        found = self._found(group)
        why = None if found is None else self._problem(found, identity, made_by)
        if found is not None and why is not None:
            _park_results(self.store, group, found, self.keeper, why)
        if self.anew:
            return False
        if found is None or why is not None:
            found = self._found(group) if self._put_back(group, identity, made_by) else None
        if found is None:
            return False
        difference = made_by.difference(MadeBy.from_json(found.attrs.get("made_by")))
        if difference is not None:
            write_results(self.store, group, found, {"reused": True})
            if difference not in self._told:
                self._told.add(difference)
                self.say(f"reused because the params are equal (survey.reuse: params); differences: {difference}")
        return True

    def lay_others_aside(self, names: Collection[str]) -> None:
        """Move aside results whose names are not among these.

        Raises:
            StoreError: the store holds something that is not a group, or another run writes a surplus group; the rest
                then stays.
        """
        surplus_groups(self.store, names)  # refuses other contents before anything moves
        for group in result_groups(self.store):
            if group not in names:
                with hold_group(self.store, group):
                    if (found := self._found(group)) is not None:
                        _park_results(self.store, group, found, self.keeper, _NOT_ASKED_FOR)
        keep_groups(self.store, names)

    def _found(self, group: str) -> "xarray.Dataset | None":
        try:
            return read_results(self.store, group)
        except StoreError:
            return None

    def _problem(self, found: "xarray.Dataset", identity: str, made_by: MadeBy) -> str | None:
        if _identity_of(found) != identity:
            return _OTHER_PARAMS
        changed = reuse_problem(made_by, found.attrs.get("made_by"), "exact" if self.anew else self.reuse)
        return None if changed is None else f"made again because of a change: {changed}"

    def _put_back(self, group: str, identity: str, made_by: MadeBy) -> bool:
        key = self.keeper.fitting(group, key_of(identity, made_by), self.reuse)
        return key is not None and self.keeper.take(f"{store_url(self.store)}/{group}", name=group, key=key)


def result_identity(
    provenance: Mapping[str, Any],
    points: Int[np.ndarray, " point"],
    points_xy_px: Float[np.ndarray, "point xy"],
) -> str:
    """Return the SHA-256 over the request for results of matching, independent of code."""
    known = {name: value for name, value in provenance.items() if name not in ("made_by", "reused")}
    asked = [known, points.tolist(), points_xy_px.astype(np.float64).tolist()]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _identity_of(found: "xarray.Dataset") -> str:
    if not {"point", "query_xy_px"} <= set(found.variables):
        return ""
    return result_identity(found.attrs, found["point"].values, found["query_xy_px"].values)


def _park_results(store: str, group: str, found: "xarray.Dataset", keeper: Keeper, why: str) -> None:
    key = key_of(_identity_of(found), MadeBy.from_json(found.attrs.get("made_by")))
    keeper.park(f"{store_url(store)}/{group}", name=group, key=key, why=why)


def _reusable_spec(spec: DescriptorSpec, found: StoredGroup, reuse: Reuse) -> DescriptorSpec:
    """Return the spec that a stored group is compared with.

    The fingerprint includes the version of diffusers; under `reuse: params` that part is taken from the stored group.
    """
    part = found.contents["spec"].get("fingerprint_parts", {}).get("diffusers")
    if reuse == "exact" or part is None or "diffusers" not in spec.fingerprint_parts:
        return spec
    return replace(spec, fingerprint_parts={**spec.fingerprint_parts, "diffusers": part})


def _lay_aside(store: str, group: StoredGroup, keeper: Keeper, *, why: str) -> None:
    """Move a group to the keeper."""
    key = key_of(group.contents["fingerprint"], MadeBy.from_json(group.contents.get("made_by")))
    keeper.park(f"{store_url(store)}/{group.name}", name=group.name, key=key, why=why)


def lay_others_aside(store: str, clips: Collection[str], groups: Mapping[str, Collection[str]], keeper: Keeper) -> None:
    """Move groups that no clip needs to the keeper.

    Args:
        store: The store.
        clips: Names of all existing clips.
        groups: Clip -> names of its groups, where they are known.
        keeper: Takes the groups.

    Raises:
        StoreError: the store holds something that is not a group, or another run writes a surplus group; the rest
            stays.
    """
    surplus_groups(store, clips)  # refuses other contents before anything moves
    for name in descriptor_groups(store):
        clip = name.partition("/")[0]
        if clip not in clips or (clip in groups and name not in groups[clip]):
            with hold_group(store, name):
                if (group := stored_group(store, name)) is not None:
                    _lay_aside(store, group, keeper, why=_NOT_ASKED_FOR)
    keep_groups(store, clips)  # leftovers: folders without a readable group
    for clip, names in groups.items():
        chunks = [name for above, _, name in (group.rpartition("/") for group in names) if above == clip]
        if chunks:
            keep_groups(store, chunks, inside=clip)
