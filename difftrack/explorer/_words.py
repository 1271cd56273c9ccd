"""Labels text tokens with words of the prompt."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from difftrack.backbones import SHIPPED, shipped_backbone
from difftrack.text_tokens import TextTokens

__all__ = ["text_words", "word_labels"]

PADDING = "(padding)"


def text_words(backbone: str, prompt: str, num_tokens: int) -> list[str]:
    """Name the text tokens of a prompt.

    Args:
        backbone: Name of the backbone; the tokenizers of the shipped one and of a `path:` folder are known.
        prompt: Prompt that the backbone read.
        num_tokens: Length of the text.

    Returns:
        One word for each token: its piece of the prompt, `(padding)`, or its number if the tokenizer is not available.
    """
    tokenizer = _tokenizer(backbone)
    if tokenizer is None:
        return [f"token {index}" for index in range(num_tokens)]
    pieces = [_plain(piece) for piece in tokenizer.encode(prompt).tokens[:num_tokens]]
    return [*pieces, *[PADDING] * (num_tokens - len(pieces))]


def word_labels(text: TextTokens) -> list[str]:
    """Name the text tokens from a store: a token's word, `(padding)`, `(special)`, or a sign."""
    labels = text.labels()
    for word in text.words:
        for token in word.tokens:
            labels[token] = word.text
    return labels


@lru_cache(maxsize=8)
def _tokenizer(backbone: str) -> Any:  # noqa: ANN401 - tokenizers has no types
    from tokenizers import Tokenizer

    if backbone == SHIPPED:
        folder = shipped_backbone()
    elif backbone.startswith("path:"):
        folder = Path(backbone.removeprefix("path:"))
    else:
        return None
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    return tokenizer


def _plain(piece: str) -> str:
    return "(end)" if piece == "</s>" else piece.replace("\u2581", "") or "\u2423"
