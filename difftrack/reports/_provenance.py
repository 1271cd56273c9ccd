"""Shows the origin of the numbers: versions, clips with their seeds, and the provenance of every store."""

import json
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from difftrack.datasets import Clip, Tracks
from difftrack.reports._names import truth_name
from difftrack.reports._page import Section, Table
from difftrack.reports._report_clips import ReportClips
from difftrack.wording import counted

__all__ = ["provenance_section"]

_PACKAGES = ("difftrack-video", "torch", "diffusers", "transformers", "zarr", "numpy", "opencv-python-headless", "dvc")
_CLIPS_AT_ONCE = 2


def provenance_section(
    footage: ReportClips, stores: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any]
) -> Section:
    """List everything that a reader needs to reproduce the numbers.

    Args:
        footage: All clips.
        stores: Backbone -> provenance of its descriptors and results.
        params: Parameters of this report.
    """
    tables = [
        Table(
            title=f"Provenance of {backbone}'s numbers",
            caption="Provenance of descriptors, as recorded in the stores, once per view and mode.",
            head=["what", "value"],
            rows=list(_flatten(parts)),
            folded=True,
            prose=True,
        )
        for backbone, parts in stores.items()
    ]
    return Section(
        anchor="provenance",
        short="Provenance",
        title="Provenance",
        lead="Same clips, same parameters and same versions give the same numbers.",
        blocks=[_clips(footage), *tables, _versions(params)],
    )


def _clips(footage: ReportClips) -> Table:
    with ThreadPoolExecutor(_CLIPS_AT_ONCE) as pool:  # reading frames releases the GIL
        rows = list(pool.map(lambda name: _clip_row(footage.read(name), footage.truth[name]), footage.truth))
    return Table(
        title="Clips",
        caption="The fingerprint covers frames and prompt.",
        head=["clip", "source", "seed", "frames", "size", "truth", "fingerprint", "prompt"],
        rows=rows,
        folded=True,
        prose=True,
    )


def _clip_row(clip: Clip, tracks: Tracks) -> list[str]:
    seed = "—" if clip.seed is None else str(clip.seed)
    size = f"{clip.width}x{clip.height}"
    truth = f"{truth_name(tracks.truth)}, {counted(tracks.num_points, 'point')}"
    return [
        clip.name,
        clip.source,
        seed,
        str(clip.num_frames),
        size,
        truth,
        clip.fingerprint()[:12],
        clip.prompt or "—",
    ]


def _versions(params: Mapping[str, Any]) -> Table:
    return Table(
        title="Versions and parameters of this report",
        caption="Versions installed when the report was written.",
        head=["what", "value"],
        rows=[["Python", platform.python_version()], *_installed(), *_flatten({"report": params})],
        folded=True,
        prose=True,
    )


def _installed() -> Iterator[list[str]]:
    for package in _PACKAGES:
        try:
            yield [package, version(package)]
        except PackageNotFoundError:
            continue


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    """Return rows (dotted key, value) of a nested mapping."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{name}.")
        else:
            yield [name, value if isinstance(value, str) else json.dumps(value, default=str)]
