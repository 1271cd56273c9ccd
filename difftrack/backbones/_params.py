"""User settings for loading a backbone."""

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
the output of the attention, of the MLP, or of the whole block, which the residual stream continues with; or the input
of attention or MLP, which is the residual stream after norm and modulation.
"""

Quantization = Literal["none", "int8", "nf4"]
"""How bitsandbytes quantizes a text encoder's weights."""

ImageCondition = Literal["checkpoint", "none", "first_frame", "every_frame"]
"""How an image-to-video backbone reads the image that a clip starts from: as its checkpoint says; not at all (Wan 2.2
TI2V as text to video); at the first latent frame; or repeated over all frames (NimVideo's 2B).
"""


Expert = Literal["by_step", "high_noise", "low_noise"]
"""Which of two transformers that share the steps runs (Wan 2.2 A14B): the sampler's choice at each step, or always the
same one.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParams:
    """How to load one backbone.

    Raises:
        ValueError: both `path` and `checkpoint` are given, a number is out of range, or the device name is unknown.
    """

    path: str | None = None
    """Local pipeline folder; if it is set, the backbone's name is only a label."""
    checkpoint: str | None = None
    """Repository of the checkpoint; null takes that of the backbone's name."""
    revision: str | None = None
    """Branch, tag or commit of the checkpoint; the commit it resolves to goes into the fingerprint."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of all weights and activations."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", or "auto": the first CUDA device where there is one."""
    local_files_only: bool = False
    """Never use the network, even if the weights are missing."""
    memory: Literal["as_set", "auto"] = "as_set"
    """Which switches save memory. as_set: those below that are set. auto: also the mildest of `vae_slicing`,
    `release_text_encoder`, `cpu_offload` and `vae_tiling` that fit the clips' size into the card; a message names them
    and the reason. Switches that change no numbers come first. Tiling changes some numbers and has the same effect as
    if it were set. On a CPU auto sets nothing.
    """
    compile: bool = False
    """Compile the transformer's blocks (torch.compile): faster after the first step, with slightly different numbers.
    Capture and guidance work as before, without recompilation.
    """
    vae_batch_frames: int | Literal["auto"] = "auto"
    """Maximum batch size of frames that are encoded alone, on a GPU; a CPU encodes one by one. Limits memory, changes
    no numbers. auto: as many frames as keep the autoencoder's widest layer below 2 GiB at this size, at most 8; larger
    numbers are reduced to this limit.
    """
    vae_tiling: bool = False
    """Encode and decode in overlapping tiles: less memory, slightly different latents."""
    vae_slicing: bool = False
    """Encode and decode one batch element at a time: less memory, same latents."""
    cpu_offload: bool = False
    """Keep each component on the CPU until it runs (needs a GPU)."""
    embedded_guidance: float = 6.0
    """Guidance scale that a distilled backbone (HunyuanVideo) takes as an input; other backbones ignore it."""
    image_condition: ImageCondition = "checkpoint"
    """How an image-to-video backbone reads the image; other backbones ignore it."""
    expert: Expert = "by_step"
    """Which transformer runs, where two share the steps by noise (Wan 2.2 A14B): the sampler's choice at each step, or
    one of them at all steps. Other backbones ignore it.
    """
    text_encoder_quantization: Quantization = "none"
    """Fewer bits per weight of the text encoder (needs the package bitsandbytes)."""
    release_text_encoder: bool = False
    """Drop the text encoder after each prompt is embedded; it is loaded again for the next one. With `cpu_offload` it
    stays on the CPU instead.
    """

    def __post_init__(self) -> None:
        if self.path is not None and self.checkpoint is not None:
            raise ValueError(f"path is {self.path!r} and checkpoint is {self.checkpoint!r}; give one of the two")
        if self.vae_batch_frames != "auto" and self.vae_batch_frames < 1:
            raise ValueError(f"vae_batch_frames is {self.vae_batch_frames}; it must be at least 1")
        if re.fullmatch(r"auto|cpu|mps|meta|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"device is {self.device!r}; expected auto, cpu, cuda or cuda:N")

    def torch_dtype(self) -> "torch.dtype":
        """The torch dtype."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def torch_device(self) -> "torch.device":
        """The device, "auto" resolved on this machine."""
        import torch

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
