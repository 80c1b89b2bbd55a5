"""The rule by which a study gives its verdicts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.study.analyses import Comparison, _spearman, verdict, welch
from singlelife.study.study_file import Question

QUESTION = Question("q", "Is it?", "It is.", "curve", {}, {})
HOLDS, OPEN, AGAINST = (
    Comparison("x", d, low, high) for d, low, high in ((1, 0.5, 1.5), (0.1, -1, 1), (-1, -2, -0.5))
)


@pytest.mark.parametrize(
    ("comparisons", "expected"),
    [
        ([HOLDS, HOLDS], "reproduced"),
        ([HOLDS, OPEN], "partly"),
        ([HOLDS, AGAINST], "partly"),
        ([HOLDS, AGAINST, AGAINST], "not reproduced"),
        ([OPEN, OPEN], "undecided"),
        ([AGAINST], "not reproduced"),
        ([], "not measured yet"),
    ],
)
def test_a_verdict_follows_from_the_comparisons(comparisons, expected):
    assert verdict(QUESTION, comparisons, complete=True) == expected
    assert verdict(QUESTION, comparisons, complete=False) == "not measured yet"


def test_what_the_paper_did_not_find_has_no_verdict():
    assert verdict(Question("q", "?", "", "position", {}, {}), [HOLDS], complete=True) == "no finding of the paper"


def test_the_interval_of_a_difference_of_means():
    found = welch("x", [1.0, 1.1, 1.2], [0.5, 0.7, 0.6])
    # By hand: difference 0.5, standard error sqrt(2 · 0.01 / 3), 4 degrees of freedom, t = 2.776
    assert (found.difference, found.low, found.high) == pytest.approx((0.5, 0.5 - 0.2267, 0.5 + 0.2267), abs=1e-3)
    assert found.outcome == "holds"


@given(st.lists(st.floats(-1, 1), max_size=1), st.lists(st.floats(-1, 1), max_size=4))
def test_one_model_alone_decides_nothing(more, less):
    assert welch("x", more, less).outcome == welch("x", less, more).outcome == "open"


def test_the_rank_correlation_and_its_interval():
    x = np.arange(30.0)
    assert _spearman(x, x**3) == pytest.approx((1, 1, 1))
    assert _spearman(x, -x)[0] == pytest.approx(-1)
    rho, low, high = _spearman(x, np.random.default_rng(0).permutation(30).astype(float))
    assert low < rho < high and low < 0 < high
    _, low, high = _spearman(np.arange(4.0), np.array([0.0, 2.0, 1.0, 3.0]))  # 0.8, of four models
    assert low < 0 < 0.8 < high


def test_intervals_of_rank_correlations_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        low, high = _spearman(*generator.normal(size=(2, 12)))[1:]
        covered.append(low < 0 < high)
    assert 0.92 < np.mean(covered) < 0.98
