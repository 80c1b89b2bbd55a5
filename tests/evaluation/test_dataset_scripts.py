"""The scripts that check evaluation sets, on small files in the real formats."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Pictures

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python does for a script


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["nyu_depth_v2", "scannet", "hpatches"])
def test_what_is_not_here_comes_with_how_to_get_it(name, capsys, tmp_path):
    main = script(name).main
    for words in ([], [str(tmp_path / "nowhere")]):
        assert main(words) == 1
        assert "how to get it: " in capsys.readouterr().out


def test_nyu_is_counted_and_what_is_wrong_is_named(nyu, capsys):
    main = script("nyu_depth_v2").main
    assert main([str(nyu)]) == 0
    out = capsys.readouterr().out
    assert "4 frames of 640x480 px" in out and "3 frames to train on, 1 to test on" in out and "1449" in out
    (nyu / "nyu_depth_v2_labeled.mat").write_bytes(b"cut off")
    assert main([str(nyu)]) == 1
    assert "not an HDF5" in capsys.readouterr().out
    (nyu / "splits.mat").unlink()
    assert main([str(nyu)]) == 1
    assert f"missing: {nyu / 'splits.mat'}" in capsys.readouterr().out


def test_scannet_is_counted(scannet, tmp_path, capsys):
    main = script("scannet").main
    np.savetxt(scannet / "scene0000_00" / "pose" / "2.txt", np.full((4, 4), -np.inf), fmt="%f")
    assert main([str(scannet)]) == 0
    assert "2 scenes, 6 frames, 1 of unknown pose" in capsys.readouterr().out
    (tmp_path / "test.txt").write_text("scene0707_01\nscene0708_00\n")
    assert main([str(scannet), "--scenes", str(tmp_path / "test.txt")]) == 1
    out = capsys.readouterr().out
    assert "missing: the scene scene0708_00" in out and "1 scene, 3 frames" in out


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
    assert "depth/0.png: has mode L" in capsys.readouterr().out


def test_hpatches_is_counted(sequences, capsys):
    module = script("hpatches")
    assert module.main([str(sequences)]) == 1
    assert "missing: 57 of 59 viewpoint sequences" in capsys.readouterr().out
    module.SEQUENCES = {"v": ("viewpoint", 2), "i": ("illumination", 1)}
    assert module.main([str(sequences)]) == 0
    assert "2 of 2 viewpoint sequences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("3.ppm", b"P6\n5 4\n255\nshort", "3.ppm: cannot be read"),
        ("6.ppm", None, "6.ppm: no such file"),
        ("H_1_2", None, "H_1_2: no such file"),
        ("H_1_5", b"1 0 0\n0 nan 0\n0 0 1\n", "H_1_5: not a homography"),
    ],
)
def test_what_is_wrong_with_hpatches_is_named(sequences, capsys, name, content, message):
    path = sequences / "v_one" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert script("hpatches").main([str(sequences)]) == 1
    out = capsys.readouterr().out
    assert message in out and "1 of 59 viewpoint sequences" in out
