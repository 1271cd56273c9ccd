"""Writes a backbone's descriptors of one clip into a store."""

from collections.abc import Callable
from concurrent.futures import Future

from difftrack.extraction import CapturedUnit, ClipExtraction, GroupShelf
from difftrack.store import GroupWriter, planned_bytes
from difftrack.store.torch_writer import WriteQueue

__all__ = ["queue_descriptors", "write_descriptors"]


def write_descriptors(
    extraction: ClipExtraction, shelf: GroupShelf, *, report: Callable[[int], None] = lambda _: None
) -> None:
    """Write all groups of one clip, and return when they are complete; existing units stay.

    Args:
        extraction: The prepared clip.
        shelf: The store, and its rules for reuse.
        report: Called with the uncompressed bytes of each finished unit.

    Raises:
        StoreError: a group holds other descriptors, and the shelf does not replace them.
    """
    queue = WriteQueue(num_threads=0, depth=1)
    try:
        for group in queue_descriptors(extraction, shelf, queue, report=report):
            group.result()
    finally:
        queue.close()


def queue_descriptors(
    extraction: ClipExtraction, shelf: GroupShelf, queue: WriteQueue, *, report: Callable[[int], None]
) -> list[Future[None]]:
    """Run the backbone over one clip and pass its units to a queue of writers.

    Args:
        extraction: The prepared clip.
        shelf: The store, and its rules for reuse.
        queue: Writes units, in parallel with the model if it has threads.
        report: Called with the uncompressed bytes of each finished unit.

    Returns:
        One future per group, done when the group is complete on disk.
    """
    groups = []
    for group, spec in extraction.groups.items():
        writer = shelf.open(group, spec, extraction.text)
        missing = shelf.wanted(writer)
        report(planned_bytes(spec, shelf.params) // len(spec.units) * (len(spec.units) - len(missing)))

        def put(unit: CapturedUnit, writer: GroupWriter = writer) -> None:
            queue.put(writer, unit.step, unit.layer, unit.tensors, written=report)

        try:
            extraction.run(extraction.plan(group).only(missing), put)
        finally:  # an incomplete group is not marked complete, and its lock is released for other runs
            groups.append(queue.finish(writer))
    return groups
