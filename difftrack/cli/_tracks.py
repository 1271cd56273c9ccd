"""The verb track."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from difftrack.backbones import ModelParams
    from difftrack.extraction import TrackingParams
    from difftrack.tracking import TrackParams
from difftrack.cli._app import PARAMS, default_params, parse_points, ranking_file, read_sections, verb

EVALUATION = ("baselines", "lucas_kanade", "queries", "query_mode", "trackers")
"""Keys of the section `track` that its stage alone reads."""


@verb
def track(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    points: Annotated[str | None, typer.Option(help='Points in frame 0, pixels: "x,y x,y ...".')] = None,
    grid: Annotated[int | None, typer.Option(help="Instead of points: a grid of so many along each side.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Name or path:DIR; default: the first in the params. Another one wants --params, too: layers, heads "
            "and size are chosen for a backbone."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW at which the backbone sees the video: larger is finer and slower.")
    ] = None,
    cuts: Annotated[
        str | None, typer.Option(help="At cuts between scenes, tracks end (default), or: ignore.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the tracks and the overlay video.")] = Path("tracks"),
    params: Annotated[
        Path | None, typer.Option(help="What to run, from extract.tracking and track.", show_default=str(PARAMS))
    ] = None,
) -> None:
    """Track points through a video: writes tracks as npz and csv, and the video with the tracks drawn on it."""
    import numpy as np

    from difftrack.annotation import query_grid
    from difftrack.backbones import load_backbone
    from difftrack.datasets import Clip, check_query_points
    from difftrack.media import read_video
    from difftrack.reports import export_tracks
    from difftrack.scenes import find_scenes
    from difftrack.tracking import cuts_line
    from difftrack.workflows.video import track_video

    if (points is None) == (grid is None):
        raise typer.BadParameter("give either --points or --grid")
    if cuts not in (None, "end", "ignore"):
        raise typer.BadParameter(f"--cuts {cuts}: wanted is end or ignore")
    tracker = _read_tracker(backbone, params, None if size is None else _size(size))
    if cuts is not None:
        section = dataclasses.replace(tracker.section, cuts="end" if cuts == "end" else "ignore")
        tracker = dataclasses.replace(tracker, section=section)
    read = read_video(video)
    clip = Clip(name=_clip_name(video), frames=read.frames, fps=read.fps, prompt="", source="folder")
    if points is not None:
        queries = np.asarray([(0, x, y) for x, y in parse_points(points)], dtype=np.float32)
    else:
        queries = query_grid(clip.height, clip.width, grid or 0)
    check_query_points(queries, num_frames=clip.num_frames, height=clip.height, width=clip.width)
    scenes = find_scenes(clip.frames, cuts=tracker.section.cuts == "end")
    if scenes.cuts:
        typer.echo(cuts_line(scenes))
    tracks = track_video(
        clip,
        queries,
        load_backbone(tracker.backbone, tracker.model),
        tracker.view,
        tracker.section,
        scenes=scenes,
        best_layers=tracker.best_layers,
        progress=sys.stderr.isatty(),
    )
    for file in export_tracks(out, clip, queries, tracks, cuts=scenes.cuts):
        typer.echo(file)


def _clip_name(video: Path) -> str:
    """The file's name as far as it can name files."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in video.stem) or "clip"


def _size(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"--size {text}: wanted is HEIGHTxWIDTH in pixels, such as 160x240")
    return int(height), int(width)


@dataclasses.dataclass(frozen=True)
class _Tracker:
    """What a video is tracked with; nothing is loaded yet."""

    backbone: str
    model: "ModelParams"
    view: "TrackingParams"
    section: "TrackParams"
    best_layers: list[int] | None


def _read_tracker(backbone: str | None, params: Path | None, size: tuple[int, int] | None) -> _Tracker:
    """Read all that `track` wants from a params file.

    Args:
        backbone: None takes the first.
        params: The file, where a person named one.
        size: (height, width) in place of the file's.
    """
    from difftrack.backbones import ModelParams
    from difftrack.documents import read_json
    from difftrack.extraction import TrackingParams
    from difftrack.params import parse
    from difftrack.tracking import TrackParams

    file = params or default_params()
    values = read_sections(file, "extract", "track", "backbones")
    view = parse(TrackingParams, values["extract"].get("tracking"), "extract.tracking", file=file)
    own = {key: value for key, value in values["track"].items() if key not in EVALUATION}
    section = parse(TrackParams, own, "track", file=file)
    name = backbone or next(iter(values["backbones"]))
    if params is None:
        _check_chosen_for(name, values["backbones"])
    if size is not None:
        view = dataclasses.replace(view, height=size[0], width=size[1])
    best = ranking_file(values, file, name) if section.layers == "best" else None
    return _Tracker(
        backbone=name,
        model=parse(ModelParams, values["backbones"].get(name) or {}, f"backbones.{name}"),
        view=view,
        section=section,
        best_layers=None if best is None else read_json(best)["layers"],
    )


def _check_chosen_for(backbone: str, backbones: dict[str, Any]) -> None:
    """Refuse a backbone other than the one that layers, heads and size of the default params file were chosen for."""
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
        f"the first of its backbones, not for {backbone}; write those of {backbone} into a params file and name it "
        f"with --params (`difftrack preset{f' {shown[0]} --dry-run' if shown else ''}` shows choices of the paper)"
    )
