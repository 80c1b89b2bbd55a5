"""Pictures and videos of visitors: they look as they should, and anything else costs little and opens nothing."""

import io
import struct
import wave
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import Cancelled, Limits, Request, VisitorError
from media import delete_upload, pairs_of_video, read_picture
from PIL import Image

from ..hub_server import Hub
from .conftest import peaks

LIMITS = Limits()
HIGHWAY = Path(__file__).parents[1] / "data" / "highway_2s.mp4"
KINDS = ["JPEG", "PNG", "WEBP"]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def halves() -> Image.Image:
    """40 x 20 px: red on the left, green on the right."""
    picture = Image.new("RGB", (40, 20), RED)
    picture.paste(GREEN, (20, 0, 40, 20))
    return picture


def pairs_of(path: Path, gap: float = 0.5, count: int = 4, **limits: float) -> list:
    return pairs_of_video(path, gap_seconds=gap, count=count, request=Request(replace(LIMITS, **limits)))


def stored(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def damaged(content: bytes, changes: dict[int, int], file: Path) -> Path:
    """A file with some of its bytes changed."""
    changed = bytearray(content)
    for place, value in changes.items():
        changed[place % len(changed)] = value
    file.write_bytes(changed)
    return file


def png(width: int, height: int, data: bytes) -> bytes:
    """A PNG of grey pixels, whatever its data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# Pictures.


@pytest.fixture
def read(tmp_path) -> Callable:
    """What becomes of a picture that a visitor stores and uploads, under a name that means nothing."""

    def read(picture: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
        (tmp_path / "a.mp4").write_bytes(stored(picture, kind, **options))
        return read_picture(tmp_path / "a.mp4", Request(LIMITS))

    return read


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_picture_is_made_smaller(kind, read):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = read(halves().resize((4400, 2200)), kind, exif=exif)
    assert pixels.shape == (2048, 1024, 3)
    np.testing.assert_allclose(pixels[[200, 1800], 500], [RED, GREEN], atol=8)
    assert max(read(Image.new("RGB", (9000, 30)), kind).shape) == 2048


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_it_is_the_first_frame(kind, read):
    pixels = read(halves(), kind, save_all=True, append_images=[Image.new("RGB", (40, 20))] * 3, lossless=True)
    np.testing.assert_array_equal(pixels[10, [5, 35]], [RED, GREEN])


NONE, LARGE = "not a picture, or it is damaged. Upload a JPEG, PNG or WebP", r"the limits are 50 million pixels"
BAD_PICTURES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "The picture is empty"),
    "text": (b"hello", NONE),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', NONE),
    **{kind: (stored(halves(), kind), NONE) for kind in ("GIF", "TIFF", "BMP", "EPS", "PPM")},
    "a bomb by its header": (png(100_000, 100_000, zlib.compress(b"\0")), LARGE),
    "a bomb that unpacks": (png(20_000, 20_000, zlib.compress(bytes(20_001 * 2000), 9)), LARGE),
    "a thread": (png(1, 40_000_000, zlib.compress(b"\0")), LARGE),
    "no end": (png(100, 100, zlib.compress(bytes(500))), NONE),
    "no pixels": (png(0, 10, b""), NONE),
    "too many bytes": (b"x" * (LIMITS.picture_bytes + 1), "has 25.0 MB, more than the limit of 25.0 MB"),
    **{f"half a {kind}": (stored(halves().resize((400, 200)), kind)[:-200], NONE) for kind in KINDS},
}


BOMBS = [case for case in BAD_PICTURES if case.startswith(("a bomb", "a thread"))]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", BAD_PICTURES)
def test_what_is_no_picture_or_too_large_is_refused(case, tmp_path):
    content, message = BAD_PICTURES[case]
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(VisitorError, match=message) as told:
        read_picture(tmp_path / "a.png", Request(LIMITS))
    assert str(tmp_path) not in str(told.value)


def test_bombs_take_no_memory_and_many_large_pictures_at_once_only_what_there_is(tmp_path):
    """Measured by the peak of a process of its own: a bomb would be 1.2 GB, and six of the large ones 2 GB."""
    for case in BOMBS:
        (tmp_path / case).write_bytes(BAD_PICTURES[case][0])
    (tmp_path / "large").write_bytes(stored(Image.new("P", (4000, 4000)), "PNG", transparency=0))
    code = f"""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from limits import Limits, Request, VisitorError
def read(name, **limits):
    try:
        return media.read_picture(Path({str(tmp_path)!r}) / name, Request(Limits(**limits))).shape
    except VisitorError as error:
        return "too large" not in str(error) and (str(error), resident())
assert not any(map(read, {BOMBS}))
print(peak_resident() - before)
limit = resident() + 700 * 10**6
with ThreadPoolExecutor(6) as pool:
    found = set(pool.map(lambda _: read("large", memory=limit), range(6)))
assert found == {{(1024, 1024, 3)}}, found
print(limit - peak_resident())
"""
    bombs, left = peaks(code)
    assert bombs < 50e6 and left > 0


@settings(max_examples=30)
@given(kind=st.sampled_from(KINDS), changes=st.dictionaries(st.integers(0, 700), st.integers(0, 255)))
def test_damage_of_any_kind_ends_in_a_picture_or_an_error_for_visitors(tmp_path_factory, kind, changes):
    file = damaged(stored(halves(), kind), changes, tmp_path_factory.getbasetemp() / "damaged")
    with suppress(VisitorError):
        pixels = read_picture(file, Request(LIMITS))
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize("read", [lambda path: read_picture(path, Request(LIMITS)), lambda path: pairs_of(path)])
def test_what_is_not_there_is_told(read, tmp_path):
    for path in (tmp_path / "none", "\0", tmp_path):
        with pytest.raises(VisitorError, match="is empty or gone"):
            read(path)


# Videos.


def numbered(index: int, height: int, width: int) -> np.ndarray:
    """Grey that tells the frame's number, up to 107."""
    return np.full((height, width, 3), 20 + 2 * min(index, 107), dtype=np.uint8)


def film(path: Path, count: int = 80, *, codec: str = "libx264", kind: str | None = None, **options: str) -> Path:
    """Numbered frames at 20 Hz."""
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=20)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for index in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index, 48, 64), format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(pairs: list) -> list[tuple[float, float]]:
    return [tuple((float(view.mean()) - 20) / 2 for view in pair) for pair in pairs]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Callable[[str], Path]:
    """Four seconds at 20 Hz, of a kind of file, each made once."""
    folder = tmp_path_factory.mktemp("videos")
    codecs = {"mp4": "libx264", "mov": "libx264", "webm": "libvpx-vp9", "mkv": "libx265", "avi": "mpeg4"}

    def video(kind: str) -> Path:
        path = folder / f"a.{kind}"
        return path if path.is_file() else film(path, codec=codecs[kind])

    return video


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm", "mkv", "avi"])
def test_pairs_keep_the_gap_and_are_spread_over_the_video(kind, video, tmp_path):
    nameless = tmp_path / "upload"
    nameless.write_bytes(video(kind).read_bytes())
    found = numbers(pairs_of(nameless, 0.5, 6))
    assert len(found) == 6
    for first, second in found:
        assert second - first == pytest.approx(10, abs=1.5)
    firsts = [first for first, _ in found]
    assert firsts[0] == pytest.approx(0, abs=1.5) and firsts[-1] > 62
    assert np.diff(firsts) == pytest.approx(np.full(5, 13.6), abs=4)


def test_short_videos_give_as_many_different_pairs_as_they_have(video):
    found = pairs_of(video("mp4"), 3.5, 8)
    assert 5 <= len(found) <= 8
    assert len({first for first, _ in numbers(found)}) == len(found)


@pytest.mark.parametrize(
    ("gap", "limits", "message"),
    [
        (4.0, {}, r"is (4\.0|3\.9\d?) s long, too short for frames"),
        (0.01, {}, r"no two frames that are 0\.01 s apart"),
        (0, {}, "Choose a gap of more than 0 seconds"),
        (float("nan"), {}, "Choose a gap of more than 0 seconds"),
        (0.5, {"video_seconds": 3.0}, "longer than 3 s"),
        (0.5, {"video_pixels": 1000}, "64 x 48 px; the limits are 1,000 pixels"),
        (0.5, {"video_side": 60}, "and 60 px a side"),
        (0.5, {"video_bytes": 1000}, r"more than the limit of 1\.0 kB"),
        (0.5, {"request_seconds": 1e-6}, "takes longer than"),
    ],
)
def test_a_gap_that_cannot_be_and_a_video_over_a_limit_are_refused(gap, limits, message, video):
    with pytest.raises(VisitorError, match=message):
        pairs_of(video("mp4"), gap, **limits)
    with pytest.raises(VisitorError):
        pairs_of_video(video("mp4"), gap_seconds=gap, count=0, request=Request(LIMITS))
    with pytest.raises(Cancelled):
        pairs_of_video(video("mp4"), gap_seconds=1, count=4, request=Request(LIMITS, cancelled=lambda: True))


def test_a_recording_of_a_browser_which_tells_no_length_is_read(tmp_path):
    film(tmp_path / "live.webm", 60, codec="libvpx", live="1")
    with av.open(str(tmp_path / "live.webm")) as container:
        assert not container.duration
    found = numbers(pairs_of(tmp_path / "live.webm", 1, 3))
    assert [second - first for first, second in found] == pytest.approx([20] * 3, abs=2)


def test_of_a_video_that_is_cut_off_the_beginning_is_used(video, tmp_path):
    content = video("mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) * 2 // 3])
    found = numbers(pairs_of(tmp_path / "a.mkv"))
    assert found and found[-1][1] < 70


def test_the_length_is_that_of_the_frames_and_not_what_the_header_says(tmp_path):
    path = film(tmp_path / "a.avi", 200, codec="mpeg4")
    content = bytearray(path.read_bytes())
    frames = content.index(b"avih") + 8 + 16
    content[frames : frames + 4] = struct.pack("<I", 20)
    length = content.index(b"strh") + 8 + 32
    content[length : length + 4] = struct.pack("<I", 20)
    path.write_bytes(content)
    with pytest.raises(VisitorError, match="longer than 5 s"):
        pairs_of(path, 0.5, 2, video_seconds=5.0)


def test_frames_that_grow_over_the_limit_on_the_way_are_not_decoded(tmp_path):
    """The header tells of the first frames alone."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(40):
            size = (64, 48) if index < 20 else (640, 480)
            packet = av.Packet(stored(Image.new("RGB", size, (index, 99, 99)), "JPEG"))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 20)
            packet.is_keyframe = True
            container.mux(packet)
    found = pairs_of(path, 0.2, 8, video_pixels=100 * 100)
    assert found and all(view.shape == (48, 64, 3) for pair in found for view in pair)


def test_a_playlist_in_disguise_opens_no_file_and_no_address(hub: Hub, video, tmp_path):
    beside = film(tmp_path / "beside.ts", 40, codec="mpeg2video", kind="mpegts")
    part = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1"><BaseURL>'
        f"{hub.url}/a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    texts = [
        *(part.format(each) for each in (f"{hub.url}/a.ts", beside, f"file://{beside}", "beside.ts")),
        *(f"ffconcat version 1.0\nfile {each}\n" for each in (beside, f"{hub.url}/a.mp4")),
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        dash,
    ]
    for text in texts:
        for name in ("a.mp4", "a.m3u8"):
            (tmp_path / name).write_text(text)
            with pytest.raises(VisitorError, match="not a video that can be read, or it is damaged"):
                pairs_of(tmp_path / name, 0.5, 2)
    assert hub.requests == []


def silence(path: Path) -> bytes:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 8000, "NONE", ""))
        sound.writeframes(bytes(16000))
    return path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"hello " * 100, stored(halves(), "GIF", save_all=True, append_images=[halves()]), stored(halves(), "JPEG"),
        HIGHWAY.read_bytes()[:2000], b"\x1aE\xdf\xa3" + bytes(500), b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(500),
        b"\0\0\0\x18ftypmp42" + b"\xff" * 500, silence,
        lambda path: film(path.with_suffix(".avi"), codec="ffv1").read_bytes(),
    ],
)  # fmt: skip
def test_what_is_no_video_and_sound_and_rare_codecs_are_refused(content, tmp_path):
    content = content(tmp_path / "made") if callable(content) else content
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VisitorError, match="not a video that can be read, or it is damaged") as told:
        pairs_of(tmp_path / "a.mp4", 0.5, 2)
    assert str(tmp_path) not in str(told.value)


@settings(max_examples=15)
@given(changes=st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), max_size=40), cut=st.floats(0.1, 1))
def test_damage_of_any_kind_ends_in_pairs_or_an_error_for_visitors(tmp_path_factory, changes, cut):
    content = HIGHWAY.read_bytes()[: int(cut * HIGHWAY.stat().st_size)]
    file = damaged(content, changes, tmp_path_factory.getbasetemp() / "damaged.mp4")
    with suppress(VisitorError):
        found = pairs_of(file, 0.3, 2, video_seconds=10.0)
        assert found and all(view.dtype == np.uint8 and view.shape[2] == 3 for pair in found for view in pair)


# Uploads.


def test_uploads_are_deleted_and_nothing_else(tmp_path, monkeypatch):
    folder, other = tmp_path / "gradio", tmp_path / "keep.txt"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    (folder / "abc").mkdir(parents=True)
    upload = folder / "abc" / "a.png"
    for file in (upload, other, folder / "abc" / "b.png"):
        file.write_text("x")

    delete_upload(upload)
    delete_upload(upload)  # is gone already
    assert [file.name for file in (folder / "abc").iterdir()] == ["b.png"]
    delete_upload(folder / "abc" / "b.png")
    assert list(folder.iterdir()) == []

    (folder / "abc").mkdir()
    (folder / "abc" / "link").symlink_to(other)
    (folder / "out").symlink_to(tmp_path)
    for path in (other, folder / ".." / "keep.txt", folder / "out" / "keep.txt", folder, folder / "abc", "", None):
        delete_upload(path)
    assert other.read_text() == "x" and (folder / "abc").is_dir()
    delete_upload(folder / "abc" / "link")
    assert other.read_text() == "x" and not (folder / "abc").exists()
