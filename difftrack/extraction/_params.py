"""Which clips, steps and layers a backbone runs on, and which descriptors are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from difftrack.backbones import CapturedKind, FeatureKind
from difftrack.chunks import ChunkParams
from difftrack.params import ParamsError
from difftrack.provenance import Reuse
from difftrack.store import StoreParams

if TYPE_CHECKING:
    import difftrack.datasets

__all__ = [
    "AnalysisParams",
    "DenoiseParams",
    "ExtractParams",
    "InversionParams",
    "Mode",
    "ModeParams",
    "TrackingParams",
    "TrackingViewParams",
    "View",
    "ViewParams",
]

View = Literal["analysis", "tracking"]

Mode = Literal["generate", "add_noise", "ddim_inversion", "clean", "denoise"]
"""How a denoising step is visited: at the latents that the sampler had there (generated clips), with noise added, by
running the sampler backwards, with clean latents at the last step, as the released tracking scripts do by default, or
by running the sampler from an earlier step on, as these scripts do for several or later steps.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeParams:
    """Mode for each source of clips."""

    rendered: Mode = "add_noise"
    """Mode for rendered clips; docs/backbones.md describes the modes."""
    generated: Mode = "add_noise"
    """Mode for clips that a backbone sampled; `generate` needs the clip's trajectory and the same backbone."""
    folder: Mode = "add_noise"
    """Mode for clips that were read from files."""

    def of(
        self, clip: "difftrack.datasets.Clip | difftrack.datasets.ClipOutline | difftrack.extraction.EncodedClip"
    ) -> Mode:
        """Return the mode in which a clip's steps are visited."""
        mode: Mode = getattr(self, clip.source)
        return mode


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionParams:
    """How `ddim_inversion` runs the sampler backwards.

    Raises:
        ValueError: `iterations` is not positive.
    """

    form: Literal["explicit", "fixed_point"] = "fixed_point"
    """explicit: one forward per step, approximate. fixed_point: exact where the iteration converges."""
    iterations: int = 5
    """Forwards per step of the fixed-point form, after its first guess."""
    report_round_trip: bool = True
    """Sample back and report the relative error; costs one forward per visited step."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiseParams:
    """How `denoise` runs the sampler from one step to the last requested one, and captures on the way.

    The released tracking pipeline does so from `--inverse_step` to the largest `--matching_timestep`. `guidance_branch`
    selects the captured branch.

    Raises:
        ValueError: a number is out of range.
    """

    first_step: int | None = None
    """Step that the sampler begins with; null takes the first requested one."""
    start: Literal["clean", "add_noise", "ddim_inversion"] = "clean"
    """Latents that enter it: clean ones, although the step expects noise (the released default), latents with noise of
    its level, or the result of the inversion.
    """
    cfg_scale: float = 6.0
    """Guidance scale between the branches on the way; 1 uses the captured prompt alone. Guidance-distilled backbones
    and the empty prompt have one branch only.
    """

    def __post_init__(self) -> None:
        if self.first_step is not None and self.first_step < 0:
            raise ValueError(f"first_step is {self.first_step}; it must be at least 0, or null")
        if not self.cfg_scale >= 1:
            raise ValueError(f"cfg_scale is {self.cfg_scale}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewParams:
    """What both views have in common.

    Raises:
        ValueError: a list is empty or has duplicates, or a number is out of range.
    """

    height: int
    """Height of the backbone's input in pixels."""
    width: int
    """Width of the backbone's input in pixels."""
    num_inference_steps: int = 50
    """Length of the denoising schedule, even if only a part of it is visited."""
    steps: Literal["all"] | tuple[int, ...] = "all"
    """Steps to keep; 0 is the noisiest."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers to keep."""
    heads: Literal["all"] | tuple[int, ...] = "all"
    """Heads to keep."""
    descriptors: tuple[CapturedKind, ...] = ("query", "key", "feature")
    """Kinds to keep. The text tokens' keys (`text_key`) are kept with `key` in joint attention; models with separate
    cross-attention (Wan, LTX, Cosmos) keep them with `cross_query`, the video's queries of the cross-attention to the
    text. query_pre_rotary, key_pre_rotary: before rotary positions turn them.
    """
    feature: FeatureKind = "heads"
    """Hidden state that is kept as `feature`. heads: the attention's output per head, before its output projection;
    attention, mlp, block: the output of that module; attention_input, mlp_input: its input, which is the residual
        stream after its norm. All but heads are stored in as many parts as there are heads.
    """
    mode: ModeParams = field(default_factory=ModeParams)
    """How the latents of each step are made."""
    inversion: InversionParams = field(default_factory=InversionParams)
    """For `ddim_inversion`."""
    denoise: DenoiseParams = field(default_factory=DenoiseParams)
    """For `denoise`."""
    noise_seed: int = 42
    """Together with a clip's name it seeds that clip's noise, the same for all steps."""
    prompt: Literal["clip", "empty"] = "clip"
    """The clip's own prompt, or none."""
    guidance_branch: Literal["cond", "uncond"] = "cond"
    """The unconditional branch reads the empty prompt."""
    resize: Literal["corrected", "released"] = "corrected"
    """One filtered resize (corrected), or an unfiltered resize through 256 x 256 as in the released code."""

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "heads", "descriptors"):
            chosen = getattr(self, name)
            if chosen != "all" and (not chosen or len(set(chosen)) != len(chosen)):
                raise ValueError(f"{name} is {list(chosen)}; expected at least one, each once")
        if self.feature != "heads" and self.heads != "all" and "feature" in self.descriptors:
            raise ValueError(f"feature is {self.feature}, which has no heads; set heads to all, not {list(self.heads)}")
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; it must be at least 1")
        first = self.denoise.first_step
        if first is not None and first >= self.num_inference_steps:
            raise ValueError(f"denoise.first_step is {first}, but the last step is {self.num_inference_steps - 1}")
        if all(getattr(self.mode, source) == "clean" for source in ("rendered", "generated", "folder")):
            self.check_steps("clean")

    def check_steps(self, mode: Mode) -> None:
        """Refuse steps that a mode does not visit.

        Raises:
            ValueError: a step is not visited; the message names the visited steps and the way out.
        """
        if self.steps == "all":
            return
        last = self.num_inference_steps - 1
        if mode == "clean" and self.steps != (last,):
            raise ValueError(
                f"steps is {list(self.steps)}, but mode clean visits only the last step, {last}; set steps to "
                f"[{last}], or mode to denoise, which runs the sampler through several"
            )
        first = self.denoise.first_step
        if mode == "denoise" and first is not None and min(self.steps) < first:
            raise ValueError(f"denoise.first_step is {first}, after the first of steps {list(self.steps)}")

    def first_step(self, steps: Sequence[int]) -> int:
        """Return the step that `denoise` begins with."""
        return min(steps) if self.denoise.first_step is None else self.denoise.first_step


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisParams(ViewParams):
    """Clips encoded whole, as the backbone was trained: for the analysis of the backbone."""

    num_frames: int
    """Number of video frames of each clip to use, from its first on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingViewParams(ViewParams):
    """Frames encoded one by one and run together in chunks: for tracking without temporal compression.

    Raises:
        ValueError: a mode is `generate`; a sampled trajectory has no single-frame latents.
    """

    prompt: Literal["clip", "empty"] = "empty"

    def __post_init__(self) -> None:
        super(TrackingViewParams, self).__post_init__()
        for source in ("rendered", "generated", "folder"):
            if getattr(self.mode, source) == "generate":
                raise ValueError(
                    f"mode.{source} is generate, but the tracking view encodes single frames; choose another"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingParams(TrackingViewParams):
    """`extract.tracking`: sizes, steps, layers and heads of the tracking view, and its chunks of frames."""

    chunks: ChunkParams = field(default_factory=ChunkParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractParams:
    """`extract`: everything that sets what the model computes, how results are kept, and which processes compute them.

    Raises:
        ValueError: a count is out of range.
    """

    analysis: AnalysisParams
    tracking: TrackingParams
    store: StoreParams = field(default_factory=StoreParams)
    max_bytes: float = 100e9
    """Maximum uncompressed size of one store; larger extractions do not start."""
    replace_stale: bool = True
    """Move aside descriptors that other params or code made, and those of deleted clips; else refuse."""
    reuse: Reuse = "exact"
    """exact: reuse descriptors made with the same params, code, library versions and weights. params: the same params
    are enough; the stage names other differences, and the store records them.
    """
    keep_bytes: float = 5e9
    """Maximum bytes of kept descriptors that no params need; beyond it, the least recently used are removed."""
    workers: int | Literal["auto"] = 1
    """Processes on this host; each loads the weights and, as far as there are enough, uses its own GPU. auto: one per
    GPU; without GPUs as many as `threads` leaves cores for, at most 4.
    """
    threads: int | None = None
    """Threads of torch in every process. On a CPU the last bits of sums depend on it: a number gives the same bytes on
    hosts with any number of cores. null: torch's default, all cores."""
    scheduler: str | None = None
    """null: processes of this host. `dask`: a Dask cluster of `workers` on this host. An address (`tcp://host:port`): a
    running Dask scheduler.
    """
    writers: int | Literal["auto"] = "auto"
    """Threads of each process that compress and write. auto: with a GPU one per core, at most 8; without one none, so
    the model waits.
    """
    write_depth: int = 4
    """Maximum number of units that wait in memory for writing; then the model waits."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("threads", 1), ("writers", 0), ("write_depth", 1)):
            count = getattr(self, name)
            if count not in ("auto", None) and count < least:
                raise ValueError(f"{name} is {count}; it must be at least {least}")
        if not self.max_bytes > 0:
            raise ValueError(f"max_bytes is {self.max_bytes}; it must be positive")
        if not self.keep_bytes >= 0:
            raise ValueError(f"keep_bytes is {self.keep_bytes}; it must not be negative")

    def view(self, name: str) -> AnalysisParams | TrackingParams:
        """Return the params of one view.

        Raises:
            ParamsError: the view is unknown.
        """
        if name not in ("analysis", "tracking"):
            raise ParamsError(f"view is {name!r}; expected analysis or tracking")
        params: AnalysisParams | TrackingParams = getattr(self, name)
        return params
