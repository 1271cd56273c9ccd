"""Networks of the small CogVideoX that ships, built from unmodified diffusers and transformers classes."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from difftrack.rendering import VOCABULARY

__all__ = [
    "ArchitectureParams",
    "VideoDenoiser",
    "explained_load_errors",
    "load_weights",
    "make_autoencoder",
    "make_scheduler",
    "make_text_encoder",
    "make_tokenizer",
    "make_transformer",
    "save_pipeline",
]

LEVELS: Final = 3
TEXT_WIDTH: Final = 192
_SPECIAL_TOKENS: Final = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True, slots=True)
class ArchitectureParams:
    """Sizes of the backbone; `height` and `width` in pixels."""

    height: int = 128
    width: int = 192
    num_frames: int = 17
    num_layers: int = 8
    num_heads: int = 4
    num_channels: int = 64
    latent_channels: int = 16
    autoencoder_widths: tuple[int, int, int] = (32, 64, 96)
    autoencoder_blocks: int = 1
    text_length: int = 48
    text_layers: int = 2


def make_autoencoder(params: ArchitectureParams) -> AutoencoderKLCogVideoX:
    """Make a causal autoencoder with 4x spatial and 4x temporal compression and random weights."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * LEVELS,
        up_block_types=("CogVideoXUpBlock3D",) * LEVELS,
        block_out_channels=params.autoencoder_widths,
        latent_channels=params.latent_channels,
        layers_per_block=params.autoencoder_blocks,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=params.height,
        sample_width=params.width,
    )


def make_transformer(params: ArchitectureParams) -> CogVideoXTransformer3DModel:
    """Make a CogVideoX transformer with rotary positions and random weights."""
    return CogVideoXTransformer3DModel(
        num_attention_heads=params.num_heads,
        attention_head_dim=params.num_channels,
        in_channels=params.latent_channels,
        out_channels=params.latent_channels,
        time_embed_dim=128,
        text_embed_dim=TEXT_WIDTH,
        num_layers=params.num_layers,
        sample_width=params.width // 2 ** (LEVELS - 1),
        sample_height=params.height // 2 ** (LEVELS - 1),
        sample_frames=params.num_frames,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=params.text_length,
        use_rotary_positional_embeddings=True,
    )


def make_tokenizer(params: ArchitectureParams) -> T5Tokenizer:
    """Make a T5 tokenizer over the renderer's vocabulary; all other words are split into letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [(token, 0.0) for token in _SPECIAL_TOKENS] + [("▁", -4.0)]
    pieces += [(f"▁{word}", -2.0) for word in VOCABULARY if f"▁{word}" not in dict(pieces)]
    pieces += [(letter, -8.0) for letter in letters]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=params.text_length)


def make_text_encoder(params: ArchitectureParams, tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Make a small T5 encoder with random weights."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=2 * TEXT_WIDTH,
        num_layers=params.text_layers,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return T5EncoderModel(config)


class VideoDenoiser(nn.Module):
    """The transformer and the text encoder; training updates both or only the transformer."""

    def __init__(self, transformer: CogVideoXTransformer3DModel, text_encoder: T5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def embed(self, tokens: Int[Tensor, "clip text_token"]) -> Float[Tensor, "clip text_token width"]:
        """Embed prompts as the pipeline does, without masking the padding tokens."""
        embedded: Tensor = self.text_encoder(tokens)[0]
        return embedded

    def forward(
        self,
        noisy: Float[Tensor, "clip latent_frame channel row col"],
        tokens: Int[Tensor, "clip text_token"],
        timesteps: Int[Tensor, " clip"],
        rotary: tuple[Tensor, Tensor],
    ) -> Float[Tensor, "clip latent_frame channel row col"]:
        """Predict the velocity."""
        predicted: Tensor = self.transformer(
            noisy, self.embed(tokens), timesteps, image_rotary_emb=rotary, return_dict=False
        )[0]
        return predicted


def load_weights(module: nn.Module, folder: Path) -> None:
    """Load the weights of a component's folder into a float32 module; the stored precision may differ.

    Raises:
        ValueError: the folder does not hold this component, or its sizes differ.
    """
    with explained_load_errors(folder):
        stored = type(module).from_pretrained(folder, dtype=torch.float32)  # type: ignore[attr-defined]
        module.load_state_dict(stored.state_dict())
    if isinstance(module, AutoencoderKLCogVideoX):
        module.register_to_config(scaling_factor=stored.config.scaling_factor)


@contextmanager
def explained_load_errors(folder: Path) -> Iterator[None]:
    """Turn a failure to load a folder's weights into an error that names the way out.

    Raises:
        ValueError: the weights are missing or do not fit.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"training cannot start from {folder}: {error}; set start_from to a pipeline folder of this architecture,"
            " or to null"
        ) from error


def make_scheduler() -> CogVideoXDDIMScheduler:
    """Make CogVideoX's scheduler: v-prediction, zero terminal SNR, trailing timesteps, no SNR shift."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
    )


def save_pipeline(
    folder: Path,
    *,
    autoencoder: AutoencoderKLCogVideoX,
    transformer: CogVideoXTransformer3DModel,
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
) -> None:
    """Write a pipeline folder that the unmodified `CogVideoXPipeline.from_pretrained` loads; float16 safetensors.

    Weights are split into files of at most 12 MB. An existing pipeline folder is replaced once the new one is complete.

    Raises:
        ValueError: `folder` exists, is not empty and is not a pipeline.
    """
    pipeline = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=deepcopy(text_encoder).to("cpu", torch.float16),
        vae=deepcopy(autoencoder).to("cpu", torch.float16),
        transformer=deepcopy(transformer).to("cpu", torch.float16),
        scheduler=make_scheduler(),
    )
    new, old = (folder.with_name(f".{folder.name}.{which}") for which in ("new", "old"))
    if old.exists() and not folder.exists():  # an earlier process was killed between the two renames below
        old.rename(folder)
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    pipeline.save_pretrained(new, safe_serialization=True, max_shard_size="12MB")
    # Remove the local path that each component was loaded from.
    for file in new.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "model_index.json").is_file():
            raise ValueError(f"{folder} is not a pipeline folder, so it was not replaced; the new pipeline is in {new}")
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
