"""Depth metrics by hand, and which pixels count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import EvaluationError
from singlelife.evaluation.depth_frames import METRICS, PROTOCOLS, depth_metrics, sampled


def test_metrics_by_hand():
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
def test_the_truth_is_perfect_and_a_common_factor_counts_as_an_error(depths, factor):
    true = np.array(depths)
    assert depth_metrics(true, true).tolist() == [1, 1, 1, 0, 0, 0]
    scaled = dict(zip(METRICS, depth_metrics(true * factor, true), strict=True))
    assert scaled["abs_rel"] == pytest.approx(abs(factor - 1), abs=1e-9)  # predictions are not scaled to the truth
    assert scaled["log10"] == pytest.approx(abs(np.log10(factor)), abs=1e-9)


@pytest.mark.parametrize("values", [([], []), ([1.0], [0.0]), ([0.0], [1.0]), ([1.0], [1.0, 2.0])])
def test_depths_that_cannot_be_compared_are_refused(values):
    with pytest.raises(ValueError, match="above 0"):
        depth_metrics(*map(np.array, values))


def test_the_eigen_crop_and_the_cap_say_which_pixels_count():
    depth = np.full((480, 640), 2.0)
    known = PROTOCOLS["nyu"].known(depth)
    assert known.sum() == (471 - 45) * (601 - 41)
    assert known[45, 41] and not known[44, 41] and known[470, 600] and not known[470, 601]
    row = np.array([[0.0, 5.0, 10.0, 10.1, np.nan]])
    assert PROTOCOLS["metric"].known(row).tolist() == [[False, True, True, False, False]]
    with pytest.raises(EvaluationError, match="320x240"):
        PROTOCOLS["nyu"].known(np.ones((240, 320)))


def test_depth_is_not_mixed_over_edges():
    depth = np.arange(16.0).reshape(4, 4)
    assert sampled(depth, (2, 2)).tolist() == [[5, 7], [13, 15]]
    assert sampled(depth, (4, 4)).tolist() == depth.tolist()
    assert set(np.unique(sampled(depth, (7, 9)))) <= set(depth.ravel())
