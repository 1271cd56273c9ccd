"""Records which word of a prompt each of a backbone's text tokens stands for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal

__all__ = ["PADDING", "PUNCTUATION", "SPECIAL", "TextTokens", "Word", "WordError"]

PADDING = "(padding)"
SPECIAL = "(special)"
PUNCTUATION = "(punctuation)"

Role = Literal["prompt", "special", "padding"]

MAX_TEXT_TOKENS = 1 << 16
"""Maximum number of text tokens: 64 times those of the longest known prompt."""

_LETTER_OF_ROLE: Mapping[Role, str] = {"prompt": "t", "special": "s", "padding": "p"}
_ROLE_OF_LETTER: Mapping[str, Role] = {letter: role for role, letter in _LETTER_OF_ROLE.items()}
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
_NO_BLANKS = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Letters of scripts without blanks between words: Thai, Lao, kana and Han."""


class WordError(ValueError):
    """The prompt does not have a word, or the backbone did not read it."""


@dataclass(frozen=True, slots=True)
class Word:
    """One occurrence of a word, or of a phrase, in a prompt."""

    text: str
    """Its spelling in the prompt."""
    start: int
    """First character in the prompt."""
    end: int
    """Index after the last character."""
    tokens: tuple[int, ...]
    """Positions of its tokens among the text tokens, in order; empty if it was cut off."""
    whole: bool = True
    """Whether all of it was read; false if the prompt was cut inside it."""


@dataclass(frozen=True)
class TextTokens:
    """The text tokens of one prompt, in the order in which attention sees them.

    Raises:
        ValueError: the parts contradict each other.
    """

    prompt: str
    """The prompt that the tokenizer read, after the pipeline's cleaning."""
    spans: tuple[tuple[int, int] | None, ...]
    """Characters [start, end) of the prompt that each token stands for, without blanks; None for tokens without
    characters: special ones and padding.
    """
    roles: tuple[Role, ...]
    """Role of each token: prompt, special (end of sentence, a chat template's), or padding."""
    read_to: int | None = None
    """Character of the prompt at which the backbone stopped reading; None if it read all."""

    def __post_init__(self) -> None:
        if len(self.spans) != len(self.roles) or len(self.spans) > MAX_TEXT_TOKENS:
            raise ValueError(f"{len(self.spans)} spans for {len(self.roles)} roles; at most {MAX_TEXT_TOKENS} tokens")
        for span, role in zip(self.spans, self.roles, strict=True):
            inside = span is None or 0 <= span[0] < span[1] <= len(self.prompt)
            if not inside or (span is not None and role != "prompt"):
                raise ValueError(f"a {role} token stands for the characters {span} of {len(self.prompt)}")
        if self.read_to is not None and not 0 <= self.read_to <= len(self.prompt):
            raise ValueError(f"the prompt was read to character {self.read_to} of {len(self.prompt)}")

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def cut(self) -> str:
        """The part of the prompt that the backbone did not read."""
        return "" if self.read_to is None else self.prompt[self.read_to :].strip()

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The words of the prompt in order, including repetitions; words that were cut off have no tokens."""
        owners = self._owners
        tokens: dict[int, list[int]] = {}
        for token, owner in enumerate(owners):
            if owner is not None:
                tokens.setdefault(owner, []).append(token)
        return tuple(
            self._word(match.start(), match.end(), tokens.get(index, ())) for index, match in enumerate(self._matches)
        )

    def find(self, phrase: str, *, occurrence: int | None = None) -> tuple[Word, ...]:
        """Find a word or a phrase in the prompt, as whole words, in any case.

        Args:
            phrase: A phrase such as `disc` or `red disc`; parts of words are only found in scripts without blanks.
            occurrence: Index of the occurrence, from 0; None returns all.

        Raises:
            WordError: the prompt does not have this occurrence, or the backbone did not read it.
        """
        parts = phrase.split()
        if not parts:
            raise WordError("the word is empty; name a word of the prompt")
        pattern = r"\s+".join(map(re.escape, parts))
        if not _NO_BLANKS.search(phrase):
            pattern = rf"(?<!\w){pattern}(?!\w)"
        found = [
            self._word(match.start(), match.end(), self._tokens_within(match.start(), match.end()))
            for match in re.finditer(pattern, self.prompt, re.IGNORECASE)
        ]
        if not found:
            raise WordError(self._no_such_word(phrase))
        if occurrence is not None:
            if not 0 <= occurrence < len(found):
                raise WordError(
                    f"{phrase!r} occurs {len(found)} times in the prompt; there is no occurrence {occurrence}"
                )
            found = [found[occurrence]]
        if not any(word.tokens for word in found):
            raise WordError(
                f"{phrase!r} was not read: the backbone cut the prompt after {len(self)} text tokens, and with it "
                f"{_shortened(self.cut)!r}; shorten the prompt"
            )
        return tuple(word for word in found if word.tokens)

    def groups(self) -> dict[str, tuple[int, ...]]:
        """Group the text tokens: by word in lower case (repeated ones together), then the tokens without a word.

        `(punctuation)` holds tokens of the prompt outside of words; `(special)` and `(padding)` hold tokens of these
        roles.
        """
        groups: dict[str, list[int]] = {}
        for word in self.words:
            if word.tokens:
                groups.setdefault(word.text.lower(), []).extend(word.tokens)
        others: dict[str, list[int]] = {PUNCTUATION: [], SPECIAL: [], PADDING: []}
        for token, (owner, role) in enumerate(zip(self._owners, self.roles, strict=True)):
            if owner is None:
                others[{"prompt": PUNCTUATION, "special": SPECIAL, "padding": PADDING}[role]].append(token)
        groups |= {name: tokens for name, tokens in others.items() if tokens}
        return {name: tuple(tokens) for name, tokens in groups.items()}

    def labels(self) -> list[str]:
        """Label each token: with its piece of the prompt, `(special)`, or `(padding)`."""
        names = {"prompt": "\u2423", "special": SPECIAL, "padding": PADDING}
        return [
            names[role] if span is None else self.prompt[slice(*span)]
            for span, role in zip(self.spans, self.roles, strict=True)
        ]

    @classmethod
    def of_offsets(
        cls,
        prompt: str,
        offsets: Sequence[tuple[int, int]],
        special: Sequence[bool],
        *,
        num_tokens: int,
        text: str | None = None,
        start: int = 0,
    ) -> "TextTokens":
        """Build the record from a tokenizer's output.

        Args:
            prompt: The prompt.
            offsets: Characters of the text that each token stands for; an empty range means none.
            special: Whether the tokenizer added the token.
            num_tokens: Text tokens of the backbone; those after the tokenizer's are padding.
            text: The tokenized text, if it has a template around the prompt.
            start: Index of the prompt in the text.
        """
        whole = prompt if text is None else text
        spans: list[tuple[int, int] | None] = []
        roles: list[Role] = []
        for (first, last), is_special in list(zip(offsets, special, strict=True))[:num_tokens]:
            piece = whole[first:last]
            left = first + len(piece) - len(piece.lstrip())
            right = last - (len(piece) - len(piece.rstrip()))
            inside = (max(left - start, 0), min(right - start, len(prompt)))
            of_prompt = not is_special and inside[0] < inside[1]
            in_template = text is not None and not of_prompt
            spans.append(inside if of_prompt else None)
            roles.append("special" if is_special or in_template else "prompt")
        padding = num_tokens - len(spans)
        filled: list[Role] = ["padding"] * padding
        last_read = max((span[1] for span in spans if span is not None), default=0)
        cut = len(prompt[last_read:].strip()) > 0
        return cls(
            prompt,
            (*spans, *(None,) * padding),
            (*roles, *filled),
            last_read if cut else None,
        )

    def cut_to(self, num_tokens: int) -> "TextTokens":
        """Keep only the first tokens, for attention that does not see padding."""
        return TextTokens(self.prompt, self.spans[:num_tokens], self.roles[:num_tokens], self.read_to)

    def after_special(self, num_special: int, num_tokens: int) -> "TextTokens":
        """Add special tokens in front, and padding at the end up to `num_tokens`."""
        kept = [(span, role) for span, role in zip(self.spans, self.roles, strict=True) if role != "padding"]
        padding = num_tokens - num_special - len(kept)
        front: list[Role] = ["special"] * num_special
        behind: list[Role] = ["padding"] * padding
        return TextTokens(
            self.prompt,
            (*(None,) * num_special, *(span for span, _ in kept), *(None,) * padding),
            (*front, *(role for _, role in kept), *behind),
            self.read_to,
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON types; `from_json` restores the record."""
        return {
            "prompt": self.prompt,
            "roles": "".join(_LETTER_OF_ROLE[role] for role in self.roles),
            "spans": {str(token): list(span) for token, span in enumerate(self.spans) if span is not None},
            "read_to": self.read_to,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TextTokens":
        """Restore a record from `to_json`.

        Raises:
            ValueError: the values are not such a record.
        """
        try:
            prompt, roles, given, read_to = (values[name] for name in ("prompt", "roles", "spans", "read_to"))
            if not isinstance(prompt, str) or not isinstance(roles, str) or len(roles) > MAX_TEXT_TOKENS:
                raise ValueError("its prompt or roles are not text")
            if read_to is not None and type(read_to) is not int:
                raise ValueError(f"read_to is {read_to!r}")
            spans = {token: (_whole(span[0]), _whole(span[1])) for token, span in given.items()}
            if not spans.keys() <= {str(token) for token in range(len(roles))}:
                raise ValueError("a span belongs to no token")
            return cls(
                prompt,
                tuple(spans.get(str(token)) for token in range(len(roles))),
                tuple(_ROLE_OF_LETTER[letter] for letter in roles),
                read_to,
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"not a record of text tokens: {type(error).__name__} {error}") from error

    @cached_property
    def _matches(self) -> tuple["re.Match[str]", ...]:
        return tuple(_WORD.finditer(self.prompt))

    @cached_property
    def _owners(self) -> tuple[int | None, ...]:
        """Assign each token to the word with most of its characters; the first one in a tie."""
        owners: list[int | None] = []
        for span in self.spans:
            shares = [] if span is None else [_overlap(span, match.span()) for match in self._matches]
            most = max(shares, default=0)
            owners.append(shares.index(most) if most else None)
        return tuple(owners)

    def _tokens_within(self, start: int, end: int) -> tuple[int, ...]:
        """Return the tokens for some of these characters; a token across two words counts only for its own."""
        whole_words = [
            index for index, match in enumerate(self._matches) if start < match.end() and match.start() < end
        ]
        cuts_words = any(self._matches[i].start() < start or self._matches[i].end() > end for i in whole_words)
        return tuple(
            token
            for token, (span, owner) in enumerate(zip(self.spans, self._owners, strict=True))
            if span is not None
            and _overlap(span, (start, end))
            and (owner is None or cuts_words or owner in whole_words)
        )

    def _word(self, start: int, end: int, tokens: Iterable[int]) -> Word:
        return Word(self.prompt[start:end], start, end, tuple(tokens), self.read_to is None or end <= self.read_to)

    def _no_such_word(self, phrase: str) -> str:
        words = list(dict.fromkeys(word.text for word in self.words))
        if not words:
            return f"{phrase!r} is not in the prompt, which is empty: extract with the clip's own prompt (prompt: clip)"
        near = get_close_matches(phrase.lower(), [word.lower() for word in words], n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return f"{phrase!r} is not in the prompt, whose words are {_shortened(', '.join(words))}{meant}"


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> int:
    return max(0, min(first[1], second[1]) - max(first[0], second[0]))


def _whole(value: Any) -> int:  # noqa: ANN401 - any JSON
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."
