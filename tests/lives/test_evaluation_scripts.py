"""The scripts for evaluation sets, on small files in the real formats."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
from datasets import Array2D, Dataset, Features, Image, load_from_disk
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


def test_nyu_becomes_a_dataset_with_the_official_split(nyu, tmp_path, capsys):
    out = tmp_path / "prepared"
    assert script("nyu_depth_v2").main([str(nyu), "--prepare", str(out)]) == 0
    said = capsys.readouterr().out
    assert "10 frames of 16x12 px" in said and "7 frames to train on, 3 to test on" in said
    assert "note: nyu_depth_v2_labeled.mat has 10 frames, the official one 1449" in said
    content = load_from_disk(str(out))
    assert {name: split["index"][:] for name, split in content.items()} == {
        "train": [1, 2, 4, 5, 6, 7, 8], "test": [0, 3, 9]
    }  # fmt: skip
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat") as source:
        for row in content["test"].with_format("numpy"):
            index = int(row["index"])
            for y, x in ((0, 0), (3, 15), (11, 2)):
                assert row["image"][y, x].tolist() == source["images"][index, :, x, y].tolist()
                assert row["depth"][y, x] == source["depths"][index, x, y]
                assert row["raw_depth"][y, x] == source["rawDepths"][index, x, y]
            assert row["depth"].dtype == np.float32 and row["depth"].shape == (HEIGHT, WIDTH)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nyu", "prepared"]


def test_nyu_without_its_split_is_one_split(nyu, tmp_path, capsys):
    (nyu / "splits.mat").unlink()
    assert script("nyu_depth_v2").main([str(nyu), "--prepare", str(tmp_path / "out")]) == 0
    assert "without splits.mat there is no official test" in capsys.readouterr().out
    assert len(load_from_disk(str(tmp_path / "out"))["unsplit"]) == NUM_FRAMES


def test_nyu_is_not_prepared_over_what_is_there(nyu, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert script("nyu_depth_v2").main([str(nyu), "--prepare", str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err


def damage_file(folder: Path) -> None:
    whole = (folder / "nyu_depth_v2_labeled.mat").read_bytes()
    (folder / "nyu_depth_v2_labeled.mat").write_bytes(whole[: len(whole) // 2])


def drop_depth(folder: Path) -> None:
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "a") as content:
        del content["rawDepths"]


def repeat_frame(folder: Path) -> None:
    savemat(folder / "splits.mat", {"testNdxs": np.array([[1], [2]]), "trainNdxs": np.array([[2], [3]])})


def leave_range(folder: Path) -> None:
    savemat(folder / "splits.mat", {"testNdxs": np.array([[11]]), "trainNdxs": np.array([[2], [3]])})


def damage_split(folder: Path) -> None:
    (folder / "splits.mat").write_bytes(b"MATLAB")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_file, "not an HDF5 (MATLAB v7.3) file, or cut off"),
        (drop_depth, "its arrays should be images (n, 3, w, h)"),
        (repeat_frame, "its frames should be 1 to 10, each once"),
        (leave_range, "its frames should be 1 to 10, each once"),
        (damage_split, "cannot be read as the official split"),
        (lambda folder: (folder / "nyu_depth_v2_labeled.mat").unlink(), "missing: "),
    ],
)
def test_what_is_wrong_with_nyu_is_named_and_nothing_made(nyu, tmp_path, capsys, damage, message):
    damage(nyu)
    assert script("nyu_depth_v2").main([str(nyu), "--prepare", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def hub_like(folder: Path, depth: np.ndarray, feature: object) -> Path:
    """A data set as the Hub has it: Parquet with images and depth."""
    images = [Pictures.fromarray(RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)) for _ in depth]
    values = [Pictures.fromarray(level) for level in depth] if isinstance(feature, Image) else list(depth)
    features = Features({"image": Image(), "depth_map": feature})
    folder.mkdir()
    Dataset.from_dict({"image": images, "depth_map": values}, features=features).to_parquet(folder / "train.parquet")
    return folder


def test_nyu_of_the_hub_comes_into_the_same_form(tmp_path, capsys):
    depth = RANDOM.uniform(0, 10, (3, HEIGHT, WIDTH)).astype(np.float32)
    source = hub_like(tmp_path / "floats", depth, Array2D((HEIGHT, WIDTH), "float32"))
    assert script("nyu_depth_v2").main(["--hub", str(source), "--prepare", str(tmp_path / "out")]) == 0
    content = load_from_disk(str(tmp_path / "out"))["train"]
    assert np.array_equal(np.array(content.with_format("numpy")["depth"][:]), depth)

    levels = (depth * 1000).astype(np.uint16)
    source = hub_like(tmp_path / "levels", levels, Image())
    main = script("nyu_depth_v2").main
    assert main(["--hub", str(source), "--prepare", str(tmp_path / "metres")]) == 2
    assert "--depth-scale" in capsys.readouterr().err
    assert main(["--hub", str(source), "--depth-scale", "0.001", "--prepare", str(tmp_path / "metres")]) == 0
    content = load_from_disk(str(tmp_path / "metres"))["train"]
    assert np.allclose(np.array(content.with_format("numpy")["depth"][:]), depth, atol=1.1e-3)


def test_depth_that_cannot_be_metres_is_refused(tmp_path, capsys):
    depth = RANDOM.uniform(500, 9000, (1, HEIGHT, WIDTH)).astype(np.float32)
    source = hub_like(tmp_path / "millimetres", depth, Array2D((HEIGHT, WIDTH), "float32"))
    assert script("nyu_depth_v2").main(["--hub", str(source)]) == 2
    assert "cannot be metres in a room" in capsys.readouterr().err
    assert script("nyu_depth_v2").main(["--hub", "no-such-org/no-such-set"]) == 2
    assert "--hub no-such-org/no-such-set cannot be loaded" in capsys.readouterr().err


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


def test_scannet_is_checked_and_indexed(scannet, capsys):
    main = script("scannet").main
    assert main([str(scannet), "--index"]) == 0
    assert "2 scenes, 8 frames, 1 of unknown pose" in capsys.readouterr().out
    with (scannet / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scene"], row["frame"]) for row in rows[:4]] == [
        ("scene0000_00", frame) for frame in ("0", "1", "2", "10")
    ]
    assert [row["pose_known"] for row in rows] == ["1", "0", *6 * ["1"]]
    for row in rows:
        assert all((scannet / row[kind]).is_file() for kind in ("color", "depth", "pose", "intrinsic"))
    assert rows[3]["depth"] == "scene0000_00/depth/10.png"


def test_a_list_says_which_scenes_count(scannet, tmp_path, capsys):
    (tmp_path / "test.txt").write_text("scene0707_01\nscene0708_00\n")
    assert script("scannet").main([str(scannet), "--scenes", str(tmp_path / "test.txt"), "--index"]) == 1
    out = capsys.readouterr().out
    assert "missing: the scene scene0708_00" in out and "1 scene, 4 frames" in out
    assert not (scannet / "index.csv").exists()


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


def test_a_homography_is_read(hpatches_whole):
    homography = script("hpatches").read_homography(hpatches_whole / "v_3" / "H_1_4")
    assert homography.dtype == np.float64
    assert homography.tolist() == [[0.9, 0.1, 4], [0, 1.1, 2], [1e-4, 0, 1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("3.ppm", b"P6\n5 4\n255\nshort", "3.ppm: cannot be read"),
        ("6.ppm", None, "6.ppm: no such file"),
        ("H_1_2", None, "H_1_2: no such file"),
        ("H_1_2", b"1 0 0\n0 1 0\n", "H_1_2: not a homography"),
        ("H_1_5", b"1 0 0\n0 1 0\n1 1 0\n", "H_1_5: not a homography"),
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
