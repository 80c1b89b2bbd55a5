"""Readers of pairs with known correspondences, on small data in the real formats."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import EvaluationError
from singlelife.evaluation.image_pairs import homography_pair, hpatches, pairs_of_set
from singlelife.evaluation.images import read_image

from .conftest import SHIFT, save, texture


def assert_same_colours(pair) -> None:
    """Every pixel of the target whose true place is known and inside looks like the source there."""
    height, width = pair.target.shape[1:]
    side = [(np.arange(count) + 0.5) / count for count in (width, height)]
    points = np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2)
    found, known = pair.truth(points)
    pixels = np.floor(found * [pair.source.shape[2], pair.source.shape[1]]).astype(int)
    known &= ((found >= 0) & (found < 1)).all(axis=1)
    assert known.mean() > 0.3
    there = pair.source.permute(1, 2, 0).numpy()[pixels[known, 1], pixels[known, 0]].astype(int)
    here = pair.target.permute(1, 2, 0).numpy().reshape(-1, 3)[known].astype(int)
    assert (there == here).all()


def test_hpatches_pairs_are_image_k_in_image_1(sequences):
    data = hpatches(sequences)
    assert [entry.level for entry in data.pairs] == 2 * ["I", "II", "III", "IV", "V"]
    assert [entry.name for entry in data.pairs[:2]] == ["v_one 1-2", "v_one 1-3"]
    for entry in data.pairs:
        assert_same_colours(entry.load())
    assert len(hpatches(sequences, "illumination")) == 5
    with pytest.raises(EvaluationError, match="no viewpoint sequences"):
        hpatches(sequences.parent)
    one = hpatches(sequences / "v_two")
    assert [entry.name for entry in one.pairs] == [f"v_two 1-{number}" for number in range(2, 7)]
    assert [entry.load().hash for entry in one.pairs] == [entry.load().hash for entry in data.pairs[5:]]


def test_the_hash_tells_pixels_and_truth_apart(sequences):
    pair = hpatches(sequences).pairs[0].load()
    other = pair.target.clone()
    other[0, 0, 0] ^= 1
    hashes = {pair.hash, replace(pair, target=other).hash, replace(pair, truth_key=b"").hash}
    assert len(hashes) == 3 and hpatches(sequences).pairs[0].load().hash in hashes


def test_a_pair_with_a_homography(tmp_path, sequences):
    np.save(tmp_path / "h.npy", SHIFT)
    data = homography_pair(sequences / "v_one/1.ppm", sequences / "v_one/2.ppm", tmp_path / "h.npy")
    assert data.pairs[0].load().hash == hpatches(sequences).pairs[0].load().hash


# Images.


def test_images_are_made_rgb_and_turned_upright(tmp_path):
    Image.fromarray(texture(8, 12)[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (3, 8, 12)
    turned = Image.fromarray(texture(8, 12))
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 12, 8)


@pytest.mark.parametrize("content", [b"", b"P6\n5 4\n255\nshort"])
def test_damaged_images_are_named(tmp_path, content):
    (tmp_path / "1.ppm").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"1\.ppm: not an image"):
        read_image(tmp_path / "1.ppm")
    save(tmp_path / "deep.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(EvaluationError, match=r"deep\.png: .* 8 bits"):
        read_image(tmp_path / "deep.png")


# Pair sets.


@pytest.mark.integration
@pytest.mark.parametrize("views", ["plain", "shifted"])
def test_simulated_pairs_look_alike_where_they_are_found(sim_test, views):
    pairs = make_pair_set(sim_test, views=views, num_pairs=12, seed=1, image_size=96)
    data = pairs_of_set(pairs)
    assert len(data) + len(data.left_out) == 12
    differences, chance = [], []
    for entry in data.pairs:
        pair = entry.load()
        side = (np.arange(96) + 0.5) / 96
        points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
        found, known = pair.truth(points)
        known &= ((found >= 0) & (found < 1)).all(axis=1)
        here = pair.target.flatten(1).T.numpy()[known].astype(int)
        x, y = np.floor(found[known] * 96).astype(int).T
        differences.append(np.abs(here - pair.source.permute(1, 2, 0).numpy()[y, x]).mean())
        chance.append(np.abs(here - pair.source.permute(1, 2, 0).numpy()[y[::-1], x[::-1]]).mean())
    assert np.mean(differences) < 0.6 * np.mean(chance)


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
    assert len(data) == 3 and data.left_out == (f"{pairs.name} 1",)
    boxes[:] = boxes[1]
    with pytest.raises(EvaluationError, match="nothing in common"):
        pairs_of_set(replace(pairs, _boxes=boxes))
