"""A folder in which a preset runs without touching the project's own params and results."""

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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
"""Keys that name files or folders of the user's."""


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Values to lay over a preset's.

    Args:
        words: Each `section.key=value`, the value in YAML; mappings are merged, everything else is replaced.

    Raises:
        PresetError: a word is no such assignment.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        keys, separator, text = word.partition("=")
        if not separator or not all(keys.split(".")):
            raise PresetError(f"{word!r} sets nothing; wanted: section.key=value, such as score.threshold_px=4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise PresetError(f"{word!r}: the value is not valid YAML: {' '.join(str(error).split())}") from error
        for key in reversed(keys.split(".")):
            value = {key: value}
        overrides = merge(overrides, value)
    return overrides


def missing_inputs(preset: Preset, params: Mapping[str, Any], top: Path) -> list[str]:
    """What a preset reads and is not there, a line each: the key, the path and the way out.

    Args:
        preset: Only sections that it names are looked at.
        params: All sections.
        top: Folder that relative paths start from.
    """
    found = []
    for name in _INPUTS:
        section, *keys = name.split(".")
        value: Any = params.get(section) if section in preset.params else None
        unused = section == "synthesize" and value is not None and keys[0] not in value["sources"]
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str) and not unused and not (top / value).exists():
            found.append(f"{name} is {value}, which is not there; put it there, or say --set {name}=WHERE")
    return found


def commands(preset: Preset, params: Mapping[str, Any]) -> Iterator[str]:
    """The preset's commands, `${section.key}` replaced by its value, where there is one, quoted as a shell wants it."""
    for command in preset.run:
        yield re.sub(r"[^\s]*\$\{[\w.]+\}[^\s]*", lambda found: shlex.quote(_filled(found[0], params)), command)


def open_workspace(
    work: Path, top: Path, preset: Preset, params: Mapping[str, Any], *, first: int | None = None, name: str = ""
) -> dict[str, Any]:
    """Make a folder that looks like the project, with params and results of its own.

    Everything else is a link to the project's, so that code and data are never copied and a relative path means the
    same. Opened again, it keeps its results, and only what changed runs again.

    Args:
        work: The folder.
        top: The project.
        preset: What is to run there.
        params: All sections, the preset laid over them.
        first: Only so many prompts, or clips of a folder.
        name: Of the preset, for `preset_of`.

    Returns:
        The params that the folder holds.

    Raises:
        PresetError: `top` holds no pipeline, `first` is less than 1, or the folder holds something else.
    """
    if not (top / "dvc.yaml").is_file():
        raise PresetError(f"{top} holds no dvc.yaml; run this where the project is")
    if work.is_dir() and any(work.iterdir()) and not _is_workspace(work, top):
        raise PresetError(f"{work} holds something and is no workspace of this project; name another folder")
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
    """The name of the preset that a folder was opened for; None where it is no such folder."""
    file = folder / _NAME
    name = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    return name if name in preset_names() else None


def narrowed_params(work: Path, top: Path, preset: Preset, params: Mapping[str, Any], first: int) -> dict[str, Any]:
    """Params for the first prompts or clips only; the prompts' numbers, or they themselves, are written into `work`.

    Raises:
        PresetError: `first` is less than 1.
    """
    if first < 1:
        raise PresetError(f"{first} prompts or clips are none; wanted: at least 1")
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
    """Whether a folder holds links into the project beside params, as `open_workspace` leaves it, and is not it."""
    project = top.resolve()
    links = [path for path in [*work.glob("*"), *work.glob("*/*")] if path.is_symlink()]
    return (
        work.resolve() != project
        and (work / "params.yaml").is_file()
        and any(link.resolve().is_relative_to(project) for link in links)
    )


def _link(source: Path, target: Path, *, own: Sequence[Path], work: Path) -> None:
    """Link what is in a folder, but for what the workspace has of its own, and for workspaces."""
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
