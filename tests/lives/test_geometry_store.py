"""Geometry kept beside a life: what is kept, when it is made again, and what a user is told."""

import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.cli import main
from singlelife.errors import LifeError
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.scene import store
from singlelife.lives.scene.geometry import Geometry, VisiblePoints
from singlelife.lives.scene.store import FOLDER, METADATA, geometry_metadata, life_geometry, stored_geometry

from .test_colmap import image, write_model

pytestmark = pytest.mark.integration

FRAMES = [image(number, f"small.mp4/{2 * number}.jpg", [number, 5]) for number in range(12)]


@pytest.fixture
def life(small_life, tmp_path, monkeypatch) -> PreparedLife:
    """A copy of a life of 40 frames of a video."""
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    return PreparedLife.load(shutil.copytree(small_life.path, tmp_path / "cache" / small_life.path.name))


@pytest.fixture
def simulated(sim_test, tmp_path, monkeypatch) -> PreparedLife:
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    ignore = shutil.ignore_patterns(FOLDER)
    return PreparedLife.load(shutil.copytree(sim_test.path, tmp_path / "cache" / sim_test.path.name, ignore=ignore))


def equal(a: Geometry, b: Geometry) -> bool:
    pairs = [(a.points.offsets, b.points.offsets), (a.points.ids, b.points.ids), (a.component, b.component),
             (a.poses, b.poses), (a.intrinsics, b.intrinsics)]  # fmt: skip
    return all(one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True) for one, other in pairs)


def test_depth_is_made_into_geometry_once(simulated, monkeypatch):
    made = life_geometry(simulated, progress=False)
    assert len(made) == len(simulated) and (made.points.counts > 20).mean() > 0.9
    monkeypatch.setattr(store, "depth_geometry", None)  # would fail if it were made again
    again = PreparedLife.load(simulated.path)
    assert equal(made, life_geometry(again, progress=False)) and equal(made, stored_geometry(again))
    metadata = geometry_metadata(again)
    assert (metadata["source"], metadata["num_registered"], metadata["chosen"]) == ("depth", len(simulated), False)
    monkeypatch.undo()
    coarse = life_geometry(simulated, voxel_size=60.0, progress=False)  # another setting makes it again, and stays
    assert coarse.points.counts.mean() < made.points.counts.mean() / 2
    assert equal(coarse, life_geometry(simulated, progress=False))
    assert geometry_metadata(simulated)["voxel_size"] == 60.0


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), min_size=1, max_size=9), st.integers(1, 4))
def test_what_is_stored_is_read_back_exactly(tmp_path_factory, frames, rows_in_a_batch):
    folder = tmp_path_factory.mktemp("any")
    generator = np.random.default_rng(len(frames))
    geometry = Geometry(
        VisiblePoints.from_frames([np.array(ids, dtype=np.int64) for ids in frames]),
        generator.integers(-1, 3, len(frames)),
        np.where(generator.random((len(frames), 1, 1)) < 0.3, np.nan, generator.random((len(frames), 4, 4))),
        generator.random((len(frames), 4)),
    )
    life = PreparedLife(folder, {"name": "any"}, datasets.Dataset.from_dict({"timestamp": [0.0] * len(frames)}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_ROWS_IN_A_BATCH", rows_in_a_batch)
        store.store_geometry(life, geometry, {"format_version": 1, "fingerprint": "0" * 64})
    assert equal(geometry, stored_geometry(life))


def test_the_folder_slam_of_a_life_is_found_and_its_changes_noticed(life, tmp_path):
    model = write_model(tmp_path / "lives" / "small" / "slam" / "model", images=FRAMES)
    assert (life_geometry(life, progress=False).component >= 0).sum() == 12
    shutil.rmtree(model)
    write_model(model, images=FRAMES[:4])
    assert (life_geometry(life, progress=False).component >= 0).sum() == 4
    shutil.rmtree(model)
    assert (life_geometry(life, progress=False).component >= 0).sum() == 4  # what was made is kept


def test_a_folder_of_something_else_is_refused_and_nothing_lost(life, tmp_path):
    write_model(tmp_path / "model", images=FRAMES)
    made = life_geometry(life, source=tmp_path / "model", progress=False)
    assert np.flatnonzero(made.component == 0).tolist() == list(range(12))
    shutil.rmtree(tmp_path / "model")
    assert equal(made, life_geometry(life, progress=False))  # a folder that was named is remembered
    (tmp_path / "other").mkdir()
    for source in (tmp_path / "other", tmp_path / "nowhere"):
        with pytest.raises(LifeError, match=r"holds neither Aria MPS output .* nor a COLMAP model"):
            life_geometry(life, source=source, progress=False)
    write_model(tmp_path / "foreign", images=[image(1, "a.jpg", [1])])
    with pytest.raises(LifeError, match="No image of the COLMAP model"):
        life_geometry(life, source=tmp_path / "foreign", progress=False)
    assert equal(made, stored_geometry(life))


@pytest.mark.parametrize("file", ["data-00000-of-00001.arrow", "state.json", METADATA])
def test_what_is_damaged_is_named(life, tmp_path, file):
    write_model(tmp_path / "model", images=FRAMES)
    life_geometry(life, source=tmp_path / "model", progress=False)
    path = life.path / FOLDER / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LifeError, match=r"geometry.* cannot be read .* `singlelife poses small`"):
        stored_geometry(PreparedLife.load(life.path))


def test_a_killed_process_leaves_nothing_half_made(simulated):
    script = (
        "import os, sys\n"
        "from singlelife.lives.scene import store\n"
        "from singlelife.lives.prepared import PreparedLife\n"
        "store.write_dataset_description = lambda *_: os._exit(9)\n"  # the frames are written by then
        "store.life_geometry(PreparedLife.load(sys.argv[1]), progress=False)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(simulated.path)]).returncode == 9
    assert stored_geometry(simulated) is None
    assert len(life_geometry(simulated, progress=False)) == len(simulated)
    (simulated.path / f"{FOLDER}.old.tmp" / "half deleted").mkdir(parents=True)
    life_geometry(simulated, voxel_size=60.0, progress=False)
    assert not list(simulated.path.glob(f"{FOLDER}.*"))


# The command.


def test_the_command_takes_a_folder_and_names_what_is_wrong(clip_folder, small_life, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_CACHE", str(clip_folder / "cache"))
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    write_model(tmp_path / "models" / "0", images=FRAMES)
    words = ["poses", "small", "--video", str(clip_folder / "small.mp4")]
    try:
        assert main([*words, "--from", str(tmp_path / "models")]) == 0
        assert "12 of 40 frames have a pose, from COLMAP" in capsys.readouterr().out
    finally:
        shutil.rmtree(small_life.path / FOLDER, ignore_errors=True)  # which other tests share
    assert main([*words, "--from", str(Path(tmp_path / "nowhere"))]) == 2
    assert "holds neither Aria MPS output" in capsys.readouterr().err
    assert main([*words, "--rate", "0"]) == 2
    assert "--rate should be more than 0 Hz" in capsys.readouterr().err
