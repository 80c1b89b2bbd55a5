"""Frames of a video: at the right times, upright, of the right size; bad files named."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.video.reader import VideoReader, jpeg

from .conftest import write_clip

HIGHWAY = Path(__file__).parents[1] / "data" / "highway_2s.mp4"


def kept(path: Path, frame_rate: float = 10, frame_size: int = 48):
    with VideoReader(path, frame_rate, frame_size) as reader:
        return list(reader), reader


def test_frames_are_kept_at_the_rate_asked_for(tmp_path):
    frames, reader = kept(write_clip(tmp_path / "a.mp4", seconds=4, rate=20), frame_rate=10)
    assert [frame.frame_index for frame in frames] == list(range(0, 80, 2))
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(40) / 10, atol=1e-6)
    assert reader.num_frames_estimate == pytest.approx(40, abs=1)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    frame_rate=st.floats(1, 60),
)
def test_each_tick_gives_the_frame_nearest_to_it(tmp_path_factory, steps, frame_rate):
    times = np.cumsum([0, *steps]) / 1000
    path = write_clip(tmp_path_factory.mktemp("clip") / "a.mkv", times=list(times), height=16, width=16)
    frames, _ = kept(path, frame_rate, 16)
    indices = [frame.frame_index for frame in frames]
    ticks = times * frame_rate
    nearest_tick = np.ceil(ticks - 0.5)
    members = [np.flatnonzero(nearest_tick == tick) for tick in np.unique(nearest_tick)]
    expected = [int(frames[np.abs(ticks[frames] - nearest_tick[frames]).argmin()]) for frames in members]
    if np.abs(ticks % 1 - 0.5).min() > 1e-4:  # no tie
        assert indices == expected
    assert (np.diff(indices) > 0).all()
    np.testing.assert_allclose([frame.timestamp for frame in frames], times[indices])


def test_a_spliced_recording_has_a_cut(tmp_path):
    """Two transport streams, one after the other in a file, each with a clock that starts anew."""
    path = write_clip(tmp_path / "a.ts", seconds=3, rate=20)
    path.write_bytes(2 * path.read_bytes())
    frames, reader = kept(path, frame_rate=10)
    steps = np.diff([frame.timestamp for frame in frames])
    assert len(frames) in (60, 61)  # the ticks run on, so they fall differently in the second part
    assert (steps > 0.2).sum() == 1
    assert steps.max() == pytest.approx(60, abs=0.2)
    assert reader.damage is None


@pytest.mark.parametrize(
    ("written", "frame_size", "shape"),
    [
        ({"height": 96, "width": 160}, 48, (48, 80, 3)),
        ({"height": 96, "width": 160}, 400, (96, 160, 3)),  # never enlarged
        ({"height": 48, "width": 48, "sample_aspect_ratio": Fraction(2, 1)}, 48, (48, 96, 3)),
    ],
)
def test_the_shorter_side_is_resized_and_pixels_made_square(tmp_path, written, frame_size, shape):
    path = write_clip(tmp_path / "a.mp4", seconds=0.5, **written)
    assert kept(path, frame_size=frame_size)[0][0].image.shape == shape


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """In dB, of uint8 images."""
    return 10 * np.log10(255**2 / np.square(image.astype(float) - reference).mean())


def test_frames_are_those_of_an_antialiased_resize_of_full_rgb_frames():
    """Pillow's, of a real video; without antialiasing it is 30 dB."""
    [first, *_], _ = kept(HIGHWAY, frame_size=64)
    with av.open(str(HIGHWAY)) as container:
        full = Image.fromarray(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    reference = full.resize(first.image.shape[1::-1], Image.Resampling.BICUBIC)
    assert psnr(first.image, np.asarray(reference)) > 38
    stored = np.asarray(Image.open(io.BytesIO(jpeg(first.image))))
    assert psnr(stored, np.asarray(reference)) > 33


COLOUR_FORMS = {  # pixel format and what the stream says of its colours
    "bt709": ("yuv420p", {"colorspace": "bt709", "color_range": "tv"}),
    "bt709, full range": ("yuv420p", {"colorspace": "bt709", "color_range": "pc"}),
    "bt601": ("yuv420p", {"colorspace": "smpte170m", "color_range": "tv"}),
    "nothing said": ("yuv420p", {}),
    "bt2020 of 10 bits": ("yuv420p10le", {"colorspace": "bt2020nc", "color_range": "tv"}),
    "rgb": ("bgr0", {}),
    "grey": ("gray", {}),
}


def colours(_index: int, height: int, width: int) -> np.ndarray:
    """Strong colours that change slowly."""
    y, x = np.mgrid[:height, :width]
    image = [255 * x / (width - 1), 255 * y / (height - 1), 255 * (1 - x / (width - 1))]
    return np.stack(image, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("form", COLOUR_FORMS)
def test_colours_do_not_shift(tmp_path, form):
    """A wrong matrix would change them by tens of levels."""
    pixel_format, said = COLOUR_FORMS[form]
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10, options=said)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixel_format
        frame = av.VideoFrame.from_ndarray(colours(0, 96, 128), format="rgb24").reformat(
            format=pixel_format,
            dst_colorspace={"bt709": "ITU709", "bt2020nc": "BT2020"}.get(said.get("colorspace"), "ITU601"),
            dst_color_range={"pc": "JPEG", "tv": "MPEG"}.get(said.get("color_range"), "UNSPECIFIED"),
        )
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image = kept(path, frame_size=48)[0][0].image
    expected = np.asarray(Image.fromarray(colours(0, 96, 128)).resize((64, 48), Image.Resampling.BOX)).astype(int)
    if pixel_format == "gray":
        expected = np.repeat((expected @ [0.299, 0.587, 0.114]).round().astype(int)[..., None], 3, axis=2)
    difference = image.astype(int) - expected
    assert np.abs(difference.mean(axis=(0, 1))).max() < 2.2  # FFmpeg's fast conversion to RGB rounds down
    assert np.abs(difference).max() < 12


def marked_corner(_index: int, height: int, width: int) -> np.ndarray:
    """White in the top left corner."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = 255
    return image


@pytest.mark.parametrize(
    ("degrees_clockwise", "matrix", "corner"),
    [
        (90, (0, 1, -1, 0), (0, 1)),  # the top left corner is shown top right
        (180, (-1, 0, 0, -1), (1, 1)),
        (270, (0, -1, 1, 0), (1, 0)),
    ],
)
def test_rotation_in_the_metadata_is_applied(tmp_path, degrees_clockwise, matrix, corner):
    """Phones store frames as the sensor reads them, and in the track header how they are to be turned."""
    path = write_clip(tmp_path / "a.mp4", height=48, width=64, seconds=0.5, picture=marked_corner)
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    header = content.index(b"tkhd")
    start = content.index(identity, header)
    a, b, c, d = (value * 0x10000 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)

    image = kept(path)[0][0].image
    assert image.shape == ((64, 48, 3) if degrees_clockwise % 180 else (48, 64, 3))
    height, width = image.shape[0] // 2, image.shape[1] // 2
    row, column = corner
    brightest = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
    assert brightest.mean() > 200 and image.mean() < 80


def test_a_damaged_middle_loses_only_itself(tmp_path):
    content = bytearray(HIGHWAY.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 1000] = bytes(1000)
    (tmp_path / "a.mp4").write_bytes(content)
    frames, reader = kept(tmp_path / "a.mp4", frame_rate=25, frame_size=64)
    whole, undamaged = kept(HIGHWAY, frame_rate=25, frame_size=64)
    assert undamaged.damage is None and whole[0].image.shape == (64, 114, 3)
    assert len(whole) - 5 < len(frames) <= len(whole)
    assert frames[-1].timestamp == whole[-1].timestamp
    assert reader.damage == f"packets that cannot be decoded: {reader.damaged_packets}"
    assert reader.damaged_packets > 0


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_unknown_codec(path: Path) -> None:
    content = write_clip(path, codec="libx264").read_bytes()
    path.write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


BAD_FILES = {
    "missing.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.touch(), "the file is empty"),
    "text.mp4": (lambda path: path.write_text("hello " * 100), "not a video that can be read"),
    "notes.txt": (lambda path: path.write_text("hello " * 100), "holds no video, only text or a picture"),
    "picture.png": (lambda path: Image.new("RGB", (64, 48)).save(path), "holds no video, only text or a picture"),
    "playlist.mp4": (lambda path: path.write_text("#EXTM3U\nhttp://localhost/a.ts\n"), "not a video that can be read"),
    "sound.wav": (write_audio, "holds no video, only audio"),
    "unknown_codec.mp4": (write_unknown_codec, "coded in a way that is not known here"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(LifeError, match=message) as raised:
        kept(tmp_path / name)
    assert name in str(raised.value)
