"""Describe a scene in one sentence: colour, texture, shape and motion, from a closed vocabulary."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from difftrack.rendering._scene import SHAPES, Scene
from difftrack.rendering._spec import RenderSpec
from difftrack.rendering._textures import PALETTE, PATTERNS, PHOTO_WORDS, Texture

_DIRECTIONS: Final = ("right", "down and right", "down", "down and left", "left", "up and left", "up", "up and right")
_MAX_DESCRIBED: Final = 3
_FUNCTION_WORDS: Final = (
    "a an the and over background moves stands still slowly quickly turning clockwise counterclockwise growing"
    " shrinking camera pans zooms in out is"
)
VOCABULARY: Final = tuple(
    sorted(
        {
            *_FUNCTION_WORDS.split(),
            *" ".join(_DIRECTIONS).split(),
            *SHAPES,
            *PALETTE,
            *PATTERNS,
            *PHOTO_WORDS,
        }
    )
)
"""Every word that `describe` uses."""


def describe(spec: RenderSpec, scene: Scene, textures: Sequence[Texture]) -> str:
    """Describe a scene, frontmost object first; directions refer to the total motion over the clip's frames."""
    last = float(spec.num_frames - 1)
    objects = [
        f"a {textures[layer].color} {textures[layer].pattern} {shape} {_object_motion(scene, layer, last)}"
        for layer, shape in reversed(list(enumerate(scene.shapes, start=1)))
    ]
    background = f"over a {textures[0].color} {textures[0].pattern} background"
    camera = _camera_motion(scene, last) if spec.kind == "scene" else ""
    return " ".join([" and ".join(objects[:_MAX_DESCRIBED]), background, camera]).strip()


def _object_motion(scene: Scene, layer: int, last: float) -> str:
    moved = float(scene.travel.at(last)[layer])
    turned = float(scene.spin.at(last)[layer])
    grown = float(scene.zoom.at(last)[layer])
    pace = abs(moved) / max(last, 1)
    words = "stands still"
    if pace > 0.25:
        adverb = "quickly " if pace > 1.6 else "slowly " if pace < 0.7 else ""
        words = f"moves {adverb}{_direction(scene.heading[layer] * moved)}"
    if abs(turned) > 0.2:
        words += " turning clockwise" if turned > 0 else " turning counterclockwise"
    if abs(grown) > 0.1:
        words += " growing" if grown > 0 else " shrinking"
    return words


def _camera_motion(scene: Scene, last: float) -> str:
    # The content of the picture moves opposite to the camera.
    panned, _, zoomed = scene.camera.at(last)
    words = f"the camera pans {_direction(-scene.camera_heading * panned)}"
    return words + (" and zooms in" if zoomed > 0.07 else " and zooms out" if zoomed < -0.07 else "")


def _direction(vector: np.ndarray) -> str:
    eighth = np.arctan2(vector[1], vector[0]) / (2 * np.pi) * len(_DIRECTIONS)
    return _DIRECTIONS[round(float(eighth)) % len(_DIRECTIONS)]
