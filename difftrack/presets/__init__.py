"""Presets: one small file per script of the released code, laid over params.yaml, with the numbers published for it."""

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
