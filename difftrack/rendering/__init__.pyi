from ._motion import Motion
from ._prompt import VOCABULARY, describe
from ._render import (
    SHUTTER_SAMPLES,
    Rendered,
    draw_layer,
    exact_masks,
    exact_tracks,
    layer_textures,
    on_object,
    render_batch,
    render_clip,
)
from ._scene import SHAPES, Scene, centred, close_up, sample_scene, shape_card
from ._spec import RenderSpec, Role
from ._textures import PALETTE, PATTERNS, PHOTO_WORDS, PHOTOS, TEXTURE_SIZE, Texture, make_texture

__all__ = [
    "PALETTE",
    "PATTERNS",
    "PHOTOS",
    "PHOTO_WORDS",
    "SHAPES",
    "SHUTTER_SAMPLES",
    "TEXTURE_SIZE",
    "VOCABULARY",
    "Motion",
    "RenderSpec",
    "Rendered",
    "Role",
    "Scene",
    "Texture",
    "centred",
    "close_up",
    "describe",
    "draw_layer",
    "exact_masks",
    "exact_tracks",
    "layer_textures",
    "make_texture",
    "on_object",
    "render_batch",
    "render_clip",
    "sample_scene",
    "shape_card",
]
