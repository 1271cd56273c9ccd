"""Textures: crops of photographs from installed packages, and procedural patterns; roles share none."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from skimage.color import rgb2lab

from difftrack.rendering._spec import Role

TEXTURE_SIZE: Final = 256
"""Rows and columns of every texture, in texels."""

PALETTE: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.80, 0.13, 0.12),
    "orange": (0.93, 0.52, 0.10),
    "yellow": (0.92, 0.85, 0.20),
    "green": (0.15, 0.60, 0.22),
    "cyan": (0.20, 0.75, 0.78),
    "blue": (0.13, 0.25, 0.80),
    "purple": (0.50, 0.20, 0.65),
    "pink": (0.93, 0.55, 0.70),
    "brown": (0.45, 0.28, 0.15),
    "white": (0.93, 0.93, 0.92),
    "gray": (0.50, 0.50, 0.50),
    "black": (0.08, 0.08, 0.09),
}
"""Colour words of the prompts, with their RGB values in [0, 1]."""

_LEAST_CHROMA: Final = 12.0
"""CIELAB chroma below which a colour is named white, gray or black."""

PHOTO_WORDS: Final = ("brick", "grassy", "painted", "photo", "printed", "rocky", "spotted", "starry", "veined")
"""Texture words of photographs. Do not remove words: a trained tokenizer depends on the complete list."""
PATTERNS: Final = ("marbled", "striped", "checkered", "dotted", "cellular", "cloudy")
REPETITIVE: Final = ("striped", "checkered", "dotted")
PHOTO_SHARE: Final = 0.7
"""Share of textures cut from photographs; the others are procedural."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph inside an installed package."""

    package: str
    path: str
    word: str
    """The word for its texture in prompts."""


PHOTOS: Final[dict[Role, tuple[Photo, ...]]] = {
    "train": (
        Photo("skimage", "data/astronaut.png", "photo"),
        Photo("skimage", "data/brick.png", "brick"),
        Photo("skimage", "data/camera.png", "photo"),
        Photo("skimage", "data/coffee.png", "photo"),
        Photo("skimage", "data/grass.png", "grassy"),
        Photo("skimage", "data/hubble_deep_field.jpg", "starry"),
        Photo("skimage", "data/ihc.png", "spotted"),
        Photo("skimage", "data/moon.png", "rocky"),
        Photo("skimage", "data/motorcycle_left.png", "photo"),
        Photo("skimage", "data/motorcycle_right.png", "photo"),
        Photo("skimage", "data/page.png", "printed"),
        Photo("skimage", "data/retina.jpg", "veined"),
        Photo("sklearn", "datasets/images/china.jpg", "photo"),
        Photo("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "photo"),
    ),
    "tune": (
        Photo("skimage", "data/coins.png", "rocky"),
        Photo("skimage", "data/rocket.jpg", "photo"),
        Photo("skimage", "data/text.png", "printed"),
    ),
    "eval": (
        Photo("skimage", "data/chelsea.png", "photo"),
        Photo("skimage", "data/gravel.png", "rocky"),
        Photo("sklearn", "datasets/images/flower.jpg", "photo"),
    ),
}

_WANTED_DETAIL: Final = 0.03
"""Contrast of the flattest parts below which a photograph gets a faint grain, like a rough surface."""
_CROPS_TRIED: Final = 6
"""Number of random crops of a photograph; the one with the most detail in its flattest parts is used."""

ROLE_KEYS: Final[dict[Role, int]] = {"train": 1, "tune": 2, "eval": 3}
_TEXTURE_STREAM: Final = 104_729


@dataclass(frozen=True, slots=True)
class Texture:
    """One texture and the words that describe it."""

    pixels: UInt8[np.ndarray, "row col rgb"]
    color: str
    pattern: str
    source: str
    """Path of the photograph inside its package, or `procedural`."""


def make_texture(role: Role, index: int, *, repetitive: bool = False) -> Texture:
    """Make texture number `index` of a role; the same arguments give the same texels.

    Args:
        role: The role whose photographs and random stream are used.
        index: Any non-negative number.
        repetitive: Draw one of the repeating patterns, without the shading that makes each place unique.
    """
    rng = np.random.default_rng([ROLE_KEYS[role], _TEXTURE_STREAM, index, int(repetitive)])
    if repetitive:
        return _procedural(rng, REPETITIVE, unique=False)
    if rng.random() < PHOTO_SHARE:
        photos = PHOTOS[role]
        return _from_photo(rng, photos[rng.integers(len(photos))])
    return _procedural(rng, PATTERNS, unique=True)


_FORMATS = ("JPEG", "PNG")
"""The only Pillow decoders that may open the photographs."""


@cache
def _load_photo(package: str, path: str) -> UInt8[np.ndarray, "row col rgb"]:
    with resources.as_file(resources.files(package) / path) as file, Image.open(file, formats=_FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def _from_photo(rng: np.random.Generator, photo: Photo) -> Texture:
    texels = max((_crop(rng, photo) for _ in range(_CROPS_TRIED)), key=least_detail)
    if rng.random() < 0.4 or np.ptp(texels, axis=2).max() < 0.02:
        texels = _recolor(rng, texels)
    texels = (texels - 0.5) * rng.uniform(0.8, 1.25) + 0.5 + rng.uniform(-0.08, 0.08)
    if least_detail(np.clip(texels, 0, 1)) < _WANTED_DETAIL:
        texels = 0.1 + 0.8 * np.clip(texels, 0, 1) + 0.05 * fractal_noise(rng, exponent=1.0)[:, :, None]
    texels = np.clip(texels, 0, 1).astype(np.float32)
    return Texture((texels * 255).astype(np.uint8), nearest_color(texels), photo.word, f"{photo.package}/{photo.path}")


def _crop(rng: np.random.Generator, photo: Photo) -> Float[np.ndarray, "row col rgb"]:
    pixels = _load_photo(photo.package, photo.path)
    shorter = min(pixels.shape[:2])
    side = int(shorter * rng.uniform(0.4, 1.0))
    row, col = (int(rng.integers(0, extent - side + 1)) for extent in pixels.shape[:2])
    crop = np.rot90(pixels[row : row + side, col : col + side], k=int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    resized = Image.fromarray(np.ascontiguousarray(crop)).resize((TEXTURE_SIZE, TEXTURE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.float32) / np.float32(255)


def least_detail(texels: Float[np.ndarray, "row col rgb"]) -> float:
    """Contrast of the flattest tenth of a texture's 16 x 16 blocks. At 0, no tracker can locate a point there."""
    blocks = texels.mean(axis=2).reshape(TEXTURE_SIZE // 16, 16, TEXTURE_SIZE // 16, 16)
    return float(np.quantile(blocks.std(axis=(1, 3)), 0.1))


def _recolor(rng: np.random.Generator, texels: Float[np.ndarray, "row col rgb"]) -> Float[np.ndarray, "row col rgb"]:
    dark, light = _two_colors(rng)
    luminance = texels.mean(axis=2, keepdims=True)
    spread = np.percentile(luminance, [2, 98])
    position = np.clip((luminance - spread[0]) / max(spread[1] - spread[0], 1e-3), 0, 1)
    mixed: np.ndarray = (dark * (1 - position) + light * position).astype(np.float32)
    return mixed


def _two_colors(rng: np.random.Generator) -> tuple[Float[np.ndarray, " rgb"], Float[np.ndarray, " rgb"]]:
    first, second = rng.choice(len(PALETTE), size=2, replace=False)
    colors = np.asarray(list(PALETTE.values()))
    jitter = rng.uniform(-0.07, 0.07, size=(2, 3))
    return np.clip(colors[first] + jitter[0], 0, 1), np.clip(colors[second] + jitter[1], 0, 1)


def fractal_noise(rng: np.random.Generator, *, exponent: float) -> Float[np.ndarray, "row col"]:
    """Periodic noise with spectrum 1 / frequency**exponent, scaled to zero mean and unit deviation."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TEXTURE_SIZE), np.fft.rfftfreq(TEXTURE_SIZE), indexing="ij"))
    frequency[0, 0] = 1
    phase = rng.uniform(0, 2 * np.pi, size=frequency.shape)
    noise = np.fft.irfft2(np.exp(1j * phase) / frequency**exponent, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    noise -= noise.mean()
    scaled: np.ndarray = (noise / noise.std()).astype(np.float32)
    return scaled


def _procedural(rng: np.random.Generator, patterns: tuple[str, ...], *, unique: bool) -> Texture:
    pattern = patterns[rng.integers(len(patterns))]
    dark, light = _two_colors(rng)
    position = _pattern(rng, pattern)[:, :, None]
    texels = dark * (1 - position) + light * position
    if unique:
        shading = fractal_noise(rng, exponent=1.2)[:, :, None]
        texels = texels * (1 + 0.22 * shading)
    texels = np.clip(texels, 0, 1)
    return Texture((texels * 255).astype(np.uint8), nearest_color(texels), pattern, "procedural")


def _pattern(rng: np.random.Generator, pattern: str) -> Float[np.ndarray, "row col"]:
    """Blend weights in [0, 1] between a pattern's two colours."""
    row, col = np.meshgrid(*[np.arange(TEXTURE_SIZE, dtype=np.float32)] * 2, indexing="ij")
    angle, period = rng.uniform(0, np.pi), rng.uniform(10, 30)
    across = (np.cos(angle) * col + np.sin(angle) * row) / period
    along = (-np.sin(angle) * col + np.cos(angle) * row) / period
    if pattern == "striped":
        value = 0.5 + 0.5 * np.tanh(3 * np.sin(2 * np.pi * across))
    elif pattern == "checkered":
        value = 0.5 + 0.5 * np.tanh(6 * np.sin(np.pi * across) * np.sin(np.pi * along))
    elif pattern == "dotted":
        distance = np.hypot(across % 1 - 0.5, along % 1 - 0.5)
        value = 0.5 - 0.5 * np.tanh(12 * (distance - rng.uniform(0.2, 0.35)))
    elif pattern == "cellular":
        value = _cells(rng, row, col)
    else:
        exponent = 1.9 if pattern == "cloudy" else 1.5
        value = 0.5 + 0.5 * np.tanh(fractal_noise(rng, exponent=exponent) * (1 if pattern == "cloudy" else 1.8))
    positions: np.ndarray = value.astype(np.float32)
    return positions


def _cells(
    rng: np.random.Generator, row: Float[np.ndarray, "row col"], col: Float[np.ndarray, "row col"]
) -> Float[np.ndarray, "row col"]:
    centers = rng.uniform(0, TEXTURE_SIZE, size=(int(rng.integers(60, 200)), 2)).astype(np.float32)
    shades = rng.uniform(0, 1, size=len(centers)).astype(np.float32)
    nearest = np.full(row.shape, np.inf, dtype=np.float32)
    value = np.zeros_like(row)
    for center, shade in zip(centers, shades, strict=True):
        distance = (row - center[0]) ** 2 + (col - center[1]) ** 2
        closer = distance < nearest
        nearest = np.where(closer, distance, nearest)
        value = np.where(closer, shade, value)
    return value


def nearest_color(texels: Float[np.ndarray, "row col rgb"]) -> str:
    """Find the palette word nearest to most pixels in the middle of a texture, the part that objects show.

    People name a colour by its hue where it has one, so pale and dark shades keep their word. For pixels with chroma,
    hue therefore weighs more than CIELAB lightness. Pixels without chroma get the word nearest in lightness.
    """
    quarter = TEXTURE_SIZE // 4
    middle = rgb2lab(texels[quarter:-quarter:4, quarter:-quarter:4].reshape(-1, 1, 3))
    words = rgb2lab(np.asarray([list(PALETTE.values())]))
    (hue, has_hue), (hue_of_word, word_has_hue) = _hue(middle), _hue(words)
    turn = np.abs((hue - hue_of_word + np.pi) % (2 * np.pi) - np.pi)
    distance = 0.5 * np.abs(middle[..., 0] - words[..., 0]) + 60 * turn * has_hue
    distance = np.where(has_hue == word_has_hue, distance, np.inf)
    return list(PALETTE)[int(np.bincount(distance.argmin(axis=1)).argmax())]


def _hue(lab: Float[np.ndarray, "place word lab"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the hue angle in radians, and whether the chroma is high enough for a hue to be meaningful."""
    return np.arctan2(lab[..., 2], lab[..., 1]), np.hypot(lab[..., 1], lab[..., 2]) >= _LEAST_CHROMA
