"""Recordings come in the order in which they were made, and none is lost without being named."""

import os
from pathlib import Path

import numpy as np
import pytest

from singlelife.errors import LifeError
from singlelife.lives.pairs.segments import first_hours
from singlelife.lives.prepare import plan_preparation, prepare_life
from singlelife.lives.registry import get_life
from singlelife.lives.video.recordings import find_videos, order_of, videos_in

from ..micro import write_clip

NAMES = {  # as cameras give them, in the order of time, and by what that is known
    "recordings: GoPro": "GOPR0001 GP010001 GP020001 GX010002 GX020002 GX010003",
    "recordings: GoPro, of several models": "GH010001 GH020001 GX010002 GX020002 GX110002 GX010010",
    "counters: GoPro among others": "GX010001 GX020001 GX010002 MVI_9",
    "times: phones": "PXL_20240131_235959999 VID_20240201_000001 IMG_20240201_000002",
    "times: phones of two makes": "VID20240131120000 20240131_120001 PXL_20240131_120002001 PXL_20240131_120002900",
    "times: DJI": "DJI_20231231235959_0009_D DJI_20240101000000_0001_D DJI_20240101000500_0002_D",
    "times: Insta360": "VID_20240131_120000_00_002 VID_20240131_120000_00_010 PRO_VID_20240131_120500_00_001",
    "times: dash cameras": "2024_0131_120000_R 2024_0131_120100_F 2024-01-31_12-02-00-front",
    "times: screens": "zoom 2024-01-31 11.59.00|2024-01-31 12-00-00|Screen Recording 2024-01-31 at 12.00.01",
    "counters: phones": "IMG_2 IMG_10 IMG_100",
    "counters: no such day": "clip_20249931_120000 clip_20249931_130000",
}


@pytest.mark.parametrize("camera", NAMES)
@pytest.mark.parametrize("given", ["folder", "glob", "one by one"])
def test_cameras_name_their_files_in_order_of_time(tmp_path, camera, given):
    names = NAMES[camera].split("|" if "|" in NAMES[camera] else None)
    for number, name in enumerate(names):
        (tmp_path / f"{name}.{'MP4' if number % 2 else 'mp4'}").touch()
    shell = sorted(tmp_path.iterdir())  # as a shell expands *
    found = find_videos({"folder": [tmp_path], "glob": [tmp_path / "*"], "one by one": shell}[given])
    assert [path.stem for path in found] == names
    by = {"times": "times in their names", "recordings": "GoPro's numbers", "counters": "by name"}
    assert by[camera.split(":")[0]] in order_of(found)


def test_files_named_in_an_order_of_ones_own_keep_it(tmp_path):
    given = [tmp_path / f"GX0{chapter}000{recording}.MP4" for chapter, recording in ((1, 2), (2, 1), (1, 1))]
    for path in given:
        path.touch()
    assert find_videos(given) == given and order_of(given) == "as given"


def dated(path: Path, date: str | None, level: int) -> None:
    """A second of one grey level, made at a time that the file says."""
    write_clip(
        path, seconds=1, height=16, width=16, tags={"creation_time": date} if date else {},
        picture=lambda _, height, width: np.full((height, width, 3), level, np.uint8),
    )  # fmt: skip


@pytest.mark.integration
def test_otherwise_the_times_of_creation_in_the_files_count_and_hours_follow_them(tmp_path, capsys):
    dated(tmp_path / "a.mp4", "2024-01-31T13:00:00Z", 200)
    dated(tmp_path / "b.mov", "2024-01-31T12:00:00.5Z", 100)
    dated(tmp_path / "sub" / "c.mkv", "2024-01-30T12:00:00+02:00", 50)
    (tmp_path / "d.mp4").write_text("no video")
    (tmp_path / "a_day").symlink_to("/not/mounted")
    assert [path.name for path in find_videos([tmp_path])] == ["c.mkv", "b.mov", "a.mp4", "d.mp4", "a_day"]
    with pytest.warns(UserWarning, match=r"(d\.mp4|a_day)"):
        life = prepare_life(get_life("day", [tmp_path]), cache_dir=tmp_path / "cache", num_workers=1)
    assert "times of creation" in capsys.readouterr().err and "times of creation" in life.metadata["order"]
    shown = [int(frame.float().mean().round()) for frame in life.decode(range(len(life)))]
    assert shown == pytest.approx([50] * 10 + [100] * 10 + [200] * 10, abs=3)
    first = first_hours(life.timestamps, life.video_index, 1 / 3600)
    assert shown[:first] == pytest.approx([50] * 10, abs=3)
    dated(tmp_path / "e.mp4", None, 10)  # one that does not say: by name then
    assert [path.name for path in find_videos([tmp_path])] == ["a.mp4", "b.mov", "d.mp4", "e.mp4", "c.mkv", "a_day"]


@pytest.mark.integration
def test_nothing_in_a_folder_is_lost_without_being_named(tmp_path):
    """Links to folders and files, links that lead nowhere or in a circle, a pipe, and a folder that is hidden."""
    folder, elsewhere = tmp_path / "life", tmp_path / "elsewhere"
    for path in (folder / "1.mp4", elsewhere / "card" / "2.mp4", elsewhere / "3.mp4", folder / ".trash" / "x.mp4"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, seconds=1)
    (folder / "card").symlink_to(elsewhere / "card")
    (folder / "again").symlink_to(folder)
    (elsewhere / "card" / "up").symlink_to(folder)
    (folder / "3.mp4").symlink_to(elsewhere / "3.mp4")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (folder / "drive").symlink_to("/not/mounted")
    (folder / "a.mp4").symlink_to(folder / "b.mp4")
    (folder / "b.mp4").symlink_to(folder / "a.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "notes.txt").write_text("nothing")
    lost = {"gone.mp4", "drive", "a.mp4", "b.mp4", "pipe.mp4"}
    good = {"1.mp4", "2.mp4", "3.mp4"}
    assert {path.name for path in videos_in(folder)} >= lost | good
    life = get_life("mine", [folder])
    assert {each["video"] for each in plan_preparation(life, progress=False) if "error" in each} == lost
    with pytest.warns(UserWarning) as warned:
        prepared = prepare_life(life, cache_dir=tmp_path / "cache", progress=False)
    assert set(prepared.videos) == good and len(warned) == len(lost)
    assert {report["video"]: report["error"] for report in prepared.metadata["left_out"]}.keys() == lost
    assert all(any(f"{name}: " in str(each.message) for each in warned) for name in lost)
    with pytest.raises(LifeError) as raised:
        prepare_life(life, cache_dir=tmp_path / "strict", progress=False, strict=True)
    assert all(f"{name}: " in str(raised.value) for name in lost)
    assert not [path for path in (tmp_path / "strict" / "lives").glob("[!.]*") if path.is_dir()]
    with pytest.raises(LifeError, match=r"gone\.mp4: .*link"):
        prepare_life(get_life("mine", [folder / "gone.mp4"]), cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="as another user, who may not read it")
def test_what_may_not_be_read_is_named(tmp_path):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    write_clip(tmp_path / "life" / "1.mp4", seconds=1)
    write_clip(tmp_path / "life" / "private" / "2.mp4", seconds=1)
    write_clip(tmp_path / "life" / "3.mp4", seconds=1).chmod(0)
    (tmp_path / "life" / "private").chmod(0)
    os.seteuid(65534)
    try:
        plan = plan_preparation(get_life("mine", [tmp_path / "life"]), progress=False)
    finally:
        os.seteuid(0)
    assert {each["video"]: "error" in each for each in plan} == {"1.mp4": False, "3.mp4": True, "private": True}
