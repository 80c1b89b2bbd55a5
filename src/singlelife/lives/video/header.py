"""What the header of a video says, without decoding it."""

from dataclasses import dataclass
from pathlib import Path

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
    with VideoReader(path, frame_rate=1, frame_size=16) as reader:
        return VideoHeader(reader.announced_seconds, *reader.stored_size, reader.average_rate)
