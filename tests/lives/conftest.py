"""A small life of generated video, prepared for real."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from singlelife.lives.prepare import prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life

WriteClip = Callable[..., Path]


def texture(index: int, height: int, width: int) -> np.ndarray:
    """A smooth picture that differs from frame to frame; its red channel tells the frame's number."""
    y, x = np.mgrid[:height, :width]
    green = 128 + 100 * np.sin((x + 3 * index) / 9)
    blue = 128 + 100 * np.cos((y + 2 * index) / 7)
    return (
        np.stack([np.full((height, width), 10 + 2 * index % 240), green, blue], axis=-1).clip(0, 255).astype(np.uint8)
    )


def write_clip(
    path: Path,
    *,
    times: list[float] | None = None,
    seconds: float = 4.0,
    rate: int = 20,
    height: int = 48,
    width: int = 64,
    codec: str = "mpeg4",
    sample_aspect_ratio: Fraction | None = None,
    picture: Callable[[int, int, int], np.ndarray] = texture,
    tags: dict[str, str] | None = None,
) -> Path:
    """A video whose frames are shown at `times`, in seconds; `rate` per second by default."""
    times = [index / rate for index in range(round(seconds * rate))] if times is None else times
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def pair_generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """By its definition, the random generator that belongs to one pair."""
    return np.random.Generator(np.random.Philox(key=np.uint64(seed), counter=[0, 0, stream, index]))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def small_life(clip_folder: Path) -> PreparedLife:
    clip = write_clip(clip_folder / "small.mp4")
    return prepare_life(get_life("small", [clip]), cache_dir=clip_folder / "cache", progress=False)
