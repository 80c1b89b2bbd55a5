"""Results side by side: folding, groups, best cells, and results that should not stand beside each other."""

from pathlib import Path

import pytest

from singlelife.errors import EvaluationError
from singlelife.evaluation.probing import Measure
from singlelife.evaluation.suite.comparison import compare, seedless
from singlelife.evaluation.suite.results import Done, ModelResults, results_of
from singlelife.evaluation.suite.running import expand
from singlelife.evaluation.suite.tables import as_markdown, as_text

ABOUT = {"task": "depth", "protocol": {"name": "metric", "version": 1}, "settings": {"probe": "linear"},
         "data_key": "k"}  # fmt: skip


def results(folder: Path, model: str, delta1: float, *, data: str = "d", revision: str | None = "r") -> ModelResults:
    there = results_of(folder, model)
    there.of_revision(revision)
    measures = {
        "delta1": Measure(delta1, 0.01, (delta1, delta1 + 0.02), delta1 - 0.1, delta1 + 0.1),
        "abs_rel": Measure(1 - delta1, 0.0, (1 - delta1,), 0.1, 0.9),
    }
    about = {"name": "rooms", "hash": data * 64, "num_items": 7}
    there.put("depth", ABOUT | {"revision": revision}, Done(measures, about, [0, 1]))
    return there


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/sim_1", "runs/sim_1"),
        ("runs/sim_1_seed2", "runs/sim_1"),
        ("runs/sim_1_seed2/", "runs/sim_1"),
        ("ORG/singlelife-sim1-seed10@main", "ORG/singlelife-sim1@main"),
        ("untrained:tiny@3", "untrained:tiny"),
        ("untrained:runs/sim_1_seed1@0", "untrained:runs/sim_1"),
        ("untrained:ORG/NAME@main@0", "untrained:ORG/NAME@main"),
        ("runs/seedling", "runs/seedling"),
        ("runs/sim_1_seed2b", "runs/sim_1_seed2b"),
    ],
)
def test_a_name_without_its_seed(model, name):
    assert seedless(model) == name


def test_ranges_of_seeds_are_written_out():
    assert expand(["a", "untrained:tiny@1..3"]) == ["a", *(f"untrained:tiny@{seed}" for seed in (1, 2, 3))]
    assert expand(["ORG/NAME@0..2"]) == ["ORG/NAME@0..2"]  # a revision, whatever it looks like


def test_models_of_one_life_fold_into_a_mean_and_groups_into_another(tmp_path):
    values = {"runs/a": 0.3, "runs/a_seed1": 0.5, "runs/b": 0.6, "untrained:runs/a@0": 0.2}
    found = [results(tmp_path, name, value) for name, value in values.items()]
    found.append(results(tmp_path, "mean depth", 0.1, revision=None))
    groups = {"lives": ["runs/a_seed1"], "controls": ["runs/b"]}
    comparison = compare(found, "title", first=["runs/b", "runs/a"], groups=groups, fold_seeds=True)
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == ["runs/a", "runs/b", "untrained:runs/a", "mean depth"]
    assert [row.group for row in comparison.rows] == ["lives", "controls", "untrained", "baselines"]
    cell = rows["runs/a"].cells["depth"]["delta1"]
    assert cell.mean == pytest.approx(0.4) and cell.std == pytest.approx(0.1414, abs=1e-4)
    assert cell.each == (0.3, 0.5) and cell.low is None
    one = rows["runs/b"].cells["depth"]["delta1"]
    assert (one.mean, one.std, one.low) == (0.6, 0.01, 0.5)
    table = as_markdown(comparison)
    assert (
        "| runs/a | lives | 2 | 0.400 ± 0.141 |" in table and "| runs/b | controls | 1 | **0.600 ± 0.010** |" in table
    )
    assert "| lives | 2 | 0.400 ± 0.141 |" in table and "baselines | 1" not in table
    assert "0.900" in table  # the AbsRel of the mean depth
    assert "**0.400" in table  # and the lowest AbsRel is the best
    assert [row.name for row in compare(found, "title").rows if row.group == "baselines"] == ["mean depth"]


def test_results_of_other_data_are_told_apart(tmp_path):
    found = [results(tmp_path, "runs/a", 0.3), results(tmp_path, "runs/b", 0.5, data="e")]
    said = as_text(compare(found, "title"))
    assert "depth: Not all rows are of the same data: runs/a and runs/b differ." in said


def test_a_model_is_in_one_group(tmp_path):
    found = [results(tmp_path, "runs/a", 0.3)]
    with pytest.raises(EvaluationError, match="runs/a is in the groups x and y"):
        compare(found, "title", groups={"x": ["runs/a"], "y": ["runs/a"]})


def test_models_of_the_same_last_name_have_files_of_their_own(tmp_path):
    first, second = (results(tmp_path, name, value) for name, value in (("a/model", 0.1), ("./b/model", 0.2)))
    assert first.path != second.path
    for name, value in (("a/model", 0.1), ("./b/model", 0.2)):
        assert results_of(tmp_path, name).tasks["depth"]["metrics"]["delta1"]["mean"] == value


def test_other_weights_make_what_was_found_go_away(tmp_path):
    there = results(tmp_path, "runs/a", 0.3)
    there.of_revision("r")
    assert there.kept("depth", ABOUT | {"revision": "r"}) and not there.kept("depth", ABOUT | {"revision": "s"})
    there.of_revision("s")
    assert not there.tasks
    assert results_of(tmp_path, "runs/a").tasks  # until something new is known
