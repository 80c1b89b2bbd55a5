"""CKA and mutual nearest neighbours have the properties that they are used for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife import cas_matrix
from singlelife.alignment.null import representation_metrics
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import PairSetError

seeds = st.integers(0, 2**32 - 1)


def cka(a, b):
    return representation_metrics([a, b]).cka[0, 1]


def mutual_knn(a, b):
    return representation_metrics([a, b]).mutual_knn[0, 1]


def features(seed: int, images: int = 40, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, width))


def rotation(seed: int, width: int = 7) -> np.ndarray:
    return np.linalg.qr(features(seed, width, width))[0]


@given(seeds, st.floats(1e-3, 1e3))
def test_they_do_not_see_a_rotation_or_a_scale_and_cka_no_shift(seed, scale):
    x = features(seed)
    turned = scale * (x @ rotation(seed + 1))
    assert mutual_knn(x, turned) == 1 and cka(x, turned + features(seed + 2, 1)) == pytest.approx(1)


@pytest.mark.parametrize("measure", [cka, mutual_knn])
@given(seed=seeds)
def test_they_are_symmetric_and_do_not_depend_on_the_order_of_the_images(measure, seed):
    x, y = features(seed), features(seed + 1, width=3)
    order = np.random.default_rng(seed).permutation(len(x))
    assert measure(x, y) == pytest.approx(measure(y, x))
    assert measure(x, y) == pytest.approx(measure(x[order], y[order]))
    assert measure(x, y) < 1


def test_independent_features_score_chance_even_where_they_are_wider_than_there_are_images():
    found = [representation_metrics([features(seed, 40, 100), features(seed + 1000, 40, 100)]) for seed in range(30)]
    for name, expected, within in (("cka", 0, 0.05), ("mutual_knn", 10 / 39, 0.02)):
        assert np.mean([getattr(each, name)[0, 1] for each in found]) == pytest.approx(expected, abs=within)


def test_cka_is_the_unbiased_estimate_written_out():
    """Against the formula of Song et al. (2012), term by term."""
    x, y = features(0, 9, 3), features(1, 9, 4)

    def hsic(a, b):
        k, l = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(l, 0)
        n, ones = len(a), np.ones(len(a))
        terms = np.trace(k @ l) + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        return (terms - 2 / (n - 2) * (ones @ k @ l @ ones)) / (n * (n - 3))

    assert cka(x, y) == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)))


def test_neighbours_are_those_of_plain_sets():
    x, y = features(3), features(4)

    def nearest(values, image):
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        others = [other for other in range(len(values)) if other != image]
        return set(sorted(others, key=lambda other: -unit[image] @ unit[other])[:10])

    shares = [len(nearest(x, image) & nearest(y, image)) / 10 for image in range(40)]
    assert mutual_knn(x, y) == pytest.approx(np.mean(shares))


def test_a_model_that_says_the_same_of_all_images_has_no_cka():
    found = representation_metrics([features(0), np.full((40, 5), 0.1, dtype=np.float32)])
    assert np.isnan(found.cka[0, 1])
    with pytest.raises(PairSetError, match="at least 4 pairs of views, not 3"):
        representation_metrics([features(0, 3)])
    assert found.cka[0, 0] == found.mutual_knn[0, 0] == pytest.approx(1)


@pytest.mark.integration
def test_a_matrix_adds_them(sim_test, tmp_path):
    views = make_pair_set(sim_test, num_pairs=12)
    models = ["untrained:tiny", "untrained:tiny@1"]
    first = cas_matrix(models, pairs=views, representation=True, cache_dir=tmp_path, progress=False)
    (row,) = [row for row in first.rows() if row.metric == "cka"]
    assert row.value == first.representation.cka[0, 1] == first.to_dict()["representation"]["cka"][0][1]
    assert "mutual 10-NN" in str(first)
    assert cas_matrix(models, pairs=views, cache_dir=tmp_path, progress=False).representation is None
