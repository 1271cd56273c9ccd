"""Draws maps of words on the frames of a clip, and writes them as files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, Float32, UInt8

from difftrack.datasets import Clip
from difftrack.media import write_frames, write_image
from difftrack.reports._overlay import captioned
from difftrack.reports._strips import frame_strip, side_by_side, spread_indices

__all__ = ["draw_word_strip", "draw_words", "export_words", "word_maps_at", "word_strip"]

_HEAT = "inferno"
_WIDE_PX = 480
"""Minimum comfortable width of a video."""
_MOST_FRAMES = 6


def word_maps_at(
    maps: Float32[np.ndarray, "map_frame row col"], map_frames: Sequence[int], num_frames: int
) -> Float32[np.ndarray, "frame row col"]:
    """Interpolate maps of some frames linearly to every frame; frames outside repeat the first or the last map.

    Args:
        maps: One for each of `map_frames`.
        map_frames: Video frames, ascending.
        num_frames: Video frames of the result.
    """
    frames = np.arange(num_frames)
    after = np.clip(np.searchsorted(map_frames, frames), 0, len(map_frames) - 1)
    before = np.clip(after - 1, 0, None)
    places = np.asarray(map_frames, np.float32)
    gap = np.maximum(places[after] - places[before], 1e-6)
    share = np.clip((frames - places[before]) / gap, 0, 1).astype(np.float32)[:, None, None]
    found: np.ndarray = maps[before] * (1 - share) + maps[after] * share
    return found


def draw_words(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    maps: Float[np.ndarray, "frame token_row token_col"],
    *,
    largest: float | None = None,
) -> Iterator[UInt8[np.ndarray, "row col rgb"]]:
    """Lay a word's map over the darkened frames of a clip.

    Args:
        frames: The clip.
        maps: One map per frame, over the token grid.
        largest: Value of full brightness; by default the largest of all frames, so that frames can be compared.

    Yields:
        Drawn frames of the same size.
    """
    brightest = float(np.max(maps, initial=0.0)) if largest is None else largest
    for frame, heat in zip(frames, maps, strict=True):
        yield _heat_over(frame, heat / max(brightest, 1e-12))


def draw_word_strip(
    frames: UInt8[np.ndarray, "frame row col rgb"],
    maps_of_word: Mapping[str, Float[np.ndarray, "map_frame token_row token_col"]],
    map_frames: Sequence[int],
) -> UInt8[np.ndarray, "strip_row strip_col rgb"]:
    """Draw the frames, and below them a row for each word; each row is scaled to its own maximum.

    Args:
        frames: The clip.
        maps_of_word: Word -> maps, in the order of the rows.
        map_frames: Video frames of the maps.
    """
    shown = spread_indices(len(map_frames), most=_MOST_FRAMES)
    pictures = frames[[map_frames[at] for at in shown]]
    heading = captioned(frame_strip(pictures)[None], f"frames {', '.join(str(map_frames[at]) for at in shown)}")[0]
    rows = [heading]
    for word, maps in maps_of_word.items():
        brightest = max(float(maps[shown].max()), 1e-12)
        strip = word_strip(pictures, maps[shown] / brightest)
        rows.append(_labelled(strip, f"{word}: brightest is {100 * brightest:.2g} %"))
    return np.concatenate(rows)


def word_strip(
    pictures: UInt8[np.ndarray, "tile row col rgb"], strengths: Float[np.ndarray, "tile token_row token_col"]
) -> UInt8[np.ndarray, "strip_row strip_col rgb"]:
    """Overlay maps in [0, 1] on pictures, side by side."""
    tiles = [_heat_over(_tile(picture), heat) for picture, heat in zip(pictures, strengths, strict=True)]
    return side_by_side(tiles)


def export_words(
    folder: str | Path,
    clip: Clip,
    maps_of_word: Mapping[str, Float32[np.ndarray, "map_frame token_row token_col"]],
    map_frames: Sequence[int],
) -> list[Path]:
    """Write <clip>-<word>.mp4 for each word, and a PNG and an npz of all of them; nothing is overwritten.

    Args:
        folder: Output folder, created if missing.
        clip: The clip; frames up to the last with a map are drawn.
        maps_of_word: Word -> maps over the token grid.
        map_frames: Video frames of the maps, ascending.

    Returns:
        The files.

    Raises:
        ValueError: a file of one of these names exists, or two words would share a name.
    """
    folder = Path(folder)
    names = {word: _file_name(word) for word in maps_of_word}
    if len(set(names.values())) < len(names):
        raise ValueError(f"the words {', '.join(names)} would share a file name; request them one by one")
    videos = {word: folder / f"{clip.name}-{name}.mp4" for word, name in names.items()}
    joined = "-".join(list(names.values())[:3]) + ("-and-more" if len(names) > 3 else "")
    picture, arrays = folder / f"{clip.name}-{joined}.png", folder / f"{clip.name}-{joined}.npz"
    files = [*videos.values(), picture, arrays]
    if there := next((file for file in files if file.exists()), None):
        raise ValueError(f"{there} already exists and is not overwritten; name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = clip.frames[: map_frames[-1] + 1]
    for word, maps in maps_of_word.items():
        every = word_maps_at(maps, map_frames, len(drawn))
        write_frames(
            videos[word], _enlarged(draw_words(drawn, every, largest=float(maps.max()))), clip.fps, lossless=False
        )
    write_image(picture, draw_word_strip(clip.frames, maps_of_word, map_frames))
    stacked = np.stack(list(maps_of_word.values()))
    np.savez_compressed(arrays, words=np.asarray(list(maps_of_word)), frames=np.asarray(map_frames), maps=stacked)
    return files


def _file_name(word: str) -> str:
    return re.sub(r"[^\w]+", "_", word).strip("_") or "word"


def _enlarged(frames: Iterator[UInt8[np.ndarray, "row col rgb"]]) -> Iterator[UInt8[np.ndarray, "out_row out_col rgb"]]:
    for frame in frames:
        times = max(1, -(-_WIDE_PX // frame.shape[1]))
        yield np.asarray(cv2.resize(frame, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR), np.uint8)


def _tile(picture: UInt8[np.ndarray, "row col rgb"]) -> UInt8[np.ndarray, "tile_row tile_col rgb"]:
    return frame_strip(picture[None])


def _heat_over(
    picture: UInt8[np.ndarray, "row col rgb"], strength: Float[np.ndarray, "token_row token_col"]
) -> UInt8[np.ndarray, "row col rgb"]:
    """Overlay a smoothed map in [0, 1] on a darkened picture: a word does not end at token borders."""
    size = (picture.shape[1], picture.shape[0])
    smooth = np.clip(cv2.resize(strength.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1)
    colors = 255 * matplotlib.colormaps[_HEAT](smooth)[..., :3]
    opacity = 0.85 * np.sqrt(smooth)[..., None]
    gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    base = 0.4 * picture + 0.25 * gray
    mixed: np.ndarray = np.round(base * (1 - opacity) + colors * opacity).astype(np.uint8)
    return mixed


def _labelled(strip: UInt8[np.ndarray, "row col rgb"], label: str) -> UInt8[np.ndarray, "labelled_row col rgb"]:
    plain = label.encode("ascii", "replace").decode()  # OpenCV's letters
    return np.asarray(captioned(strip[None], plain)[0], np.uint8)
