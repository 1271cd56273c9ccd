"""Starting the explorer: from a shell, where it runs until it is stopped, or from a notebook, where it runs beside."""

import html
import ipaddress
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
import uvicorn

from difftrack.api._clips import known_clip
from difftrack.explorer._app import ExplorerServer
from difftrack.explorer._catalog import Catalog, StoreEntry, is_video, open_catalog
from difftrack.explorer._errors import ExplorerError
from difftrack.explorer._extraction_jobs import ExtractionParams
from difftrack.store import Store, StorePath
from difftrack.workflows.match import stored_clip_names

__all__ = ["Explorer", "explore", "make_explorer", "use_threads"]

LOCALHOST = "127.0.0.1"

MOST_THREADS = 4
"""Of a server: a click is many small products, which more threads only wait for."""


class Explorer:
    """A server that runs; `close` stops it."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, url: str, *, height: int = 820) -> None:
        self._server = server
        self._listener = listener
        self._thread: threading.Thread | None = None
        self.url = url
        """Address of the page, with the token where one is wanted."""
        self.height = height
        """Pixels of the page in a notebook."""

    def url_of(self, clip: str) -> str:
        """Give the address at which the page shows a clip."""
        plain, _, token = self.url.partition("#")
        return f"{plain}#{'&'.join(part for part in (token, f'clip={quote(clip)}') if part)}"

    def run(self) -> None:
        """Serve until the process is interrupted."""
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._listener.close()

    def start(self) -> None:
        """Serve beside what the process does, until `close`, or the process's end."""
        self._thread = threading.Thread(target=self.run, name="difftrack-explorer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and remove what was extracted of dropped videos."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)

    def __repr__(self) -> str:
        return f"<Explorer at {self.url}>"

    def _repr_html_(self) -> str:
        """Show the page inside a notebook."""
        url = html.escape(self.url, quote=True)
        return (
            f'<iframe src="{url}" title="DiffTrack explorer" width="100%" height="{int(self.height)}" '
            f'style="border:0"></iframe><p><a href="{url}" target="_blank" rel="noopener">{url}</a></p>'
        )


def explore(
    source: "Store | StorePath" = ".",
    *,
    clips: str | Path | None = None,
    backbone: str = "cogvideox-mini",
    device: str = "auto",
    host: str = LOCALHOST,
    port: int = 0,
    height: int = 820,
) -> Explorer:
    """Start the explorer beside this session, and show it where a notebook shows results.

    Click a point, and see where every layer, head and step finds it. Nothing is written but what dropped videos give,
    which goes to a temporary folder.

    Args:
        source: What `extract` or `open_store` returned; a store's folder or URL; a data folder or workspace of the
            pipeline; or a video, which is extracted first.
        clips: Folder of the clips, where they do not lie beside the stores.
        backbone: By which videos are extracted.
        device: Where: cpu, cuda, cuda:1 ...; auto is cuda where there is one.
        host: Address to listen on; any but this machine's own adds a token to the link.
        port: 0 takes a free one.
        height: Pixels of the page in a notebook.

    Returns:
        The server; `url` is its address, `close()` stops it.

    Raises:
        ExplorerError: there is nothing to explore, or the address is taken.

    Example:
        >>> explore("data")  # doctest: +SKIP
    """
    explorer = make_explorer(
        source, clips=clips, backbone=backbone, device=device, host=host, port=port, height=height, framed=True
    )
    explorer.start()
    return explorer


def make_explorer(
    source: "Store | StorePath",
    *,
    clips: str | Path | None = None,
    backbone: str = "cogvideox-mini",
    device: str = "auto",
    host: str = LOCALHOST,
    port: int = 0,
    height: int = 820,
    framed: bool = False,
) -> Explorer:
    """Open what is to be explored and an address, and serve nothing yet; arguments are those of `explore`."""
    video = _video_of(source)
    catalog = Catalog({}, title=str(source)) if video else _catalog_of(source, None if clips is None else Path(clips))
    local = is_local(host)
    token = None if local else secrets.token_urlsafe(24)
    server = ExplorerServer(catalog, ExtractionParams(backbone=backbone, device=device))
    if video is not None:
        server.jobs.start(video, video.name, owned=False)
    app = server.application(token=token, local=local, framed=framed)
    listener = _listen(host, port)
    shown = "localhost" if host in ("0.0.0.0", "::", "") else host
    number = listener.getsockname()[1]
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{number}/" + (f"#token={token}" if token else "")
    config: Any = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    return Explorer(uvicorn.Server(config), listener, url, height=height)


def use_threads() -> None:
    """Let torch use so many threads as answers gain by, unless OMP_NUM_THREADS says how many; of this process alone."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(MOST_THREADS, torch.get_num_threads()))


def is_local(host: str) -> bool:
    """Say whether an address is this machine's own, which no other machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _video_of(source: "Store | StorePath") -> Path | None:
    if isinstance(source, Store) or "://" in str(source):
        return None
    path = Path(str(source))
    return path if path.exists() and is_video(path) else None


def _catalog_of(source: "Store | StorePath", clips: Path | None) -> Catalog:
    if not isinstance(source, Store):
        return open_catalog(source, clips=clips)
    known = {name: clip for name in stored_clip_names(source) if (clip := known_clip(source, name)) is not None}
    paths = {} if clips is None else {"clips": clips}
    return Catalog({"store": StoreEntry("store", "", source, known)}, paths=paths, title="store")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # a browser that comes before the server serves then waits for it
    except OSError as error:
        listener.close()
        raise ExplorerError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}; name another --port"
        ) from error
    return listener
