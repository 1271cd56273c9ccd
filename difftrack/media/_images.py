"""Read images (BMP, JPEG, PNG, TIFF, WebP) upright, as 8-bit RGB."""

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
"""Lower-case suffixes of image files in a folder."""

IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow decoders allowed for image files, matching `IMAGE_SUFFIXES`. Others, such as EPS and PDF, are never used."""
_PACKED_FORMATS = ("JPEG", "PNG", "WEBP")
"""Pillow decoders allowed for images inside data sets."""
_RGB_MODES = frozenset({"1", "CMYK", "L", "LA", "P", "RGB", "RGBA", "YCbCr"})
"""Pillow modes with at most 8 bits per channel that convert to RGB. Deeper modes would be clipped silently."""
_DEEP_MODES = frozenset({"F", "I", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow modes with more than 8 bits."""
_TURNED = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""
_ORIENTATION = 0x0112


def read_image(path: Path) -> UInt8[np.ndarray, "row col rgb"]:
    """Read one image (BMP, JPEG, PNG, TIFF or WebP) as RGB without alpha, upright according to its EXIF orientation.

    Raises:
        MediaError: the file is missing, not a regular file, unreadable, truncated, in another format, larger than
            `MAX_PIXELS`, deeper than 8 bits per channel, or in a colour mode that is not supported.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    return decode(path, IMAGE_FORMATS, str(path), _rgb)


def image_size(path: Path) -> tuple[int, int]:
    """Read the (height, width) of an upright image from its header.

    Raises:
        MediaError: see `read_image`.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: is not a readable image; supported formats: {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:
        raise MediaError(f"{path}: {cause_of(error)}") from error


def jpeg_decode(data: bytes) -> UInt8[np.ndarray, "row col rgb"]:
    """Decode the bytes of one JPEG, PNG or WebP as RGB.

    Raises:
        MediaError: the bytes are not such an image, are truncated, or declare more than `MAX_PIXELS`.
    """
    return decode(io.BytesIO(data), _PACKED_FORMATS, f"an image of {len(data)} bytes", _rgb)


def decode(
    source: Path | io.BytesIO, formats: tuple[str, ...], name: str, read: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Decode one image in one of `formats`; every exception from a decoder becomes a MediaError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is a lower limit and raises
            image = Image.open(source, formats=formats)
        with image:
            if image.width * image.height > _limits.MAX_PIXELS:
                raise MediaError(too_large(image.width, image.height))
            if image.mode not in _RGB_MODES:
                deep = image.mode in _DEEP_MODES
                raise MediaError(
                    f"pixels of mode {image.mode} are {'deeper than 8 bits' if deep else 'not RGB, grey or CMYK'}; "
                    f"convert the image to {'8 bits' if deep else 'RGB'} first"
                )
            return read(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: is not a readable image; supported formats: {', '.join(formats)}") from error
    except Exception as error:
        raise MediaError(f"{name}: {cause_of(error)}") from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "row col rgb"]:
    return np.asarray(image.convert("RGB"))
