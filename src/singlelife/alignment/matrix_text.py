"""The result of `singlelife align` as text for the terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from singlelife.alignment.cas import Score
from singlelife.alignment.contrast import MEASURES, Contrast
from singlelife.alignment.matrix import CasMatrix, Matrix, Part, of_one_group
from singlelife.text import aligned

_FEW_MODELS = 6  # their cells are listed one by one too, with all intervals


def text(result: CasMatrix) -> str:
    """All of it, in tables."""
    n, patches = len(result.models), result.grid[0] * result.grid[1]
    settings = f", {result.direction}" if result.direction != "target-source" else ""
    settings += ", sinks masked" if result.sinks == "mask" else ""
    title = (
        f"{n} model{'s' if n > 1 else ''} on {result.num_pairs} pairs of {result.pairs} ({result.pairs_hash[:12]}), "
        f"top {result.k} of {patches} patches{settings}"
    )
    parts = [title, _models(result)]
    if n > 1:
        parts += [_square("CAS, raw", result.main.raw), _square("CAS, position-free", result.main.position_free)]
        if n <= _FEW_MODELS:
            parts.append(_cells(result))
        parts.append(_groups(result))
        if len(result.at_k) > 1:
            rows = [(f"k = {k}", at.raw, at.position_free) for k, at in result.at_k.items()]
            parts.append(_by("CAS against k", ((name, _means(a), _means(b)) for name, a, b in rows)))
        for of, unit in (("gap", " s"), ("overlap", "")):
            chosen = [part for part in result.main.parts if part.of == of]
            if chosen:
                parts.append(
                    _by(f"CAS by {of} of the two frames", ((_range(part, unit), part.raw, part.position_free)
                                                           for part in chosen))
                )  # fmt: skip
        if result.by_layer:
            rows_by_layer = ((_range(part), part.raw, part.position_free) for part in result.by_layer)
            parts.append(_by("CAS by layer", rows_by_layer))
        if result.contrast:
            parts.append(_contrast(result, result.contrast))
    if result.failed:
        parts.append(
            "\n".join(["could not be compared", *(f"  {each.model}: {each.error}" for each in result.failed)])
        )
    return "\n\n".join(parts)


def _models(result: CasMatrix) -> str:
    rows = [["", "model", "group", "position map", "sinks", "on sinks", "truth", "truth (free)", "far", "far (free)"]]
    for number, (name, group, reading) in enumerate(
        zip(result.models, result.groups, result.main.readings, strict=True), start=1
    ):
        truths = (reading.truth, reading.position_free_truth)
        rows.append(
            [str(number), name, group, _number(reading.position.cas), str(len(reading.sinks))]
            + [_number(reading.sink_share), *(_number(each and each.matches) for each in truths)]
            + [_number(each and each.large_shifts) for each in truths]
        )
    if all(reading.truth is None for reading in result.main.readings):
        rows = [row[:6] for row in rows]
    return aligned(rows)


def _contrast(result: CasMatrix, contrast: Contrast) -> str:
    """The other measures beside the score: of each two models where they are few, and the means within and across."""
    columns = [result.main.raw.cas, result.main.position_free.cas, *(getattr(contrast, name) for name in MEASURES)]
    rows = [["", "CAS", "CAS (free)", "CKA", f"mutual {contrast.neighbours}-NN", "RSA"]]
    first, second = np.triu_indices(len(result.models), 1)
    if len(result.models) <= _FEW_MODELS:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            shown = [_number(values[a, b]) for values in columns[:2]]
            for name, values in zip(MEASURES, columns[2:], strict=True):
                half = contrast.spread[name][a, b]
                shown.append(_number(values[a, b]) + ("" if np.isnan(half) else f" ± {half:.3f}"))
            rows.append([f"  {a + 1} and {b + 1}", *shown])
    same = of_one_group(result.groups)
    for name, cells in (("within groups", same), ("across groups", ~same)):
        if cells.any():
            rows.append([name, *(_number(values[first, second][cells].mean()) for values in columns)])
    by_chance = [result.main.raw.chance[first, second].mean()] * 2 + [0.0, contrast.mutual_knn_chance, 0.0]
    rows.append(["by chance", *map(_number, by_chance)])
    note = f"for contrast, of one vector for each of {contrast.num_images} views; ± is half a 95% interval"
    return f"{note}\n{aligned(rows)}"


def _square(title: str, matrix: Matrix) -> str:
    n = len(matrix.cas)
    rows = [["", *map(str, range(1, n + 1))]]
    for a in range(n):
        cells = [matrix.cas[a, b] if b < a else matrix.adjusted[a, b] for b in range(n)]
        rows.append([str(a + 1), *("1" if a == b else _number(cell) for b, cell in enumerate(cells))])
    below = np.tril_indices(n, -1)
    widest = np.maximum(matrix.high - matrix.cas, matrix.cas - matrix.low)[below].max()
    chances = matrix.chance[below]
    by_chance = _number(chances.min()) + ("" if np.ptp(chances) < 5e-4 else f" to {_number(chances.max())}")
    note = f"{title}; chance {by_chance}; 95% intervals within ±{widest:.3f}; above the diagonal, adjusted for chance"
    return f"{note}\n{aligned(rows)}"


def _cells(result: CasMatrix) -> str:
    rows = [["", "raw", "95% interval", "adjusted", "position-free", "95% interval", "adjusted"]]
    for a, b in zip(*np.triu_indices(len(result.models), 1), strict=True):
        row = [f"{a + 1} and {b + 1}"]
        for matrix in (result.main.raw, result.main.position_free):
            row += [_number(matrix.cas[a, b]), f"{matrix.low[a, b]:.3f} to {matrix.high[a, b]:.3f}"]
            row.append(_number(matrix.adjusted[a, b]))
        rows.append(row)
    return aligned(rows)


def _groups(result: CasMatrix) -> str:
    raw, free = result.main.raw, result.main.position_free
    rows = [["", "cells", "raw", "95% interval", "adjusted", "position-free", "95% interval", "adjusted"]]
    for of_raw, of_free in zip(raw.blocks, free.blocks, strict=True):
        a, b = of_raw.groups
        rows.append(
            [
                a if a == b else f"{a}, {b}",
                str(of_raw.num_cells),
                *score_columns(of_raw.score),
                *score_columns(of_free.score),
            ]
        )
    first, second = np.triu_indices(len(result.models), 1)
    same = of_one_group(result.groups)
    cells = {"within groups": True, "across groups": False}
    for name, inside in cells.items():
        count = sum(block.num_cells for block in raw.blocks if (block.groups[0] == block.groups[1]) == inside)
        scores = [matrix.within if inside else matrix.across for matrix in (raw, free)]
        if scores[0] and scores[1]:
            rows.append([name, str(count), *score_columns(scores[0]), *score_columns(scores[1])])
            alone = [_number(matrix.salience[first, second][same == inside].mean()) for matrix in (raw, free)]
            rows.append(["  by salient patches alone", "", alone[0], "", "", alone[1], "", ""])
    if raw.difference and free.difference:
        row = ["within less across", ""]
        for each in (raw.difference, free.difference):
            row += [f"{each.difference:.3f}", f"{each.low:.3f} to {each.high:.3f}", ""]
        rows.append(row)
    lines = [aligned(rows)]
    if raw.permutation and free.permutation:
        tests = [f"p = {each.p_value:.4g} {name}" for each, name in ((raw.permutation, "raw"),
                                                                     (free.permutation, "position-free"))]  # fmt: skip
        how = "all" if raw.permutation.exact else "drawn"
        lines.append(
            f"that groups matter: {', '.join(tests)} (permutation of models, {raw.permutation.assignments:,} {how})"
        )
    return "\n".join(lines)


def _by(title: str, parts: Iterable[tuple[str, dict[str, Score], dict[str, Score]]]) -> str:
    rows: list[list[str]] = []
    for name, raw, free in parts:
        kinds = list(raw)
        if not rows:
            rows.append(
                [title, "chance", *(f"{_column(kind, kinds)}{of}" for kind in kinds for of in ("", " (free)"))]
            )
        scores = [_number(each.cas) for kind in kinds for each in (raw[kind], free[kind])]
        rows.append([f"  {name}", _number(raw["mean"].chance), *scores])
    return aligned(rows)


def _column(kind: str, kinds: Sequence[str]) -> str:
    return "CAS" if len(kinds) == 1 else kind


def _means(matrix: Matrix) -> dict[str, Score]:
    named = {"mean": matrix.mean, "within": matrix.within, "across": matrix.across}
    return {name: each for name, each in named.items() if each}


def score_columns(score: Score) -> list[str]:
    """A score, its interval, and what it is adjusted for chance."""
    return [_number(score.cas), f"{score.low:.3f} to {score.high:.3f}", _number(score.adjusted)]


def _range(part: Part, unit: str = "") -> str:
    low, high = f"{part.low:.3g}", f"{part.high:.3g}"
    return f"{low if low == high else f'{low} to {high}'}{unit}"


def _number(value: Any) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.3f}"
