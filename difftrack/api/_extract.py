"""Extracts descriptors of a clip into a store."""

import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.progress import Progress

from difftrack.api._clips import remember_clip
from difftrack.api._errors import UsageError
from difftrack.backbones import Backbone, CapturedKind, FeatureKind
from difftrack.chunks import ChunkParams, chunk_schedule
from difftrack.datasets import Clip
from difftrack.extraction import (
    AnalysisParams,
    ClipExtraction,
    DenoiseParams,
    Extractor,
    GroupShelf,
    Mode,
    ModeParams,
    TrackingParams,
    kept_in,
)
from difftrack.keeping import Keeper
from difftrack.provenance import Reuse
from difftrack.store import Store, StoreParams, StorePath, open_store
from difftrack.store.torch_writer import WriteQueue
from difftrack.workflows.extract import write_descriptors

__all__ = ["extract"]

Chosen = Literal["all"] | Sequence[int]
"""Indices, or all."""


def extract(
    model: Backbone,
    clip: Clip,
    *,
    view: Literal["tracking", "analysis"] = "tracking",
    steps: Chosen | None = None,
    layers: Chosen = "all",
    heads: Chosen = "all",
    descriptors: Sequence[CapturedKind] = ("query", "key"),
    feature: FeatureKind = "heads",
    size: tuple[int, int] | None = None,
    num_frames: int | None = None,
    num_inference_steps: int = 50,
    mode: Mode | None = None,
    denoise: DenoiseParams | None = None,
    prompt: Literal["clip", "empty"] | None = None,
    noise_seed: int = 42,
    chunks: ChunkParams | None = None,
    to: StorePath | None = None,
    stored: StoreParams | None = None,
    reuse: Reuse = "exact",
    replace: bool = False,
    keep_bytes: float = 5e9,
    progress: bool | Callable[[int, int], None] = True,
) -> Store:
    """Run a backbone over a clip and store descriptors of the requested steps and layers.

    Descriptors that a store on disk already holds for the same clip, weights and settings are not computed again.

    Args:
        model: Result of `load_backbone` or `wrap`.
        clip: Result of `read_clip`.
        view: `tracking` encodes every frame alone and runs frames in chunks; `analysis` encodes the whole clip, as the
            backbone was trained.
        steps: Denoising steps, 0 the noisiest; by default the last one.
        layers: Layers, 0-based.
        heads: Heads, 0-based.
        descriptors: Kinds to keep: `query`, `key`, `feature`, `value`, `query_pre_rotary`, `key_pre_rotary`, and for a
            backbone with cross-attention `cross_query`.
        feature: Hidden state to keep as `feature` (docs/kinds.md).
        size: (height, width) in pixels at which the backbone sees the clip; by default the size that it was trained on,
            if known.
        num_frames: Number of frames for the analysis view; by default as many as the backbone accepts.
        num_inference_steps: Length of the denoising schedule.
        mode: How a step is visited: `clean`, `add_noise`, `ddim_inversion` or `denoise`; by default `clean` in the
            tracking view for the last step alone, else `add_noise`.
        denoise: First step and guidance of mode `denoise`.
        prompt: Whether the backbone reads the clip's prompt; by default in the analysis view only.
        noise_seed: Seed of the noise, together with the clip's name.
        chunks: How a clip is cut into chunks, for the tracking view.
        to: Folder or fsspec URL of the store; None keeps it in memory as long as the returned object lives.
        stored: Type and compression of stored values.
        reuse: `exact` reuses descriptors made with the same settings, code, libraries and weights; `params` requires
            only the same settings.
        replace: Move descriptors of this clip with other settings to `TO.kept`, instead of refusing.
        keep_bytes: Maximum bytes kept there.
        progress: Show a progress bar; or a function of the bytes done and all bytes, first called with 0 done.

    Returns:
        The store, open for reading.

    Raises:
        BackboneError: the backbone cannot run this size, or a layer, head or step does not exist.
        StoreError: the store holds this clip with other settings.

    Example:
        >>> store = extract(model, clip, steps=[49], layers=[6, 7], to="dog.zarr")  # doctest: +SKIP
    """
    height, width = size or trained_clip(model)[1:]
    last = (num_inference_steps - 1,)
    wanted = last if steps is None else _chosen(steps)
    visited = mode or ("clean" if view == "tracking" and wanted == last else "add_noise")
    common: dict[str, Any] = {
        "height": height,
        "width": width,
        "num_inference_steps": num_inference_steps,
        "steps": wanted,
        "layers": _chosen(layers),
        "heads": _chosen(heads),
        "descriptors": tuple(descriptors),
        "feature": feature,
        "mode": ModeParams(rendered=visited, generated=visited, folder=visited),
        "denoise": denoise or DenoiseParams(),
        "noise_seed": noise_seed,
        "prompt": prompt or ("clip" if view == "analysis" else "empty"),
    }
    if view == "tracking":
        params = TrackingParams(**common, chunks=chunks or ChunkParams())
        schedule = chunk_schedule(clip.num_frames, params.chunks, native_len=model.native_token_frames)
        extraction = Extractor(model, params).prepare(clip, chunks=schedule)
    else:
        frames = num_frames or _most_frames(model, clip, height, width)
        extraction = Extractor(model, AnalysisParams(**common, num_frames=frames)).prepare(clip)
    root = _memory_root() if to is None else to
    total, there = _planned(extraction, stored or StoreParams()), 0
    with Progress(disable=progress is not True, transient=True) as bar:
        task = bar.add_task("extract", total=total)

        def report(count: int) -> None:
            nonlocal there
            there += count
            bar.advance(task, count)
            if callable(progress):
                progress(there, total)

        report(0)
        shelf = GroupShelf(
            str(root),
            stored or StoreParams(),
            Keeper(kept_in(f"{root}.kept", str(root)), "descriptors", budget=keep_bytes),
            model.made_by(ClipExtraction.__module__, WriteQueue.__module__),
            reuse=reuse,
            replace=replace,
        )
        write_descriptors(extraction, shelf, report=report)
    store = open_store(root)
    if to is None:
        weakref.finalize(store, _forget, str(root))
    remember_clip(store, clip)
    return store


def trained_clip(model: Backbone) -> tuple[int, int, int]:
    """Return the (frames, height, width) of the clips that a backbone was trained on.

    Raises:
        UsageError: the size is not known.
    """
    if model.made_for is None:
        raise UsageError(f"the size that {model.name} was trained on is not known; give size=(height, width)")
    return model.made_for


def _most_frames(model: Backbone, clip: Clip, height: int, width: int) -> int:
    """Return the largest number of the clip's frames that the backbone accepts, at most the number of its training."""
    most = clip.num_frames if model.made_for is None else min(clip.num_frames, model.made_for[0])
    for count in range(most, 0, -1):
        try:
            model.check_size(count, height, width)
        except ValueError:
            continue
        return count
    raise UsageError(f"clip {clip.name} has {clip.num_frames} frames, which is too few for {model.name}")


def _chosen(values: Chosen) -> Literal["all"] | tuple[int, ...]:
    return "all" if isinstance(values, str) else tuple(int(value) for value in values)


def _planned(extraction: ClipExtraction, params: StoreParams) -> int:
    from difftrack.store import planned_bytes

    return sum(planned_bytes(spec, params) for spec in extraction.groups.values())


def _memory_root() -> str:
    return f"memory://difftrack-{uuid.uuid4().hex}"


def _forget(root: str) -> None:
    """Free the memory of a store in memory."""
    import fsspec

    system, path = fsspec.core.url_to_fs(root)
    if system.exists(path):
        system.rm(path, recursive=True)
