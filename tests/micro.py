"""The smallest model and life that everything works with: hundreds of steps a second."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MICRO = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "mask_ratio": 0.75,
}


def save_micro_model(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A checkpoint of an untrained micro-model with its processor, as `from_pretrained` takes it."""
    import torch

    from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor

    torch.manual_seed(seed)
    config = CroCoConfig(**MICRO | changes)
    CroCoForPreTraining(config).save_pretrained(folder)
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    CroCoImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def pan(index: int, height: int, width: int) -> np.ndarray:
    """What a camera sees that pans over a fixed texture."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    world = np.kron(noise, np.ones((4, 4, 1), dtype=np.uint8))  # 64 px high, 256 px wide
    left, top = round(96 + 90 * np.sin(index / 15)), round(8 + 7 * np.sin(index / 7))
    return np.ascontiguousarray(world[top : top + height, left : left + width])


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
