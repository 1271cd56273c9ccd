"""What all tests share: which files begin, and a heap that is not searched again and again."""

import gc
import os
import tempfile

import pytest
import type_checks

type_checks.install()  # before any module of the library is imported
os.environ.setdefault("DIFFTRACK_CACHE", tempfile.mkdtemp(prefix="difftrack-cache-"))  # not the user's

BEGIN = ("test_pipeline_runs.py", "test_package.py", "test_presets.py", "test_interrupts.py", "test_extract_workers.py")
"""Files that run whole pipelines in processes of their own, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then those of many tests: workers that take a file at a time end together."""
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.path.name] = sizes.get(item.path.name, 0) + 1
    items.sort(key=lambda item: _place(item.path.name, sizes))


def _place(name: str, sizes: dict[str, int]) -> tuple[int, int, str]:
    return BEGIN.index(name) if name in BEGIN else len(BEGIN), -sizes[name], name


def pytest_collection_finish() -> None:
    """Leave out of every later collection of garbage what the imports made: a quarter of a second each."""
    gc.collect()
    gc.freeze()
