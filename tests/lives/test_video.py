"""Frames of a video: at the right times, upright, of the right size; bad files named."""

import io
from fractions import Fraction
from pathlib import Path, PurePath

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.video.reader import EmbeddedVideo, VideoReader, jpeg

from ..micro import texture, write_clip

HIGHWAY = Path(__file__).parents[1] / "data" / "highway_2s.mp4"


def kept(path: Path, frame_rate: float = 10, frame_size: int = 48):
    with VideoReader(path, frame_rate, frame_size) as reader:
        return list(reader), reader


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(1, 400), min_size=1, max_size=30), frame_rate=st.floats(1, 60))
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


def patches(_index: int, height: int, width: int) -> np.ndarray:
    """Red and green above blue and grey."""
    image = np.array([[[200, 40, 40], [40, 180, 60]], [[40, 60, 200], [180, 180, 180]]], dtype=np.uint8)
    return image.repeat(height // 2, 0).repeat(width // 2, 1)


PATCHES = patches(0, 2, 2).astype(int)


def middles(image: np.ndarray) -> np.ndarray:
    """The colours of the four quarters, (2, 2, 3)."""
    height, width = image.shape[0] // 4, image.shape[1] // 4
    return image[height :: 2 * height, width :: 2 * width].astype(int)


def write_raw(path: Path, frame: av.VideoFrame, said: dict, codec: str = "ffv1", count: int = 2) -> Path:
    """A video of one frame, over and over, that is not compressed, and what the file says of its colours."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=said)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        for _ in range(count):
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


COLOUR_FORMS = {  # pixel format, height, the matrix of the numbers, and what the stream says of its colours
    "bt709": ("yuv420p", 96, "ITU709", {"colorspace": "bt709", "color_range": "tv"}),
    "bt709, full range": ("yuv420p", 96, "ITU709", {"colorspace": "bt709", "color_range": "pc"}),
    "bt601": ("yuv420p", 720, "ITU601", {"colorspace": "smpte170m", "color_range": "tv"}),
    "nothing said": ("yuv420p", 576, "ITU601", {}),
    "nothing said, HD": ("yuv420p", 720, "ITU709", {}),
    "nothing said, HD of 10 bits": ("yuv422p10le", 720, "ITU709", {}),
    "bt2020 of 10 bits": ("yuv420p10le", 96, "BT2020", {"colorspace": "bt2020nc", "color_range": "tv"}),
    "rgb": ("bgr0", 720, None, {}),
}


@pytest.mark.parametrize("form", COLOUR_FORMS)
def test_colours_do_not_shift(tmp_path, form):
    """A wrong matrix would change them by tens of levels."""
    pixel_format, height, matrix, said = COLOUR_FORMS[form]
    level = {"pc": "JPEG", "tv": "MPEG"}.get(said.get("color_range"), "UNSPECIFIED")
    frame = av.VideoFrame.from_ndarray(patches(0, height, 128), format="rgb24")
    frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=level)
    frame.colorspace = 2  # says nothing: the stream does
    [first, *_], reader = kept(write_raw(tmp_path / "a.mkv", frame, said), frame_size=48)
    assert np.abs(middles(first.image) - PATCHES).max() < 5
    assert reader.facts["notes"] == []


def light(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 10.3, srgb / 255 / 12.92, ((srgb / 255 + 0.055) / 1.055) ** 2.4)


def hlg(light: np.ndarray) -> np.ndarray:
    """By ITU-R BT.2100, white at 75% of the signal."""
    scene = 0.26496 * light
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def pq(light: np.ndarray) -> np.ndarray:
    """By ITU-R BT.2100, white at 203 cd/m²."""
    power = (203 / 10_000 * light) ** (2610 / 16384)
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


@pytest.mark.parametrize(("name", "curve"), [("arib-std-b67", hlg), ("smpte2084", pq)])
@pytest.mark.parametrize("full", [False, True])
def test_hdr_is_made_sdr(tmp_path, name, curve, full):
    """Up to 0.75 of white light comes back as it was; more is brighter, in its order, and not over white."""
    to_bt2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    greys = np.array([0.5, 0.9, 2.0, 3.5]).reshape(2, 2, 1) * np.ones(3)
    for number, linear in enumerate((light(PATCHES) @ to_bt2020.T, greys)):
        red, green, blue = np.moveaxis(curve(linear), -1, 0)
        luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
        planes = luma, (blue - luma) / 1.8814 + 0.5, (red - luma) / 1.4746 + 0.5
        low, high = ((0, 0), (1023, 1023)) if full else ((64, 64), (876, 896))
        levels = [low[index > 0] + high[index > 0] * plane for index, plane in enumerate(planes)]
        frame = av.VideoFrame(64, 64, "yuv444p10le")
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(np.round(level).astype("<u2").repeat(32, 0).repeat(32, 1).tobytes())
        said = {"color_trc": name, "color_primaries": "bt2020", "colorspace": "bt2020nc"}
        said["color_range"] = "pc" if full else "tv"
        frame.colorspace = frame.color_range = 0
        [first, *_], reader = kept(write_raw(tmp_path / f"{number}.mkv", frame, said), frame_size=64)
        if number == 0:
            assert np.abs(middles(first.image) - PATCHES).max() < 6
        else:
            shown = middles(first.image)[..., 0].ravel().tolist()
            assert shown[0] == pytest.approx(188, abs=2) and 228 < shown[1] < shown[2] < shown[3] < 256
        assert len(reader.facts["notes"]) == 1 and "HDR" in reader.facts["notes"][0]


def test_colours_that_cannot_be_read_are_refused(tmp_path):
    frame = av.VideoFrame.from_ndarray(patches(0, 64, 64), format="rgb24").reformat(format="yuv420p")
    path = write_raw(tmp_path / "a.mkv", frame, {"colorspace": "ictcp"})
    with pytest.raises(LifeError, match=r"a\.mkv: .*ICtCp.*ffmpeg"):
        kept(path)


def test_of_interlaced_frames_one_field_is_kept(tmp_path):
    """The fields are of two moments: here black, and white."""
    comb = np.zeros((96, 128, 3), dtype=np.uint8)
    comb[1::2] = 255
    frame = av.VideoFrame.from_ndarray(comb, format="rgb24").reformat(format="yuv420p")
    path = write_raw(tmp_path / "a.mkv", frame, {"flags": "+ildct+ilme", "top": "1", "qmin": "1"}, "mpeg2video", 5)
    frames, reader = kept(path, frame_size=48)
    assert len(frames) == 5 and frames[2].image.shape == (48, 64, 3) and frames[2].image.max() < 40
    assert "interlaced" in reader.facts["notes"][0]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_all_eight_display_matrices_are_applied(tmp_path, swap, down, right, suffix):
    """Phones store frames as the sensor reads them, and how they are to be turned or mirrored."""
    stored = PATCHES[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
    stored = stored.transpose(1, 0, 2) if swap else stored
    # The pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, c, d = (0, down, right, 0) if swap else (right, 0, 0, down)
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        frame = av.VideoFrame.from_ndarray(stored.astype(np.uint8).repeat(24, 0).repeat(32, 1), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image = kept(path)[0][0].image
    assert image.shape == ((64, 48, 3) if swap else (48, 64, 3))
    assert np.abs(middles(image) - PATCHES).max() < 16


@pytest.mark.parametrize(
    ("dispositions", "used"),
    [((0, 1), 1), ((1, 0), 0), ((1, 1), 1), ((0, 0), 1)],  # whether each is the default
)
def test_the_stream_that_is_meant_is_taken(tmp_path, dispositions, used):
    """A preview of 32 px and one frame, and a film of 64 px and twenty; of equal ones the larger."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=20) for _ in dispositions]
        for stream, side, disposition in zip(streams, (32, 64), dispositions, strict=True):
            stream.width = stream.height = side
            stream.pix_fmt, stream.disposition = "yuv420p", disposition
        for stream, count in zip(streams, (1, 20), strict=True):
            frames = [av.VideoFrame.from_ndarray(patches(0, stream.width, stream.width)) for _ in range(count)]
            container.mux([packet for frame in (*frames, None) for packet in stream.encode(frame)])
    frames, reader = kept(path, frame_size=16)
    assert len(frames) == (10 if used else 1) and reader.stored_size == ((64, 64) if used else (32, 32))
    assert f"stream {used}" in reader.facts["notes"][0]


def test_blank_and_frozen_stretches_are_found(tmp_path):
    """Compressed, as in films that went blank: of 16 s, black from 3 to 6, then moving, frozen from 9 to 13."""

    def film(index: int, height: int, width: int) -> np.ndarray:
        seconds = index / 20
        if 3 <= seconds < 6:
            return np.full((height, width, 3), 16, np.uint8)
        return texture(180 if 9 <= seconds < 13 else index, height, width)

    _, reader = kept(write_clip(tmp_path / "a.mp4", seconds=16, codec="libx264", height=96, width=128, picture=film))
    [[blank], [frozen]] = reader.facts["blank"], reader.facts["frozen"]
    np.testing.assert_allclose([*blank, *frozen], [3, 5.9, 9, 12.9], atol=0.11)
    assert [note.split()[0] for note in reader.facts["notes"]] == ["blank", "frozen"]
    assert kept(HIGHWAY)[1].facts["frozen"] == []


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
    "playlist.mp4": (lambda path: path.write_text("#EXTM3U\nhttp://localhost/a.ts\n"), "not a video that can be read"),
    "sound.wav": (write_audio, "holds no video, only audio"),
    "unknown_codec.mp4": (write_unknown_codec, "codec is unknown here"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(LifeError, match=message) as raised:
        kept(tmp_path / name)
    assert name in str(raised.value)


def test_a_playlist_in_memory_opens_no_file(tmp_path):
    """Of the machine that reads it, such as a video that its owner did not mean to publish."""
    clip = write_clip(tmp_path / "clip.mp4", seconds=1)
    with VideoReader(EmbeddedVideo(PurePath("a.mp4"), pa.py_buffer(clip.read_bytes())), 10, 48) as reader:
        assert len(list(reader)) == 10
    content = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(LifeError, match=r"a\.mp4: (not a video|holds no video)"):
        VideoReader(EmbeddedVideo(PurePath("a.mp4"), pa.py_buffer(content)), 10, 48)
