"""Which groups of a store are taken up, which are laid aside, and which come back from there."""

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
"""How long to wait for a process that writes the same group of results: that takes it seconds."""
_OTHER_PARAMS = "other params are asked for now"
_NOT_ASKED_FOR = "no clip, or no chunk of one, asks for them now"


def kept_in(folder: str | Path, store: str) -> str:
    """Where what leaves a store is kept: in a folder of one's own, or beside a store that lies behind a URL."""
    url = store_url(store)
    return f"{url}.kept" if "://" in url and "://" not in str(folder) else str(folder)


@dataclass(frozen=True)
class GroupShelf:
    """One store, and the folder in which its groups are kept when nothing asks for them."""

    store: str
    params: StoreParams
    keeper: Keeper
    made_by: MadeBy
    """What would write a group now."""
    reuse: Reuse = "exact"
    replace: bool = True
    """Lay aside a group that was made otherwise; else refuse."""
    anew: bool = False
    """Take nothing up: write every unit again."""
    say: Callable[[str], None] = print
    waiting: Callable[[str], None] = print
    """Told which process a group is waited for, and of a lock that one left that was killed."""
    _told: set[str] = field(default_factory=set)

    def open(self, group: str, spec: DescriptorSpec, text: TextTokens | None = None) -> GroupWriter:
        """A writer for a group: taken up where it lies, put back from where it was kept, or created.

        Waits while another run writes the group. The writer holds its lock from then on.

        Args:
            group: Its name.
            spec: What it is to hold.
            text: Which words its text tokens stand for, where that is known.

        Raises:
            StoreError: it was made otherwise, and `replace` is false.
        """
        with hold_group(self.store, group, wait_s=inf, say=self.waiting):
            return self._open(group, spec, text)

    def _open(self, group: str, spec: DescriptorSpec, text: TextTokens | None) -> GroupWriter:
        found = stored_group(self.store, group)
        if found is not None and (problem := self._problem(found, spec)) is not None:
            if not self.replace:
                raise StoreError(
                    f"{store_url(self.store)}/{group}: {problem}; allow its reuse by params, or replace it"
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
        """The units that are to be written."""
        return writer.spec.units if self.anew else writer.missing()

    def _problem(self, found: StoredGroup, spec: DescriptorSpec) -> str | None:
        wanted = fingerprint_of(_reusable_spec(spec, found, self.reuse), self.params)
        if found.contents["fingerprint"] != wanted:
            # Other params are the store's to describe, where they are refused.
            return _OTHER_PARAMS if self.replace else None
        changed = reuse_problem(self.made_by, found.contents.get("made_by"), "exact" if self.anew else self.reuse)
        return None if changed is None else f"made anew because of what changed: {changed}"

    def _put_back(self, group: str, spec: DescriptorSpec) -> bool:
        """Take a group from where it was kept."""
        key = self.keeper.fitting(group, key_of(fingerprint_of(spec, self.params), self.made_by), self.reuse)
        return key is not None and self.keeper.take(f"{store_url(self.store)}/{group}", name=group, key=key)

    def _record(self, found: StoredGroup | None) -> tuple[Mapping[str, Any] | None, bool]:
        """What the header is to say: what made the group, and whether it is used though that would differ now."""
        now = self.made_by.to_json()
        if found is None or self.anew:
            return now, False
        then = found.contents.get("made_by")
        difference = self.made_by.difference(MadeBy.from_json(then))
        if difference is None:
            return now, False
        if difference not in self._told:
            self._told.add(difference)
            self.say(f"taken up by params alone, as extract.reuse says; what differs: {difference}")
        return then, True


@dataclass(frozen=True)
class ResultShelf:
    """One store of results, and the folder in which they are kept when nothing asks for them."""

    store: str
    keeper: Keeper
    reuse: Reuse = "exact"
    anew: bool = False
    """Take nothing up: make everything again."""
    say: Callable[[str], None] = print
    _told: set[str] = field(default_factory=set)

    def take_up(self, group: str, identity: str, made_by: MadeBy) -> bool:
        """Whether results lie there that are wanted, put back from where they were kept if need be.

        Others of that name are laid aside.

        Args:
            group: Their name.
            identity: From `result_identity`.
            made_by: What would make them now.

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
                self.say(f"taken up by params alone, as survey.reuse says; what differs: {difference}")
        return True

    def lay_others_aside(self, names: Collection[str]) -> None:
        """Lay results aside whose names are not among these.

        Raises:
            StoreError: something that is no group lies in the store, or another run writes what is to go; what is left
                then stays.
        """
        surplus_groups(self.store, names)  # refuses what is no group before anything moves
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
        return None if changed is None else f"made anew because of what changed: {changed}"

    def _put_back(self, group: str, identity: str, made_by: MadeBy) -> bool:
        key = self.keeper.fitting(group, key_of(identity, made_by), self.reuse)
        return key is not None and self.keeper.take(f"{store_url(self.store)}/{group}", name=group, key=key)


def result_identity(
    provenance: Mapping[str, Any],
    points: Int[np.ndarray, " point"],
    points_xy_px: Float[np.ndarray, "point xy"],
) -> str:
    """SHA-256 over what results of matching are asked to be, whatever made them."""
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
    """The spec under which a stored group is asked for.

    The fingerprint has held the version of diffusers since before there was a record of what made a group; under
    `reuse: params` that part is the stored group's own.
    """
    part = found.contents["spec"].get("fingerprint_parts", {}).get("diffusers")
    if reuse == "exact" or part is None or "diffusers" not in spec.fingerprint_parts:
        return spec
    return replace(spec, fingerprint_parts={**spec.fingerprint_parts, "diffusers": part})


def _lay_aside(store: str, group: StoredGroup, keeper: Keeper, *, why: str) -> None:
    """Move a group to where it is kept."""
    key = key_of(group.contents["fingerprint"], MadeBy.from_json(group.contents.get("made_by")))
    keeper.park(f"{store_url(store)}/{group.name}", name=group.name, key=key, why=why)


def lay_others_aside(store: str, clips: Collection[str], groups: Mapping[str, Collection[str]], keeper: Keeper) -> None:
    """Move groups to where they are kept that no clip asks for.

    Args:
        store: The store.
        clips: Names of all clips there are.
        groups: For clips whose groups are known, the names of those.
        keeper: Keeps them.

    Raises:
        StoreError: something that is no group lies in the store, or another run writes what is to go; what is left then
            stays.
    """
    surplus_groups(store, clips)  # refuses what is no group before anything moves
    for name in descriptor_groups(store):
        clip = name.partition("/")[0]
        if clip not in clips or (clip in groups and name not in groups[clip]):
            with hold_group(store, name):
                if (group := stored_group(store, name)) is not None:
                    _lay_aside(store, group, keeper, why=_NOT_ASKED_FOR)
    keep_groups(store, clips)  # what is left of the others: folders without a group that could be read
    for clip, names in groups.items():
        chunks = [name for above, _, name in (group.rpartition("/") for group in names) if above == clip]
        if chunks:
            keep_groups(store, chunks, inside=clip)
