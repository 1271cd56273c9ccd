"""Pools of encoded clips that are rendered and encoded during training; each clip is drawn many times."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from transformers import T5Tokenizer

from difftrack.training._autoencoder import to_model_range
from difftrack.training._data import ClipBatch, ClipShape, ClipStream
from difftrack.training._replicas import ALONE, Replicas

__all__ = ["LatentSource", "LatentBatch", "LatentPools", "PoolParams", "encode_batch", "tokenize"]

PoolName = Literal["whole", "apart", "long", "other", "cards"]


@dataclass(frozen=True, slots=True)
class PoolParams:
    """Sizes of the pools of encoded clips, and how often training draws from each.

    Raises:
        ValueError: a share is out of range, or all shares of the pools are 0.
    """

    whole: int = 16_000
    """Number of 17-frame clips in the pool, encoded with temporal compression."""
    apart: int = 8_000
    """Number of 13-frame sequences in the pool, each frame encoded separately. Half of the draws are cut to 5 ...
    12."""
    long: int = 2_000
    """Number of 49-frame clips in the pool, encoded with temporal compression. Half of the draws are cut to 33
    frames."""
    other: int = 1_000
    """Number of 17-frame clips, and of 13-frame sequences, in the pools of each size in `other_sizes`."""
    cards: int = 4_000
    """Number of easy 17-frame clips in the pool that teach shape words (`rendering.shape_card`)."""
    other_sizes: tuple[tuple[int, int], ...] = ((96, 160), (160, 128))
    """(height, width) in pixels, multiples of 8."""
    whole_share: float = 0.5
    """Relative share of steps that draw from the pool of whole clips; the next four name the other pools."""
    apart_share: float = 0.35
    long_share: float = 0.1
    other_share: float = 0.05
    cards_share: float = 0.0
    hard_share: float = 0.5
    """Share of hard clips; the others are easy."""
    centred_share: float = 0.0
    """Share of the whole object clips whose objects move around the middle of the picture. In these clips the direction
    in the prompt tells where an object starts, which affects the loss at high noise."""
    close_up_share: float = 0.0
    """Share of the whole object clips that show one large, upright object around the middle. In these clips the shape
    word determines much of the picture."""
    tokens_per_step: int = 122_880
    """Video tokens per batch, summed over all replicas: 64 whole clips of 128 x 192."""
    fill_seconds: float = 30.0
    """Maximum time, in seconds, spent encoding clips before training begins."""
    fill_share: float = 1.0
    """Filled share of the pools at which training begins."""
    refresh_share: float = 0.2
    """Maximum share of the training time spent on new clips."""

    def __post_init__(self) -> None:
        shares = [getattr(self, f"{name}_share") for name in get_args(PoolName)]
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"pool shares are {shares}; no share may be negative and at least one must be positive")
        for name in ("hard_share", "centred_share", "close_up_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if not (0 < self.fill_share <= 1 and 0 <= self.refresh_share < 1):
            raise ValueError(
                f"fill_share is {self.fill_share} and refresh_share is {self.refresh_share};"
                " fill_share must lie in (0, 1] and refresh_share in [0, 1)"
            )


@dataclass(frozen=True, slots=True)
class LatentBatch:
    """The clips of one training step."""

    latents: Float[Tensor, "clip latent_frame channel row col"]
    """Latents multiplied by the autoencoder's `scaling_factor`."""
    tokens: Int[Tensor, "clip text_token"]
    frames_alone: bool
    cards: bool = False
    """See `PoolParams.cards`."""


@runtime_checkable
class LatentSource(Protocol):
    """Supplies clips to the training of the transformer."""

    def draw(self, choice: np.random.Generator, generator: torch.Generator) -> LatentBatch:
        """Draw random clips: `choice` selects the pool, `generator` the clips in it."""
        ...

    def refresh(self, seconds: float) -> None:
        """Add new clips if the time spent on them is below its share of `seconds`, the training time so far."""
        ...


@dataclass
class _Ring:
    """Ring buffer of scaled latents and prompt tokens for clips of one shape; new clips replace the oldest."""

    shape: ClipShape
    latents: Float[Tensor, "clip latent_frame channel row col"]
    tokens: Int[Tensor, "clip text_token"]
    batches: Iterator[ClipBatch]
    cards: bool = False
    written: int = 0

    @property
    def size(self) -> int:
        return min(self.written, len(self.latents))

    @property
    def filled(self) -> float:
        """Clips written so far / length of the ring; above 1 once old clips have been replaced."""
        return self.written / len(self.latents)

    def write(self, latents: Tensor, tokens: Tensor) -> None:
        places = torch.arange(self.written, self.written + len(latents), device=latents.device) % len(self.latents)
        self.latents[places] = latents.to(self.latents.dtype)
        self.tokens[places] = tokens
        self.written += len(latents)


class LatentPools:
    """All pools of encoded clips, on the training device."""

    def __init__(
        self,
        autoencoder: AutoencoderKLCogVideoX,
        stream: ClipStream,
        tokenizer: T5Tokenizer,
        params: PoolParams,
        *,
        size: tuple[int, int],
        text_length: int,
        replicas: Replicas = ALONE,
    ) -> None:
        self._autoencoder = autoencoder
        self._tokenizer = tokenizer
        self._params = params
        self._text_length = text_length
        self._replicas = replicas
        self._spent = 0.0
        self._rings: dict[PoolName, list[_Ring]] = {
            "whole": [self._ring(stream, ClipShape(17, *size), params.whole)],
            "apart": [self._ring(stream, ClipShape(13, *size, "apart"), params.apart)],
            "long": [self._ring(stream, ClipShape(49, *size), params.long)],
            "other": [
                self._ring(stream, shape, params.other)
                for other in params.other_sizes
                for shape in (ClipShape(17, *other), ClipShape(13, *other, "apart"))
            ],
            "cards": [self._ring(stream, ClipShape(17, *size), params.cards, cards=True)],
        }
        shares = {name: getattr(params, f"{name}_share") if rings else 0.0 for name, rings in self._rings.items()}
        self._rings = {name: rings for name, rings in self._rings.items() if shares[name] > 0}
        self._shares = np.array([shares[name] for name in self._rings]) / sum(shares[name] for name in self._rings)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of clips encoded so far, for each pool."""
        return {name: sum(ring.written for ring in rings) for name, rings in self._rings.items()}

    def fill(self) -> None:
        """Encode clips until `fill_share` or `fill_seconds` is reached, and at least one batch per ring."""
        start = time.monotonic()
        rings = [ring for rings in self._rings.values() for ring in rings]
        while min(ring.filled for ring in rings) < self._params.fill_share:
            if time.monotonic() - start > self._params.fill_seconds and all(ring.written for ring in rings):
                break
            self._encode_next()

    def refresh(self, seconds: float) -> None:
        """Encode one batch if the time spent on new clips is still below its share."""
        if self._spent >= self._params.refresh_share * seconds:
            return
        start = self._clock()
        self._encode_next()
        # Replicas agree on the time, so that all of them encode new clips at the same steps.
        self._spent += self._replicas.agree(self._clock() - start)

    def draw(self, choice: np.random.Generator, generator: torch.Generator) -> LatentBatch:
        """Draw random clips of one shape, with replacement; half of the draws shorten sequences and long clips."""
        names = list(self._rings)
        name = names[int(choice.choice(len(names), p=self._shares))]
        rings = self._rings[name]
        ring = rings[int(choice.integers(len(rings)))]
        frames_alone = ring.shape.times == "apart"
        length = ring.latents.shape[1]
        if choice.random() < 0.5:
            length = int(choice.integers(5, 13)) if frames_alone else min(length, 9)
        _, _, _, rows, cols = ring.latents.shape
        count = max(1, self._params.tokens_per_step // (self._replicas.count * length * rows * cols // 4))
        chosen = torch.randint(ring.size, (count,), generator=generator, device=ring.latents.device)
        return LatentBatch(ring.latents[chosen, :length].float(), ring.tokens[chosen], frames_alone, ring.cards)

    def _encode_next(self) -> None:
        """Encode one batch for the least filled ring, so that all rings are filled and replaced at the same rate."""
        ring = min((ring for rings in self._rings.values() for ring in rings), key=lambda ring: ring.filled)
        batch = next(ring.batches)
        latents = encode_batch(self._autoencoder, batch.frames, frames_alone=ring.shape.times == "apart")
        ring.write(latents, tokenize(self._tokenizer, batch.prompts, self._text_length, latents.device))

    def _ring(self, stream: ClipStream, shape: ClipShape, length: int, *, cards: bool = False) -> _Ring:
        device = next(self._autoencoder.parameters()).device
        latent_frames = shape.num_frames if shape.times == "apart" else (shape.num_frames - 1) // 4 + 1
        channels = self._autoencoder.config.latent_channels
        batch_size = max(1, 272 // shape.num_frames)
        return _Ring(
            shape=shape,
            latents=torch.empty(
                (length, latent_frames, channels, shape.height // 4, shape.width // 4),
                dtype=torch.bfloat16,
                device=device,
            ),
            tokens=torch.empty((length, self._text_length), dtype=torch.long, device=device),
            cards=cards,
            batches=stream.batches(
                shape,
                min(batch_size, length),
                cards=cards,
                hard_share=0.0 if cards else self._params.hard_share,
                centred_share=self._params.centred_share if shape.times == "whole" else 0.0,
                close_up_share=self._params.close_up_share if shape.times == "whole" else 0.0,
            ),
        )

    def _clock(self) -> float:
        """Read the clock, in seconds, after the device has finished all queued work."""
        if next(self._autoencoder.parameters()).is_cuda:
            torch.cuda.synchronize()
        return time.monotonic()


def tokenize(tokenizer: T5Tokenizer, prompts: tuple[str, ...], length: int, device: torch.device) -> Tensor:
    """Tokenize prompts, padded to `length` as the pipeline pads them."""
    encoded = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens: Tensor = encoded.input_ids.to(device)
    return tokens


@torch.no_grad()
def encode_batch(
    autoencoder: AutoencoderKLCogVideoX, frames: UInt8[Tensor, "clip frame row col rgb"], *, frames_alone: bool
) -> Float[Tensor, "clip latent_frame channel height width"]:
    """Encode a batch of clips to scaled posterior modes, in the autoencoder's dtype."""
    dtype = next(autoencoder.parameters()).dtype
    videos = to_model_range(frames).to(dtype)
    clips, _, num_frames = videos.shape[:3]
    if frames_alone:
        videos = videos.transpose(1, 2).flatten(0, 1)[:, :, None]
    latents: Tensor = autoencoder.encode(videos).latent_dist.mode() * autoencoder.config.scaling_factor
    if frames_alone:
        return latents[:, :, 0].reshape(clips, num_frames, *latents.shape[1:2], *latents.shape[3:])
    return latents.transpose(1, 2)
