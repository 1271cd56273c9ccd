"""Create, write, resume and finish a group of descriptors."""

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

    A unit is one (step, layer) and consists of one shard of each array. Writers in several processes may share a group
    if each unit is written by only one of them: call `create_group` once, `open_writer` in each process, and `finish`
    once.

    A writer from `create_group` holds the group's lock until `finish` or `close`, or until it is garbage collected.
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
        """Open a writer for an existing group.

        Args:
            root: The store.
            group: Name of the group.
            schema: Schema of the group.
            checksums: Checksums of units in the group's header.
            lock: The acquired lock of the group; this writer releases it.
        """
        self._files = open_files(root)
        self._group = group
        self._schema = schema
        self._known = checksums
        self._written: dict[tuple[str, int], UInt32[np.ndarray, " chunk"]] = {}
        self._lock = lock
        self._release_lock = None if lock is None else finalize(self, lock.release)

    def close(self) -> None:
        """Release the group's lock; does nothing if this writer no longer holds it."""
        if self._release_lock is not None:
            self._release_lock()

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
        """Params with which the group is stored."""
        return self._schema.params

    @property
    def spec(self) -> DescriptorSpec:
        """Spec of the group."""
        return self._schema.spec

    def missing(self, *, checksums: bool = True) -> list[tuple[int, int]]:
        """List the units that are missing or damaged, in order.

        Args:
            checksums: Check every byte of the existing shards (about 2 GB/s from a warm disk). False checks only each
                shard's size and index in 0.1 ms, which finds everything except changed bytes in chunks.
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
        """Write one unit, which replaces existing data.

        Each file is written atomically, so a killed writer leaves no file that seems complete but is not. Several
        threads may write units of one group at the same time.

        Args:
            step: One of the spec's steps.
            layer: One of the spec's layers.
            values: Entry -> array with `spec.entry_shape(entry)` in float16, float32 or float64, or in uint16 with the
                bits of bfloat16.
            checked: True skips conversion and the check for finite values; both are cheap on the device that computed
                the values.
            pool: Threads that convert, encode and write the unit's chunks in parallel; None works sequentially.

        Raises:
            StoreError: an entry is missing, unknown, has another shape, or contains values that the dtype cannot
                represent.
        """
        try:
            indices = self._schema.indices(step, layer)
        except ValueError as error:
            raise StoreError(f"{self._name(step, layer)}: {error}") from error
        if set(values) != set(self.spec.entries):
            expected = ", ".join(self.spec.entries)
            raise StoreError(
                f"{self._name(step, layer)}: got {', '.join(sorted(values)) or 'nothing'}; expected {expected}"
            )
        number = self._schema.unit_index(*indices)
        encoded = _each(pool, lambda entry: self._encode(step, layer, entry, values[entry], checked), self.spec.entries)
        arrays = [
            array
            for entry, entry_arrays in zip(self.spec.entries, encoded, strict=True)
            for array in zip(self._schema.entry_layouts(entry), entry_arrays, strict=True)
        ]

        from difftrack.store._encoder import encode_chunk, join_chunks  # configures Blosc, which readers need not

        encoded_chunks: list[dict[int, tuple[bytes, bytes]]] = [{} for _ in arrays]
        chunks_lock = ThreadLock()

        def encode_and_write(job: tuple[int, int]) -> None:
            """Encode a chunk; the thread that encodes an array's last chunk writes the shard and frees its bytes."""
            which, index = job
            layout, numbers = arrays[which]
            chunk, chunks = encode_chunk(layout, numbers, index), encoded_chunks[which]
            with chunks_lock:
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
        """Check that every unit exists, declare the group complete, and release its lock.

        The header then contains the checksums of all units. For units of this writer, they are the checksums computed
        during writing.

        Raises:
            StoreError: units are missing (the message names them), or another run has replaced the group.
        """
        missing = self.missing(checksums=False)
        if missing:
            named = ", ".join(f"(step {step}, layer {layer})" for step, layer in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise StoreError(f"{self._files.path(self._group)}: {named}{more} not written; write them before finishing")
        self._files.remove_partials(self._group, abandoned_only=False)
        checksums = self._unit_checksums()
        header = self._schema.header(group_files(self._schema), complete=True, units=checksums).to_bytes()
        self._refuse_another_run()
        key = join(self._group, "zarr.json")
        if self._files.read([key]).get(key) != header:
            self._files.write(key, header)
        self.close()

    def _unit_checksums(self) -> UnitChecksums:
        """Collect the checksums of all units: from this writer, else from the header, else from the shards."""
        checksums = {}
        for name, layout in self._schema.layouts.items():
            units = []
            for number, unit in enumerate(self.spec.units):
                unit_checksums = self._checksums(name, number)
                if unit_checksums is None:
                    key = self._key(layout, *self._schema.indices(*unit))
                    unit_checksums = shard_checksums(self._files, key, layout.num_chunks)
                units.append(unit_checksums)
            checksums[name] = np.stack(units)
        return checksums

    def _checksums(self, name: str, number: int) -> UInt32[np.ndarray, " chunk"] | None:
        """Return the known checksums of a unit, without reading it."""
        written = self._written.get((name, number))
        return self._known[name][number] if written is None and self._known else written

    def _refuse_another_run(self) -> None:
        """Check that no other run has replaced the group."""
        if self._lock is not None:
            try:
                self._lock.check()
            except LockError as error:
                raise StoreError(str(error)) from error
        found = read_schema(self._files, self._group)
        if found is None or found[0].contents["fingerprint"] != self._schema.fingerprint:
            raise StoreError(
                f"{self._files.path(self._group)} was replaced by another run; run this one again after that run"
            )

    def _encode(
        self, step: int, layer: int, entry: str, values: Num[np.ndarray, "..."], checked: bool
    ) -> list[Num[np.ndarray, "..."]]:
        name = f"{self._name(step, layer)}: {entry}"
        shape = self.spec.entry_shape(entry)
        if values.shape != shape:
            raise StoreError(f"{name} has shape {list(values.shape)}; expected {list(shape)}")
        if values.dtype.name not in ("float16", "float32", "float64", "uint16"):
            raise StoreError(
                f"{name} is {values.dtype}; it must be float16, float32, float64 or uint16 (bfloat16 bits)"
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
    """Create a group, or continue a group with the same spec and params from an earlier run, in its schema version.

    Damaged metadata is repaired, partial files of killed writers are removed, and valid units are kept
    (`GroupWriter.missing`). This process owns the group until its writer is closed. Its threads may share the writer,
    and other processes may call `open_writer`.

    Args:
        root: The store: a directory or an fsspec URL; created if missing.
        group: Name of the group; may be nested (`clip/chunk_000`).
        spec: Spec of the group.
        params: Format of the store.
        replace: Replace a group with another fingerprint instead of raising an error.
        made_by: How the values are made, as JSON; by default the record in the group's header.
        text: Words of the text tokens; by default the record in the group's header.
        reused: Record that existing values are reused although they would be made differently now.
        anew: Declare a complete group incomplete, because all its units will be written again.
        wait_s: Maximum time to wait for another process that writes the group, in seconds.
        say: Called with the process that is awaited, and with a killed process whose lock was recovered.

    Raises:
        StoreError: the group was written with another spec or params and `replace` is false, or another process writes
            it.
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
        lock.acquire()  # a second time; the writer releases this one
        return GroupWriter(root, group, schema, checksums=known, lock=lock)


def _take_up(files: Files, group: str, schema: GroupSchema, *, replace: bool, anew: bool = False) -> bool:
    """Write a group's metadata; if another group is in its place, remove that group instead and return True.

    With `anew`, the header drops the checksums of units, because a killed run may leave both old and new units, which
    are all valid.

    Raises:
        StoreError: another group is in its place, and `replace` is false.
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
        files.write(header_key, fresh.to_bytes())  # first, so that all later files can be identified by the fingerprint
    found = read_each(files, [join(group, key) for key in content])[0]
    for key, expected in content.items():
        if found.get(join(group, key)) != expected:
            files.write(join(group, key), expected)
    files.remove_partials(group, abandoned_only=True)
    return False


def _is_known(header: Header) -> bool:
    """Whether a header records that units are valid."""
    return header.complete or bool(header.units)


def open_writer(root: StorePath, group: str) -> GroupWriter:
    """Open a writer for a group from `create_group`, for example in another process, without changing the group.

    The writer acquires no lock, because the process that called `create_group` holds it.

    Raises:
        StoreError: the group does not exist or its header is damaged.
    """
    files = open_files(root)
    parents(group)
    found = read_schema(files, group)
    if found is None:
        raise StoreError(f"{files.path(group)} does not exist; call create_group first")
    header, schema = found
    return GroupWriter(root, group, schema, checksums=header.unit_checksums(schema.unit_shapes))


def _each(pool: Executor | None, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """Apply a function in parallel. Wait for all calls even if one fails, because the caller then reuses the memory."""
    if pool is None:
        return [function(item) for item in items]
    futures: list[Future[ResultT]] = []
    try:
        for item in items:
            futures.append(pool.submit(function, item))  # noqa: PERF401 - submitted calls must be waited for even if a later submit fails
    finally:
        wait(futures)
    return [future.result() for future in futures]


def _existing(files: Files, group: str) -> Header | None:
    """Read the header of an existing group; None if there is none that can be read."""
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
    """Return why an existing group cannot be continued with this schema; None if it can.

    If the header is lost, the fingerprint in the attributes of every array identifies the group.
    """
    if header is not None:
        return _difference(header, schema)
    found, _ = read_each(files, [join(group, key) for key in keys if key.endswith("/zarr.json")])
    if any(_own_attributes(content, schema) for content in found.values()):
        return None
    if files.directories(group) or any(read_each(files, [join(group, "zarr.json")])):
        return "contains data of unknown origin: its zarr.json is missing or damaged"
    return None


def _version_of(files: Files, group: str, spec: DescriptorSpec) -> int:
    """Return the schema version of a group; the newest version if it does not exist."""
    header = _existing(files, group)
    return _version_of_arrays(files, group, spec) if header is None else header.version


def _version_of_arrays(files: Files, group: str, spec: DescriptorSpec) -> int:
    """Return the schema version of a group without header, from its arrays; the newest version if there are none."""
    found = read_each(files, [join(group, entry, "zarr.json") for entry in spec.entries])[0].values()
    separators = {_array_value(content, "chunk_key_encoding", "configuration", "separator") for content in found}
    return 1 if "/" in separators else SCHEMA_VERSION


def _difference(header: Header, schema: GroupSchema) -> str | None:
    if header.contents["fingerprint"] == schema.fingerprint:
        return None
    requested = schema.header({}, complete=False).contents
    stored, new = _flatten(header.contents), _flatten(requested)
    differing = [
        f"{name} is {_short(stored.get(name))}, not {_short(new.get(name))}"
        for name in sorted(stored.keys() | new.keys())
        if stored.get(name) != new.get(name) and name.partition(".")[0] in ("spec", "params")
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
    """Whether an array's zarr.json identifies it as part of a group with this schema and record."""
    known = [name for name in ("fingerprint", "made_by") if name in schema.attributes]
    return all(_array_value(content, "attributes", name) == schema.attributes[name] for name in known)


def _array_value(content: bytes, *path: str) -> str | None:
    """Read one string from an array's zarr.json; None if it cannot be read."""
    try:
        value = parse_json(content)
        for name in path:
            value = value[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
