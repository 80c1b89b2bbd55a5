"""The results of many models side by side: rows, folded over seeds if wished, and groups."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from singlelife.alignment.groups import group_of
from singlelife.alignment.models import UNTRAINED
from singlelife.errors import EvaluationError
from singlelife.evaluation.suite.metrics import METRICS_OF, Metric
from singlelife.evaluation.suite.results import ModelResults

BASELINES = "baselines"  # the group of what is no model

_SEED = re.compile(r"[_-]seed\d+$")
_TOLD = 12  # letters of a hash


@dataclass(frozen=True)
class Cell:
    """One number of a row.

    Attributes:
        mean: over the models of the row.
        std: over the models if there are several, else over the seeds of the probe; None where there is one of both.
        low, high: the 95% interval over test items of a single model; None of several.
        each: the value of each model.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    each: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A model, or several that differ in their seed alone.

    Attributes:
        name, group: of the row.
        models: whose results it has, in order.
        cells: by task and metric.
        images_per_second, peak_memory_bytes: by task, the mean and the most of its models.
    """

    name: str
    group: str
    models: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]
    images_per_second: dict[str, float]
    peak_memory_bytes: dict[str, int]


@dataclass(frozen=True)
class TaskTold:
    """What a table says of its task: what was measured, how, on which data, and whether all rows are of the same."""

    name: str
    kind: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, Metric]:
        return METRICS_OF[self.kind]


@dataclass(frozen=True)
class Comparison:
    """Models side by side.

    Attributes:
        title: of the page.
        tasks: in the order of the suite.
        rows: models, then baselines; those of one group together.
        groups: of the rows, in order, as the user named them or the models' lives tell.
        problems: what failed, a line each.
        left_out: tasks without data, a line each.
    """

    title: str
    tasks: tuple[TaskTold, ...]
    rows: tuple[Row, ...]
    groups: tuple[str, ...]
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def compare(
    results: Sequence[ModelResults],
    title: str,
    *,
    tasks: Sequence[str] = (),
    first: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    fold_seeds: bool = False,
    problems: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> Comparison:
    """Put results side by side.

    Args:
        results: of models and baselines.
        title: of the page.
        tasks: their order; those that are not named come after.
        first: the models in the order in which their rows come; others come after them. Those without results have
            failed.
        groups: models (or rows) by group; others are grouped by the data set of the life that their name tells.
        fold_seeds: whether models whose names differ in their seed alone make one row: `runs/sim_1` and
            `runs/sim_1_seed1`, `untrained:tiny@0` and `untrained:tiny@1`.
        problems, left_out: lines to show.

    Raises:
        EvaluationError: a group names a model that is not there, or a model is in two groups.
    """
    there = {each.model: each for each in results if each.tasks}
    order = [name for name in first if name in there] + [name for name in there if name not in first]
    rows: dict[str, list[ModelResults]] = {}
    for name in order:
        rows.setdefault(seedless(name) if fold_seeds else name, []).append(there[name])
    found = list(dict.fromkeys([*tasks, *(task for each in there.values() for task in each.tasks)]))
    found = [task for task in found if any(task in each.tasks for each in there.values())]
    group = _groups(rows, groups or {}, set(first) - set(there))
    in_order = [*(groups or {}), *group.values()]
    names = sorted(rows, key=lambda name: (group[name] == BASELINES, in_order.index(group[name])))
    made = tuple(_row(name, group[name], rows[name], found) for name in names)
    return Comparison(
        title=title,
        tasks=tuple(_told(task, [there[name] for name in order]) for task in found),
        rows=made,
        groups=tuple(dict.fromkeys(row.group for row in made)),
        problems=tuple(problems),
        left_out=tuple(left_out),
    )


def seedless(model: str) -> str:
    """A model's name without its seed: `runs/sim_1` of `runs/sim_1_seed2`, `untrained:tiny` of `untrained:tiny@1`."""
    if model.startswith(UNTRAINED):
        where = model.rpartition("@")[0] if re.search(r"@\d+$", model) else model
        return UNTRAINED + seedless(where.removeprefix(UNTRAINED))
    where, at, revision = model.partition("@")
    return _SEED.sub("", where.rstrip("/")) + at + revision


def _groups(
    rows: Mapping[str, Sequence[ModelResults]], asked: Mapping[str, Sequence[str]], failed: Collection[str]
) -> dict[str, str]:
    """The group of each row."""
    found: dict[str, str] = {}
    for group, members in asked.items():
        for member in members:
            row = next(
                (row for row, models in rows.items() if member in (row, *(each.model for each in models))), None
            )
            if row is None and member in failed:
                continue
            if row is None:
                raise EvaluationError(
                    f"--groups {group}: there are no results of {member}; there are {', '.join(rows)}."
                )
            if found.setdefault(row, group) != group:
                raise EvaluationError(f"--groups: {member} is in the groups {found[row]} and {group}.")
    for row, models in rows.items():
        if row not in found:
            found[row] = BASELINES if models[0].revision is None else group_of(row)
    return found


def _row(name: str, group: str, models: Sequence[ModelResults], tasks: Sequence[str]) -> Row:
    cells: dict[str, dict[str, Cell]] = {}
    speed, memory = {}, {}
    for task in tasks:
        done = [each.tasks[task] for each in models if task in each.tasks]
        metrics = dict.fromkeys(metric for each in done for metric in each["metrics"])
        cells[task] = {metric: _cell([each["metrics"][metric] for each in done]) for metric in metrics}
        if speeds := [each["images_per_second"] for each in done if each["images_per_second"]]:
            speed[task] = float(np.mean(speeds))
        if peaks := [each["peak_memory_bytes"] for each in done if each["peak_memory_bytes"]]:
            memory[task] = max(peaks)
    return Row(name, group, tuple(each.model for each in models), cells, speed, memory)


def _cell(measures: Sequence[Mapping[str, Any]]) -> Cell:
    if len(measures) == 1:
        (one,) = measures
        several = len(one["per_seed"]) > 1
        return Cell(one["mean"], one["std"] if several else None, one["low"], one["high"], (one["mean"],))
    each = [measure["mean"] for measure in measures]
    return Cell(float(np.mean(each)), float(np.std(each, ddof=1)), None, None, tuple(each))


def _told(task: str, results: Sequence[ModelResults]) -> TaskTold:
    done = {each.model: each.tasks[task] for each in results if task in each.tasks}
    model, one = next(iter(done.items()))
    data, settings = one["data"], one["settings"]
    protocol = {name: value for name, value in one["protocol"].items() if value is not None}
    named = f"{protocol.pop('name')} {protocol.pop('version')}"
    rest = ", ".join(f"{name} {_plain(value)}" for name, value in protocol.items())
    chosen = ", ".join(f"{name} {_plain(value)}" for name, value in settings.items() if value is not None)
    lines = [f"protocol {named}" + (f" ({rest})" if rest else ""), f"settings: {chosen}"]
    if "train" in data:
        lines.append(f"trained on {_data(data['train'])}")
    lines.append(f"measured on {_data(data)}")
    warnings = [
        f"Not all rows are of the same {what}: {model} and {', '.join(others)} differ."
        for what, of in (
            ("protocol", lambda each: each["protocol"]),
            ("settings", lambda each: each["settings"]),
            ("data", lambda each: (each["data"]["hash"], each["data"].get("train", {}).get("hash"))),
        )
        if (others := [name for name, each in done.items() if of(each) != of(one)])
    ]
    left_out = {name: why for each in done.values() for name, why in each["failures"].items()}
    if left_out:
        some = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        more = f"; and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        count = f"{len(left_out)} items" if len(left_out) > 1 else "1 item"
        warnings.append(f"{count} could not be used: {some}{more}.")
    if both := data.get("also_trained_on"):
        warnings.append(f"{both} of the {data['num_items']} test items are among the training data too.")
    return TaskTold(task, one["task"], tuple(lines), tuple(warnings))


def _data(data: Mapping[str, Any]) -> str:
    return f"{data['num_items']:,} of {data['name']} ({data['hash'][:_TOLD]})"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
