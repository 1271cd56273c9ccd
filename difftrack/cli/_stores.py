"""Verbs that inspect a store and exchange parts of it: info, query, verify, export, import."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from difftrack.store import Store
from difftrack.cli._app import app, one_line_errors, parse_points, verb

StoreArgument = Annotated[
    str, typer.Argument(help="Folder or URL of a store, such as data/descriptors/cogvideox-mini/analysis.")
]


@verb
def info(store: StoreArgument) -> None:
    """Print the contents of a store."""
    from difftrack.store import StoreError, stored_bytes
    from difftrack.wording import counted

    opened = _open_store(store)
    layouts: dict[str, list[str]] = {}
    for group in opened.groups():
        try:
            layouts.setdefault(_describe(opened.spec(group), opened.params(group).dtype), []).append(group)
        except StoreError as error:
            layouts.setdefault(str(error), []).append(group)
    size = stored_bytes(store)
    num_groups = counted(sum(map(len, layouts.values())), "group")
    typer.echo(f"{store}: {num_groups}, {size / 1e6:.1f} MB on disk")
    for layout, groups in layouts.items():
        typer.echo(f"\n{', '.join(groups)}\n{layout}")


@verb
def query(
    store: StoreArgument,
    clip: Annotated[str, typer.Option(help="Name of the clip.")],
    step: Annotated[int, typer.Option(help="Denoising step, 0 = noisiest.")],
    layer: Annotated[int, typer.Option(help="Layer, 0-based.")],
    point: Annotated[str, typer.Option(help="x,y in pixels of the clip, in the first stored frame.")],
    frame: Annotated[int | None, typer.Option(help="Only this video frame.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Chunk, in a tracking view.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the match probabilities into this file.")] = None,
    clips: Annotated[Path, typer.Option(help="Folder of the clips, for the picture.")] = Path("data/clips"),
) -> None:
    """Match one point of a clip in its other frames, from stored queries and keys."""
    from difftrack.datasets import read_clip
    from difftrack.media import write_image
    from difftrack.reports import draw_query, query_point

    opened, (point_xy_px, *others) = _open_store(store), parse_points(point)
    if others:
        raise typer.BadParameter(f"--point is {point!r}; expected one point")
    matches = query_point(opened, clip=clip, step=step, layer=layer, point_xy_px=point_xy_px, frame=frame, chunk=chunk)
    typer.echo("frame\tx_px\ty_px\tprobability\tmargin")
    for match in matches:
        typer.echo(f"{match.frame}\t{match.x_px:.2f}\t{match.y_px:.2f}\t{match.probability:.4f}\t{match.margin:.4f}")
    if png is not None:
        picture = draw_query(
            opened,
            read_clip(clips, clip),
            step=step,
            layer=layer,
            point_xy_px=point_xy_px,
            frame=frame,
            chunk=chunk,
        )
        write_image(png, picture)


@verb
def verify(store: StoreArgument) -> None:
    """Check every byte of a store; exit status 1 if something is damaged or missing."""
    from difftrack.wording import counted

    checks = list(_open_store(store).verify())
    damaged = [check for check in checks if check.problem]
    for check in damaged:
        typer.echo(f"{check.path} {check.problem}")
    for check in checks:
        if check.unproven:
            typer.echo(f"{check.path} {check.unproven}")
    typer.echo(f"{store}: {counted(len(checks), 'file')} checked, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@verb
def export(
    store: StoreArgument,
    clip: Annotated[str, typer.Option(help="Name of the clip.")],
    to: Annotated[Path, typer.Option(help="File to write: NAME.nc, NAME.zarr or NAME.safetensors.")],
    chunk: Annotated[int | None, typer.Option(help="Chunk, in a tracking view.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="This step only; may be repeated.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="This layer only; may be repeated.")] = None,
    head: Annotated[list[int] | None, typer.Option(help="This head only; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="query, key or feature only; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a part of a store to one file for exchange, with the full provenance of its values."""
    from difftrack.store import clip_group, export_group
    from difftrack.wording import counted

    group = clip_group(clip, chunk)
    spec = export_group(_open_store(store), group, to, steps=step, layers=layer, heads=head, kinds=kind, force=force)
    parts = (counted(len(spec.steps), "step"), counted(len(spec.layers), "layer"), counted(len(spec.heads), "head"))
    typer.echo(f"{to} holds {', '.join(spec.entries)} of {group}: {', '.join(parts)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="File written by `difftrack export`.")],
    to: Annotated[str, typer.Option(help="Folder or URL of a store, created if missing.")],
    group: Annotated[str | None, typer.Option("--as", help="New name of the group; default: its old name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a group with other contents.")] = False,
) -> None:
    """Add a file from `difftrack export` to a store, bit for bit."""
    from difftrack.store import import_group

    with one_line_errors("import"):
        typer.echo(f"{to} holds {import_group(file, to, group=group, force=force)}")


def _describe(spec: Any, dtype: str) -> str:  # noqa: ANN401 - importing its type here would cost every other verb
    from difftrack.wording import counted

    grid = spec.grid
    rows = {
        "steps": ", ".join(map(str, spec.steps)),
        "layers": ", ".join(map(str, spec.layers)),
        "heads": ", ".join(map(str, spec.heads)),
        "kinds": f"{', '.join(spec.kinds)} of {counted(spec.num_channels, 'channel')}, {dtype}",
        "tokens": f"{grid.num_latent_frames} x {grid.rows} x {grid.cols} (latent frames x rows x cols)",
        "frames": ", ".join(map(str, spec.frames)),
        "size": f"{spec.size[1]}x{spec.size[0]} px, clip {spec.clip_size[1]}x{spec.clip_size[0]} px",
    }
    return "\n".join(f"  {name:<7}{value}" for name, value in rows.items())


def _open_store(store: str) -> "Store":
    from difftrack.store import StoreError, open_store

    try:
        return open_store(store)
    except StoreError as error:
        if "://" in store or Path(store).exists():
            raise
        raise ValueError(f"{error}; `make repro` (or `difftrack repro`) writes those of the pipeline") from error
