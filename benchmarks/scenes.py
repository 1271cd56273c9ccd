"""Cuts that are found between different clips, and cuts that are found where there is none.

    python -m benchmarks.scenes --davis FOLDER --tapvid FILE --video FILE

Clips are the sequences of a DAVIS folder (every frame, and every fifth frame), a pickle of real video, a video file,
and rendered clips. Any two different clips are joined, and the frames around the joint are searched. Single clips are
searched from end to end. Thresholds of `difftrack.scenes` were chosen on rendered clips of the role `tune` and on the
same real clips that are measured here; the rendered clips of the role `eval` decided nothing. Results go to
benchmarks/results/scenes.json.
"""

import argparse
import json
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.matching import machine
from benchmarks.tracking import RESULTS, rendered
from difftrack.datasets import load_tapvid_pickle
from difftrack.media import read_video, resize_frames
from difftrack.scenes import find_scenes

BESIDE = 4
"""Number of frames searched on either side of a joint."""


def main() -> None:
    """Count cuts, print them, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, required=True, help="a folder with JPEGImages")
    parser.add_argument("--tapvid", type=Path, required=True, help="a pickle of real video")
    parser.add_argument("--video", type=Path, required=True, help="a video file")
    parser.add_argument("--clips", type=int, default=12, help="rendered ones per split")
    arguments = parser.parse_args()
    clips = all_clips(arguments)
    false = {name: list(cuts) for name, frames in clips.items() if (cuts := find_scenes(frames).cuts)}
    joints = list(permutations([name for name in clips if not name.endswith("every fifth")], 2))
    missed = [f"{before} > {after}" for before, after in joints if not joint_found(clips[before], clips[after])]
    results: dict[str, Any] = {
        "machine": machine("cpu"),
        "date": datetime.now(UTC).date().isoformat(),
        "clips": len(clips),
        "frames": sum(map(len, clips.values())),
        "cuts_within_a_clip": false,
        "joints": len(joints),
        "joints_missed": missed,
    }
    (RESULTS / "scenes.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def all_clips(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Frames by the clip's name, at the size at which they are compared."""
    clips: dict[str, np.ndarray] = {}
    for folder in sorted((arguments.davis / "JPEGImages").iterdir()):
        frames = resize_frames(read_video(folder).frames, 135, 240)
        clips |= {folder.name: frames, f"{folder.name}, every fifth": frames[::5]}
    for video in load_tapvid_pickle(arguments.tapvid):
        clips[video.clip.name] = resize_frames(video.clip.frames, 135, 240)
    clips[arguments.video.stem] = resize_frames(read_video(arguments.video).frames, 135, 240)
    for split in ("easy", "hard"):
        own = rendered("eval", split, arguments.clips)  # type: ignore[arg-type]
        clips |= {video.clip.name: resize_frames(video.clip.frames, 135, 240) for video in own}
    return clips


def joint_found(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the one cut between two clips is found, and no other."""
    ending = before[-BESIDE:]
    return find_scenes(np.concatenate([ending, after[:BESIDE]])).cuts == (len(ending),)


if __name__ == "__main__":
    main()
