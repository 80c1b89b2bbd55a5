"""Alignment over the checkpoints of a run, or over hours of life."""

import json
from pathlib import Path

import pytest
import yaml

from singlelife.alignment.curve import Against, curve_of, emerged, models_of_runs
from singlelife.alignment.score import Score
from singlelife.cli import main
from singlelife.errors import CheckpointError, RunError
from singlelife.lives.prepared import PreparedLife

from ..micro import save_micro_model
from .test_matrix import run, zoo


def against(at: float | None, low: float, high: float) -> Against:
    score = Score((low + high) / 2, 0.1, 0.0, low, high)
    return Against("m", at, None, score, None)


def test_emergence_is_from_where_on_the_interval_clears_all_controls():
    points = [against(1, 0.1, 0.3), against(2, 0.32, 0.4), against(3, 0.35, 0.5)]
    controls = [against(None, 0.1, 0.2), against(None, 0.2, 0.31)]
    assert emerged(points, controls, "raw") == 2
    assert emerged([*points, against(4, 0.3, 0.5)], controls, "raw") is None
    assert emerged([*points, against(4, 0.3, 0.5), against(5, 0.4, 0.5)], controls, "raw") == 5
    assert emerged(points, [against(None, 0.1, 0.35)], "raw") is None  # to touch is not to clear
    assert emerged(points, [], "raw") == 2  # 0.1 is chance, and not cleared by what touches it


def test_the_numbers_are_those_of_a_matrix(tmp_path):
    matrix = run(tmp_path, zoo(["a1", "b1", "a2", "b2"]))
    found = curve_of(matrix, "a1", "step", {"a2": 100.0, "b2": 200.0})
    for place, point in ((2, found.points[0]), (3, found.points[1]), (1, found.controls[0])):
        for variant in ("raw", "centred"):
            assert getattr(point, variant) == getattr(matrix.main, variant).cell(0, place)
    assert [point.at for point in found.points] == [100, 200] and found.controls[0].at is None
    assert found.emerged == {"raw": None, "centred": None}  # b2 is of the control's group
    assert "does not clear its null and the controls" in str(found) and "control b1" in str(found)
    assert curve_of(matrix, "a1", "step", {"b2": 50.0, "a2": 100.0}).emerged["raw"] == 100
    rows = [row for row in found.rows() if row.metric == "raw"]
    assert {row.reference for row in rows} == {"a1"} and {row.model for row in rows} == {"b1", "a2", "b2"}


def test_checkpoints_that_fail_are_named_and_the_reference_has_to_work(tmp_path):
    matrix = run(tmp_path, [*zoo(["a1", "a2", "b1"]), "none"])
    found = curve_of(matrix, "a1", "step", {"a2": 1.0, "none": 2.0})
    assert [point.model for point in found.points] == ["a2"] and list(found.failed) == ["none"]
    assert "no model none" in str(found)
    with pytest.raises(CheckpointError, match=r"The reference none .*no model none"):
        curve_of(matrix, "none", "step", {"a2": 1.0})
    with pytest.raises(CheckpointError, match=r"(?s)No model of the curve.*  none: "):
        curve_of(matrix, "a1", "step", {"none": 1.0})


@pytest.fixture(scope="module")
def make_run():
    """Writes the folder of a run as training does: models of fresh weights by their seeds."""

    def write(folder: Path, steps=(), last: int = 9, hours: float | None = None, of_all: float | None = None) -> str:
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"max_steps": last, "hours": hours}))
        if of_all is not None:
            (folder / "life.json").write_text(json.dumps({"hours": of_all}))
        for step in steps:
            save_micro_model(folder / f"checkpoint-{step}", step)
        save_micro_model(folder, last)
        return str(folder)

    return write


def test_a_run_is_its_checkpoints_in_order_and_its_finished_model(tmp_path, make_run):
    folder = make_run(tmp_path / "run", steps=(10, 2, 9))
    (tmp_path / "run" / "checkpoint-11.tmp").mkdir()
    by, models = models_of_runs([folder])
    assert by == "step"
    assert list(models.items()) == [(f"{folder}/checkpoint-2", 2), (folder, 9), (f"{folder}/checkpoint-10", 10)]


def test_runs_are_a_duration_study_by_their_hours(tmp_path, make_run):
    long = make_run(tmp_path / "long", of_all=8.0)
    short = make_run(tmp_path / "short", hours=0.5, of_all=8.0)
    assert models_of_runs([long, short]) == ("hours", {short: 0.5, long: 8.0})


def test_what_is_no_study_is_refused(tmp_path, make_run):
    one, same = make_run(tmp_path / "one", hours=1.0), make_run(tmp_path / "same", hours=1.0)
    unknown = make_run(tmp_path / "unknown")
    with pytest.raises(RunError, match="--hours"):
        models_of_runs([one, same])
    with pytest.raises(RunError, match="unknown: not known"):
        models_of_runs([one, unknown])
    with pytest.raises(RunError, match="is not the folder of a run"):
        models_of_runs([tmp_path])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("max_steps: 5")
    with pytest.raises(RunError, match="holds no checkpoint yet"):
        models_of_runs([tmp_path / "empty"])


@pytest.mark.integration
def test_the_command_follows_a_run(tmp_path, make_run, sim_test: PreparedLife, capsys):
    folder = make_run(tmp_path / "run", steps=(3, 6))
    command = ["cas", "--curve", folder, "--reference", "untrained:tiny", "--controls", "untrained:tiny@1"]
    command += ["--pairs", str(sim_test.path), "--num-pairs", "12", "--save", str(tmp_path / "saved")]
    assert main([*command, "--cache-dir", str(tmp_path / "cache")]) == 0
    assert "optimiser steps" in capsys.readouterr().out
    fields = json.loads((tmp_path / "saved" / "result.json").read_text())
    assert [point["at"] for point in fields["points"]] == [3, 6, 9] and fields["pairs_hash"]
    assert (tmp_path / "saved" / "curve.png").is_file()
