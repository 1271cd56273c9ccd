"""Read and write masks as images in which each pixel holds the number of an object."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from difftrack.media._errors import MediaError
from difftrack.media._images import IMAGE_FORMATS, decode

__all__ = ["mask_palette", "read_mask", "write_mask"]

_MOST_OBJECTS = 64
"""Maximum number of objects in a mask."""
_PLAIN_MASK = "save it as a PNG with one colour for each object and without smoothed edges"


def read_mask(path: Path) -> UInt8[np.ndarray, "row col"]:
    """Read one image as a mask: the number of the object in each pixel; 0 is the background.

    An image with a palette (DAVIS 2017) and a grey image contain these numbers directly. In a grey image with only
    black and white (DAVIS 2016), white is object 1. In a colour image, colours are numbered in ascending order of (red,
    green, blue); black is the background.

    Raises:
        MediaError: see `read_image`; also if the image has more than 65 colours or grey levels and so is not a mask.
    """
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    return decode(path, IMAGE_FORMATS, str(path), _object_numbers)


def write_mask(path: Path, mask: UInt8[np.ndarray, "row col"]) -> None:
    """Write object numbers as a PNG with a palette, as DAVIS 2017 does; `read_mask` reads the file."""
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(mask_palette().tobytes())  # grey levels become palette indices
    try:
        image.save(path, format="PNG")
    except (OSError, ValueError) as error:
        raise MediaError(f"{path}: cannot be written ({error})") from error


def mask_palette() -> UInt8[np.ndarray, "number rgb"]:
    """Return the colour of each object number, as in PASCAL VOC and DAVIS.

    Bits 0, 3, 6 of the number go to red, bits 1, 4, 7 to green and bits 2, 5 to blue, the lowest bit to the most
    significant bit of the colour. 0 is black.
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
            raise MediaError(f"has {len(known)} colours, so it is not a mask; {_PLAIN_MASK}")
        numbers = np.searchsorted(known, colors).astype(np.uint8)
    if (count := len(np.unique(numbers))) > _MOST_OBJECTS + 1:
        raise MediaError(f"has {count} grey levels, so it is not a mask; {_PLAIN_MASK}")
    return numbers
