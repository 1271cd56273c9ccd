"""Caches the drawings of a report until their contents change.

A change of one parameter leaves most of a report unchanged. `drawn.json` next to the page records for each file a
digest of its inputs, including the drawing code and libraries, and of its bytes.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure as Drawing

from difftrack.documents import read_json
from difftrack.ownership import ArtifactKind, OwnershipError, claim, is_fingerprint, is_inside, remove_file
from difftrack.provenance import MadeBy, code_of, versions_of
from difftrack.reports._page import Figure
from difftrack.reports._style import inline_svg, save_png, save_svg

__all__ = ["Drawings", "digest", "save_figure"]

_LEDGER = "drawn.json"
REPORT = ArtifactKind(
    name="a report",
    marker=_LEDGER,
    proof=lambda said: all(
        is_fingerprint(entry["drawn_from"]) and (entry["content"] == "" or is_fingerprint(entry["content"]))
        for entry in said.values()
    ),
    files=("index.html", "headlines.json", _LEDGER),
)
"""How a report folder is recognised, for code that writes into one or removes files."""
_FOLDERS = ("figures", "strips", "videos")
"""Subfolders of drawings; nothing is removed elsewhere."""
_LIBRARIES = ("av", "matplotlib", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "scipy", "torch")


class Drawings:
    """Draws files into a folder, except existing ones that would not change.

    A context manager. At its end, drawings of an earlier report that this one does not show are removed if their bytes
    are as recorded; after an error nothing is removed. With `anew` every file is drawn again.

    Raises:
        OwnershipError: on entering, the folder holds files but no report.
    """

    def __init__(self, folder: Path, *, anew: bool = False, progress: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._anew = anew
        self._progress = progress
        self._before = _read_ledger(folder / _LEDGER)
        self._now: dict[str, dict[str, str]] = {}
        self._is_new = False

    def draw(self, make: "functools.partial[None]", *names: str) -> None:
        """Write files or keep existing ones; several threads may call this at once.

        Args:
            make: Called with the paths of the files; must depend only on its function and arguments.
            names: Relative paths of the files.
        """
        paths = [self.folder / name for name in names]
        for name, path in zip(names, paths, strict=True):
            if path.is_symlink() or not is_inside(path, self.folder):
                raise OwnershipError(f"{path} is a link or leads out of {self.folder}; nothing was written")
            if self._is_new and name not in self._now and path.exists():
                raise OwnershipError(f"{path} exists in a folder without a report; move it, or name another folder")
        drawn_from = digest([_made_by(make.func.__module__).to_json(), make])
        kept = not self._anew and all(
            self._before.get(name) == {"drawn_from": drawn_from, "content": _content(path)}
            for name, path in zip(names, paths, strict=True)
        )
        if not kept:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            make(*paths)
        for name, path in zip(names, paths, strict=True):
            self._now[name] = {"drawn_from": drawn_from, "content": _content(path)}
            self._progress(name)

    def __enter__(self) -> "Drawings":
        if not _has_own_page(self.folder):  # the record may be damaged: draw everything again
            claim(self.folder, REPORT)
            self._is_new = not (self.folder / _LEDGER).exists()
        if self._is_new:
            self._write({})  # after an error, finished drawings are kept for the next run
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        for name in self._before.keys() - self._now.keys():
            if name.split("/")[0] in _FOLDERS:
                path = self.folder / name
                remove_file(path, content=self._before[name]["content"], folder=self.folder / name.split("/")[0])
        self._write(self._now)

    def _write(self, ledger: Mapping[str, Any]) -> None:
        text = json.dumps(ledger, indent=1, sort_keys=True) + "\n"
        part = self.folder / f".{_LEDGER}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / _LEDGER)


def digest(value: object) -> str:
    """Compute the SHA-256 of a value: numbers, texts, arrays, mappings, sequences, dataclasses, and partial calls.

    Dataclass fields with `compare=False` are ignored.

    Raises:
        TypeError: the value, or something in it, has another type.
    """
    sha = hashlib.sha256()
    for part in _parts(value):
        sha.update(part)
    return sha.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:  # noqa: ANN401 - whatever a drawing is made from
    """Encode a value as bytes that differ if values do; each part marks its end."""
    if isinstance(value, functools.partial):
        yield from _parts([f"{value.func.__module__}.{value.func.__qualname__}", value.args, value.keywords])
    elif isinstance(value, xr.DataArray):
        labels = {str(name): labels.values for name, labels in value.coords.items()}
        yield from _parts([list(map(str, value.dims)), labels, value.values])
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array {value.dtype.str} {value.shape};".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.compare}
        yield from _parts([type(value).__name__, fields])
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)};".encode()
        for item in value.items():
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"list {len(value)};".encode()
        for item in value:
            yield from _parts(item)
    elif value is None or isinstance(value, str | int | float | np.generic):
        yield f"{value!r};".encode()
    else:
        raise TypeError(f"cannot compare a {type(value).__name__} with an earlier one")


@functools.cache
def _made_by(module: str) -> MadeBy:
    """Return the digest of the drawing code and its library versions."""
    return MadeBy(code=code_of(module), versions=versions_of(*_LIBRARIES))


def _content(path: Path) -> str:
    """Return the SHA-256 of a file; empty if it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _has_own_page(folder: Path) -> bool:
    """Return whether the headlines next to a page belong to a report of this project."""
    try:
        said = read_json(folder / "headlines.json")
        links = any((folder / name).is_symlink() for name in REPORT.files)
        return isinstance(said, list) and all({"value", "label"} <= line.keys() for line in said) and not links
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False


def _read_ledger(path: Path) -> dict[str, Any]:
    """Return the record of an earlier report; empty if it cannot be used."""
    return {} if REPORT.unmarked(path.parent) else dict(read_json(path))


def save_figure(
    drawings: Drawings, draw: partial[Drawing], *, name: str, title: str, caption: str, wide: bool = True
) -> Figure:
    """Draw `figures/<name>.svg` and `.png`, and return the block that shows the SVG inline."""
    svg, png = f"figures/{name}.svg", f"figures/{name}.png"
    drawings.draw(partial(_write, draw), svg, png)
    inline = inline_svg((drawings.folder / svg).read_text(encoding="utf-8"), name=name)
    return Figure(title=title, caption=caption, svg=inline, png=png, wide=wide)


def _write(draw: partial[Drawing], svg: Path, png: Path) -> None:
    drawing = draw()
    save_svg(drawing, svg)
    drawing.set_layout_engine("none")  # the layout is done; repeating it would double the time
    save_png(drawing, png)
