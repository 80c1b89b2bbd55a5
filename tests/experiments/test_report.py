"""From the rows of a small experiment to its page: values, tests of claims, verdicts."""

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from experiment import all_models, as_flags, select
from report import collect, model_table, run_claims, verdict, write_page

from singlelife.results import ResultRow, append_results

LIVES, CONTROLS = [f"sim_{n}" for n in range(1, 7)], ["sim_still", "sim_slides"]
CONFIG = {
    "title": "A miniature",
    "about": "Nine lives.",
    "limits": ["It says nothing about the world."],
    "models": [
        {"life": LIVES, "seed": [0, 1], "pairing": ["temporal", "random"]},
        {"life": "sim_1", "hours": [0.1]},
        {"life": CONTROLS},
        {"life": "sim_pooled"},
    ],
    "scores": {
        "agreement": {"models": ["*"], "reference": "sim_pooled_s0", "k": [5, 1]},
        "matrix": {"models": ["sim_[1-6]_s?"]},
    },
    "evaluations": {"correspondence": {"task": "correspondence"}},
    "questions": {
        "emergence": {
            "ask": "How much life?", "metrics": ["centred"], "by_hours": ["walks"],
            "sets": {"walks": ["sim_1_s?", "sim_1_0.1h_s0"], "controls": ["sim_still_s0", "sim_slides_s0"]},
        },
        "controls": {
            "ask": "Do walks agree more?", "finding": "They do.", "metrics": ["centred"],
            "sets": {"walks": ["sim_[1-6]_s?"], "still": ["sim_still_s0"], "slides": ["sim_slides_s0"]},
            "claims": [{"metric": "centred", "more": "walks", "than": ["still", "slides"]}],
        },
        "pairings": {
            "ask": "Which pairs?", "finding": "Temporal.", "metrics": ["aepe_240"],
            "sets": {"temporal": ["sim_[1-6]_s?"], "random": ["sim_[1-6]_random_s?"]},
            "claims": [{"metric": "aepe_240", "more": "temporal", "than": ["random"], "paired": True}],
        },
        "transfer": {
            "ask": "Does it transfer?", "finding": "It does.", "metrics": ["centred", "aepe_240"],
            "sets": {"walks": ["sim_[1-6]_s?"]},
            "claims": [{"metric": "aepe_240", "predictor": "centred", "models": ["walks"]}],
        },
        "datasets": {
            "ask": "Do lives of one set agree more?", "finding": "They do.", "metrics": ["raw"],
            "matrices": {"all lives": "matrix"}, "sets": {"walks": ["sim_[1-6]_s?"]},
            "claims": [{"metric": "raw", "matrix": "matrix",
                        "groups": {"one": ["sim_[1-3]_s?"], "two": ["sim_[4-6]_s?"]}}],
        },
    },
}  # fmt: skip
CHANCE = 0.2


def row(model: str, metric: str, value: float, reference: str = "", k: int = 5) -> ResultRow:
    places = [name and f"out/runs/{name}" for name in (model, reference)]
    return ResultRow(
        model=places[0], revision="", task="cas", protocol="cas/1", data="sim_test", data_hash="", metric=metric,
        value=value, reference=places[1], settings={"k": k, "chance": CHANCE},
    )  # fmt: skip


def quality(name: str) -> float:
    """What a model is worth: a walk more than a control, temporal pairs more than random ones, later lives more."""
    if "still" in name or "slides" in name:
        return 0.1 if "still" in name else 0.2
    return 0.5 + 0.02 * int(name[4]) + 0.01 * int(name[-1]) - 0.1 * ("random" in name) - 0.3 * ("0.1h" in name)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    for kind in ("cas/agreement", "cas/matrix", "evaluate/correspondence"):
        (folder / kind).mkdir(parents=True)
    for name in all_models(CONFIG):
        if "pooled" in name:
            continue
        cas = CHANCE + (1 - CHANCE) * quality(name)
        rows = [row("sim_pooled_s0", "centred", cas, name), row("sim_pooled_s0", "centred", 0.9, name, 1)]
        rows += [row("sim_pooled_s0", "true_match_raw_large_shifts", 0.5), row(name, "raw", 0.3)]
        append_results(folder / "cas" / "agreement" / f"{name}.jsonl", rows)
        error = [row(name, "aepe_240", 100 - 50 * quality(name))]
        append_results(folder / "evaluate" / "correspondence" / f"{name}.jsonl", error)
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "life.json").write_text('{"hours": 1.5}')
    pairs = itertools.combinations(select(all_models(CONFIG), "sim_[1-6]_s?"), 2)
    cells = [row(a, "raw", 0.5 if (a < "sim_4") == (b < "sim_4") else 0.4, b) for a, b in pairs]
    append_results(folder / "cas" / "matrix" / "all.jsonl", cells)
    return folder


def test_each_claim_has_one_test_that_counts_lives_and_not_models(results):
    values = collect(CONFIG, results)
    table = model_table(CONFIG, values)
    assert table.centred["sim_2_s1"] == pytest.approx(0.55)  # corrected for chance, at the first k
    assert table.hours["sim_1_0.1h_s0"] == 0.1 and table.hours["sim_1_s0"] == 1.5
    tests = run_claims(CONFIG, values).set_index("question")
    walks = [np.mean([quality(f"{life}_s{seed}") for seed in (0, 1)]) for life in LIVES]
    controls = tests.loc["controls"]
    assert controls.value == pytest.approx(np.mean(walks) - 0.2)  # over the highest control
    assert controls.lives == 8 and controls.p == controls.smallest == pytest.approx(1 / math.comb(8, 2))
    pairings = tests.loc["pairings"]
    assert pairings.value == pytest.approx(50 * 0.1) and pairings.p == pytest.approx(1 / 2**6)  # a smaller error
    assert tests.loc["transfer"].value == pytest.approx(1) and tests.loc["transfer"].p == pytest.approx(1 / 720)
    datasets = tests.loc["datasets"]
    assert datasets.value == pytest.approx(0.1 / (1 - CHANCE)) and datasets.p == pytest.approx(2 / math.comb(6, 3))
    for name, factor in (("transfer", 4), ("pairings", 3), ("controls", 2), ("datasets", 1)):
        assert tests.loc[name].holm == pytest.approx(factor * tests.loc[name].p)


def test_verdicts_follow_the_corrected_tests_and_wait_for_all_models(results):
    values = collect(CONFIG, results)
    tests = run_claims(CONFIG, values)
    verdicts = {name: verdict(tests[tests.question == name]) for name in CONFIG["questions"]}
    assert verdicts == {
        "emergence": "described, not tested", "controls": "undecided", "pairings": "reproduced",
        "transfer": "reproduced", "datasets": "undecided",
    }  # fmt: skip
    turned = values.assign(value=values.value.where(values.metric != "aepe_240", -values.value))
    turned = run_claims(CONFIG, turned)
    assert verdict(turned[turned.question == "pairings"]) == "not reproduced"
    (results / "cas" / "agreement" / "sim_still_s0.jsonl").unlink()
    (results / "evaluate" / "correspondence" / "sim_still_s0.jsonl").unlink()
    shutil.rmtree(results / "runs" / "sim_still_s0")
    tests = run_claims(CONFIG, collect(CONFIG, results))
    assert verdict(tests[tests.question == "controls"]) == "not measured yet"
    assert verdict(tests[tests.question == "pairings"]) == "reproduced"


@pytest.mark.integration
def test_a_page_has_figures_and_is_the_same_from_kept_values(results, tmp_path):
    page = tmp_path / "page" / "results.md"
    page.parent.mkdir()
    values = collect(CONFIG, results)
    write_page(CONFIG, values, page)
    text = page.read_text()
    assert "1 h 30 min" in text and "one life, two seeds | raw CAS" in text
    assert text.count("](images/study_") == 4  # matrices have no figure
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (page.parent / "images").iterdir())
    values.to_csv(tmp_path / "values.csv", index=False)
    kept = pd.read_csv(tmp_path / "values.csv", keep_default_na=False).astype({"value": float})
    write_page(CONFIG, kept, page)
    assert page.read_text() == text
    shutil.rmtree(results)
    write_page(CONFIG, collect(CONFIG, results), page)
    assert page.read_text().count("**not measured yet**") == 8


def test_models_are_named_by_what_sets_them_apart():
    config = {"train": {"model": "tiny", "max_steps": 5}, "models": [
        {"life": "sim_1", "seed": [0, 1], "hours": [0.1, None]}, {"life": "ORG/my_day", "pairing": "union"},
        {"life": "sim_1", "model": "tiny_sincos"},
    ]}  # fmt: skip
    models = all_models(config)
    assert list(models) == [
        "sim_1_0.1h_s0", "sim_1_s0", "sim_1_0.1h_s1", "sim_1_s1", "my_day_union_s0", "sim_1_tiny_sincos_s0"
    ]  # fmt: skip
    assert models["sim_1_s1"] == {"model": "tiny", "max_steps": 5, "seed": 1, "life": "sim_1"}
    assert select(models, ["sim_1_s?", "sim_1_*", "untrained:tiny@1"])[:2] == ["sim_1_s0", "sim_1_s1"]
    assert select(models, ["sim_1_s?", "untrained:tiny@1", "!sim_1_s0"]) == ["sim_1_s1", "untrained:tiny@1"]
    assert (
        as_flags({"k": [5, 1], "flip": True, "baselines": False, "data": "my data"})
        == "--k 5 1 --flip --no-baselines --data 'my data'"
    )
    with pytest.raises(ValueError, match=r"sim_2_\*.*sim_1_s0"):
        select(models, "sim_2_*")
    with pytest.raises(ValueError, match="sim_1_s0"):  # two models of one name
        all_models({"models": [{"life": "sim_1"}, {"life": "sim_1", "max_steps": 3}]})
