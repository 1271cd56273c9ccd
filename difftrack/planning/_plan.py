"""One store's plan: what it will hold, and what that takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from difftrack.store import check_space
from difftrack.wording import counted

__all__ = ["Plan", "Rates", "duration", "size"]


@dataclass(frozen=True, slots=True)
class Rates:
    """What one step of one clip took, somewhere."""

    seconds_per_clip: float
    """Reading it, its prompt and its encoding, beside its forwards."""
    seconds_per_forward: float
    """One forward through the wanted layers, their descriptors on their way to disk."""
    ratio: float | None = None
    """Bytes before compression per stored byte of what that step gave."""
    encoded_bytes_per_s: float | None = None
    """Bytes before compression that one process compresses per second."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of `extract` for one backbone in one view comes to."""

    name: str
    store: str
    """Where it will lie."""
    clips: int
    groups: int
    """Clips, or chunks of clips in the tracking view."""
    steps: int
    """Per group, at most."""
    layers: int
    units: int
    """(group, step, layer), those that are there already included."""
    forwards: int
    """From nothing: there are none for what lies there, or is taken back from where it was kept."""
    raw_bytes: int
    """Before compression, of the store when it is whole."""
    there_bytes: int
    """On disk already."""
    ratio: float
    """Bytes before compression per stored byte to expect."""
    ratio_source: str
    """Where that number comes from."""
    max_bytes: float
    """What extract.max_bytes allows, before compression."""
    free_bytes: int | None
    """On the disk where the store lies; None where that has no meaning."""
    rates: Rates | None = None
    """From a probe."""
    workers: int = 1
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Clips that a rule leaves out, and why."""
    captures: tuple[str, ...] = ()
    """What is captured of a group: its steps, layers, heads and kinds; one line for all groups that agree."""

    @property
    def expected_bytes(self) -> float:
        """The whole store on disk."""
        return self.raw_bytes / self.ratio

    @property
    def remaining_bytes(self) -> float:
        """What is still to be written, on disk."""
        return max(self.expected_bytes - self.there_bytes, 0.0)

    @property
    def seconds(self) -> float | None:
        """From nothing, on workers like the one that was probed; writing overlaps with the model."""
        if self.rates is None:
            return None
        model = self.clips * self.rates.seconds_per_clip + self.forwards * self.rates.seconds_per_forward
        return model / self.workers

    def check(self, *, share: float = 1.0) -> None:
        """Refuse what would not fit; the message names the setting to change.

        Args:
            share: Of the store that this plan covers, where other runs write the rest.

        Raises:
            StoreError: extract.max_bytes or the free space is exceeded.
        """
        raw_bytes = round(self.raw_bytes / share)
        check_space(self.store, raw_bytes, max_bytes=self.max_bytes, expected_bytes=self.remaining_bytes)

    def lines(self) -> list[str]:
        """For people: a line per question."""
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
            ("there already", size(self.there_bytes)),
            ("free", free),
            ("model", f"at most {counted(self.forwards, 'forward')}"),
            *(("left out", f"{clip}: {why}") for clip, why in self.left_out.items()),
        ]
        if self.rates is not None and self.seconds is not None:
            workers = counted(self.workers, "worker")
            rows.append(("takes", f"{duration(self.seconds)} on {workers}, {self._rates(self.rates)}"))
        width = max(len(label) for label, _ in rows)
        return [f"{self.name}:", *(f"  {label:<{width}}  {text}" for label, text in rows)]

    def _rates(self, rates: Rates) -> str:
        text = f"probed: {rates.seconds_per_clip:.2f} s a clip and {rates.seconds_per_forward:.3f} s a forward"
        if rates.encoded_bytes_per_s is not None:
            text += f"; {rates.encoded_bytes_per_s / 1e6:.0f} MB/s compressed by one core"
        return text


def size(num_bytes: int | float) -> str:
    """Bytes for people, in powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} PB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
