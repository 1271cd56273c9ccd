"""What `difftrack params` and docs/params.md say of params.yaml."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import cli
from stages._reference import Entry, entries, page

TOP = Path(__file__).parents[1]


@dataclass
class Inner:
    depth: int | None = None
    """How deep."""


@dataclass
class Base:
    names: tuple[str, ...] = ("a", "b")
    """Who,
    and where."""


@dataclass
class Section(Base):
    """A section."""

    size: float = 0.5
    """Pixels."""
    inner: Inner | None = None
    """What is inside."""


def test_keys_say_type_default_and_what_stands_under_them_in_the_class_inherited_and_nested_ones_too() -> None:
    assert list(entries("own", Section)) == [
        Entry("own.names", "a list of a string", "[a, b]", "Who, and where."),
        Entry("own.size", "a number", "0.5", "Pixels."),
        Entry("own.inner", "a mapping or null", "null", "What is inside."),
        Entry("own.inner.depth", "an integer or null", "null", "How deep."),
    ]


def test_the_page_is_the_one_in_docs() -> None:
    assert (TOP / "docs" / "params.md").read_text() == page()


def test_every_key_has_a_meaning() -> None:
    assert not [line for line in page().splitlines() if line.endswith("|  |")]


def test_every_key_of_the_shipped_params_is_on_the_page() -> None:
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    text = page()
    for section in set(params) - {"paths", "backbones"}:
        (table,) = re.findall(rf"^## {section}\n(.*?)(?:^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
        known = set(re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE))
        known |= {key.rpartition(".")[0] for key in known} | {key.partition(".")[0] for key in known}
        given = set(params[section])
        given |= {f"{key}.{own}" for key, value in params[section].items() if isinstance(value, dict) for own in value}
        assert {key for key in given if not key[-1].isdecimal()} <= known


def test_where_the_conventions_differ_both_values_are_there() -> None:
    assert "| `matching.window_radius` | an integer | `1 (0)` |" in page()
    assert "| `matching.second_softmax` | true or false | `false (true)` |" in page()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("track.heads", ["track.heads  [all or a list of an integer or a mapping; default: all]"]),
        ("extract.store", ["extract.store.dtype  [", "extract.store.chunk_bytes  [an integer; default: 1048576]"]),
        ("guide.backbone", ["guide.backbone  [a string; must be given]"]),
    ],
)
def test_the_command_line_answers_for_one_key_or_a_section(
    key: str, said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert CliRunner().invoke(cli.app, ["params", key]).exit_code == 0
    out = capfd.readouterr().out
    assert all(line in out for line in said)
    assert all(line.startswith((key, " ")) for line in out.splitlines())


def test_an_unknown_key_is_answered_with_those_that_end_like_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages._reference", "tracking.heads"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no key tracking.heads; there is extract.analysis.heads, extract.tracking.heads" in done.stderr
