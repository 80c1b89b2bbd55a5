"""The command line as a user types it: what it prints, where, and with which exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from singlelife import __version__
from singlelife.cli import main
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.lives.registry import life_names

COMMANDS = (
    "lives",
    "prepare",
    "poses",
    "pairs",
    "push-life",
    "peek",
    "train",
    "train-all",
    "cas",
    "evaluate",
    "study",
    "convert",
    "demo",
    "push",
    "hub",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = CroCoConfig(
            image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            decoder_intermediate_size=64,
        )  # fmt: skip
        CroCoForPreTraining(config).save_pretrained(folder / f"run_{seed}")
        CroCoImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / f"run_{seed}")
    return [str(folder / "run_1"), str(folder / "run_2")]


@pytest.fixture(scope="module")
def pairs(sim_test, tmp_path_factory) -> str:
    """The folder of a short prepared life, for commands to keep things in that other tests do without."""
    return str(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


def singlelife(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "singlelife.cli", *words], capture_output=True, text=True, cwd=cwd)


def test_help_teaches_and_takes_no_torch(tmp_path):
    result = singlelife("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert command in result.stdout
    assert "singlelife train --life sim_1" in result.stdout
    script = "import sys; from singlelife.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{script}sys.exit('torch' in sys.modules)"], capture_output=True, cwd=tmp_path
    )
    assert loaded.returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    name = "train.py" if command == "train" else f"singlelife {command}"
    told = capsys.readouterr().out
    assert name in told
    assert not [line for line in told.splitlines() if len(line) > 100 and not line.startswith(" ")]


def test_a_warning_is_a_line_for_people(tmp_path):
    shutil.copy(Path(__file__).parent / "data" / "highway_2s.mp4", tmp_path)
    (tmp_path / "empty.mp4").touch()
    made = singlelife("prepare", "drive", "--video", ".", "--cache-dir", "cache", cwd=tmp_path)
    assert made.returncode == 0
    assert made.stderr.splitlines()[-1].startswith(
        "warning: The life drive is not whole: empty.mp4: the file is empty"
    )
    assert "prepare.py" not in made.stderr and "stacklevel" not in made.stderr


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"singlelife {__version__}\n"


def test_lives_are_listed(capsys):
    assert main(["lives"]) == 0
    out = capsys.readouterr().out
    for name in life_names():
        assert name in out


def test_a_life_is_explained_and_where_it_stands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "recordings"))
    monkeypatch.setenv("SINGLELIFE_CACHE", str(tmp_path / "cache"))

    def shown(*words: str) -> str:
        assert main(["lives", *words]) == 0
        return capsys.readouterr().out

    def row() -> str:
        return next(line for line in shown().splitlines() if line.startswith("ald_2"))

    assert row().endswith("not here")
    explained = shown("show", "ald_2")
    assert str(tmp_path / "recordings" / "ald_2") in explained and "singlelife-ald2" in explained
    (tmp_path / "recordings" / "ald_2").mkdir(parents=True)
    assert row().endswith("not here")  # an empty folder is no videos
    assert shown("show", "shuffled-ald_2").find("needs ald_2") > 0
    shutil.copy(Path(__file__).parent / "data" / "highway_2s.mp4", tmp_path / "recordings" / "ald_2")
    assert row().endswith("videos (1 file, 48.0 kB)")
    assert "made when needed" in shown("show", "shuffled-ald_2")
    assert main(["prepare", "ald_2"]) == 0
    capsys.readouterr()
    assert row().endswith("prepared")
    assert str(tmp_path / "cache") in shown("show", "ald_2")


def test_lives_fit_the_screen_and_come_as_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path))
    (tmp_path / "control_surveillance").mkdir()
    for number in range(123):
        (tmp_path / "control_surveillance" / f"{number}.mp4").write_bytes(bytes(1000))
    assert main(["lives"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    assert main(["lives", "--json"]) == 0
    lives = {life["name"]: life for life in json.loads(capsys.readouterr().out)}
    assert list(lives) == life_names()
    assert lives["control_surveillance"]["videos"] == {"files": 123, "bytes": 123_000}
    assert lives["k400_30h"]["pairs_within_video"] and lives["k400_30h"]["frames"] == 1_080_000
    assert main(["lives", "show", "hdepic_3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lives["hdepic_3"]


@pytest.mark.parametrize("name", life_names())
def test_every_life_is_explained_with_commands_to_copy(name, capsys):
    assert main(["lives", "show", name]) == 0
    out = capsys.readouterr().out
    assert f"accelerate launch train.py --life {name}" in out and "licence:" in out
    script = [line.split()[1] for line in out.splitlines() if line.startswith("  python ")]
    assert all((Path(__file__).parents[1] / path).is_file() for path in script)
    assert max(map(len, out.splitlines())) <= 120


def test_a_list_that_is_wrong_does_not_keep_the_others_from_being_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path))
    (tmp_path / "k400_30h").mkdir()
    (tmp_path / "k400_30h" / "videos.txt").write_text("gone.mp4\n")
    assert main(["lives"]) == 0
    out = capsys.readouterr().out
    assert "its videos.txt is wrong" in out and "wt_8" in out


def test_a_video_is_prepared_and_then_found_ready(tmp_path, capsys, monkeypatch):
    clip = Path(__file__).parent / "data" / "highway_2s.mp4"
    command = ["prepare", "drive", "--video", str(clip), "--cache-dir", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("drive: ") and "frames of 1 video(s) in" in said
    assert main(command) == 0
    assert capsys.readouterr().out == said
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, capsys, monkeypatch):
    clip = Path(__file__).parent / "data" / "highway_2s.mp4"
    (tmp_path / "empty.mp4").touch()
    command = ["prepare", "drive", "--video", str(clip), str(tmp_path / "empty.mp4"), "--cache-dir"]
    command += [str(tmp_path / "cache"), "--dry-run"]

    def shown(*words: str, code: int = 0) -> str:
        assert main([*command, *words]) == code
        return capsys.readouterr().out

    said = shown()
    for part in ("1, and 1 that cannot be used", "length   2 s", "about 20", "kB", "empty.mp4: the file is empty"):
        assert part in said
    assert not (tmp_path / "cache").exists()
    shown("--strict", code=2)

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        assert "not enough" in shown(code=2)

    with pytest.warns(UserWarning, match="empty"):
        assert main(command[:-1]) == 0
    capsys.readouterr()
    said = shown()
    assert said.startswith("drive: prepared already, 21 frames in") and "empty.mp4: the file is empty" in said

    assert main(["prepare", "drive", "--video", str(tmp_path / "empty.mp4"), "--dry-run"]) == 2
    assert "No video of the life drive can be used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Whose life?"),
        (["train", "--life", "sim_l"], "sim_1"),
        (["train", "--life", "sim_1", "--max-step", "5"], "--max-steps"),
        (["prepare", "sim_l"], "sim_1"),
        (["prepare", "shuffled-sim_l"], "sim_1"),
        (["lives", "show", "wt_9"], "wt_1"),
        (["lives", "show"], "needs the name of a life"),
        (["prepare", "me", "--video", "no_such.mp4"], "no_such.mp4"),
        (["prepare", "../me", "--video", "x.mp4"], "../me"),
        (["prepare", "ann/kitchen"], "HF_HUB_OFFLINE"),
        (["prepare", "runs/a/life"], "is no life"),
        (["push-life", "{pairs}", "kitchen"], "ORG/NAME"),
        (["peek", "sim_1"], "ORG/NAME"),
        (["peek", "ann/kitchen", "--output", "/no/such/x.png"], "/no/such/x.png"),
        (["push", "/no/such/run", "ann/pan"], "/no/such/run is no run folder"),
    ],
)
def test_mistakes_are_told_in_a_line_with_exit_code_2(words, message, pairs, capsys):
    assert main([word.format(pairs=pairs) for word in words]) == 2
    streams = capsys.readouterr()
    last = streams.err.strip().splitlines()[-1]
    assert last.startswith("singlelife: ") and message in last
    assert not streams.out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["lifes"],
        ["push"],
        ["hub"],
        ["hub", "list"],
    ],
)
def test_a_wrong_command_line_shows_the_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert "usage: singlelife" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error():
    result = subprocess.run(
        f"{sys.executable} -m singlelife.cli lives | head -1", shell=True, capture_output=True, text=True
    )
    assert result.returncode == 0 and not result.stderr
