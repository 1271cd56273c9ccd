"""The mechanical part of plain English: words and openings that read as translated."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

OPENING = re.compile(r"\s*Of\b")
"""A docstring opens with a verb or a noun phrase, never with "Of"."""

PERSONS = re.compile(r"(?:\b|_)(?:nobody|whoever|somebody|anybody)(?:\b|_)", re.IGNORECASE)
"""A component has a name; it is not a person."""


def test_no_docstring_begins_with_of() -> None:
    others = [file for folder in ("benchmarks", "examples", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
    found = {
        room: [place for file in files for place in openings(file)]
        for room, files in {**rooms(), "beside the rooms": [ROOT / "cli.py", *others]}.items()
    }
    assert {room: places for room, places in found.items() if places} == {}


def test_components_are_not_spoken_of_as_persons() -> None:
    found = {room: [place for file in files for place in persons(file)] for room, files in rooms().items()}
    found["docs"] = [place for page in sorted((ROOT / "docs").rglob("*.md")) for place in persons(page)]
    found["benchmarks"] = [place for file in sorted((ROOT / "benchmarks").glob("*.py")) for place in persons(file)]
    cards = (ROOT / "data/backbones").rglob("*.[mp][dy]")
    found["pages"] = [place for page in sorted([*ROOT.glob("*.md"), *cards]) for place in persons(page)]
    assert {room: places for room, places in found.items() if places} == {}


def test_both_rules_find_what_breaks_them(tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text(
        '"""Of a room."""\n\n\nclass A:\n    b = 1\n    """Of A, for whoever asks."""\n\n\ndef as_nobody_asks(): ...\n'
    )
    good.write_text('"""Offer one of several rooms."""\n\nb = "Of"\n')
    assert [place.rpartition(":")[2] for place in openings(bad)] == ["1", "6"]
    assert [place.rpartition(":")[2] for place in persons(bad)] == ["6", "9"]
    assert openings(good) == persons(good) == []


def rooms() -> dict[str, list[Path]]:
    """Python files and stubs of each room, and of stages/."""
    files: dict[str, list[Path]] = {}
    for file in sorted([*(ROOT / "difftrack").rglob("*.py*"), *(ROOT / "stages").rglob("*.py")]):
        if file.suffix in (".py", ".pyi"):
            folder, room, *_ = file.relative_to(ROOT).parts
            files.setdefault(Path(room).stem if folder == "difftrack" else folder, []).append(file)
    return files


def openings(file: Path) -> list[str]:
    """Find docstrings, of attributes too, that begin with "Of"."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    lines = sorted(string.lineno for string in strings if OPENING.match(str(string.value)))
    return [f"{_name(file)}:{line}" for line in lines]


def persons(file: Path) -> list[str]:
    lines = enumerate(file.read_text().splitlines(), 1)
    return [f"{_name(file)}:{number}" for number, line in lines if PERSONS.search(line)]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)
