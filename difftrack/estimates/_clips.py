"""The existing or expected clips."""

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
    """A number of clips with the same source and shape."""

    source: str
    count: int
    num_frames: int
    height: int
    width: int

    @property
    def px(self) -> float:
        """Number of pixels in all frames of all clips."""
        return float(self.count * self.num_frames * self.height * self.width)


def expected_clips(params: Mapping[str, Any], root: Path) -> list[Clips]:
    """Return the existing clips, or the clips that params request if none exist yet.

    Raises:
        ValueError: the number of clips in the user's folder is not known yet.
    """
    folder = root / params["paths"]["clips"]
    section = parse(SynthesizeSection, params["synthesize"], "synthesize")
    requested = _requested(section, root)
    if folder.is_dir():
        sampled = {clips.source: clips for clips in requested}
        view = params["extract"]["analysis"]
        seen = Clips("folder", 1, 0, int(view["height"]), int(view["width"]))  # the manifest does not record its size
        found = []
        for clip in read_manifest(folder).clips:
            like = sampled.get(clip.source or "", seen)
            found.append(Clips(clip.source or "folder", 1, clip.num_frames or 0, like.height, like.width))
        return found
    if "folder" in section.sources:
        raise ValueError(
            "the number of clips in synthesize.folder is not known before they are read; run `dvc repro synthesize`"
        )
    return requested


def _requested(section: SynthesizeSection, root: Path) -> list[Clips]:
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
