"""Read DAVIS 2016 and 2017 in their published layout: folders of frames and of masks.

    JPEGImages/480p/NAME/00000.jpg      or JPEGImages/NAME/..., JPEGImages/Full-Resolution/NAME/...
    Annotations/480p/NAME/00000.png     same layout; 0 and 255 (2016), or a palette of object numbers (2017)
    ImageSets/2017/val.txt              names of sequences, one per line; or lines of paths (DAVIS 2016)

Source: Perazzi et al. 2016 (CVPR) and Pont-Tuset et al. 2017 (arXiv 1704.00675).
"""

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from difftrack.datasets._clips import Clip, check_length
from difftrack.datasets._errors import ClipFailure, DatasetError, refuse_unknown, setting_aside
from difftrack.datasets._labelled import MaskedVideo
from difftrack.datasets._names import check_name
from difftrack.documents import read_bounded
from difftrack.media import IMAGE_SUFFIXES, is_image_folder, natural_order, read_mask, read_video

__all__ = ["load_davis"]

_RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
_MOST_NAMES_BYTES = 1 << 20


def load_davis(
    root: Path,
    *,
    split: str | None = None,
    resolution: str | None = None,
    start: int = 0,
    end: int | None = None,
    max_frames: int | None = None,
    skip: Collection[str] = (),
    failures: list[ClipFailure] | None = None,
) -> Iterator[MaskedVideo]:
    """Read the sequences of DAVIS 2016 or 2017 with their masks, one at a time, sorted by name.

    Args:
        root: Folder that contains `JPEGImages` and `Annotations`.
        split: A file in `ImageSets` without its suffix, such as `2017/val` or `480p/val`; None reads every folder.
        resolution: A folder in `JPEGImages`, such as `480p`; None uses the first existing folder of `480p`,
            `Full-Resolution` and `1080p`, or else the sequences directly in `JPEGImages`.
        start: Number of sequences to skip at the beginning.
        end: Index of the first sequence that is not read; None reads to the end.
        max_frames: Maximum number of frames per sequence.
        skip: Names of sequences to leave out.
        failures: Collects the sequences that cannot be used, and reading continues; None raises the first failure.

    Yields:
        Frames and masks; DAVIS 2016 has only object 1. Frames without a mask (in the test sets) count as not annotated.

    Raises:
        DatasetError: a folder is missing, the split names no sequence, or `skip` names an unknown sequence.
    """
    pictures, annotations = root / "JPEGImages", root / "Annotations"
    if not pictures.is_dir() or not annotations.is_dir():
        raise DatasetError(f"{root}: does not contain JPEGImages and Annotations; give the folder of DAVIS with both")
    folder = resolution or next((name for name in _RESOLUTIONS if (pictures / name).is_dir()), "")
    names = _split_names(root, split) if split is not None else _folders(pictures / folder)
    if not names:
        raise DatasetError(f"{pictures / folder}: contains no folder of images; expected one for each sequence")
    refuse_unknown(skip, names)
    for name in islice(names, start, end):
        if name in skip:
            continue
        with setting_aside(name, failures):
            yield _sequence(name, pictures / folder / name, annotations / folder / name, max_frames)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        raise DatasetError(f"{path}: the folder does not exist")
    return [item.name for item in natural_order(item for item in path.iterdir() if is_image_folder(item))]


def _split_names(root: Path, split: str) -> list[str]:
    """Read the names of a split's sequences, without duplicates, in the order of the file."""
    path = root / "ImageSets" / f"{split}.txt"
    if not path.exists():
        available = sorted(
            str(file.relative_to(root / "ImageSets").with_suffix("")) for file in root.glob("ImageSets/*/*.txt")
        )
        raise DatasetError(f"{path}: the split does not exist; available: {', '.join(available) or 'none'}")
    words = [
        line.split()[0]
        for line in read_bounded(path, max_bytes=_MOST_NAMES_BYTES).decode().splitlines()
        if line.strip()
    ]
    names = list(dict.fromkeys(Path(word).parent.name if "/" in word else word for word in words))
    for name in names:
        check_name(name)
    return names


def _sequence(name: str, pictures: Path, annotations: Path, max_frames: int | None) -> MaskedVideo:
    if not is_image_folder(pictures):
        raise DatasetError(f"{pictures}: contains no images")
    files = natural_order(file for file in pictures.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)[:max_frames]
    video = read_video(pictures, max_frames=max_frames)
    check_length(len(video.frames))
    clip = Clip(name=name, frames=video.frames, fps=video.fps, prompt="", source="folder", details={"folder": name})
    masks = np.zeros(clip.frames.shape[:3], dtype=np.uint8)
    annotated = np.zeros(clip.num_frames, dtype=bool)
    for number, file in enumerate(files):
        path = annotations / f"{file.stem}.png"
        if not path.exists():
            continue
        mask = read_mask(path)
        if mask.shape != masks.shape[1:]:
            raise DatasetError(
                f"{path.name} is {mask.shape[1]}x{mask.shape[0]} px, but its frame is {clip.width}x{clip.height}"
            )
        masks[number], annotated[number] = mask, True
    return MaskedVideo(clip, masks, annotated)
