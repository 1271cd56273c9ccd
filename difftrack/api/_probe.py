"""A callback for a training loop that measures when correspondence emerges."""

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import nn

from difftrack.api._errors import UsageError
from difftrack.api._extract import trained_clip
from difftrack.backbones import Backbone, wrap_pipeline
from difftrack.metrics import combine_clips
from difftrack.workflows.probe import EmergenceProbe, ProbeParams, rendered_clips

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainingProbe", "probe"]

_MEASURES = ("matching_accuracy", "confidence", "attention_score")
_COLUMNS = ("training_step", "seconds", "step", "layer", "head", *_MEASURES)

Weights = Callable[[], AbstractContextManager[Any]]
"""Returns a context in which the transformer has other weights."""


class TrainingProbe:
    """A callback: call `probe(step)` after every step of a training loop; see docs/probe.md.

    Attributes:
        folder: Receives `probe.csv` and `emergence.png`.
        every: Steps between measurements.
    """

    def __init__(
        self,
        measured: EmergenceProbe,
        *,
        every: int,
        folder: Path,
        logger: Any = None,  # noqa: ANN401 - whatever the loop has
        model: nn.Module | None = None,
        ema: Any = None,  # noqa: ANN401
        rank: int | None = None,
        prefix: str = "probe",
        train_text: bool = False,
    ) -> None:
        if every < 1:
            raise UsageError(f"every is {every}; expected a number of steps, at least 1")
        self.folder = folder
        self.every = every
        self._measured = measured
        self._logger = logger
        self._model = model
        self._ema = ema
        self._rank = rank
        self._prefix = prefix
        self._train_text = train_text
        self._rows: list[dict[str, Any]] = []
        self._taken_up = False

    def __call__(self, step: int) -> xr.Dataset | None:
        """Measure and log if `step` is a multiple of `every`.

        Call it in every process. Processes other than the first return at once, unless the model is sharded (FSDP):
        then all of them run the forward together, and the first logs.

        Args:
            step: Number of finished training steps.

        Returns:
            Means over the clips, as `metrics.combine_clips` gives them; None if nothing was measured, and in processes
            that do not log.
        """
        if step % self.every:
            return None
        return self.measure(step)

    def measure(self, step: int) -> xr.Dataset | None:
        """Measure now, regardless of `every`; otherwise as `__call__`."""
        first = self._first
        if not first and not self._sharded:
            return None
        started = time.perf_counter()
        with self._as_measured():
            if self._train_text:
                self._measured.embed_again()
            clips = self._measured.measure()
        if not first:
            return None
        means = combine_clips(clips)
        rows = _rows(means, step, time.perf_counter() - started)
        self._keep(rows)
        self._log(rows, step)
        return means

    @property
    def table(self) -> "pd.DataFrame":
        """All measurements: one row per training step, denoising step, layer and head; an empty `head` means all."""
        import pandas as pd

        return pd.DataFrame(self._rows, columns=list(_COLUMNS))

    def lightning(self, callback: type) -> Any:  # noqa: ANN401
        """Make a Lightning callback.

        Args:
            callback: `lightning.Callback` (or `pytorch_lightning.Callback`), its base class.
        """

        def on_train_batch_end(own: Any, trainer: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401
            if own.seen != trainer.global_step:  # accumulated batches end without a step
                own.seen = trainer.global_step
                self(trainer.global_step)

        return type("DiffTrackProbe", (callback,), {"seen": 0, "on_train_batch_end": on_train_batch_end})()

    def __repr__(self) -> str:
        clips, name = len(self._measured.clips), self._measured.backbone.name
        return f"<TrainingProbe of {name}: {clips} clips every {self.every} steps, into {self.folder}>"

    @property
    def _first(self) -> bool:
        if self._rank is not None:
            return self._rank == 0
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank() == 0
        return int(os.environ.get("RANK", "0")) == 0

    @property
    def _sharded(self) -> bool:
        modules = self._transformer.modules() if self._model is None else self._model.modules()
        return any(
            "FSDP" in kind.__name__ or "FullySharded" in kind.__name__ for m in modules for kind in type(m).__mro__
        )

    @property
    def _transformer(self) -> nn.Module:
        transformer: nn.Module = self._measured.backbone.transformer
        return transformer

    @contextmanager
    def _as_measured(self) -> Iterator[None]:
        """Use gathered and averaged weights, evaluation mode and a separate random state; restore all at the end."""
        transformer = self._transformer
        modes = {module: module.training for module in transformer.modules()}
        cuda = [parameter.device for parameter in transformer.parameters() if parameter.is_cuda][:1]
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            if (whole := _whole_weights(self._model)) is not None:
                stack.enter_context(whole)
            if self._ema is not None:
                stack.enter_context(_averaged(self._ema, transformer))
            transformer.eval()
            try:
                yield
            finally:
                for module, mode in modes.items():
                    module.training = mode

    def _keep(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append to the table and its file, and draw; rows from a discarded part of an interrupted run are dropped."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "probe.csv"
        if not self._taken_up:
            self._rows = [row for row in _read_rows(file) if row["training_step"] < rows[0]["training_step"]]
            self._taken_up = True
        self._rows = [*self._rows, *rows]
        part = file.with_name(f".{file.name}.part")
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, _COLUMNS)
            writer.writeheader()
            writer.writerows(self._rows)
        part.replace(file)

    def _log(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        from difftrack.reports import draw_emergence

        picture = draw_emergence(self.table, self.folder / "emergence.png")
        if self._logger is None:
            return
        numbers = {}
        for row in rows:
            head = "" if row["head"] is None else f"/head{row['head']:02d}"
            for name in _MEASURES:
                if np.isfinite(row[name]):
                    numbers[f"{self._prefix}/{name}/step{row['step']:02d}/layer{row['layer']:02d}{head}"] = row[name]
        _send(self._logger, numbers, picture, step, name=f"{self._prefix}/emergence")


def probe(
    model: Any,  # noqa: ANN401 - a backbone, or a diffusers pipeline
    *,
    transformer: nn.Module | None = None,
    every: int = 500,
    to: str | Path = "probe",
    logger: Any = None,  # noqa: ANN401 - whatever the loop has
    ema: Any = None,  # noqa: ANN401 - averaged weights in one of three forms
    steps: Sequence[int] = (35,),
    num_inference_steps: int = 50,
    layers: Literal["all"] | Sequence[int] = "all",
    heads: bool = True,
    num_clips: int = 4,
    grid: int = 8,
    size: tuple[int, int, int] | None = None,
    frames_alone: bool = False,
    train_text: bool = False,
    rank: int | None = None,
    prefix: str = "probe",
) -> TrainingProbe:
    """Make a callback that measures where correspondence emerges in a model during training.

    Every `every` steps it runs a few rendered clips with exact tracks, always with the same noise, through the current
    model. It logs the matching accuracy, the confidence and the attention score of their points per layer and head. It
    does not change weights, gradients, modes of modules or random states.

    Args:
        model: The diffusers pipeline of the trained transformer, or a backbone. Its autoencoder and text encoder run
            once, in this call.
        transformer: The transformer in the training loop, if it is not the pipeline's or is wrapped (DDP, FSDP,
            torch.compile); it replaces the pipeline's.
        every: Steps between measurements.
        to: Folder of `probe.csv` and `emergence.png`; a resumed run appends to them.
        logger: A TensorBoard `SummaryWriter`, a W&B run, an `Accelerator`, a Lightning logger, or any function of
            (numbers by name, step); None only writes the files.
        ema: Averaged weights to measure instead of the model's own: an object with `store`, `copy_to` and `restore`
            (diffusers' `EMAModel`), a module of the same parameters (torch's `AveragedModel`), or a function that
            returns a context manager in which the model has them.
        steps: Noise levels, as steps of the schedule, 0 the noisiest.
        num_inference_steps: Length of the schedule.
        layers: Layers to measure.
        heads: Also measure every head alone.
        num_clips: Number of rendered clips, which alternate between easy and hard, objects and camera moves.
        grid: Points along each side of a clip's first frame.
        size: (frames, height, width) of the clips; by default that of the model's training, if known.
        frames_alone: Encode each frame by itself, as tracking does.
        train_text: Embed the prompts again every time, if the text encoder is also trained.
        rank: Rank of this process; by default from torch.distributed, or the environment.
        prefix: Prefix of the logged names.

    Raises:
        BackboneError: no family supports the transformer's class, or it cannot run clips of this size.
        UsageError: the size is not known, or `every` is not positive.

    Example:
        >>> watch = probe(pipeline, every=500, logger=writer)  # doctest: +SKIP
        >>> for step, batch in enumerate(batches, start=1):  # doctest: +SKIP
        ...     train(batch)
        ...     watch(step)
    """
    backbone = model if isinstance(model, Backbone) else wrap_pipeline(_with_transformer(model, transformer))
    num_frames, height, width = size or trained_clip(backbone)
    clips = rendered_clips(num_clips, num_frames=num_frames, height=height, width=width, grid=grid)
    params = ProbeParams(
        steps=tuple(steps),
        num_inference_steps=num_inference_steps,
        layers="all" if isinstance(layers, str) else tuple(layers),
        per_head=heads,
        frames_alone=frames_alone,
    )
    return TrainingProbe(
        EmergenceProbe(backbone, clips, params),
        every=every,
        folder=Path(to),
        logger=logger,
        model=transformer,
        ema=ema,
        rank=rank,
        prefix=prefix,
        train_text=train_text,
    )


def _with_transformer(pipeline: Any, transformer: nn.Module | None) -> Any:  # noqa: ANN401
    """Return a pipeline of the same class and components with the trained transformer."""
    held = getattr(pipeline, "transformer", None) if transformer is None else transformer
    bare = _unwrapped(held) if isinstance(held, nn.Module) else held
    if bare is getattr(pipeline, "transformer", None):
        return pipeline
    return type(pipeline)(**{**pipeline.components, "transformer": bare})


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside DDP, FSDP, torch.compile or AveragedModel."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in (
            "DistributedDataParallel",
            "FullyShardedDataParallel",
            "AveragedModel",
        ):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def _whole_weights(model: nn.Module | None) -> AbstractContextManager[None] | None:
    """Gather the parameters that FSDP's wrapper class shards; `fully_shard` gathers them by itself in the forward."""
    if model is None or type(model).__name__ != "FullyShardedDataParallel":
        return None
    gathered: AbstractContextManager[None] = type(model).summon_full_params(model, writeback=False)  # type: ignore[attr-defined]
    return gathered


@contextmanager
def _averaged(ema: Any, transformer: nn.Module) -> Iterator[None]:  # noqa: ANN401
    """Put averaged weights into the transformer, and restore its own at the end."""
    own = list(transformer.parameters())
    if all(hasattr(ema, name) for name in ("store", "copy_to", "restore")):
        ema.store(own)
        ema.copy_to(own)
        try:
            yield
        finally:
            ema.restore(own)
    elif isinstance(ema, nn.Module):
        kept = [parameter.detach().clone() for parameter in own]
        averaged = list(_unwrapped(ema).parameters())
        if [one.shape for one in averaged] != [one.shape for one in own]:
            raise UsageError(f"ema is a {type(ema).__name__} whose parameters are not those of the transformer")
        try:
            _copy(averaged, own)
            yield
        finally:
            _copy(kept, own)
    elif callable(ema):
        with ema():
            yield
    else:
        raise UsageError(
            f"ema is a {type(ema).__name__}; expected store, copy_to and restore, a module with the same parameters, "
            "or a function that returns a context manager"
        )


@torch.no_grad()
def _copy(source: Sequence[torch.Tensor], target: Sequence[torch.Tensor]) -> None:
    for new, old in zip(source, target, strict=True):
        old.copy_(new)


def _rows(means: xr.Dataset, step: int, seconds: float) -> list[dict[str, Any]]:
    """Make a row for each denoising step and layer, over all heads and for each head."""
    rows = []
    for noise in means.step.values.tolist():
        for layer in means.layer.values.tolist():
            heads = means["head"].values.tolist() if "head_matching_accuracy" in means else []
            for head in (None, *heads):
                at = {"step": noise, "layer": layer} | ({} if head is None else {"head": head})
                named = {name: name if head is None else f"head_{name}" for name in _MEASURES}
                values = {name: float(means[own].sel(at)) for name, own in named.items()}
                rows.append(
                    {"training_step": step, "seconds": round(seconds, 3), "step": noise, "layer": layer, "head": head}
                    | values
                )
    return rows


def _read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of an interrupted run; refuse a file with another layout."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise UsageError(f"{file} has other columns than this probe; name another folder with to=")
        whole = {"training_step", "step", "layer"}
        return [
            {
                name: (
                    int(text) if name in whole else None if not text else int(text) if name == "head" else float(text)
                )
                for name, text in row.items()
            }
            for row in reader
        ]


def _send(logger: Any, numbers: Mapping[str, float], picture: np.ndarray, step: int, *, name: str) -> None:  # noqa: ANN401
    """Pass numbers, and the plot if possible, to the loop's logger."""
    if hasattr(logger, "add_scalar"):  # TensorBoard
        for key, value in numbers.items():
            logger.add_scalar(key, value, step)
        if hasattr(logger, "add_image"):
            logger.add_image(name, picture, step, dataformats="HWC")
    elif hasattr(logger, "log_metrics"):  # Lightning
        logger.log_metrics(dict(numbers), step=step)
        if hasattr(logger, "log_image"):
            logger.log_image(key=name, images=[picture], step=step)
    elif hasattr(logger, "log"):  # W&B, accelerate
        shown = {}
        if "wandb" in sys.modules and type(logger).__module__.startswith("wandb"):
            shown = {name: sys.modules["wandb"].Image(picture)}
        logger.log({**numbers, **shown}, step=step)
    elif callable(logger):
        logger(dict(numbers), step)
    else:
        raise UsageError(
            f"logger is a {type(logger).__name__}; expected add_scalar (TensorBoard), log (W&B, accelerate), "
            "log_metrics (Lightning), or a function of numbers and step"
        )
