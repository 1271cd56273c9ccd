"""The animated picture of README: tracks of a clip next to the explorer, from a run of the shipped backbone.

Usage: python -m benchmarks.front_picture [DATA]

DATA is the data folder of a run, `data` by default. Writes docs/images/difftrack.webp. Its left part plays the run's
predicted tracks; its right part is the explorer in a headless Chromium, which goes through steps, then layers, of a
point.
"""

import argparse
import io
import json
import shutil
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.explorer import serving, settle
from difftrack.datasets import read_clip
from difftrack.reports import OverlayParams, draw_tracks
from difftrack.tracking import read_predictions

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "difftrack.webp"
BACKBONE = "cogvideox-mini"
TRACKED = "rendered-hard-object-100"
CLICKED = "rendered-easy-object-101"
POINTS = "0,83,54;0,150,60"
LENSES = [*((step, 6) for step in (0, 14, 28, 49)), *((49, layer) for layer in (0, 2, 3, 5, 6, 6))]
"""(step, layer) of each picture of the explorer."""
HOLD = 4
"""Frames of the animation for each of these pictures."""
FRAME_MS = 140
TRACKS_SIZE, EXPLORER_SIZE, PAGE_SIZE = (540, 360), (760, 528), (1280, 889)
"""Sizes (width, height) in pixels: of the two parts, and of the browser's window."""


def main() -> None:
    """Draw both parts, put them side by side, write the animation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"), help="data folder of a run")
    data = parser.parse_args().data
    tracks, pages = tracked_frames(data), explorer_pages(data)
    frames = [beside(tracks[number % len(tracks)], pages[number // HOLD]) for number in range(HOLD * len(pages))]
    frames[0].save(
        PICTURE,
        save_all=True,
        append_images=frames[1:],
        duration=FRAME_MS,
        loop=0,
        quality=55,
        method=6,
        minimize_size=True,
    )
    print(PICTURE, frames[0].size, f"{len(frames)} frames, {PICTURE.stat().st_size / 1e6:.2f} MB")


def tracked_frames(data: Path) -> list[Image.Image]:
    """The frames of a clip with the tracks that the run predicts."""
    clip = read_clip(data / "clips", TRACKED)
    predicted = read_predictions(data / "predictions" / BACKBONE / f"{TRACKED}.npz")[1]["tracker"]
    drawn = draw_tracks(clip.frames, predicted.points_xy_px, predicted.visible, params=OverlayParams(upscale=3))
    return [Image.fromarray(np.asarray(frame)).resize(TRACKS_SIZE, Image.Resampling.LANCZOS) for frame in drawn]


def explorer_pages(data: Path) -> list[Image.Image]:
    """The explorer at each step and layer."""
    pages = []
    with serving(data) as (url, _), sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for step, layer in LENSES:
            width, height = PAGE_SIZE
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(120_000)
            lens = json.dumps({"s": f"{BACKBONE}/analysis", "t": step, "l": layer})
            page.goto(f"{url}#{urlencode({'clip': CLICKED, 'p': POINTS, 'tab': 'map', 'v0': lens})}")
            page.wait_for_selector(".tile .facts:not(:empty)")
            page.wait_for_selector('.panel[data-done="true"]')
            settle(page)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            pages.append(shot.resize(EXPLORER_SIZE, Image.Resampling.LANCZOS))
            page.close()
        chromium.close()
    return pages


def beside(tracks: Image.Image, page: Image.Image) -> Image.Image:
    """One frame of the animation."""
    frame = Image.new("RGB", (tracks.width + page.width, page.height), "white")
    frame.paste(tracks, (0, (page.height - tracks.height) // 2))
    frame.paste(page, (tracks.width, 0))
    return frame


if __name__ == "__main__":
    main()
