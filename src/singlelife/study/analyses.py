"""From the outputs of a study to an answer for each question: numbers, a figure, and a verdict by one rule.

**The rule.** A finding of the paper is taken apart into comparisons, each a difference that it says is above 0. A
comparison *holds* where the 95% interval of the difference lies above 0, is *contradicted* where it lies below, and is
*open* otherwise. The finding is `reproduced` where all of its comparisons hold, `not reproduced` where more are
contradicted than hold, `undecided` where all are open, and `partly` otherwise; it has no verdict (`not measured yet`)
while any of its models is missing. Unless it is said otherwise, intervals are Welch's t intervals of the difference of
two means over models (seeds and lives), which three seeds leave wide. They are not corrected for how many there are:
of twenty, one may miss by chance. *Near zero* is under a quarter of what lives have; *as well* is not a tenth worse.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from singlelife.study import figures
from singlelife.study.results import Agreement, Results, mean
from singlelife.study.study_file import Question
from singlelife.text import duration

REPRODUCED, PARTLY, NOT, UNDECIDED, OPEN, NO_FINDING = (
    "reproduced",
    "partly",
    "not reproduced",
    "undecided",
    "not measured yet",
    "no finding of the paper",
)
_NEAR_ZERO = 0.25  # of the lives' agreement: under this share a control counts as near zero
_SIGNIFICANT = 0.05
_AS_WELL = 0.1  # of what many have: worse by less than that is as well
_ALMOST_ONE = 1 - 1e-9  # a correlation of 1 has no z


@dataclass(frozen=True)
class _Measured:
    """A number of a model: the role of its measure, how to read it, which way is better, and whether the paper has it,
    so that verdicts follow from it."""

    role: str
    read: Callable[[Results, str, str], float | None]
    better: int = 1
    judged: bool = True


_AGREEMENT = "position-free CAS"
_MEASURED = {
    _AGREEMENT: _Measured("agreement", Results.position_free),
    "true match, large shifts": _Measured("agreement", Results.truth, judged=False),
    "depth δ1": _Measured("depth", Results.delta1),
    "AEPE, px of 240": _Measured("correspondence", Results.aepe, better=-1),
}


@dataclass(frozen=True)
class Comparison:
    """A difference that a finding says is above 0, with its 95% interval; NaN where too few models tell."""

    what: str
    difference: float
    low: float
    high: float

    @property
    def outcome(self) -> str:
        return "holds" if self.low > 0 else "contradicted" if self.high < 0 else "open"

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]" if math.isfinite(self.low) else "no interval"
        return f"{self.what}: {self.difference:+.3f} {interval}, {self.outcome}"


@dataclass
class Answer:
    """What is known of a question.

    Attributes:
        sentence: of result.
        comparisons: that the verdict follows from.
        header, rows: a table.
        figure: a picture of it; None where nothing is there to draw.
        pictures: more, that steps have drawn, by what is to be seen.
    """

    sentence: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    header: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    figure: Figure | None = None
    pictures: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """A way to answer a question.

    Attributes:
        measures: the roles of the measures that it needs; any others may come along.
        models: the settings that name sets of models.
        answer: what it does.
    """

    measures: tuple[str, ...]
    models: tuple[str, ...]
    answer: Callable[[Question, Results], Answer]


def verdict(question: Question, comparisons: Sequence[Comparison], complete: bool) -> str:
    """The verdict on a question's finding, by the rule above."""
    if not question.finding:
        return NO_FINDING
    if not complete or not comparisons:
        return OPEN
    outcomes = [comparison.outcome for comparison in comparisons]
    holding, contradicted = outcomes.count("holds"), outcomes.count("contradicted")
    if holding == len(outcomes):
        return REPRODUCED
    if contradicted > holding:
        return NOT
    return PARTLY if holding else UNDECIDED


def welch(what: str, more: Sequence[float], less: Sequence[float]) -> Comparison:
    """The difference of two means; its interval takes two models or more on either side."""
    if not more or not less:
        return Comparison(what, math.nan, math.nan, math.nan)
    difference = float(np.mean(more) - np.mean(less))
    if min(len(more), len(less)) < 2 or np.var(more) + np.var(less) == 0:
        return Comparison(what, difference, math.nan, math.nan)
    interval = stats.ttest_ind(more, less, equal_var=False).confidence_interval(0.95)
    return Comparison(what, difference, float(interval.low), float(interval.high))


def _curve(question: Question, results: Results) -> Answer:
    controls = _agreements(question.models["controls"], question, results)
    curves = {label: _by_hours(models, question, results) for label, models in question.models["models"].items()}
    answer = Answer(header=("model", "hours", "models", "raw", "position-free", "true match, large shifts"))
    emerging = []
    for label, points in curves.items():
        for hours, found in points.items():
            answer.rows.append((label, f"{hours:.3g}", *_cells(found)))
        ends = [_free(points[hours]) for hours in (max(points), min(points))] if len(points) > 1 else []
        if not ends or min(map(len, ends)) < 2:
            continue  # a single seed is drawn, and not judged
        answer.comparisons.append(welch(f"{label}: all of it over the least", *ends))
        answer.comparisons += [
            welch(f"{label}: all of it over {control}", ends[0], _free(found)) for control, found in controls.items()
        ]
        emerging.append(_emergence(label, points, controls))
    answer.rows += [(label, "", *_cells(found)) for label, found in controls.items()]
    answer.sentence = " ".join(emerging)
    answer.figure = figures.draw_curves(curves, controls) if any(curves.values()) else None
    return answer


def _emergence(label: str, points: Mapping[float, list[Agreement]], controls: Mapping[str, list[Agreement]]) -> str:
    clear = None
    for hours in sorted(points, reverse=True):
        over = [welch("", _free(points[hours]), _free(found)) for found in controls.values()]
        if any(comparison.outcome != "holds" for comparison in over):
            break
        clear = hours
    found = ", ".join(f"{mean(_free(at)):.3f} with {duration(3600 * hours)}" for hours, at in sorted(points.items()))
    left = (
        "does not leave all controls"
        if clear is None
        else f"leaves all controls from {clear:.3g} hours ({duration(3600 * clear)}) on"
    )
    return f"{label} {left}, position-free: {found}."


def _controls(question: Question, results: Results) -> Answer:
    lives = _agreements(question.models["lives"], question, results)["lives"]
    controls = _agreements(question.models["controls"], question, results)
    baseline = _agreements(question.models["baseline"], question, results)["baseline"]
    answer = Answer(header=("model", "models", "raw", "position-free", "true match, large shifts"))
    groups = {"lives": lives, **controls, "untrained": baseline}
    answer.rows = [(label, *_cells(found)) for label, found in groups.items()]
    told = []
    for label, found in controls.items():
        answer.comparisons.append(welch(f"lives over {label}", _free(lives), _free(found)))
        share = [_NEAR_ZERO * each for each in _free(lives)]
        answer.comparisons.append(welch(f"a quarter of the lives over {label}", share, _free(found)))
        if lives and found:
            told.append(f"{label} {np.mean(_free(found)):.3f}")
    if told:
        answer.sentence = (
            f"Position-free, lives agree with the reference by {np.mean(_free(lives)):.3f}; {', '.join(told)}."
        )
    answer.figure = figures.draw_bars(groups) if any(groups.values()) else None
    return answer


def _groups(question: Question, results: Results) -> Answer:
    measures = [results.study.measures[measure] for measure in question.measures.values()]
    groups = list(dict.fromkeys(group for measure in measures for group in measure.groups))
    answer = Answer(header=("models", "score", "within", "across", "difference", "95% interval over pairs", "p",
                            *(f"true match, large shifts: {group}" for group in groups)))  # fmt: skip
    drawn: dict[str, dict[str, float]] = {}
    differences: dict[str, list[float]] = {}
    for role, measure in question.measures.items():
        found = results.output(results.plan.measures[measure][0])
        if found is None:
            continue
        answer.pictures[f"matrix, {role}"] = results.folder / results.plan.measures[measure][0] / "matrix.png"
        at_k = found["at_k"][str(found["k"])]
        members = results.study.measures[measure].groups
        for variant, prefix in (("raw", ""), ("position_free", "position_free_")):
            matrix, name = at_k[variant], variant.replace("_", "-")
            readings = {
                group: [at_k["readings"][results.index(measure, model)][f"{prefix}truth"] for model in models]
                for group, models in members.items()
            }
            difference, test = matrix["difference"], matrix["permutation"]
            answer.rows.append(
                (role, name, f"{matrix['within']['cas']:.3f}", f"{matrix['across']['cas']:.3f}",
                 f"{difference['difference']:+.3f}", f"[{difference['low']:.3f}, {difference['high']:.3f}]",
                 f"{test['p_value']:.3f}" if test else "-",
                 *(_spread([each["large_shifts"] for each in readings.get(group, []) if each]) for group in groups))
            )  # fmt: skip
            drawn.setdefault(f"{role}, {name}", {"within": matrix["within"]["cas"], "across": matrix["across"]["cas"]})
            differences.setdefault(name, []).append(difference["difference"])
            low, high, p_value = difference["low"], difference["high"], test["p_value"] if test else 0.5
            low = min(low, 0.0) if p_value > _SIGNIFICANT else low  # it may be these models, and not their groups
            high = max(high, 0.0) if p_value < 1 - _SIGNIFICANT else high
            answer.comparisons.append(
                Comparison(f"{role}, {name}: within over across", difference["difference"], low, high)
            )
    holding = sum(comparison.outcome == "holds" for comparison in answer.comparisons)
    if answer.rows:
        raw, free = (mean(differences[name]) for name in ("raw", "position-free"))
        answer.sentence = (
            f"Within less across is {raw:+.3f} raw and {free:+.3f} position-free; above 0 with p at most "
            f"{_SIGNIFICANT:g} by permutation of models in {holding} of {len(answer.comparisons)} comparisons."
        )
        answer.figure = figures.draw_pairs(drawn)
    return answer


def _order(question: Question, results: Results) -> Answer:
    found = {
        name: {
            label: _values(name, models, question, results) for label, models in question.models["expected"].items()
        }
        for name in _MEASURED
    }
    labels = list(question.models["expected"])
    answer = Answer(header=("pairs", *_MEASURED))
    answer.rows = [(label, *(_spread(found[name][label]) for name in _MEASURED)) for label in labels]
    orders = []
    for name, measured in _MEASURED.items():
        for label, lower in itertools.combinations(labels, 2) if measured.judged else ():
            more, less = found[name][label], found[name][lower]
            answer.comparisons.append(_better(f"{name}: {label} over {lower}", more, less, measured.better))
        there = [label for label in labels if found[name][label]]
        best = sorted(there, key=lambda label: mean(found[name][label]), reverse=measured.better > 0)
        if best:
            orders.append(f"by {name} {' > '.join(best)}")
    answer.sentence = f"Order of the means: {'; '.join(orders)}." if orders else ""
    answer.figure = figures.draw_panels(found) if orders else None
    return answer


def _equal(question: Question, results: Results) -> Answer:
    sides = {side: question.models[side][side] for side in ("one", "many")}
    found = {
        name: {side: _values(name, models, question, results) for side, models in sides.items()} for name in _MEASURED
    }
    answer = Answer(header=("models", *_MEASURED))
    answer.rows = [(side, *(_spread(found[name][side]) for name in _MEASURED)) for side in sides]
    told = []
    for name, measured in _MEASURED.items():
        each = _better(f"{name}: one over many", found[name]["one"], found[name]["many"], measured.better)
        if math.isfinite(each.difference):
            told.append(str(each))
        margin = _AS_WELL * abs(mean(found[name]["many"]))
        if measured.judged:
            within = (each.difference + margin, each.low + margin, each.high + margin)
            answer.comparisons.append(Comparison(f"{name}: one over many less {_AS_WELL:.0%}", *within))
    answer.sentence = (
        f"{'; '.join(told)}. As well is: not worse by more than {_AS_WELL:.0%} of what many have." if told else ""
    )
    answer.figure = figures.draw_panels(found) if told else None
    return answer


def _correlation(question: Question, results: Results) -> Answer:
    kinds: dict[str, str] = {}
    for label, models in question.models["models"].items():
        kinds |= {model: label for model in models if model not in kinds}
    first = next(iter(question.models["models"]))  # of it alone too: what works and what does not may make all of ρ
    answer = Answer(header=("CAS", "with", "models", "Spearman's ρ", "95% interval", f"among {first} alone"))
    panels: list[figures.Scatter] = []
    apart: list[bool] = []  # from 0, of those among the first set alone
    for score, title in (("raw", "raw CAS"), ("position_free", "position-free CAS")):
        for name, measured in _MEASURED.items():
            if name == _AGREEMENT:
                continue
            points = []
            for model, kind in kinds.items():
                agreement = results.agreement(question.measures["agreement"], model)
                other = measured.read(results, question.measures[measured.role], model)
                if agreement is not None and other is not None:
                    points.append((kind, getattr(agreement, score), other))
            if len(points) < 4:
                continue
            rho, low, high = _spearman(*np.array([(x, y) for _, x, y in points]).T)
            interval, alone = f"[{low:.2f}, {high:.2f}]", [(x, y) for kind, x, y in points if kind == first]
            told = "-"
            if len(alone) > 3:
                own = _spearman(*np.array(alone).T)
                told = "{:+.2f} [{:.2f}, {:.2f}]".format(*own)
                apart.append(not own[1] <= 0 <= own[2])
            answer.rows.append((title, name, f"{len(points)}", f"{rho:+.2f}", interval, f"{told} ({len(alone)})"))
            panels.append(figures.Scatter(f"ρ = {rho:+.2f} {interval}", title, name, points))
            ends = sorted((measured.better * low, measured.better * high))
            if measured.judged:
                answer.comparisons.append(Comparison(f"{title} foretells {name}", measured.better * rho, *ends))
    answer.sentence = "; ".join(f"{row[0]} with {row[1]}: ρ = {row[3]} {row[4]}" for row in answer.rows)
    if apart:
        answer.sentence += f". Among {first} alone, {sum(apart)} of {len(apart)} are told apart from 0."
    answer.figure = figures.draw_scatter(panels, list(question.models["models"])) if panels else None
    return answer


def _position(question: Question, results: Results) -> Answer:
    answer = Answer(header=("measured as", "models", "k", "raw", "against position", "position-free", "true match at "
                            "large shifts, raw", "position-free"))  # fmt: skip
    curves: dict[str, dict[int, dict[str, float]]] = {}  # of the first measure, by label and k
    chance: dict[int, float] = {}
    told: list[str] = []
    for role, measure in question.measures.items():
        found = results.output(results.plan.measures[measure][0])
        if found is None:
            continue
        first = role == next(iter(question.measures))
        for label, models in question.models["models"].items():
            places = [results.index(measure, model) for model in models]
            for k in sorted(map(int, found["at_k"])) if first else [found["k"]]:
                cells = [results.cell(found, k, a, b) for a in places for b in places if a != b]
                means = {name: mean([getattr(cell, name) for cell in cells]) for name in Agreement.__annotations__}
                shown = [
                    _number(means[name])
                    for name in ("raw", "position", "position_free", "truth", "position_free_truth")
                ]
                answer.rows.append((role, label, f"{k}", *shown))
                if not first:
                    continue
                curves.setdefault(label, {})[k] = means
                chance[k] = k / math.prod(found["grid"])
                if k == found["k"]:
                    told.append("{}: raw {}, their agreement with mere position {}; position-free {}; true matches {} "
                                "raw and {} position-free.".format(label, *shown))  # fmt: skip
        if first:
            readings = found["at_k"][str(found["k"])]["readings"]
            told.append(f"{sum(bool(each['sinks']) for each in readings)} of {len(readings)} models have sinks.")
    answer.sentence = " ".join(told)
    answer.figure = figures.draw_ks(curves, chance) if curves else None
    return answer


def _agreements(sets: Mapping[str, Sequence[str]], question: Question, results: Results) -> dict[str, list[Agreement]]:
    measure = question.measures["agreement"]
    return {
        label: [found for model in models if (found := results.agreement(measure, model)) is not None]
        for label, models in sets.items()
    }


def _by_hours(models: Sequence[str], question: Question, results: Results) -> dict[float, list[Agreement]]:
    points: dict[float, list[Agreement]] = {}
    for model in models:
        found, hours = results.agreement(question.measures["agreement"], model), results.hours(model)
        if found is not None and hours is not None:
            points.setdefault(hours, []).append(found)
    return dict(sorted(points.items()))


def _values(name: str, models: Sequence[str], question: Question, results: Results) -> list[float]:
    measured = _MEASURED[name]
    found = [measured.read(results, question.measures[measured.role], model) for model in models]
    return [value for value in found if value is not None]


def _better(what: str, more: Sequence[float], less: Sequence[float], better: int) -> Comparison:
    """Above 0 where `more` is better, whichever way that is."""
    return welch(what, more, less) if better > 0 else welch(what, less, more)


def _spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Rank correlation of four models or more, and its 95% interval by Fisher's z with the variance of Fieller et al.
    (1957). (Resampling would make intervals of few models too narrow.)"""
    rho = float(stats.spearmanr(x, y).statistic)
    z, half = math.atanh(max(-_ALMOST_ONE, min(_ALMOST_ONE, rho))), 1.96 * math.sqrt(1.06 / (len(x) - 3))
    return rho, math.tanh(z - half), math.tanh(z + half)


def _free(found: Sequence[Agreement]) -> list[float]:
    return [each.position_free for each in found]


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    sd = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{sd} ({len(values)})"


def _cells(found: Sequence[Agreement]) -> tuple[str, ...]:
    truth = [each.truth for each in found if each.truth is not None]
    shown = [[each.raw for each in found], _free(found), truth]
    return (f"{len(found)}", *(_spread(values).rpartition(" (")[0] or "-" for values in shown))


ANALYSES = {
    "curve": Analysis(("agreement",), ("models", "controls"), _curve),
    "controls": Analysis(("agreement",), ("lives", "controls", "baseline"), _controls),
    "groups": Analysis((), (), _groups),
    "order": Analysis(("agreement", "depth", "correspondence"), ("expected",), _order),
    "equal": Analysis(("agreement", "depth", "correspondence"), ("one", "many"), _equal),
    "correlation": Analysis(("agreement", "depth", "correspondence"), ("models",), _correlation),
    "position": Analysis((), ("models",), _position),
}
