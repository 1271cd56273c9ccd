"""Train the text encoder on prompts only, before diffusion, so that each embedding encodes its phrase."""

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
from difftrack.training._networks import explained_load_errors

__all__ = [
    "TextTraining",
    "adopt_text_encoder",
    "load_transformer_of_another_text_encoder",
    "phrases_of",
    "random_prompts",
    "train_text_encoder",
]

Embed = Callable[[Tensor], Tensor]
"""Maps tokens (prompt, text_token) to embeddings (prompt, text_token, width)."""

BACKGROUND: Final = 3
CAMERA: Final = 4
NO_ROLE: Final = 5
"""Role of a word between phrases. Roles 0, 1 and 2 are the objects."""
_HELD_OUT: Final = 512
_BIAS_RATE_FACTOR: Final = 10.0
"""Learning-rate multiplier of the relative attention bias, which starts near 0."""
_RIDGE: Final = 1e-12
"""Ridge term of the least-squares fit, relative to the mean square of the embeddings."""


@dataclass(frozen=True, slots=True)
class TextTraining:
    """Schedule for training the text encoder on prompts only."""

    num_prompts: int = 16_000
    """Number of different prompts from which batches are drawn."""
    max_steps: int = 1000
    """Number of training steps; 0 leaves the weights unchanged."""
    batch_size: int = 16
    peak_learning_rate: float = 2e-3
    constant_share: float = 0.3
    """Share of the schedule at the peak, before the cosine."""
    weight_decay: float = 0.0
    phrase_weight: float = 1.0
    """Weight of the loss on a phrase's words, summed over the vocabulary; the own-word and role losses have weight
    1."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts with the phrase number and role of each token; -1 where a token has none."""

    tokens: Int[Tensor, "prompt text_token"]
    phrases: Int[Tensor, "prompt text_token"]
    roles: Int[Tensor, "prompt text_token"]

    def take(self, chosen: Int[Tensor, " prompt"]) -> "_Prompts":
        return _Prompts(self.tokens[chosen], self.phrases[chosen], self.roles[chosen])


class _ReadOuts(nn.Module):
    """Linear read-outs of an embedding: its own token, its role, and the tokens of its phrase."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, num_tokens)
        self.role = nn.Linear(width, NO_ROLE + 1)
        self.phrase = nn.Linear(width, num_tokens)
        nn.init.constant_(self.phrase.bias, -3.0)


def random_prompts(seeds: range) -> list[str]:
    """Make one prompt per seed in the renderer's wording, with random colours and patterns; no clip is rendered."""
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
    """Split a prompt into the phrases about each object, the background and the camera.

    Returns:
        For each word, the number of its phrase, or -1 for an "and" between two objects. For each phrase, its role:
        0, 1, 2 = first, second, third object, 3 = background, 4 = camera.
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
    """Train the encoder in place so that linear maps can read each word's phrase and role from its embedding.

    The linear maps are discarded afterwards. Loss per word: the cross-entropy of its own token, the cross-entropy of
    its phrase's role, and the binary cross-entropy of the tokens in its phrase, summed over the vocabulary. Padding
    tokens are not masked, as in `VideoDenoiser.embed`.

    Args:
        encoder: Trained in place; afterwards none of its weights requires a gradient.
        tokenizer: Has one token per word of the renderer.
        params: Schedule.
        text_length: Tokens per prompt, padding included.
        device: Device to train on; the encoder stays there.

    Returns:
        Accuracies in [0, 1] over the words of 512 held-out prompts: `own_word`, `role` and `phrase_words`. The last
        counts a word as correct only if exactly the tokens of its phrase are predicted.
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
    groups = [{"params": others, "pace": 1.0}, {"params": places, "pace": _BIAS_RATE_FACTOR}]
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
    """Fit a projection that lets a trained transformer use the embeddings of another text encoder.

    Least squares in float64: new_projection(after(tokens)) ~= projection(before(tokens)), over all tokens including
    padding.

    Args:
        projection: The transformer's projection of text embeddings.
        before: The encoder that the transformer was trained with.
        after: The new encoder; the width of its embeddings may differ.
        tokens: Prompts like those of the training. Their total number of tokens must exceed the width of the
            embeddings.

    Returns:
        The new projection, in float32, on the device of the tokens.
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
    """Load a pipeline folder's transformer and fit its text projection to another text encoder.

    Args:
        transformer: Receives the weights.
        text_encoder: The new text encoder.
        folder: The pipeline folder; the transformer was trained with the text encoder in it.
        tokens: See `adopt_text_encoder`.

    Raises:
        ValueError: the folder does not hold such a pipeline, or the sizes of its transformer differ.
    """
    with explained_load_errors(folder):
        before = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
        trained = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.float32)
        trained.patch_embed.text_proj = adopt_text_encoder(
            trained.patch_embed.text_proj, lambda part: before(part)[0], lambda part: text_encoder(part)[0], tokens
        )
        transformer.load_state_dict(trained.state_dict())


def _prepare(prompts: Sequence[str], tokenizer: T5Tokenizer, text_length: int, device: torch.device) -> _Prompts:
    """Compute the tokens, phrases and roles of prompts; long prompts are truncated, as in `tokenize`."""
    phrases = np.full((len(prompts), text_length), -1)
    roles = np.full((len(prompts), text_length), -1)
    for row, prompt in enumerate(prompts):
        phrase_of_word, role_of_phrase = phrases_of(prompt)
        kept = phrase_of_word[: text_length - 1]
        phrases[row, : len(kept)] = kept
        roles[row, : len(kept)] = [role_of_phrase[phrase] if phrase >= 0 else NO_ROLE for phrase in kept]
    tokens = tokenize(tokenizer, tuple(prompts), text_length, device)
    return _Prompts(tokens, torch.from_numpy(phrases).to(device), torch.from_numpy(roles).to(device))


def _phrase_tokens(prompts: _Prompts, num_tokens: int) -> Float[Tensor, "prompt text_token vocabulary"]:
    """Return 1 where a token of the vocabulary occurs in a word's phrase, else 0."""
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
