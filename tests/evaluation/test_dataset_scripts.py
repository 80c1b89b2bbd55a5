"""The scripts that check evaluation sets, on small files in the real formats."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"


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
    assert "HDF5" in capsys.readouterr().out
    (nyu / "splits.mat").unlink()
    assert main([str(nyu)]) == 1
    assert f"missing: {nyu / 'splits.mat'}" in capsys.readouterr().out


def test_scannet_is_counted(scannet, tmp_path, capsys):
    main = script("scannet").main
    assert main([str(scannet)]) == 0
    assert "2 scenes, 6 frames" in capsys.readouterr().out
    (tmp_path / "test.txt").write_text("scene0707_01\nscene0708_00\n")
    assert main([str(scannet), "--scenes", str(tmp_path / "test.txt")]) == 1
    out = capsys.readouterr().out
    assert "missing: the frames of scene0708_00" in out and "2 scenes, 3 frames" in out


def test_hpatches_is_counted(sequences, capsys):
    module = script("hpatches")
    assert module.main([str(sequences)]) == 1
    assert "missing: 57 of 59 viewpoint sequences" in capsys.readouterr().out
    module.SEQUENCES = {"v": ("viewpoint", 2), "i": ("illumination", 1)}
    assert module.main([str(sequences)]) == 0
    assert "2 of 2 viewpoint sequences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("scannet", "scene0000_00/color/2.jpg", None, "scene0000_00: color of frame 2"),
        ("scannet", "scene0000_00/depth/10.png", b"", "scene0000_00: depth of frame 10"),
        ("scannet", "scene0000_00/depth/0.png", b"no picture", "depth/0.png: cannot be read"),
        ("hpatches", "v_one/3.ppm", b"P6\n5 4\n255\nshort", "3.ppm: not an image"),
        ("hpatches", "v_one/6.ppm", None, "6.ppm: no such file"),
        ("hpatches", "v_one/H_1_2", None, "H_1_2: no such file"),
        ("hpatches", "v_one/H_1_5", b"1 0 0\n0 nan 0\n0 0 1\n", "H_1_5: not a homography"),
    ],
)
def test_what_is_wrong_is_named(request, capsys, name, file, content, message):
    folder = request.getfixturevalue({"scannet": "scannet", "hpatches": "sequences"}[name])
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    assert script(name).main([str(folder)]) == 1
    assert message in capsys.readouterr().out
