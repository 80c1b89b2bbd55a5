"""The command line as a user types it: what it prints, where, and with which exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from singlelife import __version__
from singlelife.cli import main
from singlelife.croco import CroCoConfig, CroCoForPreTraining, CroCoImageProcessor
from singlelife.lives.pairs.pairing import PAIRINGS
from singlelife.lives.prepared import PreparedLife
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
    "pairs-set",
    "cas",
    "align",
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


def test_cas_prints_a_table_and_all_fields(models, pairs, tmp_path):
    words = ("cas", *models, "--pairs", pairs, "--num-pairs", "16", "--k", "2")
    shown = singlelife(*words, "--json", "scores.json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "CAS of A and B" in shown.stdout and "16 pairs of sim_test/plain" in shown.stdout
    assert "Warning" not in shown.stderr and "Traceback" not in shown.stderr
    fields = json.loads((tmp_path / "scores.json").read_text())
    assert fields["models"] == models and fields["k"] == 2 and fields["raw"]["chance"] == 2 / 16
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]
    printed = singlelife(*words, "--json", "-", cwd=tmp_path)
    assert json.loads(printed.stdout) == fields


def test_cas_of_a_model_with_itself_is_one(models, pairs, capsys):
    assert main(["cas", models[0], models[0], "--pairs", pairs, "--num-pairs", "8", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["raw"]["cas"] == 1


def test_cas_takes_all_settings_and_saves_its_result(models, pairs, tmp_path, capsys):
    words = ["cas", *models, "--pairs", pairs, "--num-pairs", "8", "--k", "3", "1", "16", "--direction", "reciprocal"]
    words += ["--sinks", "mask", "--layers", "-1", "--heads", "each", "--image-size", "48"]
    assert main([*words, "--save", str(tmp_path / "saved")]) == 0
    shown = capsys.readouterr().out
    for part in ("direction reciprocal", "sinks masked", "CAS against k", "k = 16, chance 1.000", "Each head of A"):
        assert part in shown
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert fields["k"] == 3 and [each["k"] for each in fields["curve"]] == [1, 3, 16]
    assert fields["direction"] == "reciprocal" and fields["sinks"] == "mask" and fields["layers"] == [[0], [0]]
    assert len(fields["revisions"]) == 2 and fields["pairs_hash"] and fields["version"] == __version__
    assert len(fields["heads"]["raw"]) == 2
    maps = load_file(tmp_path / "saved" / "mean_maps.safetensors")
    assert {name: each.shape for name, each in maps.items()} == {"a": (16, 16), "b": (16, 16)}


def test_align_prints_tables_tells_of_failures_and_runs_each_model_once(models, pairs, tmp_path, capsys):
    cache = tmp_path / "cache"
    settings = ["--pairs", pairs, "--num-pairs", "8", "--k", "2", "--image-size", "32"]
    cached = ["--cache-dir", str(cache)]
    assert main(["align", *models, *settings, *cached]) == 0
    assert "2 models on 8 pairs of sim_test/plain" in capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}

    groups = ["--groups", f"mine={models[0]},{models[1]}"]
    written = ["--json", str(tmp_path / "all.json"), "--save", str(tmp_path / "saved")]
    assert main(["align", *models, "untrained:tiny", "no/model", *settings, *cached, *groups, *written]) == 1
    shown = capsys.readouterr().out
    assert "could not be compared" in shown and "no/model" in shown and "within less across" in shown
    fields = json.loads((tmp_path / "all.json").read_text())
    assert fields["models"] == [*models, "untrained:tiny"] and fields["groups"] == ["mine", "mine", "untrained"]
    assert [each["model"] for each in fields["failed"]] == ["no/model"]
    assert fields == json.loads((tmp_path / "saved" / "result.json").read_text())
    now = {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}
    assert len(now) == 3 and before.items() <= now.items()

    assert main(["cas", *models, *settings, "--json", "-"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert two["raw"]["cas"] == pytest.approx(fields["at_k"]["2"]["raw"]["cas"][0][1])
    assert two["pairs_hash"] == fields["pairs_hash"]


def test_align_finds_the_models_of_lives(pairs, tmp_path, capsys):
    words = ["align", "--lives", "wt_3,hdepic_1", "--org", "ann", "--pairs", pairs, "--cache-dir", str(tmp_path)]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert "No model can be compared" in shown
    assert "  ann/singlelife-wt3: " in shown and "  ann/singlelife-hdepic1: " in shown


def test_cas_reads_maps_by_the_method_that_is_asked_for(models, pairs, capsys):
    settings = ["--pairs", pairs, "--num-pairs", "8", "--k", "2", "--json", "-"]
    assert main(["cas", *models, *settings]) == 0
    crossing = json.loads(capsys.readouterr().out)
    assert main(["cas", *models, *settings, "--method", "feature-correlation"]) == 0
    features = json.loads(capsys.readouterr().out)
    assert crossing["methods"] == ["cross-attention"] * 2 and features["methods"] == ["feature correlation"] * 2
    assert crossing["raw"] != features["raw"]


def test_three_lines_of_python(models, pairs):
    script = f"""
import singlelife, sys
assert "torch" not in sys.modules
from singlelife import cas, cas_matrix
score = cas({models[0]!r}, {models[1]!r}, pairs={pairs!r}, num_pairs=8, k=[2, 1], progress=False)
print(score)
assert score._repr_html_().count("<tr>") > 5 and "95% interval" in score._repr_html_()
score.plot().savefig("score.png")
assert not hasattr(singlelife, "no_such_name")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(models[0]).parent)
    assert done.returncode == 0, done.stderr
    assert "CAS of A and B" in done.stdout
    with Image.open(Path(models[0]).parent / "score.png") as picture:
        assert np.asarray(picture).std() > 10


def test_pairs_are_drawn_with_their_numbers(pairs, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["pairs", pairs, "--num", "3", "--output", str(sheet)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:6]] == list(PAIRINGS)
    assert table[-1] == f"drawn in {sheet}"
    assert 0.05 <= float(table[1].split()[3]) <= 0.25  # seconds of median gap: of the recipe that sim_test trains by
    overlaps = {line.split()[0]: float(line.split()[-1]) for line in table[1:6]}
    assert overlaps["augmented"] == 1 and overlaps["random"] < 0.05 and 0.2 <= overlaps["spatial"] <= 0.7
    assert Image.open(sheet).width > 1000 and [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_pairs_of_a_life_without_poses_say_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = Path(__file__).parent / "data" / "highway_2s.mp4"
    assert (
        main(["pairs", "drive", "--video", str(clip), "--cache-dir", str(tmp_path), "--index", "7", "10000000"]) == 0
    )
    out = capsys.readouterr().out
    assert "no spatial or union pairs: The camera poses of the life drive are not known" in out
    assert len([line for line in out.splitlines() if line.endswith("not known")]) == 3  # temporal, random, augmented
    assert (tmp_path / "drive-pairs.png").is_file()


def test_pairs_of_a_run_are_those_that_it_trains_on(pairs, tmp_path, capsys):
    clip = Path(__file__).parent / "data" / "highway_2s.mp4"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"life: drive\nvideo: [{clip}]\ncache_dir: {tmp_path}\npairing: random\nvalidation_fraction: 0.2\nseed: 5\n"
    )
    words = ["pairs", "--run", str(run), "--index", "12", "40", "--output", str(tmp_path / "run.png")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "random" in out and "temporal" not in out
    (num_pairs,) = {line.split()[1] for line in out.splitlines() if line.startswith("random")}
    held_out = PreparedLife.load(next(path for path in (tmp_path / "lives").iterdir() if path.is_dir()))
    assert int(num_pairs) < len(held_out) * (len(held_out) - 1)  # of the frames that are not held out
    assert main([*words, "--min-gap", "1"]) == 2
    assert "leave out min-gap" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs"], "Whose pairs?"),
        (["pairs", "sim_l"], "sim_1"),
        (["pairs", "--run", "no_such_run"], "no_such_run is not the folder of a run"),
        (["pairs", "{pairs}", "--output", "/no/such/x.png"], "/no/such/x.png"),
        (["pairs", "{pairs}", "--pairing", "spatial", "--min-overlap", "0.9"], "min_overlap <= max_overlap"),
        (["pairs", "{pairs}", "--pairing", "temporal", "--min-gap", "9"], "0 < min_gap <= max_gap"),
        (["train"], "Whose life?"),
        (["train", "--life", "sim_l"], "sim_1"),
        (["train", "--life", "sim_1", "--max-step", "5"], "--max-steps"),
        (["prepare", "sim_l"], "sim_1"),
        (["prepare", "shuffled-sim_l"], "sim_1"),
        (["lives", "show", "wt_9"], "wt_1"),
        (["prepare", "me", "--video", "no_such.mp4"], "no_such.mp4"),
        (["prepare", "../me", "--video", "x.mp4"], "../me"),
        (["prepare", "ann/kitchen"], "HF_HUB_OFFLINE"),
        (["prepare", "runs/a/life"], "is no life"),
        (["push-life", "{pairs}", "kitchen"], "ORG/NAME"),
        (["peek", "sim_1"], "ORG/NAME"),
        (["peek", "ann/kitchen", "--output", "/no/such/x.png"], "/no/such/x.png"),
        (["push", "/no/such/run", "ann/pan"], "/no/such/run is no run folder"),
        (["cas", "none", "untrained:tiny"], "There is no model none"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", "sim_tset"], "sim_test"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--device", "gpu"], "device"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", "{pairs}", "--k", "65"], "k should be"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", "{pairs}", "--json", "/no/such/x"], "/no/such/x"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", "{pairs}", "--save", "/no/such/x"], "/no/such/x"),
        (["cas", "untrained:tiny", "untrained:tiny@1", "--save", __file__], "this is a file; give a folder"),
        (
            ["cas", "untrained:tiny", "untrained:tiny@1", "--layers", "0", "2"],
            "has the layers 0 to 1 (or -2 to -1), but no layer 2",
        ),
        (["align"], "Which models?"),
        (["align", "--lives", "wt_1"], "Give --org"),
        (["align", "--lives", "wt_9", "--org", "ann"], "wt_1"),
        (["align", "untrained:tiny", "--groups", "a"], "NAME=MODEL,MODEL, not 'a'"),
        (["align", "untrained:tiny", "--groups", "a=b"], "The groups name b"),
        (["align", "untrained:tiny", "untrained:tiny"], "Named twice: untrained:tiny"),
        (["align", "untrained:tiny", "--layers", "0", "--by-layer"], "leave out --layers"),
        (["align", "untrained:tiny", "--pairs", "{pairs}", "--k", "5", "99"], "number of patches, 64; not 99"),
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
        ["pairs", "a", "--pairing", "spatal"],
        ["pairs", "a", "--index", "-1"],
        ["cas", "a"],
        ["cas", "a", "b", "--views", "sharp"],
        ["cas", "a", "b", "--num-pairs", "0"],
        ["cas", "a", "b", "--direction", "up"],
        ["align", "a", "b", "--sinks", "stay"],
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
