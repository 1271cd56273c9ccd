"""Maps each text token to a word of the prompt, from a backbone's tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from difftrack.text_tokens import TextTokens

__all__ = ["PROMPT_MARK", "PromptTemplate", "chat_template", "prompt_tokens"]

PROMPT_MARK = "\u2063difftrack\u2063"
"""Placeholder for the prompt in a chat template: invisible separators, which no template contains."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Text that a pipeline adds around a prompt before tokenization."""

    before: str = ""
    after: str = ""
    dropped: int = 0
    """Number of leading tokens that the pipeline removes."""
    adds_special: bool = True
    """Whether the tokenizer adds its own special tokens."""


def chat_template(
    tokenizer: Any,  # noqa: ANN401 - transformers has no types
    messages: Sequence[Mapping[str, Any]],
    *,
    dropped: int = 0,
    add_generation_prompt: bool,
) -> PromptTemplate:
    """Return the text that a tokenizer's chat template adds around the prompt.

    Args:
        tokenizer: Tokenizer with the template.
        messages: Messages with `PROMPT_MARK` in place of the prompt.
        dropped: As in `PromptTemplate`.
        add_generation_prompt: Whether the pipeline sets it.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    before, _, after = text.partition(PROMPT_MARK)
    return PromptTemplate(before, after, dropped, adds_special=False)


def prompt_tokens(
    tokenizer: Any,  # noqa: ANN401
    prompt: str,
    *,
    template: PromptTemplate | None,
    text_length: int,
    num_tokens: int,
) -> TextTokens | None:
    """Tokenize a prompt as its pipeline does, and map its tokens to words.

    Args:
        tokenizer: Tokenizer of transformers.
        prompt: Prompt that the tokenizer reads.
        template: Text around the prompt.
        text_length: Maximum number of text tokens, to which the pipeline cuts.
        num_tokens: Text tokens that attention sees: unfilled ones are padding, and further ones are dropped.

    Returns:
        The tokens; None if the tokenizer cannot map them.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor of text and images
    if not getattr(tokenizer, "is_fast", False):
        return None
    around = template or PromptTemplate()
    text = f"{around.before}{prompt}{around.after}"
    encoded = tokenizer(
        text,
        truncation=True,
        max_length=text_length + around.dropped,
        add_special_tokens=around.adds_special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    return TextTokens.of_offsets(
        prompt,
        [(first, last) for first, last in encoded["offset_mapping"][around.dropped :]],
        [bool(special) for special in encoded["special_tokens_mask"][around.dropped :]],
        num_tokens=num_tokens,
        text=None if template is None else text,
        start=len(around.before),
    )
