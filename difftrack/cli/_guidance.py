"""Verbs of guided sampling: guide, vbench."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass
from difftrack.cli._app import PARAMS, anchored, ranking_file, read_sections, verb, watched


@verb
def guide(
    prompts: Annotated[Path | None, typer.Argument(help="Prompt file; default: the one in the params.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the videos and their measures.")] = Path("guided"),
    params: Annotated[Path, typer.Option(help="Params file; guide and backbones are read.")] = PARAMS,
    force: Annotated[bool, typer.Option(help="Also sample existing clips again.")] = False,
) -> None:
    """Sample prompts with and without cross-attention guidance; existing clips with equal provenance are reused."""
    from difftrack.backbones import ModelParams
    from difftrack.guidance import GuideParams
    from difftrack.params import parse
    from difftrack.prompts import read_prompts

    values = anchored(read_sections(params, "guide", "backbones"), params)
    section = parse(GuideParams, values["guide"], "guide", file=params)
    model = parse(ModelParams, values["backbones"].get(section.backbone) or {}, f"backbones.{section.backbone}")
    texts = read_prompts(prompts or section.prompts)
    best = ranking_file(values, params, section.backbone) if section.layers == "best" else None

    from difftrack.backbones import load_backbone  # the import takes seconds, so cheap checks come before it
    from difftrack.guidance import read_ranking, sample_prompts
    from difftrack.keeping import Keeper

    ways = section.ways(None if best is None else read_ranking(best))
    backbone, problems = load_backbone(section.backbone, model), []
    keeper = Keeper(out.with_name(f"{out.name}.kept"), "samples", budget=section.keep_bytes, say=typer.echo)
    outcomes = sample_prompts(backbone, texts, section, ways=ways, folder=out, keeper=keeper, anew=force)
    for outcome in watched(outcomes, "guide", len(texts)):
        typer.echo(outcome.problem or out / f"{outcome.number:03d}", err=outcome.problem is not None)
        problems += [outcome.number] if outcome.problem else []
    if problems:
        raise typer.Exit(1)


@verb
def vbench(
    samples: Annotated[Path, typer.Argument(help="Folder written by `guide`.")],
    out: Annotated[Path, typer.Option(help="File for the means.")] = Path("vbench.json"),
    executable: Annotated[str, typer.Option(help="VBench's program, in its own environment.")] = "vbench",
) -> None:
    """Score guided and plain samples with VBench's own networks, if it is installed."""
    from statistics import fmean

    from difftrack.quality import vbench_scores

    means: dict[str, dict[str, float]] = {}
    for way in sorted({video.stem for video in samples.glob("*/*.mp4")} - {"side_by_side"}):
        videos = {video.parent.name: video for video in sorted(samples.glob(f"*/{way}.mp4"))}
        scores = vbench_scores(videos, executable=executable)
        means[way] = {dimension: fmean(by_video.values()) for dimension, by_video in scores.items()}
    if not means:
        raise ValueError(f"{samples} holds no samples; expected folders NNN with plain.mp4 and guided.mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(means, indent=2) + "\n", encoding="utf-8")
    typer.echo(out)
