"""The words of the backbone that comes with the package, which knows no others."""

import json
import re

from difftrack.backbones._names import ALIASES, SHIPPED, shipped_backbone

__all__ = ["known_words", "unknown_words"]

_WORD_START = "▁"
"""What the tokenizer puts before a word; entries without it are single letters."""


def known_words(name: str) -> tuple[str, ...] | None:
    """The words that a backbone was trained on, in alphabetical order; None where its vocabulary is open."""
    if ALIASES.get(name, name) != SHIPPED:
        return None
    tokenizer = json.loads((shipped_backbone() / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    entries = (entry for entry, _ in tokenizer["model"]["vocab"])
    return tuple(sorted(entry[1:] for entry in entries if entry.startswith(_WORD_START) and len(entry) > 1))


def unknown_words(name: str, prompt: str) -> list[str]:
    """Words of a prompt that a backbone was not trained on, each once; none where its vocabulary is open."""
    known = known_words(name)
    if known is None:
        return []
    return [word for word in dict.fromkeys(re.findall(r"\w+", prompt)) if word not in known]
