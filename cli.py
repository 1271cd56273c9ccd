"""The command line: one verb per question; it calls the library, or DVC."""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from difftrack.backbones import ModelParams
    from difftrack.datasets import Clip
    from difftrack.extraction import ClipExtraction, TrackingParams
    from difftrack.scenes import Scenes
    from difftrack.store import Store
    from difftrack.tracking import ChunkDescriptors, PredictedTracks, TrackParams

P = ParamSpec("P")
T = TypeVar("T")

PARAMS = Path("params.yaml")
EVALUATION = ("baselines", "lucas_kanade", "query_mode", "trackers")
"""Keys of the section `track` that its stage alone reads."""

app = typer.Typer(
    help="Where video diffusion transformers keep track of points: measure it, track with it, guide with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StoreArgument = Annotated[
    str, typer.Argument(help="Folder or URL of a store, such as data/descriptors/cogvideox-mini/analysis.")
]


AFTER_INTERRUPT = {
    "guide": "the prompts that are done are kept, and the next run goes on after them",
    "preset": "the next run goes on where this one stopped",
    "repro": "the next run goes on where this one stopped",
}
"""What is left of an interrupted verb; of the others, nothing that the next run would not do again."""


@contextmanager
def _one_line_errors(verb: str = "") -> Iterator[None]:
    """Turn what a person can mend, or did, into one line on stderr: exit status 1, after Ctrl-C 130, SIGTERM 143."""
    from difftrack.interrupts import Interrupted, interruptible, lack_of_memory

    try:
        with interruptible():
            yield
    except Interrupted as error:
        after = AFTER_INTERRUPT.get(verb, "the next run begins anew")
        typer.echo(f"difftrack: interrupted{f' during {verb}' if verb else ''}; {after}", err=True)
        raise typer.Exit(error.status) from error
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        said = str(error) if isinstance(error, ValueError | OSError) else lack_of_memory(error)
        if said is None:
            raise
        typer.echo(f"difftrack: {' '.join(said.split())}", err=True)
        raise typer.Exit(1) from error


def _verb(function: Callable[P, None]) -> Callable[P, None]:
    @app.command()
    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with _one_line_errors(function.__name__):
            function(*args, **kwargs)

    return guarded


@_verb
def info(store: StoreArgument) -> None:
    """Say what a store holds."""
    from difftrack.store import StoreError, stored_bytes
    from difftrack.wording import counted

    opened = _open_store(store)
    layouts: dict[str, list[str]] = {}
    for group in opened.groups():
        try:
            layouts.setdefault(_describe(opened.spec(group), opened.params(group).dtype), []).append(group)
        except StoreError as error:
            layouts.setdefault(str(error), []).append(group)
    size = stored_bytes(store)
    num_groups = counted(sum(map(len, layouts.values())), "group")
    typer.echo(f"{store}: {num_groups}, {size / 1e6:.1f} MB on disk")
    for layout, groups in layouts.items():
        typer.echo(f"\n{', '.join(groups)}\n{layout}")


@_verb
def query(
    store: StoreArgument,
    clip: Annotated[str, typer.Option(help="Name of the clip.")],
    step: Annotated[int, typer.Option(help="Denoising step, 0 = noisiest.")],
    layer: Annotated[int, typer.Option(help="Layer, 0-based.")],
    point: Annotated[str, typer.Option(help="x,y in pixels of the clip, in the first stored frame.")],
    frame: Annotated[int | None, typer.Option(help="Only this video frame.")] = None,
    chunk: Annotated[int | None, typer.Option(help="Chunk, in a tracking view.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the match probabilities into this file.")] = None,
    clips: Annotated[Path, typer.Option(help="Folder of the clips, for the picture.")] = Path("data/clips"),
) -> None:
    """Find one point of a clip again in its other frames, from stored queries and keys."""
    from difftrack.datasets import read_clip
    from difftrack.media import write_image
    from difftrack.reports import draw_query, query_point

    opened, (point_xy_px, *others) = _open_store(store), _points(point)
    if others:
        raise typer.BadParameter(f"--point is {point!r}; one point is wanted")
    matches = query_point(opened, clip=clip, step=step, layer=layer, point_xy_px=point_xy_px, frame=frame, chunk=chunk)
    typer.echo("frame\tx_px\ty_px\tprobability\tmargin")
    for match in matches:
        typer.echo(f"{match.frame}\t{match.x_px:.2f}\t{match.y_px:.2f}\t{match.probability:.4f}\t{match.margin:.4f}")
    if png is not None:
        picture = draw_query(
            opened,
            read_clip(clips, clip),
            step=step,
            layer=layer,
            point_xy_px=point_xy_px,
            frame=frame,
            chunk=chunk,
        )
        write_image(png, picture)


@_verb
def verify(store: StoreArgument) -> None:
    """Check every byte of a store; exit status 1 where something is damaged or missing."""
    from difftrack.wording import counted

    checks = list(_open_store(store).verify())
    damaged = [check for check in checks if check.problem]
    for check in damaged:
        typer.echo(f"{check.path} {check.problem}")
    for check in checks:
        if check.unproven:
            typer.echo(f"{check.path} {check.unproven}")
    typer.echo(f"{store}: {counted(len(checks), 'file')} checked, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@_verb
def plan(
    params: Annotated[Path, typer.Option(help="What to run.")] = PARAMS,
    backbone: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="analysis or tracking only.")] = None,
    probe: Annotated[bool, typer.Option(help="Load the weights and time one step, too.")] = False,
    study: Annotated[Path | None, typer.Option(help="Instead: a study on paper, such as docs/study.yaml.")] = None,
) -> None:
    """Say what `extract` will write, how large that gets and whether it fits; exit status 1 where it does not."""
    from difftrack.params import parse
    from difftrack.planning import Study, plan_params, study_table

    if study is not None:
        typer.echo(study_table(parse(Study, _read_yaml(study), "study", file=study)))
        return
    values = _read_extraction(params)
    if unknown := sorted(set(backbone or ()) - set(values["backbones"])):
        raise ValueError(f"{params}: no backbones.{unknown[0]}; there are {', '.join(values['backbones'])}")
    _check_made(Path(values["paths"]["clips"]))
    _tell_assumption(Path(values["paths"]["clips"]))
    views, failed = tuple(view or ("analysis", "tracking")), False
    for planned, problems in plan_params(values, backbones=backbone or (), views=views, with_probe=probe):
        typer.echo("\n".join(planned.lines()))
        for clip, problem in problems.items():
            typer.echo(f"  without {clip}: {problem}")
        planned.check()
        failed |= bool(problems)
    if failed:
        raise typer.Exit(1)


@_verb
def gc(
    params: Annotated[list[Path] | None, typer.Option(help="Keep what this needs; may be repeated.")] = None,
    delete: Annotated[bool, typer.Option(help="Do it; without, only say what would go.")] = False,
) -> None:
    """Remove what no params file needs: descriptors of other params, clips and backbones, results, all that is kept."""
    from difftrack.planning import find_leftovers, uncertain_clips

    num_bytes = 0
    files = [_read_extraction(file) for file in params or [PARAMS]]
    for values in files:
        _check_made(Path(values["paths"]["clips"]))
    leftovers = list(find_leftovers(files))  # all are named before the first one goes
    for leftover in leftovers:
        typer.echo(f"{leftover.num_bytes / 1e6:10.1f} MB  {leftover.root}/{leftover.group}  {leftover.why}")
        num_bytes += leftover.num_bytes
    for clip, why in uncertain_clips(files).items():
        typer.echo(f"      kept  descriptors of {clip}, which cannot be read for now: {why}")
    if delete:
        for leftover in leftovers:
            leftover.remove()
    typer.echo(f"{num_bytes / 1e6:10.1f} MB  {'removed' if delete else 'would go; repeat with --delete to remove it'}")


@_verb
def models(
    check: Annotated[
        str | None,
        typer.Option(help="Prove this one's capture here: a name's, built small with random weights, or path:DIR."),
    ] = None,
    device: Annotated[str, typer.Option(help="For --check: cpu, cuda, or auto.")] = "auto",
    memory: Annotated[bool, typer.Option(help="Instead: what each needs on cards of 24, 48 and 80 GB.")] = False,
) -> None:
    """List the backbones that have a name: counts, tokens and sizes, and whether their weights are on this machine."""
    if check is not None:
        _check_model(check, device)
        return
    if memory:
        _show_memory((24, 48, 80))
        return
    from difftrack.backbones import SHIPPED, summaries

    row = "{:<21}{:<12}{:<13}{:<14}{:>9}{:>10}  {:<5}{:<50}{}"
    heads = ("name", "layers x", "clip", "tokens", "q + k of", "weights,", "here", "checkpoint", "also called")
    units = ("", "heads x ch", "", "f x row x col", "1 layer", "bf16", "", "", "")
    for cells in (heads, units):
        typer.echo(row.format(*cells).rstrip())
    for model in summaries():
        frames, height, width = model.size
        cells = (
            model.name,
            f"{model.num_layers}x{model.num_heads}x{model.num_channels}",
            f"{frames}x{height}x{width}",
            f"{model.grid.num_latent_frames}x{model.grid.rows}x{model.grid.cols}",
            f"{model.query_key_bytes / 1e6:.0f} MB",
            f"{model.transformer_bytes / 1e9:.1f} GB",
            "yes" if model.cached else "no",
            model.checkpoint,
            model.alias or "",
        )
        typer.echo(row.format(*cells).rstrip())
    typer.echo(f"path:{SHIPPED} comes with the project; path:DIR is any pipeline folder of these families")


@_verb
def track(
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of images.")],
    points: Annotated[str | None, typer.Option(help='Points in frame 0, pixels: "x,y x,y ...".')] = None,
    grid: Annotated[int | None, typer.Option(help="Instead of points: a grid of so many along each side.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Name or path:DIR; default: the first in the params. Another one wants --params, too: layers, heads "
            "and size are chosen for a backbone."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HxW at which the backbone sees the video: larger is finer and slower.")
    ] = None,
    cuts: Annotated[
        str | None, typer.Option(help="At cuts between scenes, tracks end (default), or: ignore.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the tracks and the overlay video.")] = Path("tracks"),
    params: Annotated[
        Path | None, typer.Option(help="What to run, from extract.tracking and track.", show_default=str(PARAMS))
    ] = None,
) -> None:
    """Track points through a video: writes tracks as npz and csv, and the video with the tracks drawn on it."""
    import numpy as np

    from difftrack.annotation import query_grid
    from difftrack.datasets import Clip, check_query_points
    from difftrack.media import read_video
    from difftrack.reports import write_own_tracks
    from difftrack.scenes import find_scenes
    from difftrack.tracking import cuts_line

    if (points is None) == (grid is None):
        raise typer.BadParameter("give either --points or --grid")
    if cuts not in (None, "end", "ignore"):
        raise typer.BadParameter(f"--cuts {cuts}: wanted is end or ignore")
    tracker = _read_tracker(backbone, params, {} if size is None else _size(size))
    if cuts is not None:
        tracker = dataclasses.replace(tracker, section=dataclasses.replace(tracker.section, cuts=cuts))
    read = read_video(video)
    clip = Clip(name=_clip_name(video), frames=read.frames, fps=read.fps, prompt="", source="folder")
    if points is not None:
        queries = np.asarray([(0, x, y) for x, y in _points(points)], dtype=np.float32)
    else:
        queries = query_grid(clip.height, clip.width, grid or 0)
    check_query_points(queries, num_frames=clip.num_frames, height=clip.height, width=clip.width)
    scenes = find_scenes(clip.frames, cuts=tracker.section.ends_at_cuts)
    if scenes.cuts:
        typer.echo(cuts_line(scenes))
    tracks = _track_clip(clip, queries, tracker, scenes)
    for file in write_own_tracks(out, clip, queries, tracks, cuts=scenes.cuts):
        typer.echo(file)


@_verb
def guide(
    prompts: Annotated[Path | None, typer.Argument(help="Prompt file; default: the one in the params.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the videos and what they measure.")] = Path("guided"),
    params: Annotated[Path, typer.Option(help="What to run, from guide and backbones.")] = PARAMS,
    force: Annotated[bool, typer.Option(help="Sample again what is there already, too.")] = False,
) -> None:
    """Sample prompts with and without cross-attention guidance; what is there already and made alike is taken up."""
    from difftrack.backbones import ModelParams, load_backbone
    from difftrack.guidance import GuideParams, read_ranking, sample_prompts
    from difftrack.keeping import Keeper
    from difftrack.params import parse
    from difftrack.prompts import read_prompts

    values = _read_params(params, "guide", "backbones")
    section = parse(GuideParams, values["guide"], "guide", file=params)
    model = parse(ModelParams, values["backbones"].get(section.backbone) or {}, f"backbones.{section.backbone}")
    texts = read_prompts(prompts or section.prompts)
    best = _best_layers(values, params, section.backbone) if section.layers == "best" else None
    ways = section.ways(None if best is None else read_ranking(best))
    backbone, problems = load_backbone(section.backbone, model), []
    keeper = Keeper(out.with_name(f"{out.name}.kept"), "samples", budget=section.keep_bytes, say=typer.echo)
    outcomes = sample_prompts(backbone, texts, section, ways=ways, folder=out, keeper=keeper, anew=force)
    for outcome in _progress(outcomes, "guide", len(texts)):
        typer.echo(outcome.problem or out / f"{outcome.number:03d}", err=outcome.problem is not None)
        problems += [outcome.number] if outcome.problem else []
    if problems:
        raise typer.Exit(1)


@_verb
def vbench(
    samples: Annotated[Path, typer.Argument(help="Folder that `guide` wrote.")],
    out: Annotated[Path, typer.Option(help="File for the means.")] = Path("vbench.json"),
    executable: Annotated[str, typer.Option(help="VBench's program, in an environment of its own.")] = "vbench",
) -> None:
    """Score guided and plain samples by VBench's own networks, where it is installed."""
    from statistics import fmean

    from difftrack.quality import vbench_scores

    means: dict[str, dict[str, float]] = {}
    for way in sorted({video.stem for video in samples.glob("*/*.mp4")} - {"side_by_side"}):
        videos = {video.parent.name: video for video in sorted(samples.glob(f"*/{way}.mp4"))}
        scores = vbench_scores(videos, executable=executable)
        means[way] = {dimension: fmean(by_video.values()) for dimension, by_video in scores.items()}
    if not means:
        raise ValueError(f"{samples} holds no samples; wanted: folders NNN with plain.mp4 and guided.mp4")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(means, indent=2) + "\n")
    typer.echo(out)


@_verb
def params(
    key: Annotated[
        str | None, typer.Argument(help="Section or key, such as track or track.heads; all by default.")
    ] = None,
) -> None:
    """Say what the keys of params.yaml may hold, what they are by default, and what they mean."""
    done = subprocess.run([sys.executable, "-m", "stages._reference", key or ""], text=True, check=False)
    if done.returncode:
        raise typer.Exit(1)


@_verb
def preset(
    name: Annotated[str | None, typer.Argument(help="Which; without a name, all are listed.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run, and compare what is there.")] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value over the preset's params; may be repeated.")
    ] = None,
    first: Annotated[int | None, typer.Option(min=1, help="Only so many prompts or clips.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of its own; default: data/presets/NAME.")] = None,
    params: Annotated[Path, typer.Option(help="What the preset is laid over; stays as it is.")] = PARAMS,
) -> None:
    """Run what a released script ran, in a folder of its own, and print our numbers beside the paper's."""
    from difftrack.presets import (
        apply_preset,
        commands,
        compare_with_published,
        missing_inputs,
        open_workspace,
        preset_names,
        read_overrides,
        read_preset,
    )

    if name is None:
        if first is not None or change or work:
            raise typer.BadParameter("--first, --set and --work want the name of a preset before them")
        for each in preset_names():
            typer.echo(f"{each:<33}{read_preset(each).about}")
        return
    chosen, top = read_preset(name), params.resolve().parent
    values = apply_preset(chosen, _read_params(params, "paths"), read_overrides(change or ()))
    _check_values(values, f"preset {name} over {params}")
    folder = work or top / "data" / "presets" / name
    problems = missing_inputs(chosen, values, top)
    if dry_run:
        _describe_preset(chosen, values, folder, problems)
    elif problems:
        raise ValueError("; ".join(problems))
    else:
        values = open_workspace(folder, top, chosen, values, first=first)
        for command in commands(chosen, values):
            _run_in(folder, command)
    for comparison in compare_with_published(chosen, values, folder):
        typer.echo(comparison)


def _describe_preset(chosen: Any, values: dict[str, Any], folder: Path, problems: Sequence[str]) -> None:  # noqa: ANN401
    """What a preset would do."""
    import yaml

    from difftrack.presets import commands

    typer.echo(f"{chosen.about}\nreleased: {chosen.script}")
    for departure in chosen.departs:
        typer.echo(f"departs: {departure}")
    typer.echo(yaml.safe_dump({section: values[section] for section in chosen.params}, sort_keys=False).rstrip())
    for command in commands(chosen, values):
        typer.echo(f"in {folder}: {command}")
    for problem in problems:
        typer.echo(f"missing: {problem}")


def _run_in(folder: Path, command: str) -> None:
    """Run one command of the pipeline in a workspace; end with its exit status where it fails."""
    programs = {"dvc": [sys.executable, "-m", "dvc"], "python": [sys.executable]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    if not (folder / ".dvc").is_dir():
        subprocess.check_call([*programs["dvc"], "init", "--no-scm", "--quiet"], cwd=folder, env=environment)
    program, *arguments = shlex.split(command)
    typer.echo(f"$ {command}")
    if status := _call([*programs[program], *arguments], cwd=folder, env=environment):
        raise typer.Exit(status)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def repro(context: typer.Context) -> None:
    """Check params.yaml, run what changed, say where the report is; arguments are those of `dvc repro`.

    With --force the stages make everything anew, too, instead of taking up what lies there already.
    """
    with _one_line_errors("repro"):
        paths = _read_params(PARAMS, "paths")["paths"]
        _check_params(PARAMS)
        force = {"DIFFTRACK_FORCE": "1"} if {"-f", "--force"} & set(context.args) else {}
        status = _call([sys.executable, "-m", "dvc", "repro", *context.args], env={**os.environ, **force})
    if status == 0:
        _show_headlines(Path(paths["report"]))
    raise typer.Exit(status)


def _call(command: Sequence[str], **how: Any) -> int:  # noqa: ANN401 - whatever Popen takes
    """Run a program to its end, whose exit status this gives.

    Ctrl-C and SIGTERM end the stage that it runs and then itself, in order; this process waits for them.

    Raises:
        Interrupted: after that.
    """
    import psutil

    from difftrack.interrupts import Interrupted

    numbers: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        if number == signal.SIGINT and _in_foreground():
            return  # the terminal has told them all
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid)
            for each in (started, *started.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGINT)

    with subprocess.Popen(command, **how) as process:
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if numbers:
        raise Interrupted(numbers[0])
    return status


def _in_foreground() -> bool:
    """Whether a terminal sends Ctrl-C to this process, and so to those that it started."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def _show_headlines(report: Path) -> None:
    """What the report says first, where the stage of that name has run."""
    from difftrack.documents import read_json

    headlines = report / "headlines.json"
    if headlines.exists():
        for headline in read_json(headlines):
            typer.echo(f"{headline['value']:>12}  {headline['label']}")
        typer.echo(f"report: {report / 'index.html'}")


def _check_values(values: dict[str, Any], name: str) -> None:
    """Refuse params that lie in no file yet; messages call them by `name`."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PARAMS
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        _check_file(file, name)


def _check_file(path: Path, name: str) -> None:
    """Let the stages read a params file, each its section."""
    done = subprocess.run(
        [sys.executable, "-m", "stages._check", str(path), name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        typer.echo(done.stderr.strip(), err=True)
        raise typer.Exit(1)


def _check_params(path: Path) -> None:
    """Refuse what no stage can use before the first one runs; the same content is looked at once."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    checked = Path(".dvc/tmp/checked_params")
    if checked.exists() and checked.read_text() == content:
        return
    _check_file(path, str(path))
    if checked.parents[1].is_dir():
        checked.parent.mkdir(exist_ok=True)
        checked.write_text(content)


def _describe(spec: Any, dtype: str) -> str:  # noqa: ANN401 - importing its type here would cost every other verb
    from difftrack.wording import counted

    grid = spec.grid
    rows = {
        "steps": ", ".join(map(str, spec.steps)),
        "layers": ", ".join(map(str, spec.layers)),
        "heads": ", ".join(map(str, spec.heads)),
        "kinds": f"{', '.join(spec.kinds)} of {counted(spec.num_channels, 'channel')}, {dtype}",
        "tokens": f"{grid.num_latent_frames} x {grid.rows} x {grid.cols} (latent frames x rows x cols)",
        "frames": ", ".join(map(str, spec.frames)),
        "size": f"{spec.size[1]}x{spec.size[0]} px, clip {spec.clip_size[1]}x{spec.clip_size[0]} px",
    }
    return "\n".join(f"  {name:<7}{value}" for name, value in rows.items())


def _check_model(name: str, device: str) -> None:
    from difftrack.backbones import ALIASES, KNOWN, ModelParams, check_capture

    params, built = ModelParams(device=device), ALIASES.get(name, name) in KNOWN
    on_gpu = params.torch_device().type == "cuda"
    checks = check_capture(name, dataclasses.replace(params, dtype="bfloat16" if on_gpu else "float32"))
    how = "few layers and heads, random weights" if built else "as it is"
    typer.echo(f"{name}, {how}, on {params.torch_device()}")
    failed = 0
    for check in checks:
        typer.echo(f"{'ok  ' if check.passed else 'FAIL'} {check.law}: {check.found}")
        failed += not check.passed
    if failed:
        raise typer.Exit(1)


def _show_memory(cards_gb: Sequence[int]) -> None:
    """A table in Markdown."""
    from difftrack.backbones import memory_needs

    typer.echo(f"| | text | transformer | others | activations | {' | '.join(f'{card} GB' for card in cards_gb)} |")
    typer.echo("| --- " * (5 + len(cards_gb)) + "|")
    for need in memory_needs():
        parts = (need.text_bytes, need.transformer_bytes, need.other_bytes, need.activation_bytes)
        cells = [f"{num_bytes / 1e9:.1f}" for num_bytes in parts]
        for card in cards_gb:
            switch = need.switch_for(card * 10**9)
            cells.append(f"{switch}: {need.needed(switch) / 1e9:.0f}")
        typer.echo(f"| `{need.name}` | {' | '.join(cells)} |")


def _points(text: str) -> list[tuple[float, float]]:
    """Parse "x,y x,y ..."."""
    try:
        pairs = [tuple(float(number) for number in pair.split(",")) for pair in text.split()]
    except ValueError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise typer.BadParameter(f"{text!r} is no list of points; wanted: x,y pairs with blanks between them")
    return [(pair[0], pair[1]) for pair in pairs]


def _clip_name(video: Path) -> str:
    """The file's name as far as it can name files."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in video.stem) or "clip"


def _size(text: str) -> dict[str, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise typer.BadParameter(f"--size {text}: wanted is HEIGHTxWIDTH in pixels, such as 160x240")
    return {"height": int(height), "width": int(width)}


@dataclasses.dataclass(frozen=True)
class _Tracker:
    """What a video is tracked with; nothing is loaded yet."""

    backbone: str
    model: "ModelParams"
    view: "TrackingParams"
    section: "TrackParams"
    best_layers: list[int] | None


def _read_tracker(backbone: str | None, params: Path | None, size: dict[str, int]) -> _Tracker:
    """Read all that `track` wants from a params file.

    Args:
        backbone: None takes the first.
        params: The file, where a person named one.
        size: `height` and `width` in place of the file's.
    """
    from difftrack.backbones import ModelParams
    from difftrack.documents import read_json
    from difftrack.extraction import TrackingParams
    from difftrack.params import parse
    from difftrack.tracking import TrackParams

    file = params or PARAMS
    values = _read_params(file, "extract", "track", "backbones")
    view = parse(TrackingParams, values["extract"].get("tracking"), "extract.tracking", file=file)
    own = {key: value for key, value in values["track"].items() if key not in EVALUATION}
    section = parse(TrackParams, own, "track", file=file)
    name = backbone or next(iter(values["backbones"]))
    if params is None:
        _check_chosen_for(name, values["backbones"])
    best = _best_layers(values, file, name) if section.layers == "best" else None
    return _Tracker(
        backbone=name,
        model=parse(ModelParams, values["backbones"].get(name) or {}, f"backbones.{name}"),
        view=dataclasses.replace(view, **size),
        section=section,
        best_layers=None if best is None else read_json(best)["layers"],
    )


def _check_chosen_for(backbone: str, backbones: dict[str, Any]) -> None:
    """Refuse a backbone other than the one that layers, heads and size of the default params file were chosen for."""
    from difftrack.backbones import ALIASES
    from difftrack.presets import preset_names

    first = next(iter(backbones))
    same = (first, ALIASES.get(first, first), f"path:{(backbones[first] or {}).get('path')}")
    name = ALIASES.get(backbone, backbone)
    if name in same:
        return
    shown = [preset for preset in preset_names() if preset.startswith("tracking-") and preset.endswith(f"-{name}")]
    raise ValueError(
        f"{PARAMS}: extract.tracking.layers, height and width, track.layers and track.heads were chosen for {first}, "
        f"the first of its backbones, not for {backbone}; write those of {backbone} into a params file and name it "
        f"with --params (`difftrack preset{f' {shown[0]} --dry-run' if shown else ''}` shows choices of the paper)"
    )


def _track_clip(clip: "Clip", queries: "np.ndarray", tracker: _Tracker, scenes: "Scenes") -> "PredictedTracks":
    """Run a backbone over the clip's chunks of frames, and track through their descriptors."""
    from difftrack.backbones import load_backbone
    from difftrack.correspondence import matching_device
    from difftrack.extraction import Extractor
    from difftrack.geometry import rescale_points
    from difftrack.tracking import chunk_schedule, select_sources, track_clip

    section = tracker.section
    extractor = Extractor(load_backbone(tracker.backbone, tracker.model), tracker.view)
    native_len = extractor.backbone.native_token_frames
    schedule = chunk_schedule(clip.num_frames, tracker.view.chunks, native_len=native_len)
    extraction = extractor.prepare(clip, chunks=schedule)
    spec = next(iter(extraction.groups.values()))
    sources = select_sources(spec, section, best_layers=tracker.best_layers)
    device = matching_device(section.device)
    chunks = [_chunk(extraction, group, sources, device) for group in _progress(extraction.groups, "extract")]
    clip_size = (clip.height, clip.width)
    seen = queries.copy()
    seen[:, 1:] = rescale_points(queries[:, 1:], from_size=clip_size, to_size=spec.size)
    tracks = track_clip(chunks, seen, sources=sources, grid=spec.grid, params=section, scenes=scenes)
    return tracks.rescaled(from_size=spec.size, to_size=clip_size)


def _best_layers(values: dict[str, Any], params: Path, backbone: str) -> Path:
    """A backbone's ranking of layers, where the score stage of these params has written it."""
    paths = values.get("paths")
    scores = paths.get("scores") if isinstance(paths, dict) else None
    file = params.parent / Path(scores or "data/scores") / backbone / "best_layers.json"
    _check_made(file)
    return file


def _check_made(path: Path) -> None:
    """Refuse to go on without what the pipeline makes."""
    if not path.exists():
        raise ValueError(f"there is no {path}; run `make repro` (or `difftrack repro`) first, which writes it")


def _tell_assumption(clips: Path) -> None:
    """Say on stderr what is assumed of a folder of clips without manifest."""
    from difftrack.datasets import read_manifest

    for remark in read_manifest(clips).remarks(clips):
        typer.echo(remark, err=True)


def _open_store(store: str) -> "Store":
    from difftrack.store import StoreError, open_store

    try:
        return open_store(store)
    except StoreError as error:
        if "://" in store or Path(store).exists():
            raise
        raise ValueError(f"{error}; `make repro` (or `difftrack repro`) writes those of the pipeline") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    from difftrack.documents import read_yaml

    values: dict[str, Any] = read_yaml(path)
    return values


def _read_params(path: Path, *sections: str) -> dict[str, Any]:
    from difftrack.params import parse_each

    try:
        values = _read_yaml(path)
    except FileNotFoundError as error:
        wanted = "this command wants the project's params file; run it in the folder of that, or name it with --params"
        raise ValueError(f"there is no {path}: {wanted}") from error
    for section in sections:
        if not isinstance(values, dict) or not isinstance(values.get(section), dict):
            raise ValueError(f"{path}: section {section} is missing")
    parse_each(str, values.get("paths") or {}, "paths", file=path)
    if "backbones" in sections:
        _check_backbones(values["backbones"], path)
    return values


def _check_backbones(backbones: dict[str, Any], path: Path) -> None:
    from difftrack.backbones import ModelParams
    from difftrack.params import parse_each

    if not backbones:
        raise ValueError(f"{path}: backbones names none; wanted: at least one")
    parse_each(ModelParams | None, backbones, "backbones", file=path)


def _read_extraction(path: Path) -> dict[str, Any]:
    """A params file as far as the stage `extract` reads it."""
    from difftrack.extraction import ExtractParams
    from difftrack.params import parse

    values = _read_params(path, "paths", "extract", "backbones")
    parse(ExtractParams, values["extract"], "extract", file=path)
    for name in ("clips", "descriptors"):
        if name not in values["paths"]:
            raise ValueError(f"{path}: paths.{name} is missing; wanted: a path")
    return values


def _chunk(
    extraction: "ClipExtraction", group: str, sources: Sequence[tuple[int, int]], device: str
) -> "ChunkDescriptors":
    """Run one chunk of frames and hold what is asked for in memory; it is matched on `device`."""
    import torch

    from difftrack.tracking import ChunkDescriptors

    def tensor(values: "np.ndarray") -> "torch.Tensor":
        found = torch.from_numpy(values)
        return (found.view(torch.bfloat16) if found.dtype == torch.uint16 else found).to(device)

    units = {(unit.step, unit.layer): unit.arrays for unit in extraction.units(group, sources)}
    spec = extraction.groups[group]
    return ChunkDescriptors(
        frames=spec.frames,
        read=lambda step, layer: (tensor(units[step, layer]["query"]), tensor(units[step, layer]["key"])),
        heads=spec.heads,
    )


def _progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """A progress bar where somebody watches."""
    from rich.progress import track as progress

    return progress(items, description=description, total=total, disable=not sys.stderr.isatty())


if __name__ == "__main__":
    app()
