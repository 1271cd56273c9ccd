"""The drawings of a report: made once, and kept as long as what they show stays the same.

A change of one parameter leaves most of a report as it was. `drawn.json` beside the page says of each file what it was
drawn from, the code and the libraries that drew it among that, and what its bytes are.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr

from difftrack.provenance import MadeBy, code_of, versions_of

__all__ = ["Drawings", "digest"]

_LEDGER = "drawn.json"
_LIBRARIES = ("av", "matplotlib", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "scipy", "torch")


class Drawings:
    """Draws files into a folder, except those that lie there already and would come out the same.

    To be used in a `with`. At its end, files that an earlier report left and this one does not show are removed; after
    an error nothing is. With `anew` every file is drawn again.
    """

    def __init__(self, folder: Path, *, anew: bool = False, progress: Callable[[str], None] = lambda _: None) -> None:
        self.folder = folder
        self._anew = anew
        self._progress = progress
        self._before = _read_ledger(folder / _LEDGER)
        self._now: dict[str, dict[str, str]] = {}

    def draw(self, make: "functools.partial[None]", *names: str) -> None:
        """Have files written, or keep them; several threads may do so at once.

        Args:
            make: Called with the paths of the files; draws nothing but what its function and arguments say.
            names: Relative paths of the files.
        """
        drawn_from = digest([_made_by(make.func.__module__).to_json(), make])
        paths = [self.folder / name for name in names]
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
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        for name in self._before.keys() - self._now.keys():
            (self.folder / name).unlink(missing_ok=True)
        text = json.dumps(self._now, indent=1, sort_keys=True) + "\n"
        (self.folder / _LEDGER).write_text(text, encoding="utf-8")


def digest(value: object) -> str:
    """SHA-256 over a value: numbers, texts, arrays, mappings, sequences, dataclasses, and partial calls.

    A field of a dataclass that is declared with `compare=False` is left out.

    Raises:
        TypeError: the value, or something in it, is none of these.
    """
    sha = hashlib.sha256()
    for part in _parts(value):
        sha.update(part)
    return sha.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:  # noqa: ANN401 - whatever a drawing is made from
    """Bytes that differ where values do; each part says where it ends."""
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
        raise TypeError(f"cannot tell whether a {type(value).__name__} is the same as before")


@functools.cache
def _made_by(module: str) -> MadeBy:
    """The code that draws, and the versions that it draws with."""
    return MadeBy(code=code_of(module), versions=versions_of(*_LIBRARIES))


def _content(path: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _read_ledger(path: Path) -> dict[str, Any]:
    """What an earlier report wrote; nothing where it cannot be used."""
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return ledger if isinstance(ledger, dict) else {}
