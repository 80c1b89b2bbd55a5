"""The report of an experiment: a page of verdicts, tables and figures.

    python report.py --config config.yaml --results results/shared_world --summary summary.csv --page results.md
    python report.py --config config.yaml --summary measured.csv --page ../../docs/results.md --images images/study

The first line summarizes what the jobs have written so far. The second makes the page again from a kept summary.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from experiment import all_models, select
from matplotlib.figure import Figure
from scipy import stats

from singlelife.alignment.matrix import permutation_test
from singlelife.files import atomic_write
from singlelife.results import read_results
from singlelife.text import duration

# A summary has a row for each number. kind: mean (of a set of models), difference, correlation, point (a model), cost
# (CPU seconds), missing (models). role: the matrix of a mean; the score of a correlation; the model of a point.
COLUMNS = ["question", "kind", "role", "label", "at", "metric", "n", "value", "sd", "low", "high", "p"]
NUMBERS = dict.fromkeys(["at", *COLUMNS[6:]], float)
TITLES = {
    "raw": "raw CAS",
    "centred_excess": "centred CAS above its null",
    "position_free": "position-free CAS",  # of the kept summary, measured before the centred score
    "position_raw": "raw CAS with mere position",
    "true_match_raw_large_shifts": "true match at large shifts",
    "true_match_centred_large_shifts": "centred true match at large shifts",
    "true_match_position_free_large_shifts": "position-free true match at large shifts",
    "delta1": "depth δ1",
    "aepe_240": "AEPE, px of 240",
}
LOWER_IS_BETTER = ("aepe_240",)
SHORTEST = "@shortest"  # in a claim, after a set that is split by hours: its models of the shortest lives
Numbers = Iterator[dict[str, Any]]  # rows of a summary, without the columns that they leave empty
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
HOW_TO_READ = Path(__file__).with_name("how_to_read.md")


def read_measure(config: Mapping[str, Any], folder: Path, kind: str, measure: str) -> pd.DataFrame:
    """The rows that the jobs of one measure wrote, with models by their names in the config.

    Of scores, `k` is a column, `primary` whether it is the first one asked for, and CAS is corrected for chance.
    """
    rows = read_results(*sorted((folder / kind / measure).glob("*.jsonl")))
    for column in ("model", "reference"):  # a row has the run folder of a model that was trained here
        rows[column] = [str(model).rpartition("/runs/")[2] for model in rows[column]]
    if kind == "cas":
        k = config["scores"][measure].get("k", 5)
        rows["k"] = [settings.get("k") for settings in rows.settings]
        rows["primary"] = rows.k == (k[0] if isinstance(k, list) else k)
        chance = np.array([settings.get("chance", 0) for settings in rows.settings], dtype=float)
        corrected = (rows.value - chance) / (1 - chance)
        rows["value"] = rows.value.where(rows.metric.str.startswith("true_match"), corrected)
    return rows


def measured_models(config: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """A row for each model and a column for each metric: against the reference, of matches, of transfer; and hours."""
    tables = [read_measure(config, folder, "evaluate", measure) for measure in config["evaluations"]]
    for measure, settings in config["scores"].items():
        if "reference" in settings:
            rows = read_measure(config, folder, "cas", measure)
            of_reference = rows.model == settings["reference"].rpartition("/runs/")[2]
            rows["model"] = rows.model.where(~of_reference, rows.reference)
            tables.append(rows[rows.primary & (rows.model != "")])
    tables = tables or [pd.DataFrame(columns=["model", "metric", "value"])]
    frame = pd.concat(tables).pivot_table("value", "model", "metric", aggfunc="first")
    lives = {name: folder / "runs" / name / "life.json" for name in map(str, frame.index)}
    whole = {name: json.loads(path.read_text())["hours"] for name, path in lives.items() if path.is_file()}
    trained = all_models(config)
    frame["hours"] = [trained.get(name, {}).get("hours", whole.get(name, math.nan)) for name in lives]
    return frame


def summarize(config: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """The summary of what the jobs of an experiment have written so far."""
    models, frame = all_models(config), measured_models(config, folder)
    numbers: list[dict[str, Any]] = []
    for name, question in config["questions"].items():
        sets = {label: select(models, patterns) for label, patterns in question.get("sets", {}).items()}
        if "matrices" in question:
            found = list(_matrices(question, sets, config, folder))
            missing = len(question["matrices"]) - len({number["role"] for number in found})
        else:
            asked = question.get("correlate", {})
            metrics = question.get("metrics") or [*asked["with"], *asked["metrics"]]
            members = frame.reindex(index=sorted(set().union(*sets.values())), columns=metrics)
            missing = int(members.isna().any(axis=1).sum())
            found = list(_correlations(asked, sets, frame) if asked else _means(question, sets, frame))
            found += _differences(question, pd.DataFrame(found, columns=COLUMNS))
        found += [{"kind": "missing", "n": missing}] if missing else []
        numbers += [{"question": name, **number} for number in found]
    for rule in ("prepare", "train", "cas", "evaluate"):
        files = [pd.read_csv(path, sep="\t") for path in (folder / "benchmarks" / rule).rglob("*.tsv")]
        seconds = sum(pd.to_numeric(each.cpu_time, errors="coerce").sum() for each in files)
        numbers.append({"kind": "cost", "label": rule, "n": len(files), "value": seconds})
    return pd.DataFrame(numbers, columns=COLUMNS).astype(NUMBERS)


def _means(question: Mapping[str, Any], sets: Mapping[str, list[str]], frame: pd.DataFrame) -> Numbers:
    for label, names in sets.items():
        members = frame[frame.index.isin(names)].reindex(columns=["hours", *question["metrics"]])
        split = label in question.get("by_hours", ())
        for at, some in members.groupby("hours") if split else [(math.nan, members)]:
            for metric in question["metrics"]:
                if n := some[metric].count():
                    yield {"kind": "mean", "label": label, "at": at, "metric": metric, "n": n,
                           "value": some[metric].mean(), "sd": some[metric].std()}  # fmt: skip


def _differences(question: Mapping[str, Any], means: pd.DataFrame) -> Numbers:
    """What the claims of a question say is above 0; a positive difference is the better one, whichever way that is."""
    for claim in question.get("claims", ()):
        sides = [(claim.get("more"), less) for less in claim.get("less", ())]
        times, margin = claim.get("times", 1), claim.get("margin", 0)
        for metric, (more, less) in itertools.product(
            claim["metrics"], sides or itertools.combinations(claim["order"], 2)
        ):
            one, other = (_of_set(means, metric, label) for label in (more, less))
            if one is None or other is None:
                continue
            value, spread, freedom = times * one.value - other.value, math.nan, 1.0
            if min(one.n, other.n) > 1 and one.sd + other.sd > 0:  # Welch's interval
                first, second = (times * one.sd) ** 2 / one.n, other.sd**2 / other.n
                freedom = (first + second) ** 2 / (first**2 / (one.n - 1) + second**2 / (other.n - 1))
                spread = math.sqrt(first + second)
            half = stats.t.ppf(0.975, freedom) * spread
            value = (-value if metric in LOWER_IS_BETTER else value) + margin * abs(other.value)
            label = f"{more} over {less}".replace(SHORTEST, " of the shortest life")
            label = (f"{times:g} × " if times != 1 else "") + label + (f" less {margin:.0%}" if margin else "")
            yield {"kind": "difference", "label": label, "metric": metric, "value": value, "low": value - half,
                   "high": value + half}  # fmt: skip


def _of_set(means: pd.DataFrame, metric: str, label: str) -> Any:
    """The mean of a set; of one that is split by hours, at the most hours, or the fewest where the label says so."""
    rows = means[(means.metric == metric) & (means.label == label.removesuffix(SHORTEST))].sort_values("at")
    return None if rows.empty else rows.iloc[0 if label.endswith(SHORTEST) else -1]


def _correlations(asked: Mapping[str, Any], sets: Mapping[str, list[str]], frame: pd.DataFrame) -> Numbers:
    """Spearman's ρ over all models, which is judged, and over those of the first set alone; and each model to draw."""
    of = {name: label for label, names in reversed(list(sets.items())) for name in names}
    frame = frame[frame.index.isin(list(of))].reindex(columns=[*asked["with"], *asked["metrics"]])
    labels = frame.index.map(of)
    first = next(iter(sets))
    for (score, metric), alone in itertools.product(itertools.product(asked["with"], asked["metrics"]), (False, True)):
        known = frame.loc[(labels == first) | (not alone), [score, metric]].dropna()
        if len(known) > 3:
            rho = float(stats.spearmanr(known[score], known[metric]).statistic)
            z, half = np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)), 1.96 * math.sqrt(1.06 / (len(known) - 3))
            found = {"metric": metric, "n": len(known), "value": rho, "low": np.tanh(z - half),
                     "high": np.tanh(z + half)}  # fmt: skip
            yield {"kind": "correlation", "role": score, "label": first if alone else "all", **found}
            if not alone and metric in asked["judged"]:
                if metric in LOWER_IS_BETTER:  # a score predicts a smaller error
                    found |= {"value": -rho, "low": -found["high"], "high": -found["low"]}
                yield {"kind": "difference", "label": f"{TITLES[score]} predicts it", **found}
    for (name, metric), value in frame.stack().items():
        yield {"kind": "point", "role": name, "label": of[name], "metric": metric, "n": 1, "value": value}


def _matrices(
    question: Mapping[str, Any], sets: Mapping[str, list[str]], config: Mapping[str, Any], folder: Path
) -> Numbers:
    """Means of CAS between models: within each set, of the first matrix at every k; or within and across groups, with
    a permutation test over models of their difference."""
    for place, (role, measure) in enumerate(question["matrices"].items()):
        rows = read_measure(config, folder, "cas", measure)
        for (label, names), metric in itertools.product(sets.items(), question["metrics"]):
            own = rows[rows.model.isin(names) & rows.reference.isin([*names, ""]) & (rows.metric == metric)]
            for k, values in own[own.primary | (place == 0)].groupby("k").value:
                yield {"kind": "mean", "role": role, "label": label, "at": k, "metric": metric, "n": len(names),
                       "value": values.mean()}  # fmt: skip
        groups = config["scores"][measure].get("groups", {})
        group = {name: label for label, some in groups.items() for name in select(all_models(config), some)}
        rows = rows[rows.primary & rows.model.isin(group) & rows.reference.isin(group)]
        for metric, pairs in rows[rows.metric.isin(question["metrics"])].groupby("metric", sort=False):
            matrix = pairs.pivot(index="model", columns="reference", values="value")
            matrix = matrix.reindex(index=list(group), columns=list(group))
            test = permutation_test(matrix.fillna(matrix.T).fillna(1.0).to_numpy(), list(group.values()))
            same = pairs.model.map(group) == pairs.reference.map(group)
            for label, chosen in (("within", same), ("across", ~same)):
                value = pairs.value[chosen].mean()
                yield {"kind": "mean", "role": role, "label": label, "metric": metric, "value": value}
            if test:
                yield {"kind": "difference", "role": role, "label": f"within over across, {role}", "metric": metric,
                       "n": len(group), "value": test.difference, "p": test.p_value}  # fmt: skip


def outcome(row: Any) -> str:
    """Whether a difference holds; `p` counts where there is one, and the interval where there is one."""
    if math.isnan(row.p):
        holds, contradicted = row.low > 0, row.high < 0
    else:
        holds = row.p <= 0.05 and not row.low <= 0
        contradicted = row.p >= 0.95 and not row.high >= 0
    return "holds" if holds else "contradicted" if contradicted else "open"


def verdict(question: Mapping[str, Any], numbers: pd.DataFrame) -> str:
    """The verdict on the paper's finding, by the rule in how_to_read.md."""
    outcomes = [outcome(row) for row in numbers[numbers.kind == "difference"].itertuples()]
    holding, contradicted = outcomes.count("holds"), outcomes.count("contradicted")
    if not question.get("finding"):
        return "no finding of the paper"
    if not outcomes or "missing" in set(numbers.kind):
        return "not measured yet"
    if holding == len(outcomes):
        return "reproduced"
    return "not reproduced" if contradicted > holding else "partly" if holding else "undecided"


def in_numbers(question: Mapping[str, Any], numbers: pd.DataFrame) -> str:
    """A question's result in a few sentences."""
    means, found = (numbers[numbers.kind == kind] for kind in ("mean", "correlation"))
    if "matrices" in question:  # the first, at the usual k
        means = means[(means.role == means.role.iloc[:1].squeeze()) & (means["at"].isna() | (means["at"] == 5))]
    claimed = [metric for claim in question.get("claims", ()) for metric in claim["metrics"]]
    parts = []
    for metric, rows in means[means.metric.isin(claimed or means.metric)].groupby("metric", sort=False):
        if not question.get("by_hours"):
            rows = rows.assign(at=math.nan).sort_values("value", ascending=metric in LOWER_IS_BETTER)
        values = [
            f"{row.label} {row.value:.3f}" + (f" with {duration(3600 * row.at)}" if row.at > 0 else "")
            for row in rows.itertuples()
        ]
        parts.append(f"{TITLES[metric]}: {', '.join(values)}")
    for label, rows in found.groupby("label", sort=False):
        significant = int(((rows.low > 0) | (rows.high < 0)).sum())
        parts.append(f"{label}: {significant} of {len(rows)} correlations are significant")
    outcomes = [outcome(row) for row in numbers[numbers.kind == "difference"].itertuples()]
    if outcomes:
        hold, contradicted, open_ = (outcomes.count(each) for each in ("holds", "contradicted", "open"))
        parts.append(f"{hold} of {len(outcomes)} differences hold, {contradicted} contradicted, {open_} open")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts) or "-"


def draw(question: Mapping[str, Any], numbers: pd.DataFrame, path: Path) -> None:
    """Draw the means or the models of a question as a PNG; nothing where there are none."""
    means, points = (numbers[numbers.kind == kind] for kind in ("mean", "point"))
    if "correlate" in question and len(points):
        models = points.pivot_table(index=["label", "role"], columns="metric", values="value", sort=False)
        shown = list(itertools.product(question["correlate"]["with"], question["correlate"]["metrics"]))
    else:
        means = means[means.role.isna() | (means["at"].notna() & (means.role == means.role.iloc[:1].squeeze()))]
        shown = [(None, metric) for metric in dict.fromkeys(means.metric)]
    if not shown or ("correlate" in question and points.empty):
        return
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    figure = Figure(figsize=(4 * columns, 3.7 * -(-len(shown) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).flatten()
    for axes, (score, metric) in zip(panels, shown, strict=False):
        if score:
            for colour, label in zip(COLOURS, question["sets"], strict=False):
                some = models[models.index.get_level_values("label") == label].reindex(columns=[score, metric])
                axes.plot(some[score], some[metric], "o", color=colour, ms=4.5, alpha=0.75, label=label)
            axes.set_xlabel(f"{TITLES[score]} with the reference", fontsize=9)
        else:
            _draw_means(axes, means[means.metric == metric], "hours of life" if question.get("by_hours") else "k")
        axes.set_title(TITLES[metric] + (" (less is better)" if metric in LOWER_IS_BETTER else ""), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.2, lw=0.6)
        axes.tick_params(labelsize=8)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    if (legend := panels[0].get_legend_handles_labels())[0]:
        figure.legend(*legend, frameon=False, fontsize=8, loc="outside lower center", ncols=7)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_means(axes: Any, rows: pd.DataFrame, unit: str) -> None:
    """Sets against hours or k, those without either as bands; or sets beside each other. Bars and bands are ± sd."""
    places = sorted(rows["at"].dropna().unique())
    for colour, (label, some) in zip(COLOURS, rows.groupby("label", sort=False), strict=False):
        sd, value = some.sd.fillna(0), some.value.iloc[0]
        if some["at"].notna().all():
            axes.errorbar(some["at"], some.value, sd, fmt="o-", color=colour, capsize=3, ms=4, label=label)
        elif places:
            axes.axhspan(value - sd.iloc[0], value + sd.iloc[0], color=colour, alpha=0.2, lw=0)
            axes.axhline(value, color=colour, ls="--", lw=1, label=label)
        else:
            axes.errorbar([label], some.value, sd, fmt="o", color=colour, capsize=5)
    if places:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{each:.2g}" for each in places], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel(unit, fontsize=9)
    else:
        axes.margins(x=0.15)
        axes.tick_params(axis="x", labelrotation=30)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def tables(question: Mapping[str, Any], numbers: pd.DataFrame) -> Iterator[str]:
    """The means of a question, its correlations, and the differences that were judged, as Markdown."""
    means, correlations, differences = (
        numbers[numbers.kind == kind] for kind in ("mean", "correlation", "difference")
    )
    if len(means):
        names = {"role": "measured as", "label": "models", "at": "hours" if question.get("by_hours") else "k"}
        keys = [key for key in names if means[key].notna().any()]
        shown = means.assign(at=["" if math.isnan(at) else f"{at:.3g}" for at in means["at"]], cell=[
            f"{row.value:.3f}" + ("" if math.isnan(row.sd) else f" ± {row.sd:.3f}")
            + ("" if math.isnan(row.n) else f" ({row.n:.0f})") for row in means.itertuples()
        ])  # fmt: skip
        table = shown.pivot_table(index=keys, columns="metric", values="cell", aggfunc="first", sort=False)
        table = table.fillna("-").reset_index().rename(columns={**names, **TITLES})
        yield _markdown(list(table.columns), table.to_numpy())
    if len(correlations):
        yield _markdown(["score", "with", "models", "number", "Spearman's ρ"], [
            (TITLES[row.role], TITLES[row.metric], row.label, f"{row.n:.0f}",
             f"{row.value:+.2f} [{row.low:.2f}, {row.high:.2f}]")
            for row in correlations.itertuples()
        ])  # fmt: skip
    if len(differences):
        yield _markdown(["difference", "in", "value", "95% interval", "p", "outcome"], [
            (row.label, TITLES[row.metric], f"{row.value:+.3f}",
             "-" if math.isnan(row.low) else f"[{row.low:.3f}, {row.high:.3f}]",
             "-" if math.isnan(row.p) else f"{row.p:.3f}", outcome(row))
            for row in differences.itertuples()
        ])  # fmt: skip


def write_page(config: Mapping[str, Any], summary: pd.DataFrame, page: Path, images: str = "images/study") -> None:
    """Write the report on a summary, and its figures beside it: `images` is their path and how their names begin."""
    if "position_free" in set(summary.metric):  # a summary from before the centred score
        words = json.dumps(config).replace("centred_excess", "position_free")
        config = json.loads(words.replace("true_match_centred", "true_match_position_free"))
    overview, sections = [], []
    for name, question in config["questions"].items():
        numbers = summary[summary.question == name]
        found, said = verdict(question, numbers), in_numbers(question, numbers)
        paper = question.get("finding", "-")
        overview.append((question["ask"], paper, f"**{found}**", said))
        picture = f"{images}_{name}.png"
        (page.parent / picture).parent.mkdir(parents=True, exist_ok=True)
        draw(question, numbers, page.parent / picture)
        sections += [f"## {question['ask']}", f"The paper: {paper} Here: **{found}**." if paper != "-" else "", said]
        # A summary that was kept without its single models cannot be drawn again; a picture that is there stays.
        sections += [f"![{question['ask']}]({picture})"] if (page.parent / picture).is_file() else []
        sections += tables(question, numbers)
    costs = summary[(summary.kind == "cost") & (summary.n > 0)]
    cost = [(row.label, f"{row.n:.0f}", duration(row.value)) for row in costs.itertuples()]
    cost.append(("all", f"{costs.n.sum():.0f}", f"**{duration(costs.value.sum())}**"))
    parts = [
        f"# {config['title']}", config["about"],
        _markdown(["question", "what the paper found", "here", "in numbers"], overview),
        "## How to read this", HOW_TO_READ.read_text(encoding="utf-8"), *sections,
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
    write_page(config, pd.read_csv(given.summary, dtype=NUMBERS), given.page, given.images)


if __name__ == "__main__":
    main()
