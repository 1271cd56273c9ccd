"""The plan of one store: its content and cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from difftrack.store import check_space
from difftrack.wording import counted

__all__ = ["Plan", "Rates", "duration", "size"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured cost of one step of one clip."""

    seconds_per_clip: float
    """Seconds for reading a clip, embedding its prompt and encoding it, without the forward passes."""
    seconds_per_forward: float
    """Seconds of one forward pass through the captured layers, while descriptors are written."""
    ratio: float | None = None
    """Compression ratio of that step: bytes before compression per stored byte."""
    encoded_bytes_per_s: float | None = None
    """Compression speed of one process: bytes before compression per second."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Size and cost of a run of `extract` for one backbone and view."""

    name: str
    store: str
    """Path or URL of the store."""
    clips: int
    groups: int
    """Number of clips, or of chunks of clips in the tracking view."""
    steps: int
    """Maximum number of steps per group."""
    layers: int
    units: int
    """Number of (group, step, layer) units, including stored ones."""
    forwards: int
    """Number of forward passes from scratch; stored and restored units need none."""
    raw_bytes: int
    """Size of the complete store before compression."""
    there_bytes: int
    """Bytes already on disk."""
    ratio: float
    """Expected compression ratio: bytes before compression per stored byte."""
    ratio_source: str
    """Source of the ratio."""
    max_bytes: float
    """extract.max_bytes, before compression."""
    free_bytes: int | None
    """Free space on the store's disk; None where that is undefined."""
    rates: Rates | None = None
    """Measured rates from a probe."""
    workers: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Clip that a rule leaves out -> the reason."""
    captures: tuple[str, ...] = ()
    """Steps, layers, heads and kinds captured in a group; one line for all equal groups."""

    @property
    def expected_bytes(self) -> float:
        """Expected size of the complete store on disk."""
        return self.raw_bytes / self.ratio

    @property
    def remaining_bytes(self) -> float:
        """Expected number of bytes still to be written to disk."""
        return max(self.expected_bytes - self.there_bytes, 0.0)

    @property
    def seconds(self) -> float | None:
        """Expected duration from scratch on workers like the probed one; writing overlaps with the model."""
        if self.rates is None:
            return None
        model = self.clips * self.rates.seconds_per_clip + self.forwards * self.rates.seconds_per_forward
        return model / self.workers

    def check(self, *, share: float = 1.0) -> None:
        """Check that the store fits; the message names the setting to change.

        Args:
            share: Share of the store that this plan covers, if other runs write the rest.

        Raises:
            StoreError: extract.max_bytes or the free space is exceeded.
        """
        raw_bytes = round(self.raw_bytes / share)
        check_space(self.store, raw_bytes, max_bytes=self.max_bytes, expected_bytes=self.remaining_bytes)

    def lines(self) -> list[str]:
        """Format the plan as lines of text."""
        clips = counted(self.clips, "clip")
        clips += f" in {counted(self.groups, 'chunk')}" if self.groups != self.clips else ""
        cells = f"{counted(self.steps, 'step')} x {counted(self.layers, 'layer')}"
        per_unit = self.raw_bytes / self.units if self.units else 0
        free = "unknown" if self.free_bytes is None else size(self.free_bytes)
        rows = [
            ("holds", f"{clips} x {cells} = {counted(self.units, 'unit')} of {size(per_unit)}"),
            *(("captures", asked) for asked in self.captures),
            ("uncompressed", f"{size(self.raw_bytes)}; extract.max_bytes allows {size(self.max_bytes)}"),
            ("on disk", f"about {size(self.expected_bytes)} (ratio {self.ratio:.2f}, {self.ratio_source})"),
            ("already stored", size(self.there_bytes)),
            ("free", free),
            ("model", f"at most {counted(self.forwards, 'forward')}"),
            *(("left out", f"{clip}: {why}") for clip, why in self.left_out.items()),
        ]
        if self.rates is not None and self.seconds is not None:
            workers = counted(self.workers, "worker")
            rows.append(("duration", f"{duration(self.seconds)} on {workers}, {self._rates(self.rates)}"))
        width = max(len(label) for label, _ in rows)
        return [f"{self.name}:", *(f"  {label:<{width}}  {text}" for label, text in rows)]

    def _rates(self, rates: Rates) -> str:
        text = f"probed: {rates.seconds_per_clip:.2f} s per clip and {rates.seconds_per_forward:.3f} s per forward"
        if rates.encoded_bytes_per_s is not None:
            text += f"; one core compresses {rates.encoded_bytes_per_s / 1e6:.0f} MB/s"
        return text


def size(num_bytes: int | float) -> str:
    """Format a number of bytes with decimal prefixes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} PB"


def duration(seconds: float) -> str:
    """Format a duration in seconds with a suitable unit."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
