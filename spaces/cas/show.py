"""A result as the page shows it: the scores in plain words, and the values that `page/*.js` draw."""

import base64
import html
import io
import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from score import Bench, Result, built_in_models

from singlelife.alignment.comparison import CasResult
from singlelife.alignment.null import CentredScore
from singlelife.alignment.score import Score, unpack

_CLEAR, _STRONG = 0.1, 0.4  # of the centred score above its null
_COLOURS = ["#3b82f6", "#f97316", "#22c55e"]  # of A, B and both, which also differ in shape: see look.js
_THUMBNAIL = 56  # pixels


def verdict(result: Result) -> str:
    """The scores in one line. With too few pairs for a centred score, it uses that of the built-in pairs."""
    raw, centred = result.comparison.raw, result.reference.centred
    if math.isnan(raw.cas):
        return "They cannot be compared: no patch has a top match in both models."
    if centred.excess_low > 0:
        strength = centred.excess / (1 - centred.null)
        how = "strongly" if strength >= _STRONG else "clearly" if strength >= _CLEAR else "a little"
        truths = [reading.truth for reading in result.reference.readings]
        # True matches at large shifts, which a model that looks at the same place never finds.
        if all(truth and (truth.large_shifts or 0.0) > result.reference.raw.chance for truth in truths):
            return f"They agree {how} about where things are."
        return f"They agree {how}, but not about where things are: they do not find the true matches."
    if raw.low > raw.chance:
        return "They agree only because both look at the same place, whatever is there."
    less = raw.high < raw.chance
    return "They agree less than chance." if less else "They agree no more than chance."


def reading(result: Result) -> str:
    """The scores in a few sentences."""
    comparison, reference = result.comparison, result.reference
    if reference is comparison:
        return _sentences(comparison)
    few = "One pair says" if len(result.pairs) == 1 else "A few pairs say"
    return (
        f"A and B agree on {comparison.raw.cas:.0%} of matches; chance is {comparison.raw.chance:.0%}. {few} little: "
        f"another may score quite differently. On the {reference.num_pairs} built-in pairs: {_sentences(reference)}"
    )


def _sentences(scores: CasResult) -> str:
    """The scores of two models, with position and true matches, in a few sentences."""
    truths = [each.centred_truth for each in scores.readings]
    shares = [f"{truth.large_shifts:.0%}" for truth in truths if truth and truth.large_shifts is not None]
    found = (
        f"Where the true match lies far off, A's centred top {scores.k} contains it for {shares[0]} of patches, B's "
        f"for {shares[1]}."
        if len(shares) == 2
        else ""
    )
    return " ".join([scores.summary(), *([found] if found else []), *scores.notes])


def to_dict(result: Result) -> dict[str, Any]:
    """A result as JSON: the fields of `singlelife cas --json`, and what this page adds to them."""
    own = result.reference is result.comparison
    return result.comparison.to_dict() | {
        "reading": reading(result),
        "per_pair": [None if math.isnan(cas) else cas for cas in result.per_pair().tolist()],
        "centred_reference": None if own else result.reference.to_dict(),
    }


def score_html(result: Result) -> str:
    """The scores as HTML. The download link holds the JSON itself, so nothing stays on the disk."""
    comparison, reference = result.comparison, result.reference
    others = "" if reference is comparison else f", on the {reference.num_pairs} built-in pairs"
    rows = [
        _bar("Centred CAS", f"position habits and popular patches removed{others}", reference.centred, "centred"),
        _bar("Raw CAS", "share of matches in common", comparison.raw, "raw", interval=len(result.pairs) > 1),
    ]
    facts = [
        f"<dt><b class='score-{letter}'>{letter.upper()}</b></dt><dd><b>{html.escape(name)}</b> by {method}</dd>"
        for letter, name, method in zip("ab", result.models, comparison.methods, strict=True)
    ]
    count = comparison.grid[0] * comparison.grid[1]
    facts.append(
        f"<dt>On</dt><dd>{comparison.num_pairs} pair{'s' * (comparison.num_pairs != 1)} "
        f"({html.escape(comparison.pairs)}), top {comparison.k} of {count} patches</dd>"
    )
    content = _data_uri(json.dumps(to_dict(result), indent=2).encode(), "application/json")
    return (
        f"<section class='score' aria-label='Result'><h2>{html.escape(verdict(result))}</h2>{''.join(rows)}"
        f"<p>{html.escape(reading(result))}</p><dl>{''.join(facts)}</dl>"
        f"<p class='score-links'><a download='cas.json' href='{content}'>Download JSON</a></p></section>"
    )


def _bar(name: str, what: str, score: Score, kind: str, *, interval: bool = True) -> str:
    """A score as a bar, with a mark at its null or at chance."""
    if math.isnan(score.cas):
        return (
            f"<div class='score-row' data-score='{kind}'><div class='score-name'><b>{name}</b> not defined</div></div>"
        )
    level, facts = score.chance, [f"{score.low:.3f} to {score.high:.3f}"] if interval else []
    if isinstance(score, CentredScore):
        level = score.null
        facts = [
            f"by accident {level:.3f}",
            f"excess {score.excess:.3f} (95% {score.excess_low:.3f} to {score.excess_high:.3f})",
        ]
        facts.append(f"p = {score.p_value:.2g}")
    else:
        facts.append(f"chance {level:.3f}")
    low, high = max(0.0, score.low), min(1.0, score.high)
    whisker = f"<i class='score-whisker' style='left:{low:.2%};width:{high - low:.2%}'></i>"
    return (
        f"<div class='score-row' data-score='{kind}'><div class='score-name'><b>{name}</b> <span>{what}</span></div>"
        f"<div class='score-value' data-value='{score.cas!r}'>{score.cas:.3f}</div>"
        f"<div class='score-track' role='img' aria-label='{score.cas:.3f} of 1; by chance {level:.3f}'>"
        f"<i class='score-fill' style='width:{score.cas:.2%}'></i>{whisker if interval else ''}"
        f"<i class='score-chance' style='left:{level:.2%}'></i></div>"
        f"<div class='score-facts'>{', '.join(facts)}</div></div>"
    )


def stage_html(what: str, share: float | None) -> str:
    """What is being done, with a progress bar."""
    value = "" if share is None else f" value='{share:.3f}'"
    bar = f"<progress max='1'{value} aria-label='Progress'></progress>"
    return f"<div class='stage' role='status'><span>{html.escape(what)}…</span>{bar}</div>"


def note_html(what: str, *, alert: bool = False) -> str:
    """A message that stays on the page."""
    kind = "alert" if alert else "status"
    return f"<div class='note note-{kind}' role='{kind}'>{html.escape(what)}</div>"


def look(result: Result, pair: int) -> dict[str, Any]:
    """Where both models look in one pair (from 0), for the element `look`. The most telling patch is chosen first."""
    rows, columns = result.comparison.grid
    maps = {}
    for name in ("raw", "centred"):
        logits, sets = result.look(pair, name == "centred")
        least, most = logits.min(axis=-1, keepdims=True), logits.max(axis=-1, keepdims=True)
        heat = np.rint(255 * (logits - least) / np.maximum(most - least, 1e-9)).astype(np.uint8)
        chosen = unpack(sets, rows * columns)
        top = np.nonzero(chosen)[2].reshape(2, rows * columns, result.comparison.k).astype("<u2")
        maps[name] = {"heat": [_base64(each) for each in heat], "top": [_base64(each) for each in top]}
    return {
        "pair": pair,
        "names": list(result.models),
        "rows": rows,
        "columns": columns,
        "k": result.comparison.k,
        "views": [_picture_uri(result.pairs.target[pair]), _picture_uri(result.pairs.source[pair])],
        "maps": maps,
        "truth": result.true_match[pair].tolist(),
        "patch": _telling_patch(result, pair)[0],
        "colours": _COLOURS,
    }


def telling_pair(result: Result) -> int:
    """The pair with the most telling patch."""
    return int(np.argmax([_telling_patch(result, pair)[1] for pair in range(len(result.runs[0].logits))]))


def _telling_patch(result: Result, pair: int) -> tuple[int, float]:
    """The most telling patch of the target, and how telling it is: both models agree about it and find a true match
    that is far from the same place."""
    rows, columns = result.comparison.grid
    truth, index = result.true_match[pair], np.arange(rows * columns)
    chosen = unpack(np.stack([run.extraction.raw[pair] for run in result.runs]), rows * columns)
    right = (truth >= 0) & chosen[0, index, truth] & chosen[1, index, truth]
    shift = np.hypot(truth // columns - index // columns, truth % columns - index % columns)
    shows = (chosen[0] & chosen[1]).sum(axis=-1) + right * np.minimum(shift, 4)
    return int(np.argmax(shows)), float(shows.max())


def strip(result: Result, chosen: int) -> dict[str, Any]:
    """Thumbnails of all pairs, for the element `strip`."""
    pairs = [
        {
            "cas": "–" if math.isnan(cas) else f"{cas:.0%}",
            "thumbnail": _thumbnail(result.pairs.target[index], result.pairs.source[index]),
        }
        for index, cas in enumerate(result.per_pair()[: len(result.runs[0].logits)])
    ]
    return {"pairs": pairs, "chosen": chosen}


def matrix(bench: Bench) -> dict[str, Any]:
    """The centred scores of every two models of this Space, for the element `matrix`."""
    models = built_in_models()
    scores: list[list[float | None]] = [[None] * len(models) for _ in models]
    for i, j in combinations(range(len(models)), 2):
        score = bench.example(models[i], models[j])[1].comparison.centred
        scores[i][j] = scores[j][i] = score.cas
    return {
        "models": models,
        "scores": scores,
        "chance": score.chance,
        "highest": max(each for row in scores for each in row if each is not None),
        "caption": f"Centred CAS on the simulated pairs; chance {score.chance:.3f}. Choose a cell to open it.",
    }


def page_file(name: str) -> str:
    """A file of the folder `page`: the scripts, styles and drawings of the page."""
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")


def _picture_uri(view: torch.Tensor) -> str:
    return _jpeg(Image.fromarray(view.permute(1, 2, 0).numpy()), 95)


def _thumbnail(target: torch.Tensor, source: torch.Tensor) -> str:
    both = Image.new("RGB", (2 * _THUMBNAIL + 2, _THUMBNAIL), "#888888")
    for number, view in enumerate((target, source)):
        image = Image.fromarray(view.permute(1, 2, 0).numpy()).resize((_THUMBNAIL, _THUMBNAIL))
        both.paste(image, (number * (_THUMBNAIL + 2), 0))
    return _jpeg(both, 80)


def _jpeg(image: Image.Image, quality: int) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, subsampling=0)
    return _data_uri(content.getvalue(), "image/jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
