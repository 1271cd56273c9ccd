"""Maps each word of a prompt to the part of the clip that it stands for."""

from collections.abc import Sequence

import xarray as xr

from difftrack.store import Store
from difftrack.text_tokens import TextTokens
from difftrack.workflows.match import only_clip
from difftrack.workflows.words import Axis, Labels, ShareOf, word_maps

__all__ = ["words"]


def words(
    store: Store,
    word: str | None = None,
    *,
    clip: str | None = None,
    steps: Labels = "stored",
    layers: Labels = "stored",
    heads: Labels = "stored",
    per: Sequence[Axis] = (),
    share_of: ShareOf = "text",
    occurrence: int | None = None,
    text: TextTokens | None = None,
    device: str = "auto",
) -> xr.DataArray:
    """Map the attention of a clip's tokens to a word of its prompt, from stored descriptors.

    Args:
        store: Store with `query`, `key` and text keys (joint attention: CogVideoX, HunyuanVideo, Mochi ...), or with
            `cross_query` (cross-attention: Wan, LTX, SkyReels, Cosmos ...).
        word: A word or phrase of the prompt, in any case, such as `disc` or `red disc`; None gives every word along an
            axis `word`, with `(punctuation)`, `(special)` and `(padding)`, which covers the whole text.
        clip: Name of the clip; optional if only one is stored.
        steps: Steps to average, or one; by default all stored ones.
        layers: Layers to average, or one; by default all stored ones.
        heads: Heads to average, or one; by default all stored ones.
        per: Axes that are not averaged: `step`, `layer`, `head`.
        share_of: `text`: share of a video token's attention to the text. `attention`: share of all its attention, which
            localises worse (docs/words.md). Both are equal for cross-attention.
        occurrence: Index, from 0, of the occurrence of a repeated word; by default all together.
        text: Words of the text tokens, if the store lacks them: `model.text_tokens(prompt, model.embed(prompt))`.
        device: `auto`, `cpu` or a CUDA device.

    Returns:
        Shares in [0, 1] over (*per, frame, row, col), or (*per, word, frame, row, col): `frame` is the video frame that
        a latent frame describes, `row` and `col` are tokens with centres `y_px`, `x_px` in pixels of the clip.
        `.attrs` holds the prompt, the word's `pieces` (its tokens), and `notes` on cut or repeated words.

    Raises:
        StoreError: the store lacks the clip, a step, a layer, a head, or the descriptors.
        WordError: a ValueError; the prompt does not have the word, or the backbone did not read it.

    Example:
        >>> words(store, "disc", layers=5, steps=[21, 28])  # doctest: +SKIP
    """
    return word_maps(
        store,
        only_clip(store, clip),
        word,
        steps=steps,
        layers=layers,
        heads=heads,
        per=per,
        share_of=share_of,
        occurrence=occurrence,
        text=text,
        device=device,
    )
