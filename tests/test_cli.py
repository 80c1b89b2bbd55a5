"""The command line as a user types it: what it prints, where, and with which exit code."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import singlelife
from singlelife.alignment.pair_sets import PairSet
from singlelife.cli import COMMANDS, main
from singlelife.lives.prepared import PreparedLife
from singlelife.results import read_results

from .micro import save_micro_model

pytestmark = pytest.mark.integration
CLIP = Path(__file__).parent / "data" / "highway_2s.mp4"
UNTRAINED = ("untrained:tiny", "untrained:tiny@1")
NESTED = ("lives show", "pairs show", "pairs make", *(f"evaluate {it}" for it in ("correspondence", "depth")))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_micro_model(folder / f"run_{seed}", seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def pairs(sim_test, tmp_path_factory) -> str:
    """The folder of a short prepared life, for commands to keep things in that other tests do without."""
    return str(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


def python(code: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd)


def test_every_page_of_help_is_plain_and_takes_no_torch():
    code = """
import contextlib, io, json, os, sys
os.environ["COLUMNS"] = "80"
import singlelife
from singlelife.cli import main
pages = {}
for command in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        assert main([*command.split(), "--help"]) == 0
    pages[command] = page.getvalue()
print(json.dumps([pages, sorted({"torch", "transformers", "matplotlib"} & set(sys.modules))]))
"""
    done = python(code, "", *COMMANDS, *NESTED)
    assert done.returncode == 0, done.stderr
    pages, heavy = json.loads(done.stdout)
    assert not heavy and all(f"  {command} " in pages[""] for command in COMMANDS)
    for command, page in pages.items():
        assert f"singlelife {command}".strip() in page or (command == "train" and "--life" in page)


def test_lives_are_listed_and_wrong_names_refused_without_torch(tmp_path):
    """These are answers of a moment; torch and datasets take seconds."""
    wrong = ["prepare", "poses", "pairs show", "pairs make --output new", "lives show", "train --life"]
    wrong += ["cas untrained:tiny untrained:tiny@1 --pairs", "evaluate depth untrained:tiny --test sim_test --train"]
    code = f"""
import sys
from singlelife.cli import main
codes = [main(["lives"]), *(main([*words.split(), "sim_l"]) for words in {wrong})]
sys.exit(codes != [0] + {len(wrong)} * [2] or bool({{"torch", "datasets", "scipy", "matplotlib"}} & set(sys.modules)))
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no life 'sim_l'. Did you mean sim_1") == len(wrong)


def test_without_a_command_there_is_help_and_the_module_is_the_command(capsys, monkeypatch):
    assert main([]) == 0
    page = capsys.readouterr().out
    done = subprocess.run([sys.executable, "-m", "singlelife", "--version"], capture_output=True, text=True)
    assert "singlelife lives" in page and done.stdout == f"singlelife {singlelife.__version__}\n"
    monkeypatch.setattr("singlelife.commands.doctor.Doctor.run", lambda self: signal.raise_signal(signal.SIGINT))
    assert main(["doctor"]) == 130


def test_doctor_says_what_is_here_and_what_is_missing(tmp_path):
    save_micro_model(tmp_path / "runs" / "mine")
    code = "import sys; sys.modules['pycolmap'] = None; from singlelife.cli import main; sys.exit(main(['doctor']))"
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here = ("runs/mine", "untrained:tiny", "models/sim_1", "missing: pycolmap", "'singlelife[poses]'")
    for fact in (singlelife.__version__, "torch ", "device: ", "GB free", *here):
        assert fact in done.stdout, fact


def test_cas_prints_and_writes_what_it_says(models, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["cas", *models, "--pairs", pairs, "--num-pairs", "16", "--k", "2", "1", "--image-size", "48"]
    words += ["--direction", "reciprocal", "--sinks", "mask", "--layers", "-1"]
    assert main([*words, "--json", "scores.json", "--results", "results.jsonl", "--save", "saved"]) == 0
    shown = capsys.readouterr()
    assert "16 pairs of sim_test/plain" in shown.out and "device: " in shown.err
    written = {line.split()[1] for line in shown.err.splitlines() if line.startswith("wrote ")}
    here = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {path for path in here if not path.startswith(".")} >= {"scores.json", "saved/result.json"}
    assert f"next: singlelife push {models[0]} --results results.jsonl" in shown.err
    fields = json.loads(Path("scores.json").read_text())
    assert fields["models"] == models and fields["k"] == 2 and [each["k"] for each in fields["curve"]] == [1, 2]
    assert fields["direction"] == "reciprocal" and fields["sinks"] == "mask" and fields["layers"] == [[0], [0]]
    assert json.loads(Path("saved/result.json").read_text()) == fields
    rows = read_results("results.jsonl")
    raw = rows[(rows.metric == "raw") & (rows.value == fields["raw"]["cas"])]
    assert len(raw) == 1 and raw.iloc[0].reference == models[1]
    score = singlelife.cas(*models, pairs=pairs, num_pairs=16, k=[2, 1], image_size=48, direction="reciprocal",
                           sinks="mask", layers=[-1], progress=False)  # fmt: skip
    assert json.loads(json.dumps(score.to_dict())) == fields and "95% interval" in score._repr_html_()
    assert main(["cas", models[0], models[0], "--pairs", pairs, "--num-pairs", "8", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["raw"]["cas"] == 1


def test_cas_of_many_models_goes_on_without_one_that_fails(models, pairs, tmp_path, capsys):
    words = ["cas", "no/model", *models, "untrained:tiny", "--pairs", pairs, "--num-pairs", "8", "--k", "2"]
    words += ["--groups", f"mine={models[0]},{models[1]}", "--json", str(tmp_path / "all.json")]
    assert main([*words, "--image-size", "32", "--cache-dir", str(tmp_path)]) == 1
    assert "no/model" in capsys.readouterr().out
    fields = json.loads((tmp_path / "all.json").read_text())
    assert fields["models"] == [*models, "untrained:tiny"] and fields["groups"] == ["mine", "mine", "untrained"]
    assert list(fields["failed"]) == ["no/model"]


def test_pairs_are_drawn_with_their_numbers(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pairs", "show", pairs, "--num", "3", "--output", "sheet.png"]) == 0
    table = capsys.readouterr().out
    overlaps = {line.split()[0]: float(line.split()[-1]) for line in table.splitlines()[1:6]}
    assert overlaps["augmented"] == 1 and overlaps["random"] < 0.05 and 0.2 <= overlaps["spatial"] <= 0.7
    assert "sheet.png" in table and [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open("sheet.png") as picture:
        assert picture.width > 1000 and np.asarray(picture).std() > 10
    assert main(["pairs", "show", "drive", "--video", str(CLIP), "--cache-dir", str(tmp_path)]) == 0
    assert "camera poses of the life drive are unknown" in capsys.readouterr().out


def test_cas_reads_maps_by_the_method_that_is_asked_for(pairs, capsys):
    settings = ["--pairs", pairs, "--num-pairs", "8", "--k", "2", "--json", "-"]
    assert main(["cas", *UNTRAINED, *settings]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["cross-attention"] * 2
    assert main(["cas", *UNTRAINED, *settings, "--method", "feature-correlation"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["feature correlation"] * 2


def test_pairs_show_of_a_run_are_those_that_it_trains_on(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"life: drive\nvideo: [{CLIP}]\ncache_dir: {tmp_path}\npairing: random\nvalidation_fraction: 0.2\nseed: 5\n"
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


def test_pairs_make_a_set_on_which_models_are_compared(pairs, tmp_path, capsys):
    made = str(tmp_path / "set")
    words = ["pairs", "make", pairs, "--num-pairs", "12", "--image-size", "64", "--bins", "0.1", "0.4", "0.7"]
    assert main([*words, "--output", made]) == 0
    shown = capsys.readouterr().out
    stored = PairSet.load(made)
    assert stored.hash in shown and "of overlap, 0.1-0.4: 6, 0.4-0.7: 6" in shown and "known for" in shown
    assert main(["pairs", "show", made, "--output", str(tmp_path / "set.png"), "--num", "5"]) == 0
    assert stored.hash in capsys.readouterr().out
    assert Image.open(tmp_path / "set.png").size == (3 * 332, 2 * 186)
    assert main(["cas", *UNTRAINED, "--pairs", made, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs_hash"] == stored.hash and result["num_pairs"] == 12
    assert np.isfinite(result["readings"][0]["truth"]["matches"])


def test_a_mistyped_model_is_refused_at_once_with_those_that_are_near(tmp_path):
    (tmp_path / "runs" / "sim_1" / "checkpoint-5").mkdir(parents=True)
    code = """
import sys
from singlelife.cli import main
for words in (["cas", "runs/sim1", "untrained:tiny"], ["cas", "--curve", "sim_1", "--reference", "tiny"],
              ["evaluate", "correspondence", "sim_1"], ["push", "runs/sim_l"], ["cas", "untrained:tny", "a/b"]):
    assert main(words) == 2
sys.exit(bool({"torch", "huggingface_hub"} & set(sys.modules)))
"""
    done = python(code, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and len(lines) == 5, done.stderr
    assert all("runs/sim_1" in line for line in lines[:4]) and "Did you mean tiny?" in lines[4]


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["lifes"], ["lifes", "lives"]),
        (["evaluate", "depths"], ["depths", "depth"]),
        (["pairs", "shwo"], ["show"]),
        (["pairs", "show", "{pairs}", "--output", "/no/such/x.png"], ["/no/such"]),
        (["pairs", "show", "{pairs}", "--pairing", "spatial", "--min-overlap", "0.9"], ["overlap"]),
        (["pairs", "show", "{pairs}", "--index", "-1"], ["--index -1"]),
        (["pairs", "show"], ["--run FOLDER"]),
        (["pairs", "show", "--run", "no_such_run"], ["no_such_run"]),
        (["pairs", "make", "{pairs}", "--output", "{pairs}"], ["exists already"]),
        (["train"], ["--life"]),
        (["lives", "show", "wt_9"], ["wt_1"]),
        (["prepare", "me", "--video", "no_such.mp4"], ["no_such.mp4"]),
        (["prepare", "../me", "--video", "x.mp4"], ["../me"]),
        (["prepare", "ann/kitchen"], ["HF_HUB_OFFLINE"]),
        (["push", "sim_l"], ["sim_1"]),
        (["push", "{pairs}", "--card", "card.md"], ["--card", "--dry-run"]),
        (["cas"], ["at least two models"]),
        (["cas", *UNTRAINED, "--representation"], ["--representation"]),
        (["cas", *UNTRAINED, "--reference", "b"], ["--curve"]),
        (["cas", *UNTRAINED, "a", "--search", "heads"], ["--search heads"]),
        (["cas", "--curve", "run"], ["--reference MODEL"]),
        (["cas", "a", "--curve", "run", "--reference", "b"], ["MODELs"]),
        (["cas", *UNTRAINED, "--pairs", "sim_tset"], ["sim_test"]),
        (["cas", *UNTRAINED, "--device", "gpu"], ["gpu"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--k", "65"], ["65", "64"]),
        (["cas", *UNTRAINED, "--pairs", "{pairs}", "--json", "/no/such/x"], ["/no/such"]),
        (["cas", *UNTRAINED, "--save", __file__], [__file__]),
        (["cas", *UNTRAINED, "--layers", "0", "2"], ["2"]),
        (["cas", *UNTRAINED, "a/b", "--groups", "a"], ["NAME=MODEL"]),
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
    ("package", "words", "extra"),
    [("vizdoom", ["prepare", "sim_1"], "sim"), ("matplotlib", ["pairs", "show", "{pairs}"], "plots")],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    package, words, extra, pairs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [name for name in sys.modules if name.startswith(("singlelife.lives", "singlelife.alignment"))]:
        monkeypatch.delitem(sys.modules, name)  # what has imported it
    assert main([*(word.format(pairs=pairs) for word in words), "--cache-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert package in said and f"singlelife[{extra}]" in said


def test_a_reader_that_has_seen_enough_is_no_error():
    result = subprocess.run(
        f"{sys.executable} -m singlelife lives | head -1", shell=True, capture_output=True, text=True
    )
    assert result.returncode == 0 and not result.stderr
