"""The report on a study whose steps found what is written here: every analysis, from outputs to words and pictures."""

import json
from pathlib import Path

import pytest

from singlelife.cli import main
from singlelife.study.report import write_report
from singlelife.study.steps import _fingerprint, plan_study
from singlelife.study.study_file import Measure, read_study

from ..pretraining.conftest import write_clip

SEEDS = [0, 1, 2]
UNTRAINED = ["untrained:tiny@0", "untrained:tiny@1"]
ALL_OF_IT = {"union": 0.5, "": 0.4, "random": 0.3, "many": 0.41, "still": 0.01, "hours": 0.1}
GROUPS = {"difference": {"difference": 0.3, "low": 0.2, "high": 0.4}, "permutation": {"p_value": 0.01}}


@pytest.fixture
def every_analysis(content, sim_test, sim_still) -> dict:
    """A study that asks a question of each kind, of models of three seeds."""
    test, still = str(sim_test.path), str(sim_still.path)
    content["models"] = {
        "walk": {"life": test, "seed": SEEDS},
        "short": {"life": test, "seed": SEEDS, "hours": 0.004},
        "pairings": {"life": test, "seed": SEEDS, "pairing": ["union", "random"]},
        "many": {"life": test, "seed": SEEDS, "mask_ratio": 0.7},
        "still": {"life": still, "seed": SEEDS},
        "reference": {"life": test, "seed": 7},
    }
    every = ["walk", "short", "pairings", "many", "still", *UNTRAINED]
    content["measures"] = {
        "agreement": {"command": "align", "each": True, "against": "reference", "models": every, "pairs": test},
        "depth": {"command": "evaluate depth", "each": True, "models": every, "train": [test], "test": [test]},
        "correspondence": {"command": "evaluate correspondence", "each": True, "models": every, "data": test},
        "matrix": {
            "command": "align", "models": ["walk", "still"], "pairs": test, "k": [5, 1],
            "groups": {"walks": ["walk"], "stills": ["still"]},
        },
    }  # fmt: skip
    three = {"agreement": "agreement", "depth": "depth", "correspondence": "correspondence"}
    one, baseline = {"agreement": "agreement"}, {"untrained": UNTRAINED}
    content["questions"] = {
        "curve": {"analysis": "curve", "finding": "It grows.", "measures": one,
                  "models": {"walk": ["walk", "short"]}, "controls": baseline},
        "controls": {"analysis": "controls", "finding": "Near zero.", "measures": one, "lives": ["walk"],
                     "controls": {"still": ["still"]}, "baseline": UNTRAINED},
        "groups": {"analysis": "groups", "finding": "Within.", "measures": {"all": "matrix"}},
        "order": {"analysis": "order", "finding": "In this order.", "measures": three, "expected": {
            "union": [{"from": "pairings", "pairing": "union"}], "temporal": ["walk"],
            "random": [{"from": "pairings", "pairing": "random"}]}},
        "equal": {"analysis": "equal", "finding": "As well.", "measures": three, "one": ["walk"], "many": ["many"]},
        "correlation": {"analysis": "correlation", "finding": "It foretells.", "measures": three,
                        "models": {"lives": ["walk", "many"], "others": ["walk", "short", "pairings", "still"]}},
        "position": {"analysis": "position", "measures": {"target to source": "matrix"},
                     "models": {"walk": ["walk"], "still": ["still"]}},
    }  # fmt: skip
    return content


def agreement_of(model: str) -> float:
    """What a model is said to agree with the reference by: by its kind, and a little by its seed."""
    seed = int(model.removesuffix("_many")[-1])
    if model.startswith("untrained"):
        return 0.02 + 0.01 * seed
    kinds = ("union", "random", "many", "still")
    kind = next((kind for kind in kinds if kind in model), "hours" if "0.004h" in model else "")
    return ALL_OF_IT[kind] + 0.01 * seed


def align_result(models: list[str]) -> dict:
    values = [agreement_of(model) for model in models]
    adjusted = [[min(a, b) if len(models) > 2 else values[1] for b in values] for a in values]
    judged = GROUPS | {"within": {"cas": 0.5}, "across": {"cas": 0.2}, "adjusted": adjusted}
    readings = [
        {"truth": {"large_shifts": value / 2}, "position_free_truth": {"large_shifts": value / 3},
         "position": {"adjusted": 0.05}, "sinks": [7] if value < 0.1 else []} for value in values
    ]  # fmt: skip
    at_k = {"readings": readings, "raw": judged, "position_free": judged}
    return {"k": 5, "grid": [8, 8], "at_k": {"5": at_k, "1": at_k}}


def result_of(measure: Measure, model: str) -> dict:
    """What a step of a measure found; of one that is made for each model, of this."""
    if measure.command == "align":
        return align_result([measure.against, model] if measure.each else list(measure.models))
    if measure.command == "evaluate depth":
        return {"rows": [{"measures": {"delta1": {"mean": agreement_of(model)}}}]}
    return {"models": [{"summary": {"240": {"aepe": 50 * (1 - agreement_of(model))}}}]}


def report_of(content: dict, write, folder: Path) -> dict[str, dict]:
    """The answers of a study all of whose steps are done."""
    study = read_study(write(content))
    plan = plan_study(study, folder)
    for name, step in plan.steps.items():
        (folder / name).mkdir(parents=True)
        record = {"key": step.key, "seconds": 2.0, "cpu_seconds": 3.0, "version": "0"}
        (folder / name / "step.json").write_text(json.dumps(record))
        if step.kind == "train":
            (folder / name / "life.json").write_text(json.dumps({"hours": 0.05}))
    for measure, steps in plan.measures.items():
        asked = study.measures[measure]
        for model, step in zip(asked.models, steps, strict=asked.each):
            (folder / step / "result.json").write_text(json.dumps(result_of(asked, model)))
    out = write_report(study, plan, folder)
    assert "This is not all of it yet" not in (out / "results.md").read_text()
    return json.loads((out / "results.json").read_text())["questions"]


def test_findings_that_hold_are_reproduced(every_analysis, write, tmp_path):
    found = report_of(every_analysis, write, tmp_path / "out")
    assert {name: each["verdict"] for name, each in found.items()} == {
        "curve": "reproduced", "controls": "reproduced", "groups": "reproduced", "order": "reproduced",
        "equal": "reproduced", "correlation": "reproduced", "position": "no finding of the paper",
    }  # fmt: skip
    assert "walk leaves all controls from 0.004 hours (14 s) on, position-free: " in found["curve"]["sentence"]
    assert "lives agree with the reference by 0.410; still 0.020." in found["controls"]["sentence"]
    assert "by position-free CAS union > temporal > random" in found["order"]["sentence"]
    assert "by AEPE, px of 240 union > temporal > random" in found["order"]["sentence"]  # the lowest error is the best
    assert "models have sinks." in found["position"]["sentence"]
    assert found["correlation"]["rows"][0][1:3] == ["true match, large shifts", "18"]
    assert (
        found["correlation"]["rows"][0][-1].endswith("(6)") and "Among lives alone" in found["correlation"]["sentence"]
    )
    # What the paper could not measure stands beside, and decides nothing.
    told = [each for name in ("order", "equal", "correlation") for each in found[name]["comparisons"]]
    assert told and not [each for each in told if each.startswith("true match")]
    assert found["order"]["rows"][0] == ["union", "0.510 ± 0.010 (3)", "0.255 ± 0.005 (3)", "0.510 ± 0.010 (3)",
                                         "24.500 ± 0.500 (3)"]  # fmt: skip
    assert found["groups"]["rows"][0][-2:] == ["0.205 ± 0.005 (3)", "0.010 ± 0.005 (3)"]  # true matches of each group
    assert len((tmp_path / "out" / "report" / "results.html").read_text().split("data:image/png")) == 8


def test_what_does_not_hold_is_said(every_analysis, write, tmp_path, monkeypatch):
    changed = {"union": 0.3, "random": 0.5, "many": 0.8, "still": 0.4, "hours": 0.4}
    for kind, agreement in changed.items():
        monkeypatch.setitem(ALL_OF_IT, kind, agreement)
    found = report_of(every_analysis, write, tmp_path / "out")
    verdicts = {name: each["verdict"] for name, each in found.items()}
    assert verdicts["order"] == verdicts["equal"] == "not reproduced"
    assert verdicts["controls"] == "not reproduced" and verdicts["curve"] == "partly"
    assert any("contradicted" in each for each in found["order"]["comparisons"])


@pytest.mark.parametrize(("p_value", "verdict"), [(0.5, "undecided"), (0.97, "not reproduced")])
def test_groups_are_told_apart_by_models_and_not_by_pairs_alone(
    p_value, verdict, every_analysis, write, tmp_path, monkeypatch
):
    monkeypatch.setitem(GROUPS, "difference", {"difference": -0.005, "low": -0.007, "high": -0.003})
    monkeypatch.setitem(GROUPS, "permutation", {"p_value": p_value})
    found = report_of(every_analysis, write, tmp_path / "out")["groups"]
    assert found["verdict"] == verdict
    assert found["sentence"].startswith("Within less across is -0.005 raw and -0.005 position-free")


def test_a_question_whose_recording_is_not_here_is_left_out_if_it_may_be(
    every_analysis, write, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SINGLELIFE_RECORDINGS", str(tmp_path / "recordings"))
    every_analysis["models"]["real"] = {"life": "clip_motorway", "seed": [0, 1]}
    every_analysis["measures"]["agreement"]["models"] += ["real"]
    every_analysis["questions"]["real"] = every_analysis["questions"]["controls"] | {
        "controls": {"motorway": ["real"]}, "optional": True
    }  # fmt: skip
    _fingerprint.cache_clear()
    path, folder = write(every_analysis), tmp_path / "out"
    assert main(["study", str(path), "--output", str(folder), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "The question real is left out: clip_motorway not here. `singlelife lives show NAME`" in said
    assert "clip_motorway" not in said.partition("STEP")[2]
    assert main(["study", str(path), "--output", str(folder), "--dry-run", "--question", "real"]) == 0
    assert "prepare/clip_motorway" in capsys.readouterr().out  # who asks for it is told how to get it by the step
    report = write_report(study := read_study(path), plan_study(study, folder), folder)
    assert "*It was left out: clip_motorway was not there.*" in (report / "results.md").read_text()

    (folder_of_it := tmp_path / "recordings" / "clip_motorway").mkdir(parents=True)
    write_clip(folder_of_it / "drive.mp4", seconds=1)
    _fingerprint.cache_clear()
    assert main(["study", str(path), "--output", str(folder), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "left out" not in said and "train/clip_motorway_micro_s1" in said
