"""Memory and speed of `difftrack track` on a long video: peak resident memory of each part, in a process of its own.

    python -m benchmarks.streaming [--frames 3600] [--size 1080x1920] [--chunks 6] [--out FILE.json]

A video is made (moving noise, H.264), then looked at as `track` does it:

    decode    every frame, at its own size, one at a time
    encode    every frame through the autoencoder of the shipped backbone, at the size of params.yaml
    track     all points through the first so many chunks of frames
    decide    tracks of matches in as many frames, made up: the paths, what is visible
    overlay   tracks of that many points, made up, drawn on every frame and written

`all` is `difftrack track` itself, on `--all-frames` frames. Peak memory is the largest resident set of the process
(VmHWM), its imports included.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

GRID = 20
"""Points along each side."""


def moving_frames(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Smooth colours that drift: what H.264 packs well, so that the file is small."""
    rows, cols = np.mgrid[0:height, 0:width].astype(np.float32)
    for frame in range(num_frames):
        phase = frame / 15
        waves = [np.sin(rows / 61 + phase), np.sin(cols / 83 - phase), np.sin((rows + cols) / 97 + 2 * phase)]
        yield np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1)


def main() -> None:
    """Make a video, measure each part, print and write what was found."""
    arguments = _arguments()
    height, width = (int(number) for number in arguments.size.split("x"))
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("torch", "av", "numpy")},
        "date": str(date.today()),
        "frames": arguments.frames,
        "size": [height, width],
        "points": GRID**2,
    }
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video or Path(folder) / "video.mp4"
        if arguments.video is None:
            from difftrack.media import write_frames

            write_frames(video, moving_frames(arguments.frames, height, width), 30.0, lossless=False)
        parts: dict[str, tuple[Callable[..., int], tuple[Any, ...]]] = {
            "decode": (_decode, (video,)),
            "encode": (_encode, (video,)),
            "track": (_track, (video, arguments.chunks)),
            "decide": (_decide, (arguments.frames, height, width)),
            "overlay": (_overlay, (video, folder)),
            "all": (_all, (video, folder, arguments.all_frames)),
        }
        for name in arguments.parts or parts:
            found[name] = _measured(*parts[name])
            print(name, json.dumps(found[name]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3600, help="of the video that is made")
    parser.add_argument("--size", default="1080x1920", help="HxW")
    parser.add_argument("--video", type=Path, help="take this one instead")
    parser.add_argument("--chunks", type=int, default=6, help="of frames, for the part track")
    parser.add_argument("--all-frames", type=int, default=33, help="for the part all")
    parser.add_argument("--parts", nargs="*", choices=["decode", "encode", "track", "decide", "overlay", "all"])
    parser.add_argument("--out", type=Path, help="JSON file of results")
    return parser.parse_args()


def _measured(run: Callable[..., int], arguments: tuple[Any, ...]) -> dict[str, float]:
    """Seconds and peak memory of a part in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_run, (run, arguments))


def _run(run: Callable[..., int], arguments: tuple[Any, ...]) -> dict[str, float]:
    forgetting = Path("/proc/self/clear_refs")
    if forgetting.exists():  # on Linux a process begins with the peak of the one that started it
        forgetting.write_text("5", encoding="ascii")
    before = time.perf_counter(), time.process_time()
    frames = run(*arguments)
    peak = _peak_bytes()
    seconds, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    return {"frames": frames, "seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "peak_gb": round(peak / 1e9, 2)}


def _peak_bytes() -> int:
    """Of the resident set: since `clear_refs` on Linux, else since the process began."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _decode(video: Path) -> int:
    from difftrack.media import open_video

    return sum(1 for _ in open_video(video))


def _tracker() -> Any:  # noqa: ANN401
    from difftrack.backbones import ModelParams, load_backbone
    from difftrack.cli._tracks import EVALUATION
    from difftrack.documents import read_yaml
    from difftrack.extraction import TrackingParams
    from difftrack.params import parse
    from difftrack.resources import shipped
    from difftrack.tracking import TrackParams
    from difftrack.workflows.video import VideoTracker

    values = read_yaml(shipped("params.yaml"))
    own = {key: value for key, value in values["track"].items() if key not in EVALUATION}
    return VideoTracker(
        load_backbone("cogvideox-mini", ModelParams(device="cpu")),
        parse(TrackingParams, values["extract"]["tracking"], "extract.tracking"),
        parse(TrackParams, own, "track"),
    )


def _encode(video: Path) -> int:
    from difftrack.media import open_video

    encoded, _ = _tracker().encode("video", open_video(video))
    return int(encoded.num_frames)


def _track(video: Path, num_chunks: int) -> int:
    from difftrack.annotation import query_grid
    from difftrack.media import open_video

    tracker, stream = _tracker(), open_video(video, max_frames=1 + 8 * num_chunks)
    encoded, scenes = tracker.encode("video", stream)
    tracks = tracker.track(encoded, query_grid(stream.height, stream.width, GRID), scenes=scenes)
    return len(tracks.visible)


def _decide(num_frames: int, height: int, width: int) -> int:
    """As `track` decides: a list of matches, one a frame, is stacked and paths are chosen in it."""
    import torch

    from difftrack.annotation import query_grid
    from difftrack.geometry import rescale_points
    from difftrack.tracking._frame_matches import FrameMatches
    from difftrack.tracking._tracker import decide_tracks

    tracker = _tracker()
    params, view = tracker._params, tracker._view
    grid = tracker._backbone.token_grid(9, view.height, view.width, frames_alone=True)
    queries = query_grid(height, width, GRID)
    queries[:, 1:] = rescale_points(queries[:, 1:], from_size=(height, width), to_size=(view.height, view.width))
    generator, shape = torch.Generator().manual_seed(0), (len(queries), params.num_candidates)

    def one() -> FrameMatches:
        candidates = torch.rand(*shape, 2, generator=generator) * torch.tensor([grid.cols, grid.rows])
        certain = torch.rand(len(queries), generator=generator)
        return FrameMatches(candidates[:, 0], certain, certain, candidates, torch.rand(shape), certain)

    matches = [one() for _ in range(num_frames)]
    stacked = FrameMatches.stack(matches)
    matches.clear()
    return len(decide_tracks(stacked, queries, grid=grid, params=params).visible)


def _overlay(video: Path, folder: str) -> int:
    from difftrack.annotation import query_grid
    from difftrack.media import open_video
    from difftrack.reports import Provenance, export_tracks
    from difftrack.tracking import no_motion

    stream = open_video(video)
    queries = query_grid(stream.height, stream.width, GRID)
    num_frames = stream.num_frames or 0
    provenance = Provenance(
        backbone="none",
        backbone_fingerprint="",
        params={},
        source=video.name,
        source_sha256="",
        fps=stream.fps,
        size=(stream.height, stream.width),
        video_frames=range(num_frames),
    )
    export_tracks(Path(folder), "made-up", stream, queries, no_motion(queries, num_frames=num_frames), provenance)
    return num_frames


def _all(video: Path, folder: str, num_frames: int) -> int:
    from difftrack.cli import app

    ask = ["track", str(video), "--grid", str(GRID), "--max-frames", str(num_frames), "--out", f"{folder}/all"]
    app(ask, standalone_mode=False)
    return num_frames


if __name__ == "__main__":
    main()
