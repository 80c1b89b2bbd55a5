"""The scripts for evaluation sets, on small files in the real formats."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image as Pictures
from scipy.io import savemat

from .test_life_scripts import script

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["nyu_depth_v2", "scannet", "hpatches"])
def test_nothing_here_is_told_how_to_get(name, capsys, tmp_path):
    main = script(name).main
    for words in ([], [str(tmp_path / "nowhere")]):
        assert main(words) == 1
        assert "how to get it: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and f"python datasets_scripts/{name}.py" in capsys.readouterr().out


# NYU Depth V2.

NUM_FRAMES, HEIGHT, WIDTH = 10, 12, 16


@pytest.fixture
def nyu(tmp_path) -> Path:
    """The two MATLAB files with ten small frames: the last axis first, numbers from 1."""
    folder = tmp_path / "nyu"
    folder.mkdir()
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as content:
        content["images"] = RANDOM.integers(0, 256, (NUM_FRAMES, 3, WIDTH, HEIGHT), dtype=np.uint8)
        content["depths"] = RANDOM.uniform(0.7, 10, (NUM_FRAMES, WIDTH, HEIGHT)).astype(np.float32)
        content["rawDepths"] = content["depths"][:] * (RANDOM.random((NUM_FRAMES, WIDTH, HEIGHT)) < 0.8)
    tests = np.array([[1], [4], [10]], dtype=np.uint16)
    trains = np.array([[number] for number in (2, 3, 5, 6, 7, 8, 9)], dtype=np.uint16)
    savemat(folder / "splits.mat", {"testNdxs": tests, "trainNdxs": trains}, do_compression=True)
    return folder


def test_nyu_is_counted(nyu, capsys):
    assert script("nyu_depth_v2").main([str(nyu)]) == 0
    out = capsys.readouterr().out
    assert "10 frames of 16x12 px" in out and "7 frames to train on, 3 to test on" in out
    assert "note: " in out and "1449" in out
    (nyu / "nyu_depth_v2_labeled.mat").write_bytes(b"cut off")
    assert script("nyu_depth_v2").main([str(nyu)]) == 1
    assert "not an HDF5" in capsys.readouterr().out
    (nyu / "splits.mat").unlink()
    assert script("nyu_depth_v2").main([str(nyu)]) == 1
    assert f"missing: {nyu / 'splits.mat'}" in capsys.readouterr().out


# ScanNet.


@pytest.fixture
def scannet(tmp_path) -> Path:
    """Two scenes as the owners' SensReader exports them; one pose is not known."""
    folder = tmp_path / "scans"
    for scene in ("scene0000_00", "scene0707_01"):
        for kind in ("color", "depth", "pose", "intrinsic"):
            (folder / scene / kind).mkdir(parents=True)
        for frame in (0, 1, 2, 10):
            Pictures.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / scene / "color" / f"{frame}.jpg")
            Pictures.fromarray(np.full((6, 8), 1500, np.uint16)).save(folder / scene / "depth" / f"{frame}.png")
            pose = np.full((4, 4), -np.inf) if (scene, frame) == ("scene0000_00", 1) else np.eye(4)
            np.savetxt(folder / scene / "pose" / f"{frame}.txt", pose, fmt="%f")
        np.savetxt(folder / scene / "intrinsic" / "intrinsic_depth.txt", np.eye(4), fmt="%f")
    return folder


def test_scannet_is_counted(scannet, tmp_path, capsys):
    main = script("scannet").main
    assert main([str(scannet)]) == 0
    assert "2 scenes, 8 frames, 1 of unknown pose" in capsys.readouterr().out
    (tmp_path / "test.txt").write_text("scene0707_01\nscene0708_00\n")
    assert main([str(scannet), "--scenes", str(tmp_path / "test.txt")]) == 1
    out = capsys.readouterr().out
    assert "missing: the scene scene0708_00" in out and "1 scene, 4 frames" in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pose/2.txt", None, "scene0000_00: pose of frame 2"),
        ("depth/10.png", b"", "scene0000_00: depth of frame 10"),
        ("pose/0.txt", b"1 2 3", "pose/0.txt: a pose has 4x4 numbers"),
        ("pose/0.txt", b"one", "pose/0.txt: cannot be read"),
        ("depth/0.png", b"no picture", "depth/0.png: cannot be read"),
        ("intrinsic/intrinsic_depth.txt", None, "scene0000_00/intrinsic/intrinsic_depth.txt"),
    ],
)
def test_what_is_wrong_with_scannet_is_named(scannet, capsys, name, content, message):
    path = scannet / "scene0000_00" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert script("scannet").main([str(scannet)]) == 1
    assert message in capsys.readouterr().out


def test_depth_of_8_bits_is_no_depth(scannet, capsys):
    Pictures.fromarray(np.zeros((6, 8), np.uint8)).save(scannet / "scene0000_00" / "depth" / "0.png")
    assert script("scannet").main([str(scannet)]) == 1
    assert "has mode L, where depth is 16-bit" in capsys.readouterr().out


# HPatches.


@pytest.fixture(scope="module")
def hpatches_whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hpatches-sequences-release")
    for name in [f"v_{number}" for number in range(59)] + [f"i_{number}" for number in range(57)]:
        (folder / name).mkdir()
        for number in range(1, 7):
            Pictures.fromarray(np.full((4, 5, 3), number, np.uint8)).save(folder / name / f"{number}.ppm")
        for number in range(2, 7):
            homography = (
                np.eye(3) if name.startswith("i") else np.array([[0.9, 0.1, number], [0, 1.1, 2], [1e-4, 0, 1]])
            )
            np.savetxt(folder / name / f"H_1_{number}", homography)
    return folder


def test_hpatches_is_counted(hpatches_whole, capsys):
    assert script("hpatches").main([str(hpatches_whole)]) == 0
    out = capsys.readouterr().out
    assert "59 of 59 viewpoint sequences" in out and "57 of 57 illumination sequences" in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("3.ppm", b"P6\n5 4\n255\nshort", "3.ppm: cannot be read"),
        ("6.ppm", None, "6.ppm: no such file"),
        ("H_1_2", None, "H_1_2: no such file"),
        ("H_1_2", b"1 0 0\n0 1 0\n", "H_1_2: not a homography"),
        ("H_1_5", b"1 0 0\n0 nan 0\n0 0 1\n", "H_1_5: not a homography"),
    ],
)
def test_what_is_wrong_with_hpatches_is_named(tmp_path, capsys, name, content, message):
    sequence = tmp_path / "v_wall"
    sequence.mkdir()
    for number in range(1, 7):
        Pictures.fromarray(np.zeros((4, 5, 3), np.uint8)).save(sequence / f"{number}.ppm")
        np.savetxt(sequence / f"H_1_{number}", np.eye(3))
    (sequence / name).unlink()
    if content is not None:
        (sequence / name).write_bytes(content)
    assert script("hpatches").main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert message in out and "0 of 59 viewpoint sequences" in out
    assert "missing: 58 of 59 viewpoint sequences (v_*)" in out
