"""The report of an experiment: one page with a test for each claim, tables and figures.

    python report.py --config config.yaml --results results/shared_world --values values.csv --page results.md
    python report.py --config config.yaml --values values.csv --page results.md

The first command collects the jobs' results so far into one table of values, and makes the page. The second makes the
page again from that table. how_to_read.md describes the tests.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from experiment import all_models, select
from matplotlib.figure import Figure
from scipy import stats

from singlelife.files import atomic_write
from singlelife.results import read_results
from singlelife.text import duration

COLUMNS = ["measure", "model", "reference", "metric", "value"]  # of the table of values
TITLES = {
    "raw": "raw CAS",
    "centred": "centred CAS",
    "centred_excess": "centred CAS above its null",
    "true_match_raw_large_shifts": "true matches at large shifts",
    "true_match_centred_large_shifts": "centred true matches at large shifts",
    "delta1": "depth δ1",
    "abs_rel": "depth AbsRel",
    "scannet_delta1": "ScanNet δ1",
    "scannet_abs_rel": "ScanNet AbsRel",
    "aepe_240": "AEPE, px of 240",
}
LOWER_IS_BETTER = ("abs_rel", "scannet_abs_rel", "aepe_240")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
HOW_TO_READ = Path(__file__).with_name("how_to_read.md")
PERMUTATIONS = 50_000  # all permutations if there are no more than this, otherwise this many random ones


def collect(config: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """The values that the jobs wrote, a row for each number, with models by their names in the config.

    With several k, the first counts. CAS is corrected for chance. `measure` is the name of a score or an evaluation in
    the config, or `life` (the hours that a model was trained on), or `cost` (CPU seconds of a rule's jobs).
    """
    tables = []
    for kind, measures in (("cas", config["scores"]), ("evaluate", config["evaluations"])):
        for measure, settings in measures.items():
            files = sorted((folder / kind / measure).glob("*.jsonl"))
            if not files:
                continue
            rows = read_results(*files).assign(measure=measure)
            rows["metric"] = settings.get("prefix", "") + rows.metric  # two measures may have the same metrics
            for column in ("model", "reference"):  # rows have the run folders of models trained here
                rows[column] = [str(model).rpartition("/runs/")[2] for model in rows[column]]
            if kind == "cas":
                k = settings.get("k", 5)
                rows = rows[[each.get("k") == (k[0] if isinstance(k, list) else k) for each in rows.settings]]
                chance = np.array([each.get("chance") or 0 for each in rows.settings], dtype=float)
                plain = rows.metric.str.contains("true_match|excess|_p$")
                rows["value"] = rows.value.where(plain, (rows.value - chance) / (1 - chance))
            tables.append(rows[COLUMNS])
    hours = {path.parent.name: json.loads(path.read_text())["hours"] for path in folder.glob("runs/*/life.json")}
    rows = [("life", name, "", "hours", value) for name, value in hours.items()]
    for rule in ("prepare", "train", "cas", "evaluate"):
        files = [pd.read_csv(path, sep="\t") for path in (folder / "benchmarks" / rule).rglob("*.tsv")]
        seconds = [pd.to_numeric(each.cpu_time, errors="coerce").sum() for each in files]
        rows += [("cost", rule, "", "jobs", len(files)), ("cost", rule, "", "cpu_seconds", sum(seconds))]
    return pd.concat([*tables, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)


def model_table(config: Mapping[str, Any], values: pd.DataFrame) -> pd.DataFrame:
    """A row for each model with its life, its hours and each metric. Scores are against the reference."""
    trained, parts = all_models(config), [values[values.measure == "life"]]
    for measure, settings in [*config["scores"].items(), *config["evaluations"].items()]:
        rows = values[values.measure == measure]
        if "reference" in settings:
            (reference,) = select(trained, settings["reference"])
            rows = rows.assign(model=rows.model.where(rows.model != reference, rows.reference))
        if "reference" in settings or measure in config["evaluations"]:
            parts.append(rows[(rows.model != "")])
    table = pd.concat(parts).pivot_table("value", "model", "metric", aggfunc="first")
    settings_of = [trained.get(name, {}) for name in table.index]
    recorded = table["hours"] if "hours" in table else pd.Series(math.nan, table.index)
    hours = [each.get("hours", known) for each, known in zip(settings_of, recorded, strict=True)]
    lives = [each.get("life", name) for each, name in zip(settings_of, table.index, strict=True)]
    return table.assign(hours=hours, life=lives)


def by_life(table: pd.DataFrame, names: Iterable[str], metric: str) -> pd.Series:
    """The mean over the models of each life. Models of one life share its data, so a life counts once in a test."""
    some = table[table.index.isin(list(names))].reindex(columns=[metric, "life"]).dropna()
    return some.groupby("life")[metric].mean()


def permute(data: Sequence[np.ndarray], statistic: Callable[..., float], kind: str) -> dict[str, float]:
    """A one-sided permutation test: the statistic, its p value, and the smallest p value possible with these data."""
    found = stats.permutation_test(
        data,
        statistic,
        permutation_type=kind,
        alternative="greater",
        n_resamples=PERMUTATIONS,
        vectorized=False,
        rng=0,
    )
    null = np.asarray(found.null_distribution)
    smallest = max(float(np.mean(null >= null.max() - 1e-12)), 1 / (PERMUTATIONS + 1))
    return {"value": float(found.statistic), "p": float(found.pvalue), "smallest": smallest}


def run_claim(
    claim: Mapping[str, Any], sets: Mapping[str, list[str]], table: pd.DataFrame, values: pd.DataFrame
) -> dict[str, Any]:
    """The test of one claim, as in how_to_read.md; empty as long as values are missing."""
    if "matrix" in claim:
        return _test_groups(claim, table, values)
    metric = claim["metric"]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    if "predictor" in claim:
        names = set().union(*(sets[label] for label in claim["models"]))
        both = pd.concat([by_life(table, names, each) for each in (claim["predictor"], metric)], axis=1).dropna()
        if len(both) < 4:
            return {}
        score, quality = both.iloc[:, 0].to_numpy(), sign * both.iloc[:, 1].to_numpy()
        found = permute([score], lambda each: stats.spearmanr(each, quality).statistic, "pairings")
        return {"claim": f"{TITLES[claim['predictor']]} predicts it (Spearman's ρ)", "lives": len(both), **found}
    first = sign * by_life(table, sets[claim["more"]], metric)
    others = [sign * by_life(table, sets[label], metric) for label in claim["than"]]
    if len(first) < 2 or any(each.empty for each in others) or sum(map(len, others)) < 2:
        return {}  # nothing to permute
    if claim.get("paired"):
        both = pd.concat([first, *others], axis=1, join="inner").to_numpy().T
        found = permute(list(both), lambda a, b: float(np.mean(a - b)), "samples")
        return {"claim": f"{claim['more']} over {claim['than'][0]}, life by life", "lives": both.shape[1], **found}
    rest = pd.concat(others).to_numpy()
    found = permute([first.to_numpy(), rest], lambda a, b: float(a.mean() - b.max()), "independent")
    label = f"{claim['more']} over the highest of {', '.join(claim['than'])}"
    return {"claim": label, "lives": len(first) + len(rest), **found}


def _test_groups(claim: Mapping[str, Any], table: pd.DataFrame, values: pd.DataFrame) -> dict[str, Any]:
    """Test whether two lives from one group agree more than two from different groups, permuting groups over lives."""
    rows = values[(values.measure == claim["matrix"]) & (values.metric == claim["metric"])]
    groups = claim["groups"].items()
    group = {table.life[name]: label for label, patterns in groups for name in select(table.index, patterns)}
    lives = np.sort([rows[column].map(table.life) for column in ("model", "reference")], axis=0)
    cells = rows.value.groupby([*lives]).mean()  # over seeds
    cells = cells[[a != b and a in group and b in group for a, b in cells.index]]
    if len(cells) < math.comb(len(group), 2):
        return {}
    first, second = np.array([[list(group).index(life) for life in pair] for pair in cells.index]).T

    def within_over_across(labels: np.ndarray) -> float:
        same = labels[first] == labels[second]
        return cells.to_numpy()[same].mean() - cells.to_numpy()[~same].mean()

    found = permute([pd.factorize(np.array(list(group.values())))[0]], within_over_across, "pairings")
    return {"claim": "same group over different groups", "lives": len(group), **found}


def run_claims(config: Mapping[str, Any], values: pd.DataFrame) -> pd.DataFrame:
    """A row for each claim of each question; `holm` is its p value corrected for the number of claims on the page."""
    table, rows = model_table(config, values), []
    for name, question in config["questions"].items():
        sets = sets_of(config, question)
        complete = all(set(names) <= set(table.index) for names in sets.values())
        for claim in question.get("claims", ()):
            found = run_claim(claim, sets, table, values) if complete else {}
            rows.append({"question": name, "metric": claim["metric"], **found})
    tests = pd.DataFrame(rows, columns=["question", "claim", "metric", "lives", "value", "p", "smallest"])
    order = tests.p.dropna().sort_values()
    factors = np.arange(len(order), 0, -1)
    return tests.assign(holm=(order * factors).cummax().clip(upper=1.0))


def sets_of(config: Mapping[str, Any], question: Mapping[str, Any]) -> dict[str, list[str]]:
    return {label: select(all_models(config), patterns) for label, patterns in question.get("sets", {}).items()}


def verdict(tests: pd.DataFrame) -> str:
    """The verdict on the paper's finding, from the tests of its claims."""
    if tests.empty:
        return "described, not tested"
    if tests.p.isna().any():
        return "not measured yet"
    holding = int((tests.holm <= 0.05).sum())
    if holding == len(tests):
        return "reproduced"
    return "partly" if holding else "not reproduced" if (tests.value <= 0).all() else "undecided"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, ["---"] * len(header), *rows))


def means(question: Mapping[str, Any], sets: Mapping[str, list[str]], table: pd.DataFrame) -> str:
    """A Markdown table with a row for each set, or for each length of life if a set is split by hours: each metric's
    mean ± standard deviation over lives."""
    metrics, rows = question["metrics"], []
    for label, names in sets.items():
        some = table[table.index.isin(names)]
        split = label in question.get("by_hours", ())
        for at, part in some.groupby(some.hours.round(4)) if split else [("", some)]:
            of_lives = [by_life(part, part.index, metric) for metric in metrics]
            cells = [
                f"{each.mean():.3f} ± {each.std():.3f}".replace(" ± nan", "").replace("nan", "-") for each in of_lives
            ]
            rows.append([label, at and duration(3600 * at), f"{part.life.nunique()} ({len(part)})", *cells])
    return _markdown(["models", "length of life", "lives (models)", *(TITLES[each] for each in metrics)], rows)


def matrix_means(
    question: Mapping[str, Any], sets: Mapping[str, list[str]], values: pd.DataFrame, lives: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """Rows about matrices: the mean over pairs of models in a set, from two lives and, as a ceiling, from one life."""
    for (label, measure), metric in itertools.product(question["matrices"].items(), question["metrics"]):
        rows = values[(values.measure == measure) & (values.metric == metric)]
        for name, names in sets.items():
            own = rows[rows.model.isin(names) & rows.reference.isin(names)]
            same = own.model.map(lives.get) == own.reference.map(lives.get)
            for kind, some in (("two lives", own[~same]), ("one life, two seeds", own[same])):
                if len(some):
                    yield label, f"{name}: {kind}", TITLES[metric], f"{some.value.mean():.3f} ({len(some)} pairs)"


def draw(question: Mapping[str, Any], sets: Mapping[str, list[str]], table: pd.DataFrame, path: Path) -> bool:
    """Draw each metric, with a dot for each life, or over hours, or over the score that predicts it."""
    predictors = {each["metric"]: each["predictor"] for each in question.get("claims", ()) if "predictor" in each}
    metrics = [
        metric for metric in question.get("metrics", ()) if metric in table and metric not in predictors.values()
    ]
    if not metrics or not sets or not table.index.isin(list(itertools.chain(*sets.values()))).any():
        return False
    figure = Figure(figsize=(4.2 * len(metrics), 3.7), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, ((label, names), colour) in enumerate(zip(sets.items(), itertools.cycle(COLOURS), strict=False)):
            some = table[table.index.isin(names)]
            if metric in predictors:
                axes.plot(some[predictors[metric]], some[metric], "o", color=colour, ms=4, alpha=0.75, label=label)
            elif label in question.get("by_hours", ()):
                grown = some.groupby(some.hours.round(4))[metric]
                axes.errorbar(
                    grown.mean().index, grown.mean(), grown.std(), fmt="o-", color=colour, capsize=3, label=label
                )
                axes.set_xscale("log")
                axes.set_xlabel("hours of life")
            elif question.get("by_hours"):
                axes.axhline(some[metric].mean(), color=colour, ls="--", lw=1, label=label)
            else:
                lives = by_life(table, names, metric)
                axes.plot([place] * len(lives), lives, "o", color=colour, ms=4, alpha=0.75)
                axes.plot([place - 0.25, place + 0.25], [lives.mean()] * 2, color=colour, lw=2)
        if metric in predictors:
            axes.set_xlabel(TITLES[predictors[metric]])
        elif not question.get("by_hours"):
            axes.set_xticks(range(len(sets)), list(sets), rotation=30, ha="right")
        axes.set_title(TITLES[metric] + (" (less is better)" if metric in LOWER_IS_BETTER else ""), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.2, lw=0.6)
        axes.tick_params(labelsize=8)
    if (legend := panels[0].get_legend_handles_labels())[0]:
        figure.legend(*legend, frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return True


def _tests_as_markdown(tests: pd.DataFrame) -> str:
    header = ["claim", "in", "lives", "difference or ρ", "p", "smallest possible p", "p, corrected"]
    rows = [
        (row.claim, TITLES[row.metric], f"{row.lives:.0f}", f"{row.value:+.3f}", f"{row.p:.3g}", f"{row.smallest:.3g}",
         f"{row.holm:.3g}") for row in tests.dropna(subset=["p"]).itertuples()
    ]  # fmt: skip
    return _markdown(header, rows) if rows else ""


def write_page(config: Mapping[str, Any], values: pd.DataFrame, page: Path, images: str = "images/study") -> None:
    """Write the page and its figures. `images` is the figures' path from the page, with the start of their names."""
    table, tests = model_table(config, values), run_claims(config, values)
    overview, sections = [], []
    for name, question in config["questions"].items():
        sets, own = sets_of(config, question), tests[tests.question == name]
        finding = question.get("finding", "-")
        overview.append((question["ask"], finding, f"**{verdict(own)}**"))
        sections.append(f"## {question['ask']}")
        sections.append(f"The paper: {finding} Here: **{verdict(own)}**." if finding != "-" else "")
        picture = f"{images}_{name}.png"
        if "matrices" in question:
            rows = matrix_means(question, sets, values, table.life.to_dict())
            sections.append(_markdown(["matrix", "models", "score", "mean"], rows))
        else:
            sections += (
                [f"![{question['ask']}]({picture})"] if draw(question, sets, table, page.parent / picture) else []
            )
            sections.append(means(question, sets, table))
        sections.append(_tests_as_markdown(own))
    costs = values[values.measure == "cost"].pivot(index="model", columns="metric", values="value")
    costs = costs[costs.jobs > 0]
    cost = [(rule, f"{row.jobs:.0f}", duration(row.cpu_seconds)) for rule, row in costs.iterrows()]
    cost.append(("all", f"{costs.jobs.sum():.0f}", f"**{duration(costs.cpu_seconds.sum())}**"))
    parts = [
        f"# {config['title']}", config["about"],
        _markdown(["question", "the paper's finding", "here"], overview),
        "## How to read this", HOW_TO_READ.read_text(encoding="utf-8"), *sections,
        "## Limits", "\n".join(f"- {limit}" for limit in config.get("limits", ())),
        "## Cost", _markdown(["jobs", "number", "CPU time"], cost),
    ]  # fmt: skip
    with atomic_write(page) as aside:
        aside.write_text("\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="the experiment")
    parser.add_argument("--results", type=Path, help="the folder of its jobs; without it, --values is read")
    parser.add_argument("--values", type=Path, required=True, help="CSV: written with --results, read without it")
    parser.add_argument("--page", type=Path, required=True, help="the Markdown page to write")
    parser.add_argument("--images", default="images/study", help="path of its figures, with the start of their names")
    given = parser.parse_args()
    config = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    if given.results:
        with atomic_write(given.values) as aside:
            collect(config, given.results).to_csv(aside, index=False, float_format="%.6g")
    write_page(
        config, pd.read_csv(given.values, keep_default_na=False).astype({"value": float}), given.page, given.images
    )


if __name__ == "__main__":
    main()
