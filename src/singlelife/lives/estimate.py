"""What preparing a life will take, found out before the work starts: from headers, and by trying for a second."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm.auto import tqdm

from singlelife.errors import LifeError
from singlelife.lives.shards import Shard, without_path
from singlelife.lives.simulation.screen import ScreenSource
from singlelife.lives.simulation.simulated import SimulatedSource
from singlelife.lives.video.reader import VideoReader

_BYTES_PER_PIXEL = 0.5  # of a JPEG of quality 92 that was not tried; on the high side
_MARGIN = 1.2  # over the bytes of the frames that were tried
_TRIED_VIDEOS = 3
_SECONDS_OF_TRIAL = 0.5  # of each
_MANY_VIDEOS = 50  # from here on to open them all takes so long that it needs a progress bar


@dataclass(frozen=True)
class Outlook:
    """What one video of a life will give.

    Attributes:
        video: its name within the life.
        seconds: how long it is; 0 if its header does not say, or it cannot be used.
        num_frames: about how many will be kept; 0 likewise.
        error: why it cannot be used, or None.
        damage: what is seen to be missing of it, or None.
    """

    video: str
    seconds: float = 0.0
    num_frames: int = 0
    error: str | None = None
    damage: str | None = None


@dataclass(frozen=True)
class Cost:
    """What the frames of several videos take: bytes on disk, and seconds of work."""

    num_bytes: int
    seconds: float | None


def look_at(shards: Sequence[Shard], *, closely: bool = False, title: str | None = None) -> list[Outlook]:
    """Open the videos of shards, several at once, and read their headers.

    Args:
        shards: whose videos.
        closely: also decode the first frame of each, and see whether it goes on to its end.
        title: of a progress bar on stderr, which appears where there are many; None for none.
    """

    def look(shard: Shard) -> Outlook:
        return _look_at(shard, closely)

    hidden = title is None or len(shards) < _MANY_VIDEOS
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        return list(tqdm(threads.map(look, shards), title, len(shards), unit=" videos", disable=hidden))


def cost_of(shards: Sequence[Shard], outlooks: Sequence[Outlook], num_workers: int, *, tried: bool) -> Cost:
    """What it takes to prepare `shards`.

    Args:
        shards: what is to be written.
        outlooks: of each of them.
        num_workers: how many are written at once.
        tried: make frames of up to three of them for a second or two. Otherwise the bytes are a cautious guess, and
            the seconds not known.
    """
    num_frames = sum(outlook.num_frames for outlook in outlooks)
    usable = [shard for shard, outlook in zip(shards, outlooks, strict=True) if outlook.num_frames]
    if not tried or not usable:
        return Cost(sum(map(_cautious_bytes, shards, outlooks)), None)
    spread = {round(position * (len(usable) - 1) / (_TRIED_VIDEOS - 1)) for position in range(_TRIED_VIDEOS)}
    made, num_bytes, seconds = 0, 0, 0.0
    for position in sorted(spread):
        try:
            sample = usable[position].sample(_SECONDS_OF_TRIAL)
        except LifeError:  # its middle is damaged; the preparation will say so
            continue
        made, num_bytes, seconds = made + sample[0], num_bytes + sample[1], seconds + sample[2]
    if not made:
        return Cost(sum(map(_cautious_bytes, shards, outlooks)), None)
    longest = max(outlook.num_frames for outlook in outlooks)
    frames_per_worker = max(longest, num_frames / num_workers)  # a video is not divided among workers
    return Cost(round(num_frames * num_bytes / made * _MARGIN), frames_per_worker * seconds / made)


def _look_at(shard: Shard, closely: bool) -> Outlook:
    if isinstance(shard.source, SimulatedSource | ScreenSource):
        num_frames = shard.source.num_frames
        return Outlook(shard.video, num_frames / shard.frame_rate, num_frames)
    try:
        with VideoReader(shard.source, shard.frame_rate, shard.frame_size) as reader:
            return Outlook(
                shard.video,
                reader.announced_seconds,
                reader.num_frames_estimate,
                damage=reader.glance() if closely else None,
            )
    except LifeError as error:
        return Outlook(shard.video, error=without_path(error, shard.source))


def _cautious_bytes(shard: Shard, outlook: Outlook) -> int:
    pixels = shard.frame_size**2 * (1 if isinstance(shard.source, SimulatedSource | ScreenSource) else 16 / 9)
    return round(outlook.num_frames * pixels * _BYTES_PER_PIXEL)
