"""Which part of a clip each word of its prompt stands for."""

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
        store: With `query`, `key` and the text keys that go with them (joint attention: CogVideoX, HunyuanVideo, Mochi
            ...), or with `cross_query` (cross-attention: Wan, LTX, SkyReels, Cosmos ...).
        word: A word or phrase of the prompt, in any case, such as `disc` or `red disc`; None gives every word along an
            axis `word`, and beside them `(punctuation)`, `(special)` and `(padding)`: together all of the text.
        clip: Name of the clip; may be left out where one is stored.
        steps: Steps to average, or one; by default all that are stored, and so for what follows.
        layers: Layers to average, or one.
        heads: Heads to average, or one.
        per: Axes that are kept apart and not averaged: `step`, `layer`, `head`.
        share_of: `text`: the share of the attention that a video token pays to the text. `attention`: of all its
            attention, which finds less (docs/words.md); the same for cross-attention.
        occurrence: Which one, 0 the first, of a word that is repeated; by default all together.
        text: Which words the text tokens stand for, where the store does not say: `model.text_tokens(prompt,
            model.embed(prompt))`.
        device: `auto`, `cpu` or a CUDA device.

    Returns:
        Shares in [0, 1] over (*per, frame, row, col), or (*per, word, frame, row, col): `frame` is the video frame that
        a latent frame describes, `row` and `col` are tokens with centres `y_px`, `x_px` in pixels of the clip.
        `.attrs` names the prompt, the word's `pieces` (its tokens), and `notes` on what was cut or repeated.

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
