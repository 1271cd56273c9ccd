"""The backbones that have a name, and the names that the released code gave them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from difftrack.backbones._errors import BackboneError
from difftrack.resources import shipped

__all__ = ["ALIASES", "CHECKPOINTS", "SHIPPED", "canonical_name", "shipped_backbone"]

SHIPPED = "cogvideox-mini"
"""Name of the backbone whose weights come with the package; it needs no download."""

CHECKPOINTS: Mapping[str, str] = MappingProxyType({
    "cogvideox-2b": "zai-org/CogVideoX-2b",
    "cogvideox-5b": "zai-org/CogVideoX-5b",
    "cogvideox-1.5-5b": "zai-org/CogVideoX1.5-5B",
    "cogvideox-2b-i2v": "NimVideo/cogvideox-2b-img2vid",
    "cogvideox-5b-i2v": "zai-org/CogVideoX-5b-I2V",
    "cogvideox-1.5-5b-i2v": "zai-org/CogVideoX1.5-5B-I2V",
    "hunyuan-video": "hunyuanvideo-community/HunyuanVideo",
    "hunyuan-video-1.5": "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
    "wan2.1-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.1-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "wan2.1-i2v-14b": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "wan2.2-ti2v-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "ltx-2b": "Lightricks/LTX-Video",
    "ltx-13b": "Lightricks/LTX-Video-0.9.7-dev",
    "mochi-1": "genmo/mochi-1-preview",
    "allegro": "rhymes-ai/Allegro",
    "skyreels-v2-1.3b": "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
})  # fmt: skip
"""Published checkpoints; counts of layers, heads and channels are read from their configs, never from here."""

ALIASES: Mapping[str, str] = MappingProxyType({
    "cogvideox_t2v_2b": "cogvideox-2b",
    "cogvideox_t2v_5b": "cogvideox-5b",
    "cogvideox_i2v_2b": "cogvideox-2b-i2v",
    "cogvideox_i2v_5b": "cogvideox-5b-i2v",
    "hunyuan_t2v": "hunyuan-video",
})  # fmt: skip
"""Names in the released code."""


def shipped_backbone() -> Path:
    """Return the pipeline folder of the backbone that comes with the package."""
    return shipped(f"data/backbones/{SHIPPED}")


def canonical_name(name: str) -> str:
    """This project's name for a backbone.

    Raises:
        BackboneError: nobody knows the name.
    """
    known = ALIASES.get(name, name)
    if known not in CHECKPOINTS:
        raise BackboneError(
            f"unknown backbone {name!r}; known: {SHIPPED} (comes with the package), {', '.join(sorted(CHECKPOINTS))}, "
            f"or path:DIR for a local pipeline folder"
        )
    return known
