"""Which clips there are, or will be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftrack.datasets import read_manifest
from difftrack.params import parse
from difftrack.prompts import read_prompts
from difftrack.synthesis import SynthesizeSection

__all__ = ["Clips", "expected_clips"]


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips of one source and shape."""

    source: str
    count: int
    num_frames: int
    height: int
    width: int

    @property
    def px(self) -> float:
        """Of all frames of all clips."""
        return float(self.count * self.num_frames * self.height * self.width)


def expected_clips(params: Mapping[str, Any], root: Path) -> list[Clips]:
    """Give the clips that there are, or, before there are any, those that params ask for.

    Raises:
        ValueError: how many the user's folder holds is not known yet.
    """
    folder = root / params["paths"]["clips"]
    section = parse(SynthesizeSection, params["synthesize"], "synthesize")
    asked = _asked(section, root)
    if folder.is_dir():
        sampled = {clips.source: clips for clips in asked}
        view = params["extract"]["analysis"]
        seen = Clips("folder", 1, 0, int(view["height"]), int(view["width"]))  # its own size is in its frames alone
        found = []
        for clip in read_manifest(folder).clips:
            like = sampled.get(clip.source or "", seen)
            found.append(Clips(clip.source or "folder", 1, clip.num_frames or 0, like.height, like.width))
        return found
    if "folder" in section.sources:
        raise ValueError(
            "how many clips synthesize.folder holds is known once they are read: run `dvc repro synthesize` first"
        )
    return asked


def _asked(section: SynthesizeSection, root: Path) -> list[Clips]:
    found = []
    if "rendered" in section.sources:
        own = section.rendered
        count = own.easy_object + own.easy_scene + own.hard_object + own.hard_scene
        found.append(Clips("rendered", count, own.num_frames, own.height, own.width))
    if "generated" in section.sources and (sampled := section.generated) is not None:
        indices = None if sampled.indices is None else root / sampled.indices
        count = len(read_prompts(root / sampled.prompts, indices=indices))
        found.append(Clips("generated", count, sampled.num_frames, sampled.height, sampled.width))
    return found
