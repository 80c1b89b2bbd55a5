"""The command line as a user types it: what it prints, where, and with which exit code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singlelife import __version__
from singlelife.cli import COMMANDS, main
from singlelife.results import read_results

from .micro import save_micro_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_micro_model(folder / f"run_{seed}", seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def pairs(sim_test, tmp_path_factory) -> str:
    """The folder of a short prepared life, for commands to keep things in that other tests do without."""
    return str(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


def singlelife(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "singlelife.cli", *words], capture_output=True, text=True, cwd=cwd)


def test_help_names_every_command_and_takes_no_torch():
    code = "import sys; from singlelife.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_torch(command):
    code = f"""
import sys
from singlelife.cli import main
try:
    code = main([{command!r}, "--help"])
except SystemExit as stop:
    code = stop.code or 0
sys.exit(code + 10 * bool({{"torch", "transformers", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"singlelife {command}" in done.stdout or (command == "train" and "--life" in done.stdout)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"singlelife {__version__}\n"


def test_a_warning_is_a_line_for_people(tmp_path):
    shutil.copy(Path(__file__).parent / "data" / "highway_2s.mp4", tmp_path)
    (tmp_path / "empty.mp4").touch()
    made = singlelife("prepare", "drive", "--video", ".", "--cache-dir", "cache", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stderr.splitlines()[-1].startswith("warning: ") and "empty.mp4" in made.stderr
    assert "prepare.py" not in made.stderr and "stacklevel" not in made.stderr


def test_cas_prints_a_table_all_fields_and_rows(models, pairs, tmp_path):
    words = ("cas", *models, "--pairs", pairs, "--num-pairs", "16", "--k", "2")
    shown = singlelife(*words, "--json", "scores.json", "--results", "results.jsonl", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "16 pairs of sim_test/plain" in shown.stdout and "Traceback" not in shown.stderr
    fields = json.loads((tmp_path / "scores.json").read_text())
    assert fields["models"] == models and fields["k"] == 2 and fields["raw"]["chance"] == 2 / 16
    rows = read_results(tmp_path / "results.jsonl").set_index("metric")
    assert rows.loc["raw", "value"] == fields["raw"]["cas"] and rows.loc["raw", "reference"] == models[1]
    assert rows.loc["centred_excess", "low"] == fields["centred"]["excess_low"]
    assert {path.name for path in tmp_path.iterdir()} >= {"scores.json", "results.jsonl"}
    printed = singlelife(*words, "--json", "-", cwd=tmp_path)
    assert json.loads(printed.stdout) == fields


def test_cas_of_a_model_with_itself_is_one(models, pairs, capsys):
    assert main(["cas", models[0], models[0], "--pairs", pairs, "--num-pairs", "8", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["raw"]["cas"] == 1


def test_cas_takes_all_settings_and_saves_its_result(models, pairs, tmp_path, capsys):
    words = ["cas", *models, "--pairs", pairs, "--num-pairs", "8", "--k", "3", "1", "16", "--direction", "reciprocal"]
    words += ["--sinks", "mask", "--layers", "-1", "--image-size", "48"]
    assert main([*words, "--save", str(tmp_path / "saved")]) == 0
    shown = capsys.readouterr().out
    assert "reciprocal" in shown and "k = 16" in shown
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert fields["k"] == 3 and [each["k"] for each in fields["curve"]] == [1, 3, 16]
    assert fields["direction"] == "reciprocal" and fields["sinks"] == "mask" and fields["layers"] == [[0], [0]]
    assert len(fields["revisions"]) == 2 and fields["pairs_hash"] and fields["version"] == __version__


def test_cas_of_many_models_names_failures_and_runs_each_model_once(models, pairs, tmp_path, capsys):
    cache = tmp_path / "cache"
    settings = ["--pairs", pairs, "--num-pairs", "8", "--k", "2", "--image-size", "32"]
    many = [*models, "untrained:tiny", *settings, "--cache-dir", str(cache)]
    assert main(["cas", *many]) == 0
    capsys.readouterr()
    before = {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}
    groups = ["--groups", f"mine={models[0]},{models[1]}"]
    written = ["--json", str(tmp_path / "all.json"), "--results", str(tmp_path / "results.jsonl")]
    assert main(["cas", "no/model", *many, *groups, *written]) == 1
    shown = capsys.readouterr().out
    assert "no/model" in shown and "within less across" in shown
    fields = json.loads((tmp_path / "all.json").read_text())
    assert fields["models"] == [*models, "untrained:tiny"] and fields["groups"] == ["mine", "mine", "untrained"]
    assert list(fields["failed"]) == ["no/model"]
    rows = read_results(tmp_path / "results.jsonl")
    assert len(rows[rows.metric == "raw"]) == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}
    assert main(["cas", *models, *settings, "--json", "-"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert two["raw"]["cas"] == pytest.approx(fields["at_k"]["2"]["raw"]["cas"][0][1])


def test_python_in_a_few_lines(models, pairs):
    script = f"""
import singlelife, sys
assert "torch" not in sys.modules
score = singlelife.cas({models[0]!r}, {models[1]!r}, pairs={pairs!r}, num_pairs=8, k=[2, 1], progress=False)
print(score)
assert "95% interval" in score._repr_html_()
assert set(score.to_frame().metric) >= {{"raw", "centred"}}
assert not hasattr(singlelife, "no_such_name")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(models[0]).parent)
    assert done.returncode == 0, done.stderr


def test_pairs_are_drawn_with_their_numbers(pairs, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["pairs", "show", pairs, "--num", "3", "--output", str(sheet)]) == 0
    table = capsys.readouterr().out
    overlaps = {line.split()[0]: float(line.split()[-1]) for line in table.splitlines()[1:6]}
    assert overlaps["augmented"] == 1 and overlaps["random"] < 0.05 and 0.2 <= overlaps["spatial"] <= 0.7
    assert str(sheet) in table and [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(sheet) as picture:
        assert picture.width > 1000 and np.asarray(picture).std() > 10


def test_pairs_of_a_life_without_poses_say_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = Path(__file__).parent / "data" / "highway_2s.mp4"
    assert main(["pairs", "show", "drive", "--video", str(clip), "--cache-dir", str(tmp_path)]) == 0
    assert "camera poses of the life drive are not known" in capsys.readouterr().out
    assert (tmp_path / "drive-pairs.png").is_file()


UNTRAINED = ("untrained:tiny", "untrained:tiny@1")


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["lifes"], ["lifes", "lives"]),
        (["pairs", "show", "sim_l"], ["sim_1"]),
        (["pairs", "show", "{pairs}", "--output", "/no/such/x.png"], ["/no/such"]),
        (["pairs", "show", "{pairs}", "--pairing", "spatial", "--min-overlap", "0.9"], ["overlap"]),
        (["pairs", "show", "{pairs}", "--pairing", "temporal", "--min-gap", "9"], ["gap"]),
        (["train"], ["--life"]),
        (["train", "--life", "sim_l"], ["sim_1"]),
        (["prepare", "sim_l"], ["sim_1"]),
        (["prepare", "shuffled-sim_l"], ["sim_1"]),
        (["lives", "show", "wt_9"], ["wt_1"]),
        (["prepare", "me", "--video", "no_such.mp4"], ["no_such.mp4"]),
        (["prepare", "../me", "--video", "x.mp4"], ["../me"]),
        (["prepare", "ann/kitchen"], ["HF_HUB_OFFLINE"]),
        (["prepare", "runs/a/life"], ["runs/a/life"]),
        (["pairs", "show", "{pairs}", "--pairing", "spatal"], ["spatal", "spatial"]),
        (["cas", "none", "untrained:tiny"], ["none"]),
        (["cas", *UNTRAINED, "--pairs", "sim_tset"], ["sim_test"]),
        (["cas", *UNTRAINED, "--device", "gpu"], ["gpu"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--k", "65"], ["65", "64"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--json", "/no/such/x"], ["/no/such"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--results", "/no/such/x"], ["/no/such"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--save", "/no/such/x"], ["/no/such"]),
        (["cas", *UNTRAINED, "--save", __file__], [__file__]),
        (["cas", *UNTRAINED, "--layers", "0", "2"], ["2"]),
        (["cas", *UNTRAINED, "a", "--groups", "a"], ["NAME=MODEL"]),
        (["cas", *UNTRAINED, "untrained:tiny@2", "--groups", "a=b"], ["b"]),
        (["cas", *UNTRAINED, "untrained:tiny"], ["untrained:tiny"]),
    ],
)
def test_mistakes_are_named_in_a_line_with_exit_code_2(words, facts, pairs, capsys):
    assert main([word.format(pairs=pairs) for word in words]) == 2
    streams = capsys.readouterr()
    last = streams.err.strip().splitlines()[-1]
    assert last.startswith("singlelife: ") and all(fact in last for fact in facts)
    assert not streams.out


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["train", "--life", "sim_1", "--max-step", "5"], "--max-steps"),
        (["cas", "a", "b", "--views", "sharp"], "shifted"),
        (["cas", "a", "b", "--direction", "up"], "reciprocal"),
        (["cas", "a", "b", "--sinks", "stay"], "mask"),
        (["push"], "singlelife push"),
        (["convert", "a"], "singlelife convert"),
    ],
)
def test_a_wrong_command_line_says_what_is_right(words, fact, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert fact in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("vizdoom", ["prepare", "sim_1"], "sim"), ("matplotlib", ["pairs", "show", "{pairs}"], "plots")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(package, words, extra, pairs, tmp_path):
    code = (
        f"import sys; sys.modules[{package!r}] = None; from singlelife.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [word.format(pairs=pairs) for word in words] + ["--cache-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert package in done.stderr and f"singlelife[{extra}]" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    result = subprocess.run(
        f"{sys.executable} -m singlelife.cli lives | head -1", shell=True, capture_output=True, text=True
    )
    assert result.returncode == 0 and not result.stderr
