"""Trains the small CogVideoX that ships: autoencoder first, then transformer and text encoder together."""

from difftrack.training._accuracy import ProbeClip, layer_accuracy, probe_clips
from difftrack.training._autoencoder import AutoencoderTraining, train_autoencoder
from difftrack.training._data import ClipStream
from difftrack.training._latents import PoolParams, fill_pools, tokenize
from difftrack.training._networks import (
    ArchitectureParams,
    make_autoencoder,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    save_pipeline,
)
from difftrack.training._transformer import Denoiser, Probe, TransformerTraining, train_transformer

__all__ = [
    "ArchitectureParams",
    "AutoencoderTraining",
    "ClipStream",
    "Denoiser",
    "PoolParams",
    "Probe",
    "ProbeClip",
    "TransformerTraining",
    "fill_pools",
    "layer_accuracy",
    "make_autoencoder",
    "make_scheduler",
    "make_text_encoder",
    "make_tokenizer",
    "make_transformer",
    "probe_clips",
    "save_pipeline",
    "tokenize",
    "train_autoencoder",
    "train_transformer",
]
