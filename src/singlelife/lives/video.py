"""From a video file to the frames that a life keeps.

Each file is decoded once, in order, with constant memory: random access into long H.264 is the known bottleneck of
training on video.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from singlelife.errors import LifeError

_MAX_SIDE = 16384  # libjpeg and swscale end near here; a header that claims more is damaged or hostile
_LONGEST_RUN_OF_ERRORS = 1000  # packets in a row that do not decode: from there on the file is taken as broken
_JITTER = 1  # seconds: clocks of spliced recordings jump further back than this
_CUT_SECONDS = 60  # put between the parts of a spliced recording, so that no pair crosses
_MISSING_SECONDS = 2.0  # a file that ends this much before its header says has been cut off


@dataclass
class KeptFrame:
    """One frame of a life.

    Attributes:
        image: uint8 (height, width, 3), RGB, upright.
        timestamp: seconds since the video's first frame.
        frame_index: in the order of the video's frames, from 0, counting those not kept.
    """

    image: np.ndarray
    timestamp: float
    frame_index: int


class VideoReader:
    """The frames of a video at a rate, upright and resized.

    Ticks follow each other every `1 / frame_rate` seconds from the video's first frame on. Of the frames that are
    nearer to one tick than to any other, the nearest is kept (the earlier of two as near). So each frame is kept at
    most once, at its own presentation time; a video of varying rate stays so, one slower than the ticks gives all its
    frames, and a hole in the recording stays a hole.

    Args:
        path: of the file.
        frame_rate: in Hz.
        frame_size: shorter side of the kept frames, in pixels. Smaller videos are not enlarged. The sample aspect
            ratio and the rotation in the file's metadata are applied, sizes rounded to even numbers of pixels.
        num_threads: of the decoder; 0 lets it choose by the number of cores.

    Attributes:
        damaged_packets: how many packets of the stream could not be decoded so far.
        num_frames_estimate: about how many frames will be kept; 0 if the file's header does not say how long it is.

    Raises:
        LifeError: the file is missing, empty, not a video, has no video stream, or its header makes no sense.
    """

    def __init__(self, path: Path, frame_rate: float, frame_size: int, num_threads: int = 0):
        self.path, self.frame_rate, self.frame_size = path, frame_rate, frame_size
        self.damaged_packets = 0
        if not path.is_file():
            raise LifeError(f"{path}: no such file.")
        if path.stat().st_size == 0:
            raise LifeError(f"{path}: the file is empty.")
        try:
            # The whitelist keeps a playlist in disguise from opening network addresses.
            self._container = av.open(str(path), metadata_errors="ignore", options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise LifeError(f"{path}: not a video that can be read, or cut off ({_reason(error)}).") from error
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams or _is_still(self._container.format.name):
            kinds = sorted({stream.type for stream in self._container.streams if not streams})
            self._container.close()
            raise LifeError(f"{path}: holds no video, only {' and '.join(kinds) or 'text or a picture'}.")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        self._stream.thread_count = num_threads
        self._resizer = VideoReformatter()  # keeps its tables from frame to frame
        self._seconds = 0.0  # until the end of the last frame that was decoded
        self._announced = _announced_seconds(self._container, self._stream)
        seconds = self._announced or (self._container.duration or 0) / av.time_base
        self.num_frames_estimate = math.ceil(seconds * min(frame_rate, self._stream.average_rate or frame_rate))
        width, height = self._stream.width, self._stream.height
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
            self._container.close()
            raise LifeError(f"{path}: its header says {width}x{height} px, which makes no sense.")

    @property
    def damage(self) -> str | None:
        """What was lost of the file that has been read, for people; None if nothing was."""
        lost = []
        if self.damaged_packets:
            lost.append(f"packets that cannot be decoded: {self.damaged_packets}")
        if self._announced is not None and self._seconds < self._announced - _MISSING_SECONDS:
            lost.append(f"it ends after {self._seconds:.1f} of the {self._announced:.1f} s that its header announces")
        return "; ".join(lost) or None

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[KeptFrame]:
        """Decode the file, once. Packets that do not decode are left out and counted in `damaged_packets`.

        Raises:
            LifeError: no frame could be decoded.
        """
        rate = Fraction(self.frame_rate).limit_denominator(1_000_000)
        last_tick = -1
        nearest: tuple[Fraction, Fraction, int, VideoFrame] | None = None  # distance from the tick, then the frame
        for index, (time, frame) in enumerate(self._timed()):
            tick = math.ceil(time * rate - Fraction(1, 2))  # the nearest, the earlier of two as near
            distance = abs(time * rate - tick)
            if tick > last_tick:
                if nearest is not None:
                    yield self._keep(*nearest[1:])
                last_tick, nearest = tick, None
            if nearest is None or distance < nearest[0]:
                nearest = distance, time, index, frame
        if nearest is None:
            raise LifeError(f"{self.path}: no frame of it can be decoded.")
        yield self._keep(*nearest[1:])

    def _keep(self, time: Fraction, index: int, frame: VideoFrame) -> KeptFrame:
        return KeptFrame(self._upright(frame), float(time), index)

    def _timed(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        """All frames and their times since the first, in seconds, never running backwards."""
        start: Fraction | None = None
        last = Fraction(0)
        for index, frame in enumerate(self._decode()):
            shown = _time_of(frame, index, self._stream)
            if start is None:
                start = shown
            elif shown - start < last - _JITTER:
                start = shown - last - _CUT_SECONDS
            last = max(last, shown - start)
            self._seconds = float(last + (frame.duration or 0) * (frame.time_base or 0))
            yield last, frame

    def _decode(self) -> Iterator[VideoFrame]:
        packets = self._container.demux(self._stream)
        errors_in_a_row = 0
        while errors_in_a_row < _LONGEST_RUN_OF_ERRORS:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.damaged_packets += 1  # cut off: nothing more can be read
                return
            try:
                yield from packet.decode()
                errors_in_a_row = 0
            except av.FFmpegError:
                self.damaged_packets += 1
                errors_in_a_row += 1

    def _upright(self, frame: VideoFrame) -> np.ndarray:
        ratio = float(self._stream.sample_aspect_ratio or 1)  # a pixel's width over its height
        width = frame.width * (ratio if 0.1 < ratio < 10 else 1.0)
        scale = min(1.0, self.frame_size / min(width, frame.height))
        size = (_even(width * scale), _even(frame.height * scale))
        # AREA averages over all pixels that fall into one, as an antialiased resize must.
        resized = self._resizer.reformat(frame, *size, format="rgb24", interpolation="AREA")
        image = resized.to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Encode a uint8 image (height, width, 3)."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _announced_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long a video is, by its header. (The file's own length may be that of its sound.)"""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def _time_of(frame: VideoFrame, index: int, stream: av.VideoStream) -> Fraction:
    """Presentation time in seconds; from the frame's number where the file gives none (some AVI files)."""
    if frame.pts is not None and frame.time_base is not None:
        return frame.pts * frame.time_base
    return Fraction(index) / (stream.average_rate or Fraction(25))


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))


def _is_cover(stream: av.VideoStream) -> bool:
    """Whether a stream is the picture of an audio file's cover."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _is_still(format_name: str) -> bool:
    """Whether a file is of a kind that FFmpeg shows as a video, but is none: text art, or one picture."""
    return format_name in ("tty", "image2") or format_name.endswith("_pipe")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
