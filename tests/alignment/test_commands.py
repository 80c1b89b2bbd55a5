"""`singlelife cas` and `singlelife pairs` as a user types them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from singlelife.alignment.pair_sets import PairSet
from singlelife.cli import main
from singlelife.lives.pairs.pairing import PAIRINGS
from singlelife.lives.prepared import PreparedLife
from singlelife.results import read_results

from ..micro import save_micro_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_micro_model(folder / f"run_{seed}", seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def life(sim_test, tmp_path_factory) -> str:
    """The folder of a short prepared life, where commands may keep things."""
    return str(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


def test_cas_prints_a_table_and_writes_all_fields_and_rows(models, life, tmp_path, capfd):
    words = ["cas", *models, "--pairs", life, "--num-pairs", "16", "--k", "2"]
    written = {"json": tmp_path / "scores.json", "results": tmp_path / "results.jsonl"}
    assert main([*words, *(word for name, path in written.items() for word in (f"--{name}", str(path)))]) == 0
    printed = capfd.readouterr()
    assert "CAS of A and B" in printed.out and "16 pairs of sim_test/plain" in printed.out
    assert "device: cpu" in printed.err and "Warning" not in printed.err
    fields = json.loads(written["json"].read_text())
    assert fields["models"] == models and fields["k"] == 2 and fields["raw"]["chance"] == 2 / 16
    frame = read_results(written["results"])
    (value,) = frame.value[frame.metric == "raw"]
    assert value == fields["raw"]["cas"] and frame.settings[0]["views"] == "plain"
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out) == fields


def test_cas_takes_all_settings_and_saves_its_result(models, life, tmp_path, capsys):
    words = ["cas", *models, "--pairs", life, "--num-pairs", "8", "--k", "3", "1", "16", "--direction", "reciprocal"]
    words += ["--sinks", "mask", "--layers", "-1", "--heads", "each", "--image-size", "48"]
    assert main([*words, "--save", str(tmp_path / "saved")]) == 0
    shown = capsys.readouterr().out
    for part in (", reciprocal", "sinks masked", "CAS against k", "k = 16, chance 1.000", "Each head of A"):
        assert part in shown
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert fields["k"] == 3 and [each["k"] for each in fields["curve"]] == [1, 3, 16]
    assert fields["direction"] == "reciprocal" and fields["sinks"] == "mask" and fields["layers"] == [[0], [0]]
    assert len(fields["heads"]["raw"]) == 2
    maps = load_file(tmp_path / "saved" / "result.safetensors")
    assert {name: each.shape for name, each in maps.items()} == {"mean_map/a": (16, 16), "mean_map/b": (16, 16)}
    assert (tmp_path / "saved" / "scores.png").is_file()


def test_cas_of_many_models_reports_failures_and_runs_each_model_once(models, life, tmp_path, capsys):
    cache = tmp_path / "cache"
    settings = ["--pairs", life, "--num-pairs", "8", "--k", "2", "--image-size", "32"]
    words = ["cas", *models, "untrained:tiny", *settings, "--cache-dir", str(cache)]
    assert main(words) == 0
    assert "3 models on 8 pairs of sim_test/plain" in capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}
    groups = ["--groups", f"mine={models[0]},{models[1]}", "--representation"]
    written = ["--json", str(tmp_path / "all.json"), "--save", str(tmp_path / "saved")]
    assert main([*words[:4], "no/model", *words[4:], *groups, *written]) == 1
    shown = capsys.readouterr().out
    assert "could not be compared" in shown and "no/model" in shown and "within less across" in shown
    fields = json.loads((tmp_path / "all.json").read_text())
    assert fields["models"] == [*models, "untrained:tiny"] and fields["groups"] == ["mine", "mine", "untrained"]
    assert [each["model"] for each in fields["failed"]] == ["no/model"]
    assert fields == json.loads((tmp_path / "saved" / "result.json").read_text())
    now = {path.name: path.stat().st_mtime_ns for path in (cache / "alignment").iterdir()}
    assert len([name for name in now if not name.startswith("pooled")]) == 3 and before.items() <= now.items()

    assert main(["cas", *models, *settings, "--json", "-"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert two["raw"]["cas"] == pytest.approx(fields["at_k"]["2"]["raw"]["cas"][0][1])
    assert two["pairs_hash"] == fields["pairs_hash"]


def test_cas_reads_maps_by_the_method_that_is_asked_for(models, life, capsys):
    settings = ["--pairs", life, "--num-pairs", "8", "--k", "2", "--json", "-"]
    assert main(["cas", models[0], models[0], *settings]) == 0
    crossing = json.loads(capsys.readouterr().out)
    assert crossing["raw"]["cas"] == 1 and crossing["methods"] == ["cross-attention"] * 2
    assert main(["cas", *models, *settings, "--method", "feature-correlation"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["feature correlation"] * 2


def test_three_lines_of_python(models, life):
    script = f"""
import singlelife, sys
assert "torch" not in sys.modules
from singlelife import cas, cas_matrix
score = cas({models[0]!r}, {models[1]!r}, pairs={life!r}, num_pairs=8, k=[2, 1], progress=False)
print(score)
assert "95% interval" in score._repr_html_() and set(score.to_frame().metric) > {{"raw", "position_free"}}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(models[0]).parent)
    assert done.returncode == 0, done.stderr
    assert "CAS of A and B" in done.stdout


def test_pairs_show_draws_a_life_with_its_numbers(life, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["pairs", "show", life, "--num", "3", "--output", str(sheet)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:6]] == list(PAIRINGS)
    assert 0.05 <= float(table[1].split()[3]) <= 0.25  # seconds of median gap: of the recipe that sim_test trains by
    overlaps = {line.split()[0]: float(line.split()[-1]) for line in table[1:6]}
    assert overlaps["augmented"] == 1 and overlaps["random"] < 0.05 and 0.2 <= overlaps["spatial"] <= 0.7
    assert Image.open(sheet).width > 1000 and [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_pairs_show_of_a_life_without_poses_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = Path(__file__).parents[1] / "data" / "highway_2s.mp4"
    words = ["pairs", "show", "drive", "--video", str(clip), "--cache-dir", str(tmp_path)]
    assert main([*words, "--index", "7", "10000000"]) == 0
    out = capsys.readouterr().out
    assert "no spatial or union pairs" in out
    assert len([line for line in out.splitlines() if line.endswith("not known")]) == 3  # temporal, random, augmented
    assert (tmp_path / "drive-pairs.png").is_file()


def test_pairs_show_of_a_run_are_those_that_it_trains_on(tmp_path, capsys):
    clip = Path(__file__).parents[1] / "data" / "highway_2s.mp4"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"life: drive\nvideo: [{clip}]\ncache_dir: {tmp_path}\npairing: random\nvalidation_fraction: 0.2\nseed: 5\n"
    )
    words = ["pairs", "show", "--run", str(run), "--index", "12", "40", "--output", str(tmp_path / "run.png")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "random" in out and "temporal" not in out
    (num_pairs,) = {line.split()[1] for line in out.splitlines() if line.startswith("random")}
    held_out = PreparedLife.load(next(path for path in (tmp_path / "lives").iterdir() if path.is_dir()))
    assert int(num_pairs) < len(held_out) * (len(held_out) - 1)  # of the frames that are not held out
    assert main([*words, "--min-gap", "1"]) == 2
    assert "--min-gap" in capsys.readouterr().err


def test_pairs_make_a_set_on_which_models_are_compared(life, tmp_path, capsys):
    made = str(tmp_path / "set")
    words = ["pairs", "make", life, "--num-pairs", "12", "--image-size", "64", "--bins", "0.1", "0.4", "0.7"]
    assert main([*words, "--output", made]) == 0
    shown = capsys.readouterr().out
    pairs = PairSet.load(made)
    assert pairs.hash in shown and "of overlap, 0.1-0.4: 6, 0.4-0.7: 6" in shown and "known of" in shown
    assert main(["pairs", "show", made, "--output", str(tmp_path / "set.png"), "--num", "5"]) == 0
    assert pairs.hash in capsys.readouterr().out
    assert Image.open(tmp_path / "set.png").size == (3 * 332, 2 * 186)
    assert main(["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", made, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs_hash"] == pairs.hash and result["num_pairs"] == 12
    assert np.isfinite(result["readings"][0]["truth"]["matches"])


TWO = ["untrained:tiny", "untrained:tiny@1"]


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["pairs", "show"], "--run FOLDER"),
        (["pairs", "show", "sim_l"], "sim_1"),
        (["pairs", "show", "--run", "no_such_run"], "no_such_run"),
        (["pairs", "show", "{life}", "--output", "/no/such/x.png"], "/no/such/x.png"),
        (["pairs", "show", "{life}", "--pairing", "spatal"], "spatal"),
        (["pairs", "show", "{life}", "--pairing", "spatial", "--min-overlap", "0.9"], "--min-overlap"),
        (["pairs", "show", "{life}", "--pairing", "temporal", "--min-gap", "9"], "min_gap"),
        (["pairs", "show", "{life}", "--index", "-1"], "--index -1"),
        (["pairs", "make", "{life}", "--output", "{life}"], "exists already"),
        (["pairs", "make", "{life}", "--output", "x", "--num-pairs", "0"], "--num-pairs 0"),
        (["cas"], "at least two models"),
        (["cas", "none", "untrained:tiny"], "no model none"),
        (["cas", *TWO, "--pairs", "sim_tset"], "sim_test"),
        (["cas", *TWO, "--device", "gpu"], "--device gpu"),
        (["cas", *TWO, "--num-pairs", "0"], "--num-pairs 0"),
        (["cas", *TWO, "--pairs", "{life}", "--k", "65"], "64; not 65"),
        (["cas", *TWO, "--json", "/no/such/x"], "--json /no/such/x"),
        (["cas", *TWO, "--results", "/no/such/x"], "--results /no/such/x"),
        (["cas", *TWO, "--save", "/no/such/x"], "--save /no/such/x"),
        (["cas", *TWO, "--save", __file__], "this is a file"),
        (["cas", *TWO, "--layers", "0", "2"], "no layer 2"),
        (["cas", *TWO, "--representation"], "--representation"),
        (["cas", *TWO, "--reference", "b"], "--curve"),
        (["cas", *TWO, TWO[0]], "Named twice: untrained:tiny"),
        (["cas", *TWO, "a", "--heads", "each"], "--heads each"),
        (["cas", *TWO, "a", "--groups", "a"], "NAME=MODEL,MODEL, not 'a'"),
        (["cas", *TWO, "a", "--groups", "a=b"], "b"),
        (["cas", "--curve", "run"], "--reference MODEL"),
        (["cas", "a", "--curve", "run", "--reference", "b"], "MODELs"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(words, facts, life, capsys):
    assert main([word.format(life=life) for word in words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("singlelife: ") and facts in last


@pytest.mark.parametrize("words", [["pairs"], ["cas", *TWO, "--views", "sharp"], ["cas", *TWO, "--sinks", "first"]])
def test_a_wrong_command_line_shows_the_usage(words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
