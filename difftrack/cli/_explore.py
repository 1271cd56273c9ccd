"""The verb explore."""

from pathlib import Path
from typing import Annotated

import typer

from difftrack.cli._app import verb


@verb
def explore(
    source: Annotated[
        str,
        typer.Argument(
            help="A data folder or workspace, a store (folder or URL), or a video, which is extracted first.",
            metavar="[DATA_DIR|STORE|VIDEO]",
        ),
    ] = ".",
    clip: Annotated[str | None, typer.Option(help="Open this clip.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Folder of the clips, if it is not next to the stores.")] = None,
    backbone: Annotated[str, typer.Option(help="Backbone that extracts videos.")] = "cogvideox-mini",
    device: Annotated[str, typer.Option(help="Device that extracts videos: cpu, cuda, cuda:1 ...")] = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; a non-local address adds a token to the link.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Click a point, and see where every layer, head and step finds it: a local web page over stores."""
    import webbrowser

    from difftrack.explorer._errors import check_place

    check_place(source)  # before the import of torch, which takes seconds

    from difftrack.explorer._explore import make_explorer, use_threads

    use_threads()
    explorer = make_explorer(source, clips=clips, backbone=backbone, device=device, host=host, port=port)
    url = explorer.url if clip is None else explorer.url_of(clip)
    typer.echo(f"{url}   (Ctrl-C stops the server)")
    if browser:
        webbrowser.open(url)
    explorer.run()
