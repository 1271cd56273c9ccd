"""What a person chooses about loading a backbone."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_KINDS",
    "KINDS",
    "CapturedKind",
    "Expert",
    "FeatureKind",
    "ImageCondition",
    "ModelParams",
    "Quantization",
]

CapturedKind = Literal["query", "key", "feature", "value", "query_pre_rotary", "key_pre_rotary", "cross_query"]
"""Query, key and value as attention uses them; query and key before rotary positions turned them, normalised as the
model normalises them; feature = one of `FeatureKind`; cross_query = the video's queries of the cross-attention to the
text, where a layer has one."""

KINDS: tuple[CapturedKind, ...] = get_args(CapturedKind)

DEFAULT_KINDS: tuple[CapturedKind, ...] = ("query", "key", "feature")

FeatureKind = Literal["heads", "attention", "mlp", "block", "attention_input", "mlp_input"]
"""Hidden states that may be kept as `feature`: the attention's output per head, before its output projection (`heads`);
the output of the attention, of the MLP, or of the whole block, after which the residual stream goes on; or what goes
into attention or MLP, which is the residual stream after their norm and modulation."""

Quantization = Literal["none", "int8", "nf4"]
"""How bitsandbytes quantizes a text encoder's weights."""

ImageCondition = Literal["checkpoint", "none", "first_frame", "every_frame"]
"""What an image-to-video backbone is told of the image that a clip starts from: what its checkpoint says; nothing (Wan
2.2 TI2V as text to video); the image at the first latent frame; the image as if it were every frame (NimVideo's 2B)."""


Expert = Literal["by_step", "high_noise", "low_noise"]
"""Which of two transformers that share the steps runs (Wan 2.2 A14B): the sampler's own at each step, or one of them at
every step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """How to load one backbone.

    Raises:
        ValueError: both `path` and `checkpoint` are given, a number is out of range, or there is no such device.
    """

    path: str | None = None
    """Local pipeline folder; where it is given, the backbone's name is only a label."""
    checkpoint: str | None = None
    """Repository of the checkpoint; null takes the one that the backbone's name stands for."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint; the commit it resolves to goes into the fingerprint."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of all weights and activations."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": the first CUDA device where there is one."""
    local_files_only: bool = False
    """Never ask the network, even if the weights are missing."""
    memory: Literal["as_set", "auto"] = "as_set"
    """Which switches save memory. as_set: those below that are set. auto: also the mildest of `release_text_encoder`,
    `cpu_offload` and `vae_tiling` with which the clips' size fits the card; one line says which and why. Those that
    change no number come first. Tiling changes some and counts as if it had been set. Nothing changes on a CPU."""
    compile: bool = False
    """Compile the transformer's blocks (torch.compile): faster once the first step is over, slightly different numbers.
    Capture and guidance work as without; nothing is compiled anew for them."""
    vae_batch_frames: int | Literal["auto"] = "auto"
    """Most frames per batch where each frame is encoded alone, on a GPU; a CPU takes one by one. Bounds memory, changes
    no number. auto: as many as keep the autoencoder's widest layer below 2 GiB at this size, at most 8; a larger number
    is cut to what does."""
    vae_tiling: bool = False
    """Encode and decode in overlapping tiles: less memory, slightly different latents."""
    vae_slicing: bool = False
    """Encode and decode one batch element at a time: less memory, same latents."""
    cpu_offload: bool = False
    """Keep each component on the CPU until it runs (needs a GPU)."""
    embedded_guidance: float = 6.0
    """Guidance that a distilled backbone (HunyuanVideo) reads as an input; others have none."""
    image_condition: ImageCondition = "checkpoint"
    """How the image reaches an image-to-video backbone; others have none."""
    expert: Expert = "by_step"
    """Which transformer runs, where two share the steps by noise (Wan 2.2 A14B): the sampler's own at each step, or one
    of them at all steps; others have one."""
    text_encoder_quantization: Quantization = "none"
    """Fewer bits per weight of the text encoder (needs the package bitsandbytes)."""
    release_text_encoder: bool = False
    """Drop the text encoder after each prompt is embedded; it is loaded again for the next one. With `cpu_offload` it
    waits on the CPU instead."""

    def __post_init__(self) -> None:
        if self.path is not None and self.checkpoint is not None:
            raise ValueError(f"path is {self.path!r} and checkpoint is {self.checkpoint!r}; give one of the two")
        if self.vae_batch_frames != "auto" and self.vae_batch_frames < 1:
            raise ValueError(f"vae_batch_frames is {self.vae_batch_frames}; it must be at least 1")
        if re.fullmatch(r"auto|cpu|mps|meta|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"device is {self.device!r}; expected auto, cpu, cuda or cuda:N")

    def torch_dtype(self) -> "torch.dtype":
        """The dtype as torch names it."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def torch_device(self) -> "torch.device":
        """The device, "auto" resolved on this machine."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
