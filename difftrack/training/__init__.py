"""Train the small CogVideoX that ships: first the autoencoder and the text encoder, then the transformer."""

from difftrack.training._accuracy import ProbeClip, probe_clips
from difftrack.training._autoencoder import (
    AutoencoderTraining,
    autoencoder_loss,
    reconstruction_psnr,
    time_autoencoder,
    to_model_range,
    train_autoencoder,
)
from difftrack.training._data import ClipBatch, ClipShape, ClipStream, frame_times, worker_pool
from difftrack.training._latents import LatentBatch, LatentPools, LatentSource, PoolParams, encode_batch, tokenize
from difftrack.training._networks import (
    ArchitectureParams,
    VideoDenoiser,
    load_weights,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    save_pipeline,
)
from difftrack.training._replicas import ALONE, Replicas
from difftrack.training._rotary import rotary_tables
from difftrack.training._text import (
    TextTraining,
    adopt_text_encoder,
    load_transformer_of_another_text_encoder,
    phrases_of,
    random_prompts,
    train_text_encoder,
)
from difftrack.training._transformer import TransformerTraining, train_transformer

__all__ = [
    "ALONE",
    "ArchitectureParams",
    "AutoencoderTraining",
    "ClipBatch",
    "ClipShape",
    "LatentSource",
    "ClipStream",
    "VideoDenoiser",
    "LatentBatch",
    "LatentPools",
    "PoolParams",
    "ProbeClip",
    "Replicas",
    "TextTraining",
    "TransformerTraining",
    "adopt_text_encoder",
    "autoencoder_loss",
    "encode_batch",
    "frame_times",
    "load_transformer_of_another_text_encoder",
    "load_weights",
    "make_autoencoder",
    "make_scheduler",
    "make_text_encoder",
    "make_tokenizer",
    "make_transformer",
    "phrases_of",
    "probe_clips",
    "random_prompts",
    "reconstruction_psnr",
    "rotary_tables",
    "save_pipeline",
    "time_autoencoder",
    "to_model_range",
    "tokenize",
    "train_autoencoder",
    "train_text_encoder",
    "train_transformer",
    "worker_pool",
]
