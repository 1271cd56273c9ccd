"""The words of the shipped backbone, which knows no others."""

import json
import re

from difftrack.backbones._names import ALIASES, SHIPPED, shipped_backbone

__all__ = ["known_words", "unknown_words"]

_WORD_START = "▁"
"""Prefix of words in the tokenizer; entries without it are single letters."""


def known_words(name: str) -> tuple[str, ...] | None:
    """Return the words that a backbone was trained on, in alphabetical order; None if its vocabulary is open."""
    if ALIASES.get(name, name) != SHIPPED:
        return None
    tokenizer = json.loads((shipped_backbone() / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    entries = (entry for entry, _ in tokenizer["model"]["vocab"])
    return tuple(sorted(entry[1:] for entry in entries if entry.startswith(_WORD_START) and len(entry) > 1))


def unknown_words(name: str, prompt: str) -> list[str]:
    """Return words of a prompt that a backbone was not trained on, each once; none if its vocabulary is open."""
    known = known_words(name)
    if known is None:
        return []
    return [word for word in dict.fromkeys(re.findall(r"\w+", prompt)) if word not in known]
