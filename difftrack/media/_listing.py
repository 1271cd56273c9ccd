"""Decide which files of a folder are clips and which are left out; every reader of folders uses this rule.

Hidden files and partial downloads never count. A folder that contains a video is a folder of clips: its videos, and its
subfolders of images. Images beside videos are treated as thumbnails and left out. A folder without videos is one clip
that consists of its images in the most frequent format. Ties are resolved in the order PNG, TIFF, BMP, WebP, JPEG.
Images and videos of other types, and subfolders of videos, are left out. Everything that is left out is named.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from difftrack.media._images import IMAGE_SUFFIXES

__all__ = ["VIDEO_SUFFIXES", "FolderListing", "is_image_folder", "list_folder", "natural_order"]

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
"""Lower-case suffixes of video files in a folder."""

_OTHER_VIDEOS = {".3gp", ".asf", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".wmv", ".y4m"}
_OTHER_IMAGES = {".avif", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".ppm", ".tga"}
_OTHER_SUFFIXES = frozenset(_OTHER_VIDEOS | _OTHER_IMAGES)
"""Lower-case suffixes of images and videos that no folder is read for; they are named."""
_FORMATS = ("png", "tiff", "bmp", "webp", "jpeg")
_ALIASES = {"jpg": "jpeg", "tif": "tiff"}
_PARTIAL = re.compile(r"\.(part|partial|crdownload|download|temp|tmp|ytdl)(\.|-frag\d+\.|$)", re.IGNORECASE)
"""Matches the names that downloaders give to incomplete files: `a.mp4.part`, `a.temp.mp4`."""
_MOST_NAMES = 3


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The contents of a folder, in natural order."""

    videos: tuple[Path, ...]
    pictures: tuple[Path, ...]
    """The frames of one clip; empty if the folder contains videos."""
    image_folders: tuple[Path, ...]
    """Subfolders that are clips of images; empty if the folder itself is such a clip."""
    left_out: tuple[str, ...]
    """One line for each kind of image or video file that is left out."""


def list_folder(path: Path) -> FolderListing:
    """Apply this module's rule to a folder."""
    files, folders, hidden, partial, unread = (list[Path]() for _ in range(5))
    for item in natural_order(path.iterdir()):
        if item.is_dir():
            folders += [] if item.name.startswith(".") else [item]
        elif not _looks_like_media(item):
            continue
        elif item.name.startswith("."):
            hidden.append(item)
        elif _PARTIAL.search(item.name):
            partial.append(item)
        elif item.suffix.lower() in _OTHER_SUFFIXES:
            unread.append(item)
        else:
            files.append(item)
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    formats = Counter(map(_format, pictures))
    chosen = min(formats, key=lambda name: (-formats[name], _FORMATS.index(name)), default="")
    frames = [] if videos else [file for file in pictures if _format(file) == chosen]
    others = [file for file in pictures if file not in frames]
    left_out = [
        *_named("hidden", hidden),
        *_named("partial download", partial),
        *(_named("image beside videos", others) if videos else _named(f"image that is not {chosen}", others)),
        *_named("file type that is not read from folders", unread),
        *(_named("folder beside images", [each for each in folders if is_image_folder(each)]) if frames else []),
        *_named("folder that contains videos", [each for each in folders if _has_videos(each)]),
    ]
    return FolderListing(
        tuple(videos),
        tuple(frames),
        () if frames else tuple(folder for folder in folders if is_image_folder(folder)),
        tuple(left_out),
    )


def is_image_folder(path: Path) -> bool:
    """Whether `path` is a folder that is one clip of images."""
    if not path.is_dir():
        return False
    whole = [item for item in path.iterdir() if not item.name.startswith(".") and not _PARTIAL.search(item.name)]
    suffixes = {item.suffix.lower() for item in whole if item.is_file()}
    return bool(suffixes & IMAGE_SUFFIXES) and not suffixes & VIDEO_SUFFIXES


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort by name, comparing digits as numbers; equal names in that order are sorted as text."""
    return sorted(paths, key=lambda path: ([_number(part) for part in re.split(r"(\d+)", path.name)], path.name))


def _has_videos(folder: Path) -> bool:
    try:
        return any(item.suffix.lower() in VIDEO_SUFFIXES and item.name[0] != "." for item in folder.iterdir())
    except OSError:
        return False


def _looks_like_media(path: Path) -> bool:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES | _OTHER_SUFFIXES
    partial = _PARTIAL.sub(".", path.name)
    return path.suffix.lower() in suffixes or Path(partial.rstrip(".")).suffix.lower() in suffixes


def _format(path: Path) -> str:
    suffix = path.suffix.lower().removeprefix(".")
    return _ALIASES.get(suffix, suffix)


def _named(kind: str, files: list[Path]) -> list[str]:
    if not files:
        return []
    names = ", ".join(file.name for file in files[:_MOST_NAMES])
    more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
    return [f"left out, {kind}: {names}{more}"]


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part.lower())
