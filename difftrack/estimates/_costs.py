"""The cost of a stage on a measured GPU, and its text form."""

from collections.abc import Sequence
from dataclasses import dataclass

from difftrack.planning import duration, size

__all__ = ["Card", "StageCost", "stage_lines"]


@dataclass(frozen=True, slots=True)
class Card:
    """Measured speeds of one GPU and its host, with random weights at real size in bfloat16."""

    name: str = "NVIDIA H200"
    flops: float = 4.2e14
    """Operations per second in a forward pass: 0.313 s for CogVideoX-2B, 0.871 s for -5B (`backbones_gpu.json`)."""
    matching_s: float = 1.66e-3
    """Matching seconds per (step, layer) of CogVideoX-2B with 400 points, results on the host
    (`matching_recipe_cuda.json`)."""
    encoded_px_per_s: float = 13e6
    """Pixels per second for reading and encoding a clip: 49 x 480 x 720 in 1.3 s (`extract.json`)."""
    decoded_px_per_s: float = 5e6
    """Pixels per second for decoding a generated clip's latents."""
    written_px_per_s: float = 3.9e6
    """Pixels per second for writing lossless video in one thread: 49 x 480 x 720 in 4.3 s."""
    read_px_per_s: float = 50e6
    """Pixels per second for reading lossless video."""
    startup_s: float = 15.0
    """Seconds for a process to import the model's libraries."""
    weights_bytes_per_s: float = 0.58e9
    """Bytes per second for hashing, loading and placing weights."""
    light_stage_s: float = 5.0
    """Seconds of a stage that loads no weights."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """The cost of one stage of a run."""

    stage: str
    work: str
    """Description of the work, for messages."""
    seconds: float
    """Seconds on the GPU, from scratch."""
    forwards: float = 0.0
    """Forward passes of one branch through the whole transformer; a partial pass counts by its share of the layers."""
    stored_bytes: float = 0.0
    cached_bytes: float = 0.0
    """Bytes that DVC additionally stores in its cache."""


def stage_lines(costs: Sequence[StageCost], card: Card | None = None) -> list[str]:
    """Format the costs as one line for each stage, and their sum."""
    rows = [(cost.stage, cost.work, duration(cost.seconds), _bytes_of(cost)) for cost in costs]
    total = StageCost(
        "total",
        "",
        sum(cost.seconds for cost in costs),
        stored_bytes=sum(cost.stored_bytes for cost in costs),
        cached_bytes=sum(cost.cached_bytes for cost in costs),
    )
    rows.append((total.stage, total.work, duration(total.seconds), _bytes_of(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"stages, from scratch, on one {(card or Card()).name}:"]
    for stage, work, seconds, stored in rows:
        line = f"  {stage:<{widths[0]}}  {work:<{widths[1]}}  {seconds:>{widths[2]}}  {stored}"
        lines.append(line.rstrip())
    return lines


def _bytes_of(cost: StageCost) -> str:
    if not cost.stored_bytes:
        return ""
    twice = f", and {size(cost.cached_bytes)} in DVC's cache" if cost.cached_bytes else ""
    return f"{size(cost.stored_bytes)} on disk{twice}"
