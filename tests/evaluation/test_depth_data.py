"""Depth metrics by hand, and frames from small files in the formats of the real data sets, good and bad."""

import h5py
import numpy as np
import pytest
import torch
from datasets import Array2D, Image, List, Value
from PIL import Image as Pictures
from scipy.io import savemat

from singlelife.errors import EvaluationError, LifeError
from singlelife.evaluation.depth_data import METRICS, PROTOCOLS, depth_metrics, open_depth, sampled
from singlelife.evaluation.features import ItemError, extract
from singlelife.evaluation.settings import DepthConfig

from .conftest import bright_is_far, depth_dataset

FLOATS = Array2D((32, 32), "float32")


def frames_of(*words, role="test", **settings):
    words = tuple(map(str, words))
    return open_depth(DepthConfig(train=words, test=words, **settings), role)


def test_nyu_is_read_by_its_official_split(nyu):
    train, test = (frames_of(nyu, role=role) for role in ("train", "test"))
    assert train.rows.tolist() == [0, 2, 3] and test.rows.tolist() == [1]
    assert test.protocol.crop == "eigen" and test.protocol.max_depth == 10
    item = test.item(0, (64, 64))
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat") as content:
        assert item.image.shape == (3, 480, 640)
        assert item.image[:, 7, 400].tolist() == content["images"][1, :, 400, 7].tolist()
        assert test.depth(0)[100, 300] == content["rawDepths"][1, 300, 100]
        filled = frames_of(nyu, depth_column="depth")
        assert filled.depth(0)[100, 300] == content["depths"][1, 300, 100]
    assert item.target.shape == (64, 64) and (item.target[0] == 0).all()  # outside of the crop
    assert filled.identity != test.identity


def test_scannet_is_read_in_millimetres_and_by_its_list(scannet, tmp_path):
    every = frames_of(scannet)
    assert len(every) == 6 and every.protocol.name == "scannet"
    assert np.unique(every.depth(2)).tolist() == pytest.approx([0, 1.010])
    assert every.image(2).shape == (3, 24, 32)
    (tmp_path / "val.txt").write_text("scene0707_01\n")
    chosen = frames_of(scannet, test_split=str(tmp_path / "val.txt"))
    assert len(chosen) == 3 and chosen.depth(0).max() == np.float32(2.0)
    (scannet / "scene0707_01" / "depth" / "10.png").unlink()
    with pytest.raises(ItemError, match=r"row 2: .*10\.png"):
        chosen.item(2, (64, 64))
    Pictures.fromarray(np.full((16, 12), 1500, np.uint16)).save(scannet / "scene0707_01" / "depth" / "2.png")
    with pytest.raises(ItemError, match=r"row 1: .*32x24 .*12x16"):
        chosen.item(1, (64, 64))
    (tmp_path / "val.txt").write_text("scene0707_01\nscene0708_00\n")
    with pytest.raises(EvaluationError, match=r"lacks 1 of the 2 scenes .* scene0708_00"):
        frames_of(scannet, test_split=str(tmp_path / "val.txt"))


@pytest.mark.parametrize("feature", [FLOATS, List(List(Value("float32"))), Image()])
def test_the_forms_of_the_hub_are_all_the_same(tmp_path, feature):
    images, depths = bright_is_far(4)
    test = frames_of(depth_dataset(tmp_path / "set", images, list(depths), feature, "depth_map"))
    assert len(test) == 2 and test.protocol.name == "metric"
    np.testing.assert_array_equal(test.depth(1), depths[3])
    assert torch.equal(test.image(1), torch.from_numpy(images[3]).permute(2, 0, 1))


def test_whole_numbers_take_a_scale(tmp_path):
    images, depths = bright_is_far(4)
    levels = [(depth * 1000).round().astype(np.uint16) for depth in depths]
    folder = depth_dataset(tmp_path / "set", images, levels, Image())
    with pytest.raises(EvaluationError, match=r"whole numbers.*--depth-scale"):
        frames_of(folder)
    np.testing.assert_allclose(frames_of(folder, depth_scale=0.001).depth(0), depths[2], atol=6e-4)


@pytest.mark.parametrize("factor", [1000, 100, 0.01])
def test_depth_in_another_unit_is_refused(tmp_path, factor):
    images, depths = bright_is_far(4)
    folder = depth_dataset(tmp_path / "set", images, list(depths * np.float32(factor)), FLOATS)
    with pytest.raises(EvaluationError, match=r"median of .*--depth-scale"):
        frames_of(folder)


@pytest.mark.integration
def test_the_depth_of_simulated_lives_is_in_metres(sim_test, sim_still):
    frames = frames_of(sim_test.path, num_test=5)
    assert frames.rows.tolist() == [0, 125, 250, 374, 499] and frames.protocol.name == "simulated"
    np.testing.assert_allclose(frames.depth(2), sim_test.depth([250])[0] / 32)
    assert torch.equal(frames.image(250), sim_test.decode([250])[0])
    both = frames_of(sim_test.path, sim_still.path, num_test=5)
    assert len(both) == 5 and both.name == "sim_test + sim_still"
    np.testing.assert_allclose(both.depth(3), sim_still.depth([0])[0] / 32)
    assert torch.equal(both.item(4, (64, 64)).image, sim_still.decode([99])[0])


def test_bad_frames_are_named_and_the_others_kept(tmp_path, encoder):
    images, depths = bright_is_far(20)
    bad = list(depths)
    bad[11] = None
    bad[12] = np.full((32, 32), np.nan, np.float32)
    bad[13] = np.zeros((32, 32), np.float32)
    bad[14] = np.where(np.eye(32) > 0, np.float32(np.nan), depths[14]).astype(np.float32)
    test = frames_of(depth_dataset(tmp_path / "set", images, bad, FLOATS))
    assert (test.depth(4)[np.eye(32) > 0] == 0).all()  # NaN is unknown
    kept = extract(encoder, test, cache_dir=tmp_path, progress=False)
    assert kept.rows == [0, 4, 5, 6, 7, 8, 9]
    for (row, why), reason in zip(kept.left_out.items(), ("is empty", "NaN or infinite", "0 to 0"), strict=True):
        assert f"row {row}: " in why and reason in why


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(b"MATLAB"), "splits.mat cannot be read"),
        (lambda file: savemat(file, {"testNdxs": [[9]], "trainNdxs": [[2]]}), "1 to 4, each once"),
    ],
)
def test_what_is_wrong_with_nyu_is_named(nyu, damage, message):
    damage(nyu / "splits.mat")
    with pytest.raises(EvaluationError, match=message):
        frames_of(nyu)


def test_data_without_what_is_needed_are_refused(tmp_path, nyu):
    images, depths = bright_is_far(4)
    folder = depth_dataset(tmp_path / "set", images, list(depths), FLOATS, "far")
    with pytest.raises(EvaluationError, match=r"far.*--depth-column"):
        frames_of(folder)
    assert len(frames_of(folder, depth_column="far")) == 2
    with pytest.raises(EvaluationError, match=r"no val.*--test-split"):
        frames_of(folder, depth_column="far", test_split="val")
    with pytest.raises(EvaluationError, match="32x32"):  # the Eigen crop is of other frames
        frames_of(folder, depth_column="far", protocol="nyu").item(0, (64, 64))
    with pytest.raises(LifeError, match="nowhere"):
        frames_of(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="--protocol"):  # theirs differ
        frames_of(depth_dataset(tmp_path / "other", images, list(depths), FLOATS), nyu)
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "a") as content:
        del content["rawDepths"]
    with pytest.raises(EvaluationError, match="rawDepths"):
        frames_of(nyu)


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
    assert set(np.unique(sampled(depth, (7, 9)))) <= set(depth.ravel())
