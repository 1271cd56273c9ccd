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
    clips: Annotated[
        Path | None, typer.Option(help="Folder of the clips, where they do not lie beside the stores.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="By which videos are extracted.")] = "cogvideox-mini",
    device: Annotated[str, typer.Option(help="Where videos are extracted: cpu, cuda, cuda:1 ...")] = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own puts a token into the link.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Click a point, and see where every layer, head and step finds it: a local web page over stores."""
    import webbrowser

    from difftrack.explorer._errors import check_place

    check_place(source)  # before torch is imported, which takes seconds

    from difftrack.explorer._explore import make_explorer, use_threads

    use_threads()
    explorer = make_explorer(source, clips=clips, backbone=backbone, device=device, host=host, port=port)
    url = explorer.url if clip is None else explorer.url_of(clip)
    typer.echo(f"{url}   (Ctrl-C stops the server)")
    if browser:
        webbrowser.open(url)
    explorer.run()
