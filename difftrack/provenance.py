"""Record how an artifact was made, besides its params: the code, the libraries, and the loaded weights.

A stage reuses an existing artifact only if its params and this record are current. The record is not part of the
params' fingerprint, so that a message can name what differs instead of comparing hashes.
"""

import ast
import functools
import gc
import hashlib
import importlib.util
import inspect
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from difftrack.params import ParamsError, parse

__all__ = ["MadeBy", "Reuse", "code_of", "code_of_class", "has_file", "key_of", "reuse_problem", "versions_of"]

Reuse = Literal["exact", "params"]
"""exact: reuse an artifact only for equal params, code, libraries and loaded weights. params: equal params suffice."""

_WORDS = re.compile(
    r"(?P<string>'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")|#[^\n]*",
    re.DOTALL,
)
"""Matches strings, in which `#` has no special meaning, and comments."""
_parsing = threading.Lock()
_DIGITS = 16
"""Length of a digest in a record: long enough to distinguish versions of a room, short enough to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBy:
    """How an artifact was made."""

    code: Mapping[str, str] = field(default_factory=dict)
    """Room -> digest of its files that are reached by the code that made the artifact."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> its public version."""
    loaded: Mapping[str, Any] = field(default_factory=dict)
    """State of the loaded model, as JSON: the scheduler, the dtype, components that differ from their files."""

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON types; `from_json` restores the record."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), sort_keys=True))
        return plain

    @classmethod
    def from_json(cls, values: object) -> "MadeBy | None":
        """Restore a record from `to_json`; None for any other value, for example from an older artifact."""
        if not isinstance(values, Mapping):
            return None
        try:
            return parse(cls, values, "made_by")
        except ParamsError:
            return None

    def digest(self) -> str:
        """SHA-256 of the record."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def difference(self, then: "MadeBy | None") -> str | None:
        """Describe what has changed since an artifact was made; None if nothing has.

        Args:
            then: The artifact's record; None if it has none.
        """
        if then is None:
            return "no record of the code that made it"
        now, before = self.to_json(), then.to_json()
        code = _differing(before["code"], now["code"])
        parts = [f"code of {', '.join(code)}"] if code else []
        then_versions, now_versions = before["versions"], now["versions"]
        parts += [
            f"{name} {then_versions.get(name, 'none')} -> {now_versions.get(name, 'none')}"
            for name in _differing(then_versions, now_versions)
        ]
        parts += _differing(before["loaded"], now["loaded"])
        return "; ".join(parts) or None


def reuse_problem(now: MadeBy, then: object, reuse: Reuse) -> str | None:
    """Return why an artifact with equal params cannot be reused; None if it can.

    Args:
        now: The record that the artifact would have today.
        then: The record in the artifact's file, as JSON.
        reuse: What must be equal.
    """
    return None if reuse == "params" else now.difference(MadeBy.from_json(then))


def key_of(identity: str, made_by: MadeBy | None) -> str:
    """Return a short key for an artifact, made from its specification and from how it was made.

    Args:
        identity: A digest of the artifact's specification.
        made_by: How it was made; None if there is no record.
    """
    return f"{identity[:16]}-{'unknown' if made_by is None else made_by.digest()[:8]}"


def versions_of(*libraries: str) -> dict[str, str]:
    """Return the versions of installed libraries, without a local part such as `+cpu`."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def code_of(*modules: str, without: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """Compute a digest, for each room, of the code that modules reach through their imports.

    Comments, docstrings and blank lines do not count. If a package or its stub re-exports a name from one of its
    modules, only that module is followed, so that unused modules beside it do not count. Imports by a computed name are
    not detected; add such modules to the arguments.

    Args:
        modules: Dotted names, such as the module of the class that makes an artifact.
        without: Modules that are neither counted nor followed.

    Returns:
        Room (`backbones`, `media`) -> digest. For modules outside this package, the room is the top-level name.

    Raises:
        ValueError: a module does not exist.
    """
    reached: dict[str, _Source] = {}
    waiting = list(modules)
    missing = [name for name in (*modules, *sorted(without)) if _file(name) is None]
    if missing:
        raise ValueError(f"module {missing[0]} does not exist, so its code has no digest; check the name")
    packages = {name.partition(".")[0] for name in modules}
    while waiting:
        name = waiting.pop()
        if name in reached or name in without or name == __name__:  # this module only records
            continue
        reached[name] = source = _source(name)
        for imported in source.imports:
            if imported.partition(".")[0] in packages:
                waiting += _resolved(imported)
    rooms: dict[str, list[str]] = {}
    for name in sorted(reached):
        rooms.setdefault(_room(name), []).append(f"{name} {reached[name].digest}")
    return {room: _short("\n".join(lines)) for room, lines in sorted(rooms.items())}


@dataclass(frozen=True, slots=True)
class _Source:
    """One module's file."""

    digest: str
    imports: tuple[str, ...]
    """Dotted names of imported modules and of imported names in them."""
    passes_on: Mapping[str, str]
    """Exported name -> dotted name from which it was imported."""
    is_table: bool
    """Whether the module only re-exports names."""


@functools.cache
def _source(name: str) -> _Source:
    file = _file(name)
    content = b"" if file is None else file.read_bytes()
    package = name if file is not None and file.name == "__init__.py" else name.rpartition(".")[0]
    source, stub = _read(content, package), None if file is None else file.with_suffix(".pyi")
    if stub is None or not stub.is_file():
        return source
    return replace(source, passes_on=_read(stub.read_bytes(), package).passes_on, is_table=True)


def _read(content: bytes, package: str) -> _Source:
    """Parse a file into its digest and imports.

    Args:
        content: Content of the file.
        package: The package from which relative imports are resolved.
    """
    lines = content.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    imports: list[str] = []
    passes_on: dict[str, str] = {}
    kept, position, is_table = [], 0, True
    for statement in _statements(_parsed(content)):
        if isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - statement.level] if statement.level else []
            source = ".".join([*above, *([statement.module] if statement.module else [])])
            imports += [f"{source}.{alias.name}" for alias in statement.names]
            passes_on |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in statement.names}
        elif isinstance(statement, ast.Import):
            imports += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            end = starts[(statement.end_lineno or 1) - 1] + (statement.end_col_offset or 0)
            kept.append(content[position : starts[statement.lineno - 1] + statement.col_offset])
            position = end
        else:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            is_table &= [getattr(target, "id", None) for target in targets] == ["__all__"]
    kept.append(content[position:])
    text = _WORDS.sub(lambda found: found["string"] or "", b"".join(kept).decode())
    counted = "\n".join(line for line in map(str.rstrip, text.splitlines()) if line)
    return _Source(_short(counted), tuple(imports), passes_on, is_table)


def _parsed(content: bytes) -> list[ast.stmt]:
    """Parse the statements of a file, safely with other threads.

    Up to CPython 3.12, the depth of trees is counted in one place for all threads, and a tree that is built during
    another one causes a SystemError (gh-106905). Another thread can only run there when the garbage collector calls a
    finalizer, so the collector is disabled meanwhile.
    """
    with _parsing:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return ast.parse(content).body
        finally:
            if collecting:
                gc.enable()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield all statements in order, except those that only a type checker runs."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in (
            getattr(statement.test, "id", None),
            getattr(statement.test, "attr", None),
        ):
            yield from _statements(statement.orelse)
            continue
        for inner in ("body", "handlers", "orelse", "finalbody", "cases"):
            for part in getattr(statement, inner, ()):
                yield from _statements([part] if isinstance(part, ast.stmt) else part.body)


def _resolved(name: str) -> Iterator[str]:
    """Yield the modules that define an imported name; nothing if it is not found."""
    if _file(name) is not None:
        yield name
        return
    module, _, attribute = name.rpartition(".")
    file = _file(module) if module else None
    if file is None:
        return
    source = _source(module)
    passed_on = source.passes_on.get(attribute) if file.name == "__init__.py" else None
    if passed_on is not None:
        yield from _resolved(passed_on)
    if passed_on is None or not source.is_table:
        yield module


@functools.cache
def _file(name: str) -> Path | None:
    """Find a module's file from its package's location, without importing the module."""
    package, *rest = name.split(".")
    folder = _folder(package)
    if folder is None:
        return None
    if not rest:  # a package, or a top-level module
        return folder if folder.is_file() else next(iter(folder.glob("__init__.py")), None)
    path = folder.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def has_file(module: str) -> bool:
    """Whether a module's file can be found by name, which is not the case in a notebook."""
    return _file(module) is not None


def code_of_class(kind: type) -> str:
    """Compute a digest of the source of a class that has no file, such as a class in a notebook.

    Code that the class calls does not count. Without source, the digest is different each time.
    """
    try:
        return _short(inspect.getsource(kind))
    except (OSError, TypeError):
        return _short(uuid.uuid4().hex)


@functools.cache
def _folder(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else []))
    return Path(places[0]) if places else None


def _room(name: str) -> str:
    package, *rest = name.split(".")
    return rest[0] if package == "difftrack" and rest else package


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
