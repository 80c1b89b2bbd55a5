"""The scripts that check evaluation sets, on small files in the real formats."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python does for a script


@pytest.mark.parametrize("name", ["nyu_depth_v2", "scannet", "hpatches"])
def test_what_is_not_here_comes_with_how_to_get_it(name, capsys, tmp_path):
    main = import_module(name).main
    for words in ([], [str(tmp_path / "nowhere")]):
        assert main(words) == 1
        assert "how to get it: " in capsys.readouterr().out


def test_what_is_here_is_counted(nyu, scannet, sequences, tmp_path, capsys):
    assert import_module("nyu_depth_v2").main([str(nyu)]) == 0
    out = capsys.readouterr().out
    assert "4 frames of 640x480 px" in out and "3 frames to train on, 1 to test on" in out and "1449" in out
    assert import_module("scannet").main([str(scannet)]) == 0
    assert "2 scenes, 6 frames" in capsys.readouterr().out
    (tmp_path / "test.txt").write_text("scene0707_01\nscene0708_00\n")
    assert import_module("scannet").main([str(scannet), "--scenes", str(tmp_path / "test.txt")]) == 1
    assert "missing: the frames of scene0708_00" in capsys.readouterr().out
    assert import_module("hpatches").main([str(sequences)]) == 1
    assert "missing: 57 of 59 viewpoint sequences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "data", "file", "content", "message"),
    [
        ("nyu_depth_v2", "nyu", "nyu_depth_v2_labeled.mat", b"cut off", "HDF5"),
        ("scannet", "scannet", "scene0000_00/color/2.jpg", None, "scene0000_00: color of frame 2"),
        ("scannet", "scannet", "scene0000_00/depth/0.png", b"no picture", "depth/0.png: cannot be read"),
        ("hpatches", "sequences", "v_one/H_1_5", b"1 0 0\n0 nan 0\n0 0 1\n", "H_1_5: not a homography"),
    ],
)
def test_what_is_wrong_is_named(request, capsys, name, data, file, content, message):
    folder = request.getfixturevalue(data)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    assert import_module(name).main([str(folder)]) == 1
    assert message in capsys.readouterr().out
