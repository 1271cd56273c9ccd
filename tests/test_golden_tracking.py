"""Parity with numbers that the released code produced (goldens 05 and 06)."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from difftrack.tracking import ChunkParams, chunk_schedule

GOLDEN = Path(os.environ.get("DIFFTRACK_FIXTURES", Path(__file__).parents[2] / "shared" / "golden"))

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden fixtures at {GOLDEN}; set DIFFTRACK_FIXTURES")


def released_cases() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "06_chunk_schedule.json").read_text())["cases"]  # type: ignore[no-any-return]


def released_chunks(case: dict[str, Any]) -> list[list[int]]:
    params = ChunkParams(
        chunk_len=case["chunk_len"],
        schedule="released",
        interleaved=case["chunk_frame_interval"],
        chunk_stride=None if case["chunk_frame_interval"] else case["chunk_stride_arg"],
    )
    chunks = chunk_schedule(case["T"], params)
    assert {chunk[0] for chunk in chunks} == {0}
    return [list(chunk[1:]) for chunk in chunks]


def test_released_schedule_visits_the_windows_of_the_released_code() -> None:
    finished = [case for case in released_cases() if case["status"] == "ok"]
    assert finished
    for case in finished:
        chunks = released_chunks(case)
        assert len(chunks) == case["n_chunks"]
        if "chunks" in case:
            assert chunks == case["chunks"]
        else:
            assert chunks[:3] == case["chunks_first3"]
            assert chunks[-3:] == case["chunks_last3"]


def test_released_schedule_refuses_what_crashes_the_released_code() -> None:
    crashed = [case for case in released_cases() if case["status"] == "crash"]
    assert crashed
    for case in crashed:
        with pytest.raises(ValueError, match=r"chunk_stride|released schedule needs"):
            released_chunks(case)
