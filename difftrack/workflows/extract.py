"""Write what a backbone makes of one clip into a store."""

from collections.abc import Callable
from concurrent.futures import Future

from difftrack.extraction import CapturedUnit, ClipExtraction
from difftrack.store import GroupWriter, StoreParams, StorePath, create_group, planned_bytes
from difftrack.store.torch_writer import WriteQueue

__all__ = ["queue_descriptors", "write_descriptors"]


def write_descriptors(
    extraction: ClipExtraction,
    root: StorePath,
    *,
    params: StoreParams | None = None,
    replace: bool = False,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write all groups of one clip, and return when they are complete; units that are there already stay.

    Args:
        extraction: The clip, prepared.
        root: Folder or fsspec URL of the store.
        params: How values are stored.
        replace: Replace groups of this clip that were written with other params, instead of refusing.
        report: Called with the uncompressed bytes of each unit that is there.

    Raises:
        StoreError: a group holds other descriptors, and `replace` is false.
    """
    queue = WriteQueue(num_threads=0, depth=1)
    try:
        for group in queue_descriptors(extraction, root, queue, params=params, replace=replace, report=report):
            group.result()
    finally:
        queue.close()


def queue_descriptors(
    extraction: ClipExtraction,
    root: StorePath,
    queue: WriteQueue,
    *,
    params: StoreParams | None = None,
    replace: bool = False,
    report: Callable[[int], None] | None = None,
) -> list[Future[None]]:
    """Run the backbone over one clip and hand its units to a queue of writers.

    Args:
        extraction: The clip, prepared.
        root: Folder or fsspec URL of the store.
        queue: Writes, beside the model where it has threads.
        params: How values are stored.
        replace: Replace groups of this clip that were written with other params, instead of refusing.
        report: Called with the uncompressed bytes of each unit that is there.

    Returns:
        One future per group, done when the group is complete on disk.
    """
    stored, told = params or StoreParams(), report or (lambda _: None)
    groups = []
    for group, spec in extraction.groups.items():
        writer = create_group(root, group, spec, params=stored, replace=replace)
        missing = writer.missing()
        told(planned_bytes(spec, stored) // len(spec.units) * (len(spec.units) - len(missing)))

        def put(unit: CapturedUnit, writer: GroupWriter = writer) -> None:
            queue.put(writer, unit.step, unit.layer, unit.tensors, written=told)

        extraction.run(group, missing, put)
        groups.append(queue.finish(writer))
    return groups
