"""Plan all stores of a params file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from difftrack.datasets import read_manifest
from difftrack.extraction import ClipReader, ExtractParams
from difftrack.params import ParamsError, parse
from difftrack.planning._extract import plan_extraction, probe
from difftrack.planning._plan import Plan
from difftrack.store import DescriptorSpec

__all__ = ["VIEWS", "outline_clips", "plan_params", "store_of"]

VIEWS = ("analysis", "tracking")


def plan_params(
    params: Mapping[str, Any],
    *,
    backbones: Sequence[str] = (),
    views: Sequence[str] = VIEWS,
    with_probe: bool = False,
) -> Iterator[tuple[Plan, dict[str, str]]]:
    """Plan every store of a params file, for the clips in the manifest.

    Args:
        params: All sections.
        backbones: Names of the backbones to plan; all by default.
        views: Views to plan.
        with_probe: Time one step of the first clip; loads the weights.

    Yields:
        A plan for each store, with the errors of clips that cannot be read.

    Raises:
        ParamsError: a backbone is not in the params.
    """
    extract, clips = parse(ExtractParams, params["extract"], "extract"), Path(params["paths"]["clips"])
    unknown = sorted(set(backbones) - set(params["backbones"]))
    if unknown:
        raise ParamsError(f"params.yaml: no backbones.{unknown[0]}; known: {', '.join(params['backbones'])}")
    workers = 1 if extract.workers == "auto" else extract.workers
    for backbone in backbones or params["backbones"]:
        for view in views:
            source = ClipReader.open(params, backbone=backbone, view=view, folder=clips)
            manifest = source.manifest(read_manifest(clips).clips)
            outlines, problems = outline_clips(source, manifest.clips)
            rates = probe(source, extract, next(iter(outlines))) if with_probe and outlines else None
            name, store = f"{backbone}, {view}", store_of(params, backbone, view)
            plan = plan_extraction(
                source,
                extract,
                outlines,
                name=name,
                store=store,
                rates=rates,
                workers=workers,
                left_out=manifest.left_out,
            )
            yield plan, problems


def outline_clips(
    source: ClipReader, names: Sequence[str]
) -> tuple[dict[str, dict[str, DescriptorSpec]], dict[str, str]]:
    """Return the specs of each clip's groups, and the errors of clips that cannot be run."""
    outlines, problems = {}, {}
    for name in names:
        try:
            outlines[name] = source.outline(name)
        except (ValueError, OSError) as error:
            problems[name] = str(error)
    return outlines, problems


def store_of(params: Mapping[str, Any], backbone: str, view: str) -> str:
    """Return the path of the store that the stage `extract` writes."""
    return f"{params['paths']['descriptors']}/{backbone}/{view}"
