"""Read prompt files: one prompt per line; blank lines and lines that start with `#` are skipped.

A line ends with a line feed, a carriage return, or both. Other characters that Python treats as line ends (form feed,
U+2028 and more) may be part of a prompt.
"""

import re
from pathlib import Path

__all__ = ["PromptError", "read_prompts", "text_lines"]


class PromptError(ValueError):
    """A prompt file or an index file cannot be used; the message names the file, the line and what is expected."""


def read_prompts(path: Path, *, indices: Path | None = None) -> list[tuple[int, str]]:
    """Read prompts and their numbers.

    Args:
        path: UTF-8 text with one prompt per line.
        indices: A text file with one integer per line: the prompts to read, in this order, counted from 0 over the
            prompts in `path`. None reads all.

    Returns:
        (number, prompt) pairs.

    Raises:
        PromptError: a file is missing, is not UTF-8 or contains no prompt, or an index is not a number or out of range.
    """
    prompts = [line for _, line in _lines(path)]
    if not prompts:
        raise PromptError(f"{path} contains no prompt; write one per line (lines that start with # are comments)")
    if indices is None:
        return list(enumerate(prompts))
    chosen = []
    for number, line in _lines(indices):
        if not line.isdecimal() or int(line) >= len(prompts):
            raise PromptError(f"{indices}, line {number}: {line!r} must be an integer from 0 to {len(prompts) - 1}")
        chosen.append((int(line), prompts[int(line)]))
    return chosen


def _lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines with content, with their line numbers."""
    stripped = [(number, line.strip()) for number, line in enumerate(text_lines(path), start=1)]
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def text_lines(path: Path) -> list[str]:
    """Read all lines of a UTF-8 text file, without line ends and without a leading byte order mark.

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
