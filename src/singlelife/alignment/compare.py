"""Two models on one pair set: everything that `singlelife cas` says."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from singlelife import __version__
from singlelife.alignment.attention import AttentionMapProvider
from singlelife.alignment.cas import (
    Score,
    Truth,
    cas,
    overlap,
    position_free,
    position_map,
    resample,
    score,
    top_k,
    truth_agreement,
)
from singlelife.alignment.pair_sets import PairSet
from singlelife.errors import PairSetError


@dataclass(frozen=True)
class ModelReading:
    """What one model does on the pair set, with its logits as they are or position-free.

    Attributes:
        position: its score against the position map (raw logits only; None for position-free ones).
        truth: how often its top k holds the true match; None where no match is known.
    """

    position: Score | None
    truth: Truth | None


@dataclass(frozen=True)
class Comparison:
    """The alignment of two models.

    Attributes:
        models: what the user called them.
        pairs, pairs_hash, num_pairs: the pair set, the SHA-256 of its pixels, its size.
        k: of the top k.
        grid: rows and columns of patches that were compared.
        raw, position_free: the scores.
        raw_readings, position_free_readings: one for each model.
        version: of singlelife.
    """

    models: tuple[str, str]
    pairs: str
    pairs_hash: str
    num_pairs: int
    k: int
    grid: tuple[int, int]
    raw: Score
    position_free: Score
    raw_readings: tuple[ModelReading, ModelReading]
    position_free_readings: tuple[ModelReading, ModelReading]
    version: str = __version__

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return asdict(self)

    def __str__(self) -> str:
        chance = self.raw.chance
        names = [f"A  {self.models[0]}", f"B  {self.models[1]}"]
        lines = [
            *names,
            f"on {self.num_pairs} pairs of {self.pairs} ({self.pairs_hash[:12]}), top {self.k} of "
            f"{self.grid[0] * self.grid[1]} patches, chance {chance:.3f}",
            "",
            f"{'':<34}{'raw':>22}{'position-free':>22}",
            self._row("CAS of A and B", self.raw.cas, self.position_free.cas),
            self._row(
                "  95% interval",
                *(f"{each.low:.3f} to {each.high:.3f}" for each in (self.raw, self.position_free)),
            ),
            self._row("  adjusted for chance", self.raw.adjusted, self.position_free.adjusted),
        ]
        for index, letter in enumerate("AB"):
            position = self.raw_readings[index].position
            lines.append(self._row(f"{letter} against the position map", position.cas if position else None, None))
        for index, letter in enumerate("AB"):
            truths = [readings[index].truth for readings in (self.raw_readings, self.position_free_readings)]
            if truths[0] is not None:
                lines.append(
                    self._row(f"{letter}: true match in the top {self.k}", *(t and t.matches for t in truths))
                )
                lines.append(self._row("  at large shifts", *(t and t.large_shifts for t in truths)))
        return "\n".join([*lines, "", self.reading()])

    def reading(self) -> str:
        """The scores in a sentence."""
        position = min(reading.position.cas for reading in self.raw_readings if reading.position)
        sentence = (
            f"A and B agree on {self.raw.cas:.0%} of matches; {self.raw.chance:.0%} would be chance, and the less "
            f"place-bound of them agrees with mere position on {position:.0%}. Without each model's habits of place "
            f"they agree on {self.position_free.cas:.0%}."
        )
        truths = [reading.truth for reading in self.position_free_readings]
        large_shifts = [truth.large_shifts for truth in truths if truth and truth.large_shifts is not None]
        if len(large_shifts) < 2:
            return sentence
        shares = " and ".join(f"{share:.0%}" for share in large_shifts)
        return f"{sentence} Where the view shifts far, their top {self.k} hold the true match for {shares} of patches."

    @staticmethod
    def _row(name: str, raw: Any, free: Any) -> str:
        texts = ["" if value is None else value if isinstance(value, str) else f"{value:.3f}" for value in (raw, free)]
        return f"{name:<34}{texts[0]:>22}{texts[1]:>22}"


def extract(model: AttentionMapProvider, pairs: PairSet, batch_size: int = 64, progress: bool = True) -> torch.Tensor:
    """A model's logits for every pair, float32 (P, N, N)."""
    starts = range(0, len(pairs), batch_size)
    with tqdm(total=len(pairs), desc=f"Attention of {model.name}", unit=" pairs", disable=not progress) as bar:
        batches = []
        for start in starts:
            batches.append(
                model.logits(pairs.target[start : start + batch_size], pairs.source[start : start + batch_size])
            )
            bar.update(len(batches[-1]))
    return torch.cat(batches)


def compare(
    model_a: AttentionMapProvider,
    model_b: AttentionMapProvider,
    pairs: PairSet,
    *,
    k: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Comparison:
    """Score two models against each other, against the position map, and against the truth where it is known.

    Models of different grids are compared on the coarser one.

    Args:
        k: from 1 to less than the number of patches compared.
        seed: of the bootstrap.

    Raises:
        PairSetError: k is out of range.
        CheckpointError: a model's logits are not finite.
    """
    models = (model_a, model_b)
    grid = min((model.grid for model in models), key=lambda grid: grid[0] * grid[1])
    if not 1 <= k < grid[0] * grid[1]:
        raise PairSetError(f"k should be from 1 to less than the number of patches, {grid[0] * grid[1]}; not {k}.")
    logits = [resample(extract(model, pairs, batch_size, progress), model.grid, grid) for model in models]
    free = [position_free(each) for each in logits]
    position_top = top_k(position_map(grid, grid), k)
    true_match = pairs.true_match(grid)

    def reading(each: torch.Tensor, with_position: bool) -> ModelReading:
        top = top_k(each, k)
        against = overlap(top, position_top.expand_as(top)).mean(dim=-1)
        position = score(against, k / each.shape[-1], seed) if with_position else None
        return ModelReading(position, truth_agreement(top, true_match, position_top))

    return Comparison(
        models=(model_a.name, model_b.name),
        pairs=pairs.name,
        pairs_hash=pairs.hash,
        num_pairs=len(pairs),
        k=k,
        grid=grid,
        raw=cas(logits[0], logits[1], k, seed),
        position_free=cas(free[0], free[1], k, seed),
        raw_readings=(reading(logits[0], True), reading(logits[1], True)),
        position_free_readings=(reading(free[0], False), reading(free[1], False)),
    )
