"""Small files are read within bounds: what is no regular file, too large, too deep or too much is one line."""

import io
import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difftrack.datasets import DatasetError, read_clip_kind, read_tracks
from difftrack.documents import DocumentError, open_npz, open_regular, read_bounded, read_json, read_yaml
from difftrack.guidance import read_ranking
from difftrack.tracking import read_predictions
from stages._run import read_params

pytestmark = pytest.mark.timeout(10)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""9^9 values in 400 bytes."""


def test_what_is_whole_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"layers": [3, 1]}')
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: *a\nc: 2026-11-30\n")
    np.savez(tmp_path / "a.npz", points=np.arange(6.0).reshape(2, 3), name=np.asarray("x"))
    (tmp_path / "link").symlink_to(tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "link") == {"layers": [3, 1]}
    assert read_yaml(tmp_path / "a.yaml")["b"] == [1, 2]
    with open_npz(tmp_path / "a.npz") as arrays:
        assert arrays["points"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_bounded(tmp_path / "a.json", max_bytes=18) == b'{"layers": [3, 1]}'
    with pytest.raises(DocumentError, match="has 18 bytes; at most 17 are read"):
        read_bounded(tmp_path / "a.json", max_bytes=17)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
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
            lambda path: open_npz(path).__enter__(),
            lambda path: open_regular(path).__enter__(),
        ):
            with pytest.raises(DocumentError, match=message):
                read(tmp_path / name)


def test_yaml_that_stands_for_too_much_holds_itself_or_is_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for content, message in {
        BOMB: r"stands for 4\.9e\+08 values with its aliases; 100000 are allowed",
        "a: &a [*a]": "holds itself",
        "[" * 20_000: "nested too deeply",
        "a: [": "is not valid YAML",
        "a: 2026-99-99": "is not valid YAML",
        "? [1]\n: 2": "is not valid YAML",
        "x: " + "1" * (1 << 20): "bytes; at most",
        "- 1": "holds list; a mapping of sections is wanted",
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


def npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def array(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return file.getvalue() + content


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 100, b"PK\5\6" + bytes(18)])
def test_an_npz_that_is_none_is_refused_by_every_reader(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"clip\.npz: holds no usable tracks"):
        read_tracks(tmp_path, "clip")
    with pytest.raises(ValueError, match=r"clip\.npz"):
        read_predictions(tmp_path / "clip.npz")


def test_an_npz_that_claims_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    npz(tmp_path / "clip.npz", points_xy_px=array((10**6, 10**6)), size=array((2,), bytes(16)))
    with pytest.raises(DatasetError, match=r"points_xy_px\.npy says that it holds 8000000000000 bytes, and holds 128"):
        read_tracks(tmp_path, "clip")
    np.savez(tmp_path / "pickled.npz", query_points=np.asarray([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"allow_pickle=False|Object arrays"):
        read_predictions(tmp_path / "pickled.npz")


LIMITED = """
import resource, sys
from pathlib import Path
from difftrack.documents import DocumentError, open_npz, read_json
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for read in (read_json, lambda path: open_npz(path).__enter__()):
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
@given(content=st.binary(max_size=200), at=st.integers(0, 10**4), with_head=st.booleans())
def test_any_bytes_are_read_or_are_a_value_error(tmp_path: Path, content: bytes, at: int, with_head: bool) -> None:
    np.savez(tmp_path / "sound.npz", query_points=np.zeros((3, 3)), points_xy_px=np.zeros((2, 3, 2)))
    sound = (tmp_path / "sound.npz").read_bytes()
    if with_head:
        content = sound[: at % len(sound)] + content + sound[at % len(sound) + len(content) :]
    for name, read in (("a.json", read_json), ("a.yaml", read_yaml), ("a.npz", read_predictions)):
        (tmp_path / name).write_bytes(content)
        with suppress(ValueError):
            read(tmp_path / name)
