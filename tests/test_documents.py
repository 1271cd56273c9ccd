"""Small files are read within bounds; irregular, too large and too deep ones are refused in one line."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difftrack.datasets import DatasetError, read_clip_kind
from difftrack.documents import DocumentError, open_regular, parse_yaml, read_bounded, read_json, read_yaml
from difftrack.guidance import read_ranking
from difftrack.pipeline._stage import read_params

pytestmark = pytest.mark.timeout(10)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A file of 400 bytes that expands to 9^9 values."""


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"layers": [3, 1]}')
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: *a\nc: 2026-11-30\n")
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "link") == {"layers": [3, 1]}
    assert read_yaml(tmp_path / "a.yaml")["b"] == [1, 2]
    assert read_bounded(tmp_path / "a.json", max_bytes=18) == b'{"layers": [3, 1]}'
    with pytest.raises(DocumentError, match="has 18 bytes; at most 17 are read"):
        read_bounded(tmp_path / "a.json", max_bytes=17)
    with pytest.raises(FileNotFoundError, match="the file does not exist"):
        read_json(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "a.json/none")


@pytest.mark.skipif(sys.platform == "win32", reason="files of Unix")
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    kinds = {"fifo": "is a FIFO", "zero": "is a device", "loop": "cannot be read: Too many levels", ".": "is a folder"}
    for name, message in kinds.items():
        for read in (
            read_json,
            read_yaml,
            lambda path: open_regular(path).__enter__(),
        ):
            with pytest.raises(DocumentError, match=message):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "a: !!python/tuple [1]"]
)
def test_yaml_makes_no_objects(text: str) -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="could not determine a constructor"):
        parse_yaml(text)
    assert parse_yaml("a: 1e-3\nb: '1e-3'\nc: 1e3x") == {"a": 0.001, "b": "1e-3", "c": "1e3x"}


def test_yaml_that_stands_for_too_much_holds_itself_or_is_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for content, message in {
        BOMB: r"expands to 4\.9e\+08 values with its aliases; at most 100000 are read",
        "a: &a [*a]": "refers to itself",
        "[" * 20_000: "nested too deeply",
        "a: [": "is not valid YAML",
        "a: 2026-99-99": "is not valid YAML",
        "? [1]\n: 2": "is not valid YAML",
        "x: " + "1" * (1 << 20): "bytes; at most",
        "- 1": "contains list; expected a mapping of sections",
    }.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_params(path)
        assert "\n" not in str(caught.value)


def test_every_reader_of_json_refuses_what_is_deep(tmp_path: Path) -> None:
    deep = "[" * 200_000
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/clip.json").write_text(deep)
    with pytest.raises(DatasetError, match="nested too deeply"):
        read_clip_kind(tmp_path, "clip")
    (tmp_path / "best_layers.json").write_text(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_ranking(tmp_path / "best_layers.json")


LIMITED = """
import resource, sys
from pathlib import Path
from difftrack.documents import DocumentError, read_json, read_yaml
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for read in (read_json, read_yaml):
    try:
        read(Path(sys.argv[1]))
    except DocumentError as error:
        print(error)
"""


def test_a_terabyte_of_nothing_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert len(done.stdout.splitlines()) == 2


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200) | st.text("[]{}&*a:, \n-1", max_size=50).map(str.encode))
def test_any_bytes_are_read_or_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    for name, read in (("a.json", read_json), ("a.yaml", read_yaml)):
        (tmp_path / name).write_bytes(content)
        with suppress(DocumentError):
            read(tmp_path / name)
