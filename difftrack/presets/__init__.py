"""Presets: one file for each script of the released code, with params to override and the published numbers."""

from difftrack.presets._compare import Comparison, compare_with_published
from difftrack.presets._presets import Preset, PresetError, PublishedNumber, apply_preset, preset_names, read_preset
from difftrack.presets._workspace import (
    commands,
    missing_inputs,
    narrowed_params,
    open_workspace,
    preset_of,
    read_overrides,
)

__all__ = [
    "Comparison",
    "Preset",
    "PresetError",
    "PublishedNumber",
    "apply_preset",
    "commands",
    "compare_with_published",
    "missing_inputs",
    "narrowed_params",
    "open_workspace",
    "preset_names",
    "preset_of",
    "read_overrides",
    "read_preset",
]
