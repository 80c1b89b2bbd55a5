"""Frames with true depth, whatever they are read from; the usual protocols, and their metrics."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.features import Item, ItemError

METRICS = ("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10")

_EIGEN_CROP = (slice(45, 471), slice(41, 601))  # of 480 rows and 640 columns
_EIGEN_SHAPE = (480, 640)
_LEAST, _MOST = 0.1, 40.0  # metres that the median depth of a frame may be
_LOOKED_AT = 16  # frames, before any work is done on all


@dataclass(frozen=True)
class DepthProtocol:
    """What is compared on a data set.

    A pixel counts where its true depth is above `min_depth`, at most `max_depth`, and inside the crop. Predictions are
    resized to the truth's size (bilinear) and clamped to that range. A metric is taken for each image and averaged
    over images. Depth is metric: predictions are not scaled to the truth.

    Attributes:
        name: of the protocol.
        version: raised when its numbers would change.
        min_depth, max_depth: in metres.
        crop: `"eigen"` for the middle of the Kinect's frame (rows 45 to 470, columns 41 to 600 of 480x640), or None.
    """

    name: str
    version: int = 1
    min_depth: float = 1e-3
    max_depth: float = 10.0
    crop: str | None = None

    def known(self, depth: np.ndarray) -> np.ndarray:
        """Which pixels of a true depth map (height, width) in metres count, bool.

        Raises:
            EvaluationError: the protocol has a crop, and the map is not of its size.
        """
        known = (depth > self.min_depth) & (depth <= self.max_depth)
        if self.crop is None:
            return known
        if depth.shape != _EIGEN_SHAPE:
            raise EvaluationError(
                f"The protocol {self.name!r} has the Eigen crop, which is of frames of 640x480 pixels; this depth map "
                f"has {depth.shape[1]}x{depth.shape[0]}. Choose --protocol metric, which has no crop."
            )
        inside = np.zeros_like(known)
        inside[_EIGEN_CROP] = True
        return known & inside


# NYU Depth V2 as since Eigen et al. (arXiv 1406.2283); ScanNet, and any other data in metres, without a crop; the
# simulated lives with rooms as large as a game's.
PROTOCOLS = {
    "nyu": DepthProtocol("nyu", crop="eigen"),
    "scannet": DepthProtocol("scannet"),
    "metric": DepthProtocol("metric"),
    "simulated": DepthProtocol("simulated", min_depth=0.1, max_depth=40.0),
}


def depth_metrics(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The `METRICS` of one image, float64 (6,).

    delta1 to delta3 are the shares of pixels with max(predicted/true, true/predicted) under 1.25, 1.25², 1.25³;
    abs_rel is the mean of |predicted - true| / true; rmse in metres; log10 the mean of |log10 predicted - log10 true|.

    Args:
        predicted, true: depths above 0 of the pixels that count, float (n,), n at least 1.

    Raises:
        ValueError: there is no pixel, or a depth is not above 0.
    """
    if not true.size or predicted.shape != true.shape or not (min(predicted.min(), true.min()) > 0):
        raise ValueError("Depths to compare should be as many, at least one, and above 0.")
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    ratio = np.maximum(predicted / true, true / predicted)
    error = np.abs(predicted - true)
    return np.array(
        [
            *((ratio < 1.25**power).mean() for power in (1, 2, 3)),
            (error / true).mean(),
            np.sqrt(np.square(error).mean()),
            np.abs(np.log10(predicted) - np.log10(true)).mean(),
        ]
    )


class DepthFrames(ABC):
    """Images with their true depth, which are also `Examples` to extract features of.

    Args:
        name: what the user called the data, with their split.
        identity: see `Examples`.
        protocol: how depth is compared here.
        num_rows: frames in the source.
        depth_scale: metres of one unit of the stored depth; None for 1, where whole numbers are refused.

    Attributes:
        rows: which frames of the source these are, int64 (n,).
        note: what a reader of results should know of this depth, or empty.

    Raises:
        EvaluationError: there are no frames.
    """

    target_dtype = np.dtype(np.float16)  # what a probe learns from; the truth that it is tested on is read anew

    def __init__(
        self, name: str, identity: str, protocol: DepthProtocol, num_rows: int, depth_scale: float | None = None
    ):
        if not num_rows:
            raise EvaluationError(f"{name} has no frames.")
        self.name, self.protocol, self.note = name, protocol, ""
        self.depth_scale, self._scale_known = depth_scale or 1.0, depth_scale is not None
        self.rows = np.arange(num_rows)
        self._source = identity

    @property
    def identity(self) -> str:
        return f"{self._source} {self.protocol} {self.depth_scale} {hashlib.sha256(self.rows.tobytes()).hexdigest()}"

    def __len__(self) -> int:
        return len(self.rows)

    def thin_out(self, count: int) -> None:
        """Keep this many frames, evenly spread; all if there are no more."""
        if count < len(self.rows):
            self.rows = self.rows[np.linspace(0, len(self.rows) - 1, count).round().astype(np.int64)]

    @abstractmethod
    def image(self, row: int) -> torch.Tensor:
        """The image of a row of the source, uint8 (3, height, width)."""

    @abstractmethod
    def stored_depth(self, row: int) -> np.ndarray:
        """The depth of a row of the source as it is stored, numbers (height, width), perhaps with axes of 1.

        Raises:
            ItemError: there is none.
        """

    def depth(self, index: int) -> np.ndarray:
        """True depth of frame `index` in metres, float32 (height, width), 0 where it is not known.

        Raises:
            ItemError: there is none, or no pixel of it counts.
        """
        row = int(self.rows[index])
        stored = self._stored(row)
        depth = stored.astype(np.float32) * np.float32(self.depth_scale)
        depth[~np.isfinite(depth) | (depth < 0)] = 0
        if not self.protocol.known(depth).any():
            finite = stored[np.isfinite(stored)]
            found = f"{finite.min():g} to {finite.max():g}" if finite.size else "NaN or infinite"
            raise ItemError(
                f"row {row}: no pixel has a valid depth ({self.protocol.min_depth:g} to {self.protocol.max_depth:g} "
                f"m); the stored values are {found}"
            )
        return depth

    def _stored(self, row: int) -> np.ndarray:
        stored = np.squeeze(np.asarray(self.stored_depth(row)))
        if stored.ndim != 2 or stored.dtype.kind not in "uif":
            raise ItemError(f"row {row}: depth should be numbers on two axes, not {stored.dtype} {stored.shape}")
        return stored

    def target_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return size

    def item(self, index: int, size: tuple[int, int]) -> Item:
        row = int(self.rows[index])
        depth = self.depth(index)
        try:
            image = self.image(row)
        except (OSError, ValueError, LifeError) as error:
            raise ItemError(f"row {row}: the image cannot be read ({error})") from error
        have, want = image.shape[1:], depth.shape
        if abs(have[0] * want[1] - have[1] * want[0]) > 0.02 * have[0] * want[1]:
            raise ItemError(
                f"row {row}: an image of {have[1]}x{have[0]} and a depth map of {want[1]}x{want[0]} pixels are not of "
                "one frame: their aspect ratios differ"
            )
        digest = hashlib.sha256(image.contiguous().numpy().tobytes())
        digest.update(depth.tobytes())
        target = sampled(np.where(self.protocol.known(depth), depth, np.float32(0)), size)
        if not target.any():
            raise ItemError(f"row {row}: no pixel has a valid depth once it is sampled at {size[1]}x{size[0]}")
        return Item(image, target.astype(np.float16), digest.digest())

    def check(self) -> None:
        """Look at some frames, before any work is done on all.

        Raises:
            EvaluationError: their depth is not in metres, or not of the size of the protocol's crop.
        """
        medians = []
        for index in np.linspace(0, len(self) - 1, min(_LOOKED_AT, len(self))).round().astype(int):
            try:
                stored = self._stored(int(self.rows[index]))
            except ItemError:
                continue
            self.protocol.known(np.zeros(stored.shape, np.float32))
            known = stored[np.isfinite(stored) & (stored > 0)] * float(self.depth_scale)
            if not known.size:
                continue
            medians.append(np.median(known))
            if stored.dtype.kind in "ui" and not self._scale_known:
                raise EvaluationError(
                    f"The depth of {self.name} is stored in whole numbers, of the median {medians[-1]:g}. Say with "
                    "--depth-scale how many metres one is (0.001 for millimetres)."
                )
        if medians and not _LEAST <= (median := float(np.median(medians))) <= _MOST:
            raise EvaluationError(
                f"The depth of {self.name} has a median of {median:.3g}, which cannot be metres. Say with "
                "--depth-scale how many metres one unit is (0.001 for millimetres). Disparity and relative depth have "
                "no unit, and cannot be used."
            )


def sampled(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map (H, W) at another size: the value at each pixel's centre, as depth is not to be mixed over edges."""
    rows, columns = (
        ((np.arange(count) + 0.5) * have / count).astype(np.int64)
        for count, have in zip(size, depth.shape, strict=True)
    )
    return depth[np.ix_(rows, columns)]
