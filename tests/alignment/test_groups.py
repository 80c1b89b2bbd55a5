"""The permutation test against all orders of the labels, and the data sets that names tell of."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.alignment.comparison import group_of
from singlelife.alignment.null import permutation_test

seeds = st.integers(0, 2**32 - 1)


def plain_test(scores: np.ndarray, groups: list[str]) -> float:
    """All orders of the labels, one by one."""

    def difference(labels: tuple[str, ...]) -> float:
        cells = {True: [], False: []}
        for a, b in itertools.combinations(range(len(labels)), 2):
            cells[labels[a] == labels[b]].append(scores[a, b])
        return float(np.mean(cells[True]) - np.mean(cells[False]))

    found = [difference(labels) for labels in itertools.permutations(groups)]
    return float(np.mean(np.array(found) >= difference(tuple(groups)) - 1e-12))


@given(seeds, st.lists(st.sampled_from("abc"), min_size=3, max_size=6))
def test_an_exact_test_is_that_of_all_orders(seed, groups):
    half = np.random.default_rng(seed).random((len(groups), len(groups)))
    scores = half + half.T
    result = permutation_test(scores, groups)
    if len(set(groups)) in (1, len(groups)):
        assert result is None
        return
    assert result.assignments == math.factorial(len(groups)) // math.prod(
        math.factorial(groups.count(name)) for name in set(groups)
    )
    assert result.p_value == pytest.approx(plain_test(scores, groups))
    within = np.equal.outer(groups, groups).astype(float)  # no other score tells the groups apart so well
    assert result.smallest == pytest.approx(permutation_test(within, groups).p_value)


def blocks(sizes: list[int], above: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    groups = [str(index) for index, size in enumerate(sizes) for _ in range(size)]
    half = np.random.default_rng(seed).normal(size=(len(groups), len(groups)))
    same = np.equal.outer(groups, groups)
    return (half + half.T) / 2 + above * same, groups


def test_many_models_are_tested_by_drawn_assignments():
    scores, groups = blocks([8, 8, 4], 1)
    result = permutation_test(scores, groups)
    assert result.assignments == 10_000
    assert result.p_value == 1 / 10_000
    assert result.difference == pytest.approx(1, abs=0.3)
    assert permutation_test(scores, groups) == result


def test_groups_that_do_not_matter_are_found_to_matter_as_often_as_by_chance():
    p_values = [permutation_test(*blocks([3, 3], 0, seed)).p_value for seed in range(200)]
    few = permutation_test(*blocks([3, 3], 0))
    assert min(p_values) == few.smallest == 2 / 20  # which of the two groups is which does not matter
    assert "at least 0.1" in str(few) and "p = " in str(permutation_test(*blocks([5, 5], 1)))
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("runs/sim_1", "simulated"),
        ("runs/sim_1_seed1/checkpoint-200", "simulated"),
        ("ann/singlelife-wt3", "Walking Tours"),
        ("ann/singlelife-hdepic1@v2", "HD-EPIC"),
        ("/home/ann/runs/ald_2", "Anonymous Lives"),
        ("runs/shuffled-wt_1", "controls"),
        ("spaces/cas/models/sim_still", "controls"),
        ("runs/sim_shuffled_s1", "controls"),
        ("untrained:tiny@1", "untrained"),
        ("runs/wt_31", "runs/wt_31"),
    ],
)
def test_groups_are_the_data_sets_that_names_tell(name, group):
    assert group_of(name) == group
