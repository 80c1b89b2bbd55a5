"""Measure how fast the image moves in a life, and choose the time between the frames of a pair accordingly.

The view should change between the frames of a pair, but both should still show the same things. So the gaps of
temporal pairs aim at a range of image motion, which is measured on the life itself.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch.nn.functional import interpolate

from singlelife.lives.pairs import PairSettings
from singlelife.lives.pairs.segments import recording_time, segment_starts
from singlelife.lives.prepared import PreparedLife

Settings = TypeVar("Settings", bound=PairSettings)

MEASURED = "the motion of the life"  # the source of gaps that the user did not set
AIM = (0.05, 0.3)  # image motion between the frames of a pair, as a share of the frame's shorter side
GAPS_WITHOUT_MOTION = (0.1, 1.0)  # seconds, for a camera that stands still
LONGEST_GAP = 4.0  # seconds, and at most a tenth of the recording

_SIDE = 64  # px, the frames' shorter side when measured
_WINDOW, _STRIDE = 32, 16  # px
_SAMPLES = 400  # pairs of neighbouring frames to measure, spread over the life
_LEAST_CONTRAST = 4.0  # grey levels (standard deviation): a window with less shows no motion
_LEAST_WINDOWS = 3
_LEAST_SPEED = 0.02  # shares of the side a second: a slower camera is on a tripod


@dataclass(frozen=True)
class Motion:
    """The image motion of a life.

    Attributes:
        speed: median motion, in shares of the frame's shorter side per second.
        interval: median time between neighbouring frames, in seconds.
        seconds: length of the recording.
    """

    speed: float
    interval: float
    seconds: float

    @property
    def gaps(self) -> tuple[float, float]:
        """Shortest and longest time between the frames of a pair, in seconds, for image motion in the range `AIM`.

        The gaps are at least the time to the next frame. A camera that stands still gets `GAPS_WITHOUT_MOTION`.
        """
        gaps = GAPS_WITHOUT_MOTION
        if self.speed >= _LEAST_SPEED:
            gaps = AIM[0] / self.speed, AIM[1] / self.speed
        most = max(min(LONGEST_GAP, self.seconds / 10), 1.5 * self.interval)
        longest = min(max(gaps[1], 1.5 * self.interval), most)
        return round(min(max(gaps[0], 0.9 * self.interval), longest), 3), round(longest, 3)

    def __str__(self) -> str:
        low, high = self.gaps
        if self.speed < _LEAST_SPEED:
            return f"the camera stands still: pairs {low:g} to {high:g} s apart"
        return f"median motion {_SIDE * self.speed:.0f} px/s at {_SIDE} px: pairs {low:g} to {high:g} s apart"


@lru_cache(maxsize=8)
def measure_motion(life: PreparedLife) -> Motion:
    """The image motion of a life, from 400 pairs of neighbouring frames spread over it.

    Each frame is made grey and its shorter side 64 px. Between two frames, windows of 32 px are compared by phase
    correlation (Kuglin & Hines, 1975), and the frame's motion is the median over windows with contrast. A motion of
    more than half a window is not measured correctly.
    """
    starts = np.zeros(len(life), dtype=bool)
    starts[segment_starts(life.timestamps, life.video_index)] = True
    later = np.flatnonzero(~starts)
    if not len(later):
        return Motion(0.0, 0.0, 0.0)
    sampled = later[np.unique(np.linspace(0, len(later) - 1, _SAMPLES).astype(np.int64))]
    intervals = life.timestamps[sampled] - life.timestamps[sampled - 1]
    images = life.iter_decode(np.stack([sampled - 1, sampled], axis=1).reshape(-1))
    moved = np.array([_motion(_grey(next(images)), _grey(next(images))) for _ in sampled])
    speeds = moved / np.maximum(intervals, 1e-3)
    seconds = recording_time(life.timestamps, life.video_index)[-1]
    return Motion(float(np.median(speeds)), float(np.median(intervals)), float(seconds))


def with_gaps(settings: Settings, life: PreparedLife) -> Settings:
    """The settings with measured gaps, in seconds, in place of zeros. A given gap bounds a measured one."""
    if settings.min_gap and settings.max_gap:
        return settings
    shortest, longest = measure_motion(life).gaps
    if settings.max_gap:
        return replace(settings, min_gap=min(shortest, settings.max_gap))
    return replace(settings, min_gap=settings.min_gap or shortest, max_gap=max(longest, settings.min_gap))


def _grey(image: torch.Tensor) -> np.ndarray:
    """An image, uint8 (3, H, W), as grey levels in float32 with a shorter side of 64 px."""
    height, width = image.shape[-2:]
    scale = _SIDE / min(height, width)
    size = max(_SIDE, round(height * scale)), max(_SIDE, round(width * scale))
    return interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].mean(0).numpy()


def _motion(before: np.ndarray, after: np.ndarray) -> float:
    """Motion between two grey images, as a share of their shorter side; 0 if sizes differ or nothing has contrast."""
    if before.shape != after.shape:
        return 0.0
    views = (np.lib.stride_tricks.sliding_window_view(image, (_WINDOW, _WINDOW)) for image in (before, after))
    windows = [view[::_STRIDE, ::_STRIDE].reshape(-1, _WINDOW, _WINDOW) for view in views]
    textured = np.minimum(*(each.std(axis=(1, 2)) for each in windows)) > _LEAST_CONTRAST
    if textured.sum() < _LEAST_WINDOWS:
        return 0.0
    taper = np.outer(np.hanning(_WINDOW), np.hanning(_WINDOW))  # otherwise the static borders win
    spectra = [np.fft.rfft2((w[textured] - w[textured].mean(axis=(1, 2), keepdims=True)) * taper) for w in windows]
    cross = spectra[0] * spectra[1].conj()
    size = np.abs(cross)
    correlation = np.fft.irfft2(cross / (size + 1e-3 * size.mean() + 1e-9), s=(_WINDOW, _WINDOW))
    peak = np.stack(np.divmod(correlation.reshape(len(correlation), -1).argmax(axis=1), _WINDOW))
    peak = np.where(peak > _WINDOW // 2, peak - _WINDOW, peak)
    return float(np.median(np.hypot(*peak)) / _SIDE)
