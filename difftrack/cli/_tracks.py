"""The verb track."""

import dataclasses
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from difftrack.backbones import ModelParams
    from difftrack.extraction import TrackingParams
    from difftrack.media import FrameStream
    from difftrack.tracking import TrackParams
from difftrack.cli._app import PARAMS, anchored, default_params, parse_points, ranking_file, read_sections, verb

EVALUATION = ("baselines", "lucas_kanade", "queries", "query_mode", "trackers")
"""Keys of the section `track` that only its stage reads."""
_MANY_CHUNKS = 20
"""From this number of frames on, a run takes minutes, so its cost is printed first."""
_MOST_SHARE = 0.8
"""Maximum share of the free memory that a run may use."""


@verb
def track(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    points: Annotated[str | None, typer.Option(help='Points in frame 0, pixels: "x,y x,y ...".')] = None,
    grid: Annotated[int | None, typer.Option(help="Instead of points: number of grid points along each side.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Instead of both: a CSV file with the columns frame, x and y.")
    ] = None,
    frame: Annotated[
        int, typer.Option(min=0, help="Frame of --points or --grid, counted over the tracked frames.")
    ] = 0,
    mask: Annotated[
        Path | None, typer.Option(help="With --grid: a picture of the video's size, white where points are placed.")
    ] = None,
    start: Annotated[int, typer.Option(min=0, help="Number of frames to skip at the beginning of the video.")] = 0,
    max_frames: Annotated[int | None, typer.Option(min=2, help="Maximum number of frames to track.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Track only every Nth frame.")] = 1,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Name or path:DIR; default: the first in the params. Any other needs --params, since layers, heads "
            "and size depend on the backbone."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW at which the backbone sees the video: larger is finer and slower.")
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="fast (default): the size in the params. fine: 1.6 times that along both sides, in about six times "
            "the time.",
            show_default=False,
        ),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            help="end (default): tracks end at cuts between scenes. ignore: they continue.", show_default=False
        ),
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="Radius of points in the overlay, in its pixels; default: by their number.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels of the overlay per pixel of the video; default: small videos are enlarged."),
    ] = None,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Show the video next to the overlay.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the tracks and the overlay video.")] = Path("tracks"),
    name: Annotated[str | None, typer.Option(help="Name of the files; default: the video's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the tracks of another video.")] = False,
    params: Annotated[
        Path | None, typer.Option(help="Params file; extract.tracking and track are read.", show_default=str(PARAMS))
    ] = None,
) -> None:
    """Track points through a video: writes tracks as npz and csv, and a video with the tracks drawn on it."""
    if sum(given is not None for given in (points, grid, queries)) != 1:
        raise typer.BadParameter("give one of --points, --grid and --queries")
    if cuts not in (None, "end", "ignore"):
        raise typer.BadParameter(f"--cuts {cuts}: expected end or ignore")
    if quality not in (None, "fast", "fine"):
        raise typer.BadParameter(f"--quality {quality}: expected fast or fine")
    if quality is not None and size is not None:
        raise typer.BadParameter("give either --size or --quality, which sets the size")
    if mask is not None and grid is None:
        raise typer.BadParameter("--mask selects points of --grid; also give --grid")
    if queries is not None and frame:
        raise typer.BadParameter("--frame is for --points and --grid; --queries has its own column frame")
    wanted_size = None if size is None else _size(size)
    # Cheap checks come first: the import of torch takes seconds.
    chosen = _read_choices(backbone, params, wanted_size, cuts)
    if quality == "fine":
        chosen = dataclasses.replace(chosen, view=_finer(chosen.view))
    stream = _open(video, start=start, max_frames=max_frames, every=every)
    query_points = _query_points(stream, points=points, grid=grid, queries=queries, frame=frame, mask=mask)
    chosen = chosen.anchored_on(query_points)
    chosen.check_weights()
    _track(stream, query_points, chosen, out=out, name=name, force=force, drawn=(radius, scale, side_by_side))


def _track(
    stream: "FrameStream",
    query_points: "Float[np.ndarray, 'point txy']",
    chosen: "_Choices",
    *,
    out: Path,
    name: str | None,
    force: bool,
    drawn: tuple[float | None, int | None, bool],
) -> None:
    """Track, and write the results."""
    from difftrack.datasets import check_query_points, plain_name
    from difftrack.media import content_digest
    from difftrack.reports import ExportedVideo, OverlayParams, Provenance, export_name, export_tracks

    radius, scale, beside = drawn
    overlay = OverlayParams(upscale=scale, point_radius_px=radius)
    digest, names = content_digest(stream.path), _names(stream.path) if name is None else [plain_name(name)]
    chosen_name = export_name(out, names, digest, force=force)
    for note in stream.notes:
        typer.echo(f"{stream.path}: {note}", err=True)

    from difftrack.backbones import load_backbone
    from difftrack.tracking import cuts_line
    from difftrack.workflows.video import VideoTracker

    model, progress = load_backbone(chosen.backbone, chosen.model), sys.stderr.isatty()
    tracker = VideoTracker(model, chosen.view, chosen.section, best_layers=chosen.best_layers)
    if stream.num_frames is not None:
        estimate = tracker.estimate(max(2, stream.num_frames), len(query_points))
        _check_memory(estimate.num_bytes, str(estimate))
        if progress or estimate.num_chunks >= _MANY_CHUNKS:
            typer.echo(f"{stream.path}: {estimate}", err=True)
    encoded, scenes = tracker.encode(_names(stream.path)[0], stream, expected=stream.num_frames, progress=progress)
    check_query_points(query_points, num_frames=encoded.num_frames, height=stream.height, width=stream.width)
    if scenes.cuts:
        typer.echo(cuts_line(scenes))
    tracks = tracker.track(encoded, query_points, scenes=scenes, progress=progress)
    provenance = Provenance(
        backbone=chosen.backbone,
        backbone_fingerprint=model.fingerprint,
        params={
            "backbone": asdict(chosen.model),
            "extract.tracking": asdict(chosen.view),
            "track": asdict(chosen.section),
        },
        source=stream.path.name,
        source_sha256=digest,
        fps=stream.fps,
        size=(stream.height, stream.width),
        video_frames=[stream.range.start + stream.range.every * index for index in range(len(tracks.visible))],
    )
    for file in export_tracks(
        out,
        chosen_name,
        stream,
        query_points,
        tracks,
        provenance,
        cuts=scenes.cuts,
        video=ExportedVideo(params=overlay, beside=beside),
    ):
        typer.echo(file)


def _open(video: Path, *, start: int, max_frames: int | None, every: int) -> "FrameStream":
    """Inspect a video, or raise an error if it is not one."""
    from difftrack.media import open_video

    if re.match(r"[a-z0-9+]{2,}:/", str(video), re.IGNORECASE):
        address = str(video).replace(":/", "://", 1)  # a path reduces two slashes to one
        raise ValueError(f"{address}: is a URL, but only local files are read here; download it first")
    suffix = video.suffix.lower()
    if video.is_file() and suffix in (".pkl", ".pickle"):
        raise ValueError(
            f"{video}: is a pickle, not a video; if it is a data set like TAP-Vid, set it as synthesize.folder.path"
        )
    if video.is_file() and suffix in (".gz", ".tgz", ".zip", ".tar", ".bz2", ".xz", ".7z", ".rar"):
        raise ValueError(f"{video}: is an archive; unpack it first")
    stream = open_video(video, start=start, max_frames=max_frames, every=every)
    if stream.num_frames is not None and stream.num_frames < 2:
        raise ValueError(
            f"{video}: has {stream.num_frames} frame(s) with --start {start} and --every {every}; tracking needs at "
            "least 2"
        )
    return stream


def _query_points(
    stream: "FrameStream",
    *,
    points: str | None,
    grid: int | None,
    queries: Path | None,
    frame: int,
    mask: Path | None,
) -> "Float[np.ndarray, 'point txy']":
    """Return (frame, x, y) of each point; raise an error if one is outside the video."""
    import numpy as np

    from difftrack.annotation import mask_from_file
    from difftrack.datasets import check_query_points
    from difftrack.workflows.queries import grid_queries, read_queries

    height, width = stream.height, stream.width
    if queries is not None:
        found = read_queries(queries)
    elif points is not None:
        found = np.asarray([(frame, x, y) for x, y in parse_points(points)], dtype=np.float32)
    else:
        inside = None if mask is None else mask_from_file(mask, height=height, width=width)
        found = grid_queries(height, width, grid or 0, frame=frame, mask=inside)
    last = stream.num_frames if stream.num_frames is not None else int(found[:, 0].max()) + 1
    check_query_points(found, num_frames=last, height=height, width=width)
    return found


def _names(video: Path) -> list[str]:
    """Return names for the outputs in order of preference: the video's name, then with its folder's name as prefix."""
    from difftrack.datasets import plain_name

    whole = video.absolute()
    stem = whole.name if whole.is_dir() else whole.stem
    names = (stem, whole.name, f"{whole.parent.name}-{stem}", f"{whole.parent.name}-{whole.name}")
    plain = (plain_name(name, blank="-") for name in names)
    return list(dict.fromkeys(name.lstrip("-") or name for name in plain))  # a leading dash would look like an option


def _check_memory(num_bytes: int, said: str) -> None:
    """Refuse a run that does not fit into memory, with ways out."""
    import psutil

    free = psutil.virtual_memory().available
    if num_bytes > _MOST_SHARE * free:
        raise ValueError(
            f"{said}, but {free / 1e9:.1f} GB are free; use fewer frames (--max-frames, --every), fewer points "
            "(--grid) or a smaller --size"
        )


def _size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 160x240")
    return int(height), int(width)


def _finer(view: "TrackingParams") -> "TrackingParams":
    """Scale the size by 1.6, in multiples of 32 px, which suit the strides of all families."""
    height, width = (round(size * 1.6 / 32) * 32 for size in (view.height, view.width))
    return dataclasses.replace(view, height=height, width=width)


@dataclasses.dataclass(frozen=True)
class _Choices:
    """Settings for tracking a video; nothing is loaded yet."""

    backbone: str
    model: "ModelParams"
    view: "TrackingParams"
    section: "TrackParams"
    best_layers: list[int] | None

    def check_weights(self) -> None:
        """Refuse a folder that is not a backbone; a missing checkpoint may be downloaded later."""
        from difftrack.backbones import missing_weights

        values = asdict(self.model)
        local = self.model.path is not None or self.backbone.startswith("path:")
        if local and (problem := missing_weights(self.backbone, values)):
            raise ValueError(problem)

    def anchored_on(self, query_points: "Float[np.ndarray, 'point txy']") -> "_Choices":
        """Use the frame of all points as the anchor if they share one: it costs no more, and no chain gets longer."""
        frames = {int(frame) for frame in query_points[:, 0]}
        if len(frames) > 1 or self.view.chunks.schedule == "released":
            return self
        chunks = dataclasses.replace(self.view.chunks, anchors=tuple(frames))
        return dataclasses.replace(self, view=dataclasses.replace(self.view, chunks=chunks))


def _read_choices(
    backbone: str | None, params: Path | None, size: tuple[int, int] | None, cuts: str | None
) -> _Choices:
    """Read the settings of `track` from a params file.

    Args:
        backbone: None takes the first.
        params: The params file, if one was named.
        size: (height, width), overrides the file's.
        cuts: Overrides the file's.
    """
    from difftrack.backbones import ModelParams
    from difftrack.documents import read_json
    from difftrack.extraction import TrackingParams
    from difftrack.params import parse
    from difftrack.tracking import TrackParams

    file = params or default_params()
    values = anchored(read_sections(file, "extract", "track", "backbones"), file)
    view = parse(TrackingParams, values["extract"].get("tracking"), "extract.tracking", file=file)
    own = {key: value for key, value in values["track"].items() if key not in EVALUATION}
    section = parse(TrackParams, own, "track", file=file)
    name = backbone or next(iter(values["backbones"]))
    _check_known(name, values["backbones"])
    if params is None:
        _check_chosen_for(name, values["backbones"])
    if size is not None:
        view = dataclasses.replace(view, height=size[0], width=size[1])
    if cuts is not None:
        section = dataclasses.replace(section, cuts="end" if cuts == "end" else "ignore")
    best = ranking_file(values, file, name) if section.layers == "best" else None
    return _Choices(
        backbone=name,
        model=parse(ModelParams, values["backbones"].get(name) or {}, f"backbones.{name}"),
        view=view,
        section=section,
        best_layers=None if best is None else read_json(best)["layers"],
    )


def _check_known(backbone: str, backbones: dict[str, Any]) -> None:
    """Refuse an unknown name."""
    from difftrack.backbones import SHIPPED, canonical_name

    values = backbones.get(backbone) or {}
    named = backbone in backbones and (values.get("path") or values.get("checkpoint"))
    if not named and not backbone.startswith("path:") and backbone != SHIPPED:
        canonical_name(backbone)


def _check_chosen_for(backbone: str, backbones: dict[str, Any]) -> None:
    """Refuse a backbone that the layers, heads and size in the default params file are not chosen for."""
    from difftrack.backbones import ALIASES
    from difftrack.presets import preset_names

    first = next(iter(backbones))
    same = (first, ALIASES.get(first, first), f"path:{(backbones[first] or {}).get('path')}")
    name = ALIASES.get(backbone, backbone)
    if name in same:
        return
    shown = [preset for preset in preset_names() if preset.startswith("tracking-") and preset.endswith(f"-{name}")]
    raise ValueError(
        f"{PARAMS}: extract.tracking.layers, height and width, track.layers and track.heads were chosen for {first}, "
        f"the first of its backbones, not for {backbone}; write those for {backbone} into a params file and name it "
        f"with --params (`difftrack preset{f' {shown[0]} --dry-run' if shown else ''}` shows the paper's choices)"
    )
