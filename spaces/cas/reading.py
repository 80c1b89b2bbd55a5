"""The scores in plain words, and as the page shows them."""

import base64
import html
import json
from typing import TYPE_CHECKING

from singlelife.alignment.comparison import CasResult
from singlelife.alignment.score import Score

if TYPE_CHECKING:
    from scoring import Result

METHODS = {
    "cross-attention": "by cross-attention of its decoder",
    "feature correlation": "by the likeness of its patch features",
    "decoder correlation": "by the likeness of its decoder's patch features",
}
_CLEAR, _STRONG = 0.1, 0.4  # chance-corrected, position-free


def verdict(result: "Result") -> str:
    """The scores in one line.

    Of few pairs the position-free score is not known; then it is that of the built-in ones.
    """
    raw, free = result.comparison.raw, result.reference.position_free
    if _surely_above(free):
        strength = free.chance_corrected or 0.0
        how = "strongly" if strength >= _STRONG else "clearly" if strength >= _CLEAR else "a little"
        if _finds_matches(result.reference):
            return f"They agree {how} about where things are."
        return f"They agree {how}, but not about where things are: true matches are not found."
    if _surely_above(raw):
        return "They agree only in looking at the same place, whatever is there."
    if raw.high < raw.chance:
        return "They agree less than by chance: they look at different places."
    return "They agree no more than by chance."


def reading(result: "Result") -> str:
    """The scores in a few sentences."""
    comparison, reference = result.comparison, result.reference
    raw, free = comparison.raw, reference.position_free
    sentences = [f"These models agree on {raw.cas:.0%} of matches; {raw.chance:.0%} would be chance."]
    if result.same_place is not None:
        sentences.append(
            f"{result.same_place:.0%} of what they share they would also share with a model that only looks at the "
            "same place."
        )
    where = "" if reference is comparison else f", measured on the {reference.num_pairs} built-in pairs"
    sentences.append(f"Without each model's habits of place they agree on {free.cas:.0%}{where} ({_against(free)}).")
    if len(result.pairs) == 1:
        sentences.append("One pair says little: another may score quite differently.")
    truths = [each.truth for each in comparison.readings]
    shares = [truth.large_shifts for truth in truths if truth and truth.large_shifts is not None]
    if len(shares) == 2:
        sentences.append(
            f"Agreeing is not being right: where the view shifts far, the true match is among the top {comparison.k} "
            f"of A for {shares[0]:.0%} of patches, of B for {shares[1]:.0%}."
        )
    return " ".join(sentences)


def _finds_matches(comparison: CasResult) -> bool:
    """Whether both models find true matches that looking at the same place never does, more than by chance."""
    truths = [reading.truth for reading in comparison.readings]
    return all(truth and (truth.large_shifts or 0.0) > comparison.raw.chance for truth in truths)


def _surely_above(score: Score) -> bool:
    return score.low > score.chance


def _against(score: Score) -> str:
    if _surely_above(score):
        return f"above its chance of {score.chance:.0%}"
    if score.high < score.chance:
        return f"below its chance of {score.chance:.0%}"
    return f"no more than its chance of {score.chance:.0%}"


def score_html(result: "Result", card: bytes) -> str:
    """The scores as a piece of the page, with the JSON and the picture to download: both are in their links, so that
    nothing is kept on the disk."""
    comparison, reference = result.comparison, result.reference
    free_on = "" if reference is comparison else f", on the {reference.num_pairs} built-in pairs"
    rows = [
        _bar("CAS", "matches shared", comparison.raw, "raw", interval=len(result.pairs) > 1),
        _bar("Position-free", f"without habits of place{free_on}", reference.position_free, "free", interval=True),
    ]
    facts = [
        f"<dt><b class='score-{letter}'>{letter.upper()}</b></dt><dd><b>{html.escape(str(named))}</b> "
        f"{METHODS[method]} (block{'s' * (len(layers) > 1)} {', '.join(map(str, layers))})</dd>"
        for letter, named, method, layers in zip(
            "ab", result.models, comparison.methods, comparison.layers, strict=True
        )
    ]
    count = comparison.grid[0] * comparison.grid[1]
    facts.append(
        f"<dt>On</dt><dd>{comparison.num_pairs} pair{'s' * (comparison.num_pairs != 1)} of "
        f"{html.escape(comparison.pairs)}, top {comparison.k} of {count} patches</dd>"
    )
    links = [
        _download("Download JSON", "cas.json", "application/json", json.dumps(result.to_dict(), indent=2).encode()),
        _download("Download picture", "cas.png", "image/png", card),
    ]
    return (
        f"<section class='score' aria-label='Result'><h2>{html.escape(verdict(result))}</h2>{''.join(rows)}"
        f"<p>{html.escape(reading(result))}</p><dl>{''.join(facts)}</dl><p class='score-links'>{''.join(links)}</p>"
        "</section>"
    )


def _bar(name: str, what: str, score: Score, kind: str, *, interval: bool) -> str:
    corrected = "" if score.chance_corrected is None else f"chance-corrected {score.chance_corrected:.2f}"
    said = f"{score.low:.3f} to {score.high:.3f}, " if interval else ""
    whisker = (
        f"<i class='score-whisker' style='left:{score.low:.2%};width:{score.high - score.low:.2%}'></i>"
        if interval
        else ""
    )
    return (
        f"<div class='score-row' data-score='{kind}'><div class='score-name'><b>{name}</b> <span>{what}</span></div>"
        f"<div class='score-value' data-value='{score.cas!r}'>{score.cas:.3f}</div>"
        f"<div class='score-track' role='img' aria-label='{score.cas:.3f} of 1; chance is {score.chance:.3f}'>"
        f"<i class='score-fill' style='width:{score.cas:.2%}'></i>{whisker}"
        f"<i class='score-chance' style='left:{score.chance:.2%}'></i></div>"
        f"<div class='score-said'>{said}chance {score.chance:.3f}{', ' * bool(corrected)}{corrected}</div></div>"
    )


def _download(text: str, file: str, kind: str, content: bytes) -> str:
    address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f"<a download='{file}' href='{address}'>{text}</a>"


def stage_html(what: str, share: float | None) -> str:
    """What is being done, with a bar."""
    value = "" if share is None else f" value='{share:.3f}'"
    said = f"<span>{html.escape(what)}…</span><progress max='1'{value} aria-label='Progress'></progress>"
    return f"<div class='stage' role='status'>{said}</div>"


def note_html(what: str, *, alert: bool = False) -> str:
    """A message that stays."""
    kind = "alert" if alert else "status"
    return f"<div class='note note-{kind}' role='{kind}'>{html.escape(what)}</div>"
