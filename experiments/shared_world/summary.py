"""From the rows that jobs wrote to a summary: means over sets of models, differences, correlations.

A summary is a table with a row for each number; `COLUMNS` has its columns. `report.py` makes the page from it.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from experiment import all_models, select
from scipy import stats

from singlelife.alignment.groups import permutation_test
from singlelife.results import read_results

# kind: mean (of a set of models), difference, correlation, pair (of two models), point (a model), cost (CPU seconds).
# role: the matrix of a mean, difference or pair; the score of a correlation; the model of a point. at: hours, or k.
COLUMNS = ["question", "kind", "role", "label", "at", "metric", "n", "value", "sd", "low", "high", "p"]
LOWER_IS_BETTER = ("aepe_240",)
SHORTEST = "@shortest"  # in a claim, after a set that is split by hours: its models of the shortest lives
ALMOST_ONE = 1 - 1e-9

Number = dict[str, Any]  # a row of the summary, without the columns that it leaves empty


def _name(model: str) -> str:
    """A model's name in the config; rows have the run folder of one that was trained here."""
    return model.rpartition("/runs/")[2]


def read_measure(folder: Path, kind: str, measure: str) -> pd.DataFrame:
    """All rows that the jobs of one measure wrote, with models by their names in the config.

    Of scores, `k` is a column, and `corrected` has CAS corrected for chance, and how often matches are true as it is.
    """
    rows = read_results(*sorted((folder / kind / measure).glob("*.jsonl")))
    for column in ("model", "reference"):
        rows[column] = [_name(str(model)) for model in rows[column]]
    if kind == "cas":
        rows["k"] = [settings.get("k") for settings in rows.settings]
        chance = np.array([settings.get("chance", math.nan) for settings in rows.settings], dtype=float)
        true = rows.metric.str.startswith("true_match")
        rows["corrected"] = rows.value.where(true, (rows.value - chance) / (1 - chance))
    return rows


def primary_k(settings: Mapping[str, Any]) -> int:
    k = settings.get("k", 5)
    return k[0] if isinstance(k, list) else k


def measured_models(config: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """A row for each model and a column for each metric: against the reference, of matches, of transfer; and hours."""
    columns: dict[str, pd.Series] = {}
    for measure, settings in config["scores"].items():
        if "reference" in settings:
            rows = read_measure(folder, "cas", measure)
            rows["model"] = rows.model.where(rows.model != _name(settings["reference"]), rows.reference)
            rows = rows[(rows.k == primary_k(settings)) & (rows.model != "")]
            columns |= {metric: each.groupby("model").corrected.first() for metric, each in rows.groupby("metric")}
    for measure in config["evaluations"]:
        rows = read_measure(folder, "evaluate", measure)
        columns |= {metric: each.groupby("model").value.first() for metric, each in rows.groupby("metric")}
    frame = pd.DataFrame(columns)
    lives = {name: folder / "runs" / name / "life.json" for name in map(str, frame.index)}
    whole = {name: json.loads(path.read_text())["hours"] for name, path in lives.items() if path.is_file()}
    trained = all_models(config)
    frame["hours"] = [trained.get(name, {}).get("hours", whole.get(name, math.nan)) for name in lives]
    return frame


def summarize(config: Mapping[str, Any], folder: Path) -> pd.DataFrame:
    """The summary of what the jobs of an experiment have written so far."""
    models, frame = all_models(config), measured_models(config, folder)
    numbers: list[Number] = []
    for name, question in config["questions"].items():
        sets = {label: select(models, patterns) for label, patterns in question.get("sets", {}).items()}
        if "correlate" in question:
            found = list(_correlations(question["correlate"], sets, frame))
        elif "matrices" in question:
            found = list(_matrix_means(question, sets, config, folder) if sets else _groups(question, config, folder))
        else:
            found = list(_means(question, sets, frame))
            found += _differences(question, pd.DataFrame(found, columns=COLUMNS))
        numbers += [{"question": name, **number} for number in found]
    for rule in ("prepare", "train", "cas", "evaluate"):
        files = [pd.read_csv(path, sep="\t") for path in (folder / "benchmarks" / rule).rglob("*.tsv")]
        seconds = sum(pd.to_numeric(each.cpu_time, errors="coerce").sum() for each in files)
        numbers.append({"kind": "cost", "label": rule, "n": len(files), "value": seconds})
    return pd.DataFrame(numbers, columns=COLUMNS)


def _means(question: Mapping[str, Any], sets: Mapping[str, list[str]], frame: pd.DataFrame) -> Iterator[Number]:
    for label, names in sets.items():
        members = frame[frame.index.isin(names)]
        split = label in question.get("by_hours", ())
        for at, some in members.groupby("hours") if split else [(math.nan, members)]:
            for metric in question["metrics"]:
                values = some.reindex(columns=[metric])[metric].dropna()
                if len(values):
                    yield {"kind": "mean", "label": label, "at": at, "metric": metric, "n": len(values),
                           "value": values.mean(), "sd": values.std()}  # fmt: skip


def _differences(question: Mapping[str, Any], means: pd.DataFrame) -> Iterator[Number]:
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
            value, half = welch(one, other, times)
            value = (-value if metric in LOWER_IS_BETTER else value) + margin * abs(other.value)
            label = f"{more} over {less}".replace(SHORTEST, " of the shortest life")
            label = (f"{times:g} × " if times != 1 else "") + label + (f" less {margin:.0%}" if margin else "")
            yield {"kind": "difference", "label": label, "metric": metric, "value": value, "low": value - half,
                   "high": value + half}  # fmt: skip


def _of_set(means: pd.DataFrame, metric: str, label: str) -> Any:
    """The mean of a set; of one that is split by hours, at the most hours, or the fewest where the label says so."""
    rows = means[(means.metric == metric) & (means.label == label.removesuffix(SHORTEST))].sort_values("at")
    return None if rows.empty else rows.iloc[0 if label.endswith(SHORTEST) else -1]


def welch(more: Any, less: Any, times: float = 1) -> tuple[float, float]:
    """The difference of two means (`times` the first, less the second) and half of its 95% interval.

    The interval is NaN where a side has one model only, or where no model differs from the others.
    """
    first, second = (times * more.sd) ** 2 / more.n, less.sd**2 / less.n
    value = times * more.value - less.value
    if min(more.n, less.n) < 2 or not first + second > 0:
        return value, math.nan
    freedom = (first + second) ** 2 / (first**2 / (more.n - 1) + second**2 / (less.n - 1))
    return value, float(stats.t.ppf(0.975, freedom)) * math.sqrt(first + second)


def _correlations(asked: Mapping[str, Any], sets: Mapping[str, list[str]], frame: pd.DataFrame) -> Iterator[Number]:
    """Spearman's ρ over all models, and over those of the first set alone; and each model, to draw it."""
    of = {name: label for label, names in reversed(list(sets.items())) for name in names}
    frame = frame[frame.index.isin(list(of))].reindex(columns=[*asked["with"], *asked["metrics"]])
    labels = frame.index.map(of)
    first = next(iter(sets))
    for score, metric in itertools.product(asked["with"], asked["metrics"]):
        for label, some in (("all", frame), (first, frame[labels == first])):
            known = some[[score, metric]].dropna()
            if len(known) > 3:
                rho = float(stats.spearmanr(known[score], known[metric]).statistic)
                z = math.atanh(max(-ALMOST_ONE, min(ALMOST_ONE, rho)))
                half = 1.96 * math.sqrt(1.06 / (len(known) - 3))
                yield {"kind": "correlation", "role": score, "label": label, "metric": metric, "n": len(known),
                       "value": rho, "low": math.tanh(z - half), "high": math.tanh(z + half)}  # fmt: skip
    for (name, values), label in zip(frame.iterrows(), labels, strict=True):
        for metric, value in values.dropna().items():
            yield {"kind": "point", "role": name, "label": label, "metric": metric, "n": 1, "value": value}


def _matrix_means(
    question: Mapping[str, Any], sets: Mapping[str, list[str]], config: Mapping[str, Any], folder: Path
) -> Iterator[Number]:
    """Within each set: of the first matrix at every k, of the others at their primary k."""
    for place, (role, measure) in enumerate(question["matrices"].items()):
        rows = read_measure(folder, "cas", measure)
        for (label, names), metric in itertools.product(sets.items(), question["metrics"]):
            own = rows[rows.model.isin(names) & rows.reference.isin([*names, ""]) & (rows.metric == metric)]
            for k, values in own.groupby("k").corrected:
                if place == 0 or k == primary_k(config["scores"][measure]):
                    yield {"kind": "mean", "role": role, "label": label, "at": k, "metric": metric, "n": len(names),
                           "value": values.mean()}  # fmt: skip


def _groups(question: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> Iterator[Number]:
    """CAS within and across the groups of each matrix, and a permutation test over models of their difference."""
    models = all_models(config)
    for role, measure in question["matrices"].items():
        settings, rows = config["scores"][measure], read_measure(folder, "cas", measure)
        group = {name: label for label, some in settings["groups"].items() for name in select(models, some)}
        rows = rows[(rows.k == primary_k(settings)) & rows.model.isin(group) & rows.reference.isin(group)]
        for metric, pairs in rows[rows.metric.isin(question["metrics"])].groupby("metric", sort=False):
            for pair in pairs.itertuples():
                yield {"kind": "pair", "role": role, "label": f"{pair.model} {pair.reference}", "metric": metric,
                       "value": pair.value}  # fmt: skip
            matrix = pairs.pivot(index="model", columns="reference", values="value")
            matrix = matrix.reindex(index=list(group), columns=list(group))
            scores = matrix.fillna(matrix.T).fillna(1.0).to_numpy()  # 1 on the diagonal
            test = permutation_test(scores, list(group.values()))
            same = pairs.model.map(group) == pairs.reference.map(group)
            for label, values in (("within", pairs.value[same]), ("across", pairs.value[~same])):
                yield {"kind": "mean", "role": role, "label": label, "metric": metric, "value": values.mean()}
            if test:
                yield {"kind": "difference", "role": role, "label": f"within over across, {role}", "metric": metric,
                       "n": len(group), "value": test.difference, "p": test.p_value}  # fmt: skip
