"""Fingerprints of stores stay the same while params do: otherwise terabytes of descriptors become useless."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from difftrack.backbones import Backbone, load_backbone
from difftrack.datasets import Clip
from difftrack.extraction import Extractor, ExtractParams
from difftrack.params import parse
from difftrack.store import DescriptorSpec, fingerprint_of

ROOT = Path(__file__).parents[1]
CHUNKS = [(0, 1, 3), (0, 2, 4)]

GOLDEN: dict[str, list[str]] = {
    "analysis": ["476bfd8e9e5b1a492d02c6ddef288493a98481a7bb999d86860467ea24e53e6c"],
    "analysis of a sampled clip": ["46d7273db5e97afcee14776e0fadba2ba0e7cf0e50fa8a4c21f5a94b0e127730"],
    "tracking": [
        "d4373f8612cbe715a9eaebfcf996e9cb76bcc5314382e00bbf49af81312e03d7",
        "5c887a7536ff51927af6858b5fbe513334e34b03a2b508a8af743f723787f441",
    ],
    "inverted": ["5aa232bf493d31cffee978095f054221331d22f31c84ec7f4f68c702085aad17"],
    "int8": ["b11afbd4807e8ddf888e4c8eda0f8d943dcd7280d97f40429abcb159b93e03e4"],
    "few": ["0431c31151bdd3f1026c21519d9f4d892abe3d017d819ac1c15c47d87ffb6782"],
    "another size": [
        "635382bf4ccb3eed746a05794321dac43e6ed04cc71c031e63bf0b2efbb96cb1",
        "685e9563c0294ba94ec2d9893f68131f311a90b34b2863388880041847c1b953",
    ],
    "unconditional": ["ec9a8948834641745a3784a107c2d45f2317dcd69fe4129a824480de5c46a9e0"],
}


@cache
def shipped() -> Backbone:
    return load_backbone(f"path:{ROOT / 'data/backbones/cogvideox-mini'}")


def section(**changes: Any) -> ExtractParams:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["extract"]
    for name, of_view in changes.items():
        values[name] = {**values[name], **of_view}
    return parse(ExtractParams, values, "extract")


def pinned(spec: DescriptorSpec) -> DescriptorSpec:
    """The spec with a constant instead of what other weights and versions of diffusers would change."""
    return replace(spec, fingerprint_parts={**spec.fingerprint_parts, "backbone": "weights", "diffusers": "0.42.1"})


def fingerprints(extract: ExtractParams, view: str, *, source: str = "rendered", **of_clip: Any) -> list[str]:
    frames = np.arange(17 * 7 * 11 * 3, dtype=np.uint16).astype(np.uint8).reshape(17, 7, 11, 3)
    clip = Clip("first", frames, fps=8.0, prompt="a red disc moves", source=source, **of_clip)  # type: ignore[arg-type]
    groups = Extractor(shipped(), extract.view(view)).outline(clip, chunks=CHUNKS if view == "tracking" else None)
    return [fingerprint_of(pinned(spec), extract.store) for spec in groups.values()]


CASES: dict[str, tuple[ExtractParams, str, str]] = {
    "analysis": (section(), "analysis", "rendered"),
    "analysis of a sampled clip": (section(), "analysis", "generated"),
    "tracking": (section(), "tracking", "rendered"),
    "inverted": (section(analysis={"mode": {"rendered": "ddim_inversion"}}), "analysis", "rendered"),
    "int8": (section(store={"dtype": "int8", "codec": "none"}), "analysis", "rendered"),
    "few": (section(analysis={"steps": [7], "heads": [1], "descriptors": ["key"]}), "analysis", "rendered"),
    "another size": (section(tracking={"height": 128, "width": 192, "resize": "released"}), "tracking", "folder"),
    "unconditional": (section(analysis={"guidance_branch": "uncond", "noise_seed": 43}), "analysis", "rendered"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_fingerprint_of_these_params_is_what_it_was(case: str) -> None:
    extract, view, source = CASES[case]
    assert fingerprints(extract, view, source=source) == GOLDEN[case]
