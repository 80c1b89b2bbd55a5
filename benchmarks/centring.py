"""How to make a centred score: what models that share nothing score, and how much is kept of two that agree.

    python benchmarks/centring.py > centring.md

From each model's logits, *position-free* subtracts the mean map over the pair set; *plain* also subtracts each source
patch's mean over the target patches of a pair; *standardised* also divides each cell by its spread. The models are the
Space's sim_1 and sim_2, and six with random weights. The pair sets are the Space's, 384 pairs of sim_test for each
kind of views, and a mix. A second table says how often the interval of two untrained models contains 0: the interval
over pairs, and the one over pairs and heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from singlelife.alignment.extraction import extract, position_sets
from singlelife.alignment.models import AttentionMapProvider, load_model
from singlelife.alignment.null import centred_score, compare_cells, mismatch
from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.alignment.score import centre, holds, select_top_k

SPACE = Path(__file__).parents[1] / "spaces" / "cas"
K, GRID, COUNTS = 5, (8, 8), (8, 16, 64, 384)
LIVES = ("sim_1", "sim_2")
FRESH = tuple(f"untrained:tiny@{seed}" for seed in range(1, 7))


def standardised(logits: np.ndarray) -> np.ndarray:
    free = centre(logits, logits.mean(axis=0))
    return free / np.sqrt(np.square(free).mean(axis=0))


FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "position-free": lambda logits: logits - logits.mean(axis=0),
    "plain": lambda logits: centre(logits, logits.mean(axis=0)),
    "standardised": standardised,
}


def some_of(pairs: PairSet, chosen: Sequence[int]) -> PairSet:
    """Some pairs of a set, without the geometry."""
    about = {name: [pairs.provenance[name][each] for each in chosen] for name in ("timestamps", "videos")}
    return PairSet(pairs.name, pairs.target[chosen], pairs.source[chosen], about, pairs._boxes[chosen])


def mixed(sets: Sequence[PairSet]) -> PairSet:
    """All pairs of several sets, in a random order."""
    times = [each for pairs in sets for each in pairs.provenance["timestamps"]]
    videos = [[f"{pairs.name} {name}" for name in each] for pairs in sets for each in pairs.provenance["videos"]]
    target, source = (
        torch.cat([interpolate(getattr(pairs, view).float(), (64, 64), mode="area").byte() for pairs in sets])
        for view in ("target", "source")
    )
    boxes, about = np.concatenate([pairs._boxes for pairs in sets]), {"timestamps": times, "videos": videos}
    order = np.random.default_rng(0).permutation(len(target)).tolist()
    return some_of(PairSet("mixed", target, source, about, boxes), order)


def by_form(models: dict[str, AttentionMapProvider], pairs: PairSet, match: np.ndarray) -> list[str]:
    """A cell for each form: null above chance and excess of the untrained; excess and true matches of the lives."""
    batches = list(zip(pairs.target.split(64), pairs.source.split(64), strict=True))
    logits = {
        name: np.concatenate([model.logits(*each).numpy() for each in batches]) for name, model in models.items()
    }
    cells, chance = [*combinations(range(len(FRESH)), 2), (len(FRESH), len(FRESH) + 1)], K / (GRID[0] * GRID[1])
    pair, row = np.nonzero(match >= 0)
    column = match[pair, row]
    large = ~holds(position_sets(GRID, K)[None], np.zeros_like(pair), row, column)
    shown = []
    for form in FORMS.values():
        sets = [select_top_k(form(logits[name]), [K])[K][pairs.order] for name in (*FRESH, *LIVES)]
        none = [np.empty((0, 0, *sets[0].shape[1:]), dtype=np.uint64)] * len(sets)
        found = mismatch(sets, none, [np.empty(0, dtype=np.int64)] * len(sets), K, cells, [chance] * len(cells))
        scores = [centred_score(found, weights) for weights in np.eye(len(cells))]
        excess = np.array([each.excess for each in scores[:-1]])
        null = np.mean([each.null for each in scores[:-1]]) - chance
        true = [holds(of_life, np.argsort(pairs.order)[pair], row, column)[large].mean() if large.any() else np.nan
                for of_life in sets[-2:]]  # fmt: skip
        kept = "" if np.isnan(true).any() else f"; {np.mean(true):.3f}"
        shown.append(f"{null:+.3f}; {excess.mean():+.3f} ± {excess.std():.3f}; {scores[-1].excess:.3f}{kept}")
    return shown


def intervals(models: dict[str, AttentionMapProvider], pairs: PairSet) -> list[str]:
    """How many intervals of two untrained models contain 0, and the interval of the lives: over pairs; with heads."""
    found = [extract(models[name], pairs, [K], progress=False)[K] for name in (*FRESH, *LIVES)]
    alone = [replace(each, parts=each.parts[:0]) for each in found]
    both, lives = list(combinations(range(len(found)), 2)), (len(FRESH), len(FRESH) + 1)
    shown = []
    for extractions in (alone, found):
        cells = compare_cells(extractions, pairs)
        scores = dict(zip(both, (centred_score(cells, each) for each in np.eye(len(both))), strict=True))
        fresh = [scores[two] for two in combinations(range(len(FRESH)), 2)]
        held = sum(each.excess_low < 0 < each.excess_high for each in fresh)
        of_lives = scores[lives]
        shown.append(f"{held} of {len(fresh)}; {of_lives.excess_low:.3f} to {of_lives.excess_high:.3f}")
    return shown


def main() -> None:
    """Print both tables as Markdown."""
    names = {name: str(SPACE / "models" / name) for name in LIVES} | {name: name for name in FRESH}
    models = {name: load_model(where) for name, where in names.items()}
    sets = {name: PairSet.load(SPACE / "pairs" / name) for name in ("simulated", "office")}
    for views in ("plain", "zoomed", "shifted"):
        sets[views] = resolve_pair_set("sim_test", views=views, num_pairs=384, seed=0, image_size=64)
    parts = [some_of(sets["plain"], range(188)), some_of(sets["shifted"], range(188)), sets["office"]]
    sets["mixed"] = mixed(parts)
    tables: list[list[str]] = [[], []]
    for name, pairs in sets.items():
        for count in [each for each in COUNTS if each <= len(pairs)]:
            some = some_of(pairs, range(count))
            match = pairs.true_match(GRID).numpy()[:count]
            for table, cells in zip(tables, (by_form(models, some, match), intervals(models, some)), strict=True):
                table.append(f"| {name} | {count} | {' | '.join(cells)} |")
    for columns, table in zip((list(FORMS), ["pairs alone", "pairs and heads"]), tables, strict=True):
        print(
            "\n".join([f"| pairs | number | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns), *table, ""])
        )


if __name__ == "__main__":
    main()
