"""Preparing a life: whole or not at all, once, and what is bad in it named."""

import os
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from singlelife.errors import LifeError
from singlelife.lives.prepare import life_fingerprint, losses, plan_preparation, prepare_life
from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life
from singlelife.lives.shards import Shard

from ..micro import write_clip

pytestmark = pytest.mark.integration

HIGHWAY = Path(__file__).parents[1] / "data" / "highway_2s.mp4"


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_clip(tmp_path / "clip.mp4", seconds=1)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_preparation(monkeypatch) -> None:
    """To prepare something in this process fails the test."""
    monkeypatch.setattr(Shard, "write", lambda *_: pytest.fail("prepared"))


def prepare(name: str, videos: list[Path], cache: Path, **arguments) -> PreparedLife:
    """Prepare a life in this process. A warning is an error, unless the test expects one."""
    return prepare_life(get_life(name, videos), cache_dir=cache, num_workers=1, progress=False, **arguments)


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "lives").glob("[!.]*") if path.is_dir())


def test_a_life_is_prepared_once(clip, cache, request):
    first = prepare("walk", [clip], cache)
    request.getfixturevalue("no_preparation")
    assert prepare("walk", [clip], cache).path == first.path
    assert folders(cache) == [f"walk-{life_fingerprint(get_life('walk', [clip]))[:12]}"]
    assert len(first) == 10


def test_whatever_changes_the_frames_changes_the_fingerprint(tmp_path):
    a, b = write_clip(tmp_path / "a.mp4", seconds=1), write_clip(tmp_path / "b.mp4", seconds=2)
    life, simulated = get_life("walk", [a, b]), get_life("sim_1")
    changes = ({"frame_rate": 5.0}, {"frame_size": 32}, {"name": "run"}, {"videos": life.videos[::-1]},
               {"pairs_within_video": True})  # fmt: skip
    prints = [life_fingerprint(replace(life, **change)) for change in ({}, *changes)]
    content = bytearray(a.read_bytes())
    content[-1] ^= 1
    for changed in (content, content + b"\0"):
        a.write_bytes(changed)
        prints.append(life_fingerprint(life))
    for change in ({}, {"seed": 77}, {"num_frames": 5}, {"still": True}):
        prints.append(life_fingerprint(replace(simulated, simulation=replace(simulated.simulation, **change))))
    assert len(set(prints)) == len(prints)


def test_fingerprints_never_change():
    """Lives that were prepared before are found by them."""
    assert life_fingerprint(get_life("road", [HIGHWAY]))[:12] == "d81cd252c2b7"
    if version("vizdoom") == "1.3.2":  # which counts
        assert life_fingerprint(get_life("sim_1"))[:12] == "d7bff9a44a4e"


def test_files_of_one_name_in_two_folders_stay_two_videos(tmp_path, cache):
    """Cameras count from 1 again in every folder."""
    clips = [write_clip(tmp_path / day / "GX01.mp4", seconds=1) for day in ("monday", "tuesday")]
    assert prepare("walk", clips, cache).videos == ["monday/GX01.mp4", "tuesday/GX01.mp4"]
    with pytest.raises(LifeError, match="only once"):
        prepare_life(replace(get_life("walk", clips), videos=(str(clips[0]), str(clips[0]))), cache_dir=cache)


def make_bad_files(folder: Path) -> dict[str, str]:
    """Files that hold no usable video, and what is to be said of each."""
    folder.mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello " * 100)
    whole = write_clip(folder / "cut.mp4", seconds=1).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    highway = HIGHWAY.read_bytes()
    frames, end = highway.index(b"mdat") + 4, highway.index(b"moov") - 4
    (folder / "zeros.mp4").write_bytes(highway[:frames] + bytes(end - frames) + highway[end:])
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "not a video that can be read",
        "cut.mp4": "not a video that can be read, or cut off",
        "zeros.mp4": "no frame of it can be decoded",
    }


def test_bad_files_are_named_and_the_others_go_in(tmp_path, cache, clip):
    bad = make_bad_files(tmp_path / "bad")
    with pytest.raises(LifeError, match="No video of the life walk can be used") as raised:
        prepare("walk", [tmp_path / "bad"], cache)
    assert all(f"{name}: {reason}" in str(raised.value) for name, reason in bad.items())
    assert folders(cache) == []
    with pytest.warns(UserWarning) as warned:
        life = prepare("walk", [tmp_path / "bad", clip], cache)
    said = "\n".join(str(warning.message) for warning in warned)
    assert len(warned) == len(bad) and all(f"{name}: {reason}" in said for name, reason in bad.items())
    assert life.videos == ["clip.mp4"] and len(life) == 10
    assert {path.suffix for path in life.path.iterdir()} == {".arrow", ".json"}
    assert str(tmp_path) not in str(life.metadata)  # which may be published with it


def test_a_full_disk_is_said_before_the_work_starts(cache, clip, monkeypatch, no_preparation):
    usage = shutil.disk_usage(clip.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(LifeError, match=r"walk needs about .* kB in .* 1.0 kB are free. .*--cache-dir"):
        prepare("walk", [clip], cache)


def test_a_plan_is_near_what_is_done_and_a_cut_file_goes_in_unless_strict(tmp_path, cache):
    clips = [write_clip(tmp_path / f"{number}.mp4", seconds=5, height=144, width=192) for number in range(4)]
    content = write_clip(tmp_path / "whole.mkv", seconds=8).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    life = get_life("walk", [*clips, tmp_path / "cut.mkv"])
    plan = plan_preparation(life)
    assert losses(plan)[0].startswith("cut.mkv: it ends after")
    with pytest.warns(UserWarning, match=r"cut.mkv: it ends after \d.\d of the 8.0 s"):
        done = prepare("walk", life.videos, cache)
    with pytest.raises(LifeError, match=r"cut.mkv: it ends after"):
        prepare("walk", life.videos, cache, strict=True)
    assert 230 < len(done) < 250
    num_frames, num_bytes = (sum(video[what] for video in plan) for what in ("num_frames", "num_bytes"))
    assert num_frames == pytest.approx(280, abs=5)  # of the cut one, what its header says
    stored = sum(file.stat().st_size for file in done.path.glob("*.arrow"))
    assert 0.3 * stored < num_bytes < 3 * stored


@pytest.fixture
def long_videos(tmp_path) -> list[Path]:
    """A short video, and then some that keep two processes busy for seconds."""
    short = write_clip(tmp_path / "videos" / "0.mp4", seconds=1)
    long = write_clip(tmp_path / "videos" / "1.mp4", seconds=60)
    return [short, long, *(Path(shutil.copy(long, long.with_stem(str(number)))) for number in range(2, 8))]


@pytest.fixture
def preparing(long_videos, cache) -> Iterator[BaseProcess]:
    """A process that prepares them with two workers, and has just finished the first."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["singlelife.lives.prepare"])
    arguments = {"cache_dir": cache, "num_workers": 2}
    process = context.Process(target=prepare_life, args=(get_life("walk", long_videos),), kwargs=arguments)
    process.start()
    while not list(cache.glob("lives/*.partial/*-00000-*.report.json")):
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_preparation_goes_on_and_gives_the_same(preparing, number, long_videos, cache, tmp_path):
    workers = psutil.Process(preparing.pid).children(recursive=True)
    os.kill(preparing.pid, number)
    preparing.join(2)
    if preparing.exitcode is None:  # Python drops an interrupt that falls into a callback of a weak reference
        os.kill(preparing.pid, number)
        preparing.join(20)
    assert preparing.exitcode not in (None, 0)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive

    [partial] = folders(cache)
    assert partial.endswith(".partial")
    with pytest.raises(LifeError, match="not a prepared life"):
        PreparedLife.load(cache / "lives" / partial)
    done = {path.name: path.stat().st_mtime_ns for path in (cache / "lives" / partial).glob("*-00000-*.arrow")}

    resumed = prepare("walk", long_videos, cache)
    assert folders(cache) == [partial.removesuffix(".partial")]
    assert {path.name: path.stat().st_mtime_ns for path in resumed.path.glob("*-00000-*.arrow")} == done
    assert not [path.name for path in resumed.path.iterdir() if path.suffix not in (".arrow", ".json")]
    assert resumed.dataset.data.table.equals(
        prepare("walk", long_videos, tmp_path / "uninterrupted").dataset.data.table
    )


def test_two_at_once_make_it_once(preparing, long_videos, cache, no_preparation, capsys):
    life = prepare("walk", long_videos, cache)
    assert "the life walk; waiting for it" in capsys.readouterr().err
    assert len(life) == 10 + 7 * 600
    preparing.join(20)
    assert preparing.exitcode == 0


def test_workers_give_the_same_as_this_process(tmp_path, cache):
    clips = [write_clip(tmp_path / f"{number}.mp4", seconds=1) for number in range(3)]
    (tmp_path / "bad.mp4").touch()
    with warnings.catch_warnings(record=True) as warned:
        many = prepare_life(get_life("walk", [*clips, tmp_path / "bad.mp4"]), cache_dir=cache, num_workers=2)
        one = prepare("walk", [*clips, tmp_path / "bad.mp4"], tmp_path / "one")
    assert len(warned) == 2
    assert many.dataset.data.table.equals(one.dataset.data.table)
    assert many.metadata == one.metadata
