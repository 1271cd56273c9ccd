"""Starts the explorer: from a shell until it is stopped, or in the background of a notebook."""

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
"""Maximum threads of a server. A click needs many small products, which more threads do not speed up."""


class Explorer:
    """A running server; `close` stops it."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, url: str, *, height: int = 820) -> None:
        self._server = server
        self._listener = listener
        self._thread: threading.Thread | None = None
        self.url = url
        """Address of the page, with the token if one is required."""
        self.height = height
        """Pixels of the page in a notebook."""

    def url_of(self, clip: str) -> str:
        """Return the address at which the page shows a clip."""
        plain, _, token = self.url.partition("#")
        return f"{plain}#{'&'.join(part for part in (token, f'clip={quote(clip)}') if part)}"

    def run(self) -> None:
        """Serve until the process is interrupted."""
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._listener.close()

    def start(self) -> None:
        """Serve in the background until `close` or the end of the process."""
        self._thread = threading.Thread(target=self.run, name="difftrack-explorer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and remove the extractions of dropped videos."""
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
    """Start the explorer in the background, and show it in a notebook.

    Click a point, and see where every layer, head and step finds it. Nothing is written except extractions of dropped
    videos, in a temporary folder.

    Args:
        source: Result of `extract` or `open_store`; a store's folder or URL; a data folder or workspace of the
            pipeline; or a video, which is extracted first.
        clips: Folder of the clips, if it is not next to the stores.
        backbone: Backbone for the extraction of videos.
        device: Device: cpu, cuda, cuda:1 ...; auto is cuda if available.
        host: Address to listen on; any non-local address adds a token to the link.
        port: 0 takes a free one.
        height: Height of the page in a notebook, in pixels.

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
    """Open the source and a socket without serving yet; arguments as in `explore`."""
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
    """Limit torch's threads in this process to a useful number, unless OMP_NUM_THREADS is set."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(MOST_THREADS, torch.get_num_threads()))


def is_local(host: str) -> bool:
    """Return whether an address is local, so that no other machine can reach it."""
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
        listener.listen(128)  # a browser that connects before the server is ready waits for it
    except OSError as error:
        listener.close()
        raise ExplorerError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}; name another --port"
        ) from error
    return listener
