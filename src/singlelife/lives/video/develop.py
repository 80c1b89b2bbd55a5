"""Turn a decoded frame into a picture: one field, SDR, square pixels, upright, in the size to keep."""

from collections.abc import Mapping

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter

from singlelife.errors import LifeError

_UNSAID = 2  # FFmpeg's number for colours that a file does not specify
_HD_WIDTH, _HD_HEIGHT = 1280, 720  # from either on, unspecified colours are BT.709, as in players
_NO_MATRIX = {8: "YCgCo", 10: "BT.2020 of constant luminance", 14: "ICtCp", 15: "Dolby Vision's IPT"}
_BT2020_TO_BT709 = np.array(  # for linear light, ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
_HDR: dict[int, str] = {ColorTrc.ARIB_STD_B67: "HLG", ColorTrc.SMPTE2084: "PQ"}
_KNEE = 0.75  # of white: darker light does not change when HDR is made SDR
_LEVELS = 1 << 14  # of the table that encodes light

# Differences up to these are noise from the coder: the picture is still blank or frozen.
_SAMPLED = 4  # compare one of every 4 pixels along each side
_BLANK_SPREAD = 2.0  # levels, the standard deviation of a channel
_FROZEN_MEAN, _FROZEN_STEP, _FROZEN_SHARE = 0.7, 12, 0.002  # mean levels; levels, and the share of values above them
_SHORTEST = 2.0  # seconds


class Developer:
    """Turns the frames of one video into pictures.

    - The display matrix is applied, in all eight orientations.
    - One field of interlaced frames is kept, since the two show different moments.
    - HDR is made SDR: HLG (BT.2100; 75% of the signal is white) and PQ (203 cd/m² are white, as in BT.2408). Light up
      to 0.75 of white does not change; a Möbius curve takes the peak (3.8 times white in HLG, 1,000 cd/m² in PQ) to 1.
    - If a file does not specify its colours, they are BT.709 in HD, otherwise BT.601.

    Args:
        size: shorter side of the pictures, in pixels. Smaller frames are not enlarged.
        pixel_aspect: a stored pixel's width over its height.

    Attributes:
        notes: special steps that this video needed, for people.
    """

    def __init__(self, size: int, pixel_aspect: float):
        self._size, self._pixel_aspect = size, pixel_aspect if 0.1 < pixel_aspect < 10 else 1.0
        self._shrink, self._to_rgb = VideoReformatter(), VideoReformatter()  # keep their tables from frame to frame
        self._graphs: dict[tuple[int, int, str], Graph] = {}  # they take one field; by the frame's form
        self._light: dict[str, np.ndarray] = {}
        self.notes: list[str] = []

    def develop(self, frame: VideoFrame) -> np.ndarray:
        """The picture, uint8 (height, width, 3), RGB. Sides are even numbers of pixels.

        Raises:
            LifeError: its colour coding cannot be read here.
        """
        if frame.colorspace in _NO_MATRIX:
            raise LifeError(
                f"its colours are coded as {_NO_MATRIX[frame.colorspace]}, which cannot be read here. Convert it "
                "first, for example with ffmpeg -i IN -vf zscale=matrix=709:transfer=709:primaries=709 OUT."
            )
        scale = min(1.0, self._size / min(frame.width * self._pixel_aspect, frame.height))
        width, height = _even(frame.width * self._pixel_aspect * scale), _even(frame.height * scale)
        hdr = _HDR.get(frame.color_trc)
        rgb = frame.format.is_rgb or frame.format.has_palette
        matrix = None  # the file's own, or BT.601
        if frame.colorspace == _UNSAID and not rgb and (hdr or frame.width >= _HD_WIDTH or frame.height >= _HD_HEIGHT):
            matrix = Colorspace.BT2020 if hdr else Colorspace.ITU709
        # Shrink first and convert to RGB afterwards: JPEG halves the colours' resolution anyway, so nothing is lost
        # (but FFmpeg 8.0 makes 16-bit RGB only from full colour resolution). AREA averages over all pixels that fall
        # into one, as an antialiased resize must.
        stored = ("rgb48le" if rgb else "yuv444p10le") if hdr else "rgb24" if rgb else "yuv420p"
        small = self._shrink.reformat(
            self._one_field(frame) if frame.interlaced_frame else frame, width, height, format=stored,
            src_colorspace=matrix, dst_colorspace=matrix, interpolation="AREA", threads=1,
        )  # fmt: skip
        image = self._to_rgb.reformat(small, format="rgb48le" if hdr else "rgb24", threads=1).to_ndarray()
        if hdr:
            self._note(f"HDR ({hdr}): made SDR")
            image = self._sdr(image, hdr, frame.color_primaries in (ColorPrimaries.BT2020, _UNSAID))
        return _upright(image, frame)

    def _one_field(self, frame: VideoFrame) -> VideoFrame:
        self._note("interlaced: one field of each frame is kept, with half of its lines")
        form = frame.width, frame.height, frame.format.name
        graph = self._graphs.get(form)
        if graph is None:
            graph = self._graphs[form] = Graph()
            source = graph.add_buffer(None, frame.width, frame.height, frame.format, time_base=frame.time_base)
            graph.link_nodes(source, graph.add("field", "top"), graph.add("buffersink")).configure()
        graph.vpush(frame)
        return graph.vpull()

    def _sdr(self, image: np.ndarray, hdr: str, wide: bool) -> np.ndarray:
        """Convert HDR with 16 bits per channel to sRGB with 8 bits."""
        if hdr not in self._light:
            self._light[hdr] = _light_of_signal(hdr)
        light = self._light[hdr][image]
        if wide:
            light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
        brightest = light.max(axis=-1, keepdims=True)
        light = light * (_compressed(brightest, self._light[hdr][-1]) / np.maximum(brightest, 1e-6))
        return _ENCODED[(light.clip(0, 1) * (_LEVELS - 1) + 0.5).astype(np.int32)]

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _light_of_signal(hdr: str) -> np.ndarray:
    """Light, in units of white, for each 16-bit level of an HDR signal, float32 (65536,)."""
    signal = np.linspace(0, 1, 1 << 16)
    if hdr == "HLG":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        return (light / ((np.exp((0.75 - c) / a) + b) / 12)).astype(np.float32)
    power = signal ** (32 / 2523)
    light = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (16384 / 2610)
    return (np.minimum(light, 1000) / 203).astype(np.float32)


def _compressed(light: np.ndarray, peak: float) -> np.ndarray:
    """The Möbius curve that is the identity up to the knee, continues smoothly, and is 1 at the peak."""
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    above = np.maximum(light, _KNEE)
    curve = (b**2 + 2 * b * _KNEE + _KNEE**2) / (b - a) * (above + a) / (above + b)
    return np.where(light <= _KNEE, light, curve)


_LINEAR = np.linspace(0, 1, _LEVELS)  # the next table has its values in sRGB
_ENCODED = np.round(
    255 * np.where(_LINEAR <= 0.0031308, 12.92 * _LINEAR, 1.055 * _LINEAR ** (1 / 2.4) - 0.055)
).astype(np.uint8)


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Apply the display matrix, which shows the pixel (x, y) at (a x + c y, b x + d y)."""
    more: Mapping = frame.side_data
    if "DISPLAYMATRIX" not in more:
        return image
    a, b, _, c, d = np.frombuffer(bytes(more["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))


class StillStretches:
    """Finds where a video shows one colour (blank) or repeats the same picture (frozen) for two seconds or more.

    Attributes:
        blank, frozen: the first and last timestamp of each stretch, in seconds. A blank stretch is not also frozen.
    """

    def __init__(self) -> None:
        self.blank: list[tuple[float, float]] = []
        self.frozen: list[tuple[float, float]] = []
        self._first: np.ndarray | None = None  # of the current stretch
        self._is_blank, self._start, self._last = False, 0.0, 0.0

    def see(self, image: np.ndarray, timestamp: float) -> None:
        """Look at the next picture."""
        sample = image[::_SAMPLED, ::_SAMPLED].astype(np.int16)
        blank = bool(sample.std(axis=(0, 1)).max() < _BLANK_SPREAD)
        if not (blank and self._is_blank) and (blank != self._is_blank or not self._same(sample)):
            self.end()
            self._first, self._is_blank, self._start = sample, blank, timestamp
        self._last = timestamp

    def end(self) -> None:
        """End the current stretch, for example at the end of the video."""
        if self._last - self._start >= _SHORTEST and self._first is not None:
            stretches = self.blank if self._is_blank else self.frozen
            stretches.append((round(self._start, 2), round(self._last, 2)))
        self._first = None

    def _same(self, sample: np.ndarray) -> bool:
        if self._first is None or self._first.shape != sample.shape:
            return False
        change = np.abs(sample - self._first)
        return bool(change.mean() < _FROZEN_MEAN and (change > _FROZEN_STEP).mean() < _FROZEN_SHARE)
