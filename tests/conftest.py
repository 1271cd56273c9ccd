"""What all tests share: the order of files, and a frozen heap that garbage collection does not search again."""

import gc
import multiprocessing.spawn
import os
import tempfile
from collections.abc import Iterator

import pytest
import type_checks

type_checks.install()  # before any module of the library is imported
os.environ.setdefault("DIFFTRACK_CACHE", tempfile.mkdtemp(prefix="difftrack-cache-"))  # not the user's

BEGIN = ("test_pipeline_runs.py", "test_package.py", "test_presets.py", "test_interrupts.py", "test_extract_workers.py")
"""Files that run whole pipelines in separate processes, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then those with many tests, so that workers which take whole files end together."""
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.path.name] = sizes.get(item.path.name, 0) + 1
    items.sort(key=lambda item: _place(item.path.name, sizes))


def _place(name: str, sizes: dict[str, int]) -> tuple[int, int, str]:
    return BEGIN.index(name) if name in BEGIN else len(BEGIN), -sizes[name], name


def pytest_collection_finish() -> None:
    """Freeze what the imports made, so that later garbage collections skip it: they took a quarter of a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def warm_workers() -> Iterator[None]:
    """Start worker processes on an interpreter that has imported the libraries."""
    from warm_python import python

    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(python())
    yield
    multiprocessing.set_executable(before)
