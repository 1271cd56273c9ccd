"""A data folder of two rendered clips with two views of a toy backbone. No two axes have the same length."""

from pathlib import Path

import numpy as np

from difftrack.datasets import Clip, Tracks, write_clip, write_tracks
from difftrack.datasets import write_manifest as write_clip_manifest
from difftrack.geometry import TokenGrid
from difftrack.rendering import RenderSpec, exact_tracks, render_clip
from difftrack.rotary import RotaryLayout
from difftrack.store import DescriptorSpec, create_group
from difftrack.text_tokens import TextTokens
from difftrack.tracking import no_motion, write_predictions

CLIPS = ("rolling", "sliding")
ANALYSIS, TRACKING = "toy/analysis", "toy/tracking"
SIZE, CLIP_SIZE = (56, 88), (112, 176)
"""(height, width) of the toy backbone's input, and of the clips: one pixel of the input is two of a clip."""
STEPS, LAYERS, HEADS, CHANNELS = (3, 17), (2, 5, 7), (0, 1, 2, 3), 13
NUM_FRAMES = 5
FRAMES = (0, 2, 4)
CHUNKS = ((0, 1, 3), (0, 2, 4))
TEXT_MASK = (True, True, True, False, True, False)
TEXT = TextTokens(
    "a circle moves",
    ((0, 1), (2, 8), (9, 14), None, None, None),
    ("prompt", "prompt", "prompt", "padding", "special", "padding"),
)
"""Words of the text tokens; no test needs them to make sense."""


def render_spec(name: str) -> RenderSpec:
    height, width = CLIP_SIZE
    return RenderSpec(seed=11 + CLIPS.index(name), num_frames=NUM_FRAMES, height=height, width=width)


def clip(name: str, *, prompt: str = "a circle moves") -> Clip:
    spec = render_spec(name)
    return Clip(name, render_clip(spec).frames, 5.0, prompt, "rendered", 11, details={"render": spec.to_json()})


def tracks(name: str) -> Tracks:
    height, width = CLIP_SIZE
    queries = np.asarray([(0, 30, 40), (0, 90.5, 61), (2, 120, 80)], np.float32)
    xy, visible = exact_tracks(render_spec(name), queries)
    return Tracks(xy.astype(np.float32), visible, queries, height, width, "exact")


def write_data(root: Path, *, prompt: str = "a circle moves") -> Path:
    """Write clips, tracks, predictions and descriptors as the pipeline lays them out."""
    for name in CLIPS:
        write_clip(root / "clips", clip(name, prompt=prompt))
        write_tracks(root / "tracks", name, tracks(name))
        still = no_motion(tracks(name).query_points, num_frames=NUM_FRAMES)
        (root / "predictions" / "toy").mkdir(parents=True, exist_ok=True)
        write_predictions(root / "predictions" / "toy" / f"{name}.npz", tracks(name).query_points, {"no_motion": still})
        write_group(root, "analysis", name, FRAMES, seed=CLIPS.index(name))
        for number, frames in enumerate(CHUNKS):
            write_group(root, "tracking", f"{name}/chunk_{number:03d}", frames, seed=7 + number)
    write_clip_manifest(root / "clips", CLIPS)
    return root


def write_group(root: Path, view: str, group: str, frames: tuple[int, ...], *, seed: int) -> None:
    """Random descriptors that change slowly from frame to frame, so that matches are neither certain nor uniform."""
    rows, cols = SIZE[0] // 8, SIZE[1] // 8
    stride = frames[1] - frames[0] if view != "tracking" else 1
    spec = DescriptorSpec(
        steps=STEPS if view != "tracking" else STEPS[-1:],
        timesteps=(700.0, 19.0) if view != "tracking" else (19.0,),
        layers=LAYERS if view != "tracking" else LAYERS[1:],
        heads=HEADS,
        num_channels=CHANNELS,
        grid=TokenGrid(len(frames), rows, cols, stride_px=8, temporal_stride=stride),
        frames=frames,
        clip_size=CLIP_SIZE,
        size=SIZE,
        text_mask=TEXT_MASK if view != "tracking" else (),
        fingerprint_parts={"backbone": "toy", "clip": group.partition("/")[0], "prompt": "clip"},
        rotary=RotaryLayout.interleaved(2, 4, 6),
    )
    rng = np.random.default_rng(seed)
    text = TEXT if spec.text_mask else None
    writer = create_group(str(root / "descriptors" / "toy" / view), group, spec, text=text)
    for step, layer in writer.missing():
        values = {}
        for kind in spec.entries:
            shape = spec.entry_shape(kind)
            values[kind] = rng.normal(size=shape).astype(np.float16)
            if kind in ("query", "key", "feature"):
                scene = 2.5 * rng.normal(size=(shape[0], 1, *shape[2:]))
                values[kind] = (scene + 0.4 * values[kind]).astype(np.float16)
        values["key"] = (values["query"] + 0.5 * values["key"]).astype(np.float16)
        writer.write(step, layer, values)
    writer.finish()


def damage_unit(root: Path, name: str, *, layer: int) -> Path:
    """Flip bytes in the shard that holds the keys of one (step, layer) of the analysis view; step 17."""
    at = f"{STEPS.index(17)}.{LAYERS.index(layer)}"
    (shard,) = (root / "descriptors" / "toy" / "analysis" / name / "key").glob(f"c.{at}.*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    content[len(content) // 3 + 1] ^= 0xFF
    shard.write_bytes(content)
    return shard
