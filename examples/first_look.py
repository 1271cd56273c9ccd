"""Measure, track and guide in a few lines: what a notebook does, as a script that `mypy --strict` accepts.

python examples/first_look.py my.mp4 --out first_look
"""

import argparse
from pathlib import Path

import difftrack as dt


def main(video: Path, out: Path, *, size: tuple[int, int], grid: int) -> None:
    """Write the descriptors of a video, a heat map, its tracks, the scores and a guided sample.

    Args:
        video: The video file.
        out: The folder of the results.
        size: (height, width) at which the backbone sees the video, pixels.
        grid: Points along each side of the grid that is tracked.
    """
    out.mkdir(parents=True, exist_ok=True)
    model = dt.load_backbone("cogvideox-mini", device="cpu")
    clip = dt.read_clip(video)
    store = dt.extract(model, clip, steps=[49], layers=[6, 7], size=size, to=out / "descriptors.zarr")

    found = dt.match(store, points=[(60, 40)], layer=6)
    found.heatmap().save(out / "heatmap.png")
    print(found.xy_px.sel(point=0).values)

    tracks = dt.track(store, grid=grid)
    tracks.overlay(to=out / "tracks.mp4")
    tracks.save(out / "tracks.csv")
    print(tracks, tracks.visible.mean())

    scores = dt.score(store, dt.annotate(clip, scene_grid=grid))
    scores.heatmap().save(out / "scores.png")
    print(scores.table, scores.best(1))

    frames, height, width = 9, *size
    sample = dt.guide(
        model,
        "a red disc moves left",
        layers=scores.best(1),
        scale=0.2,
        num_inference_steps=2,
        size=(frames, height, width),
    )
    print(sample)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, default=Path("first_look"))
    parser.add_argument("--size", type=int, nargs=2, default=(160, 240), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--grid", type=int, default=10)
    given = parser.parse_args()
    main(given.video, given.out, size=(given.size[0], given.size[1]), grid=given.grid)
