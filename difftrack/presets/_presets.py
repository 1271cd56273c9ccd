"""What a preset is, where it lies, and how it is laid over somebody's params."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from difftrack.params import parse

__all__ = ["Preset", "PresetError", "PublishedNumber", "apply_preset", "merge", "preset_names", "read_preset"]

_REPLACED = ("backbones",)
"""Sections of which a preset replaces everything: other backbones would be run as well."""


class PresetError(ValueError):
    """A preset cannot be found; the message lists those that can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """A number of the paper, and where ours will stand."""

    what: str
    value: float | tuple[int, ...]
    """As printed; layers where the paper names layers."""
    source: str
    """Table or figure of arXiv 2506.17220."""
    file: str | None = None
    """Ours, below a folder of `paths`: predictions/cogvideox-2b/metrics.json; null where nothing here measures it."""
    at: str = ""
    """Keys down to the number, separated by blanks; of a list of layers, as many are taken as the paper names."""
    scale: float = 1.0
    """Ours times this is in the paper's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One released script in this project's params."""

    about: str
    script: str
    """Command of the released code that it stands for."""
    departs: tuple[str, ...] = ()
    """Where paper and script disagree, or ours has to differ from both."""
    run: tuple[str, ...]
    """Commands, one after the other."""
    params: Mapping[str, Any]
    """Sections and keys to lay over params.yaml."""
    published: tuple[PublishedNumber, ...] = ()


def preset_names() -> tuple[str, ...]:
    """Names of all presets."""
    here = files("difftrack.presets")
    return tuple(sorted(file.name.removesuffix(".yaml") for file in here.iterdir() if file.name.endswith(".yaml")))


def read_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        PresetError: there is none of that name.
    """
    if name not in preset_names():
        raise PresetError(f"unknown preset {name!r}; known: {', '.join(preset_names())}")
    text = files("difftrack.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse(Preset, yaml.safe_load(text), f"preset {name}")


def apply_preset(
    preset: Preset, params: Mapping[str, Any], overrides: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Lay a preset over params, and a person's own wishes over both.

    Args:
        preset: Its keys win; `backbones` is replaced as a whole, of other sections what it does not name stays.
        params: All sections of a params.yaml; not changed.
        overrides: Their keys win over the preset's.

    Returns:
        All sections.
    """
    merged = merge(params, preset.params)
    replaced = {section: deepcopy(preset.params[section]) for section in _REPLACED if section in preset.params}
    return merge(merged | replaced, overrides)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; neither is changed."""
    merged = dict(deepcopy(dict(below)))
    for key, value in above.items():
        under = merged.get(key)
        nested = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(under, value) if nested and isinstance(under, Mapping) else deepcopy(value)
    return merged
