"""Memory and speed of `difftrack track` on a long video: peak memory of each part, in separate processes.

    python -m benchmarks.streaming [--frames 3600] [--size 1080x1920] [--chunks 6] [--out FILE.json]
    python -m benchmarks.streaming --parts all --options "--size 96x144"

A video is made (a window that slides over a large picture, H.264, 30 fps), then read as `track` reads it:

    decode    every frame, at its own size, one at a time
    encode    every frame through the autoencoder of the shipped backbone, at the size of params.yaml
    track     all points through the first `--chunks` chunks of frames
    decide    tracks from invented matches in as many frames: the paths, and what is visible
    overlay   as many invented tracks, drawn on every frame and written

    all       `difftrack track VIDEO --grid 20` itself, in a separate process: every frame read, tracked and drawn

Peak memory is the largest resident set of the process (VmHWM), with its imports. For `all` it is the largest sum over
the process and its children, sampled ten times a second, or the largest peak of any one of them. The tracks of `all`
are compared with the window's path, so that the number is known to come from a run that worked.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

GRID = 20
"""Number of points along each side."""
FPS = 30
PAN_PX = 100
"""Distance that the window slides from the middle of its path, to each side."""
_LOOK_EVERY_S = 0.1


def window_xy(num_frames: int) -> np.ndarray:
    """Upper left corner of the window in each frame, whole pixels of the picture; slow and smooth."""
    seconds = np.arange(num_frames) / FPS
    return (
        np.stack([PAN_PX * (1 + np.sin(seconds / 5)), PAN_PX * (1 + np.cos(seconds / 7))], axis=1).round().astype(int)
    )


def moving_frames(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A window that slides over a picture of blots of all sizes."""
    generator = np.random.default_rng(0)
    shape = (height + 2 * PAN_PX + 1, width + 2 * PAN_PX + 1)
    picture = np.zeros((*shape, 3), dtype=np.float32)
    for blot in (240, 120, 60, 30, 15):
        coarse = generator.integers(0, 256, (-(-shape[0] // blot) + 1, -(-shape[1] // blot) + 1, 3), dtype=np.uint8)
        whole = Image.fromarray(coarse).resize(
            (coarse.shape[1] * blot, coarse.shape[0] * blot), Image.Resampling.BICUBIC
        )
        picture += np.asarray(whole, dtype=np.float32)[: shape[0], : shape[1]] / 5
    shown = picture.astype(np.uint8)
    for x, y in window_xy(num_frames):
        yield shown[y : y + height, x : x + width]


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

            write_frames(video, moving_frames(arguments.frames, height, width), FPS, lossless=False)
        parts: dict[str, tuple[Callable[..., int], tuple[Any, ...]]] = {
            "decode": (_decode, (video,)),
            "encode": (_encode, (video,)),
            "track": (_track, (video, arguments.chunks)),
            "decide": (_decide, (arguments.frames, height, width)),
            "overlay": (_overlay, (video, folder)),
        }
        for name in arguments.parts or (*parts, "all"):
            if name == "all":
                made = None if arguments.video else (arguments.frames, height, width)
                found[name] = _whole(video, Path(folder) / "all", shlex.split(arguments.options), made)
            else:
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
    parser.add_argument("--options", default="", help='of `difftrack track` for the part all, such as "--size 96x144"')
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
    if forgetting.exists():  # on Linux a process starts with the peak of its parent
        forgetting.write_text("5", encoding="ascii")
    before = time.perf_counter(), time.process_time()
    frames = run(*arguments)
    peak = _peak_bytes()
    seconds, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
    return {"frames": frames, "seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "peak_gb": round(peak / 1e9, 2)}


def _peak_bytes() -> int:
    """Peak of the resident set: since `clear_refs` on Linux, else since the process began."""
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
    """Decide as `track` does: matches are set frame by frame, and paths are chosen in them."""
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
        return FrameMatches(
            candidates[:, 0], certain, certain, candidates, torch.rand(shape, generator=generator), certain
        )

    matches = FrameMatches.unset(num_frames, *shape)
    for frame in range(num_frames):
        matches[frame] = one()
    return len(decide_tracks(matches, queries, grid=grid, params=params).visible)


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


def _whole(video: Path, out: Path, options: list[str], made: tuple[int, int, int] | None) -> dict[str, Any]:
    """`difftrack track` on the whole video: seconds, peak memory, and how far its tracks are off.

    Args:
        video: The file.
        out: Folder for the tracks and the overlay.
        options: Further ones of the verb.
        made: (frames, height, width) where `moving_frames` made the video, whose truth is known.

    Raises:
        RuntimeError: the verb failed.
    """
    command = ["track", str(video), "--grid", str(GRID), "--out", str(out), *options]
    before, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    call = [sys.executable, "-c", "from difftrack.cli import app; app()", *command]
    with subprocess.Popen(call, stdout=subprocess.DEVNULL) as process:
        peak = _watched_peak(process)
    if process.returncode != 0:
        raise RuntimeError(f"difftrack {shlex.join(command)} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    if after.ru_maxrss > used.ru_maxrss:
        peak = max(peak, after.ru_maxrss * unit)
    with np.load(out / f"{video.stem}-tracks.npz") as tracks:
        points, visible = tracks["points_xy_px"], tracks["visible"]
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    found: dict[str, Any] = {
        "command": shlex.join(["difftrack", *command[:1], video.name, *command[2:4], *options]),
        "frames": len(points),
        "seconds": round(time.perf_counter() - before, 1),
        "cpu_s": round(cpu, 1),
        "peak_gb": round(peak / 1e9, 2),
        "overlay_mb": round((out / f"{video.stem}-overlay.mp4").stat().st_size / 1e6, 1),
    }
    return found if made is None else {**found, **_off_by(points, visible, *made)}


def _off_by(points: np.ndarray, visible: np.ndarray, num_frames: int, height: int, width: int) -> dict[str, float]:
    """Median distance from the truth, pixels, of points that are inside the frame and called visible."""
    window = window_xy(num_frames)
    truth = points[:1] - (window - window[0])[:, None]
    inside = ((truth >= 0) & (truth < np.array([width, height]))).all(-1)
    distance = np.linalg.norm(points - truth, axis=-1)[inside & visible]
    return {
        "median_error_px": round(float(np.median(distance)), 1),
        "visible_share": round(float(visible[inside].mean()), 3),
    }


def _watched_peak(process: subprocess.Popen[bytes]) -> int:
    """Largest sum of the resident sets of a process and its children until it ends, bytes."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for one in (root, *root.children(recursive=True)):
                total += one.memory_info().rss
        except psutil.NoSuchProcess:  # it ended during the look
            continue
        peak = max(peak, total)
        time.sleep(_LOOK_EVERY_S)
    return peak


if __name__ == "__main__":
    main()
