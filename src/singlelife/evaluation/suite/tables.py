"""A comparison as tables: for the terminal, as Markdown, and as CSV."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from singlelife.alignment.plots.style import short_names
from singlelife.evaluation.suite.comparison import BASELINES, Cell, Comparison, TaskTold
from singlelife.evaluation.suite.metrics import FIRST, Metric
from singlelife.text import aligned, in_bytes

Table = list[list[str]]


def overview(comparison: Comparison) -> tuple[Table, list[list[bool]]]:
    """The first metric of every task: a table with its header, and which of its cells is the best of its column."""
    columns = [(task, FIRST[task.kind][0]) for task in comparison.tasks]
    return _table(comparison, columns, [f"{task.name}: {task.metrics[metric].title}" for task, metric in columns])


def task_table(comparison: Comparison, task: TaskTold) -> tuple[Table, list[list[bool]]]:
    """All metrics of a task, and what measuring took."""
    metrics = {name: each for name, each in task.metrics.items() if any(name in row.cells[task.name] for row in
               comparison.rows)}  # fmt: skip
    columns = [(task, name) for name in metrics]
    table, best = _table(comparison, columns, [each.title for each in metrics.values()], only=task.name)
    shown = [row for row in comparison.rows if row.cells[task.name]]
    table[0] += ["images/s", "peak memory"]
    for line, row in zip(table[1:], shown, strict=True):
        speed, memory = row.images_per_second.get(task.name), row.peak_memory_bytes.get(task.name)
        line += [f"{speed:.0f}" if speed else "", in_bytes(memory) if memory else ""]
    return table, [[*line, False, False] for line in best]


def level_table(comparison: Comparison, task: TaskTold, resolution: str = "240") -> Table | None:
    """The AEPE of each level, as HPatches has them; None where there is one level."""
    prefix = f"aepe_{resolution}_"
    shown = [row for row in comparison.rows if row.cells[task.name]]
    levels = dict.fromkeys(
        name.removeprefix(prefix) for row in shown for name in row.cells[task.name] if name.startswith(prefix)
    )
    if not levels:
        return None
    names = short_names([row.name for row in shown])
    table = [["", *levels]]
    for name, row in zip(names, shown, strict=True):
        cells = [row.cells[task.name].get(prefix + level) for level in levels]
        table.append([name, *("–" if cell is None else f"{cell.mean:.2f}" for cell in cells)])
    return table


def group_table(comparison: Comparison) -> Table | None:
    """The first metric of every task, by group: mean ± std over its models; None where each group is one model."""
    members = {group: [row for row in comparison.rows if row.group == group] for group in comparison.groups}
    members.pop(BASELINES, None)
    counts = {group: sum(len(row.models) for row in rows) for group, rows in members.items()}
    if len(members) < 2 or max(counts.values()) < 2:
        return None
    table = [["", "models", *(f"{task.name}: {task.metrics[FIRST[task.kind][0]].title}" for task in comparison.tasks)]]
    for group, rows in members.items():
        line = [group, str(counts[group])]
        for task in comparison.tasks:
            metric = FIRST[task.kind][0]
            each = [value for row in rows if metric in row.cells[task.name]
                    for value in row.cells[task.name][metric].each]  # fmt: skip
            if not each:
                line.append("–")
                continue
            text = task.metrics[metric].text
            spread = f" ± {text(float(np.std(each, ddof=1)))}" if len(each) > 1 else ""
            line.append(f"{text(float(np.mean(each)))}{spread}")
        table.append(line)
    return table


def _table(
    comparison: Comparison, columns: Sequence[tuple[TaskTold, str]], titles: Sequence[str], only: str = ""
) -> tuple[Table, list[list[bool]]]:
    rows = [row for row in comparison.rows if not only or row.cells[only]]
    table = [["", "group", "models", *titles]]
    best = [[False] * len(table[0])]
    names = short_names([row.name for row in rows])
    winners = []
    for task, metric in columns:
        values = [row.cells[task.name][metric].mean for row in rows if metric in row.cells[task.name]]
        winners.append((max if task.metrics[metric].higher_is_better else min)(values) if values else None)
    for name, row in zip(names, rows, strict=True):
        cells = [row.cells[task.name].get(metric) for task, metric in columns]
        texts = [_cell_text(cell, task.metrics[metric]) for cell, (task, metric) in zip(cells, columns, strict=True)]
        models = str(len(row.models)) if row.group != BASELINES else ""
        table.append([name, row.group, models, *texts])
        best.append([False] * 3 + [cell is not None and cell.mean == won for cell, won in
                                   zip(cells, winners, strict=True)])  # fmt: skip
    return table, best


def _cell_text(cell: Cell | None, metric: Metric) -> str:
    if cell is None:
        return "–"
    spread = "" if cell.std is None else f" ± {metric.text(cell.std)}"
    return metric.text(cell.mean) + spread


WHAT_SPREAD_IS = (
    "± is the standard deviation over models where a row has several, else over the seeds of the probe. Intervals of "
    "single models (95%, over test items) are in the CSV file and in the results files. Bold is the best of a column."
)


def as_text(comparison: Comparison) -> str:
    """The overview for the terminal."""
    table, _ = overview(comparison)
    parts = [comparison.title, "", aligned(table)]
    if groups := group_table(comparison):
        parts += ["", "by group", aligned(groups)]
    warnings = [f"{task.name}: {warning}" for task in comparison.tasks for warning in task.warnings]
    return "\n".join([*parts, *(["", *warnings] if warnings else [])])


def as_markdown(comparison: Comparison) -> str:
    """All tables."""
    parts = [f"# {comparison.title}", "", _markdown(*overview(comparison)), "", WHAT_SPREAD_IS]
    if groups := group_table(comparison):
        parts += ["", "## By group", "", _markdown(groups)]
    for title, lines in (("What failed", comparison.problems), ("What was left out", comparison.left_out)):
        if lines:
            parts += ["", f"## {title}", "", *(f"- {line}" for line in lines)]
    for task in comparison.tasks:
        parts += ["", f"## {task.name}", "", *(f"- {line}" for line in (*task.lines, *task.warnings)), ""]
        parts.append(_markdown(*task_table(comparison, task)))
        if levels := level_table(comparison, task):
            parts += ["", "AEPE in px of 240×240 by level:", "", _markdown(levels)]
    return "\n".join(parts) + "\n"


def _markdown(table: Table, best: Sequence[Sequence[bool]] | None = None) -> str:
    lines = []
    for number, line in enumerate(table):
        texts = [text.replace("|", "\\|") for text in line]
        if best:
            texts = [f"**{text}**" if won else text for text, won in zip(texts, best[number], strict=True)]
        lines.append(f"| {' | '.join(texts)} |")
        if not number:
            lines.append("|" + "---|" * len(line))
    return "\n".join(lines)


CSV_COLUMNS = ("row", "group", "models", "task", "kind", "metric", "higher_is_better", "mean", "std", "low", "high",
               "each")  # fmt: skip


def as_csv(comparison: Comparison) -> str:
    """A line for each number of each row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in comparison.rows:
        for task in comparison.tasks:
            for metric, cell in row.cells[task.name].items():
                known = task.metrics.get(metric)
                better = known.higher_is_better if known else False  # the AEPE of a level
                numbers = [
                    "" if each is None else f"{each:.6g}" for each in (cell.mean, cell.std, cell.low, cell.high)
                ]
                each = " ".join(f"{value:.6g}" for value in cell.each)
                writer.writerow([row.name, row.group, " ".join(row.models), task.name, task.kind, metric,
                                 str(better).lower(), *numbers, each])  # fmt: skip
    return out.getvalue()
