"""What one stage costs, on a card that was measured, and how that is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from difftrack.planning import duration, size

__all__ = ["Card", "StageCost", "stage_lines"]


@dataclass(frozen=True, slots=True)
class Card:
    """What one card and its host were measured to do; bfloat16, random weights at real size."""

    name: str = "NVIDIA H200"
    flops: float = 4.2e14
    """Of a forward, per second: CogVideoX-2B's 0.313 s, -5B's 0.871 s (`backbones_gpu.json`)."""
    matching_s: float = 1.66e-3
    """Per (step, layer) of CogVideoX-2B with 400 points, results on the host (`matching_recipe_cuda.json`)."""
    encoded_px_per_s: float = 13e6
    """Of a clip that is read and encoded: 49 x 480 x 720 in 1.3 s (`extract.json`)."""
    decoded_px_per_s: float = 5e6
    """Of a sampled clip's latents."""
    written_px_per_s: float = 3.9e6
    """As lossless video, by one thread: 49 x 480 x 720 in 4.3 s."""
    read_px_per_s: float = 50e6
    """Of that video."""
    startup_s: float = 15.0
    """Of a process that imports the model's libraries."""
    weights_bytes_per_s: float = 0.58e9
    """Weights that are hashed, loaded and placed."""
    light_stage_s: float = 5.0
    """Of a stage that loads no weights."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage of a run."""

    stage: str
    work: str
    """What it does, for people."""
    seconds: float
    """On the card, from nothing."""
    forwards: float = 0.0
    """Of one branch through the whole transformer; one that stops after a layer counts by the share of layers."""
    stored_bytes: float = 0.0
    cached_bytes: float = 0.0
    """That DVC keeps once more in its own cache."""


def stage_lines(costs: Sequence[StageCost], card: Card | None = None) -> list[str]:
    """For people: a line per stage, and their sum."""
    rows = [(cost.stage, cost.work, duration(cost.seconds), _bytes_of(cost)) for cost in costs]
    total = StageCost(
        "altogether",
        "",
        sum(cost.seconds for cost in costs),
        stored_bytes=sum(cost.stored_bytes for cost in costs),
        cached_bytes=sum(cost.cached_bytes for cost in costs),
    )
    rows.append((total.stage, total.work, duration(total.seconds), _bytes_of(total)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"stages, from nothing, on one {(card or Card()).name}:"]
    for stage, work, seconds, stored in rows:
        line = f"  {stage:<{widths[0]}}  {work:<{widths[1]}}  {seconds:>{widths[2]}}  {stored}"
        lines.append(line.rstrip())
    return lines


def _bytes_of(cost: StageCost) -> str:
    if not cost.stored_bytes:
        return ""
    twice = f", and {size(cost.cached_bytes)} in DVC's cache" if cost.cached_bytes else ""
    return f"{size(cost.stored_bytes)} on disk{twice}"
