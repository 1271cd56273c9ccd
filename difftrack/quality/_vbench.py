"""Run VBench, if it is installed, and read its dimensions."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from difftrack.quality._errors import QualityError

__all__ = ["VBENCH_DIMENSIONS", "vbench_scores"]

VBENCH_DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
"""Dimensions that VBench computes for custom videos."""


def vbench_scores(
    videos: Mapping[str, Path], *, dimensions: Sequence[str] = VBENCH_DIMENSIONS, executable: str = "vbench"
) -> dict[str, dict[str, float]]:
    """Run VBench on custom videos.

    VBench pins versions of transformers and numpy that this project cannot use, so it runs as a separate program:
    install it in its own environment. VBench downloads the weights of its networks at their first use.

    Args:
        videos: Name -> mp4 file.
        dimensions: A selection of `VBENCH_DIMENSIONS`.
        executable: The `vbench` program, by name or path.

    Returns:
        Dimension -> name of the video -> score. Scores of `imaging_quality` are fractions: VBench writes 0 ... 100 for
        each video and divides only the published mean by 100.

    Raises:
        QualityError: a dimension is unknown, the program does not exist, or it fails.
    """
    unknown = sorted(set(dimensions) - set(VBENCH_DIMENSIONS))
    if unknown or not dimensions:
        raise QualityError(f"dimensions are {list(dimensions)}; choose from {', '.join(VBENCH_DIMENSIONS)}")
    program = shutil.which(executable)
    if program is None:
        raise QualityError(
            f"program {executable!r} was not found: VBench is not installed. Install the package vbench in a separate "
            f"environment and pass the path of its program; difftrack's own measures do not need it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch, "videos"), Path(scratch, "results")
        inputs.mkdir()
        for name, video in videos.items():
            shutil.copy(video, inputs / f"{name}.mp4")
        command = [program, "evaluate", "--videos_path", str(inputs), "--output_path", str(outputs)]
        command += ["--mode=custom_input", "--dimension", " ".join(dimensions)]  # one argument; VBench splits it itself
        path = f"{Path(program).resolve().parent}{os.pathsep}{os.environ.get('PATH', '')}"  # VBench calls `python`
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
        results = sorted(outputs.glob("*_eval_results.json"))
        if done.returncode or not results:
            raise QualityError(f"VBench ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        return {
            name: _by_video(name, result)
            for name, result in json.loads(results[-1].read_text(encoding="utf-8")).items()
        }


def _by_video(dimension: str, result: Any) -> dict[str, float]:  # noqa: ANN401
    """Convert one dimension's result, which consists of the mean and a record for each video."""
    _, records = result
    unit = 100 if dimension == "imaging_quality" else 1
    return {Path(record["video_path"]).stem: float(record["video_results"]) / unit for record in records}
