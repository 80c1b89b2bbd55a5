"""What the header of a video says, without decoding it."""

from dataclasses import dataclass
from pathlib import Path

import av

from singlelife.lives.video.reader import VideoReader


@dataclass(frozen=True)
class VideoHeader:
    """What a video is, by its own account.

    Attributes:
        seconds: how long it is; 0 if the header does not say.
        width, height: of its frames as they are stored, in pixels.
        frame_rate: on average, in Hz; 0 if the header does not say.
    """

    seconds: float
    width: int
    height: int
    frame_rate: float


def read_header(path: Path) -> VideoHeader:
    """Read the header of a video.

    Raises:
        LifeError: the file is missing, empty, not a video, has no video stream, or its header makes no sense.
    """
    with VideoReader(path, frame_rate=1, frame_size=16):  # which says what is wrong
        pass
    with av.open(str(path), metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
        cover = av.stream.Disposition.attached_pic
        stream = next(stream for stream in container.streams.video if not stream.disposition & cover)
        seconds = 0.0
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / av.time_base
        return VideoHeader(seconds, stream.width, stream.height, float(stream.average_rate or 0))
