"""The layers of a clip with their shapes and motions, all sampled from one seed.

Lengths are in scene units: 1/128 of the image height, measured from the centre of the image. Time is in frames. All
motion is a function of continuous time, so frames can be taken at any time, and motion blur is an average over the open
shutter.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from difftrack.rendering._spec import RenderSpec, Split
from difftrack.rendering._textures import ROLE_KEYS

SHAPES: Final = (
    "circle",
    "ellipse",
    "square",
    "rectangle",
    "triangle",
    "pentagon",
    "hexagon",
    "star",
    "flower",
    "blob",
)
RADIUS_SAMPLES: Final = 128
MAX_OBJECTS: Final = 4
REFERENCE_HEIGHT: Final = 128
FAR: Final = 1e6
"""Radius of the background; an unused layer has radius -FAR."""
_SCENE_STREAM: Final = 15_485_863
_AROUND_THE_MIDDLE: Final = 0.35
"""Factor on the distance between an object's path and the middle of the picture when the path is centred."""
_CLOSER: Final = 1.5
"""Factor on the size of an object in a close-up."""
_CARD_RADIUS: Final = 42.0
"""Radius of the circle with the same area as the object of a card, in scene units."""
_LEANING: Final = 0.1
"""Factor on an object's angle (up to half a turn either way) in a close-up."""
_UPRIGHT: Final = {"square": np.pi / 4, "triangle": -np.pi / 2, "pentagon": -np.pi / 2, "star": -np.pi / 2}
"""Angles, in radians, at which shapes stand upright, where the angle is not 0."""
_POLYGON_CORNERS: Final = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the motion in one split; a pair is (low, high) of a uniform distribution unless stated otherwise."""

    speed: tuple[float, float]
    """Object speed, units per frame."""
    pan: tuple[float, float]
    """Camera speed in scene clips, units per frame."""
    drift: float
    """Largest camera speed in object clips, units per frame."""
    spin: float
    """Largest rotation speed, radians per frame."""
    zoom: float
    """Largest amplitude of log scale."""
    stretch: float
    """Largest amplitude of log aspect."""
    tilt: float
    """Largest perspective term, per 100 units."""
    bend: float
    """Largest product of amplitude and wave number of the deformation; below 1 keeps it invertible."""
    num_objects: tuple[int, int]
    """(fewest, most), both inclusive."""
    exposure: float
    """Largest amplitude of log gain over time."""
    shadow: float
    """Largest darkening by a shadow, as a fraction."""
    shutter: float
    """Largest open fraction of the frame time."""
    repetitive: float
    """Share of layers with a repeating texture."""


LIMITS: Final[dict[Split, Limits]] = {
    "easy": Limits(
        speed=(0.3, 2.2), pan=(0.5, 2.0), drift=0.6, spin=0.03, zoom=0.15, stretch=0.0, tilt=0.0, bend=0.06,
        num_objects=(1, 3), exposure=0.0, shadow=0.3, shutter=0.0, repetitive=0.0,
    ),
    "hard": Limits(
        speed=(1.0, 5.0), pan=(1.0, 3.5), drift=1.5, spin=0.07, zoom=0.35, stretch=0.2, tilt=0.25, bend=0.3,
        num_objects=(2, 4), exposure=0.35, shadow=0.5, shutter=0.8, repetitive=0.2,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Oscillation:
    """A bounded oscillation, zero at time 0: `amplitude * (sin(rate * t + phase) - sin(phase))`."""

    amplitude: Float[np.ndarray, " layer"]
    rate: Float[np.ndarray, " layer"]
    phase: Float[np.ndarray, " layer"]

    def at(self, time: float) -> Float[np.ndarray, " layer"]:
        """Value for every layer at one time, in frames."""
        swing: np.ndarray = self.amplitude * (np.sin(self.rate * time + self.phase) - np.sin(self.phase))
        return swing


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers from back to front; layer 0 is the background and unused layers have a negative radius."""

    texture_index: Int[np.ndarray, " layer"]
    texture_repetitive: Int[np.ndarray, " layer"]
    texels_per_unit: Float[np.ndarray, " layer"]
    radius: Float[np.ndarray, "layer angle"]
    center: Float[np.ndarray, "layer xy"]
    heading: Float[np.ndarray, "layer xy"]
    travel: Oscillation
    sway: Oscillation
    """Motion perpendicular to the heading."""
    angle: Float[np.ndarray, " layer"]
    spin: Oscillation
    zoom: Oscillation
    stretch: Oscillation
    tilt: Float[np.ndarray, "layer xy"]
    tilt_swing: Oscillation
    wave_vector: Float[np.ndarray, "layer wave xy"]
    wave_amplitude: Float[np.ndarray, "layer wave xy"]
    wave_rate: Float[np.ndarray, "layer wave"]
    wave_phase: Float[np.ndarray, "layer wave"]
    parallax: Float[np.ndarray, " layer"]
    """Factor with which a layer follows the camera's translation; the background has 1."""
    camera_heading: Float[np.ndarray, " xy"]
    camera: Oscillation
    """Three paths, one entry each: travel, roll, log zoom."""
    exposure: Float[np.ndarray, " four"]
    """Amplitude, rate, phase of log gain over time; strength of a static left-right gradient."""
    shadow: Float[np.ndarray, " three"]
    """Strength and (x, y) offset."""
    shutter: float
    shapes: tuple[str, ...] = field(default=())

    @property
    def num_layers(self) -> int:
        """Number of layers in use: the background and the objects."""
        return 1 + len(self.shapes)


def sample_scene(spec: RenderSpec, *, num_textures: int | None = None) -> Scene:
    """Sample a scene.

    Args:
        spec: The clip to sample a scene for; two roles never share a random stream.
        num_textures: Sample texture numbers below this, for a bank of this many textures; None = unlimited.
    """
    rng = np.random.default_rng(
        [ROLE_KEYS[spec.role], _SCENE_STREAM, spec.seed, spec.kind == "scene", spec.split == "hard"]
    )
    limits = LIMITS[spec.split]
    count = int(rng.integers(limits.num_objects[0], limits.num_objects[1] + 1))
    total = 1 + MAX_OBJECTS
    moving = spec.kind == "object"
    aspect = spec.width / spec.height
    shapes = tuple(SHAPES[i] for i in rng.integers(len(SHAPES), size=count))
    size = rng.uniform(15, 34, size=total)
    radius = np.full((total, RADIUS_SAMPLES), -FAR)
    radius[0] = FAR
    for layer, shape in enumerate(shapes, start=1):
        radius[layer] = size[layer] * _radius(rng, shape)
    speed = rng.uniform(*limits.speed, size=total) * moving
    still = np.arange(total) == 0
    heading = _unit(rng.uniform(0, 2 * np.pi, size=total))
    tempo = rng.uniform(0.05, 0.2, size=(6, total))
    phase = rng.uniform(-0.6, 0.6, size=(6, total))
    wild = np.where(still, 0.25, 1.0) if moving else np.full(total, 0.3)
    reach = rng.uniform(18, 60, size=total)
    bank = num_textures or 2**31
    pan = rng.uniform(*limits.pan) if not moving else rng.uniform(0, limits.drift)
    camera_reach = rng.uniform(20, 55)
    wave_length = rng.uniform(25, 70, size=(total, 2))
    wave_number = 2 * np.pi / wave_length
    bend = rng.uniform(0, limits.bend, size=(total, 2)) * (rng.random((total, 1)) < 0.6) * 0.5
    return Scene(
        texture_index=rng.integers(bank, size=total),
        texture_repetitive=(rng.random(total) < limits.repetitive).astype(np.int64),
        texels_per_unit=np.where(still, rng.uniform(0.7, 1.2, size=total), rng.uniform(0.8, 1.6, size=total)),
        radius=radius,
        center=np.where(still[:, None], 0.0, rng.uniform(-1, 1, size=(total, 2)) * np.array([aspect, 1]) * 42),
        heading=heading,
        travel=Oscillation(np.where(still, 0, reach), np.where(still, 0, speed / reach), phase[0]),
        sway=Oscillation(np.where(still, 0, rng.uniform(0, 6, size=total)) * moving, tempo[0], phase[1]),
        angle=np.where(still, 0, rng.uniform(0, 2 * np.pi, size=total)),
        spin=_paced(rng, limits.spin * wild, reach=0.9, phase=phase[2]),
        zoom=Oscillation(rng.uniform(-1, 1, size=total) * limits.zoom * wild, tempo[1], phase[3]),
        stretch=Oscillation(rng.uniform(-1, 1, size=total) * limits.stretch * wild, tempo[2], phase[4]),
        tilt=rng.uniform(-0.5, 0.5, size=(total, 2)) * limits.tilt / 100 * wild[:, None],
        tilt_swing=Oscillation(rng.uniform(-1, 1, size=total) * limits.tilt / 100 * wild, tempo[3], phase[5]),
        wave_vector=wave_number[:, :, None] * _unit(rng.uniform(0, 2 * np.pi, size=(total, 2))),
        wave_amplitude=(bend / wave_number)[:, :, None] * _unit(rng.uniform(0, 2 * np.pi, size=(total, 2))),
        wave_rate=rng.uniform(-0.25, 0.25, size=(total, 2)),
        wave_phase=rng.uniform(0, 2 * np.pi, size=(total, 2)),
        parallax=np.where(still, 1.0, 1.0 if moving else rng.uniform(1.0, 1.7, size=total)),
        camera_heading=_unit(rng.uniform(0, 2 * np.pi, size=1))[0],
        camera=Oscillation(
            np.array([camera_reach, rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)])
            * np.array([1, not moving, not moving]),
            np.array([pan / camera_reach, rng.uniform(0.02, 0.08), rng.uniform(0.02, 0.08)]),
            rng.uniform(-0.6, 0.6, size=3),
        ),
        exposure=rng.uniform([0, 0.1, 0, -1], [limits.exposure, 0.5, 6, 1]) * np.array([1, 1, 1, limits.exposure]),
        shadow=np.array([rng.uniform(0, limits.shadow), *rng.uniform(-7, 7, size=2)]),
        shutter=float(rng.uniform(0, limits.shutter)),
        shapes=shapes,
    )


def centred(scene: Scene, *, num_frames: int) -> Scene:
    """Move the objects' paths around the middle of the picture, so that "moves left" implies a start on the right.

    In scenes as sampled, the direction in the prompt says almost nothing about where an object starts.

    Args:
        scene: Any scene; camera, sway and background do not change.
        num_frames: Number of frames; an object passes the middle of its path halfway between the first and the last.
    """
    moved = scene.travel.at(float(num_frames - 1))
    return replace(scene, center=_AROUND_THE_MIDDLE * scene.center - scene.heading * moved[:, None] / 2)


def close_up(scene: Scene) -> Scene:
    """Keep only the rearmost object, larger, nearly upright and rigid, so that its shape fills much of the picture.

    In scenes as sampled, the shape word affects only a few tokens at outlines, at an unknown angle. Hard scenes also
    bend and tilt the outline until the word barely describes it.

    Args:
        scene: Any scene; travel, rotation, zoom, camera, light and background do not change.
    """
    shape = scene.shapes[0]
    radius, angle = scene.radius.copy(), scene.angle.copy()
    background = np.arange(len(radius)) == 0
    radius[1] *= _CLOSER
    radius[2:] = -FAR
    angle[1] = _UPRIGHT.get(shape, 0.0) + _LEANING * (angle[1] - np.pi)
    return replace(
        scene,
        radius=radius,
        angle=angle,
        shapes=(shape,),
        stretch=replace(scene.stretch, amplitude=scene.stretch.amplitude * background),
        tilt=scene.tilt * background[:, None],
        tilt_swing=replace(scene.tilt_swing, amplitude=scene.tilt_swing.amplitude * background),
        wave_amplitude=scene.wave_amplitude * background[:, None, None],
    )


def shape_card(scene: Scene) -> Scene:
    """Turn the scene into a card that teaches a shape word: one upright object of fixed area that only travels.

    In a card the shape word determines only the outline. In a close-up it mostly determines the object's area and
    width. Light and camera are static, and there is no motion blur, so that the outline stays sharp.

    Args:
        scene: Any scene with an object that travels; textures, heading and travel do not change.
    """
    card = close_up(scene)
    radius, angle = card.radius.copy(), card.angle.copy()
    radius[1] *= _CARD_RADIUS / np.sqrt(np.mean(radius[1] ** 2))
    angle[1] = _UPRIGHT.get(card.shapes[0], 0.0)

    def still(path: Oscillation) -> Oscillation:
        return replace(path, amplitude=np.zeros_like(path.amplitude))

    return replace(
        card,
        radius=radius,
        angle=angle,
        center=np.zeros_like(card.center),
        sway=still(card.sway),
        spin=still(card.spin),
        zoom=still(card.zoom),
        stretch=still(card.stretch),
        tilt=np.zeros_like(card.tilt),
        tilt_swing=still(card.tilt_swing),
        wave_amplitude=np.zeros_like(card.wave_amplitude),
        camera=still(card.camera),
        exposure=np.zeros_like(card.exposure),
        shadow=np.zeros_like(card.shadow),
        shutter=0.0,
    )


def _paced(
    rng: np.random.Generator, speed: Float[np.ndarray, " layer"], *, reach: float, phase: Float[np.ndarray, " layer"]
) -> Oscillation:
    drawn = rng.uniform(-1, 1, size=len(speed)) * speed
    return Oscillation(np.full(len(speed), reach), drawn / reach, phase)


def _unit(angle: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape xy"]:
    vectors: np.ndarray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return vectors


def _radius(rng: np.random.Generator, shape: str) -> Float[np.ndarray, " angle"]:
    """Distance of a shape's outline from its centre at equally spaced angles; near 1."""
    angle = np.linspace(0, 2 * np.pi, RADIUS_SAMPLES, endpoint=False)
    if shape in _POLYGON_CORNERS:
        sector = 2 * np.pi / _POLYGON_CORNERS[shape]
        polygon: np.ndarray = 1.1 * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
        return polygon
    if shape == "rectangle":
        return np.minimum(1.3 / np.maximum(np.abs(np.cos(angle)), 1e-6), 0.75 / np.maximum(np.abs(np.sin(angle)), 1e-6))
    if shape == "ellipse":
        return 0.9 / np.sqrt((0.7 * np.cos(angle)) ** 2 + (1.25 * np.sin(angle)) ** 2)
    if shape == "star":
        return 0.78 + 0.42 * np.abs((angle * 5 / np.pi) % 2 - 1)
    if shape == "flower":
        return 0.95 + 0.2 * np.cos(6 * angle)
    if shape == "blob":
        waves = [rng.uniform(0, 0.4 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5)]
        blob: np.ndarray = 1 + 0.6 * np.sum(waves, axis=0)
        return blob
    return np.ones_like(angle)
