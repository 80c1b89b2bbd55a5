"""The scripts for lives, run as a user runs them, on small files in the data sets' own layout."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from singlelife.lives.prepared import PreparedLife
from singlelife.lives.registry import get_life

from .conftest import write_clip

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"
LIFE_SCRIPTS = ("hd_epic", "walking_tours", "own_recording", "controls", "kinetics400")
SLAM_FILES = (
    "closed_loop_trajectory.csv",
    "online_calibration.jsonl",
    "semidense_observations.csv.gz",
    "semidense_points.csv.gz",
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Recordings and caches of the test's own; no token."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no_token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def prepared(cache: Path) -> PreparedLife:
    [path] = [path for path in (cache / "lives").iterdir() if path.is_dir()]
    return PreparedLife.load(path)


@pytest.mark.parametrize("name", LIFE_SCRIPTS)
def test_help_teaches_and_nothing_here_is_told_how_to_get(name, tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, SCRIPTS / f"{name}.py", *words], capture_output=True, text=True)

    teaching = run("--help")
    assert teaching.returncode == 0
    assert f"python datasets_scripts/{name}.py" in teaching.stdout and "exit codes:" in teaching.stdout
    nothing = run()
    assert nothing.returncode == 1
    assert "missing: there is no video in" in nothing.stdout and "how to get" in nothing.stdout
    assert not nothing.stderr
    assert run("no_such_life" if name != "own_recording" else "wt_1").returncode == 2
    assert run("--no-such-flag").returncode == 2


# HD-EPIC.


@pytest.fixture
def hd_epic(tmp_path) -> Path:
    """Three of P07's nine videos, with SLAM, as the owners' program lays them out."""
    root = tmp_path / "HD-EPIC"
    mapping = {}
    for number, name in enumerate(["P07-20240529-102652", "P07-20240529-131737", "P07-20240529-134410"]):
        video = write_clip(root / "Videos" / "P07" / f"{name}.mp4", seconds=1, height=80, width=80)
        video.with_name(f"{name}_mp4_to_vrs_time_ns.csv").write_text("mp4_time_ns,vrs_device_time_ns\n0,5\n")
        slam = root / "SLAM-and-Gaze" / "P07" / "SLAM"
        archive = slam / ("other_aligned" if number == 2 else "multi") / f"{name if number == 2 else number}.zip"
        archive.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive, "w") as file:
            for part in SLAM_FILES:
                file.writestr(f"{number}/slam/{part}", "x")
        if number < 2:
            mapping[f"/dataset/{name}_anonymized.vrs"] = str(number)
    (slam / "multi" / "vrs_to_multi_slam.json").write_text(json.dumps(mapping))
    return root


def test_hd_epic_says_what_is_here_in_the_owners_folders(hd_epic, capsys):
    assert script("hd_epic").SCRIPT.run(["hdepic_7", "--root", str(hd_epic), "--slam"]) == 1
    out = capsys.readouterr().out
    assert "3 of 9 videos in" in out and "80x80 px at 20 Hz" in out
    assert "missing: 6 of its 9 videos" in out
    assert "SLAM of 3 of 3 videos" in out
    assert "note: P07-20240529-102652.mp4 is smaller than the 256 px" in out
    assert "how to get hdepic_7" in out


def test_hd_epic_names_what_slam_lacks(hd_epic, capsys):
    slam = hd_epic / "SLAM-and-Gaze" / "P07" / "SLAM"
    (slam / "multi" / "1.zip").write_bytes((slam / "multi" / "1.zip").read_bytes()[:50])
    with zipfile.ZipFile(slam / "multi" / "0.zip", "w") as file:
        for part in SLAM_FILES[:2]:
            file.writestr(f"0/slam/{part}", "x")
    (slam / "other_aligned" / "P07-20240529-134410.zip").unlink()
    (hd_epic / "Videos" / "P07" / "P07-20240529-134410_mp4_to_vrs_time_ns.csv").unlink()
    assert script("hd_epic").SCRIPT.run(["hdepic_7", "--root", str(hd_epic), "--slam"]) == 1
    out = capsys.readouterr().out
    assert "P07-20240529-102652: SLAM/multi/0: semidense_observations.csv.gz" in out
    assert "P07-20240529-131737: SLAM/multi/1.zip is not whole" in out
    assert "SLAM of 0 of 3 videos" in out
    (slam / "multi" / "vrs_to_multi_slam.json").write_text("[")
    assert script("hd_epic").SCRIPT.run(["hdepic_7", "--root", str(hd_epic), "--slam"]) == 1
    assert "vrs_to_multi_slam.json cannot be read" in capsys.readouterr().out


def test_hd_epic_refuses_other_participants_empty_and_damaged_files(hd_epic, capsys):
    folder = hd_epic / "Videos" / "P07"
    (folder / "P07-20240531-101357.mp4").touch()
    (folder / "P07-20240531-201703.mp4").write_bytes(b"no video at all")
    write_clip(folder / "P06-20240510-090328.mp4", seconds=0.2)
    assert script("hd_epic").SCRIPT.run(["hdepic_7", "--root", str(hd_epic)]) == 1
    out = capsys.readouterr().out
    assert "wrong: " in out and "P07-20240531-101357.mp4: the file is empty" in out
    assert "P07-20240531-201703.mp4: not a video that can be read" in out
    assert "P06-20240510-090328.mp4: not the name of a video of hdepic_7" in out
    assert "3 of 9 videos" in out


def test_what_is_incomplete_is_prepared_only_if_asked_for(hd_epic, tmp_path, capsys):
    words = ["hdepic_7", "--root", str(hd_epic), "--prepare", "--workers", "1"]
    assert script("hd_epic").SCRIPT.run(words) == 1
    assert "not prepared, since it is not complete" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()
    assert script("hd_epic").SCRIPT.run([*words, "--incomplete"]) == 0
    assert "prepared: 30 frames" in capsys.readouterr().out
    life = prepared(tmp_path / "cache")
    assert life.name == "hdepic_7" and len(life.videos) == 3 and life.metadata["license"] == "CC BY-NC 4.0"


# Walking Tours.

WTOUR = """\
https://www.youtube.com/watch?v=AAAAAAAAAAA, Amsterdam
https://www.youtube.com/watch?v=DDDDDDDDDDD Istanbul

https://www.youtube.com/watch?v=EEEEEEEEEEE,Kuala_Lampur
https://www.youtube.com/watch?v=CCCCCCCCCCC,  Chiang Mai
"""


def test_the_list_of_films_is_read_with_its_slips():
    films = script("walking_tours").parse_list(WTOUR)
    assert films == {
        "amsterdam": "https://www.youtube.com/watch?v=AAAAAAAAAAA",
        "istanbul": "https://www.youtube.com/watch?v=DDDDDDDDDDD",
        "kuala lampur": "https://www.youtube.com/watch?v=EEEEEEEEEEE",
        "chiang mai": "https://www.youtube.com/watch?v=CCCCCCCCCCC",
    }


def test_the_films_are_said_by_life(tmp_path):
    repository = tmp_path / "hub" / "datasets--shawshankvkt--Walking_Tours"  # as a download leaves it
    commit = "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "WTour.txt").write_text(WTOUR)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    result = subprocess.run(
        [sys.executable, SCRIPTS / "walking_tours.py", "--films"],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 8
    assert lines[0].split() == ["wt_1", "Amsterdam", "https://www.youtube.com/watch?v=AAAAAAAAAAA"]
    assert "EEEEEEEEEEE" in lines[4] and "CCCCCCCCCCC" in lines[2] and "not in the list" in lines[7]


def test_without_the_hub_the_list_is_said_to_be_out_of_reach(capsys):
    assert script("walking_tours").SCRIPT.run(["--films"]) == 2
    assert "WTour.txt of https://huggingface.co/datasets/shawshankvkt/Walking_Tours cannot" in capsys.readouterr().err


def test_a_film_in_the_owners_folders_is_found_and_prepared(tmp_path, capsys):
    write_clip(tmp_path / "videos" / "Chiang Mai" / "some title.mp4", seconds=1)
    words = ["--root", str(tmp_path / "videos")]
    assert script("walking_tours").SCRIPT.run(words) == 1  # the other seven are missing
    assert script("walking_tours").SCRIPT.run(["wt_3", *words, "--prepare"]) == 0
    assert "1 of 1 video in" in capsys.readouterr().out
    assert prepared(tmp_path / "cache").name == "wt_3"


# Own recordings and controls.


def test_an_own_recording_is_described_and_prepared(tmp_path, capsys):
    clips = [str(write_clip(tmp_path / f"{number}.mp4", seconds=2)) for number in range(3)]
    assert script("own_recording").SCRIPT.run(["my_day", "--videos", *clips, "--prepare", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "3 videos in" in out and "6 s" in out and "half an hour of life" in out
    life = prepared(tmp_path / "cache")
    assert life.name == "my_day" and len(life) == 60


def test_the_folder_of_a_life_is_looked_into(tmp_path, capsys):
    write_clip(tmp_path / "lives" / "ald_2" / "monday.mp4", seconds=1)
    assert script("own_recording").SCRIPT.run(["ald_2"]) == 0
    assert "the paper's lives of this kind have about 34 h" in capsys.readouterr().out


def test_the_shuffled_control_is_checked_and_made_by_its_base(tmp_path, capsys):
    clip = write_clip(tmp_path / "amsterdam.mp4", seconds=2)
    words = ["control_shuffled", "--videos", str(clip), "--prepare"]
    assert script("controls").SCRIPT.run(words) == 0
    assert "prepared: 20 frames in" in capsys.readouterr().out
    names = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache" / "lives").iterdir() if path.is_dir())
    assert names == ["control_shuffled", "wt_1"]
    assert script("controls").SCRIPT.run(["shuffled-sim_1"]) == 2
    assert "rendered when it is needed" in capsys.readouterr().err


# Kinetics-400.


@pytest.fixture
def kinetics(tmp_path) -> Path:
    root = tmp_path / "k400"
    for number in range(8):
        name = f"{'abcdefgh'[number] * 11}_00000{number}_00001{number}.mp4"
        write_clip(root / ("juggling" if number % 2 else "yoga") / name, seconds=2)
    (root / "yoga" / "zzzzzzzzzzz_000000_000010.mp4").write_bytes(b"cut off")
    return root


def test_a_sample_is_drawn_written_down_and_used_again(kinetics, tmp_path, capsys):
    main = script("kinetics400").SCRIPT.run
    hours = ["--hours", str(9 / 3600)]
    assert main(["--root", str(kinetics)]) == 1
    assert "last 16 s, not 30 h" in capsys.readouterr().out
    assert main(["--root", str(kinetics), *hours]) == 0
    listed = tmp_path / "lives" / "k400_30h" / "videos.txt"
    drawn = listed.read_text()
    assert "5 clips of Kinetics-400, 10 s: drawn from 9 with seed 0" in drawn
    videos = get_life("k400_30h").videos
    assert len(videos) == 5 and all(Path(video).is_file() for video in videos)

    write_clip(kinetics / "yoga" / "iiiiiiiiiii_000000_000010.mp4", seconds=2)
    assert main(["--root", str(kinetics), *hours]) == 0
    assert "is used again" in capsys.readouterr().out and listed.read_text() == drawn
    assert main(["--root", str(kinetics), *hours, "--redraw"]) == 0
    assert listed.read_text() != drawn
    assert main(["--prepare", "--workers", "1"]) == 0
    assert len(prepared(tmp_path / "cache").videos) == 5


def test_a_folder_without_clips_is_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert script("kinetics400").SCRIPT.run(["--root", str(tmp_path / "empty")]) == 1
    out = capsys.readouterr().out
    assert "there is no clip in" in out and "as its owners' page says" in out


def test_the_sample_of_another_machine_is_taken_by_its_names(kinetics, tmp_path, capsys):
    main = script("kinetics400").SCRIPT.run
    theirs = tmp_path / "theirs.txt"
    theirs.write_text(
        "# of another machine\n/mnt/x/ddddddddddd_000003_000013.mkv\n/mnt/x/aaaaaaaaaaa_000000_000010.mp4\n"
    )
    assert main(["--root", str(kinetics), "--same-as", str(theirs)]) == 0
    assert [Path(video).name[0] for video in get_life("k400_30h").videos] == ["d", "a"]
    theirs.write_text("/mnt/x/ddddddddddd_000003_000013.mkv\nxxxxxxxxxxx_000000_000010.mp4\n")
    assert main(["--root", str(kinetics), "--same-as", str(theirs), "--redraw"]) == 2
    assert "1 of the 2 clips of" in capsys.readouterr().err


# What all have in common.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--videos", "x.mp4"], "of one life: name which"),
        (["wt_1", "--videos", "x.mp4"], "There is no video 'x.mp4'"),
        (["wt_1", "--root", "nowhere"], "--root nowhere: there is no such folder"),
        (["wt_1", "--public"], "--public says how to --push"),
        (["wt_1", "--push", "name"], "should look like ORG/NAME"),
        (["wt_1", "--push", "org/name"], "takes a token with write access"),
        (["wt_1", "hdepic_1"], "'hdepic_1' is not a life of walking_tours.py"),
        (["sim_1"], "'sim_1' is not a life of walking_tours.py"),
    ],
)
def test_wrong_command_lines_are_told(words, message, capsys):
    assert script("walking_tours").SCRIPT.run(words) == 2
    assert message in capsys.readouterr().err
