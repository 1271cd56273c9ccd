"""Train the text encoder on prompts alone, before any diffusion: every embedding shall know the phrase it stands in."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5EncoderModel, T5Tokenizer

from difftrack.rendering import PALETTE, PATTERNS, PHOTO_WORDS, RenderSpec, Texture, describe, sample_scene
from difftrack.training._latents import tokenize
from difftrack.training._loop import learning_rate
from difftrack.training._networks import goes_on_from

__all__ = [
    "TextTraining",
    "adopt_text_encoder",
    "load_transformer_of_another_text_encoder",
    "phrases_of",
    "random_prompts",
    "train_text_encoder",
]

Embed = Callable[[Tensor], Tensor]
"""From tokens (prompt, text_token) to embeddings (prompt, text_token, width)."""

BACKGROUND: Final = 3
CAMERA: Final = 4
NO_ROLE: Final = 5
"""Of words between phrases; 0, 1 and 2 are the objects."""
_HELD_OUT: Final = 512
_PACE_OF_PLACES: Final = 10.0
"""Learning rate of the attention's bias by distance, which starts near 0, over that of all else."""
_RIDGE: Final = 1e-12
"""Relative to the mean square of the embeddings."""


@dataclass(frozen=True, slots=True)
class TextTraining:
    """Schedule of the text encoder's training on prompts alone."""

    num_prompts: int = 16_000
    """Different prompts, from which batches are drawn."""
    max_steps: int = 1000
    """0 leaves the weights as they are."""
    batch_size: int = 16
    peak_learning_rate: float = 2e-3
    constant_share: float = 0.3
    """Share of the schedule at the peak, before the cosine."""
    weight_decay: float = 0.0
    phrase_weight: float = 1.0
    """Of the error in a phrase's words, summed over the vocabulary, beside those in a token's own word and its role."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts and what is asked of their tokens; -1 where nothing is."""

    tokens: Int[Tensor, "prompt text_token"]
    phrases: Int[Tensor, "prompt text_token"]
    roles: Int[Tensor, "prompt text_token"]

    def take(self, chosen: Int[Tensor, " prompt"]) -> "_Prompts":
        return _Prompts(self.tokens[chosen], self.phrases[chosen], self.roles[chosen])


class _ReadOuts(nn.Module):
    """What a linear map finds in an embedding: its own token, its role, the tokens of its phrase."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, num_tokens)
        self.role = nn.Linear(width, NO_ROLE + 1)
        self.phrase = nn.Linear(width, num_tokens)
        nn.init.constant_(self.phrase.bias, -3.0)


def random_prompts(seeds: range) -> list[str]:
    """Prompts as the renderer describes clips, one per seed, with colours and patterns at random; nothing is drawn."""
    return [_random_prompt(seed) for seed in seeds]


def _random_prompt(seed: int) -> str:
    kind, split = "scene" if seed % 5 < 2 else "object", ("easy", "hard")[seed % 2]
    spec = RenderSpec(seed=seed, role="train", kind=kind, split=split)  # type: ignore[arg-type]
    scene = sample_scene(spec, num_textures=1)
    rng = np.random.default_rng(seed)
    colors, patterns, nothing = tuple(PALETTE), (*PATTERNS, *PHOTO_WORDS), np.empty((0, 0, 3), dtype=np.uint8)
    textures = [
        Texture(nothing, colors[rng.integers(len(colors))], patterns[rng.integers(len(patterns))], "procedural")
        for _ in range(scene.num_layers)
    ]
    return describe(spec, scene, textures)


def phrases_of(prompt: str) -> tuple[list[int], list[int]]:
    """Take a prompt apart into what it says of every object, of the background and of the camera.

    Returns:
        For every word the number of the phrase that it stands in, -1 for an "and" between two objects; for every phrase
        its role: 0, 1, 2 = first, second, third object, 3 = background, 4 = camera.
    """
    words = prompt.split()
    phrases: list[int] = []
    roles: list[int] = []
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word == "and" and after == "a":
            phrases.append(-1)
            continue
        if word == "over":
            roles.append(BACKGROUND)
        elif word == "the":
            roles.append(CAMERA)
        elif word == "a" and before != "over":
            roles.append(sum(role < BACKGROUND for role in roles))
        phrases.append(len(roles) - 1)
    return phrases, roles


def train_text_encoder(
    encoder: T5EncoderModel, tokenizer: T5Tokenizer, params: TextTraining, *, text_length: int, device: torch.device
) -> dict[str, float]:
    """Train in place so that every word's embedding tells, by linear maps that are thrown away, what it belongs to.

    Loss per word: cross-entropies of its own token and of its phrase's role, and the binary cross-entropy of which
    tokens its phrase contains, summed over the vocabulary. Padding takes part in attention, as in
    `VideoDenoiser.embed`.

    Args:
        encoder: Trained in place; no weight of it wants a gradient afterwards.
        tokenizer: Has one token per word of the renderer.
        params: Schedule.
        text_length: Tokens per prompt, padding included.
        device: Where to train; the encoder stays there.

    Returns:
        Shares in [0, 1] of the words of 512 prompts that were not trained on: `own_word`, `role`, and `phrase_words`,
        where all tokens of the phrase and no others are found.
    """
    first = params.seed * 10**8
    seeds = range(first, first + params.num_prompts)
    prompts = _prepare(random_prompts(seeds), tokenizer, text_length, device)
    held_out = _prepare(random_prompts(range(seeds.stop, seeds.stop + _HELD_OUT)), tokenizer, text_length, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        read_outs = _ReadOuts(encoder.config.d_model, len(tokenizer)).to(device)
    encoder.to(device).train().requires_grad_(True)
    trained = [*encoder.parameters(), *read_outs.parameters()]
    places = [value for name, value in encoder.named_parameters() if "relative_attention_bias" in name]
    others = [value for value in trained if all(value is not place for place in places)]
    groups = [{"params": others, "pace": 1.0}, {"params": places, "pace": _PACE_OF_PLACES}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=params.weight_decay)
    generator = torch.Generator().manual_seed(params.seed)
    for step in range(params.max_steps):
        rate = learning_rate(step / params.max_steps, peak=params.peak_learning_rate, constant=params.constant_share)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        chosen = torch.randint(params.num_prompts, (params.batch_size,), generator=generator).to(device)
        optimizer.zero_grad(set_to_none=True)
        _loss(encoder, read_outs, prompts.take(chosen), params.phrase_weight).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    encoder.eval().requires_grad_(False)
    return _accuracy(encoder, read_outs, held_out)


def adopt_text_encoder(
    projection: nn.Linear, before: Embed, after: Embed, tokens: Int[Tensor, "prompt text_token"]
) -> nn.Linear:
    """Fit the map with which a transformer that knows one encoder's embeddings understands another's.

    Least squares in float64: new_projection(after(tokens)) ~= projection(before(tokens)) over all tokens, padding too.

    Args:
        projection: The transformer's map from embeddings.
        before: The encoder that the transformer was trained with.
        after: The encoder that takes its place; its embeddings may be of another width.
        tokens: Prompts of the kind that the transformer knows, with more tokens in all than the embeddings are wide.

    Returns:
        The new map, in float32, where the tokens are.
    """
    wanted = deepcopy(projection).double()
    with torch.no_grad():
        parts = torch.split(tokens, 64)
        targets = torch.cat([wanted(before(part).double()).flatten(0, 1) for part in parts])
        embedded = torch.cat([after(part).double().flatten(0, 1) for part in parts])
        inputs = functional.pad(embedded, (0, 1), value=1.0)
        gram = inputs.T @ inputs
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = torch.linalg.solve(gram + ridge, inputs.T @ targets)
        adopted = nn.Linear(embedded.shape[1], projection.out_features, device=gram.device)
        adopted.weight.copy_(solved[:-1].T)
        adopted.bias.copy_(solved[-1])
    return adopted


def load_transformer_of_another_text_encoder(
    transformer: CogVideoXTransformer3DModel,
    text_encoder: T5EncoderModel,
    folder: Path,
    tokens: Int[Tensor, "prompt text_token"],
) -> None:
    """Take over a pipeline folder's transformer, but for the map from embeddings, which is fitted to `text_encoder`.

    Args:
        transformer: Receives the weights.
        text_encoder: The one that it shall listen to.
        folder: Of the pipeline, whose text encoder the transformer was trained with.
        tokens: See `adopt_text_encoder`.

    Raises:
        ValueError: the folder holds no such pipeline, or a transformer of other sizes.
    """
    with goes_on_from(folder):
        before = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        trained = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.float32)
        trained.patch_embed.text_proj = adopt_text_encoder(
            trained.patch_embed.text_proj, lambda some: before(some)[0], lambda some: text_encoder(some)[0], tokens
        )
        transformer.load_state_dict(trained.state_dict())


def _prepare(prompts: Sequence[str], tokenizer: T5Tokenizer, text_length: int, device: torch.device) -> _Prompts:
    """Tokens, phrases and roles of prompts; a prompt that is too long loses its last words, as in `tokenize`."""
    phrases = np.full((len(prompts), text_length), -1)
    roles = np.full((len(prompts), text_length), -1)
    for row, prompt in enumerate(prompts):
        of_words, of_phrases = phrases_of(prompt)
        kept = of_words[: text_length - 1]
        phrases[row, : len(kept)] = kept
        roles[row, : len(kept)] = [of_phrases[phrase] if phrase >= 0 else NO_ROLE for phrase in kept]
    tokens = tokenize(tokenizer, tuple(prompts), text_length, device)
    return _Prompts(tokens, torch.from_numpy(phrases).to(device), torch.from_numpy(roles).to(device))


def _phrase_tokens(prompts: _Prompts, num_tokens: int) -> Float[Tensor, "prompt text_token vocabulary"]:
    """1 where a token of the vocabulary is in a word's phrase."""
    together = (prompts.phrases[:, :, None] == prompts.phrases[:, None, :]).float()
    return (together @ functional.one_hot(prompts.tokens, num_tokens).float()).clamp(max=1)


def _loss(encoder: T5EncoderModel, read_outs: _ReadOuts, prompts: _Prompts, phrase_weight: float) -> Tensor:
    words, in_phrase = prompts.roles >= 0, prompts.phrases >= 0
    embedded = encoder(prompts.tokens)[0]
    wanted = _phrase_tokens(prompts, read_outs.phrase.out_features)[in_phrase]
    own = functional.cross_entropy(read_outs.own(embedded[words]), prompts.tokens[words])
    role = functional.cross_entropy(read_outs.role(embedded[words]), prompts.roles[words])
    missed = functional.binary_cross_entropy_with_logits(read_outs.phrase(embedded[in_phrase]), wanted, reduction="sum")
    return own + role + phrase_weight * missed / len(wanted)


@torch.no_grad()
def _accuracy(encoder: T5EncoderModel, read_outs: _ReadOuts, prompts: _Prompts) -> dict[str, float]:
    hits: dict[str, list[Tensor]] = {"own_word": [], "role": [], "phrase_words": []}
    for chosen in torch.split(torch.arange(len(prompts.tokens), device=prompts.tokens.device), 64):
        part = prompts.take(chosen)
        words, in_phrase = part.roles >= 0, part.phrases >= 0
        embedded = encoder(part.tokens)[0]
        wanted = _phrase_tokens(part, read_outs.phrase.out_features)[in_phrase] > 0
        hits["own_word"].append(read_outs.own(embedded[words]).argmax(-1) == part.tokens[words])
        hits["role"].append(read_outs.role(embedded[words]).argmax(-1) == part.roles[words])
        hits["phrase_words"].append(((read_outs.phrase(embedded[in_phrase]) > 0) == wanted).all(-1))
    return {name: float(torch.cat(values).float().mean()) for name, values in hits.items()}
