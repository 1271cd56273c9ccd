"""Read and write small labelled results (matches, scores per point) as checksummed zarr groups.

A group is built in memory and then written, with the header last, so this is suitable for tens of megabytes.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from difftrack.store._errors import StoreError
from difftrack.store._filesystem import Files, StorePath, open_files
from difftrack.store._group_metadata import (
    Header,
    check_parents,
    join,
    parents,
    plain_group_problem,
    read_each,
    read_header,
    small_file_problems,
    write_parents,
)
from difftrack.store._locks import held_group
from difftrack.store._verify import group_names

if TYPE_CHECKING:
    import xarray

__all__ = ["read_results", "result_groups", "write_results"]

SCHEMA = "results"

WAIT_S = 600.0
"""Maximum time in seconds to wait for a process that writes the same group, which takes seconds."""


def write_results(
    path: StorePath, group: str, dataset: "xarray.Dataset", attrs: Mapping[str, Any] | None = None
) -> None:
    """Write one group of results, which replaces an existing one; the same input gives the same bytes.

    Args:
        path: The store: a directory or an fsspec URL.
        group: Name of the group; may be nested.
        dataset: Numbers, booleans or strings with labels; a lazy dataset is loaded.
        attrs: Provenance as JSON, added to the dataset's attributes.

    Raises:
        StoreError: the group contains groups or descriptors.
        ValueError: an attribute is not JSON.
    """
    files = open_files(path)
    parents(group)
    attributes = {**dataset.attrs, **(attrs or {})}
    small_files = _encode(dataset)
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in small_files.items()}
    header = Header(SCHEMA, {}, digests, complete=True, attributes=attributes).to_bytes()
    if _is_there(files, group, header):
        return
    with held_group(files, group, wait_s=WAIT_S):
        _write(files, group, header, small_files)


def _is_there(files: Files, group: str, header: bytes) -> bool:
    """Whether a group is complete and has this header, which proves its files."""
    key = join(group, "zarr.json")
    try:
        check_parents(files, group)
        if files.read([key]).get(key) != header:
            return False
    except StoreError:
        return False
    return not small_file_problems(files, group, Header.from_bytes(header))


def _write(files: Files, group: str, header: bytes, small_files: Mapping[str, bytes]) -> None:
    """Replace a group's files, with the header last."""
    key = join(group, "zarr.json")
    content = read_each(files, [key])[0].get(key)
    if content is not None and plain_group_problem(content) is None:
        raise StoreError(f"{files.path(key)} is a group of groups; results cannot be written into it")
    if _holds_descriptors(content):
        raise StoreError(f"{files.path(group)} contains descriptors; write results to another group")
    if content is None and (other := _stranger(files, group)):
        raise StoreError(f"{files.path(other)} is not part of results and was not overwritten; move it elsewhere")
    write_parents(files, group)
    files.remove(key)
    files.remove(group)
    for name, body in small_files.items():
        files.write(join(group, name), body)
    files.write(key, header)


def _stranger(files: Files, group: str) -> str | None:
    """Return a folder without a zarr array in a group without header; a killed `write_results` leaves none."""
    folders = [join(group, name) for name in files.directories(group)]
    arrays = files.read([f"{folder}/zarr.json" for folder in folders])
    return next((folder for folder in folders if f"{folder}/zarr.json" not in arrays), None)


def read_results(path: StorePath, group: str) -> "xarray.Dataset":
    """Read one group of results into memory.

    Raises:
        StoreError: the group is missing, incomplete or damaged.
    """
    import xarray as xr  # takes half a second to import
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    files = open_files(path)
    header = read_header(files, group, schema=SCHEMA)
    if header is None:
        known = ", ".join(result_groups(path)[:20])
        raise StoreError(f"{files.path(group)} does not exist or is incomplete; available: {known or 'none'}")
    check_parents(files, group)
    for key, problem in small_file_problems(files, group, header).items():
        raise StoreError(f"{files.path(key)} {problem}")
    keys = {join(group, name): name for name in header.files}
    buffer = default_buffer_prototype().buffer
    content = {keys[key]: buffer.from_bytes(body) for key, body in files.read(list(keys)).items()}
    content["zarr.json"] = buffer.from_bytes(Header("", {}, {}, complete=True).to_bytes())
    dataset: xr.Dataset = xr.open_zarr(MemoryStore(content), consolidated=False, chunks=None).load()
    dataset.attrs = dict(header.attributes)
    return dataset


def result_groups(path: StorePath) -> list[str]:
    """List the names of all groups of results, sorted."""
    return group_names(open_files(path), SCHEMA)


def _encode(dataset: "xarray.Dataset") -> dict[str, bytes]:
    """Return the files of a dataset, without the group's own zarr.json."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    # zarr v3 has no stable type for numpy's fixed-width strings.
    plain = (
        dataset.drop_attrs()
        .map(_strings_as_objects)
        .assign_coords({name: _strings_as_objects(values) for name, values in dataset.drop_attrs().coords.items()})
    )
    encoding = {}
    for name, values in plain.variables.items():
        width = 1 if values.dtype.kind == "O" else values.dtype.itemsize
        blosc = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=width)
        encoding[name] = {
            "compressors": [blosc, Crc32cCodec()],
            "chunks": tuple(max(1, n) for n in values.shape),
            "chunk_key_encoding": {"name": "default", "separator": "."},
        }
    content: dict[str, Any] = {}
    with zarr.config.set({"array.write_empty_chunks": True}):
        plain.to_zarr(MemoryStore(content), zarr_format=3, consolidated=False, encoding=encoding)
    return {name: bytes(value.to_bytes()) for name, value in content.items() if name != "zarr.json"}


def _strings_as_objects(values: "xarray.DataArray") -> "xarray.DataArray":
    return values.astype(object) if values.dtype.kind == "U" else values


def _holds_descriptors(content: bytes | None) -> bool:
    try:
        return content is not None and Header.from_bytes(content).schema != SCHEMA
    except ValueError:
        return False
