"""Estimate the cost of a study over many clips in both tiers, for models whose weights are not needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from difftrack.geometry import TokenGrid
from difftrack.planning._plan import size
from difftrack.planning._ratios import recorded_ratio
from difftrack.store import DescriptorKind, DescriptorSpec, StoreParams, planned_bytes

__all__ = ["ModelShape", "Study", "study_table"]

FLOAT_BYTES = 4
"""Matches are float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Quantities that determine a model's cost: counts from its config, and the clips that it processes.

    Raises:
        ValueError: `steps` is not positive.
    """

    layers: int
    heads: int
    channels: int
    """Channels per head."""
    height: int
    width: int
    num_frames: int
    """Number of video frames of its clips in the study; `height` and `width` are in pixels."""
    steps: int | None = None
    """Denoising steps; null uses the study's."""
    stride_px: int = 16
    temporal_stride: int = 4
    text_tokens: int
    parameters: float
    """Number of parameters of the transformer."""
    seconds_per_forward: float | None = None
    """Measured seconds per forward pass; null estimates it from the number of operations."""
    seconds_per_clip: float | None = None
    """Measured seconds per clip without forward passes: reading, prompt, encoding; null uses the study's."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps <= 0:
            raise ValueError(f"steps is {self.steps}; it must be positive")

    @property
    def grid(self) -> TokenGrid:
        """Grid of its video tokens."""
        return TokenGrid(
            num_latent_frames=(self.num_frames - 1) // self.temporal_stride + 1,
            rows=self.height // self.stride_px,
            cols=self.width // self.stride_px,
            stride_px=self.stride_px,
            temporal_stride=self.temporal_stride,
        )

    @property
    def flops_per_forward(self) -> float:
        """Multiplications and additions in one forward pass of one clip: two per weight and token, plus attention.

        2 * parameters * tokens + 4 * layers * tokens^2 * heads * channels
        """
        grid = self.grid
        tokens = grid.num_latent_frames * grid.rows * grid.cols + self.text_tokens
        return 2 * self.parameters * tokens + 4 * self.layers * tokens**2 * self.heads * self.channels

    def flops_per_match(self, points: int) -> float:
        """Multiplications and additions to match points in one layer at one step, by query and key, in both directions.

        The four tokens around each point need their rows in three products: for their normalisers, and for their
        forward and backward probabilities. In addition, every token needs its normaliser.
        """
        grid = self.grid
        tokens = grid.rows * grid.cols
        rows = 3 * min(4 * points, tokens) + tokens
        return 2.0 * self.heads * self.channels * (grid.num_latent_frames - 1) * rows * tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Models, clips, and expected rates of a study.

    Raises:
        ValueError: a count is not positive.
    """

    models: Mapping[str, ModelShape]
    clips: int
    steps: int
    """Denoising steps of models that set none."""
    points: int
    """Query points per clip."""
    kept_layers: int
    """Layers of each model in the tier that keeps full descriptors."""
    kept_steps: int
    kinds: tuple[DescriptorKind, ...] = ("query", "key")
    tflops: float
    """Speed of a forward pass, in 10^12 operations per second, for models without `seconds_per_forward`."""
    matching_tflops: float
    """Speed of matching in the survey, in 10^12 operations per second."""
    seconds_per_clip: float
    """Seconds per clip without forward passes, for models that set none."""
    encoded_bytes_per_s: float
    """Compression speed of one core: bytes before compression per second."""
    store: StoreParams = field(default_factory=StoreParams)
    ratio: float | None = None
    """Bytes before compression per stored byte; null uses the recorded ratio."""

    def __post_init__(self) -> None:
        counts = ("clips", "steps", "points", "kept_layers", "kept_steps")
        for name in (*counts, "tflops", "matching_tflops", "encoded_bytes_per_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.ratio is not None and self.ratio <= 0:
            raise ValueError(f"ratio is {self.ratio}; it must be positive")

    def steps_of(self, model: ModelShape) -> int:
        """Number of denoising steps at which a model is studied."""
        return self.steps if model.steps is None else model.steps


@dataclass(frozen=True, slots=True)
class _Tier:
    """Cost of one tier of the study, over all clips of one model."""

    raw_bytes: float
    stored_bytes: float
    gpu_seconds: float
    core_seconds: float
    """Core seconds of compression."""


def study_table(study: Study) -> str:
    """Format the study as a Markdown table with a row for each model and tier, and their sums."""
    tiers = {"full descriptors, all": _everything, "full descriptors, kept": _kept, "survey, all": _surveyed}
    header = ("model", "tier", "before compression", "on disk", "GPU hours", "core hours")
    rows = [header, ("---",) * len(header)]
    sums = {tier: [0.0, 0.0, 0.0, 0.0] for tier in tiers}
    for name, model in study.models.items():
        for label, cost in tiers.items():
            tier = cost(study, model)
            values = (tier.raw_bytes, tier.stored_bytes, tier.gpu_seconds, tier.core_seconds)
            sums[label] = [total + value for total, value in zip(sums[label], values, strict=True)]
            rows.append((name, label, *_cells(values)))
    rows += [("**all**", label, *_cells(totals)) for label, totals in sums.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(values: Sequence[float]) -> tuple[str, ...]:
    raw, stored, gpu, core = values
    return size(raw), size(stored), f"{gpu / 3600:.3g}", f"{core / 3600:.3g}"


def _everything(study: Study, model: ModelShape) -> _Tier:
    return _descriptors(study, model, layers=model.layers, steps=study.steps_of(model))


def _kept(study: Study, model: ModelShape) -> _Tier:
    layers, steps = min(study.kept_layers, model.layers), min(study.kept_steps, study.steps_of(model))
    return _descriptors(study, model, layers=layers, steps=steps)


def _descriptors(study: Study, model: ModelShape, *, layers: int, steps: int) -> _Tier:
    grid = model.grid
    spec = DescriptorSpec(
        steps=tuple(range(steps)),
        timesteps=(0.0,) * steps,
        layers=tuple(range(layers)),
        heads=tuple(range(model.heads)),
        num_channels=model.channels,
        grid=grid,
        frames=tuple(range(grid.num_latent_frames)),
        clip_size=(grid.height, grid.width),
        size=(grid.height, grid.width),
        kinds=study.kinds,
        text_mask=(True,) * model.text_tokens,
    )
    raw = float(study.clips * planned_bytes(spec, study.store))
    ratio = recorded_ratio(study.store, computed_in="bfloat16") if study.ratio is None else study.ratio
    return _Tier(raw, raw / ratio, _gpu_seconds(study, model, steps), raw / study.encoded_bytes_per_s)


def _surveyed(study: Study, model: ModelShape) -> _Tier:
    """Cost of the survey.

    It stores 6 numbers per latent frame and point (match x, y; probability; margin; attention max, mass) and 2 numbers
    per point for the text.
    """
    per_unit = study.points * (6 * model.grid.num_latent_frames + 2) * FLOAT_BYTES
    num_units = study.clips * study.steps_of(model) * model.layers
    num_bytes = float(num_units * per_unit)
    flops = num_units * model.flops_per_match(study.points)
    matching = flops / (study.matching_tflops * 1e12)
    return _Tier(num_bytes, num_bytes, _gpu_seconds(study, model, study.steps_of(model)) + matching, 0.0)


def _gpu_seconds(study: Study, model: ModelShape, steps: int) -> float:
    forward = model.seconds_per_forward or model.flops_per_forward / (study.tflops * 1e12)
    beside = study.seconds_per_clip if model.seconds_per_clip is None else model.seconds_per_clip
    return study.clips * (steps * forward + beside)
