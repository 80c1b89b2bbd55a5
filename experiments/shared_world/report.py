"""The report of an experiment: a page of verdicts, tables and figures.

    python report.py --config config.yaml --results results/shared_world --summary summary.csv --page results.md
    python report.py --config config.yaml --summary measured.csv --page ../../docs/results.md --images images/study

The first line summarizes what the jobs wrote; it works at any time, on what there is so far. The second line makes the
page again from a summary that was kept.
"""

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from experiment import all_models, select
from figures import TITLES, draw
from summary import COLUMNS, LOWER_IS_BETTER, summarize, welch

from singlelife.files import atomic_write
from singlelife.text import duration

SIGNIFICANT = 0.05
HOW_TO_READ = """\
**One rule gives all verdicts.** Each finding of the paper is split into differences that it says are above 0. A
difference *holds* if its 95% interval lies above 0, is *contradicted* if the interval lies below 0, and is *open*
otherwise. The finding is `reproduced` if all of its differences hold, `not reproduced` if more are contradicted than
hold, `undecided` if all are open, and `partly` reproduced otherwise. It is `not measured yet` while any of its models
is missing.

**Intervals.** Differences of means have Welch's t interval over models (seeds and lives). Three seeds leave it wide.
Rank correlations have Fisher's interval with the variance of Fieller et al. (1957). A difference within and across
groups holds if p ≤ 0.05 in a permutation test over models, and if its interval over pairs of views, where that was
measured, lies above 0 as well. Nothing is corrected for the number of differences: of twenty, one may miss by chance.
A control is *near zero* if it has less than a quarter of what lives have (0.25 × lives). One set does *as well* as
another if it is not worse by a tenth.

**Scores.** CAS is chance-corrected: 0 is chance, and 1 is full agreement. Only the CAS of groups is not. *Raw* CAS is
the paper's score. *Position-free* CAS leaves out each model's habit of looking at the same place. *True match at large
shifts* is how often the true match is among the top k, where the view shifts so far that looking at the same place
never finds it. *AEPE* is an error, so less is better; its differences are turned, so that above 0 is better there too.
± is the standard deviation over models, and the number of models is in brackets."""


def outcome(row: Any) -> str:
    """Whether a difference holds; `p` counts where there is one, and the interval where there is one."""
    if not math.isnan(row.p):
        holds = row.p <= SIGNIFICANT and not row.low <= 0
        contradicted = row.p >= 1 - SIGNIFICANT and not row.high >= 0
    else:
        holds, contradicted = row.low > 0, row.high < 0
    return "holds" if holds else "contradicted" if contradicted else "open"


def judged(question: Mapping[str, Any], numbers: pd.DataFrame) -> pd.DataFrame:
    """The differences that the verdict on a question follows from, with the outcome of each."""
    rows = numbers[numbers.kind == "difference"]
    if "correlate" in question:
        wanted = numbers.metric.isin(question["correlate"]["judged"]) & (numbers.label == "all")
        rows = numbers[(numbers.kind == "correlation") & wanted].copy()
        turned = rows.metric.isin(LOWER_IS_BETTER)  # a score predicts a smaller error
        rows.loc[turned, ["value", "low", "high"]] = -rows.loc[turned, ["value", "high", "low"]].to_numpy()
        rows["label"] = [f"{TITLES[score]} predicts it" for score in rows.role]
    return rows.assign(outcome=[outcome(row) for row in rows.itertuples()])


def is_complete(config: Mapping[str, Any], question: Mapping[str, Any], numbers: pd.DataFrame) -> bool:
    """Whether every model of a question was measured by every metric."""
    models = all_models(config)
    sets = {label: set(select(models, patterns)) for label, patterns in question.get("sets", {}).items()}
    if "correlate" in question:
        found = numbers[(numbers.kind == "correlation") & (numbers.label == "all")]
        expected = len(question["correlate"]["with"]) * len(question["correlate"]["metrics"])
        return len(found) == expected and (found.n == len(set().union(*sets.values()))).all()
    means = numbers[numbers.kind == "mean"]
    measured = means.fillna({"role": ""}).groupby(["role", "label", "metric"]).n.sum()
    if "matrices" in question:
        labels = sets or ("within", "across")
        return len(measured) == len(question["matrices"]) * len(labels) * len(question["metrics"])
    return all(
        measured.get(("", label, metric), 0) == len(names)
        for label, names in sets.items()
        for metric in question["metrics"]
    )


def verdict(config: Mapping[str, Any], question: Mapping[str, Any], numbers: pd.DataFrame) -> str:
    """The verdict on the paper's finding, by the rule in HOW_TO_READ."""
    if not question.get("finding"):
        return "no finding of the paper"
    outcomes = list(judged(question, numbers).outcome)
    if not outcomes or not is_complete(config, question, numbers):
        return "not measured yet"
    holding, contradicted = outcomes.count("holds"), outcomes.count("contradicted")
    if holding == len(outcomes):
        return "reproduced"
    if contradicted > holding:
        return "not reproduced"
    return "partly" if holding else "undecided"


def in_numbers(question: Mapping[str, Any], numbers: pd.DataFrame) -> str:
    """A question's result in a few sentences."""
    means = numbers[numbers.kind == "mean"]
    if question.get("by_hours"):
        return " ".join(_emergence(question, means))
    if "correlate" in question:
        found = numbers[numbers.kind == "correlation"]
        parts = [f"{_title(row.role)} with {TITLES[row.metric]}: ρ = {_rho(row)}" for row in
                 found[found.label == "all"].itertuples()]  # fmt: skip
        alone = found[found.label != "all"]
        significant = sum(row.low > 0 or row.high < 0 for row in alone.itertuples())
        if len(alone):
            first = f"Among {alone.label.iloc[0]} alone"
            parts.append(f"{first}, {significant} of {len(alone)} correlations are significant")
        return "".join(f"{part}. " for part in parts)
    differences = judged(question, numbers)
    sentences = []
    if means.role.notna().any() and not question.get("sets"):
        for metric, rows in differences.groupby("metric", sort=False):
            values = ", ".join(f"{value:+.3f}" for value in rows.value)
            sentences.append(f"{_title(metric)}, within over across: {values}.")
    else:
        if means.role.notna().any():  # of the first matrix, at one k
            means = means[(means.role == means.role.iloc[0]) & (means["at"] == question.get("shown_k", 5))]
        shown = [metric for claim in question.get("claims", ()) for metric in claim["metrics"]]
        for metric, rows in means[means.metric.isin(shown or means.metric)].groupby("metric", sort=False):
            rows = rows.sort_values("value", ascending=metric in LOWER_IS_BETTER)
            values = ", ".join(f"{row.label} {row.value:.3f}" for row in rows.itertuples())
            sentences.append(f"{_title(metric)}: {values}.")
    if len(differences):
        holding, contradicted, open_ = (
            (differences.outcome == each).sum() for each in ("holds", "contradicted", "open")
        )
        sentences.append(
            f"{holding} of {len(differences)} differences hold, {contradicted} contradicted, {open_} open."
        )
    return " ".join(sentences)


def _title(metric: str) -> str:
    """A metric at the beginning of a sentence."""
    return TITLES[metric][0].upper() + TITLES[metric][1:]


def _emergence(question: Mapping[str, Any], means: pd.DataFrame) -> list[str]:
    """From which length of life on each set leaves all controls, by the first metric that is claimed."""
    metric = question["claims"][0]["metrics"][0]
    means = means[means.metric == metric]
    controls = means[~means.label.isin(question["by_hours"])]
    sentences = []
    for label, points in means[means.label.isin(question["by_hours"])].groupby("label", sort=False):
        if (points.n < 2).all():
            continue  # an interval takes two models
        clear = None
        for point in points.sort_values("at", ascending=False).itertuples():
            over = [welch(point, control) for control in controls.itertuples()]
            if not all(value - half > 0 for value, half in over):
                break
            clear = point.at
        shown = ", ".join(f"{row.value:.3f} with {duration(3600 * row.at)}" for row in points.itertuples())
        left = "does not leave all controls" if clear is None else (
            f"leaves all controls from {duration(3600 * clear)} of life on")  # fmt: skip
        sentences.append(f"{label} {left}. {_title(metric)}: {shown}.")
    return sentences


def _rho(row: Any) -> str:
    return f"{row.value:+.2f} [{row.low:.2f}, {row.high:.2f}]"


def _cell(row: Any) -> str:
    spread = "" if math.isnan(row.sd) else f" ± {row.sd:.3f}"
    return f"{row.value:.3f}{spread}" + ("" if math.isnan(row.n) else f" ({row.n:.0f})")


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def tables(question: Mapping[str, Any], numbers: pd.DataFrame) -> list[str]:
    """The means of a question, its correlations, and the differences that were judged, as Markdown."""
    found = []
    means = numbers[numbers.kind == "mean"]
    if len(means):
        names = {"role": "measured as", "label": "models", "at": "hours" if question.get("by_hours") else "k"}
        keys = [key for key in names if means[key].notna().any()]
        shown = means.assign(cell=[_cell(row) for row in means.itertuples()])
        shown["at"] = ["" if math.isnan(at) else f"{at:.3g}" for at in means["at"]]
        table = shown.pivot_table(index=keys, columns="metric", values="cell", aggfunc="first", sort=False)
        table = table.fillna("-").reset_index().rename(columns={**names, **TITLES})
        found.append(_markdown(list(table.columns), table.to_numpy()))
    correlations = numbers[numbers.kind == "correlation"]
    if len(correlations):
        rows = [(TITLES[row.role], TITLES[row.metric], row.label, f"{row.n:.0f}", _rho(row)) for row in
                correlations.itertuples()]  # fmt: skip
        found.append(_markdown(["score", "with", "models", "number", "Spearman's ρ"], rows))
    differences = judged(question, numbers)
    if len(differences):
        rows = [
            (row.label, TITLES[row.metric], f"{row.value:+.3f}",
             "-" if math.isnan(row.low) else f"[{row.low:.3f}, {row.high:.3f}]", row.outcome,
             *([f"{row.p:.3f}"] if differences.p.notna().any() else []))
            for row in differences.itertuples()
        ]  # fmt: skip
        header = ["difference", "in", "value", "95% interval", "outcome", "p"]
        found.append(_markdown(header[: len(rows[0])], rows))
    return found


def write_page(config: Mapping[str, Any], summary: pd.DataFrame, page: Path, images: str = "images/study") -> None:
    """Write the report on a summary, and its figures beside it: `images` is their path and how their names begin."""
    overview, sections = [], []
    for name, question in config["questions"].items():
        numbers = summary[summary.question == name]
        found, said = verdict(config, question, numbers), in_numbers(question, numbers) or "-"
        paper = question.get("finding", "-")
        overview.append((question["ask"], paper, f"**{found}**", said))
        picture = f"{images}_{name}.png"
        (page.parent / picture).parent.mkdir(parents=True, exist_ok=True)
        drawn = draw(config, question, numbers, page.parent / picture)
        sections += [f"## {question['ask']}", f"The paper: {paper} Here: **{found}**." if paper != "-" else "", said]
        # A summary that was kept without its single models cannot be drawn again; a picture that is there stays.
        sections += [f"![{question['ask']}]({picture})"] if drawn or (page.parent / picture).is_file() else []
        sections += tables(question, numbers)
    costs = summary[(summary.kind == "cost") & (summary.n > 0)]
    cost = [(row.label, f"{row.n:.0f}", duration(row.value)) for row in costs.itertuples()]
    cost.append(("all", f"{costs.n.sum():.0f}", f"**{duration(costs.value.sum())}**"))
    parts = [
        f"# {config['title']}", config["about"],
        _markdown(["question", "what the paper found", "here", "in numbers"], overview),
        "## How to read this", HOW_TO_READ, *sections,
        "## What this does not say", "\n".join(f"- {limit}" for limit in config.get("limits", ())),
        "## What it took", _markdown(["jobs", "number", "CPU time"], cost),
    ]  # fmt: skip
    with atomic_write(page) as aside:
        aside.write_text("\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the experiment")
    parser.add_argument("--results", type=Path, help="folder that its jobs wrote into; else --summary is read")
    parser.add_argument("--summary", type=Path, required=True, help="CSV, written with --results and read without")
    parser.add_argument("--page", type=Path, required=True, help="the Markdown page to write")
    parser.add_argument("--images", default="images/study", help="path and first letters of its figures")
    given = parser.parse_args()
    config = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    if given.results:
        with atomic_write(given.summary) as aside:
            summarize(config, given.results).to_csv(aside, index=False, float_format="%.6g")
    numeric = dict.fromkeys([*COLUMNS[6:], "at"], float)
    write_page(config, pd.read_csv(given.summary, dtype=numeric), given.page, given.images)


if __name__ == "__main__":
    main()
