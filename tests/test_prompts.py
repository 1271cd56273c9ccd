"""Prompt files are read line by line, with their comments and blank lines."""

from pathlib import Path

import pytest

from difftrack.prompts import PromptError, read_prompts


def test_blank_lines_and_comments_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff# colours\n\na red star\n   \n  a blue círculo  \n# end\n", encoding="utf-8")
    assert read_prompts(file) == [(0, "a red star"), (1, "a blue círculo")]


def test_an_index_file_chooses_and_orders(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    (tmp_path / "indices.txt").write_text("2\n0\n")
    assert read_prompts(tmp_path / "prompts.txt", indices=tmp_path / "indices.txt") == [(2, "c"), (0, "a")]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a\nb\xff\n", "line 2, is not UTF-8"), (b"# only\n\n", "contains no prompt")],
)
def test_an_unusable_file_is_named_with_its_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(PromptError, match=words):
        read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize("index", ["3", "-1", "one"])
def test_an_index_without_a_prompt_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    (tmp_path / "indices.txt").write_text(f"0\n{index}\n")
    with pytest.raises(PromptError, match=f"line 2: '{index}' must be an integer from 0 to 2"):
        read_prompts(tmp_path / "prompts.txt", indices=tmp_path / "indices.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"nowhere\.txt cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    """Python's splitlines would also end a prompt at a form feed, U+0085 and U+2028."""
    content = "a\u2028red star\r\n\r\n# no prompt\rb\x0cc\x85d\n\x1ee"
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read_prompts(tmp_path / "prompts.txt") == [(0, "a\u2028red star"), (1, "b\x0cc\x85d"), (2, "e")]
