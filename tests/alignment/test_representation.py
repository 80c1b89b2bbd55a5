"""CKA, mutual nearest neighbours and RSA have the properties that they are used for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife import cas_matrix
from singlelife.alignment.pair_sets import make_pair_set
from singlelife.alignment.representation import MEASURES, _measures, representation_metrics
from singlelife.errors import PairSetError

seeds = st.integers(0, 2**32 - 1)


def cka(a, b):
    return representation_metrics([a, b]).cka[0, 1]


def mutual_knn(a, b, neighbours=10):
    return representation_metrics([a, b], neighbours).mutual_knn[0, 1]


def rsa(a, b):
    return representation_metrics([a, b]).rsa[0, 1]


def features(seed: int, images: int = 40, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, width))


def rotation(seed: int, width: int = 7) -> np.ndarray:
    return np.linalg.qr(features(seed, width, width))[0]


@given(seeds, st.floats(1e-3, 1e3))
def test_cka_does_not_see_a_rotation_a_scale_or_a_shift(seed, scale):
    x = features(seed)
    assert cka(x, scale * (x @ rotation(seed + 1)) + features(seed + 2, 1)) == pytest.approx(1)


@given(seeds, st.floats(1e-3, 1e3))
def test_neighbours_do_not_see_a_rotation_or_a_scale(seed, scale):
    x = features(seed)
    assert mutual_knn(x, scale * (x @ rotation(seed + 1))) == 1


@given(seeds, st.floats(1e-3, 1e3))
def test_rsa_does_not_see_the_scale_and_offset_of_an_image(seed, scale):
    x = features(seed)
    offsets = features(seed + 1, len(x), 1)
    assert rsa(x, scale * x + offsets) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("measure", [cka, mutual_knn, rsa])
@given(seed=seeds)
def test_they_are_symmetric_and_do_not_depend_on_the_order_of_the_images(measure, seed):
    x, y = features(seed), features(seed + 1, width=3)
    order = np.random.default_rng(seed).permutation(len(x))
    assert measure(x, y) == pytest.approx(measure(y, x))
    assert measure(x, y) == pytest.approx(measure(x[order], y[order]))
    assert measure(x, y) < 1


def test_independent_features_score_chance_even_where_they_are_wider_than_there_are_images():
    found = [representation_metrics([features(seed, 40, 100), features(seed + 1000, 40, 100)]) for seed in range(30)]
    for name, expected, within in (("cka", 0, 0.05), ("mutual_knn", 10 / 39, 0.02), ("rsa", 0, 0.03)):
        assert np.mean([getattr(each, name)[0, 1] for each in found]) == pytest.approx(expected, abs=within)
    assert found[0].mutual_knn_chance == 10 / 39


@pytest.mark.integration
def test_intervals_hold_the_value_of_many_more_images():
    """About 95 times in 100; the truth is taken from 4,000 images."""
    weights, noise = rotation(7), 0.7

    def pair(seed, images):
        x = features(seed, images)
        return [x, x @ weights + noise * features(seed + 1, images)]

    truth = _measures(pair(0, 4000), 10)["cka"][0, 1]
    held = 0
    for seed in range(100, 140):
        found = representation_metrics(pair(seed, 100))
        held += abs(found.cka[0, 1] - truth) <= found.spread["cka"][0, 1]
        assert found.spread["cka"][0, 0] == pytest.approx(0, abs=1e-9)
        assert 0 < found.spread["mutual_knn"][0, 1] < 0.2 and 0 < found.spread["rsa"][0, 1] < 0.2
    assert held >= 34
    assert np.isnan(representation_metrics(pair(0, 79)).spread["rsa"]).all()


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
    x, y = features(3, 12), features(4, 12)

    def nearest(values, image):
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        others = [other for other in range(len(values)) if other != image]
        return set(sorted(others, key=lambda other: -unit[image] @ unit[other])[:3])

    shares = [len(nearest(x, image) & nearest(y, image)) / 3 for image in range(12)]
    assert mutual_knn(x, y, 3) == pytest.approx(np.mean(shares))


def test_a_model_that_says_the_same_of_all_images_has_no_cka_and_no_rsa():
    found = representation_metrics([features(0), np.full((40, 5), 0.1, dtype=np.float32)])
    assert np.isnan(found.cka[0, 1]) and np.isnan(found.rsa[0, 1])
    assert found.cka[0, 0] == found.mutual_knn[0, 0] == pytest.approx(1)


def test_too_few_images_are_refused():
    with pytest.raises(PairSetError, match="at least 4 pairs of views, not 3"):
        representation_metrics([features(0, 3)])


@pytest.mark.integration
def test_a_matrix_adds_them_once_and_keeps_the_features(sim_test, tmp_path):
    views = make_pair_set(sim_test, num_pairs=12)
    models = ["untrained:tiny", "untrained:tiny@1"]
    first = cas_matrix(models, pairs=views, representation=True, cache_dir=tmp_path, progress=False)
    kept = sorted((tmp_path / "alignment").glob("pooled-*"))
    assert len(kept) == 2
    kept[0].write_bytes(b"")
    again = cas_matrix(models, pairs=views, representation=True, cache_dir=tmp_path, progress=False)
    for name in MEASURES:
        np.testing.assert_array_equal(getattr(again.representation, name), getattr(first.representation, name))
    (row,) = [row for row in first.rows() if row.metric == "cka"]
    assert row.value == first.representation.cka[0, 1] == first.to_dict()["representation"]["cka"][0][1]
    assert "mutual 10-NN" in str(first)
    assert cas_matrix(models, pairs=views, cache_dir=tmp_path, progress=False).representation is None
