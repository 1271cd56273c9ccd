"""Writing a group of descriptors: created, resumed, and declared complete."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, wait
from itertools import islice
from threading import Lock as ThreadLock
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import finalize

import numpy as np
from jaxtyping import Num, UInt32

from difftrack.documents import parse_json
from difftrack.locks import Lock, LockError, Say
from difftrack.store._encodings import encoding_of
from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, StorePath, open_files
from difftrack.store._group_metadata import (
    Header,
    UnitChecksums,
    join,
    parents,
    plain_group_problem,
    read_each,
    write_parents,
)
from difftrack.store._locks import held_group
from difftrack.store._params import StoreParams
from difftrack.store._schema import GroupSchema, group_files, read_schema
from difftrack.store._shards import shard_checksums, shard_problem
from difftrack.store._spec import SCHEMA_VERSION, ArrayLayout, DescriptorSpec, fingerprint_of
from difftrack.text_tokens import TextTokens

__all__ = ["GroupWriter", "create_group", "open_writer"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class GroupWriter:
    """Writes the units of one group.

    A unit is one (step, layer): all its arrays' shards. Writers in several processes may share a group as long as each
    unit belongs to one of them: call `create_group` once, `open_writer` in each process, `finish` once at the end.

    A writer that `create_group` gives holds the group's lock until `finish` or `close`, or until it is forgotten.
    """

    def __init__(
        self,
        root: StorePath,
        group: str,
        schema: GroupSchema,
        *,
        checksums: UnitChecksums = MappingProxyType({}),
        lock: Lock | None = None,
    ) -> None:
        """Write into a group that is there.

        Args:
            root: The store.
            group: Name of the group.
            schema: What the group holds.
            checksums: Those of the units that the group's header names.
            lock: The group's lock, held; this writer lets go of it.
        """
        self._files = open_files(root)
        self._group = group
        self._schema = schema
        self._known = checksums
        self._written: dict[tuple[str, int], UInt32[np.ndarray, " chunk"]] = {}
        self._lock = lock
        self._let_go = None if lock is None else finalize(self, lock.release)

    def close(self) -> None:
        """Let go of the group's lock; nothing happens where that was done, or another writer holds it."""
        if self._let_go is not None:
            self._let_go()

    def __enter__(self) -> "GroupWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def group(self) -> str:
        """Name of the group."""
        return self._group

    @property
    def params(self) -> StoreParams:
        """How the group is stored."""
        return self._schema.params

    @property
    def spec(self) -> DescriptorSpec:
        """What the group holds."""
        return self._schema.spec

    def missing(self, *, checksums: bool = True) -> list[tuple[int, int]]:
        """Units that are not there or are damaged, in order.

        Args:
            checksums: Read all that is there and check every byte (about 2 GB/s from a warm disk). Without, a shard's
                size and index only: 0.1 ms, finds everything but changed bytes inside chunks.
        """
        return [unit for unit in self.spec.units if self._unit_problem(unit, checksums=checksums) is not None]

    def write(
        self,
        step: int,
        layer: int,
        values: Mapping[str, Num[np.ndarray, "..."]],
        *,
        checked: bool = False,
        pool: Executor | None = None,
    ) -> None:
        """Write one unit, in place of what may be there.

        Each file appears in one step, so that a killed writer leaves nothing that reads as whole but is not. Several
        threads may write units of one group at once.

        Args:
            step: One of the spec's steps.
            layer: One of the spec's layers.
            values: For each of the spec's entries its array of `spec.entry_shape(entry)`: float16, float32 or float64,
                or uint16 holding the bits of bfloat16.
            checked: The values are of the stored type and known to be finite: where they were computed, both is cheap.
            pool: Threads that convert, encode and write the unit's chunks side by side; one after the other without.

        Raises:
            StoreError: an entry is missing, not asked for, of another shape, or holds values that the dtype cannot.
        """
        try:
            indices = self._schema.indices(step, layer)
        except ValueError as error:
            raise StoreError(f"{self._name(step, layer)}: {error}") from error
        if set(values) != set(self.spec.entries):
            wanted = ", ".join(self.spec.entries)
            raise StoreError(
                f"{self._name(step, layer)}: got {', '.join(sorted(values)) or 'nothing'}; wanted {wanted}"
            )
        number = self._schema.unit_index(*indices)
        encoded = _each(pool, lambda entry: self._encode(step, layer, entry, values[entry], checked), self.spec.entries)
        arrays = [
            array
            for entry, of_entry in zip(self.spec.entries, encoded, strict=True)
            for array in zip(self._schema.entry_layouts(entry), of_entry, strict=True)
        ]

        from difftrack.store._encoder import encode_chunk, join_chunks  # settles how Blosc runs, which readers need not

        encoded_chunks: list[dict[int, tuple[bytes, bytes]]] = [{} for _ in arrays]
        taking_turns = ThreadLock()

        def encode_and_write(job: tuple[int, int]) -> None:
            """Encode a chunk; whoever encodes an array's last one writes the shard and lets go of its bytes."""
            which, index = job
            layout, numbers = arrays[which]
            chunk, chunks = encode_chunk(layout, numbers, index), encoded_chunks[which]
            with taking_turns:
                chunks[index] = chunk
                whole = len(chunks) == layout.num_chunks
            if whole:
                parts = [chunks.pop(i) for i in sorted(chunks)]
                self._files.write(self._key(layout, *indices), *join_chunks(parts))
                carried = b"".join(checksum for _, checksum in parts)
                self._written[layout.name, number] = np.frombuffer(carried, "<u4").astype(np.uint32)

        _each(
            pool,
            encode_and_write,
            [(which, index) for which, (layout, _) in enumerate(arrays) for index in range(layout.num_chunks)],
        )

    def finish(self) -> None:
        """Declare the group complete, after checking that every unit is there, and let go of its lock.

        The header then names the checksums of all units: of those that this writer wrote, as they were computed.

        Raises:
            StoreError: units are missing, and it names them; or another run has made the group anew meanwhile.
        """
        missing = self.missing(checksums=False)
        if missing:
            named = ", ".join(f"(step {step}, layer {layer})" for step, layer in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise StoreError(f"{self._files.path(self._group)}: {named}{more} not written")
        self._files.remove_partials(self._group, abandoned_only=False)
        checksums = self._unit_checksums()
        header = self._schema.header(group_files(self._schema), complete=True, units=checksums).to_bytes()
        self._refuse_another_run()
        key = join(self._group, "zarr.json")
        if self._files.read([key]).get(key) != header:
            self._files.write(key, header)
        self.close()

    def _unit_checksums(self) -> UnitChecksums:
        """The checksums of all units: as this writer computed them, as the header named them, or as they lie there."""
        checksums = {}
        for name, layout in self._schema.layouts.items():
            units = []
            for number, unit in enumerate(self.spec.units):
                of_unit = self._checksums(name, number)
                if of_unit is None:
                    key = self._key(layout, *self._schema.indices(*unit))
                    of_unit = shard_checksums(self._files, key, layout.num_chunks)
                units.append(of_unit)
            checksums[name] = np.stack(units)
        return checksums

    def _checksums(self, name: str, number: int) -> UInt32[np.ndarray, " chunk"] | None:
        """What is known of a unit without looking at it."""
        written = self._written.get((name, number))
        return self._known[name][number] if written is None and self._known else written

    def _refuse_another_run(self) -> None:
        """Make sure that the group is still the one that this writer was given."""
        if self._lock is not None:
            try:
                self._lock.check()
            except LockError as error:
                raise StoreError(str(error)) from error
        found = read_schema(self._files, self._group)
        if found is None or found[0].contents["fingerprint"] != self._schema.fingerprint:
            raise StoreError(
                f"{self._files.path(self._group)} was replaced by another run; run this one again after it"
            )

    def _encode(
        self, step: int, layer: int, entry: str, values: Num[np.ndarray, "..."], checked: bool
    ) -> list[Num[np.ndarray, "..."]]:
        name = f"{self._name(step, layer)}: {entry}"
        shape = self.spec.entry_shape(entry)
        if values.shape != shape:
            raise StoreError(f"{name} has shape {list(values.shape)}; wanted {list(shape)}")
        if values.dtype.name not in ("float16", "float32", "float64", "uint16"):
            raise StoreError(
                f"{name} is {values.dtype}; float16, float32, float64 or uint16 (bfloat16 bits) are stored"
            )
        params = self._schema.params
        if checked and values.dtype == np.dtype(self._schema.layouts[entry].dtype):
            return [values]
        try:
            codes, scale = encoding_of(params.dtype).encode(values, round_to_bf16=params.round_to_bf16)
        except ValueError as error:
            raise StoreError(f"{name}: {error}") from error
        return [codes] if scale is None else [codes, scale]

    def _unit_problem(self, unit: tuple[int, int], *, checksums: bool) -> str | None:
        indices = self._schema.indices(*unit)
        for name, layout in self._schema.layouts.items():
            key, known = self._key(layout, *indices), self._checksums(name, self._schema.unit_index(*indices))
            problem = shard_problem(self._files, key, layout, content=checksums, checksums=known)
            if problem:
                return problem
        return None

    def _key(self, layout: ArrayLayout, step_index: int, layer_index: int) -> str:
        return join(self._group, layout.shard_key(step_index, layer_index))

    def _name(self, step: int, layer: int) -> str:
        return f"{self._files.path(self._group)}, step {step}, layer {layer}"


def create_group(
    root: StorePath,
    group: str,
    spec: DescriptorSpec,
    *,
    params: StoreParams | None = None,
    replace: bool = False,
    made_by: Mapping[str, Any] | None = None,
    text: TextTokens | None = None,
    reused: bool = False,
    anew: bool = False,
    wait_s: float = 0.0,
    say: Say = lambda line: None,
) -> GroupWriter:
    """Create a group, or take up one that an earlier run of the same spec and params left, in its own schema version.

    Damaged metadata is repaired, what killed writers left is removed, good units are kept (`GroupWriter.missing`).
    The group is this process's until its writer is done; its threads, and processes that it tells to call
    `open_writer`, share it.

    Args:
        root: The store: a directory or an fsspec URL; created where it does not exist.
        group: Name of the group; may be nested (`clip/chunk_000`).
        spec: What the group will hold.
        params: How it is stored.
        replace: Remove a group of another fingerprint instead of refusing.
        made_by: What writes the values, as JSON; by default what the group's header says of it already.
        text: Which words the text tokens stand for; by default what the group's header says of it already.
        reused: Say that values which are there were made by something else than would make them today.
        anew: Declare a complete group incomplete, since all its units are about to be written again.
        wait_s: How long to wait while another process writes the group.
        say: Told which process that is, and of a lock that one left that was killed.

    Raises:
        StoreError: the group was written with another spec or params, and `replace` is false; or another process
            writes it.
    """
    files, params = open_files(root), params or StoreParams()
    parents(group)
    with held_group(files, group, wait_s=wait_s, say=say) as lock:
        header = _existing(files, group)
        own = header is not None and header.contents["fingerprint"] == fingerprint_of(spec, params)
        known_of = header.contents if header is not None and own else {}
        made_by = known_of.get("made_by") if made_by is None else made_by
        words = known_of.get("text") if text is None else text.to_json()
        schema = GroupSchema(spec, params, _version_of(files, group, spec), made_by, reused, words)
        if _take_up(files, group, schema, replace=replace, anew=anew):
            schema = GroupSchema(spec, params, made_by=made_by, text=words)
            _take_up(files, group, schema, replace=False)
        header = _existing(files, group)
        known = {} if header is None else header.unit_checksums(schema.unit_shapes)
        lock.acquire()  # once more: the writer lets go of this one
        return GroupWriter(root, group, schema, checksums=known, lock=lock)


def _take_up(files: Files, group: str, schema: GroupSchema, *, replace: bool, anew: bool = False) -> bool:
    """Make a group as it is to be, but for its units; or remove another that is there, and return whether that was so.

    With `anew` the header forgets the checksums of units that are about to be written again: a run that is killed
    meanwhile leaves some of either kind, and both are good.

    Raises:
        StoreError: another is there, and `replace` is false.
    """
    header, header_key = _existing(files, group), join(group, "zarr.json")
    content = group_files(schema)
    problem = _problem(files, group, schema, header, list(content))
    if problem and not replace:
        raise StoreError(f"{files.path(group)} {problem}; replace it or choose another store")
    if problem:
        files.remove(header_key)
        files.remove(group)
        return True
    write_parents(files, group)
    known = {} if header is None or anew else header.unit_checksums(schema.unit_shapes)
    fresh = schema.header(content, complete=False, units=known)
    if (
        header is None
        or (header.files, header.contents) != (fresh.files, fresh.contents)
        or (anew and _is_known(header))
    ):
        files.write(header_key, fresh.to_bytes())  # first, so that whatever follows can be told by its fingerprint
    found = read_each(files, [join(group, key) for key in content])[0]
    for key, expected in content.items():
        if found.get(join(group, key)) != expected:
            files.write(join(group, key), expected)
    files.remove_partials(group, abandoned_only=True)
    return False


def _is_known(header: Header) -> bool:
    """Whether a header vouches for units as they are."""
    return header.complete or bool(header.units)


def open_writer(root: StorePath, group: str) -> GroupWriter:
    """A writer for a group that `create_group` made, in another process for instance; changes nothing.

    It takes no lock: it belongs to the process that called `create_group`, which holds the group for both.

    Raises:
        StoreError: the group does not exist or its header is damaged.
    """
    files = open_files(root)
    parents(group)
    found = read_schema(files, group)
    if found is None:
        raise StoreError(f"{files.path(group)} does not exist; create_group makes it")
    header, schema = found
    return GroupWriter(root, group, schema, checksums=header.unit_checksums(schema.unit_shapes))


def _each(pool: Executor | None, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Apply a function side by side, and wait for all, whatever happens to one: the caller takes its memory back."""
    if pool is None:
        return [function(item) for item in items]
    under_way: list[Future[ResultT]] = []
    try:
        for item in items:
            under_way.append(pool.submit(function, item))  # noqa: PERF401 - those that are under way count at once
    finally:
        wait(under_way)
    return [future.result() for future in under_way]


def _existing(files: Files, group: str) -> Header | None:
    """The header of a group that may be taken up; None where there is none, or none that can be read."""
    key = join(group, "zarr.json")
    content = read_each(files, [key])[0].get(key)
    if content is not None and plain_group_problem(content) is None:
        raise StoreError(f"{files.path(key)} is a group of groups; descriptors cannot be written into it")
    try:
        found = read_schema(files, group)
    except StoreError:
        return None
    return None if found is None else found[0]


def _problem(files: Files, group: str, schema: GroupSchema, header: Header | None, keys: list[str]) -> str | None:
    """Why a group cannot be taken up with this very schema, if so.

    Where the header is lost, the fingerprint that every array carries says whose the group is.
    """
    if header is not None:
        return _difference(header, schema)
    found, _ = read_each(files, [join(group, key) for key in keys if key.endswith("/zarr.json")])
    if any(_own_attributes(content, schema) for content in found.values()):
        return None
    if files.directories(group) or any(read_each(files, [join(group, "zarr.json")])):
        return "holds data whose origin cannot be told: its zarr.json is missing or damaged"
    return None


def _version_of(files: Files, group: str, spec: DescriptorSpec) -> int:
    """The schema version of a group; the newest where there is none."""
    header = _existing(files, group)
    return _version_of_arrays(files, group, spec) if header is None else header.version


def _version_of_arrays(files: Files, group: str, spec: DescriptorSpec) -> int:
    """The schema version of a group that lacks its header; the newest where there is no array either."""
    found = read_each(files, [join(group, entry, "zarr.json") for entry in spec.entries])[0].values()
    separators = {_array_value(content, "chunk_key_encoding", "configuration", "separator") for content in found}
    return 1 if "/" in separators else SCHEMA_VERSION


def _difference(header: Header, schema: GroupSchema) -> str | None:
    if header.contents["fingerprint"] == schema.fingerprint:
        return None
    wanted = schema.header({}, complete=False).contents
    there, here = _flatten(header.contents), _flatten(wanted)
    differing = [
        f"{name} is {_short(there.get(name))}, not {_short(here.get(name))}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and name.partition(".")[0] in ("spec", "params")
    ]
    return f"was written with other parameters: {'; '.join(islice(differing, 5))}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _short(value: Any) -> str:  # noqa: ANN401
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _own_attributes(content: bytes, schema: GroupSchema) -> bool:
    """Whether an array's zarr.json says that it belongs to a group of this schema, made by the same."""
    known = [name for name in ("fingerprint", "made_by") if name in schema.attributes]
    return all(_array_value(content, "attributes", name) == schema.attributes[name] for name in known)


def _array_value(content: bytes, *path: str) -> str | None:
    """One text of an array's zarr.json; None where it cannot be had."""
    try:
        value = parse_json(content)
        for name in path:
            value = value[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
