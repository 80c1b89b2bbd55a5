"""Pictures and videos that visitors upload: of a few formats, within limits, and deleted afterwards."""

import contextlib
import math
import os
import tempfile
import warnings
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
from limits import Limits, Request, VisitorError, log
from PIL import Image

from singlelife import pictures
from singlelife.errors import LifeError
from singlelife.lives.video.reader import EmbeddedVideo, VideoReader
from singlelife.text import duration, in_bytes

_PICTURES = ("JPEG", "PNG", "WEBP")
_SCALED = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes that can be made smaller as they are
_FRAMES_HELD = 24  # the most frames that a decoder holds, at 6 bytes a pixel
_SHORTER_SIDE, _LONGER_SIDE = 1024, 2048  # pixels of a picture that is kept; no model here takes more
_CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")  # none that names other files or addresses
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")
_FRAME_SIDE = 512  # pixels, the shorter side of a frame that is kept
_TICKS = 10.0  # Hz, the lowest rate at which frames are read
_MOST_TICKS = 30.0
_MOST_FRAMES_A_SECOND = 240
_NO_VIDEO = "This is not a video that can be read, or it is damaged. Upload an mp4, mov, webm, mkv or avi file."

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `read_picture` counts the pixels


def read_picture(path: str | Path, request: Request) -> np.ndarray:
    """A picture, uint8 (H, W, 3), RGB, upright, on white where it is transparent.

    Pictures over 1,024 x 2,048 px are made smaller. An animation gives its first frame.

    Args:
        path: a JPEG, PNG or WebP file, by its content, whatever its name.
        request: the request that asks for it. Pictures are read at the same time while memory allows.

    Raises:
        Cancelled: the visitor has given up.
        VisitorError: it has another format, is too large, or is damaged.
    """
    limits = request.limits
    _check_size(path, limits.picture_bytes, "picture")
    try:
        with Image.open(path, formats=_PICTURES) as picture:
            width, height = picture.size
            if width * height > limits.picture_pixels or max(width, height) > limits.picture_side:
                raise Image.DecompressionBombError(f"{width} x {height} px")
            scalable = picture.mode in _SCALED
            bytes_of_a_pixel = 12 if scalable else 40 if picture.mode.startswith("I") else 20  # at the peak
            with request.memory(bytes_of_a_pixel * width * height):
                picture.draft(None, (2 * _SHORTER_SIDE, 2 * _SHORTER_SIDE))  # a JPEG is decoded smaller
                small = _small(picture) if scalable else picture  # before anything makes copies of it
                return np.array(_small(pictures.read_picture(small)))
    except Image.DecompressionBombError as error:
        most = f"{limits.picture_pixels / 1e6:.0f} million pixels and {limits.picture_side:,} px a side"
        raise VisitorError(f"The picture is too large: the limits are {most}. Make it smaller.") from error
    except VisitorError:
        raise
    except Exception as error:  # of many kinds, by what is wrong in a file
        raise VisitorError("This is not a picture, or it is damaged. Upload a JPEG, PNG or WebP file.") from error


def pairs_of_video(
    path: str | Path, *, gap_seconds: float, count: int, request: Request
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of frames of a video, evenly spread over it, uint8 (H, W, 3) each, RGB, upright, in the order of time.

    The shorter side of a frame is at most 512 px. A file that is damaged in the middle gives the pairs that can be
    read. The file is decoded once, in order, from memory, so a video cannot make the decoder open another file.

    Args:
        path: an mp4, mov, webm, mkv or avi file, by its content, whatever its name.
        gap_seconds: time from the first frame of a pair to the second.
        count: the number of pairs; a short video gives fewer.
        request: the request that asks for it, checked at every frame.

    Raises:
        VisitorError: it has another format, is over a limit, too short for the gap, or cannot be decoded.
    """
    if not 0 < gap_seconds < math.inf or count < 1:
        raise VisitorError("Choose a gap of more than 0 seconds, and at least one pair.")
    _check_size(path, request.limits.video_bytes, "video")
    try:
        with pa.memory_map(str(path)) as file:
            source = EmbeddedVideo(PurePath("the video"), file.read_buffer())
            seconds, pixels = _length(source, request)
            if seconds <= gap_seconds:
                raise VisitorError(f"The video is {seconds:.1f} s long, too short for frames {gap_seconds:g} s apart.")
            with request.memory(6 * _FRAMES_HELD * pixels):
                return _pairs(source, seconds, gap_seconds, count, request)
    except (LifeError, OSError) as error:
        log.info("A video could not be read: %s", error)
        raise VisitorError(_NO_VIDEO) from error


def delete_upload(path: str | Path | None) -> None:
    """Delete an uploaded file, if it is there. Files outside the folder of uploads stay.

    Gradio names the folder of an upload by its content. If two visitors upload the same file at the same time, the
    second may have to upload it again.
    """
    if not path:
        return
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    inside = Path(path).parent.resolve() / Path(path).name  # a link is deleted itself, not what it leads to
    if folder in inside.parents:
        with contextlib.suppress(OSError):
            inside.unlink()
            if inside.parent != folder:
                inside.parent.rmdir()  # if nothing else is in it


def _check_size(path: str | Path, most: int, what: str) -> None:
    try:
        size = Path(path).stat().st_size if Path(path).is_file() else 0
    except (OSError, ValueError):
        size = 0
    if not size:
        raise VisitorError(f"The {what} is empty or gone. Upload it again.")
    if size > most:
        raise VisitorError(f"The {what} has {in_bytes(size)}, more than the limit of {in_bytes(most)}.")


def _small(picture: Image.Image) -> Image.Image:
    """The picture, made smaller if it is larger than the page keeps."""
    scale = min(_SHORTER_SIDE / min(picture.size), _LONGER_SIDE / max(picture.size))
    if scale >= 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.size]
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _reader(source: EmbeddedVideo, limits: Limits, rate: float = 1.0) -> VideoReader:
    safe: dict[str, Any] = {"formats": _CONTAINERS, "codecs": _CODECS, "max_pixels": limits.video_pixels}
    return VideoReader(source, rate, _FRAME_SIDE, num_threads=2, **safe)


def _length(source: EmbeddedVideo, request: Request) -> tuple[float, int]:
    """The length of a video in seconds, from its packets rather than its header, and the pixels of a frame."""
    limits = request.limits
    with _reader(source, limits) as reader:
        width, height = reader.stored_size
        if width * height > limits.video_pixels or max(width, height) > limits.video_side:
            raise VisitorError(
                f"The video has {width} x {height} px; the limits are {limits.video_pixels:,} pixels and "
                f"{limits.video_side:,} px a side."
            )
        first, last = math.inf, -math.inf
        for index, shown in enumerate(reader.packet_times()):
            if index % 500 == 0:
                request.check()
            first, last = min(first, shown), max(last, shown)
            if last - first > limits.video_seconds or index > limits.video_seconds * _MOST_FRAMES_A_SECOND:
                raise VisitorError(f"The video is longer than {duration(limits.video_seconds)}. Upload a part.")
    return max(0.0, last - first), width * height


def _pairs(
    source: EmbeddedVideo, seconds: float, gap: float, count: int, request: Request
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs that start at evenly spread ticks of a clock; the gap is a whole number of its ticks."""
    rate = min(_MOST_TICKS, max(_TICKS, count / (seconds - gap)))
    step = math.ceil(gap * rate)
    rate = step / gap
    last = math.floor(seconds * rate + 1e-6) - step
    starts = sorted({round(start) for start in np.linspace(0, max(0, last), count)})
    wanted = {*starts, *(start + step for start in starts)}
    frames: dict[int, np.ndarray] = {}
    with _reader(source, request.limits, rate) as reader:
        for frame in reader:
            request.check()
            tick = round(frame.timestamp * rate)
            if tick in wanted:
                frames.setdefault(tick, frame.image)
            if tick >= max(wanted):
                break
        damage = reader.damaged_packets
    pairs = [(frames[start], frames[start + step]) for start in starts if {start, start + step} <= frames.keys()]
    if not pairs:
        why = "is damaged" if damage else f"has no two frames that are {gap:g} s apart"
        raise VisitorError(f"The video {why}. Choose another, or another gap.")
    return pairs
