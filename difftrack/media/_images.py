"""Pictures: BMP, JPEG, PNG, TIFF and WebP, upright, as RGB of 8 bits."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from difftrack.media import _limits
from difftrack.media._errors import MediaError, cause_of
from difftrack.media._limits import too_large

__all__ = ["IMAGE_FORMATS", "IMAGE_SUFFIXES", "decode", "image_size", "jpeg_decode", "read_image"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case endings that a folder of images is searched for."""

IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow's decoders for files: those of `IMAGE_SUFFIXES`. Any other is never tried, least of all EPS and PDF."""
_PACKED_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow's decoders for pictures inside data sets."""
_RGB_MODES = frozenset({"1", "CMYK", "L", "LA", "P", "RGB", "RGBA", "YCbCr"})
"""Pillow modes of 8 bits and less per channel that convert to RGB; deeper ones would be clipped silently."""
_DEEP_MODES = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow modes of more than 8 bits."""
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange height and width."""
_ORIENTATION = 0x0112


def read_image(path: Path) -> UInt8[np.ndarray, "row col rgb"]:
    """Read one picture (BMP, JPEG, PNG, TIFF or WebP) as RGB, upright (EXIF orientation honoured), without alpha.

    Raises:
        MediaError: the file is missing, no regular file, unreadable, cut short, of another format, larger than
            `MAX_PIXELS`, deeper than 8 bits per channel or of colours that are not converted.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    return decode(path, IMAGE_FORMATS, str(path), _rgb)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture, upright, from its header.

    Raises:
        MediaError: see `read_image`.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: is no picture that can be read; formats: {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error


def jpeg_decode(data: bytes) -> UInt8[np.ndarray, "row col rgb"]:
    """Decode the bytes of one JPEG, PNG or WebP as RGB.

    Raises:
        MediaError: the bytes are no such picture, are cut short, or claim more than `MAX_PIXELS`.
    """
    return decode(io.BytesIO(data), _PACKED_FORMATS, f"a picture of {len(data)} bytes", _rgb)


def decode(
    source: Path | io.BytesIO, formats: tuple[str, ...], name: str, read: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Decode one picture by one of `formats`; turn every exception of a decoder, of any kind, into a MediaError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is lower and no warning
            image = Image.open(source, formats=formats)
        with image:
            if image.width * image.height > _limits.MAX_PIXELS:
                raise MediaError(too_large(image.width, image.height))
            if image.mode not in _RGB_MODES:
                deep = image.mode in _DEEP_MODES
                raise MediaError(
                    f"pixels of mode {image.mode} are {'deeper than 8 bits' if deep else 'no RGB, grey or CMYK'}; "
                    f"convert it to {'8 bits' if deep else 'RGB'} first"
                )
            return read(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: is no picture that can be read; formats: {', '.join(formats)}") from error
    except Exception as error:
        raise MediaError(f"{name}: {cause_of(error)}") from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "row col rgb"]:
    return np.asarray(image.convert("RGB"))
