"""How long a click takes in the explorer, measured in Chromium with everything included, and the server's memory.

Usage: OMP_NUM_THREADS=1 python -m benchmarks.explorer [DATA]

DATA is a data folder of the shipped backbone, `data` by default, as `make repro` leaves it in a fresh clone. Its clips
and its store descriptors/cogvideox-mini/analysis are read. Chromium must be installed. A second store of CogVideoX-2B's
shape is made of random numbers in a temporary folder (0.8 GB): 13 x 30 x 45 tokens, 30 heads of 64 channels. A real
server runs in a separate process, and a headless Chromium clicks. A time runs from the pointer's press to the frame
after the overlay is drawn on its canvas, by the page's own clock (`performance.measure`). Results go to
benchmarks/results/explorer.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from difftrack.datasets import Clip, write_clip, write_manifest
from difftrack.geometry import TokenGrid
from difftrack.store import DescriptorSpec, create_group, open_store

RESULTS = Path(__file__).parent / "results" / "explorer.json"

STEPS, LAYERS = (49,), (13, 17, 18)
"""Size of the synthetic store: three units of 135 MB of queries and keys."""


def write_cogvideox_2b(root: Path) -> None:
    """Write a clip and descriptors of CogVideoX-2B's shape."""
    rng = np.random.default_rng(0)
    spec = DescriptorSpec(
        steps=STEPS,
        timesteps=(19.0,),
        layers=LAYERS,
        heads=tuple(range(30)),
        num_channels=64,
        grid=TokenGrid(13, 30, 45, stride_px=16, temporal_stride=4),
        frames=tuple(range(0, 49, 4)),
        clip_size=(480, 720),
        size=(480, 720),
        kinds=("query", "key"),
    )
    writer = create_group(str(root / "descriptors" / "cogvideox-2b-shape" / "analysis"), "noise", spec)
    scene = rng.normal(size=(30, 1, 30, 45, 64)).astype(np.float32)
    for step, layer in writer.missing():
        values = scene + 0.5 * rng.standard_normal(size=(30, 13, 30, 45, 64), dtype=np.float32)
        writer.write(step, layer, {"query": values.astype(np.float16), "key": np.roll(values, 1, 3).astype(np.float16)})
    writer.finish()
    coarse = rng.integers(0, 255, (49, 30, 45, 3), dtype=np.uint8)
    frames = coarse.repeat(16, axis=1).repeat(16, axis=2)
    write_clip(root / "clips", Clip("noise", frames, 8.0, "noise", "folder"))
    write_manifest(root / "clips", ["noise"])


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a separate server over a data folder."""
    command = [sys.executable, "-m", "difftrack.cli", "explore", str(root), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def measure(root: Path, clip: str, store: str, *, clicks: int) -> dict[str, Any]:
    """Click, drag the layer slider over visited layers, and read the server's memory."""
    spec = open_store(str(root / "descriptors" / store)).spec(clip)
    lens = {"s": store, "t": spec.steps[-1], "l": spec.layers[-1]}
    if len(spec.heads) > 8:
        lens["d"] = "forward"
    with serving(root) as (url, process), sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"{url}#{urlencode({'clip': clip, 'v0': json.dumps(lens), 'tab': 'table'})}")
        page.wait_for_selector(".tile")
        rng = np.random.default_rng(1)
        first = times(page, lambda: click(page, 0.5, 0.5))
        before = cpu_seconds(process)
        fresh = [times(page, lambda: click(page, *rng.uniform(0.05, 0.95, 2).tolist())) for _ in range(clicks)]
        server_cpu = cpu_seconds(process) - before
        for key in ("[", "]"):
            times(page, lambda key=key: page.keyboard.press(key))
        visited = [times(page, lambda key=key: page.keyboard.press(key)) for key in ["[", "]"] * (clicks // 2)]
        for _ in spec.layers[:-1]:
            page.keyboard.press("[")
            settle(page)
        with (Path("/proc") / str(process.pid) / "status").open() as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1))  # type: ignore[union-attr]
        held = process.memory_info().rss
        chromium.close()
    return {
        "direction": lens.get("d", "both"),
        "tokens": [spec.grid.num_latent_frames, spec.grid.rows, spec.grid.cols],
        "heads": len(spec.heads),
        "first_click_ms": round(first, 1),
        "click_ms": summary(fresh),
        "visited_layer_ms": summary(visited),
        "server_cpu_ms_per_click": round(1e3 * server_cpu / clicks, 1),
        "server_mb": round(held / 1e6),
        "server_peak_mb": round(peak * 1.024e-3),
    }


def click(page: Page, x: float, y: float) -> None:
    """Click into the source frame, at shares of its width and height."""
    canvas = page.locator("canvas.source")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def times(page: Page, act: Any) -> float:  # noqa: ANN401
    """Return the milliseconds from an act to its painted overlay."""
    before = page.evaluate("performance.getEntriesByName('difftrack:overlay').length")
    act()
    while True:
        found = page.evaluate("performance.getEntriesByName('difftrack:overlay').map((entry) => entry.duration)")
        if len(found) > before:
            break
        time.sleep(0.005)
    settle(page)  # requests that the page sends after the picture, such as cycle errors, finish before the next click
    return float(found[-1])


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process, which is the cost of a click even on a busy machine."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def settle(page: Page) -> None:
    """Wait until the page has no request under way."""
    for _ in range(2):
        page.wait_for_selector('html[data-busy="0"]', state="attached")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def summary(durations: list[float]) -> dict[str, float]:
    """Median and spread of durations."""
    ordered = sorted(durations)
    return {
        "median": round(statistics.median(ordered), 1),
        "p10": round(ordered[len(ordered) // 10], 1),
        "p90": round(ordered[-1 - len(ordered) // 10], 1),
        "count": len(ordered),
    }


def machine() -> dict[str, Any]:
    """Describe the machine."""
    text = Path("/proc/cpuinfo").read_text()
    flags = set(re.search(r"flags\s*: (.*)", text).group(1).split())  # type: ignore[union-attr]
    version = subprocess.run(
        [shutil.which("chromium") or "chromium", "--version"], capture_output=True, text=True, check=True
    )
    return {
        "cpu": re.search(r"model name\s*: (.*)", text).group(1),  # type: ignore[union-attr]
        "cores": len(os.sched_getaffinity(0)),
        "flags": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_tile", "fma"}),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "chromium": version.stdout.split()[1],
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def main() -> None:
    """Measure both stores and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"), help="data folder of the shipped backbone")
    parser.add_argument("--clip", default="rendered-easy-object-100", help="of that folder")
    parser.add_argument("--clicks", type=int, default=50)
    parser.add_argument("--print", action="store_true", help="write no file")
    chosen = parser.parse_args()
    results = {"machine": machine()}
    results["shipped backbone"] = measure(chosen.data, chosen.clip, "cogvideox-mini/analysis", clicks=chosen.clicks)
    with tempfile.TemporaryDirectory() as folder:
        write_cogvideox_2b(Path(folder))
        results["CogVideoX-2B's shape"] = measure(
            Path(folder), "noise", "cogvideox-2b-shape/analysis", clicks=chosen.clicks
        )
    results["load_average_after"] = [round(load, 1) for load in os.getloadavg()]
    if not chosen.print:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
