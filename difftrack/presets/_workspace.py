"""Workspaces: folders in which a preset runs without changing the project's params and results."""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from difftrack.documents import parse_yaml
from difftrack.presets._presets import Preset, PresetError, merge, preset_names
from difftrack.prompts import read_prompts

__all__ = ["commands", "missing_inputs", "narrowed_params", "open_workspace", "preset_of", "read_overrides"]

_FIRST, _PROMPTS, _NAME = "first.txt", "prompts.txt", "preset.txt"
_INPUTS = (
    "synthesize.generated.prompts",
    "synthesize.generated.images",
    "synthesize.generated.indices",
    "synthesize.folder.path",
    "annotate.published",
    "guide.prompts",
)
"""Keys that name the user's files or folders."""


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Parse the user's values, which override a preset.

    Args:
        words: Arguments `section.key=value` with the value in YAML; mappings are merged, other values replaced.

    Raises:
        PresetError: an argument is not such an assignment.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        keys, separator, text = word.partition("=")
        if not separator or not all(keys.split(".")):
            raise PresetError(
                f"{word!r} is not an assignment; expected section.key=value, such as score.threshold_px=4"
            )
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise PresetError(f"{word!r}: the value is not valid YAML: {' '.join(str(error).split())}") from error
        for key in reversed(keys.split(".")):
            value = {key: value}
        overrides = merge(overrides, value)
    return overrides


def missing_inputs(preset: Preset, params: Mapping[str, Any], top: Path) -> list[str]:
    """List the missing inputs of a preset, one line each: the key, the path and the way out.

    Args:
        preset: Only its sections are checked.
        params: All sections.
        top: Folder to which paths are relative.
    """
    found = []
    for name in _INPUTS:
        section, *keys = name.split(".")
        value: Any = params.get(section) if section in preset.params else None
        unused = section == "synthesize" and value is not None and keys[0] not in value["sources"]
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str) and not unused and not (top / value).exists():
            found.append(f"{name} is {value}, which does not exist; create it, or give its path with --set {name}=PATH")
    return found


def commands(preset: Preset, params: Mapping[str, Any]) -> Iterator[str]:
    """Yield the preset's commands, with each `${section.key}` replaced by its value, if set, quoted for a shell."""
    for command in preset.run:
        yield re.sub(r"[^\s]*\$\{[\w.]+\}[^\s]*", lambda found: shlex.quote(_filled(found[0], params)), command)


def open_workspace(
    work: Path, top: Path, preset: Preset, params: Mapping[str, Any], *, first: int | None = None, name: str = ""
) -> dict[str, Any]:
    """Create a copy of the project's layout with its own params and results.

    Everything else is linked to the project, so code and data are not copied and relative paths stay valid. A workspace
    that exists keeps its results, and only changed parts run again.

    Args:
        work: The workspace's folder.
        top: The project's folder.
        preset: The preset to run.
        params: All sections, with the preset applied.
        first: Limit to this number of prompts, or of clips in a folder; None for no limit.
        name: Name of the preset, for `preset_of`.

    Returns:
        The workspace's params.

    Raises:
        PresetError: `top` contains no pipeline, `first` is less than 1, or the folder is not a workspace.
    """
    if not (top / "dvc.yaml").is_file():
        raise PresetError(f"{top} contains no dvc.yaml; run this in the project's folder")
    if work.is_dir() and any(work.iterdir()) and not _is_workspace(work, top):
        raise PresetError(f"{work} is not empty and not a workspace of this project; choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    own = [(top / path).resolve() for path in params["paths"].values()]
    _link(top.resolve(), work.resolve(), own=own, work=work.resolve())
    for name in ("dvc.yaml", ".dvcignore"):
        if (top / name).is_file():
            shutil.copyfile(top / name, work / name)
    fewer = dict(params) if first is None else narrowed_params(work, top, preset, params, first)
    (work / "params.yaml").write_text(yaml.safe_dump(fewer, sort_keys=False), encoding="utf-8")
    if name:
        (work / _NAME).write_text(f"{name}\n", encoding="utf-8")
    return fewer


def preset_of(folder: Path) -> str | None:
    """Return the name of a workspace's preset; None if the folder is not a workspace."""
    file = folder / _NAME
    name = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return name if name in preset_names() else None


def narrowed_params(work: Path, top: Path, preset: Preset, params: Mapping[str, Any], first: int) -> dict[str, Any]:
    """Limit params to the first prompts or clips; writes the numbers or texts of the prompts into `work`.

    Raises:
        PresetError: `first` is less than 1.
    """
    if first < 1:
        raise PresetError(f"first is {first}; it must be at least 1")
    changes: dict[str, Any] = {}
    sources = params["synthesize"]["sources"] if "synthesize" in preset.params else ()
    if "generated" in sources:
        generated = params["synthesize"]["generated"]
        indices = generated.get("indices")
        prompts = read_prompts(top / generated["prompts"], indices=top / indices if indices else None)
        (work / _FIRST).write_text("".join(f"{number}\n" for number, _ in prompts[:first]), encoding="utf-8")
        changes = merge(changes, {"synthesize": {"generated": {"indices": _FIRST}}})
    if "folder" in sources:
        start = params["synthesize"]["folder"].get("start", 0)
        changes = merge(changes, {"synthesize": {"folder": {"end": start + first}}})
    if "guide" in preset.params:
        texts = [prompt for _, prompt in read_prompts(top / params["guide"]["prompts"])]
        (work / _PROMPTS).write_text("".join(f"{text}\n" for text in texts[:first]), encoding="utf-8")
        changes = merge(changes, {"guide": {"prompts": _PROMPTS}})
    return merge(params, changes)


def _is_workspace(work: Path, top: Path) -> bool:
    """Whether `open_workspace` made a folder: it has params and links into the project, and is not the project."""
    project = top.resolve()
    links = [path for path in [*work.glob("*"), *work.glob("*/*")] if path.is_symlink()]
    return (
        work.resolve() != project
        and (work / "params.yaml").is_file()
        and any(link.resolve().is_relative_to(project) for link in links)
    )


def _link(source: Path, target: Path, *, own: Sequence[Path], work: Path) -> None:
    """Link the contents of a folder, except for other workspaces and for the workspace's own files."""
    for entry in source.iterdir():
        place = target / entry.name
        hidden = entry.name.startswith(".") or entry.name in ("params.yaml", "dvc.yaml", "dvc.lock")
        if hidden or entry in own or entry == work or (entry / ".dvc").is_dir():
            continue
        if any(path.is_relative_to(entry) for path in [*own, work]):
            place.mkdir(exist_ok=True)
            _link(entry, place, own=own, work=work)
        elif not place.is_symlink() and not place.exists():
            place.symlink_to(entry)


def _filled(word: str, params: Mapping[str, Any]) -> str:
    return re.sub(r"\$\{([\w.]+)\}", lambda found: _value(params, found[1]) or found[0], word)


def _value(params: Mapping[str, Any], name: str) -> str | None:
    value: Any = params
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else str(value)
