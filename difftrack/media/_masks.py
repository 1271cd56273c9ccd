"""Masks as pictures: the number of the object in each pixel."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from difftrack.media._errors import MediaError
from difftrack.media._images import IMAGE_FORMATS, decode

__all__ = ["mask_palette", "read_mask", "write_mask"]

_MOST_OBJECTS = 64
"""Objects that a mask may show."""
_PLAIN_MASK = "save it as PNG, one colour for each object, without smoothed edges"


def read_mask(path: Path) -> UInt8[np.ndarray, "row col"]:
    """Read one picture as the number of the object in each pixel; 0 is the background.

    A picture with a palette (the masks of DAVIS 2017) holds these numbers. So does a grey one, but for one of black and
    white alone (DAVIS 2016), whose white is object 1. Colours become numbers in rising order of red, green and blue;
    black is the background.

    Raises:
        MediaError: as in `read_image`, or the picture has more than 65 colours or greys, so that it is no mask.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is no regular file")
    return decode(path, IMAGE_FORMATS, str(path), _object_numbers)


def write_mask(path: Path, mask: UInt8[np.ndarray, "row col"]) -> None:
    """Write the numbers of objects as a PNG with a palette, as DAVIS 2017 does; `read_mask` reads them back."""
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(mask_palette().tobytes())  # turns grey levels into places in the palette
    try:
        image.save(path, format="PNG")
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def mask_palette() -> UInt8[np.ndarray, "number rgb"]:
    """Give the colour of each number of a mask, that of PASCAL VOC and DAVIS: bits 0, 3, 6 of the number go to red.

    Bits 1, 4, 7 go to green and bits 2, 5 to blue, the lowest to the most significant place; 0 is black.
    """
    numbers = np.arange(256)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        colors[:, bit % 3] |= ((numbers >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colors


def _object_numbers(image: Image.Image) -> UInt8[np.ndarray, "row col"]:
    numbers: np.ndarray
    if image.mode == "P":
        numbers = np.asarray(image)
    elif image.mode in ("1", "L", "LA"):
        numbers = np.asarray(image.convert("L"))
        numbers = np.asarray(numbers > 0, dtype=np.uint8) if set(np.unique(numbers)) <= {0, 255} else numbers
    else:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
        colors = (red << 16) + (green << 8) + blue
        known = np.unique(np.append(colors, 0))
        if len(known) > _MOST_OBJECTS + 1:
            raise MediaError(f"has {len(known)} colours, so that it is no mask; {_PLAIN_MASK}")
        numbers = np.searchsorted(known, colors).astype(np.uint8)
    if (count := len(np.unique(numbers))) > _MOST_OBJECTS + 1:
        raise MediaError(f"has {count} greys, so that it is no mask; {_PLAIN_MASK}")
    return numbers
