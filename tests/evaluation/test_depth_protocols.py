"""The measures by hand, which pixels count, and units that are not metres."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_protocols import METRICS, PROTOCOLS, check_unit, depth_metrics


def test_measures_by_hand():
    true = np.array([1.0, 2.0, 4.0, 8.0])
    predicted = true * [1.2, 1 / 1.5, 1.9, 4.0]  # within 1.25, 1.25², 1.25³, and none
    measured = dict(zip(METRICS, depth_metrics(predicted, true), strict=True))
    error = np.abs(predicted - true)
    assert measured == pytest.approx({
        "delta1": 0.25, "delta2": 0.5, "delta3": 0.75,
        "abs_rel": (0.2 + 1 / 3 + 0.9 + 3) / 4,
        "rmse": np.sqrt((error**2).mean()),
        "log10": np.abs(np.log10([1.2, 1.5, 1.9, 4.0])).mean(),
    })  # fmt: skip


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.floats(0.5, 2))
def test_the_truth_is_perfect_and_a_common_factor_is_seen(depths, factor):
    true = np.array(depths)
    assert depth_metrics(true, true).tolist() == [1, 1, 1, 0, 0, 0]
    scaled = dict(zip(METRICS, depth_metrics(true * factor, true), strict=True))
    assert scaled["abs_rel"] == pytest.approx(abs(factor - 1), abs=1e-9)  # predictions are not scaled to the truth
    assert scaled["log10"] == pytest.approx(abs(np.log10(factor)), abs=1e-9)


@pytest.mark.parametrize("values", [([], []), ([1.0], [0.0]), ([0.0], [1.0]), ([1.0], [1.0, 2.0])])
def test_depths_that_cannot_be_compared_are_refused(values):
    with pytest.raises(ValueError, match="should be as many, at least one, and above 0"):
        depth_metrics(*map(np.array, values))


def test_the_eigen_crop_and_the_cap_say_which_pixels_count():
    depth = np.full((480, 640), 2.0)
    assert PROTOCOLS["nyu"].known(depth).sum() == (471 - 45) * (601 - 41)
    assert PROTOCOLS["nyu"].known(depth)[45, 41] and not PROTOCOLS["nyu"].known(depth)[44, 41]
    assert PROTOCOLS["nyu"].known(depth)[470, 600] and not PROTOCOLS["nyu"].known(depth)[470, 601]
    assert PROTOCOLS["metric"].known(np.array([[0.0, 5.0, 10.0, 10.1, np.nan]])).tolist() == [
        [False, True, True, False, False]
    ]
    with pytest.raises(EvaluationError, match="of frames of 640x480 pixels; this depth map has 320x240"):
        PROTOCOLS["nyu"].known(np.ones((240, 320)))


@pytest.mark.parametrize(
    ("median", "message"),
    [
        (2431, "looks like millimetres. Pass --depth-scale 0.001"),
        (800, "looks like millimetres"),
        (240, "looks like centimetres. Pass --depth-scale 0.01"),
        (0.02, "looks like disparity, or like depth scaled to the range from 0 to 1"),
    ],
)
def test_another_unit_is_told(median, message):
    with pytest.raises(EvaluationError, match=message) as raised:
        check_unit(np.array([median * 0.9, median, median * 1.1]), "frames")
    assert f"The depth of frames has a median of {median:.3g}, which cannot be metres" in str(raised.value)


@given(st.floats(0.11, 39))
def test_metres_are_metres(median):
    check_unit(np.array([median]), "frames")
