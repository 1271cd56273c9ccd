"""The verb propagate."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from difftrack.cli._app import PARAMS, parse_points, verb
from difftrack.cli._tracks import _Choices, _names, _open, _read_choices, _size

if TYPE_CHECKING:
    from difftrack.propagation import PropagationParams


@verb
def propagate(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    mask: Annotated[
        Path | None,
        typer.Option(help="A picture of the video's size: black, with one colour for each object of frame 0."),
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(help='Instead of a mask: boxes in frame 0, pixels: "left,top,right,bottom ...".')
    ] = None,
    points: Annotated[
        str | None, typer.Option(help='Instead of a mask: keypoints in frame 0, pixels: "x,y x,y ...".')
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="Name or path:DIR; default: the first in the params. Any other needs --params."),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW at which the backbone sees the video: larger is finer and slower.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the labels, the masks and the overlay video.")] = Path("labels"),
    params: Annotated[
        Path | None,
        typer.Option(
            help="Params file; extract.tracking, and layers and heads of track are read.", show_default=str(PARAMS)
        ),
    ] = None,
) -> None:
    """Propagate a mask, boxes or keypoints of frame 0 through a video: writes npz, PNG masks and an overlay video."""
    if sum(given is not None for given in (mask, boxes, points)) != 1:
        raise typer.BadParameter("give one of --mask, --boxes and --points")
    # Cheap checks come first: the import of torch takes seconds.
    tracker = _read_choices(backbone, params, None if size is None else _size(size), None)
    box_list, point_list = None if boxes is None else _boxes(boxes), None if points is None else parse_points(points)
    _open(video, start=0, max_frames=None, every=1)
    tracker.check_weights()
    from difftrack.media import read_mask, read_video

    pixels = None if mask is None else read_mask(mask)

    import numpy as np

    from difftrack.backbones import load_backbone
    from difftrack.datasets import Clip
    from difftrack.reports import export_labels
    from difftrack.workflows.propagate import LabelsGiven, label_chunks, propagate_video

    given = LabelsGiven(
        mask=pixels,
        boxes_xyxy_px=None if box_list is None else np.asarray(box_list, dtype=np.float32),
        points_xy_px=None if point_list is None else np.asarray(point_list, dtype=np.float32),
    )
    read = read_video(video)
    clip = Clip(name=_names(video)[0], frames=read.frames, fps=read.fps, prompt="", source="folder")
    model = load_backbone(tracker.backbone, tracker.model)
    chosen = _chosen(tracker, named=params is not None)
    chunks = label_chunks(model, chosen, chunk_len=tracker.view.chunks.chunk_len)
    layers: Literal["all"] | tuple[int, ...] = "all" if chosen.layers == "stored" else chosen.layers
    view = dataclasses.replace(tracker.view, chunks=chunks, layers=layers)
    found = propagate_video(clip, given, model, view, chosen, progress=sys.stderr.isatty())
    files = export_labels(
        out,
        clip,
        found.soft,
        found.objects,
        masks=found.masks,
        boxes_xyxy_px=found.boxes_xyxy_px,
        points_xy_px=found.points_xy_px,
    )
    for file in files:
        typer.echo(file)


def _chosen(tracker: _Choices, *, named: bool) -> "PropagationParams":
    """Use the settings for the shipped backbone; for another one, or with a params file, those of `track`."""
    from difftrack.backbones import SHIPPED
    from difftrack.propagation import FOR_SHIPPED, PropagationParams

    section = tracker.section
    if tracker.backbone == SHIPPED and tracker.model.path is None and not named:
        return dataclasses.replace(FOR_SHIPPED, device=section.device)
    layers = (tracker.best_layers or [])[:1] if section.layers == "best" else section.layers
    return PropagationParams(
        layers="stored" if layers == "stored" else tuple(layers), heads=section.heads, device=section.device
    )


def _boxes(text: str) -> list[tuple[float, ...]]:
    """Parse "left,top,right,bottom ..."."""
    try:
        found = [tuple(float(number) for number in box.split(",")) for box in text.split()]
    except ValueError:
        found = []
    if not found or any(len(box) != 4 for box in found):
        raise typer.BadParameter(
            f"{text!r} is not a list of boxes; expected left,top,right,bottom with blanks between boxes"
        )
    return found
