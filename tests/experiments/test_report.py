"""From a small table of results to a page: sets, differences, verdicts; and the page that is published."""

import itertools
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from experiment import all_models, as_flags, select
from report import NUMBERS, summarize, verdict, write_page
from scipy import stats

from singlelife.results import ResultRow, append_results

from .conftest import FOLDER

CONFIG = {
    "title": "A miniature",
    "about": "Six models.",
    "limits": ["It says nothing of the world."],
    "models": [
        {"life": ["sim_1", "sim_2"], "seed": [0, 1, 2], "hours": [0.1, None]},
        {"life": "sim_still", "seed": [0, 1, 2]},
        {"life": "sim_pooled"},
    ],
    "scores": {
        "agreement": {"models": ["*"], "reference": "sim_pooled_s0", "k": [5, 1]},
        "datasets": {"models": ["sim_[12]*"], "groups": {"one": ["sim_1_*"], "two": ["sim_2_*"]}},
    },
    "evaluations": {"correspondence": {"task": "correspondence"}},
    "questions": {
        "emergence": {
            "ask": "How much life?", "finding": "More is better.", "metrics": ["centred_excess"],
            "by_hours": ["walks"],
            "sets": {"walks": ["sim_[12]*"], "still": ["sim_still_s?"]},
            "claims": [{"metrics": ["centred_excess"], "more": "walks", "less": ["walks@shortest", "still"]}],
        },
        "controls": {
            "ask": "Which is better?", "finding": "Walks.", "metrics": ["centred_excess", "aepe_240"],
            "sets": {"walks": ["sim_[12]_s?"], "still": ["sim_still_s?"]},
            "claims": [{"metrics": ["centred_excess", "aepe_240"], "order": ["walks", "still"]}],
        },
        "transfer": {
            "ask": "Does it transfer?", "finding": "It does.",
            "correlate": {"with": ["centred_excess"], "metrics": ["aepe_240"], "judged": ["aepe_240"]},
            "sets": {"walks": ["sim_[12]*"], "still": ["sim_still_s?"]},
        },
        "datasets": {
            "ask": "Do lives of one set agree more?", "finding": "They do.", "metrics": ["raw"],
            "matrices": {"all": "datasets"},
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
    """What each model of the miniature is worth: walks more than still cameras, a whole life more than a part."""
    seed = int(name[-1])
    return 0.01 * seed + (0.0 if "still" in name else 0.3 if "0.1h" in name else 0.6)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    names = [name for name in all_models(CONFIG) if "pooled" not in name]
    for kind in ("cas/agreement", "cas/datasets", "evaluate/correspondence"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        cas = CHANCE + (1 - CHANCE) * quality(name)
        rows = [
            row("sim_pooled_s0", "centred_excess", cas, name),
            row("sim_pooled_s0", "centred_excess", 0.9, name, 1),
        ]
        rows += [row("sim_pooled_s0", "true_match_raw_large_shifts", 0.5), row(name, "position_raw", 0.3)]
        append_results(folder / "cas" / "agreement" / f"{name}.jsonl", rows)
        error = [row(name, "aepe_240", 100 - 50 * quality(name)), row(name, "pck1", 0.1)]
        append_results(folder / "evaluate" / "correspondence" / f"{name}.jsonl", error)
        if "h_" in name or "still" not in name:
            (folder / "runs" / name).mkdir(parents=True)
            (folder / "runs" / name / "life.json").write_text('{"hours": 1.5}')
    walks = select(all_models(CONFIG), "sim_[12]*")
    pairs = itertools.combinations(walks, 2)
    append_results(
        folder / "cas" / "datasets" / "all.jsonl",
        [row(a, "raw", 0.5 if a[:5] == b[:5] else 0.4, b) for a, b in pairs],
    )
    return folder


def numbers_of(summary: pd.DataFrame, question: str) -> pd.DataFrame:
    return summary[summary.question == question]


def test_means_and_differences_are_those_of_the_rows(results):
    summary = summarize(CONFIG, results)
    emergence = numbers_of(summary, "emergence")
    means = emergence[emergence.kind == "mean"].set_index(["label", "at"]).value
    assert means["walks", 0.1] == pytest.approx(0.31) and means["walks", 1.5] == pytest.approx(0.61)
    difference = emergence[emergence.label == "walks over still"].iloc[0]
    more = [quality(name) for name in select(all_models(CONFIG), "sim_[12]_s?")]
    expected = stats.ttest_ind(more, [0.0, 0.01, 0.02], equal_var=False).confidence_interval(0.95)
    assert [difference.low, difference.high] == pytest.approx([expected.low, expected.high])
    controls = numbers_of(summary, "controls")
    assert (controls[controls.kind == "difference"].value > 0).all()  # a smaller error is a better one
    transfer = numbers_of(summary, "transfer")
    rho = transfer[transfer.label == "all"].value.iloc[0]
    assert rho == pytest.approx(-1)  # the error falls as the score rises
    groups = numbers_of(summary, "datasets")
    assert groups[groups.kind == "difference"].value.iloc[0] == pytest.approx(0.1 / (1 - CHANCE))
    assert groups[groups.kind == "difference"].p.iloc[0] < 0.05


def test_verdicts_follow_the_rule_and_wait_for_all_models(results):
    questions = CONFIG["questions"]
    summary = summarize(CONFIG, results)
    verdicts = {name: verdict(question, numbers_of(summary, name)) for name, question in questions.items()}
    assert verdicts == dict.fromkeys(questions, "reproduced")
    turned = summary.assign(value=-summary.value, low=-summary.high, high=-summary.low)
    assert verdict(questions["controls"], numbers_of(turned, "controls")) == "not reproduced"
    wide = summary.assign(low=-1.0, high=1.0)
    assert verdict(questions["emergence"], numbers_of(wide, "emergence")) == "undecided"
    assert verdict(questions["datasets"], numbers_of(summary.assign(p=0.2), "datasets")) == "undecided"
    for seed in (1, 2):
        (results / "cas" / "agreement" / f"sim_still_s{seed}.jsonl").unlink()
    summary = summarize(CONFIG, results)
    assert summary[summary.label == "walks over still"].low.isna().any()  # an interval takes two models a side
    for name in ("emergence", "controls", "transfer"):
        assert verdict(questions[name], numbers_of(summary, name)) == "not measured yet"


@pytest.mark.integration
def test_a_page_has_figures_and_can_be_made_of_what_there_is_so_far(results, tmp_path):
    page = tmp_path / "page" / "results.md"
    page.parent.mkdir()
    write_page(CONFIG, summarize(CONFIG, results), page)
    text = page.read_text()
    assert "1 h 30 min" in text and text.count("](images/study_") == 3  # groups have no figure
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (page.parent / "images").iterdir())
    shutil.rmtree(results)
    write_page(CONFIG, summarize(CONFIG, results), page)
    assert page.read_text().count("**not measured yet**") == 8


@pytest.mark.integration
def test_the_published_page_is_that_of_the_published_summary(tmp_path):
    config = yaml.safe_load((FOLDER / "config.yaml").read_text())
    docs = FOLDER.parents[1] / "docs"
    shutil.copytree(docs / "images", tmp_path / "images")
    write_page(config, pd.read_csv(FOLDER / "measured.csv", dtype=NUMBERS), tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (docs / "results.md").read_text()


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
    assert (
        as_flags({"k": [5, 1], "flip": True, "baselines": False, "data": "my data"})
        == "--k 5 1 --flip --no-baselines --data 'my data'"
    )
    with pytest.raises(ValueError, match=r"sim_2_\*.*sim_1_s0"):
        select(models, "sim_2_*")
    with pytest.raises(ValueError, match="sim_1_s0"):  # two models of one name
        all_models({"models": [{"life": "sim_1"}, {"life": "sim_1", "max_steps": 3}]})
