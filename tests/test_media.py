"""Video and image files are read as they were written, and broken ones are named."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from difftrack.media import (
    FrameRange,
    MediaError,
    jpeg_decode,
    list_folder,
    natural_order,
    open_video,
    read_image,
    read_video,
    resize_frames,
    write_frames,
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
    with pytest.raises(MediaError, match=r"clip\.mp4: contains no frames from frame 7 on"):
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


ONE = 1 << 16
SHOWN = {
    "as it is": ((ONE, 0, 0, ONE), lambda frame: frame),
    "mirrored": ((-ONE, 0, 0, ONE), lambda frame: frame[:, ::-1]),
    "upside down": ((-ONE, 0, 0, -ONE), lambda frame: frame[::-1, ::-1]),
    "upside down and mirrored": ((ONE, 0, 0, -ONE), lambda frame: frame[::-1]),
    "clockwise": ((0, ONE, -ONE, 0), lambda frame: np.rot90(frame, k=-1)),
    "counter-clockwise": ((0, -ONE, ONE, 0), lambda frame: np.rot90(frame)),
    "clockwise and mirrored": ((0, ONE, ONE, 0), lambda frame: np.rot90(frame, k=-1)[:, ::-1]),
    "counter-clockwise and mirrored": ((0, -ONE, -ONE, 0), lambda frame: np.rot90(frame)[:, ::-1]),
}
"""Display matrices a, b, c, d: the pixel (x, y) is shown at (a x + c y, b x + d y). One corner of a frame is marked."""


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = np.asarray([a, b, 0, c, d, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("way", SHOWN)
def test_each_of_the_eight_ways_to_lie_is_shown_upright(tmp_path: Path, way: str) -> None:
    matrix, shown = SHOWN[way]
    stored = np.full((2, 29, 43, 3), 40, dtype=np.uint8)
    stored[:, :5, :11] = (250, 10, 130)  # the top left corner
    write_video(tmp_path / "clip.mp4", stored, 8.0, lossless=True)
    with_matrix(tmp_path / "clip.mp4", *matrix)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4").frames, [shown(frame) for frame in stored])


def test_a_matrix_of_zeros_turns_nothing_as_in_ffmpeg(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, 8.0, lossless=True)
    with_matrix(tmp_path / "clip.mp4", 0, 0, 0, 0)
    np.testing.assert_array_equal(read_video(tmp_path / "clip.mp4").frames, frames)


def test_a_turn_that_is_no_quarter_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), 8.0, lossless=True)
    with_matrix(tmp_path / "clip.mp4", 46341, 46341, -46341, 46341)
    with pytest.raises(MediaError, match=r"clip\.mp4: is rotated by 45 degrees; only multiples of 90"):
        read_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("cover", [False, True])
def test_the_best_of_several_streams_is_read_and_never_a_cover_picture(tmp_path: Path, cover: bool) -> None:
    """As FFmpeg chooses: a still picture that is larger than the film comes first."""
    film, still = noise(num_frames=5), noise(num_frames=1, height=58, width=86)
    with av.open(tmp_path / "two.mkv", "w") as container:
        streams = []
        for frames in (still, film):
            stream = container.add_stream("libx264rgb", rate=8, options={"crf": "0", "g": "1"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
            streams.append(stream)
        if cover:
            streams[0].disposition = av.stream.Disposition.attached_pic
        for stream, frames in zip(streams, (still, film), strict=True):
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    np.testing.assert_array_equal(read_video(tmp_path / "two.mkv").frames, film)


@pytest.mark.parametrize(
    ("sizes", "counts", "default", "best"),
    [
        (((30, 44), (58, 86)), (6, 7), None, 1),  # a preview before the film
        (((58, 86), (30, 44)), (6, 7), None, 0),
        (((58, 86), (30, 44)), (6, 7), 1, 1),  # the file names its default
        (((58, 86), (30, 44), (44, 66)), (1, 7, 7), None, 2),  # a still, and two films
    ],
)
def test_of_several_films_the_default_or_the_largest_is_read(
    tmp_path: Path, sizes: Any, counts: Any, default: int | None, best: int
) -> None:
    with av.open(tmp_path / "films.mkv", "w") as container:
        streams = []
        for height, width in sizes:
            stream = container.add_stream("ffv1", rate=8)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append(stream)
        if default is not None:
            streams[default].disposition = av.stream.Disposition.default
        for stream, count in zip(streams, counts, strict=True):
            for frame in noise(count, stream.height, stream.width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    opened = open_video(tmp_path / "films.mkv")
    assert (opened.height, opened.width, sum(1 for _ in opened)) == (*sizes[best], counts[best])


def hdr_video(path: Path, trc: int, codes: list[float]) -> None:
    """One grey frame for each share of full scale, 10 bits, limited range."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.colorspace = trc, 9
        for code in codes:
            frame = av.VideoFrame(48, 32, "yuv420p10le")
            for plane, value in zip(frame.planes, (64 + round(876 * code), 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, dtype=np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_hdr_is_tone_mapped_and_says_so(tmp_path: Path) -> None:
    """Expected grey levels, worked out from the standards.

    A tenth of reference white, 20.3 nits, is sRGB's 89. Both kinds agree on reference white, PQ's 0.58 and HLG's 0.75.
    1000 nits are PQ's 0.7518. HLG's 0.5 is a twelfth of the scene's peak: 1000 / 12^1.2 = 50.7 nits, a quarter of
    reference white: sRGB's 137.
    """
    for name, trc, codes, wanted in (
        ("PQ", 16, [0.0, 0.3583, 0.5807, 0.7518, 1.0], [0, 89, 229, 255, 255]),
        ("HLG", 18, [0.0, 0.5, 0.75, 1.0], [0, 137, 229, 255]),
    ):
        hdr_video(tmp_path / f"{name}.mp4", trc, codes)
        video = read_video(tmp_path / f"{name}.mp4")
        assert np.abs(video.frames.mean(axis=(1, 2, 3)) - wanted).max() <= 1.5
        assert video.notes == (f"HDR ({name}) was tone-mapped to 8 bits",)
    hdr_video(tmp_path / "sdr.mp4", 1, [0.5])
    sdr = read_video(tmp_path / "sdr.mp4")
    assert np.abs(sdr.frames.astype(int) - 128).max() <= 2
    assert sdr.notes == ()


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


@pytest.mark.parametrize(
    ("name", "codec", "ticks", "fps"),
    [
        ("vfr.mkv", "ffv1", (0, 1, 2, 12, 19), 2.5),
        ("vfr.webm", "libvpx-vp9", (0, 1, 2, 12, 19), 2.5),
        ("vfr.ts", "mpeg2video", (0, 1, 2, 12, 19), 2.5),
        ("steady.mkv", "ffv1", range(5), 10.0),
        ("steady.mpg", "mpeg2video", range(7), 25.0),
        ("one.mkv", "ffv1", (0,), 10.0),
    ],
)
def test_frames_are_counted_where_the_file_does_not_state_their_number(
    tmp_path: Path, name: str, codec: str, ticks: Any, fps: float
) -> None:
    """A nominal rate times a duration gave 20 frames for five, and one for the seven of an MPEG file."""
    rate = 25 if name.endswith("mpg") else 10
    with av.open(tmp_path / name, "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 30, 44, "yuv420p"
        for frame, tick in zip(noise(7, 30, 44), ticks, strict=False):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    opened = open_video(tmp_path / name)
    assert (opened.num_frames, sum(1 for _ in opened)) == (len(ticks), len(ticks))
    assert opened.fps == pytest.approx(fps, rel=0.02)
    if len(ticks) > 1:
        assert open_video(tmp_path / name, start=1, every=3).num_frames == -(-(len(ticks) - 1) // 3)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_mp4_is_named_wherever_it_was_cut(tmp_path: Path, share: float) -> None:
    write_video(tmp_path / "whole.mp4", noise(), 8.0, lossless=True)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"cut\.mp4: .*truncated"):
        read_video(tmp_path / "cut.mp4")


def test_an_mp4_cut_between_two_frames_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", noise(), 8.0, lossless=True)
    with av.open(tmp_path / "whole.mp4") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        end = (packets[3].pos or 0) + packets[3].size
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:end])
    with pytest.raises(MediaError, match=r"cut\.mp4: is truncated: its index refers to byte"):
        read_video(tmp_path / "cut.mp4")


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_what_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=r"clip\.mp4: is not a readable video"):
        read_video(tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match=r"absent\.mp4: the file does not exist"):
        read_video(tmp_path / "absent.mp4")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="fps is 0"):
        write_video(tmp_path / "clip.mp4", noise(), 0.0, lossless=True)
    with pytest.raises(MediaError, match="cannot write the file"):
        write_video(tmp_path / "absent" / "clip.mp4", noise(), 8.0, lossless=True)
    with pytest.raises(MediaError, match="the first frame is empty"):
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
    with pytest.raises(MediaError, match=r"f2\.png is 41x29, but the first image is 43x29"):
        open_video(tmp_path)
    assert open_video(tmp_path, max_frames=1).num_frames == 1


def test_a_folder_of_images_that_cannot_be_read_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    for name in ("f1.tif", "f2.tif"):
        Image.new("LAB", (43, 29)).save(tmp_path / name)
    with pytest.raises(MediaError, match=r"f1\.tif: pixels of mode LAB are not RGB, grey or CMYK"):
        open_video(tmp_path)


def test_an_empty_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no frames"):
        read_video(tmp_path)


def test_exif_orientation_is_honoured_and_alpha_dropped(tmp_path: Path) -> None:
    image = noise()[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated; shown after a quarter turn clockwise
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
        with pytest.raises(MediaError, match=f"an image of {len(broken)} bytes"):
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


# Streams


def test_every_so_many_frames_are_taken_from_a_start_on_and_the_rate_falls(tmp_path: Path) -> None:
    frames = noise(num_frames=23)
    write_video(tmp_path / "clip.mp4", frames, 30.0, lossless=True)
    stream = open_video(tmp_path / "clip.mp4", start=2, max_frames=4, every=5)
    assert (stream.num_frames, stream.height, stream.width, stream.fps) == (4, 29, 43, 6.0)
    for _ in range(2):  # any number of times
        np.testing.assert_array_equal(np.stack(list(stream)), frames[[2, 7, 12, 17]])
    assert open_video(tmp_path / "clip.mp4", start=2, every=5).num_frames == 5
    video = read_video(tmp_path / "clip.mp4", start=20, every=2)
    np.testing.assert_array_equal(video.frames, frames[[20, 22]])
    for index, frame in enumerate(frames):
        write_image(tmp_path / f"{index}.png", frame)
    (tmp_path / "clip.mp4").unlink()
    folder = open_video(tmp_path, start=2, max_frames=4, every=5)
    assert (folder.num_frames, folder.fps) == (4, 4.8)
    np.testing.assert_array_equal(np.stack(list(folder)), frames[[2, 7, 12, 17]])


@pytest.mark.parametrize(("choices", "count"), [((0, None, 1), 10), ((3, None, 4), 2), ((0, 7, 3), 4), ((9, 2, 9), 1)])
def test_a_range_knows_how_many_frames_it_takes(choices: Any, count: int) -> None:
    assert (
        FrameRange(*choices).count(10) == count == len(range(10)[choices[0] : FrameRange(*choices).stop : choices[2]])
    )


def test_a_stream_holds_one_frame_at_a_time(tmp_path: Path) -> None:
    """Frames of 1.2 MB: thirty of them would be 37 MB."""
    import tracemalloc

    write_frames(tmp_path / "clip.mp4", (np.full((501, 803, 3), i, np.uint8) for i in range(30)), 5.0, lossless=True)
    stream = open_video(tmp_path / "clip.mp4")
    tracemalloc.start()
    total = sum(int(frame[0, 0, 0]) for frame in stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == sum(range(30))
    assert peak < 6 * 501 * 803 * 3


def test_a_video_that_is_read_whole_is_held_once(tmp_path: Path) -> None:
    import tracemalloc

    write_frames(tmp_path / "clip.mp4", (np.full((501, 803, 3), i, np.uint8) for i in range(30)), 5.0, lossless=True)
    tracemalloc.start()
    video = read_video(tmp_path / "clip.mp4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.25 * video.frames.nbytes


def test_frames_that_come_one_by_one_are_written_as_those_that_are_held(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "held.mp4", frames, 8.0, lossless=True)
    write_frames(tmp_path / "stream.mp4", iter(frames), 8.0, lossless=True)
    assert (tmp_path / "held.mp4").read_bytes() == (tmp_path / "stream.mp4").read_bytes()
    with pytest.raises(MediaError, match="a frame is 41x29, but the first is 43x29"):
        write_frames(tmp_path / "two.mp4", [frames[0], frames[0][:, :41]], 8.0, lossless=True)
    assert not list(tmp_path.glob(".*.part")) + list(tmp_path.glob("two*"))


# Which files of a folder count


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")


LISTINGS = {
    "thumbnails beside videos": (
        ["a.mp4", "a.webp", "b.mkv", "b.jpg"],
        (["a.mp4", "b.mkv"], [], [], ["left out, image beside videos: a.webp, b.jpg"]),
    ),
    "frames in two formats": (
        ["0.png", "1.png", "0.jpg", "1.jpg", "2.jpeg"],
        ([], ["0.jpg", "1.jpg", "2.jpeg"], [], ["left out, image that is not jpeg: 0.png, 1.png"]),
    ),
    "as many of both": (
        ["0.png", "1.png", "0.jpg", "1.jpg"],
        ([], ["0.png", "1.png"], [], ["left out, image that is not png: 0.jpg, 1.jpg"]),
    ),
    "a cover beside frames": (["0.PNG", "1.png", "cover.jpg"], ([], ["0.PNG", "1.png"], [], ["cover.jpg"])),
    "files of a Mac": (
        ["._0.png", "0.png", "1.png", ".DS_Store"],
        ([], ["0.png", "1.png"], [], ["left out, hidden: ._0.png"]),
    ),
    "partial downloads": (
        ["a.mp4", "b.mp4.part", "c.temp.mp4", "d.mp4.crdownload", "e.part-Frag3.mp4"],
        (["a.mp4"], [], [], ["left out, partial download: b.mp4.part, c.temp.mp4, d.mp4.crdownload and 1 more"]),
    ),
    "folders of frames and of clips": (
        ["walk/0.png", "walk/1.png", "films/a.mp4", ".git/0.png", "notes/a.txt"],
        ([], [], ["walk"], ["left out, folder that contains videos: films"]),
    ),
    "a folder of videos beside a video": (
        ["a.mp4", "camera/b.mov", "walk/0.png", "notes/a.txt"],
        (["a.mp4"], [], ["walk"], ["left out, folder that contains videos: camera"]),
    ),
    "types that are not read": (
        ["a.MOV", "b.mpg", "c.HEIC", "d.3gp", "d.mts.part", "Thumbs.db", "desktop.ini", "a.mp4.aria2"],
        (
            ["a.MOV"],
            [],
            [],
            [
                "left out, partial download: d.mts.part",
                "left out, file type that is not read from folders: b.mpg, c.HEIC, d.3gp",
            ],
        ),
    ),
}


@pytest.mark.parametrize("case", LISTINGS)
def test_one_rule_says_what_of_a_folder_counts_and_names_what_does_not(tmp_path: Path, case: str) -> None:
    names, (videos, pictures, folders, left_out) = LISTINGS[case]
    touch(tmp_path / "clips", *names)
    found = list_folder(tmp_path / "clips")
    assert [file.name for file in found.videos] == videos
    assert [file.name for file in found.pictures] == pictures
    assert [file.name for file in found.image_folders] == folders
    assert len(found.left_out) == len(left_out)
    assert all(line in there for line, there in zip(left_out, found.left_out, strict=True))


def test_a_folder_of_videos_is_no_video_and_names_one(tmp_path: Path) -> None:
    touch(tmp_path / "clips", "a.mp4", "a.webp")
    with pytest.raises(MediaError, match=r"contains 1 video\(s\), such as a\.mp4.*give the path of a video file"):
        read_video(tmp_path / "clips")


def test_a_picture_of_colours_that_are_not_converted_says_which(tmp_path: Path) -> None:
    Image.new("LAB", (5, 7)).save(tmp_path / "lab.tif")
    with pytest.raises(
        MediaError, match=r"lab\.tif: pixels of mode LAB are not RGB, grey or CMYK; convert the image to RGB"
    ):
        read_image(tmp_path / "lab.tif")
