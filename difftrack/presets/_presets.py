"""Read presets and apply them to params."""

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
"""Sections that a preset replaces completely; otherwise the user's other backbones would also run."""


class PresetError(ValueError):
    """A preset or its workspace cannot be used; the message names the cause and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """A number from the paper, and the place of this project's value."""

    what: str
    value: float | tuple[int, ...]
    """Value as printed; a list of layers if the paper names layers."""
    source: str
    """Table or figure of arXiv 2506.17220."""
    file: str | None = None
    """File with this project's value, in a folder of `paths`: predictions/cogvideox-2b/metrics.json; null if no stage
    measures it."""
    at: str = ""
    """Keys that lead to the number, separated by spaces; a list of layers is cut to the paper's length."""
    scale: float = 1.0
    """Factor that converts this project's value to the paper's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One released script, expressed in this project's params."""

    about: str
    script: str
    """The corresponding command of the released code."""
    departs: tuple[str, ...] = ()
    """Differences between paper and script, or between both and this project."""
    run: tuple[str, ...]
    """Commands to run, in order."""
    params: Mapping[str, Any]
    """Sections and keys that override params.yaml."""
    published: tuple[PublishedNumber, ...] = ()


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    here = files("difftrack.presets")
    return tuple(sorted(file.name.removesuffix(".yaml") for file in here.iterdir() if file.name.endswith(".yaml")))


def read_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        PresetError: the name is unknown.
    """
    if name not in preset_names():
        raise PresetError(f"unknown preset {name!r}; known: {', '.join(preset_names())}")
    text = files("difftrack.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return parse(Preset, yaml.safe_load(text), f"preset {name}")


def apply_preset(
    preset: Preset, params: Mapping[str, Any], overrides: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """Override params with a preset, and both with the user's values.

    Args:
        preset: Overrides params; `backbones` is replaced completely, other sections are merged.
        params: All sections of a params.yaml; not changed.
        overrides: Values that override the preset.

    Returns:
        All sections.
    """
    merged = merge(params, preset.params)
    replaced = {section: deepcopy(preset.params[section]) for section in _REPLACED if section in preset.params}
    return merge(merged | replaced, overrides)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested mappings, where `above` takes precedence; neither is changed."""
    merged = dict(deepcopy(dict(below)))
    for key, value in above.items():
        under = merged.get(key)
        nested = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(under, value) if nested and isinstance(under, Mapping) else deepcopy(value)
    return merged
