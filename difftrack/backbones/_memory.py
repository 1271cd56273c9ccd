"""Predicts a backbone's GPU memory from configs and measured constants, and chooses switches that make it fit."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from difftrack.backbones._counts import counts_of
from difftrack.backbones._params import ModelParams
from difftrack.backbones._registry import KNOWN
from difftrack.geometry import TokenGrid

if TYPE_CHECKING:  # a table of memory needs must load no library
    import torch

    from difftrack.backbones._backbone import Backbone
    from difftrack.backbones._folder import PipelineFolder

__all__ = [
    "ACTIVATIONS_PER_CHANNEL",
    "CONTEXT_BYTES",
    "SWITCHES",
    "USABLE",
    "MemoryNeed",
    "WORK",
    "Switch",
    "Work",
    "card_bytes",
    "fitted",
    "memory_needs",
    "need_of",
]

Switch = Literal["vae_slicing", "release_text_encoder", "cpu_offload", "vae_tiling"]
Work = Literal["encode", "encode_frames", "sample"]
"""Work of a stage besides running one branch: encode whole clips, encode single frames, or sample and decode."""

WORK: tuple[Work, ...] = get_args(Work)
SWITCHES: tuple[tuple[Switch, ...], ...] = (
    (),
    ("vae_slicing",),
    ("release_text_encoder",),
    ("vae_slicing", "release_text_encoder"),
    ("cpu_offload",),
    ("vae_slicing", "cpu_offload"),
    ("vae_tiling",),
    ("vae_tiling", "release_text_encoder"),
    ("vae_tiling", "cpu_offload"),
)
"""Mildest first: switches that change no numbers come before tiling, and cheap ones before slow ones."""

ACTIVATIONS_PER_CHANNEL = 16
"""Numbers that one branch holds at a time for each token and channel: the hidden state, and the intermediate results of
the widest block (normalised state, queries, keys, values, attention, a feed-forward layer of four times the width
before and after its activation, one of them concatenated).
"""
CONTEXT_BYTES = 10**9
"""Memory of CUDA and its libraries."""
USABLE = 0.95
"""Usable share of a card's memory; the rest is lost to fragmentation."""

_KEPT_BY = {"none": 1.0, "int8": 0.5, "nf4": 0.28}
"""Size of a quantised text encoder as a share of 16 bits per weight, including its scales."""


@dataclass(frozen=True, slots=True)
class _Maps:
    """Number of feature maps, of a frame's size and the first block's width, that an autoencoder holds at a time.

    Measured on one NVIDIA H200 at 480x720 (`python -m benchmarks.memory`), the peak less the weights, rounded up.
    """

    encode: float
    frame: float
    """Maps for each frame in a batch of single frames."""
    decode: float
    tiled: tuple[float, float, float]
    """Maps in tiles: to encode, to encode eight single frames, to decode."""
    frames: int | None = None
    """Frames of the measured clip, for autoencoders that process the whole clip at once."""


_OF_COGVIDEOX = _Maps(encode=103.0, frame=25.0, decode=190.0, tiled=(32.0, 54.0, 54.0))
_MAPS = {
    "AutoencoderKLCogVideoX": _OF_COGVIDEOX,
    "AutoencoderKLWan": _Maps(encode=49.0, frame=11.5, decode=64.0, tiled=(12.0, 16.0, 15.0)),
    "AutoencoderKLHunyuanVideo": _Maps(encode=127.0, frame=11.5, decode=232.0, tiled=(26.0, 18.0, 46.0), frames=49),
}
"""Measured classes; others are assumed to need as much as CogVideoX's, the largest per batch."""

_SCATTERED = 1.5
"""Factor for fragmentation in decoding whole clips: CogVideoX-5B's decoding, with a peak of 37.0 GB, ran out of memory
under a cap of 44.6 GB.
"""
_BFLOAT16 = 2
"""Bytes of a number."""
_BESIDE = 8
"""Maps that do not grow with the frames of a batch."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory needs of one backbone at one size of clips, in bytes."""

    name: str
    text_bytes: int
    """Weights of all text encoders."""
    transformer_bytes: int
    """Weights of the transformer, or of both experts."""
    running_bytes: int
    """Weights of the one transformer that runs at a time."""
    other_bytes: int
    """Weights of the autoencoder, and of an image encoder."""
    activation_bytes: int
    """Activations of one branch."""
    working_bytes: Mapping[Work, int]
    """Working memory of the autoencoder."""
    tiled_bytes: Mapping[Work, int]
    """Working memory of the autoencoder in tiles."""
    sliced_bytes: int
    """Working memory of the autoencoder for frames encoded one by one."""

    def needed(self, switches: Collection[Switch] = (), works: Collection[Work] = WORK) -> int:
        """Return the peak number of bytes on the card.

        Args:
            switches: Active switches; none keeps everything on the card. `release_text_encoder`: first the text
                encoder, then all else. `cpu_offload`: one component at a time. `vae_tiling`, `vae_slicing`: the
                autoencoder works in tiles, or on one frame at a time.
            works: Work to do; sampling runs two branches.
        """
        autoencoder = max((self._autoencoder(work, switches) for work in works), default=0)
        activations = (2 if "sample" in works else 1) * self.activation_bytes
        if "cpu_offload" in switches:
            apart = (self.text_bytes, self.other_bytes + autoencoder, self.running_bytes + activations)
            return CONTEXT_BYTES + max(apart)
        rest = self.transformer_bytes + self.other_bytes + max(activations, autoencoder)
        if "release_text_encoder" in switches:
            return CONTEXT_BYTES + max(self.text_bytes, rest)
        return CONTEXT_BYTES + self.text_bytes + rest

    def switches_for(self, num_bytes: int, works: Collection[Work] = WORK) -> tuple[Switch, ...] | None:
        """Return the mildest of `SWITCHES` that make it fit a card; None if none do."""
        return next((each for each in SWITCHES if self.needed(each, works) <= USABLE * num_bytes), None)

    def _autoencoder(self, work: Work, switches: Collection[Switch]) -> int:
        if "vae_tiling" in switches:
            return self.tiled_bytes[work]
        return self.sliced_bytes if work == "encode_frames" and "vae_slicing" in switches else self.working_bytes[work]


def memory_needs(*names: str) -> Iterator[MemoryNeed]:
    """Predict memory for each named backbone, or for these, in bfloat16 at its default size."""
    for name, known in KNOWN.items():
        if names and name not in names:
            continue
        counts = counts_of(name)
        text = sum(size for component, size in counts.encoder_bytes.items() if component.startswith("text"))
        autoencoder = _Autoencoder(known.vae[0], counts.vae_channels, counts.vae_batch_frames)
        tokens = counts.grid.num_tokens + counts.num_text_tokens + counts.num_history_tokens
        encode, tiled, sliced = autoencoder.working_bytes(known.size, _BFLOAT16)
        yield MemoryNeed(
            name,
            text_bytes=text,
            transformer_bytes=sum(counts.expert_bytes),
            running_bytes=max(counts.expert_bytes),
            other_bytes=counts.vae_bytes + sum(counts.encoder_bytes.values()) - text,
            activation_bytes=_activations(tokens, counts.num_heads * counts.num_channels, counts.held_states)
            * _BFLOAT16,
            working_bytes=encode,
            tiled_bytes=tiled,
            sliced_bytes=sliced,
        )


def need_of(backbone: "Backbone", values: Mapping[str, int], size: tuple[int, int, int]) -> MemoryNeed:
    """Predict a backbone's memory for clips of a size.

    Args:
        backbone: Backbone whose counts are read; no weights are loaded.
        values: Number of weights of each component that has any.
        size: (frames, height, width) of the clips.
    """
    itemsize = backbone.components.dtype.itemsize
    num_bytes = {component: count * itemsize for component, count in values.items()}
    experts = [num_bytes[component] for component in backbone.experts.values() or ("transformer",)]
    full_text = sum(count for component, count in num_bytes.items() if component.startswith("text_encoder"))
    channels = backbone.num_heads * backbone.num_channels
    tokens = _num_tokens(backbone, size) + backbone.num_text_tokens
    vae_class = type(backbone.components.outline("vae")).__name__
    autoencoder = _Autoencoder(vae_class, backbone.vae_channels, backbone.frames_of_vae_batch(*size[1:]))
    encode, tiled, sliced = autoencoder.working_bytes(size, itemsize)
    return MemoryNeed(
        backbone.name,
        text_bytes=int(full_text * _KEPT_BY[backbone.params.text_encoder_quantization]),
        transformer_bytes=sum(experts),
        running_bytes=max(experts),
        other_bytes=sum(num_bytes.values()) - sum(experts) - full_text,
        activation_bytes=_activations(tokens, channels, backbone.held_states) * itemsize,
        working_bytes=encode,
        tiled_bytes=tiled,
        sliced_bytes=sliced,
    )


@dataclass(frozen=True, slots=True)
class _Autoencoder:
    """Properties that an autoencoder's work depends on."""

    class_name: str
    channels: int
    """Channels of its first block."""
    batch_frames: int
    """Batch size of single frames."""

    def working_bytes(self, size: tuple[int, int, int], itemsize: int) -> tuple[dict[Work, int], dict[Work, int], int]:
        """Bytes for each kind of work: with whole frames, in tiles, and one frame at a time."""
        maps = _MAPS.get(self.class_name, _OF_COGVIDEOX)
        of_map = size[1] * size[2] * self.channels * itemsize
        clip = of_map if maps.frames is None else of_map * size[0] / maps.frames
        whole: dict[Work, int] = {
            "encode": int(maps.encode * clip),
            "encode_frames": int((maps.frame * self.batch_frames + _BESIDE) * of_map),
            "sample": int(_SCATTERED * maps.decode * clip),
        }
        tiled: dict[Work, int] = {work: int(share * of_map) for work, share in zip(WORK, maps.tiled, strict=True)}
        return whole, tiled, int((maps.frame + _BESIDE) * of_map)


def fitted(
    backbone: "Backbone",
    folder: "PipelineFolder",
    num_bytes: int,
    size: tuple[int, int, int],
    works: Collection[Work] = WORK,
) -> tuple[ModelParams, str]:
    """Return a backbone's params with the mildest switches that make it fit a card, and a message about them.

    Args:
        backbone: Backbone of the folder, not loaded; switches that its params set stay set.
        folder: Pipeline folder whose weights are counted.
        num_bytes: Memory of the card, from `card_bytes`.
        size: (frames, height, width) of the clips.
        works: Work to do.
    """
    need = need_of(backbone, folder.num_values(), size)
    found = need.switches_for(num_bytes, works)
    chosen = SWITCHES[-1] if found is None else found
    asked = replace(backbone.params, **dict[str, Any](dict.fromkeys(chosen, True)))
    clips = "x".join(map(str, size))
    switched = " and ".join(chosen) or "no switch"
    said = (
        f"memory: auto sets {switched} for {backbone.name}: about {_gb(need.needed(chosen, works))} at {clips}, "
        f"{_gb(need.needed((), works))} without, and the card has {_gb(num_bytes)}"
    )
    return asked, said if found is not None else f"{said}; that is not enough, so make the clips smaller"


def card_bytes(device: "torch.device") -> int | None:
    """Return the memory of a CUDA card that this process may use; None for other devices.

    Memory of other processes is ignored, so that the choice is the same in every run.
    """
    if device.type != "cuda":
        return None
    import torch

    share = torch.cuda.get_per_process_memory_fraction(device)
    return int(torch.cuda.get_device_properties(device).total_memory * share)


def _activations(tokens: int, channels: int, held_states: int) -> int:
    """Numbers that one branch holds at a time."""
    return tokens * channels * (ACTIVATIONS_PER_CHANNEL + held_states)


def _num_tokens(backbone: "Backbone", size: tuple[int, int, int]) -> int:
    """Count the tokens of a clip and of its history, even if the backbone does not support the size."""
    frames, height, width = size
    latents = (frames - 1) // backbone.temporal_stride + 1
    per_side = backbone.spatial_stride * backbone.patch_size
    grid = TokenGrid(
        num_latent_frames=-(-latents // backbone.latents_per_token_frame),
        rows=-(-height // per_side),
        cols=-(-width // per_side),
        stride_px=per_side,
        temporal_stride=backbone.frame_period,
    )
    return grid.num_tokens + backbone.num_history_tokens(grid)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
