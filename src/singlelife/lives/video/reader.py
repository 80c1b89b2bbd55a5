"""Read the frames that a life keeps from a video file, decoded once, in order, with constant memory."""

import contextlib
import hashlib
import io
import itertools
import math
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import av
import numpy as np
import pyarrow as pa
from av.video.frame import VideoFrame
from PIL import Image

from singlelife.errors import LifeError
from singlelife.lives.video.develop import Developer, StillStretches
from singlelife.text import duration

DECODER_VERSION = 3  # part of a life's fingerprint: raise it when the same file gives other frames
_MAX_THREADS = 16  # of a decoder; each holds frames of its own, and FFmpeg warns about more

_MAX_SIDE = 16384  # about the limit of libjpeg and swscale; a header that claims more is damaged or hostile
_LONGEST_RUN_OF_ERRORS = 1000  # packets in a row that do not decode: the rest of the file is broken
_DEFAULT_RATE = Fraction(25)  # Hz, for files that give neither times nor a rate
_JITTER = 1  # seconds: clocks of spliced recordings jump further back than this
_CUT_SECONDS = 60  # put between the parts of a spliced recording, so that no pair crosses the cut
_FINGERPRINTED = 1 << 20  # bytes at each end of a video
_MISSING_SECONDS = 2.0  # a file that ends this much earlier than its header says has been cut off
_LAST_PACKETS = 3000  # maximum number to read to find where a file ends


@dataclass(frozen=True)
class VideoFile:
    """A video in a file of its own."""

    path: Path

    def open(self) -> BinaryIO:
        """Open it for reading bytes.

        Raises:
            LifeError: the file does not exist, or cannot be opened.
        """
        try:
            mode = self.path.stat().st_mode
            if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
                kind = "a folder that cannot be read" if stat.S_ISDIR(mode) else "a pipe or device, not a file"
                raise LifeError(f"{self.path}: {kind}.")
            return self.path.open("rb")
        except OSError as error:
            link = " (a link that leads nowhere)" if self.path.is_symlink() else ""
            raise LifeError(f"{self.path}: {(error.strerror or str(error)).lower()}{link}.") from error


@dataclass(frozen=True, eq=False)
class EmbeddedVideo:
    """A video whose bytes are in memory.

    Attributes:
        path: its name; there is no such file.
        content: the video file's bytes.
    """

    path: PurePath
    content: pa.Buffer

    def open(self) -> BinaryIO:
        """Open it for reading bytes, without a copy."""
        return pa.BufferReader(self.content)


VideoSource: TypeAlias = VideoFile | EmbeddedVideo


def video_fingerprint(source: VideoSource) -> str:
    """An identifier of a video: its size and the SHA-256 of its first and last MiB.

    Raises:
        LifeError: the video cannot be read.
    """
    try:
        with source.open() as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(file.read(_FINGERPRINTED))
            file.seek(max(0, size - _FINGERPRINTED))
            digest.update(file.read(_FINGERPRINTED))
    except OSError as error:
        raise LifeError(f"{source.path}: {error.strerror}.") from error
    return f"{size}-{digest.hexdigest()}"


class KeptFrame(NamedTuple):
    """One frame of a life."""

    image: np.ndarray  # uint8 (height, width, 3), RGB, upright
    timestamp: float  # seconds since the video's first frame
    frame_index: int  # among all the video's frames, from 0, kept or not


class VideoReader:
    """The frames of a video at a given rate, upright and resized.

    From the video's first frame on, there is a tick every `1 / frame_rate` seconds. Each frame belongs to the nearest
    tick. For each tick, the nearest of its frames is kept (the earlier of two equally near), at its own presentation
    time. So a video slower than the ticks gives all its frames, and a hole in the recording stays a hole.

    Args:
        video: the path of a file, or another source of a video.
        frame_rate: in Hz.
        frame_size: shorter side of the kept frames, in pixels; `Developer` says how they are made.
        num_threads: the decoder's threads, up to 16.
        formats, codecs: the containers and video streams to accept, by FFmpeg's names; all by default.
        max_pixels: frames of a larger width times height are not decoded.

    Attributes:
        damaged_packets: the number of packets that could not be decoded so far.
        seconds: the end of the last decoded frame.
        stored_size: width and height of the stored frames, in pixels.
        announced_seconds, num_frames_estimate: the video's length by its header, and about how many frames will be
            kept; 0 if the header does not say.

    Raises:
        LifeError: the file is missing, empty or not a video, has no video stream, or its header makes no sense.
    """

    def __init__(
        self,
        video: Path | VideoSource,
        frame_rate: float,
        frame_size: int,
        num_threads: int = 1,
        *,
        formats: Sequence[str] | None = None,
        codecs: Sequence[str] | None = None,
        max_pixels: int | None = None,
    ):
        source = VideoFile(video) if isinstance(video, Path) else video
        self.path, self.frame_rate = source.path, frame_rate
        self.damaged_packets, self._notes = 0, list[str]()
        try:
            with source.open() as file:
                if not file.read(1):
                    raise self._unusable("the file is empty")
        except OSError as error:
            raise self._unusable(f"it cannot be read ({error.strerror})") from error
        # The whitelist keeps a disguised playlist from opening network addresses, or any file if it is in memory.
        is_file = isinstance(source, VideoFile)
        limits = {
            "protocol_whitelist": "file" if is_file else "none",
            "format_whitelist": ",".join(formats or ()),
            "codec_whitelist": ",".join(codecs or ()),
            "max_pixels": str(max_pixels or ""),
        }
        options = {name: limit for name, limit in limits.items() if limit}
        try:
            self._container = av.open(
                str(source.path) if is_file else source.open(), "r", metadata_errors="ignore", options=options
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self._unusable(f"not a video that can be read, or cut off ({reason})") from error
        try:
            self._stream = self._video_stream(codecs)
        except LifeError:
            self._container.close()
            raise
        if max_pixels is not None:
            self._stream.codec_context.options = {"max_pixels": limits["max_pixels"]}
        self._stream.thread_type = "AUTO"
        self._stream.thread_count = min(num_threads, _MAX_THREADS)
        self._developer = Developer(frame_size, float(self._stream.sample_aspect_ratio or 1))
        self._still = StillStretches()
        self._clock = self._stream.time_base or 1 / (self._stream.average_rate or _DEFAULT_RATE)  # seconds per tick
        self._end = 0  # end of the last decoded frame, in ticks of that clock
        whole = (self._container.duration or 0) / av.time_base
        self._announced: float | None = None  # the stream's length by its header; the file's may be its sound's
        if self._stream.duration is not None and self._stream.time_base is not None:
            self._announced = float(self._stream.duration * self._stream.time_base)
        elif len(self._container.streams) == 1:
            self._announced = whole or None
        self.announced_seconds = self._announced or whole
        kept_rate = min(frame_rate, self._stream.average_rate or frame_rate)
        self.num_frames_estimate = math.ceil(self.announced_seconds * kept_rate)
        self.stored_size = self._stream.width, self._stream.height

    def _video_stream(self, codecs: Sequence[str] | None) -> av.VideoStream:
        """The stream that the file marks as the one to show; if there are several, the first of the largest."""
        container, kind = self._container, av.stream.Disposition
        no_video = kind.attached_pic | kind.timed_thumbnails | kind.still_image  # an audio file's cover, previews
        streams = [stream for stream in container.streams.video if not stream.disposition & no_video]
        # FFmpeg shows text art and single pictures as videos.
        if not streams or container.format.name in ("tty", "image2") or container.format.name.endswith("_pipe"):
            kinds = sorted({stream.type for stream in container.streams if not streams} - {"video"})  # but a cover
            raise self._unusable(f"holds no video, only {' and '.join(kinds) or 'text or a picture'}")
        stream = max(streams, key=lambda each: (kind.default in each.disposition, math.prod(_size(each))))
        if len(streams) > 1:
            others = " and ".join(_described(each) for each in streams if each is not stream)
            self._notes.append(f"several video streams: {_described(stream)} is used, not {others}")
        if stream.codec_context is None:
            raise self._unusable("its codec is unknown here, or it is damaged")
        if codecs is not None and (codec := stream.codec_context.name) not in codecs:
            raise self._unusable(f"its codec is {codec}, which is not one of {', '.join(codecs)}")
        if not (0 < stream.width <= _MAX_SIDE and 0 < stream.height <= _MAX_SIDE):
            raise self._unusable(f"its header says {stream.width}x{stream.height} px, which makes no sense")
        return stream

    def _unusable(self, why: str) -> LifeError:
        return LifeError(f"{self.path}: {why}.")

    @property
    def created(self) -> datetime | None:
        """The time of recording in the file's metadata."""
        tags = self._stream.metadata | self._container.metadata
        for tag in ("com.apple.quicktime.creationdate", "creation_time"):  # the second may be the time of an export
            with contextlib.suppress(KeyError, ValueError):
                created = datetime.fromisoformat(tags[tag])
                return created if created.tzinfo else created.replace(tzinfo=UTC)
        return None

    @property
    def seconds(self) -> float:
        return float(self._end * self._clock)

    @property
    def damage(self) -> str | None:
        """What was lost of the file read so far, for people; None if nothing was."""
        lost = []
        if self.damaged_packets:
            lost.append(f"packets that cannot be decoded: {self.damaged_packets}")
        if self._announced is not None and self.seconds < self._announced - _MISSING_SECONDS:
            lost.append(f"it ends after {self.seconds:.1f} of the {self._announced:.1f} s that its header announces")
        return "; ".join(lost) or None

    @property
    def facts(self) -> dict[str, Any]:
        """Findings so far: `damage`; `notes`, for people; and `blank` and `frozen` stretches, each as its first and
        last timestamp."""
        stretches = {"blank": self._still.blank, "frozen": self._still.frozen}
        notes = [*self._notes, *self._developer.notes]
        for kind, found in stretches.items():
            if found:
                seconds = duration(sum(last - first for first, last in found))
                notes.append(f"{kind} for {seconds} in {len(found)} stretch(es), the first {duration(found[0][0])} in")
        return {"damage": self.damage, "notes": notes, **stretches}

    def glance(self) -> None:
        """Decode the first frame and look for the end of the file, for `facts`. Do not use the reader afterwards.

        Raises:
            LifeError: no frame could be decoded.
        """
        first = next(self._decode(), None)
        if first is None:
            raise self._unusable("no frame of it can be decoded")
        self._develop(first)
        if self._announced is None:
            return
        start, self._end = self._stream.start_time or 0, 0
        with contextlib.suppress(av.FFmpegError):  # if seeking fails, the file's start is read
            self._container.seek(round(self.announced_seconds / self._clock), stream=self._stream)
        with contextlib.suppress(av.FFmpegError):
            for packet in itertools.islice(self._container.demux(self._stream), _LAST_PACKETS):
                if packet.pts is not None:
                    self._end = max(self._end, packet.pts - start + (packet.duration or 0))

    def packet_times(self) -> Iterator[float]:
        """The presentation time of each packet's frame, in seconds of the stream's clock, without decoding: in the
        file's order, up to the first damage. Do not use the reader afterwards."""
        with contextlib.suppress(av.FFmpegError):
            for index, packet in enumerate(self._container.demux(self._stream)):
                if packet.size:  # the last one is empty, to flush a decoder
                    yield float(self._shown(packet, index) * self._clock)

    def _shown(self, timed: av.Packet | VideoFrame, index: int) -> int:
        """The presentation time in ticks of the stream's clock; from the index if the file has none, as some AVIs."""
        if timed.pts is not None:
            return timed.pts
        return round(index / (self._stream.average_rate or _DEFAULT_RATE) / self._clock)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[KeptFrame]:
        """Decode the file once. Packets that do not decode are left out and counted in `damaged_packets`.

        Raises:
            LifeError: no frame could be decoded.
        """
        # Whole numbers are fast, and most frames are only looked at: time t, in ticks of the stream's clock, is at
        # t * numerator / denominator ticks of `frame_rate`.
        ratio = Fraction(self.frame_rate).limit_denominator(1_000_000) * self._clock
        numerator, denominator = ratio.numerator, ratio.denominator
        last_tick = -1
        nearest: tuple[int, int, VideoFrame] | None = None  # time, index, frame
        nearest_distance = 0  # from the tick, in units of 1 / denominator
        for index, (time, frame) in enumerate(self._timed()):
            position = time * numerator
            tick = -((denominator - 2 * position) // (2 * denominator))  # the nearest tick, or the earlier of two
            distance = abs(position - tick * denominator)
            if tick > last_tick:
                if nearest is not None:
                    yield self._keep(*nearest)
                last_tick, nearest = tick, None
            if nearest is None or distance < nearest_distance:
                nearest, nearest_distance = (time, index, frame), distance
        if nearest is None:
            raise self._unusable("no frame of it can be decoded")
        yield self._keep(*nearest)
        self._still.end()

    def _keep(self, time: int, index: int, frame: VideoFrame) -> KeptFrame:
        kept = KeptFrame(self._develop(frame), float(time * self._clock), index)
        self._still.see(kept.image, kept.timestamp)
        return kept

    def _develop(self, frame: VideoFrame) -> np.ndarray:
        try:
            return self._developer.develop(frame)
        except LifeError as error:
            raise self._unusable(str(error).removesuffix(".")) from error

    def _timed(self) -> Iterator[tuple[int, VideoFrame]]:
        """All frames with their times since the first, in ticks of the stream's clock; times never run backwards."""
        jitter, cut = round(_JITTER / self._clock), round(_CUT_SECONDS / self._clock)
        start: int | None = None
        last = 0
        for index, frame in enumerate(self._decode()):
            shown = self._shown(frame, index)
            if start is None:
                start = shown
            elif shown - start < last - jitter:
                start = shown - last - cut
            last = max(last, shown - start)
            self._end = last + (frame.duration or 0)
            yield last, frame

    def _decode(self) -> Iterator[VideoFrame]:
        errors_in_a_row = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                    errors_in_a_row = 0
                except av.FFmpegError:
                    self.damaged_packets += 1
                    errors_in_a_row += 1
                if errors_in_a_row == _LONGEST_RUN_OF_ERRORS:
                    return
        except av.FFmpegError:  # cut off: nothing more can be read
            self.damaged_packets += 1


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """Encode a uint8 image (height, width, 3)."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _size(stream: av.VideoStream) -> tuple[int, int]:
    return (stream.width, stream.height) if stream.codec_context else (0, 0)  # (0, 0): an unknown codec


def _described(stream: av.VideoStream) -> str:
    codec = stream.codec_context.name if stream.codec_context else "unknown codec"
    return f"stream {stream.index} ({'x'.join(map(str, _size(stream)))}, {codec})"
