"""The comparison as files: Markdown, CSV, pictures, and one page of HTML that needs no other file."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from singlelife._version import __version__
from singlelife.alignment.plots.style import write
from singlelife.evaluation.suite.charts import draw_bars
from singlelife.evaluation.suite.comparison import Comparison
from singlelife.evaluation.suite.tables import (
    WHAT_SPREAD_IS,
    Table,
    as_csv,
    as_markdown,
    group_table,
    level_table,
    overview,
    task_table,
)
from singlelife.files import atomic_write

CHARTS, SHEETS = "charts", "sheets"  # folders of pictures, a file for each task

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; border-top: 1px solid #ddd; padding-top: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; margin: 0.8rem 0; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th { border-bottom: 2px solid #999; font-weight: 600; }
img { max-width: 100%; display: block; margin: 0.8rem 0; }
p.about, li { color: #555; font-size: 0.87rem; margin: 0.1rem 0; } .warn { color: #a33; }
"""


def write_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `comparison.md`, `comparison.csv`, `comparison.html` and the bar charts into a folder that has the
    sheets already.

    Returns:
        The first three.
    """
    (folder / CHARTS).mkdir(exist_ok=True)
    for task in comparison.tasks:
        write(draw_bars(comparison, task), folder / CHARTS / f"{task.name}.png")
    texts = {"md": as_markdown(comparison), "csv": as_csv(comparison), "html": as_html(comparison, folder)}
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"comparison.{suffix}")
        with atomic_write(paths[-1]) as aside:
            aside.write_text(text, encoding="utf-8")
    return paths


def as_html(comparison: Comparison, folder: Path) -> str:
    """The page, with the pictures of `folder` in it."""
    title = html.escape(comparison.title)
    out = io.StringIO()
    out.write(f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n')
    out.write(f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n')
    out.write(f"<h1>{title}</h1>\n{_html(*overview(comparison))}\n")
    out.write(f'<p class="about">{html.escape(WHAT_SPREAD_IS)} singlelife {__version__}.</p>\n')
    if groups := group_table(comparison):
        out.write(f"<h2>By group</h2>\n{_html(groups)}\n")
    for heading, lines in (("What failed", comparison.problems), ("What was left out", comparison.left_out)):
        if lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            out.write(f"<h2>{heading}</h2>\n<ul>{items}</ul>\n")
    for task in comparison.tasks:
        out.write(f"<h2>{html.escape(task.name)}</h2>\n")
        out.writelines(f'<p class="about">{html.escape(line)}</p>\n' for line in task.lines)
        out.writelines(f'<p class="about warn">{html.escape(line)}</p>\n' for line in task.warnings)
        out.write(f"{_html(*task_table(comparison, task))}\n")
        if levels := level_table(comparison, task):
            out.write(f'<p class="about">AEPE in px of 240×240 by level</p>\n{_html(levels)}\n')
        for kind, what in ((CHARTS, "bars of"), (SHEETS, "what models make of")):
            out.write(_image(folder / kind / f"{task.name}.png", f"{what} {task.name}"))
    out.write("</body></html>\n")
    return out.getvalue()


def _html(table: Table, best: Sequence[Sequence[bool]] | None = None) -> str:
    lines = []
    for number, line in enumerate(table):
        tag = "td" if number else "th"
        texts = [html.escape(text) for text in line]
        if best:
            texts = [f"<b>{text}</b>" if won else text for text, won in zip(texts, best[number], strict=True)]
        lines.append("<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _image(path: Path, what: str) -> str:
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{content}">\n'
