"""The pictures of the explorer in README and docs, from the default run of the shipped backbone.

Usage: python -m benchmarks.explorer_pictures [DATA]

Writes docs/images/explore.jpg and the other pictures of the page, from a real server in a headless Chromium.
"""

import argparse
import io
import json
import shutil
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

from benchmarks.explorer import serving, settle

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CLIP = "rendered-easy-object-101"
POINTS = "0,83,54;0,150,60"
LENS = {"s": "cogvideox-mini/analysis", "t": 49, "l": 6, "h": [3]}

PICTURES = {
    "explore": {"tab": "map", "v0": json.dumps(LENS)},
    "explore-heads": {"tab": "heads", "view": "heads", "v0": json.dumps(LENS), "theme": "dark"},
    "explore-compare": {"tab": "attention", "v0": json.dumps(LENS), "v1": json.dumps({**LENS, "t": 7})},
    "explore-tracking": {"tab": "tracks", "v0": json.dumps(LENS), "theme": "dark"},
}


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"), help="data folder of the default run")
    data = parser.parse_args().data
    with serving(data) as (url, _), sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, state in PICTURES.items():
            page = chromium.new_page(viewport={"width": 1280, "height": 960}, device_scale_factor=1.25)
            page.set_default_timeout(120_000)
            page.goto(f"{url}#{urlencode({'clip': CLIP, 'p': POINTS, **state})}")
            page.wait_for_selector(".tile .facts:not(:empty)")
            if state["tab"] in ("map", "heads"):
                page.wait_for_selector('.panel[data-done="true"]')
            settle(page)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.save(IMAGES / f"{name}.jpg", quality=80, optimize=True)
            print(IMAGES / f"{name}.jpg", picture.size)
            page.close()
        chromium.close()


if __name__ == "__main__":
    main()
