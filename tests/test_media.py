"""Video and image files: what goes in comes out, and what is broken is named."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from difftrack.media import (
    MediaError,
    jpeg_decode,
    natural_order,
    read_image,
    read_video,
    resize_frames,
    write_image,
    write_video,
)

TURNED_CLOCKWISE = (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
"""The display matrix that a phone held upright writes into an mp4."""


def noise(num_frames: int = 7, height: int = 29, width: int = 43) -> Any:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def test_lossless_video_of_odd_size_comes_back_bit_exact(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, 23.976, lossless=True)
    video = read_video(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == pytest.approx(23.976, abs=1e-4)


def test_lossless_video_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first.mp4", "second.mp4"):
        write_video(tmp_path / name, noise(), 8.0, lossless=True)
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


def test_a_single_frame_is_a_video(tmp_path: Path) -> None:
    write_video(tmp_path / "still.mp4", noise(num_frames=1), 5.0, lossless=True)
    assert read_video(tmp_path / "still.mp4").frames.shape == (1, 29, 43, 3)


def test_lossy_video_is_padded_to_even_sizes_that_browsers_play(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 43).astype(np.uint8)[:, None], (5, 29, 43, 3)).copy()
    write_video(tmp_path / "show.mp4", smooth, 8.0, lossless=False)
    with av.open(tmp_path / "show.mp4") as container:
        assert container.streams.video[0].format.name == "yuv420p"
    shown = read_video(tmp_path / "show.mp4").frames
    assert shown.shape == (5, 30, 44, 3)
    assert np.abs(shown[:, :29, :43].astype(int) - smooth).mean() < 3


def test_start_and_max_frames_cut_the_middle_out(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, 8.0, lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4", start=2, max_frames=3).frames, frames[2:5])


def test_a_start_behind_the_end_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), 8.0, lossless=True)
    with pytest.raises(MediaError, match=r"clip\.mp4: no frames from frame 7 on"):
        read_video(tmp_path / "clip.mp4", start=7)
    with pytest.raises(MediaError, match="start=-1"):
        read_video(tmp_path / "clip.mp4", start=-1)


def test_a_rotation_flag_turns_the_frames_upright(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, 8.0, lossless=True)
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44  # version 0: 4 name, 4 flags, 20 times and ids, 16 layer and volume
    data[matrix : matrix + 36] = np.asarray(TURNED_CLOCKWISE, dtype=">i4").tobytes()
    (tmp_path / "phone.mp4").write_bytes(data)
    np.testing.assert_array_equal(read_video(tmp_path / "phone.mp4").frames, np.rot90(frames, k=-1, axes=(1, 2)))


def test_a_variable_frame_rate_keeps_every_stored_frame_once(tmp_path: Path) -> None:
    frames = noise(num_frames=5)
    with av.open(tmp_path / "vfr.mp4", "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 29, 43, "rgb24"
        for frame, tick in zip(frames, (0, 1, 2, 12, 19), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    video = read_video(tmp_path / "vfr.mp4")
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == pytest.approx(2.5)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_mp4_is_named_wherever_it_was_cut(tmp_path: Path, share: float) -> None:
    write_video(tmp_path / "whole.mp4", noise(), 8.0, lossless=True)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"cut\.mp4: .*cut short"):
        read_video(tmp_path / "cut.mp4")


def test_an_mp4_cut_between_two_frames_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", noise(), 8.0, lossless=True)
    with av.open(tmp_path / "whole.mp4") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        end = (packets[3].pos or 0) + packets[3].size
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:end])
    with pytest.raises(MediaError, match=r"cut\.mp4: its index reaches .* cut short"):
        read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4: is no video"):
        read_video(tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match=r"absent\.mp4: there is no such file"):
        read_video(tmp_path / "absent.mp4")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="fps is 0"):
        write_video(tmp_path / "clip.mp4", noise(), 0.0, lossless=True)
    with pytest.raises(MediaError, match="cannot be written"):
        write_video(tmp_path / "absent" / "clip.mp4", noise(), 8.0, lossless=True)
    with pytest.raises(MediaError, match="hold no picture"):
        write_video(tmp_path / "clip.mp4", noise(num_frames=0), 8.0, lossless=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_images_is_read_in_natural_order(tmp_path: Path) -> None:
    frames = noise(num_frames=11)
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"f{index}.png", frame)
    (tmp_path / "notes.txt").write_text("not a frame")
    video = read_video(tmp_path)
    np.testing.assert_array_equal(video.frames, frames)
    assert video.fps == 24.0


def test_natural_order_compares_digits_as_numbers() -> None:
    names = ["b1", "a10", "a2", "7", "a02"]
    assert [path.name for path in natural_order(Path(name) for name in names)] == ["7", "a02", "a2", "a10", "b1"]


def test_images_of_two_sizes_are_no_video(tmp_path: Path) -> None:
    write_image(tmp_path / "f1.png", noise()[0])
    write_image(tmp_path / "f2.png", noise(width=41)[0])
    with pytest.raises(MediaError, match="frame 1 is 41x29, the first one 43x29"):
        read_video(tmp_path)


def test_an_empty_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"):
        read_video(tmp_path)


def test_exif_orientation_is_honoured_and_alpha_dropped(tmp_path: Path) -> None:
    image = noise()[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; shown after a quarter turn clockwise
    Image.fromarray(image).save(tmp_path / "phone.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "phone.png"), np.rot90(image, k=-1))
    Image.fromarray(np.dstack([image, image[..., 0]])).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), image)


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((5, 7), 40_000, dtype=np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(MediaError, match=r"depth\.png: .*deeper than 8 bits"):
        read_image(tmp_path / "depth.png")


def test_a_jpeg_is_decoded_from_bytes_and_a_cut_one_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((31, 47, 3), (10, 130, 250), dtype=np.uint8)).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    assert np.abs(jpeg_decode(data).astype(int) - (10, 130, 250)).max() <= 3
    for broken in (data[: len(data) // 2], b"", b"text"):
        with pytest.raises(MediaError, match=f"a picture of {len(broken)} bytes"):
            jpeg_decode(broken)


def test_shrinking_averages_a_fine_checkerboard_to_grey() -> None:
    board = np.indices((1, 60, 84)).sum(0) % 2 * 255
    frames = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    small = resize_frames(frames, 10, 14)
    assert small.shape == (1, 10, 14, 3)
    assert np.abs(small.astype(int) - 127).max() <= 12


def test_resizing_to_the_same_size_changes_nothing() -> None:
    frames = noise()
    assert resize_frames(frames, 29, 43) is frames
