"""Visibility, paths and smoothing of the tracker, chosen on some clips and reported on others.

    python -m benchmarks.visibility measure --davis FOLDER --tapvid FILE --out FOLDER     raw matches, a file per set
    python -m benchmarks.visibility fit --measured FOLDER                                 the table in the tracker
    python -m benchmarks.visibility report --measured FOLDER                              what it is worth

Each set except `badja` and `flat` has one part that decides and one that reports:

rendered    clips of the roles `tune` and `eval`, with exact truth
pictures    real pictures that move as planes: frame 0 of a sequence, and an object cut out of another one that passes
            over it; textures are real, and truth is exact
davis       real video at full rate and at every fifth frame: a point of the object is in its mask wherever it is
            visible, and a point beside the object is outside
badja       real video with annotated points: only reports
flat        a picture of one colour, in which nothing can be followed: only reports

Sequences of `davis` decide and report in turn, in the order of their names, and so do the pictures that are cut out of
them.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.matching import machine
from benchmarks.tracking import EVALUATED_SIZE, RESULTS, STEP, prepare, rendered
from difftrack.annotation import lucas_kanade, query_grid
from difftrack.backbones import ModelParams, load_backbone, shipped_backbone
from difftrack.chunks import ChunkParams
from difftrack.datasets import Clip, TrackedVideo, Tracks, load_tapvid_pickle
from difftrack.geometry import TokenGrid, inside_picture, rescale_points
from difftrack.media import read_image, read_video
from difftrack.metrics import tapvid_metrics
from difftrack.tracking import (
    CALIBRATION,
    FrameMatches,
    PredictedTracks,
    TrackParams,
    VisibilityParams,
    decide_tracks,
    evidence_of,
    match_clip,
)

Part = Literal["decide", "report"]
PARTS: tuple[Part, ...] = ("decide", "report")
ROLES: dict[Part, Literal["tune", "eval"]] = {"decide": "tune", "report": "eval"}
NUM_FRAMES = 17
FULL_RATE_FRAMES = 48
LAYERS = (6, 7)
CHUNKS = ChunkParams(chunk_len=9)
PARAMS = TrackParams(layers=LAYERS, heads={6: (2, 3), 7: (3,)})
"""Layers and heads of params.yaml."""
DECIDING = ("rendered-decide", "pictures-decide", "davis-decide", "davis5-decide")
RULES = {
    "most tokens, all visible": replace(
        PARAMS, motion_cost=0.0, smoothing_radius=0, visibility=VisibilityParams(predict=False)
    ),
    "the likeliest path": replace(PARAMS, smoothing_radius=0, visibility=VisibilityParams(predict=False)),
    "smoothed, all visible": replace(PARAMS, visibility=VisibilityParams(predict=False)),
    "cycle errors up to 2 tokens": replace(
        PARAMS, visibility=VisibilityParams(min_confidence=0.0, max_cycle_error_token=2.0)
    ),
    "default": PARAMS,
}
"""The compared rules; points outside the picture are invisible by every rule."""


@dataclass(frozen=True)
class Known:
    """A video, its queries, and what is known about the truth."""

    video: TrackedVideo
    has_truth: bool
    """Whether the tracks of the video are exact; otherwise only masks are known."""


# sets of clips


def rendered_set(part: Part, count: int) -> Iterator[Known]:
    """Half easy, half hard."""
    for split in ("easy", "hard"):
        for video in rendered(ROLES[part], split, count):  # type: ignore[arg-type]
            yield Known(video, True)


def sequences(davis: Path, part: Part) -> list[str]:
    """Names of the sequences that decide, or of those that report."""
    return sorted(path.name for path in (davis / "JPEGImages").iterdir())[PARTS.index(part) :: 2]


def masks_of(davis: Path, name: str, frames: Sequence[int]) -> np.ndarray:
    """Where the object is, [frame, row, col]."""
    files = sorted((davis / "Annotations" / name).iterdir())
    return np.stack([read_image(files[frame])[..., 0] > 127 for frame in frames])


def davis_set(davis: Path, part: Part, stride: int) -> Iterator[Known]:
    """Real sequences, with queries on the object first."""
    for name in sequences(davis, part):
        video = read_video(davis / "JPEGImages" / name).frames
        frames = range(0, len(video) if stride > 1 else FULL_RATE_FRAMES, stride)
        chosen = video[: frames.stop : stride]
        mask = masks_of(davis, name, [0])[0]
        clip = Clip(f"{name}-{stride}", chosen, 24.0 / stride, "", "folder", details={"frames": list(frames)})
        queries = np.concatenate([dense_grid(mask, 100), query_grid(*mask.shape, 8, ~mask)])
        yield Known(_followed(clip, video, queries), False)


def _followed(clip: Clip, video: np.ndarray, queries: np.ndarray) -> TrackedVideo:
    """A clip whose queries Lucas-Kanade follows at full rate and size, and back to the start.

    This is a pseudo-truth of points that are easy to follow, with the motion of real video. Where the way back does not
    end within two pixels of the start, nothing is known.
    """
    flow = lucas_kanade(video, queries)
    points, known = flow.points_xy_px[clip.details["frames"]], flow.visible[clip.details["frames"]].copy()
    for frame, number in enumerate(clip.details["frames"][1:], start=1):
        if not known[frame].any():
            continue
        asked = np.insert(points[frame, known[frame]], 0, number, axis=1).astype(np.float32)
        back = lucas_kanade(video[: number + 1], asked).points_xy_px[0]
        known[frame, known[frame]] = np.linalg.norm(back - queries[known[frame], 1:], axis=-1) < 2
    return TrackedVideo(clip, Tracks(points, known, queries, clip.height, clip.width, "queries"))


def dense_grid(mask: np.ndarray, wanted: int) -> np.ndarray:
    """Approximately this many query points on the mask, on a grid as fine as needed."""
    height, width = mask.shape
    side = int(np.clip(round(np.sqrt(wanted / mask.mean())), 4, 60))
    return query_grid(height, width, side, mask)


def picture_set(davis: Path, part: Part, count: int) -> Iterator[Known]:
    """Pictures that move as planes, by 0.2 to 4 % of the height a frame."""
    names = sequences(davis, part)
    for number in range(count):
        rng = np.random.default_rng(1000 * PARTS.index(part) + number)
        behind, before = rng.permutation(names)[:2]
        speed = float(np.exp(rng.uniform(np.log(0.002), np.log(0.04))))
        yield Known(moving_pictures(davis, str(behind), str(before), speed, rng, f"{part}-{number}"), True)


def moving_pictures(
    davis: Path, behind: str, before: str, speed: float, rng: np.random.Generator, name: str
) -> TrackedVideo:
    """Move one picture as a plane, and the object of another one over it; `speed` is a share of the height a frame."""
    base = read_video(davis / "JPEGImages" / behind, max_frames=1).frames[0]
    over = read_video(davis / "JPEGImages" / before, max_frames=1).frames[0]
    cut = masks_of(davis, before, [0])[0]
    height, width = base.shape[:2]
    middle = np.array([width, height]) / 2
    centre = np.argwhere(cut).mean(axis=0)[::-1]
    grown = float(np.clip(np.sqrt(0.12 / cut.mean()), 1.0, 2.5))
    start = rng.uniform(0.3, 0.7, 2) * (width, height)
    angles = rng.uniform(-1, 1, (2, 4))
    far = [_affine(t, speed * height, angles[0], 1.3, middle, middle) for t in range(NUM_FRAMES)]
    near = [_affine(t, 2 * speed * height, angles[1], grown, centre, start) for t in range(NUM_FRAMES)]
    frames, covers = [], []
    for back, front in zip(far, near, strict=True):
        ground = cv2.warpAffine(base, back, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        top = cv2.warpAffine(over, front, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        alpha = cv2.warpAffine(cut.astype(np.float32), front, (width, height), flags=cv2.INTER_LINEAR)
        frames.append((ground * (1 - alpha[..., None]) + top * alpha[..., None]).round().clip(0, 255).astype(np.uint8))
        covers.append(alpha > 0.5)
    on_top = covers[0]
    queries = np.concatenate([dense_grid(on_top, 50), query_grid(height, width, 9, ~on_top)])
    points, visible = _moved_by(queries, on_top, far, near, covers)
    tracks = Tracks(points, visible, queries, height, width, "exact")
    return TrackedVideo(Clip(name, np.stack(frames), 8.0, "", "folder", details={"speed": speed}), tracks)


def _affine(t: int, speed: float, angles: np.ndarray, zoom: float, centre: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Where a picture lies at time t, [2, 3]: pixels of the picture to pixels of the clip, centres at whole numbers."""
    along = np.array([np.cos(np.pi * angles[0]), np.sin(np.pi * angles[0])]) * speed
    sway = 2.5 * (np.sin(0.5 * t + np.pi * angles[1]) - np.sin(np.pi * angles[1]))
    moved = along * t + along[::-1] * sway
    turn = 0.02 * angles[2] * t
    scale = zoom * (1 + 0.008 * angles[3] * t)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([linear, place + moved - linear @ centre])


def _moved_by(
    queries: np.ndarray,
    on_top: np.ndarray,
    far: Sequence[np.ndarray],
    near: Sequence[np.ndarray],
    covers: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Where points of either plane are, and whether they are seen."""
    height, width = on_top.shape
    xy = queries[:, 1:].astype(np.float64) - 0.5
    mine = _at(on_top, xy + 0.5)
    points, visible = [], []
    for back, front, cover in zip(far, near, covers, strict=True):
        by_plane = [_apply(here, _apply(_inverse(start), xy)) for here, start in ((back, far[0]), (front, near[0]))]
        place = np.where(mine[:, None], by_plane[1], by_plane[0]) + 0.5
        inside = ((place >= 0) & (place < (width, height))).all(axis=1)
        points.append(place)
        visible.append(inside & (mine | ~_at(cover, place)))
    return np.stack(points).astype(np.float32), np.stack(visible)


def _at(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """The mask at points; beyond the border at the nearest pixel."""
    height, width = mask.shape
    col, row = (np.clip(np.floor(xy[..., axis]), 0, limit - 1) for axis, limit in ((0, width), (1, height)))
    return np.asarray(mask[row.astype(int), col.astype(int)])


def _apply(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return np.asarray(xy @ matrix[:, :2].T + matrix[:, 2])


def _inverse(matrix: np.ndarray) -> np.ndarray:
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def flat_set() -> Iterator[Known]:
    """Pictures of one colour."""
    for colour in ((128, 128, 128), (20, 20, 20), (200, 60, 30)):
        frames = np.broadcast_to(np.array(colour, np.uint8), (NUM_FRAMES, 160, 240, 3)).copy()
        clip = Clip("flat-" + "-".join(map(str, colour)), frames, 8.0, "", "folder")
        yield Known(_asked(clip, query_grid(160, 240, 10)), False)


def _asked(clip: Clip, queries: np.ndarray) -> TrackedVideo:
    """A clip of which only the queries are known."""
    points = np.broadcast_to(queries[None, :, 1:], (clip.num_frames, len(queries), 2)).astype(np.float32)
    seen = np.ones(points.shape[:2], dtype=bool)
    return TrackedVideo(clip, Tracks(points, seen, queries, clip.height, clip.width, "queries"))


def all_sets(arguments: argparse.Namespace) -> dict[str, Iterator[Known]]:
    """Every set by its name."""
    sets: dict[str, Iterator[Known]] = {}
    for part in PARTS:
        sets[f"rendered-{part}"] = rendered_set(part, arguments.clips)
        sets[f"pictures-{part}"] = picture_set(arguments.davis, part, arguments.clips)
        sets[f"davis-{part}"] = davis_set(arguments.davis, part, 1)
        sets[f"davis5-{part}"] = davis_set(arguments.davis, part, 5)
    sets["badja-report"] = (Known(video, True) for video in load_tapvid_pickle(arguments.tapvid))
    sets["flat-report"] = flat_set()
    return sets


# measuring


def measure(arguments: argparse.Namespace) -> None:
    """Match the points of every set, and write what was measured; nothing is decided here."""
    torch.set_grad_enabled(False)
    backbone = load_backbone(f"path:{shipped_backbone()}", ModelParams(device=arguments.device))
    arguments.out.mkdir(parents=True, exist_ok=True)
    every = arguments.every_head_of
    params = PARAMS if every is None else TrackParams(layers=(every,))
    layers = LAYERS if every is None else (every,)
    sets = all_sets(arguments)
    for name in arguments.sets or sets:
        arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(_about(arguments, backbone.fingerprint)))}
        for known in sets[name]:
            case = prepare(backbone, known.video, layers, arguments.size, CHUNKS)
            sources = [(STEP, layer) for layer in layers]
            matches = match_clip(case.chunks, case.queries, sources=sources, grid=case.grid, params=params)
            clip = known.video.clip.name
            for part in fields(FrameMatches):
                arrays[f"{clip}|{part.name}"] = getattr(matches, part.name).numpy().astype(np.float16)
            arrays[f"{clip}|queries"] = case.queries.astype(np.float32)
            arrays[f"{clip}|grid"] = np.array([case.grid.rows, case.grid.cols, case.grid.stride_px])
            kind = "" if known.has_truth else "followed "
            arrays[f"{clip}|{kind}points"] = case.truth.points_xy_px.astype(np.float32)
            arrays[f"{clip}|{kind}visible"] = case.truth.visible
            print(name, clip, len(case.queries), "points", f"{case.seconds:.1f} s", flush=True)
        np.savez_compressed(arguments.out / f"{name}.npz", allow_pickle=False, **arrays)


def _about(arguments: argparse.Namespace, fingerprint: str) -> dict[str, Any]:
    return {
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu"),
        "date": datetime.now(UTC).date().isoformat(),
        "backbone": fingerprint,
        "size": arguments.size,
        "clips": arguments.clips,
    }


@dataclass(frozen=True)
class Measured:
    """A clip's matches, and what is known about the truth."""

    name: str
    matches: FrameMatches
    queries: np.ndarray
    grid: TokenGrid
    points: np.ndarray | None
    visible: np.ndarray | None
    masks: np.ndarray | None
    """Masks of the object in every frame."""
    followed: tuple[np.ndarray, np.ndarray] | None = None
    """For clips whose truth is only masks: positions by Lucas-Kanade, and where these are reliable."""

    def sample(self, points_xy_px: np.ndarray) -> np.ndarray:
        """The masks at [frame, point] positions."""
        assert self.masks is not None
        size = {"from_size": (self.grid.height, self.grid.width), "to_size": self.masks.shape[1:3]}
        places = rescale_points(points_xy_px, **size)
        return np.stack([_at(mask, own) for mask, own in zip(self.masks, places, strict=True)])

    @property
    def on_object(self) -> np.ndarray:
        """Which points are queried on the object."""
        queries = np.broadcast_to(self.queries[None, :, 1:], (len(self.matches.margin), len(self.queries), 2))
        return np.asarray(self.sample(queries)[0])


def read_measured(folder: Path, name: str, davis: Path) -> list[Measured]:
    """The clips of a set, without the queries' own frame if that is frame 0."""
    stored = np.load(folder / f"{name}.npz")
    clips = []
    for clip in dict.fromkeys(key.split("|")[0] for key in stored.files if "|" in key):
        own = {key.split("|")[1]: stored[key] for key in stored.files if key.startswith(f"{clip}|")}
        matches = FrameMatches(*(torch.from_numpy(own[part.name].astype(np.float32)) for part in fields(FrameMatches)))
        rows, cols, stride_px = (int(number) for number in own["grid"])
        masks = None
        if name.startswith("davis"):
            sequence, stride = clip.rsplit("-", 1)
            masks = masks_of(davis, sequence, range(0, len(matches.margin) * int(stride), int(stride)))
        grid = TokenGrid(CHUNKS.chunk_len or 1, rows, cols, stride_px, 1)
        followed = None
        if masks is not None and "followed points" in own:
            followed = own["followed points"], own["followed visible"]
        clips.append(
            Measured(clip, matches, own["queries"], grid, own.get("points"), own.get("visible"), masks, followed)
        )
    return clips


# fitting


def fit(arguments: argparse.Namespace) -> None:
    """Fit the logistic regression of `difftrack.tracking._visibility` on the parts that decide, every set alike."""
    inputs, labels, weights = [], [], []
    for folder in arguments.measured:
        for name in DECIDING:
            if not (folder / f"{name}.npz").exists():
                continue
            clips = read_measured(folder, name, arguments.davis)
            for clip in clips:
                seen, counts = _labels(clip)
                inputs.append(_inputs(clip)[counts])
                labels.append(seen[counts])
                weights.append(np.full(int(counts.sum()), 1e4 / len(clips) / max(1, int(counts.sum()))))
    model = LogisticRegression(C=100.0, max_iter=1000)
    model.fit(np.concatenate(inputs), np.concatenate(labels), sample_weight=np.concatenate(weights))
    found = dict(zip(CALIBRATION, (model.intercept_[0], *model.coef_[0]), strict=True))
    print({name: round(float(value), 2) for name, value in found.items()})


def _inputs(clip: Measured) -> np.ndarray:
    """The inputs of the regression, [frame, point, input]."""
    return evidence_of(clip.matches.sharpness, clip.matches.cycle_error_token).numpy()


def _labels(clip: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Which points are seen, and which of them are asked: those inside the picture, in frames after the query's.

    Where masks alone are known, a point of the object counts as seen where it was matched inside the mask, and a point
    beside the object outside.
    """
    places = _places(clip)
    asked = inside_picture(places, height=clip.grid.height, width=clip.grid.width)
    asked &= np.arange(len(places))[:, None] > clip.queries[:, 0]
    if clip.visible is not None:
        return clip.visible, asked
    return clip.sample(places) == clip.on_object, asked


def _places(clip: Measured) -> np.ndarray:
    return np.asarray(((clip.matches.points_xy_token + 0.5) * clip.grid.stride_px).numpy())


# reporting


def report(arguments: argparse.Namespace) -> None:
    """Report what visibility, path and smoothing are worth on every set, in benchmarks/results/visibility.json."""
    results: dict[str, Any] = {"sets": {}}
    for folder in arguments.measured:
        for path in sorted(folder.glob("*.npz")):
            about = json.loads(str(np.load(path)["about"]))
            results["measured"] = {key: value for key, value in about.items() if key != "size"}
            size = "x".join(map(str, about["size"]))
            clips = read_measured(folder, path.stem, arguments.davis)
            results["sets"][f"{path.stem} {size}"] = own = {
                name: _mean_of([_score(clip, params) for clip in clips]) for name, params in RULES.items()
            }
            print(f"{path.stem} {size}")
            for name, scores in own.items():
                print(f"  {name:32}", {key: round(100 * value, 1) for key, value in scores.items()})
    results["calibration"] = CALIBRATION
    (RESULTS / "visibility.json").write_text(json.dumps(results, indent=1) + "\n")


def _score(clip: Measured, params: TrackParams) -> dict[str, float]:
    """TAP-Vid's metrics where tracks are exact; elsewhere shares in the mask, and delta_avg of followed points."""
    tracks = decide_tracks(clip.matches, clip.queries, grid=clip.grid, params=params)
    if clip.points is not None and clip.visible is not None:
        return _tapvid(clip, tracks, clip.points, clip.visible)
    seen = tracks.visible[1:]
    if clip.masks is None:
        return {"visible": float(seen.mean())}
    on_object = clip.on_object
    in_mask = clip.sample(tracks.points_xy_px)[1:, on_object]
    claimed = seen[:, on_object]
    return {
        "in mask": float(in_mask.mean()),
        "of visible in mask": float(in_mask[claimed].mean()) if claimed.any() else float("nan"),
        "visible": float(claimed.mean()),
        **({} if clip.followed is None else {"followed": _tapvid(clip, tracks, *clip.followed)["delta_avg"]}),
    }


def _tapvid(clip: Measured, tracks: PredictedTracks, points: np.ndarray, visible: np.ndarray) -> dict[str, float]:
    """TAP-Vid's metrics at 256x256."""
    sizes = {"from_size": (clip.grid.height, clip.grid.width), "to_size": EVALUATED_SIZE}
    predicted, true = (rescale_points(own, **sizes) for own in (tracks.points_xy_px, points))
    of = tapvid_metrics(predicted, tracks.visible, true, visible, clip.queries[:, 0].astype(np.int64))
    three = (of.average_points_within, of.average_jaccard, of.occlusion_accuracy)
    return dict(zip(("delta_avg", "AJ", "OA"), map(float, three), strict=True))


def _mean_of(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([of[name] for of in scores])) for name in scores[0]}


def main() -> None:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.add_argument("--davis", type=Path, required=True, help="a folder with JPEGImages and Annotations")
    command.add_argument("--tapvid", type=Path, required=True, help="a pickle of real video")
    command.add_argument("--out", type=Path, required=True, help="folder for what is measured")
    command.add_argument("--clips", type=int, default=12, help="per split of rendered clips, and of pictures")
    command.add_argument("--sets", nargs="*", help="all by default")
    command.add_argument("--size", type=_size, default=(160, 240), metavar="HxW", help="that the backbone sees")
    command.add_argument("--every-head-of", type=int, metavar="LAYER", help="in place of the heads of params.yaml")
    command.add_argument("--device", default="auto")
    command.set_defaults(run=measure)
    for name, function in (("fit", fit), ("report", report)):
        command = commands.add_parser(name)
        command.add_argument("--davis", type=Path, required=True, help="a folder with JPEGImages and Annotations")
        command.add_argument("--measured", type=Path, nargs="+", required=True, help="folders that `measure` wrote")
        command.set_defaults(run=function)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


if __name__ == "__main__":
    main()
