"""How depth is compared: the usual protocols, their numbers, and which pixels count."""

from dataclasses import dataclass

import numpy as np

from singlelife.errors import EvaluationError

METRICS = ("delta1", "delta2", "delta3", "abs_rel", "rmse", "log10")
HIGHER_IS_BETTER = ("delta1", "delta2", "delta3")

_EIGEN_CROP = (slice(45, 471), slice(41, 601))  # of 480 rows and 640 columns
_EIGEN_SHAPE = (480, 640)


@dataclass(frozen=True)
class DepthProtocol:
    """What is compared on a data set.

    A pixel counts where its true depth is above `min_depth`, at most `max_depth`, and inside the crop. Predictions are
    resized to the truth's size (bilinear) and clamped to that range. A measure is taken for each image and averaged
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
            EvaluationError: the crop is of another size.
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


# Metres of one unit, and how people call it, for depths that are not metres.
_UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
_USUAL = 2.5  # metres: the median depth of a room
_LEAST, _MOST = 0.1, 40.0  # metres that a median may be


def check_unit(medians: np.ndarray, name: str) -> None:
    """Make sure that depths can be metres.

    Args:
        medians: of the known depths of some frames, (n,).
        name: of the data, for the message.

    Raises:
        EvaluationError: they cannot; it says which unit they look like.
    """
    median = float(np.median(medians))
    if _LEAST <= median <= _MOST:
        return
    said = f"The depth of {name} has a median of {median:.3g}, which cannot be metres"
    if median < _LEAST:
        raise EvaluationError(
            f"{said}: it looks like disparity, or like depth scaled to the range from 0 to 1. Metric depth is needed; "
            "--depth-scale M says how many metres one unit has, if it has a unit."
        )
    looks = min(_UNITS, key=lambda unit: abs(np.log(median * _UNITS[unit] / _USUAL)))
    raise EvaluationError(f"{said}: it looks like {looks}. Pass --depth-scale {_UNITS[looks]:g} if it is.")
