"""VBench's own dimensions, where somebody has installed it and its weights."""

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
"""Those that VBench gives for videos of one's own."""


def vbench_scores(
    videos: Mapping[str, Path], *, dimensions: Sequence[str] = VBENCH_DIMENSIONS, executable: str = "vbench"
) -> dict[str, dict[str, float]]:
    """Run VBench on videos of one's own.

    It runs as a program, since it pins versions of transformers and numpy that this project cannot share: install it
    in an environment of its own. Its networks' weights are fetched by VBench itself at their first use.

    Args:
        videos: mp4 files by the name under which each is scored.
        dimensions: Some of `VBENCH_DIMENSIONS`.
        executable: The `vbench` program, by name or path.

    Returns:
        Dimension -> name of the video -> score. Scores of `imaging_quality` are fractions: VBench writes 0 ... 100 per
        video and divides only the mean by 100, which is what it publishes.

    Raises:
        QualityError: a dimension is unknown, there is no such program, or it fails.
    """
    unknown = sorted(set(dimensions) - set(VBENCH_DIMENSIONS))
    if unknown or not dimensions:
        raise QualityError(f"VBench dimensions {unknown or '[]'}; wanted: some of {', '.join(VBENCH_DIMENSIONS)}")
    program = shutil.which(executable)
    if program is None:
        raise QualityError(
            f"there is no program {executable!r}: VBench is not installed here. Install the package vbench in an "
            f"environment of its own and name its program; the measures of difftrack.quality need none of it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch, "videos"), Path(scratch, "results")
        inputs.mkdir()
        for name, video in videos.items():
            shutil.copy(video, inputs / f"{name}.mp4")
        command = [program, "evaluate", "--videos_path", str(inputs), "--output_path", str(outputs)]
        command += ["--mode=custom_input", "--dimension", " ".join(dimensions)]  # one word; VBench splits it itself
        path = f"{Path(program).resolve().parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it calls its own `python`
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
        results = sorted(outputs.glob("*_eval_results.json"))
        if done.returncode or not results:
            raise QualityError(f"VBench ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        return {
            name: _by_video(name, result)
            for name, result in json.loads(results[-1].read_text(encoding="utf-8")).items()
        }


def _by_video(dimension: str, result: Any) -> dict[str, float]:  # noqa: ANN401
    """One dimension's result: the mean, and a record per video."""
    _, records = result
    unit = 100 if dimension == "imaging_quality" else 1
    return {Path(record["video_path"]).stem: float(record["video_results"]) / unit for record in records}
