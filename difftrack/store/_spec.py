"""The spec of a group of descriptors, which is completely known before the first value is written."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from difftrack.geometry import TokenGrid
from difftrack.params import parse
from difftrack.rotary import RotaryLayout
from difftrack.store._encodings import encoding_of
from difftrack.store._params import CodecName, StoreParams

__all__ = [
    "ArrayLayout",
    "DescriptorKind",
    "DescriptorSpec",
    "Separator",
    "array_layouts",
    "fingerprint_of",
]

DescriptorKind = Literal["query", "key", "feature", "value", "query_pre_rotary", "key_pre_rotary", "cross_query"]

Separator = Literal[".", "/"]
"""Separator between the indices in the key of a chunk or shard."""

SCHEMA_VERSION = 2
"""Version of the written schema, in which all shards of an array lie in one folder. Version 1, which has a folder per
index, can still be read and continued."""

READABLE_VERSIONS = (1, 2)

MAX_UNITS = 1 << 20
"""Maximum number of (step, layer) in a group: a thousand steps of a thousand layers."""

MAX_TOKENS = 1 << 26
"""Maximum number of video tokens in a unit: 500 times those of 129 frames of 720p."""

MAX_UNIT_VALUES = 1 << 36
"""Maximum number of values of one kind in a unit: 180 times those of the largest known backbone."""

FINGERPRINT_VERSION = 1
"""Version of the fingerprint, which covers the stored data but not its location."""


@dataclass(frozen=True, slots=True)
class DescriptorSpec:
    """One group: the descriptors of one clip from one backbone, or of one chunk of a clip in the tracking view.

    Raises:
        ValueError: an axis is empty, repeats a label, or two fields contradict each other.
    """

    steps: tuple[int, ...]
    """Indices into the denoising schedule, 0 = noisiest."""
    timesteps: tuple[float, ...]
    """The scheduler's value at each of `steps`."""
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    num_channels: int
    """Channels per head."""
    grid: TokenGrid
    frames: tuple[int, ...]
    """Video frame of the clip that each latent frame represents."""
    clip_size: tuple[int, int]
    """(height, width) of the clip's frames, in pixels."""
    size: tuple[int, int]
    """(height, width) of the backbone's input, in pixels."""
    kinds: tuple[DescriptorKind, ...] = ("query", "key", "feature")
    text_mask: tuple[bool, ...] = ()
    """True for real text tokens; empty if text keys are not stored. With the kind `cross_query` the keys belong to the
    cross-attention, otherwise to the joint attention."""
    fingerprint_parts: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the values depend on (backbone, params, clip), as JSON."""
    rotary: RotaryLayout | None = None
    """Channels that rotary positions turn, if each channel turns with one axis. This describes the values without
    changing them.
    """

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "heads", "kinds", "frames"):
            labels = getattr(self, name)
            if not labels:
                raise ValueError(f"DescriptorSpec.{name} is empty")
            if len(set(labels)) != len(labels):
                raise ValueError(f"DescriptorSpec.{name} repeats a label: {list(labels)}")
        if len(self.timesteps) != len(self.steps):
            raise ValueError(f"DescriptorSpec: {len(self.timesteps)} timesteps for {len(self.steps)} steps")
        if len(self.frames) != self.grid.num_latent_frames:
            raise ValueError(
                f"DescriptorSpec: {len(self.frames)} frames for {self.grid.num_latent_frames} latent frames"
            )
        if self.size != (self.grid.height, self.grid.width):
            raise ValueError(
                f"DescriptorSpec.size is {self.size}; the grid covers {(self.grid.height, self.grid.width)}"
            )
        if self.num_channels < 1:
            raise ValueError(f"DescriptorSpec.num_channels is {self.num_channels}; it must be at least 1")
        values = len(self.heads) * self.num_channels * max(self.grid.num_tokens, self.num_text_tokens)
        for name, count, most in (
            ("units", len(self.steps) * len(self.layers), MAX_UNITS),
            ("tokens", self.grid.num_tokens, MAX_TOKENS),
            ("values in a unit", values, MAX_UNIT_VALUES),
        ):
            if count > most:
                raise ValueError(f"DescriptorSpec has {count} {name}; at most {most} can be stored")
        canonical_json(self.fingerprint_parts)

    @property
    def num_text_tokens(self) -> int:
        """Number of text tokens whose keys are stored."""
        return len(self.text_mask)

    @property
    def joint_text_mask(self) -> tuple[bool, ...]:
        """`text_mask` if the text's keys belong to the video's own attention; empty otherwise."""
        return () if "cross_query" in self.kinds else self.text_mask

    @property
    def units(self) -> list[tuple[int, int]]:
        """All (step, layer) in order; a unit is written, checked and repeated as a whole."""
        return [(step, layer) for step in self.steps for layer in self.layers]

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the arrays in every unit: the kinds, and `text_key` if text is stored."""
        return (*self.kinds, "text_key") if self.text_mask else self.kinds

    def entry_shape(self, entry: str) -> tuple[int, ...]:
        """Return the shape of a unit's values: [head, latent_frame, row, col, channel] or [head, text_token, channel].

        Raises:
            ValueError: the entry does not exist.
        """
        if entry not in self.entries:
            raise ValueError(f"no entry {entry!r}; there are {', '.join(self.entries)}")
        if entry == "text_key":
            return (len(self.heads), self.num_text_tokens, self.num_channels)
        grid = self.grid
        return (len(self.heads), grid.num_latent_frames, grid.rows, grid.cols, self.num_channels)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON types; `from_json` restores the spec."""
        restored: dict[str, Any] = json.loads(canonical_json(dataclasses.asdict(self)))
        if self.grid.first_frames == 1:  # added later; leaving it out keeps the fingerprints of causal backbones
            del restored["grid"]["first_frames"]
        if self.rotary is None:
            del restored["rotary"]
        return restored

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DescriptorSpec":
        """Restore a spec from `to_json`.

        Raises:
            ValueError: the values are not such a spec.
        """
        return parse(cls, values, "spec")


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """One stored array: [step, layer] and the axes of a unit. A shard is one unit; chunks divide `latent_frame`."""

    name: str
    axes: tuple[str, ...]
    """Axes of a unit."""
    shape: tuple[int, ...]
    """Shape of a unit."""
    dtype: str
    fill_value: float | int = field(compare=False)
    """Determined by `dtype`; not compared, because NaN does not equal itself."""
    frames_per_chunk: int | None
    """Latent frames in a chunk; None if the unit is one chunk."""
    codec: CodecName
    level: int
    separator: Separator = "."

    @property
    def num_chunks(self) -> int:
        """Number of chunks in a shard."""
        return 1 if self.frames_per_chunk is None else math.ceil(self.shape[1] / self.frames_per_chunk)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk; the last chunk may extend beyond the array."""
        if self.frames_per_chunk is None:
            return self.shape
        return (self.shape[0], self.frames_per_chunk, *self.shape[2:])

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of a shard, in whole chunks."""
        if self.frames_per_chunk is None:
            return self.shape
        return (self.shape[0], self.frames_per_chunk * self.num_chunks, *self.shape[2:])

    def shard_key(self, step_index: int, layer_index: int) -> str:
        """Return the key of a unit's shard in its group, in zarr's default key encoding."""
        indices = [str(step_index), str(layer_index), *("0" for _ in self.shape)]
        return f"{self.name}/{self.separator.join(['c', *indices])}"


def array_layouts(spec: DescriptorSpec, params: StoreParams, *, separator: Separator = ".") -> list[ArrayLayout]:
    """Return all arrays of a group; an entry's scales follow it directly."""
    encoding = encoding_of(params.dtype)
    itemsize = {"float16": 2, "uint16": 2, "int8": 1}[encoding.stored]
    layouts = []
    for entry in spec.entries:
        shape = spec.entry_shape(entry)
        axes: tuple[str, ...] = ("head", "text_token", "channel")
        frames_per_chunk = None
        if entry != "text_key":
            axes = ("head", "latent_frame", "row", "col", "channel")
            frames_per_chunk = _frames_per_chunk(shape[1], itemsize * math.prod(shape) // shape[1], params.chunk_bytes)
        rest = (frames_per_chunk, params.codec, params.level, separator)
        layouts.append(ArrayLayout(entry, axes, shape, encoding.stored, encoding.fill_value, *rest))
        if encoding.has_scale:
            scale = (f"{entry}_scale", axes[:-1], shape[:-1], "float16", float("nan"))
            layouts.append(ArrayLayout(*scale, *rest))
    return layouts


def fingerprint_of(spec: DescriptorSpec, params: StoreParams) -> str:
    """Compute the SHA-256 of everything that the stored bytes depend on. What only describes them is left out."""
    described = dataclasses.replace(spec, rotary=None)
    parts = {"version": FINGERPRINT_VERSION, "spec": described.to_json(), "params": dataclasses.asdict(params)}
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def canonical_json(values: Any) -> str:  # noqa: ANN401
    """Return the canonical JSON text of a value, independent of the order of keys.

    Raises:
        ValueError: a value is not JSON, or is not finite.
    """
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from error


def _frames_per_chunk(num_latent_frames: int, frame_bytes: int, chunk_bytes: int) -> int:
    wanted = min(num_latent_frames, math.ceil(chunk_bytes / frame_bytes))
    return math.ceil(num_latent_frames / math.ceil(num_latent_frames / wanted))
