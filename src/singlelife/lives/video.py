"""From a video file to the frames that a life keeps.

Each file is decoded once, in order, with constant memory: random access into long H.264 is the known bottleneck of
training on video.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame

from singlelife.errors import LifeError

_MAX_SIDE = 16384  # libjpeg and swscale end near here; a header that claims more is damaged or hostile
_LONGEST_RUN_OF_ERRORS = 1000  # packets in a row that do not decode: from there on the file is taken as broken


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

    The video's time is cut into slots of `1 / frame_rate` seconds from its first frame on; the first frame presented
    in each slot is kept. So a frame is never kept twice, a video of varying or of a lower rate keeps its own times,
    and the time between kept frames is `1 / frame_rate` on average.

    Args:
        path: of the file.
        frame_rate: in Hz.
        frame_size: shorter side of the kept frames, in pixels. Smaller videos are not enlarged. The sample aspect
            ratio and the rotation in the file's metadata are applied, sizes rounded to even numbers of pixels.

    Raises:
        LifeError: the file is missing, empty, not a video, has no video stream, or its header makes no sense.
    """

    def __init__(self, path: Path, frame_rate: float, frame_size: int):
        self.path, self.frame_rate, self.frame_size = path, frame_rate, frame_size
        self.damaged_packets = 0
        if not path.is_file():
            raise LifeError(f"{path}: no such file.")
        if path.stat().st_size == 0:
            raise LifeError(f"{path}: the file is empty.")
        try:
            self._container = av.open(str(path), metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise LifeError(f"{path}: not a video that can be read, or cut off ({_reason(error)}).") from error
        streams = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not streams:
            kinds = sorted({stream.type for stream in self._container.streams})
            self._container.close()
            raise LifeError(f"{path}: holds no video, only {' and '.join(kinds) or 'nothing'}.")
        self._stream = streams[0]
        self._stream.thread_type = "AUTO"
        width, height = self._stream.width, self._stream.height
        if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
            self._container.close()
            raise LifeError(f"{path}: its header says {width}x{height} px, which makes no sense.")

    @property
    def num_frames_estimate(self) -> int | None:
        """About how many frames will be kept, if the file's header says how long it is."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / av.time_base
        else:
            return None
        rate = min(self.frame_rate, float(self._stream.average_rate or self.frame_rate))
        return max(1, round(seconds * rate))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[KeptFrame]:
        """Decode the file. Packets that do not decode are left out and counted in `damaged_packets`.

        Raises:
            LifeError: no frame could be decoded.
        """
        first_time: Fraction | None = None
        last_slot = -1
        last_time = Fraction(-1)
        for index, frame in enumerate(self._decode()):
            time = _time_of(frame, index, self._stream)
            first_time = time if first_time is None else first_time
            time -= first_time
            slot = int(time * Fraction(self.frame_rate).limit_denominator(1_000_000))
            # A time that repeats or runs backwards comes from a damaged or spliced file.
            if slot <= last_slot or time <= last_time:
                continue
            last_slot, last_time = slot, time
            yield KeptFrame(self._upright(frame), float(time), index)
        if first_time is None:
            raise LifeError(f"{self.path}: no frame of it can be decoded.")

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
        image = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA").to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Encode a uint8 image (height, width, 3)."""
    from torchvision.io import encode_jpeg

    return encode_jpeg(torch.from_numpy(image).permute(2, 0, 1), quality=quality).numpy().tobytes()


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


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
