"""The Correspondence Alignment Score (CAS) between attention maps, and its uncertainty.

For each pair of views a model gives logits A of shape (N, M): how strongly target patch p (row) looks at each source
patch (column). TopK(p) are the k source patches with the largest logits. For models i and j,

    CAS(i, j) = mean over pairs and target patches of |TopK_i(p) ∩ TopK_j(p)| / k          (arXiv 2512.04085)

By chance it is k / M. Two models that only look at the same *place*, or at the same bright patches, agree as well.
So there is a *centred* score: before the top k, `centre` removes from each model's logits what does not depend on the
images and what does not depend on the target patch. `null` measures the agreement that remains by accident. For the
same reason, each model is also scored against the *position map*, which looks at the nearest patches on the grid.

A row has no top k if all its logits are equal, or if more than two tie for the k-th place. Its set is empty, and it
does not count.

Top-k sets are stored as bits, and compared by counting bits. A row of M source patches takes ceil(M / 64) words of 64
bits, and source patch c is bit c % 64 of word c // 64. So 2,000 pairs of 196 × 196 patches take 12.5 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_WORD = np.dtype("<u8")  # little-endian, as in files
_RESAMPLES = 2000
_ROUNDING = 1e-5
_MOST_TIED = 2
_RESAMPLES_AT_ONCE = 250


@dataclass(frozen=True)
class Score:
    """A share of matches in agreement.

    Attributes:
        cas: 0 to 1.
        chance: what independent maps would score, k / M.
        chance_corrected: (cas - chance) / (1 - chance): 0 by chance, 1 in full agreement; None if chance is 1 (k = M).
        low, high: 95% bootstrap interval of `cas` over pairs.
    """

    cas: float
    chance: float
    chance_corrected: float | None
    low: float
    high: float


def position_map(target_grid: tuple[int, int], source_grid: tuple[int, int]) -> np.ndarray:
    """Logits float32 (N, M) of a model that only looks at the same place: minus the squared distance of patch centres.

    Grids are (rows, columns); both are stretched to the unit square, and distances are measured there.
    """
    target, source = (
        torch.cartesian_prod(*((torch.arange(count) + 0.5) / count for count in grid))
        for grid in (target_grid, source_grid)
    )
    # Rounded, so that distances that are equal on paper are equal here too and ties go by column.
    distances = (target.unsqueeze(1) - source.unsqueeze(0)).square().sum(-1)
    return -distances.double().round(decimals=6).float().numpy()


def resample(logits: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Resample logits (pairs, N, N) from views cut into `grid` to views cut into `new_grid`, bilinear on both axes."""
    if grid == new_grid:
        return logits
    pairs, count, new_count = len(logits), grid[0] * grid[1], new_grid[0] * new_grid[1]

    def last_axis(maps: torch.Tensor) -> torch.Tensor:
        images = maps.reshape(-1, 1, *grid)
        return torch.nn.functional.interpolate(
            images, new_grid, mode="bilinear", align_corners=False, antialias=True
        ).reshape(pairs, maps.shape[1], new_count)

    sources = last_axis(logits.reshape(pairs, count, count))
    return last_axis(sources.transpose(1, 2)).transpose(1, 2)


def centre(logits: np.ndarray, mean_map: np.ndarray, spread: np.ndarray | float = 1.0) -> np.ndarray:
    """Centre logits (..., N, M): subtract the mean map over the pair set, then each source patch's mean over the
    target patches of the pair, and divide by the spread of each cell over the pair set.

    Adding a map to the logits of all pairs changes nothing, nor does adding a constant to a column of a pair. Dividing
    keeps cells that vary much from being chosen more often; where the spread is infinite, the result is 0.
    """
    free = logits - mean_map
    free -= free.mean(axis=-2, keepdims=True)
    return free / spread


def resolution(logits: np.ndarray) -> float:
    """The difference of logits that counts as rounding: a hundred thousandth of the largest absolute logit."""
    return _ROUNDING * float(np.abs(logits).max(initial=0.0))


def without_flat_rows(logits: np.ndarray, varying: np.ndarray, least: float) -> np.ndarray:
    """Set the rows of the logits to 0 if the values of the same row of `varying` differ by `least` or less."""
    flat = np.ptp(varying, axis=-1) <= least
    if not flat.any():
        return logits
    return np.where(flat[..., None], np.float32(0), logits)


def scores(per_pair: Sequence[np.ndarray], chances: Sequence[float], seed: int = 0) -> list[Score]:
    """Scores from the values of each pair (pairs,). All intervals use the same resamples of pairs."""
    values = np.stack(per_pair, axis=1).astype(np.float64)
    values = np.where(np.isnan(values), mean_known(values, axis=0), values)  # pairs without a row that counts
    found = []
    for cas, chance, low, high in zip(values.mean(axis=0), chances, *bootstrap(values, seed), strict=True):
        corrected = None if chance >= 1 else float((cas - chance) / (1 - chance))
        found.append(Score(float(cas), float(chance), corrected, float(low), float(high)))
    return found


@dataclass(frozen=True)
class Truth:
    """How often a model's top k holds the true match, over the target patches whose match is known.

    Attributes:
        matches: over all these patches, 0 to 1.
        large_shifts: over those whose match is not among the position map's top k, so that looking at the same place
            never finds it; None if there are none.
        num_matches, num_large_shifts: the number of patches in each.
    """

    matches: float
    large_shifts: float | None
    num_matches: int
    num_large_shifts: int


def select_top_k(logits: np.ndarray, ks: Sequence[int], *, ties: str = "none") -> dict[int, np.ndarray]:
    """The columns of the k largest logits of each row, for each k.

    Args:
        logits: floating (..., N, M), no NaN.
        ks: each from 1 to M.
        ties: if two logits tie for the k-th place, the first column wins, so that every device gives the same sets. If
            more tie, or all logits are equal, `"none"` leaves the set empty, and `"first"` takes the first columns.

    Returns:
        By k, uint64 (..., N, ceil(M / 64)).

    Raises:
        ValueError: a k is out of range.
    """
    num_columns = logits.shape[-1]
    if not ks or not 1 <= min(ks) <= max(ks) <= num_columns:
        raise ValueError(f"k should be from 1 to the number of source patches, {num_columns}; not {list(ks)}.")
    ordered = np.sort(logits, axis=-1)
    sets = {}
    for k in ks:
        threshold = ordered[..., num_columns - k, None]
        chosen = logits >= threshold
        crowded = chosen.sum(axis=-1, dtype=np.int32) > k  # several equal the k-th largest: the first are taken
        if crowded.any():
            rows, limits = logits[crowded], threshold[crowded]
            above, equal = rows > limits, rows == limits
            left = k - above.sum(axis=-1, keepdims=True)
            first = above | (equal & (np.cumsum(equal, axis=-1) <= left))
            if ties == "none":
                number = equal.sum(axis=-1, keepdims=True)
                first &= (number == _MOST_TIED) & (number < num_columns)
            chosen[crowded] = first
        sets[k] = pack(chosen)
    return sets


def pack(chosen: np.ndarray) -> np.ndarray:
    """Sets of columns, bool (..., M), as bits, uint64 (..., ceil(M / 64))."""
    num_columns = chosen.shape[-1]
    packed = np.zeros((*chosen.shape[:-1], -(-num_columns // 64) * 8), dtype=np.uint8)
    packed[..., : -(-num_columns // 8)] = np.packbits(chosen, axis=-1, bitorder="little")
    return packed.view(_WORD)


def unpack(bits: np.ndarray, num_columns: int) -> np.ndarray:
    """The inverse of `pack`."""
    return np.unpackbits(bits.view(np.uint8), axis=-1, count=num_columns, bitorder="little").astype(bool)


def agreement(a: np.ndarray, b: np.ndarray, k: int) -> np.ndarray:
    """The share of matches that two models have in common in each pair, float64 (...), over the rows in which both
    have a top k; NaN if there are none. The sets, uint64 (..., N, W), broadcast."""
    return agreements(a, b, k, [0])[0]


def agreements(a: np.ndarray, b: np.ndarray, k: int, shifts: Sequence[int]) -> np.ndarray:
    """`agreement` of a's pair p with b's pair p + shift, float64 (shifts, ...). a is uint64 (..., P, N, W), and b is
    (P, N, W); for shift 0, any shapes that broadcast."""
    has_a, has_b, found = a.any(axis=-1), b.any(axis=-1), []
    whole = has_a.all() and has_b.all()
    for shift in shifts:
        other = np.roll(b, -shift, axis=0) if shift else b
        common = np.bitwise_count(a & other).sum(axis=(-2, -1), dtype=np.int64)
        rows = np.broadcast_to(a.shape[-2], common.shape)
        if not whole:
            rows = (has_a & (np.roll(has_b, -shift, axis=0) if shift else has_b)).sum(axis=-1)
        found.append(np.divide(common, k * rows, out=np.full(common.shape, np.nan), where=rows > 0))
    return np.stack(found)


def mean_known(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def holds(bits: np.ndarray, pair: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Whether each column is in the set of its row, bool (...). Sets are uint64 (P, N, W), and indices (...)."""
    words = bits[pair, row, column // 64]
    return (words >> (column % 64).astype(_WORD)) & 1 == 1


def bootstrap(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """95% intervals of the means of columns. Each resample draws the same rows for all columns.

    Args:
        values: float (P, C): a row for each pair.

    Returns:
        float64 (2, C): low and high.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    means = np.empty((_RESAMPLES, values.shape[1]))
    for start in range(0, _RESAMPLES, _RESAMPLES_AT_ONCE):  # in parts: with many values, all would not fit in memory
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES_AT_ONCE)
        means[start : start + _RESAMPLES_AT_ONCE] = drawn @ values / count
    return np.quantile(means, [0.025, 0.975], axis=0)
