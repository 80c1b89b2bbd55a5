"""The Correspondence Alignment Score (CAS) between attention maps, and what is needed to read it.

For each pair of views a model gives logits A of shape (N, M): how strongly target patch p (row) looks at each source
patch (column). TopK(p) are the k source patches with the largest logits. For models i and j,

    CAS(i, j) = mean over pairs and target patches of |TopK_i(p) ∩ TopK_j(p)| / k          (arXiv 2512.04085)

By chance it is k / M. Two models that only look at the same *place* agree as well, whatever they see there. Hence the
*position-free* score beside the raw one: each model's mean map over the pair set, the part of its logits that does not
depend on the images, is subtracted first. And hence each model's score against the *position map*, which looks at the
nearest patches on the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from singlelife.alignment.statistics import bootstrap


@dataclass(frozen=True)
class Score:
    """A share of matches in agreement.

    Attributes:
        cas: 0 to 1.
        chance: what independent maps would score, k / M.
        adjusted: (cas - chance) / (1 - chance): 0 by chance, 1 in full agreement; None where chance is 1 (k = M).
        low, high: 95% bootstrap interval of `cas` over pairs.
    """

    cas: float
    chance: float
    adjusted: float | None
    low: float
    high: float


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The columns of the k largest logits of each row, int64 (..., N, k), largest first.

    Equal logits are taken in the order of their columns, so that every device gives the same.

    Args:
        logits: (..., N, M), any floating dtype.
        k: from 1 to M; with all M, everything agrees.

    Raises:
        ValueError: k is out of range, or a logit is NaN.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k should be from 1 to the number of source patches, {logits.shape[-1]}; not {k}.")
    if torch.isnan(logits).any():
        raise ValueError("The logits hold NaN.")
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def overlap(top_a: torch.Tensor, top_b: torch.Tensor) -> torch.Tensor:
    """The share of patches that two top-k lists (..., N, k) have in common, float32 (..., N), 0 to 1."""
    return (top_a.unsqueeze(-1) == top_b.unsqueeze(-2)).any(dim=-1).float().mean(dim=-1)


def position_free(logits: torch.Tensor) -> torch.Tensor:
    """Logits (pairs, N, M) less their mean over the pairs, which is taken in float64 and rounded to their dtype."""
    return logits - logits.double().mean(dim=0, keepdim=True).to(logits.dtype)


def position_map(target_grid: tuple[int, int], source_grid: tuple[int, int]) -> torch.Tensor:
    """Logits (N, M) of a model that only looks at the same place: minus the squared distance of patch centres.

    Grids are (rows, columns); both are stretched over the unit square, in which distances are taken.
    """
    target, source = (
        torch.cartesian_prod(*((torch.arange(count) + 0.5) / count for count in grid))
        for grid in (target_grid, source_grid)
    )
    # Rounded, so that distances that are equal on paper are equal here too and ties go by column.
    return -(target.unsqueeze(1) - source.unsqueeze(0)).square().sum(-1).double().round(decimals=6).float()


def resample(logits: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Logits (pairs, N, N) of views cut into `grid`, as of views cut into `new_grid`: bilinear over both axes."""
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


def score(per_pair: torch.Tensor | np.ndarray, chance: float, seed: int = 0) -> Score:
    """A score from its values for each pair (pairs,), with its bootstrap interval."""
    (found,) = scores([np.asarray(per_pair)], [chance], seed)
    return found


def scores(per_pair: Sequence[np.ndarray], chances: Sequence[float], seed: int = 0) -> list[Score]:
    """`score` of several, whose intervals are of the same resamples of pairs."""
    if not per_pair:
        return []
    values = np.stack(per_pair, axis=1).astype(np.float64)
    low, high = bootstrap(values, seed)
    return [
        Score(float(cas), float(chance), adjusted(float(cas), float(chance)), float(low[index]), float(high[index]))
        for index, (cas, chance) in enumerate(zip(values.mean(axis=0), chances, strict=True))
    ]


def adjusted(cas: float, chance: float) -> float | None:
    """(cas - chance) / (1 - chance); None where chance is 1, as nothing else is possible."""
    return None if chance >= 1 else (cas - chance) / (1 - chance)


def cas(logits_a: torch.Tensor, logits_b: torch.Tensor, k: int, seed: int = 0) -> Score:
    """The raw score of two models' logits (pairs, N, M); `cas(position_free(a), position_free(b), k)` is the other.

    Raises:
        ValueError: the shapes differ, k is out of range, or a logit is NaN.
    """
    if logits_a.shape != logits_b.shape:
        raise ValueError(f"The maps differ in shape: {tuple(logits_a.shape)} and {tuple(logits_b.shape)}.")
    per_pair = overlap(top_k(logits_a, k), top_k(logits_b, k)).mean(dim=-1)
    return score(per_pair, k / logits_a.shape[-1], seed)


@dataclass(frozen=True)
class Truth:
    """How often a model's top k holds the true match, where that is known.

    Attributes:
        matches: over all target patches with a known match, 0 to 1.
        large_shifts: over those whose match is not among the position map's top k, so that looking at the same place
            never finds it; None if there are none.
        num_matches, num_large_shifts: how many patches that is.
    """

    matches: float
    large_shifts: float | None
    num_matches: int
    num_large_shifts: int


def truth_agreement(top: torch.Tensor, true_match: torch.Tensor, position_top: torch.Tensor) -> Truth | None:
    """Compare top-k lists with the true matches.

    Args:
        top: a model's top k, int64 (pairs, N, k).
        true_match: the source patch that shows what each target patch shows, int64 (pairs, N); -1 where unknown.
        position_top: the position map's top k, int64 (N, k).

    Returns:
        None if no match is known.
    """
    known = true_match >= 0
    if not known.any():
        return None
    found = (top == true_match.unsqueeze(-1)).any(dim=-1)
    large = known & ~(position_top.unsqueeze(0) == true_match.unsqueeze(-1)).any(dim=-1)
    return Truth(
        matches=float(found[known].float().mean()),
        large_shifts=float(found[large].float().mean()) if large.any() else None,
        num_matches=int(known.sum()),
        num_large_shifts=int(large.sum()),
    )
