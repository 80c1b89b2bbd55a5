"""Names of lives, and the videos that they stand for."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from singlelife.errors import LifeError, SingleLifeError
from singlelife.files import config_names
from singlelife.lives import registry
from singlelife.lives.registry import VIDEO_LIST, Life, get_life, life_names, registered_life
from singlelife.lives.simulation import ScreenSource, SimulatedSource
from singlelife.lives.video.recordings import find_videos

from ..micro import write_clip

SCRIPTS = Path(__file__).parents[2] / "datasets_scripts"
LIVES = [registered_life(name) for name in life_names()]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.name)
def test_what_a_registered_life_says_of_itself_is_true(life):
    assert life.description and life.license and life.dataset and life.access
    assert life.simulation is not None or life.source
    assert not life.script or (SCRIPTS / f"{life.script}.py").is_file()
    assert life.train in config_names("train")
    if isinstance(life.simulation, SimulatedSource):
        assert life.frame_rate * life.simulation.tics_per_frame == 35  # the game's clock, in Hz
    if isinstance(life.simulation, ScreenSource):
        assert life.frame_rate == life.simulation.frames_per_second
    if life.simulation is not None:
        assert life.hours == pytest.approx(life.simulation.num_frames / life.frame_rate / 3600, rel=0.1)
    if life.joins:
        parts = [registered_life(name) for name in life.joins.split()]
        share = life.frames_of_each / parts[0].simulation.num_frames if life.frames_of_each else 1
        assert life.hours == pytest.approx(share * sum(part.hours for part in parts), rel=0.1)


def test_the_paper_has_twenty_lives_five_controls_and_kinetics():
    names = {}
    for life in LIVES:
        names.setdefault(life.dataset, []).append(life.name)
    assert [len(names[name]) for name in ("HD-EPIC", "Walking Tours", "Anonymous Lives")] == [8, 8, 4]
    assert len(names["controls"]) == 5 and [life.name for life in LIVES if life.pairs_within_video] == ["k400_30h"]
    assert len({life.part for life in LIVES if life.dataset in ("HD-EPIC", "Walking Tours")}) == 16
    for life in map(registered_life, names["HD-EPIC"]):
        assert life.video_prefix == f"{life.part.removeprefix('Videos/')}-"
    assert registered_life("wt_3").repository_name == "singlelife-wt3"


def test_videos_that_a_registered_life_should_not_have_are_named():
    kitchen = registered_life("hdepic_7")
    right = [f"P07-2024053{day}-101357.mp4" for day in range(9)]
    assert kitchen.mismatches(right) == () == Life(name="my_day").mismatches(["anything.mp4"])
    wrong = kitchen.mismatches([*right[:2], "x/P06-20240531-101357.mp4"])
    assert "x/P06-20240531-101357.mp4" in wrong[0] and "9 video(s), but 3 are here" in wrong[1]


@given(
    st.text() | st.sampled_from(["../evil", "a/b", "a\\b", "", ".hidden", "..", "-rf", "a b", "x" * 65, "é", "a\n"])
)
def test_a_name_is_refused_or_a_plain_folder_name(name):
    try:
        Life(name=name)
    except LifeError:
        return
    assert Path(name).name == name and name.isascii() and name not in (".", "..") and not name.startswith(("-", "."))


@pytest.mark.parametrize("name", ["ald_1", "my_week"])
def test_a_folder_of_a_lifes_name_holds_its_videos(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path))
    (tmp_path / name / "monday").mkdir(parents=True)
    with pytest.raises(LifeError, match=rf"{name}.*has no video here.*folder {tmp_path / name}, or name them"):
        get_life(name)
    (tmp_path / name / "monday" / "morning.mp4").touch()
    (tmp_path / "other.mp4").touch()
    life = get_life(name)
    assert life.videos == (str(tmp_path / name / "monday" / "morning.mp4"),)
    assert (life.kind, life.frame_rate, life.frame_size) == ("video", 10, 256)
    assert get_life(name, [tmp_path / "other.mp4"]).videos == (str(tmp_path / "other.mp4"),)


def test_videos_are_found_in_files_folders_and_globs(tmp_path):
    hidden = "day/._clip2.mp4"  # which macOS leaves on memory cards
    for name in ("day/clip10.mp4", "day/clip2.mp4", hidden, "day/notes.txt", "day/more/clip1.MOV", "other.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "day" / "clip2.mp4")

    def found(*paths: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_videos([tmp_path / path for path in paths])]

    whole_day = ["day/clip2.mp4", "day/clip10.mp4", "day/more/clip1.MOV"]
    assert found("day", "other.bin", "link.mp4") == [*whole_day, "other.bin"]
    assert found("d*") == whole_day and found("**/*.MOV") == whole_day[2:]
    for nothing in ("gone.mp4", "*.avi"):
        with pytest.raises(LifeError, match=re.escape(nothing)):
            found(nothing)


def test_a_list_names_videos_in_its_own_order_from_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "lives"))
    folder = tmp_path / "lives" / "ald_1"
    for file in (folder / "2.mp4", folder / "10.mp4", folder / "unlisted.mp4", tmp_path / "far.bin"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (folder / VIDEO_LIST).write_text(f"# the best\n10.mp4\n\n  2.mp4\n{tmp_path / 'far.bin'}\n10.mp4\n")
    listed = (str(folder / "10.mp4"), str(folder / "2.mp4"), str(tmp_path / "far.bin"))
    assert get_life("ald_1").videos == listed == get_life("mine", [folder / VIDEO_LIST]).videos
    assert get_life("ald_1", [folder]).videos == tuple(str(folder / f"{name}.mp4") for name in ("2", "10", "unlisted"))
    for content, message in (
        (b"gone.mp4\n", "1 of them missing.*gone.mp4"),
        (b"# nothing\n", "no file"),
        (b"\xff", "read"),
    ):
        (folder / VIDEO_LIST).write_bytes(content)
        with pytest.raises(LifeError, match=f"videos.txt .*{message}"):
            get_life("ald_1")


def test_a_real_life_comes_with_the_package(tmp_path, monkeypatch):
    """Its own recordings, where there are any, win over the clip."""
    monkeypatch.chdir(tmp_path)
    (clip,) = get_life("real_track").videos
    assert Path(clip).stat().st_size < 3e6 and "MIT License" in Path(clip).with_name("NOTICE.md").read_text()
    write_clip(tmp_path / "lives" / "real_track" / "own.mp4")
    assert get_life("real_track").videos == (str(Path("lives/real_track/own.mp4")),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lives: {a: {frame_rte: 5}}", "life 'a': .*frame_rte"),
        ("lives: {a: {frame_rate: fast}}", "life 'a': "),
        ("lives: {a: {frame_size: 2}}", "life 'a': .* frame_size of 16 to 4096 px"),
        ("lives: {a/b: {}}", "life 'a/b': .*cannot be the name of a life"),
        ("lives: {a: {joins: b a}}", "life 'a': .*joins two or more"),
        ("lives: {a: {shuffle_of: a}}", "life 'a': .*other lives"),
        ("life: {}", "should hold the mapping `lives`"),
    ],
)
def test_mistakes_in_a_config_are_named(tmp_path, monkeypatch, content, message):
    (tmp_path / "lives").mkdir()
    (tmp_path / "lives" / "mine.yaml").write_text(content)
    monkeypatch.setattr(registry, "hub_configs", lambda: tmp_path)
    monkeypatch.setattr(registry, "config_names", lambda kind: ["mine"])
    with pytest.raises(SingleLifeError, match=rf"mine\.yaml.*{message}"):
        registry._registered.__wrapped__()
