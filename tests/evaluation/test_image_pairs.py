"""Readers of pairs with known correspondences, on small data in the real formats."""

from dataclasses import replace

import numpy as np
import pytest

from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import EvaluationError
from singlelife.evaluation.image_pairs import hpatches, open_pairs, pairs_of_set, planar_truth, read_homography
from singlelife.evaluation.settings import CorrespondenceConfig


def colours(pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the target's pixels whose true places are known and inside: how they look, how the source looks there, and
    how it looks elsewhere."""
    target, source = (image.permute(1, 2, 0).numpy().astype(int) for image in (pair.target, pair.source))
    side = [(np.arange(count) + 0.5) / count for count in target.shape[1::-1]]
    found, known = pair.truth(np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2))
    known &= ((found >= 0) & (found < 1)).all(axis=1)
    x, y = np.floor(found[known] * source.shape[1::-1]).astype(int).T
    return target.reshape(-1, 3)[known], source[y, x], source[y[::-1], x[::-1]]


def test_hpatches_pairs_are_image_k_in_image_1(sequences):
    data = hpatches(sequences)
    assert [entry.level for entry in data.pairs] == 2 * ["I", "II", "III", "IV", "V"]
    assert [entry.name for entry in data.pairs[:2]] == ["v_one 1-2", "v_one 1-3"]
    for entry in data.pairs:
        here, there, _ = colours(entry.load())
        assert len(here) > 0.3 * 64 * 80 and (here == there).all()
    assert len(hpatches(sequences, "illumination").pairs) == 5
    with pytest.raises(EvaluationError, match="no viewpoint sequences"):
        hpatches(sequences.parent)
    for above in (sequences.parent, sequences.parent.parent):
        with pytest.raises(EvaluationError, match=f"--data {sequences}"):
            open_pairs(CorrespondenceConfig(data=str(above)))
    one = hpatches(sequences / "v_two")
    assert [entry.name for entry in one.pairs] == [f"v_two 1-{number}" for number in range(2, 7)]
    assert [entry.load().hash for entry in one.pairs] == [entry.load().hash for entry in data.pairs[5:]]


def test_the_hash_tells_pixels_and_truth_apart(sequences):
    pair = hpatches(sequences).pairs[0].load()
    other = pair.target.clone()
    other[0, 0, 0] ^= 1
    hashes = {pair.hash, replace(pair, target=other).hash, replace(pair, truth_key=b"").hash}
    assert len(hashes) == 3 and hpatches(sequences).pairs[0].load().hash in hashes


# Homographies.

GRAF = np.array(  # a real one, of the pair graf1 and graf3
    [[0.76285898, -0.29922929, 225.67123], [0.33443473, 1.0143901, -76.999973], [3.4663091e-4, -1.4364524e-5, 1]]
)


def test_a_homography_is_read_and_says_where_pixels_go(tmp_path):
    np.savetxt(tmp_path / "H_1_3", GRAF)
    matrix = read_homography(tmp_path / "H_1_3")
    assert matrix.dtype == np.float64 and (matrix == GRAF).all()
    pixels = np.array([[0.0, 0.0], [799, 639], [400, 17]])
    found, known = planar_truth(matrix, (640, 800), (600, 900), (pixels + 0.5) / [800, 640])
    expected = np.c_[pixels, np.ones(3)] @ GRAF.T
    np.testing.assert_allclose(found * [900, 600] - 0.5, expected[:, :2] / expected[:, 2:], rtol=1e-12)
    assert known.all()


def test_behind_the_horizon_nothing_is_seen():
    """Row 60 of this target is the plane's horizon; rows above it would be seen from behind."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, 1 / 60, -1.0]])
    rows = np.array([0, 59.0, 60, 61, 199])
    points = np.stack([np.full(5, 0.5), (rows + 0.5) / 200], axis=-1)
    found, known = planar_truth(-matrix, (200, 100), (100, 100), points)
    assert known.tolist() == [False, False, False, True, True]
    assert np.isfinite(found).all()


# Pair sets.


@pytest.mark.integration
@pytest.mark.parametrize("views", ["plain", "shifted"])
def test_simulated_pairs_look_alike_where_they_are_found(sim_test, views):
    data = pairs_of_set(make_pair_set(sim_test, views=views, num_pairs=12, seed=1, image_size=96))
    assert len(data.pairs) + data.left_out == 12
    looks = [colours(entry.load()) for entry in data.pairs]
    difference, chance = np.mean([[np.abs(a - b).mean(), np.abs(a - c).mean()] for a, b, c in looks], axis=0)
    assert difference < 0.6 * chance


@pytest.mark.integration
def test_found_places_are_the_true_matches(sim_test):
    pairs = make_pair_set(sim_test, views="zoomed", num_pairs=6, seed=2, image_size=64)
    centres = np.stack(np.meshgrid(*[(np.arange(8) + 0.5) / 8] * 2), axis=-1).reshape(-1, 2)
    for number, match in enumerate(pairs.true_match((8, 8)).numpy()):
        found, known = pairs.find(number, centres)
        inside = known & ((found >= 0) & (found < 1)).all(axis=1)
        patch = np.floor(found * 8).astype(int)
        assert (match == np.where(inside, patch[:, 1] * 8 + patch[:, 0], -1)).all()


@pytest.mark.integration
def test_pairs_without_known_matches_or_anything_in_common(sim_test):
    plain = make_pair_set(sim_test, views="plain", num_pairs=2, image_size=32)
    with pytest.raises(EvaluationError, match=r"true matches .* not known"):
        pairs_of_set(replace(plain, _geometry=None))
    pairs = make_pair_set(sim_test, views="shifted", num_pairs=4, image_size=32)
    boxes = pairs._boxes.copy()
    boxes[1] = [[0, 0, 40, 40], [50, 50, 40, 40]]
    data = pairs_of_set(replace(pairs, _boxes=boxes))
    assert len(data.pairs) == 3 and data.left_out == 1
    boxes[:] = boxes[1]
    with pytest.raises(EvaluationError, match="nothing in common"):
        pairs_of_set(replace(pairs, _boxes=boxes))
