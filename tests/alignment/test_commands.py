"""What `singlelife cas` and `singlelife pairs` do beyond what tests/test_cli.py shows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singlelife.alignment.pair_sets import PairSet
from singlelife.cli import main
from singlelife.lives.prepared import PreparedLife

pytestmark = pytest.mark.integration


TWO = ["untrained:tiny", "untrained:tiny@1"]


@pytest.fixture(scope="module")
def life(sim_test, tmp_path_factory) -> str:
    """The folder of a short prepared life, where commands may keep things."""
    return str(shutil.copytree(sim_test.path, tmp_path_factory.mktemp("lives") / "sim_test"))


def test_cas_reads_maps_by_the_method_that_is_asked_for(life, capsys):
    settings = ["--pairs", life, "--num-pairs", "8", "--k", "2", "--json", "-"]
    assert main(["cas", *TWO, *settings]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["cross-attention"] * 2
    assert main(["cas", *TWO, *settings, "--method", "feature-correlation"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"] == ["feature correlation"] * 2


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
    assert pairs.hash in shown and "of overlap, 0.1-0.4: 6, 0.4-0.7: 6" in shown and "known for" in shown
    assert main(["pairs", "show", made, "--output", str(tmp_path / "set.png"), "--num", "5"]) == 0
    assert pairs.hash in capsys.readouterr().out
    assert Image.open(tmp_path / "set.png").size == (3 * 332, 2 * 186)
    assert main(["cas", "untrained:tiny", "untrained:tiny@1", "--pairs", made, "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs_hash"] == pairs.hash and result["num_pairs"] == 12
    assert np.isfinite(result["readings"][0]["truth"]["matches"])


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["pairs", "show"], "--run FOLDER"),
        (["pairs", "show", "--run", "no_such_run"], "no_such_run"),
        (["pairs", "show", "{life}", "--index", "-1"], "--index -1"),
        (["pairs", "make", "{life}", "--output", "{life}"], "exists already"),
        (["pairs", "make", "{life}", "--output", "x", "--num-pairs", "0"], "--num-pairs 0"),
        (["cas"], "at least two models"),
        (["cas", *TWO, "--representation"], "--representation"),
        (["cas", *TWO, "--reference", "b"], "--curve"),
        (["cas", *TWO, "a", "--search", "heads"], "--search heads"),
        (["cas", "--curve", "run"], "--reference MODEL"),
        (["cas", "a", "--curve", "run", "--reference", "b"], "MODELs"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(words, facts, life, capsys):
    assert main([word.format(life=life) for word in words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("singlelife: ") and facts in last
