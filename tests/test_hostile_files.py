"""Files from elsewhere: nothing in them is executed, opened or trusted, and each refusal is one line."""

import ast
import os
import pickle
import socket
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from difftrack import arrays
from difftrack.annotation import AnnotationError, CoTracker3Params, import_published
from difftrack.annotation._cotracker import load_cotracker3
from difftrack.annotation._grids import mask_from_file
from difftrack.arrays import read_array, read_arrays
from difftrack.datasets import Clip, DatasetError, load_tapvid_pickle, load_videos, read_clip, read_tracks, write_clip
from difftrack.datasets._pickles import index_pickle
from difftrack.media import MAX_PIXELS, MediaError, _limits, jpeg_decode, read_image, read_video, write_video
from difftrack.tracking import read_predictions

ROOT = Path(__file__).parents[1]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\n%%EndComments\nshowpage\n%%EOF\n"


def one_line(error: pytest.ExceptionInfo[BaseException]) -> bool:
    return "\n" not in str(error.value)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for Ghostscript, first on PATH; it creates the returned file when it is called."""
    folder, marker = tmp_path / "bin", tmp_path / "ghostscript-was-called"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return marker


def a_clip(root: Path) -> Clip:
    clip = Clip(
        name="a",
        frames=np.zeros((3, 5, 7, 3), np.uint8),
        fps=8.0,
        prompt="",
        source="folder",
        object_mask=np.ones((5, 7), bool),
    )
    write_clip(root, clip)
    return clip


def from_pickle(folder: Path) -> object:
    entry = {"video": [EPS, EPS], "points": np.full((1, 2, 2), 0.5, np.float32), "occluded": np.zeros((1, 2), bool)}
    (folder / "a.pkl").write_bytes(pickle.dumps({"a": entry}))
    return list(load_tapvid_pickle(folder / "a.pkl"))


def from_image_folder(folder: Path) -> object:
    for number in range(2):
        (folder / f"{number}.png").write_bytes(EPS)
    return list(load_videos(folder))


def from_clip_mask(folder: Path) -> object:
    a_clip(folder)
    (folder / "a" / "object_mask.png").write_bytes(EPS)
    return read_clip(folder, "a")


def from_mask_file(folder: Path) -> object:
    (folder / "mask.png").write_bytes(EPS)
    return mask_from_file(folder / "mask.png", height=5, width=7)


def from_first_frame(folder: Path) -> object:
    (folder / "000.png").write_bytes(EPS)
    return read_image(folder / "000.png")


def from_video_file(folder: Path) -> object:
    (folder / "a.mp4").write_bytes(EPS)
    return read_video(folder / "a.mp4")


@pytest.mark.parametrize(
    "read", [from_pickle, from_image_folder, from_clip_mask, from_mask_file, from_first_frame, from_video_file]
)
def test_postscript_in_place_of_a_picture_reaches_no_program(
    read: Callable[[Path], object], tmp_path: Path, ghostscript: Path
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"not a readable image|not a readable video|not a video file that") as error:
        read(tmp_path / "data")
    assert one_line(error)
    assert not ghostscript.exists()


NEEDED = {"Image.open": "formats", "torch.load": "weights_only", "torch.hub.load_state_dict_from_url": "weights_only"}
"""Calls that decode files, and the keyword without which they accept any content."""
REFUSED = frozenset({"yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "eval", "exec", "cv2.imread"})


def test_every_decoder_of_the_project_is_told_what_it_may_take() -> None:
    folders = (ROOT / "difftrack", ROOT / "stages", ROOT / "data" / "backbones")
    for path in [*(path for folder in folders for path in sorted(folder.rglob("*.py")))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name, place = ast.unparse(node.func), f"{path}:{node.lineno}"
                assert name not in REFUSED, f"{place}: {name} runs or decodes what a file says"
                assert name != "np.load" or path.name == "arrays.py", f"{place}: np.load has no bounds"
                if name in NEEDED:
                    assert NEEDED[name] in {word.arg for word in node.keywords}, (
                        f"{place}: {name} without {NEEDED[name]}"
                    )


# playlists, scripts and things that are not files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile '{secret}'\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"),
    ],
    ids=["concat", "hls", "sdp"],
)
def test_a_playlist_opens_neither_other_files_nor_addresses(name: str, text: str, tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", np.zeros((2, 16, 16, 3), np.uint8), 5.0, lossless=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / name).write_text(text.format(secret="secret.mp4", port=port))
    with pytest.raises(MediaError, match=r"streams are not opened|not a readable video") as error:
        read_video(tmp_path / name)
    assert one_line(error)


def test_a_video_whose_name_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "secret.mp4", np.zeros((2, 16, 16, 3), np.uint8), 5.0, lossless=True)
    with pytest.raises(MediaError, match="the file does not exist"):
        read_video(Path("concat:secret.mp4|secret.mp4"))
    (tmp_path / "secret.mp4").rename(tmp_path / "dog: at noon.mp4")
    assert len(read_video(Path("dog: at noon.mp4")).frames) == 2


def test_a_pipe_or_device_in_place_of_a_file_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    readers: list[Callable[[Path], object]] = [read_image, read_video, read_array, read_arrays]
    for read in [*readers, lambda path: list(load_tapvid_pickle(path))]:
        for name in ("pipe", "endless"):
            with pytest.raises(ValueError, match=r"(no|not a) regular file"):
                read(tmp_path / name)


# sizes


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return pack(">I", len(body)) + kind + body + pack(">I", zlib.crc32(kind + body))

    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8209, 12_007, 65_003])
def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_claiming(side, side))
    started = time.process_time()
    for read in (lambda: read_image(tmp_path / "a.png"), lambda: jpeg_decode(png_claiming(side, side))):
        with pytest.raises(MediaError, match=rf"declares {side}x{side} pixels|decompression bomb") as error:
            read()
        assert one_line(error)
    assert time.process_time() - started < 0.2


def test_a_picture_of_the_largest_size_is_not_refused() -> None:
    assert MAX_PIXELS >= 2 * 7680 * 4320


def test_a_video_that_claims_too_many_pixels_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((3, 16, 22, 3), np.uint8), 5.0, lossless=True)
    monkeypatch.setattr(_limits, "MAX_PIXELS", 16 * 22 - 1)
    with pytest.raises(MediaError, match=r"a\.mp4: declares 22x16 pixels"):
        read_video(tmp_path / "a.mp4")


def test_frames_that_this_machine_cannot_hold_are_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.zeros((5, 16, 22, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 5.0, lossless=True)
    (tmp_path / "folder").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "folder" / f"{number}.png")
    monkeypatch.setattr(_limits, "most_bytes", lambda: frames[:3].nbytes)
    for path in (tmp_path / "a.mp4", tmp_path / "folder"):
        with pytest.raises(MediaError, match=r"frames of 22x16 need more than half .* take fewer frames") as error:
            read_video(path)
        assert one_line(error)
        assert len(read_video(path, max_frames=3).frames) == 3


def bomb(path: Path, shape: tuple[int, ...], content: bytes) -> Path:
    """An npz file whose one array claims a given shape."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", b"\x93NUMPY\x01\x00" + pack("<H", len(header)) + header + content)
    return path


def test_an_array_that_claims_more_than_its_file_has_is_refused_before_memory_is_set_aside(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.npz", (10**6, 10**6, 2), bytes(64))
    with pytest.raises(ValueError, match=r"declares 16000000000000 bytes"):
        read_arrays(path)
    with zipfile.ZipFile(path) as archive:
        (tmp_path / "a.npy").write_bytes(archive.read("points.npy"))
    with pytest.raises(ValueError, match=r"declares 16000000000000 bytes"):
        read_array(tmp_path / "a.npy")


def test_an_archive_that_unpacks_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", points=np.zeros((1009, 103, 2)))
    np.savez(tmp_path / "plain.npz", points=np.zeros((1009, 103, 2)))
    monkeypatch.setattr(arrays, "MAX_UNPACKED_BYTES", 10**6)
    with pytest.raises(ValueError, match=r"unpacks to 16\d+ bytes; at most 1000000 are read"):
        read_arrays(tmp_path / "bomb.npz")
    assert read_arrays(tmp_path / "plain.npz")["points"].shape == (1009, 103, 2)  # limited by its own size


@pytest.mark.parametrize("damage", ["empty", "cut", "deflate", "encrypted", "objects", "text"])
def test_damaged_archives_end_in_one_line_at_every_reader(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, points=np.arange(6000.0).reshape(10, 300, 2), size=np.asarray([5, 7]))
    data = bytearray(path.read_bytes())
    match damage:
        case "empty":
            data = bytearray()
        case "cut":
            del data[len(data) // 2 :]
        case "deflate":
            data[200:260] = bytes(60)
        case "encrypted":
            data[data.index(b"PK\x01\x02") + 8] |= 1
        case "objects":
            np.savez(path, allow_pickle=True, points=np.array([{}], dtype=object))
            data = bytearray(path.read_bytes())
        case "text":
            data = bytearray(b"not an archive")
    path.write_bytes(data)
    write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 5.0, lossless=True)
    for folder in ("tracks", "visibility"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.npy").write_bytes(data)
    readers: list[Callable[[], object]] = [
        lambda: read_tracks(tmp_path, "a"),
        lambda: read_predictions(path),
        lambda: list(load_videos(tmp_path / "a.mp4")),
        lambda: import_published(tmp_path, "a"),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=r"a\.npz|a\.npy") as error:
            read()
        assert one_line(error)


# pickles


def refused(tmp_path: Path, body: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + body)
    with pytest.raises(DatasetError, match=message) as error:
        list(load_tapvid_pickle(tmp_path / "a.pkl"))
    assert one_line(error)


def test_a_run_of_bytes_longer_than_its_file_is_refused_before_memory_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04}\x8c\x01a\x8e" + pack("<Q", 2**40) + b"x")
    assert "1099511627776 bytes are declared, but only 1 are left" in str(index_pickle(tmp_path / "a.pkl").cut)


def test_lists_that_unfold_to_more_than_their_file_are_refused_and_not_unfolded(tmp_path: Path) -> None:
    """Ten references to ten references, nine levels deep: a thousand million numbers from 200 bytes."""
    nested: Any = [0.5] * 10
    for _ in range(8):
        nested = [nested] * 10
    body = pickle.dumps({"a": {"video": [], "points": nested, "occluded": []}}, protocol=4)[2:]
    refused(tmp_path, body, r"a: nested lists expand to 1000000000 elements")


def test_nesting_of_any_depth_ends_in_one_line(tmp_path: Path) -> None:
    depth = 5_000
    refused(
        tmp_path,
        b"}\x8c\x01a}(\x8c\x06points" + b"]" * depth + b"a" * (depth - 1) + b"us.",
        "nested|not a TAP-Vid clip",
    )
    code = (
        "import sys; from pathlib import Path; from difftrack.datasets import DatasetError, load_tapvid_pickle\n"
        "try: list(load_tapvid_pickle(Path(sys.argv[1])))\n"
        "except DatasetError as error: print(error)"
    )
    (tmp_path / "b.pkl").write_bytes(b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"Ns.")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.pkl")], capture_output=True, text=True)
    assert done.returncode == 0  # hashing such a key overflows the interpreter's stack, which no `except` catches
    assert "has a tuple as a key" in done.stdout


def test_a_pickle_changed_anywhere_ends_in_a_dataset_error_or_not_at_all(tmp_path: Path) -> None:
    small = {"a": {"video": np.zeros((3, 2, 5, 3), np.uint8), "points": np.full((1, 3, 2), 0.5), "occluded": [[0] * 3]}}
    data = pickle.dumps(small, protocol=4)
    rng = np.random.default_rng(0)
    path = tmp_path / "a.pkl"
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(2, len(data), rng.integers(1, 4)):
            changed[place] = rng.choice(np.frombuffer(b"]}).(aebstuR\x85\x86\x94\x93K\x00\xff", np.uint8))
        path.write_bytes(changed)
        try:
            list(load_tapvid_pickle(path))
        except DatasetError:
            continue


# code beside weights


def test_weights_that_hub_code_fetches_are_read_as_tensors_only(tmp_path: Path) -> None:
    """The published hubconf calls `load_state_dict_from_url` without `weights_only`, whose default runs pickles."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Payload()}, tmp_path / "weights.pth")
    (tmp_path / "hubconf.py").write_text(
        "import torch\n\n"
        "def cotracker3_offline(*, pretrained=True, **kwargs):\n"
        f"    url = {(tmp_path / 'weights.pth').as_uri()!r}\n"
        f"    return torch.hub.load_state_dict_from_url(url, model_dir={str(tmp_path / 'cache')!r}, progress=False)\n"
    )
    load_cotracker3.cache_clear()
    with pytest.raises(AnnotationError, match="cannot be loaded"):
        load_cotracker3(CoTracker3Params(checkout=tmp_path, device="cpu"))
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.parametrize("repository", ["owner/name", "owner/name:main", "owner/name:82e02e8", "owner/name:v1.0"])
def test_code_that_is_fetched_and_run_is_pinned_to_a_commit(repository: str) -> None:
    with pytest.raises(ValueError, match="all 40 digits of the commit"):
        CoTracker3Params(repository=repository)
