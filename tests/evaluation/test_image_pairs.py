"""Readers of pairs with known correspondences, on small data in the real formats."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from singlelife.alignment.pair_sets import make_pair_set
from singlelife.errors import EvaluationError
from singlelife.evaluation.image_pairs import (
    DisparityTruth,
    hide_occluded,
    homography_pair,
    hpatches,
    pairs_of_set,
    read_disparity,
    read_image,
    stereo_pair,
)

from .conftest import SHIFT, SIZE, save, texture


def assert_same_colours(pair, tolerance: float = 0.0) -> None:
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
    assert np.abs(there - here).mean() <= tolerance


def test_hpatches_pairs_are_image_k_in_image_1(sequences):
    data = hpatches(sequences)
    assert len(data) == 10 and data.levels == ("I", "II", "III", "IV", "V")
    assert [(entry.name, entry.level) for entry in data.pairs[:2]] == [("v_one 1-2", "I"), ("v_one 1-3", "II")]
    for entry in data.pairs:
        assert_same_colours(entry.load())
    assert len(hpatches(sequences, "illumination")) == 5
    one = hpatches(sequences / "v_two")
    assert [entry.name for entry in one.pairs] == [f"v_two 1-{number}" for number in range(2, 7)]
    assert [entry.load().hash for entry in one.pairs] == [entry.load().hash for entry in data.pairs[5:]]


def test_a_folder_without_sequences_is_no_hpatches(tmp_path):
    with pytest.raises(EvaluationError, match="has no viewpoint sequences of HPatches"):
        hpatches(tmp_path)


def test_the_hash_tells_pixels_and_truth_apart(sequences):
    pair = hpatches(sequences).pairs[0].load()
    other = pair.target.clone()
    other[0, 0, 0] ^= 1
    hashes = {pair.hash, replace(pair, target=other).hash, replace(pair, truth_key=b"").hash}
    assert len(hashes) == 3 and hpatches(sequences).pairs[0].load().hash in hashes


def test_a_pair_with_a_homography(tmp_path, sequences):
    np.save(tmp_path / "h.npy", SHIFT)
    data = homography_pair(sequences / "v_one/1.ppm", sequences / "v_one/2.ppm", tmp_path / "h.npy")
    assert_same_colours(data.pairs[0].load())
    assert data.pairs[0].load().hash == hpatches(sequences).pairs[0].load().hash


# Stereo.


def stereo(folder: Path, form: str = "png") -> tuple[Path, Path, Path]:
    """A near square of disparity 12 before a far plane of 4; the right image is the left one, moved."""
    far, near = texture(64, 96, 1), texture(64, 96, 2)
    disparity = np.full((64, 96), 4)
    disparity[20:44, 40:64] = 12
    left, right = far.copy(), np.roll(far, -4, axis=1)
    left[20:44, 40:64] = near[20:44, 40:64]
    right[20:44, 28:52] = near[20:44, 40:64]
    disparity[5, 90] = 0  # unknown
    if form == "png":
        truth = save(folder / "disparity.png", disparity.astype(np.uint8))
    elif form == "png16":
        truth = save(folder / "disparity.png", (disparity * 256).astype(np.uint16))
    else:
        truth = folder / "disparity.pfm"
        values = np.where(disparity == 0, np.inf, disparity)[::-1]
        little = form == "pfm"
        header = f"Pf\n96 64\n{-1.0 if little else 1.0}\n".encode()
        truth.write_bytes(header + values.astype("<f4" if little else ">f4").tobytes())
    return save(folder / "left.png", left), save(folder / "right.png", right), truth


@pytest.mark.parametrize("form", ["png", "png16", "pfm", "pfm big-endian"])
def test_stereo_pixels_are_found_in_the_right_image(tmp_path, form):
    pair = stereo_pair(*stereo(tmp_path, form)).pairs[0].load()
    assert_same_colours(pair)
    centres = (np.array([[50, 30], [10, 10], [90, 5], [33, 30], [5, 30]]) + 0.5) / [96, 64]
    found, known = pair.truth(centres)
    assert known.tolist() == [True, True, False, False, True]  # the third unknown, the fourth behind the square
    np.testing.assert_allclose((found[known] * [96, 64] - 0.5)[:, 0], [38, 6, 1])
    assert np.isnan(pair.truth.disparity).sum() == 1 + 24 * 8  # as wide as the disparities differ


def test_occlusion_keeps_slanted_surfaces():
    slanted = np.tile(np.linspace(4, 14, 60), (3, 1))
    assert np.isfinite(hide_occluded(slanted)).all()
    flat = np.full((2, 30), 5.0)
    assert np.isfinite(hide_occluded(flat)).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: save(f / "disparity.png", np.zeros((64, 96), np.uint8)), "not known of any pixel"),
        (lambda f: save(f / "disparity.png", np.full((64, 96), 200, np.uint8)), "unit is another"),
        (lambda f: save(f / "disparity.png", np.full((32, 96), 4, np.uint8)), "is of the size of its image"),
        (lambda f: (f / "disparity.png").write_bytes(b"no picture"), "not a disparity map that can be read"),
        (lambda f: (f / "disparity.png").unlink(), "no such file"),
        (lambda f: save(f / "right.png", texture(64, 100)), "are of one size"),
        (lambda f: (f / "left.png").unlink(), "left.png: no such file"),
    ],
)
def test_what_is_wrong_with_a_stereo_pair_is_said(tmp_path, damage, message):
    files = stereo(tmp_path)
    damage(tmp_path)
    with pytest.raises(EvaluationError, match=message):
        stereo_pair(*files).pairs[0].load()


@pytest.mark.parametrize("content", [b"PF\n2 2\n-1\n", b"Pf\n2 2\n-1\nshort", b"Pf\n-2 2\n-1\n", b"Pf\n2 2\nx\n", b""])
def test_damaged_float_maps_are_refused(tmp_path, content):
    (tmp_path / "d.pfm").write_bytes(content)
    with pytest.raises(EvaluationError, match="not a disparity map that can be read"):
        read_disparity(tmp_path / "d.pfm", 96)


def test_the_scale_of_disparities_can_be_given(tmp_path):
    save(tmp_path / "half.png", np.full((4, 96), 90, np.uint8))
    assert (read_disparity(tmp_path / "half.png", 96, 0.5) == 45).all()
    with pytest.raises(EvaluationError, match=r"disparities from 180 to 180 px .* --disparity-scale"):
        read_disparity(tmp_path / "half.png", 96, 2.0)


def test_disparities_are_those_of_the_pixel_a_point_lies_in():
    truth = DisparityTruth(np.array([[1.0, 2.0, np.nan, 0.0]]))
    found, known = truth(np.array([[0.0, 0.5], [0.2499, 0.5], [0.25, 0.5], [0.6, 0.5], [1.0, 0.5]]))
    assert known.tolist() == [True, True, True, False, True]
    np.testing.assert_allclose(found[:, 0], [-0.25, -0.0001, -0.25, 0.6, 1.0])


# Images.


def test_images_are_made_rgb_and_turned_upright(tmp_path):
    Image.fromarray(texture(8, 12)[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (3, 8, 12)
    turned = Image.fromarray(texture(8, 12))
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 12, 8)


@pytest.mark.parametrize(("content", "message"), [(b"", "can be read"), (b"P6\n5 4\n255\nshort", "can be read")])
def test_damaged_images_are_named(tmp_path, content, message):
    (tmp_path / "1.ppm").write_bytes(content)
    with pytest.raises(EvaluationError, match=f"1.ppm: not an image that {message}"):
        read_image(tmp_path / "1.ppm")


def test_an_image_of_16_bits_is_refused(tmp_path):
    save(tmp_path / "deep.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(EvaluationError, match="not an image of 8 bits"):
        read_image(tmp_path / "deep.png")


# Pair sets.


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


def test_found_places_are_the_true_matches(sim_test):
    pairs = make_pair_set(sim_test, views="zoomed", num_pairs=6, seed=2, image_size=64)
    centres = np.stack(np.meshgrid(*[(np.arange(8) + 0.5) / 8] * 2), axis=-1).reshape(-1, 2)
    for number, match in enumerate(pairs.true_match((8, 8)).numpy()):
        found, known = pairs.find(number, centres)
        inside = known & ((found >= 0) & (found < 1)).all(axis=1)
        patch = np.floor(found * 8).astype(int)
        assert (match == np.where(inside, patch[:, 1] * 8 + patch[:, 0], -1)).all()


def test_pairs_without_known_matches_are_refused(sim_test):
    pairs = make_pair_set(sim_test, views="plain", num_pairs=2, image_size=32)
    with pytest.raises(EvaluationError, match="no true matches are known"):
        pairs_of_set(replace(pairs, _geometry=None))


def test_views_without_anything_in_common_are_left_out(sim_test):
    pairs = make_pair_set(sim_test, views="shifted", num_pairs=4, image_size=32)
    boxes = pairs._boxes.copy()
    boxes[1] = [[0, 0, 40, 40], [50, 50, 40, 40]]
    data = pairs_of_set(replace(pairs, _boxes=boxes))
    assert len(data) == 3 and data.left_out == (f"{pairs.name} 1",)
    boxes[:] = boxes[1]
    with pytest.raises(EvaluationError, match="no two views have anything in common"):
        pairs_of_set(replace(pairs, _boxes=boxes))


def test_sizes_of_the_small_hpatches(sequences):
    assert tuple(hpatches(sequences).pairs[0].load().target.shape) == (3, *SIZE)
    assert torch.equal(read_image(sequences / "v_one/1.ppm"), hpatches(sequences).pairs[0].load().source)
