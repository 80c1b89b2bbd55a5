"""The scripts for lives, run as a user runs them, on small files in the data sets' own layout."""

import json
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import LifeError
from singlelife.lives.registry import get_life

from ..micro import write_clip

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"
sys.path.insert(0, str(SCRIPTS))  # as Python does for a script


HD_EPIC, WALKING_TOURS, KINETICS = map(import_module, ("hd_epic", "walking_tours", "kinetics400"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recordings and caches of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hd_epic(tmp_path) -> Path:
    """Three of P07's nine videos, with SLAM, as the owners' program lays them out."""
    root = tmp_path / "HD-EPIC"
    mapping = {}
    for number, name in enumerate(["P07-20240529-102652", "P07-20240529-131737", "P07-20240529-134410"]):
        video = root / "Videos" / "P07" / f"{name}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.touch()
        video.with_name(f"{name}_mp4_to_vrs_time_ns.csv").write_text("mp4_time_ns,vrs_device_time_ns\n0,5\n")
        slam = root / "SLAM-and-Gaze" / "P07" / "SLAM"
        archive = slam / ("other_aligned" if number == 2 else "multi") / f"{name if number == 2 else number}.zip"
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive, "w") as file:
            for part in HD_EPIC.SLAM_FILES:
                file.writestr(f"{number}/slam/{part}", "x")
        if number < 2:
            mapping[f"/dataset/{name}_anonymized.vrs"] = str(number)
    (slam / "multi" / "vrs_to_multi_slam.json").write_text(json.dumps(mapping))
    return root


def test_hd_epic_says_whose_slam_is_here(hd_epic, capsys):
    assert HD_EPIC.main(["hdepic_7", "--root", str(hd_epic)]) == 0
    assert "SLAM of 3 of 3 videos" in capsys.readouterr().out
    assert HD_EPIC.main(["--root", str(hd_epic)]) == HD_EPIC.main([]) == 1  # of the other seven nothing is here
    assert "hd-epic-downloader" in capsys.readouterr().out
    assert HD_EPIC.main(["hdepic_7", "--root", "nowhere"]) == HD_EPIC.main(["hdepic_77"]) == 2


def test_hd_epic_names_what_slam_lacks(hd_epic, capsys):
    slam = hd_epic / "SLAM-and-Gaze" / "P07" / "SLAM"
    (slam / "multi" / "1.zip").write_bytes((slam / "multi" / "1.zip").read_bytes()[:50])
    with zipfile.ZipFile(slam / "multi" / "0.zip", "w") as file:
        for part in HD_EPIC.SLAM_FILES[:2]:
            file.writestr(f"0/slam/{part}", "x")
    (hd_epic / "Videos" / "P07" / "P07-20240529-134410_mp4_to_vrs_time_ns.csv").unlink()
    assert HD_EPIC.main(["hdepic_7", "--root", str(hd_epic)]) == 1
    out = capsys.readouterr().out
    assert "P07-20240529-102652: SLAM/multi/0: semidense_observations.csv.gz" in out
    assert "P07-20240529-131737: SLAM/multi/1.zip is damaged" in out and "SLAM of 0 of 3 videos" in out
    (slam / "multi" / "vrs_to_multi_slam.json").write_text("[")
    assert HD_EPIC.main(["hdepic_7", "--root", str(hd_epic)]) == 1
    assert "vrs_to_multi_slam.json cannot be read" in capsys.readouterr().out


WTOUR = """\
https://www.youtube.com/watch?v=AAAAAAAAAAA, Amsterdam
https://www.youtube.com/watch?v=DDDDDDDDDDD Istanbul

https://www.youtube.com/watch?v=EEEEEEEEEEE,Kuala_Lampur
https://www.youtube.com/watch?v=CCCCCCCCCCC,  Chiang Mai
"""


def test_the_films_are_listed_by_life(tmp_path, monkeypatch, capsys):
    (tmp_path / "WTour.txt").write_text(WTOUR)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "WTour.txt"))
    assert WALKING_TOURS.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["wt_1", "Amsterdam", "https://www.youtube.com/watch?v=AAAAAAAAAAA"]
    assert "CCCCCCCCCCC" in lines[2] and "DDDDDDDDDDD" in lines[3] and "EEEEEEEEEEE" in lines[4]
    assert "not in the list" in lines[7]


@pytest.fixture
def kinetics(tmp_path) -> Path:
    root = tmp_path / "k400"
    for number in range(8):
        name = f"{'abcdefgh'[number] * 11}_00000{number}_00001{number}.mp4"
        write_clip(root / ("juggling" if number % 2 else "yoga") / name, seconds=2)
    (root / "yoga" / "zzzzzzzzzzz_000000_000010.mp4").write_bytes(b"cut off")
    return root


def test_a_sample_is_drawn_written_down_and_used_again(kinetics, tmp_path, capsys):
    words = ["--root", str(kinetics), "--hours", str(9 / 3600)]
    assert KINETICS.main(words[:2]) == 1
    assert "last 16 s, not 30 h" in capsys.readouterr().out
    assert KINETICS.main(["--root", str(tmp_path / "nowhere")]) == 1
    assert "as its owners' page says" in capsys.readouterr().out
    assert KINETICS.main(words) == 0
    listed = tmp_path / "lives" / "k400_30h" / "videos.txt"
    drawn = listed.read_text()
    assert "5 clips of Kinetics-400, 10 s: drawn from 9 with seed 0" in drawn
    videos = get_life("k400_30h").videos
    assert len(videos) == 5 and all(Path(video).is_file() for video in videos)

    write_clip(kinetics / "yoga" / "iiiiiiiiiii_000000_000010.mp4", seconds=2)
    assert KINETICS.main(words) == 0
    assert "is used again" in capsys.readouterr().out and listed.read_text() == drawn
    listed.unlink()
    assert KINETICS.main(words) == 0 and listed.read_text() != drawn


CLIPS = [Path(f"clip_{number:02d}.mp4") for number in range(20)]


@given(st.permutations(CLIPS), st.sampled_from([".mp4", ".mkv"]), st.sampled_from(["", "train/juggling"]))
def test_a_sample_depends_on_the_names_alone_and_is_this_one_for_ever(clips, suffix, folder):
    moved = [Path(folder) / clip.with_suffix(suffix) for clip in clips]
    drawn = KINETICS.draw_sample(moved, 35, 0, lambda _: 10.0)
    assert [clip.stem for clip in drawn.clips] == ["clip_00", "clip_02", "clip_11", "clip_17"]
    assert drawn.seconds == 40


def test_only_the_clips_that_are_taken_are_opened_and_bad_ones_are_left_out():
    opened = []

    def seconds_of(clip: Path) -> float:
        opened.append(clip)
        if clip.stem.endswith("2"):
            raise LifeError("cut off")
        return 0.0 if clip.stem.endswith("5") else 10.0

    drawn = KINETICS.draw_sample(CLIPS, 150, 1, seconds_of)
    assert len(drawn.clips) == 15 and drawn.seconds == 150
    assert {clip.stem[-1] for clip in drawn.unreadable} <= {"2", "5"} and drawn.unreadable
    assert sorted(opened) == sorted(drawn.clips + drawn.unreadable)
    with pytest.raises(LifeError, match=r"one name: a.clip.mp4 and b.clip.mp4"):
        KINETICS.draw_sample([Path("a/clip.mp4"), Path("b/clip.mp4")], 5, 0, seconds_of)
