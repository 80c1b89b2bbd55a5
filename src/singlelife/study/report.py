"""The report of a study: results.md with its pictures, and the same as one HTML file that needs nothing beside it."""

import base64
import html
import io
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from singlelife._version import __version__
from singlelife.files import atomic_write
from singlelife.study import analyses
from singlelife.study.analyses import ANALYSES, Answer, verdict
from singlelife.study.results import Results
from singlelife.study.steps import Plan
from singlelife.study.study_file import Question, Study
from singlelife.text import duration

REPORT, IMAGES = "report", "images"  # folders: the report's within the study's, the pictures' within the report's
_DPI = 130
_SHOWN_COMPARISONS = 40


@dataclass(frozen=True)
class _Text:
    words: str


@dataclass(frozen=True)
class _Heading:
    words: str
    level: int


@dataclass(frozen=True)
class _Items:
    words: Sequence[str]


@dataclass(frozen=True)
class _Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Picture:
    name: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class _Code:
    words: str


_Block = _Text | _Heading | _Items | _Table | _Picture | _Code


def write_report(study: Study, plan: Plan, folder: Path) -> Path:
    """Write the report on what is done so far; the folder that holds it."""
    results = Results(study, plan, folder)
    answers = {name: ANALYSES[question.analysis].answer(question, results)
               for name, question in study.questions.items()}  # fmt: skip
    verdicts = {
        name: verdict(question, answers[name].comparisons, not results.missing(plan.questions[name]))
        for name, question in study.questions.items()
    }
    blocks = _blocks(study, plan, results, answers, verdicts)
    out = folder / REPORT
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, _Picture):
            with atomic_write(out / IMAGES / block.name) as aside:
                aside.write_bytes(block.png)
    fields = {
        name: {"ask": question.ask, "finding": question.finding, "verdict": verdicts[name],
               "sentence": answers[name].sentence, "comparisons": list(map(str, answers[name].comparisons)),
               "header": answers[name].header, "rows": answers[name].rows}
        for name, question in study.questions.items()
    }  # fmt: skip
    for file, text in (
        ("results.md", _markdown(blocks)),
        ("results.html", _html(study.title, blocks)),
        ("results.json", json.dumps({"version": __version__, "questions": fields}, indent=2) + "\n"),
    ):
        with atomic_write(out / file) as aside:
            aside.write_text(text, encoding="utf-8")
    return out


def _blocks(
    study: Study, plan: Plan, results: Results, answers: dict[str, Answer], verdicts: dict[str, str]
) -> list[_Block]:
    total = len(plan.wanted)
    done = total - len(results.missing(plan.wanted))
    blocks: list[_Block] = [_Heading(study.title, 1), _Text(study.about)]
    blocks.append(_Code(f"singlelife study {study.spoken}"))
    if done < total:
        blocks.append(
            _Text(f"**This is not all of it yet: {done} of {total} steps are done.** What stands here is of those.")
        )
    blocks += [
        _Table(
            ("question", "what the paper found", "here", "in numbers"),
            [
                (question.ask, question.finding or "-", f"**{verdicts[name]}**", answers[name].sentence or "-")
                for name, question in study.questions.items()
            ],
        ),
        _Heading("How to read this", 2),
        _Text(_paragraph(analyses.__doc__ or "")),
        _Text(
            "Scores are adjusted: 0 is what chance gives, 1 full agreement; but not those within and across groups "
            "and in matrices. *Raw* is the paper's score; *position-free* is without each model's habit of looking at "
            "the same place. *True match, large shifts* is how often the true match is in the top k where the view "
            "shifts so far that looking at the same place never finds it. ± is the standard deviation "
            "over models; in brackets, how many they are."
        ),
    ]
    for name, question in study.questions.items():
        blocks += _section(name, question, results, answers[name], verdicts[name])
    if study.limits:
        blocks += [_Heading("What this does not say", 2), _Items(study.limits)]
    return [*blocks, *_cost(plan, results)]


def _section(name: str, question: Question, results: Results, answer: Answer, verdict: str) -> list[_Block]:
    blocks: list[_Block] = [_Heading(question.ask, 2)]
    if question.finding:
        blocks.append(_Text(f"The paper: {question.finding} Here: **{verdict}**."))
    if answer.sentence:
        blocks.append(_Text(answer.sentence))
    missing = results.missing(results.plan.questions[name])
    if name in results.plan.left_out:
        blocks.append(_Text(f"*It was left out: {', '.join(results.plan.left_out[name])} was not there.*"))
    elif missing:
        blocks.append(_Text(f"*{len(missing)} of {len(results.plan.questions[name])} measures of this are not there "
                            "yet.*"))  # fmt: skip
    if answer.figure is not None:
        drawn = io.BytesIO()
        answer.figure.savefig(drawn, format="png", dpi=_DPI)
        blocks.append(_Picture(f"study_{name}.png", question.ask, drawn.getvalue()))
    for number, (what, path) in enumerate(answer.pictures.items(), 1):
        if path.is_file():
            blocks.append(_Picture(f"study_{name}_{number}.png", what, path.read_bytes()))
    if answer.rows:
        blocks.append(_Table(answer.header, answer.rows))
    judged = [str(comparison) for comparison in answer.comparisons if "nan" not in f"{comparison.difference}"]
    if judged and question.finding:
        blocks += [_Text("Compared, with 95% intervals:"), _Items(judged[:_SHOWN_COMPARISONS])]
    return blocks


def _cost(plan: Plan, results: Results) -> list[_Block]:
    kinds: dict[str, list[dict]] = {}
    for name, record in results.records.items():
        kinds.setdefault(plan.steps[name].kind, []).append(record)
    rows = [
        (kind, f"{len(records)}", duration(sum(record["cpu_seconds"] for record in records)))
        for kind, records in kinds.items()
    ]
    total = sum(record["cpu_seconds"] for record in results.records.values())
    rows.append(("together", f"{len(results.records)}", f"**{duration(total)}**"))
    used = sorted({record["version"] for record in results.records.values()})
    return [
        _Heading("What it took", 2),
        _Text(
            f"CPU time of the steps, stopped attempts included; made with singlelife {', '.join(used) or __version__} "
            f"and reported on a machine of {os.cpu_count()} cores ({platform.machine()}). Each step's folder has the "
            "command that made it in `step.json`."
        ),
        _Table(("steps", "done", "CPU time"), rows),
    ]


def _paragraph(words: str) -> str:
    """The part of a docstring that states the rule, as one paragraph."""
    rule = words.partition("**The rule.**")[2]
    return "**The rule.** " + " ".join(rule.split())


def _markdown(blocks: Sequence[_Block]) -> str:
    parts = []
    for block in blocks:
        match block:
            case _Heading(words, level):
                parts.append(f"{'#' * level} {words}")
            case _Text(words):
                parts.append(words)
            case _Items(words):
                parts.append("\n".join(f"- {each}" for each in words))
            case _Code(words):
                parts.append(f"```sh\n{words}\n```")
            case _Picture(name, alt, _):
                parts.append(f"![{alt}]({IMAGES}/{name})")
            case _Table(header, rows):
                lines = [header, ["---"] * len(header), *rows]
                parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines))
    return "\n\n".join(part for part in parts if part) + "\n"


_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; }
img { max-width: 100%; } pre { background: #f4f4f4; padding: 0.7rem; overflow-x: auto; } li { font-size: 0.9rem; }"""


def _html(title: str, blocks: Sequence[_Block]) -> str:
    parts = []
    for block in blocks:
        match block:
            case _Heading(words, level):
                parts.append(f"<h{level}>{_inline(words)}</h{level}>")
            case _Text(words) if words:
                parts.append(f"<p>{_inline(words)}</p>")
            case _Items(words):
                parts.append("<ul>" + "".join(f"<li>{_inline(each)}</li>" for each in words) + "</ul>")
            case _Code(words):
                parts.append(f"<pre>{html.escape(words)}</pre>")
            case _Picture(_, alt, png):
                source = base64.b64encode(png).decode()
                parts.append(f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{source}"></p>')
            case _Table(header, rows):
                head = "".join(f"<th>{_inline(cell)}</th>" for cell in header)
                body = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
                parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>\n{_STYLE}\n</style></head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _inline(words: str) -> str:
    """Bold, slanted and code, as Markdown marks them."""
    text = html.escape(words)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*([^*]+)\*\*", "strong"), (r"\*([^*]+)\*", "em")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text
