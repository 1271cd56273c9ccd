"""Prompt files: one prompt per line, `#` starts a comment line, blank lines are skipped.

A line ends with a line feed, a carriage return, or both. Other characters that Python calls line ends (form feed,
U+2028 and more) may stand within a prompt.
"""

import re
from pathlib import Path

__all__ = ["PromptError", "read_prompts", "text_lines"]


class PromptError(ValueError):
    """A prompt file or an index file cannot be used; the message names file, line and what is wanted."""


def read_prompts(path: Path, *, indices: Path | None = None) -> list[tuple[int, str]]:
    """Read prompts and their numbers.

    Args:
        path: UTF-8 text with one prompt per line.
        indices: A text file of whole numbers, one per line: the prompts to take, in that order, counted from 0 over
            the prompts of `path`. None takes all.

    Returns:
        (number, prompt) pairs.

    Raises:
        PromptError: a file is missing, is not UTF-8 or holds no prompt, or an index is no number or out of range.
    """
    prompts = [line for _, line in _lines(path)]
    if not prompts:
        raise PromptError(f"{path} holds no prompt; wanted: one per line, lines that start with # are comments")
    if indices is None:
        return list(enumerate(prompts))
    chosen = []
    for number, line in _lines(indices):
        if not line.isdecimal() or int(line) >= len(prompts):
            raise PromptError(f"{indices}, line {number}: {line!r}; wanted: a whole number below {len(prompts)}")
        chosen.append((int(line), prompts[int(line)]))
    return chosen


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines with content and their numbers in the file."""
    stripped = [(number, line.strip()) for number, line in enumerate(text_lines(path), start=1)]
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def text_lines(path: Path) -> list[str]:
    """All lines of a UTF-8 text file, without their ends and without a byte order mark in front.

    Raises:
        PromptError: the file is missing or is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}, line {line}, is not UTF-8; save the file as UTF-8 text") from error
    lines = re.split("\r\n|\n|\r", text)
    return lines if lines[-1] else lines[:-1]
