"""Models whose logits are known, on pairs whose pixels say which they are."""

import hashlib

import numpy as np
import torch

from singlelife.alignment.comparison import ScoresAtK
from singlelife.alignment.null import centred_score, mismatch
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import (
    agreement,
    centre,
    position_map,
    resolution,
    scores,
    select_top_k,
    without_flat_rows,
)


class Given:
    """Gives the logits that it is given.

    Args:
        forward: (P, N, N) of the pairs of `numbered_pairs`.
        backward: of the same pairs with their views' roles changed.
        heads: (P, heads, N, N), of as many for each of the layers.
    """

    method, image_size = "given", 8

    def __init__(
        self,
        name: str,
        forward: torch.Tensor,
        grid: tuple[int, int],
        backward: torch.Tensor | None = None,
        heads: torch.Tensor | None = None,
        layers: tuple[int, ...] = (0,),
    ):
        self.name, self.grid, self.layers = name, grid, layers
        self._forward, self._backward, self._heads = forward.float(), backward, heads
        self.num_heads = 1 if heads is None else heads.shape[1]
        self.revision = hashlib.sha256(self._forward.numpy().tobytes()).hexdigest()
        self.pairs_seen = 0

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self.pairs_seen += len(target)
        swapped = bool(target[0, 2, 0, 0])
        logits = self._backward if swapped else self._forward
        assert logits is not None
        return logits[_numbers(target)].float()

    def logits_by_head(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        assert self._heads is not None
        return self._heads[_numbers(target)]


class Random:
    """Looks anywhere, each time elsewhere; and always a little at the first patch."""

    method, layers, num_heads, image_size = "guess", (0,), 1, 64

    def __init__(self, seed: int, grid: tuple[int, int] = (8, 8)):
        self.name, self.grid, self.revision = f"random {seed}", grid, str(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        count = self.grid[0] * self.grid[1]
        logits = torch.randn(len(target), count, count, generator=self._generator)
        logits[:, :, 0] += 100
        return logits


class Oracle:
    """Looks at the true match, or at the same place where it is not known."""

    name, revision, method, layers, num_heads, image_size = "oracle", "of truth", "truth", (0,), 1, 64

    def __init__(self, pairs: PairSet, grid: tuple[int, int] = (8, 8)):
        self.grid = grid
        match = pairs.true_match(grid)
        place = torch.from_numpy(position_map(grid, grid))
        here = torch.arange(place.shape[0]).expand_as(match)
        self._logits = place[torch.where(match < 0, here, match)]
        self._at = 0

    def logits(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self._at += len(target)
        return self._logits[self._at - len(target) : self._at]


def numbered_pairs(num_pairs: int, **known: np.ndarray) -> PairSet:
    """Pairs whose first two channels hold their number, and the third whether it is the source."""
    target = torch.zeros(num_pairs, 3, 8, 8, dtype=torch.uint8)
    number = torch.arange(num_pairs).view(-1, 1, 1)
    target[:, 0], target[:, 1] = number % 256, number // 256
    target[:, 2, -1, -1] = 255  # no view is of one colour
    source = target.clone()
    source[:, 2, 0, 0] = 1
    return PairSet("numbered", target, source, {}, np.zeros((num_pairs, 2, 4), np.int64), **known)


def _numbers(views: torch.Tensor) -> torch.Tensor:
    return views[:, 0, 0, 0].long() + 256 * views[:, 1, 0, 0].long()


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The plain definition: the columns of the k largest logits of each row, equal ones in their order."""
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def centred(logits: torch.Tensor) -> torch.Tensor:
    """The plain definition of centred logits (pairs, N, M), in float64."""
    free = logits.double() - logits.double().mean(dim=0)
    free = free - free.mean(dim=1, keepdim=True)
    return free / free.square().mean(dim=0).sqrt()


def score_of(a: np.ndarray, b: np.ndarray, k: int) -> ScoresAtK:
    """The scores of two models' logits (P, N, M) of one map each, without any pass of a model."""
    sets: dict[str, list[np.ndarray]] = {"raw": [], "centred": []}
    for logits in (a.astype(np.float32), b.astype(np.float32)):
        mean_map, least = logits.mean(axis=0, dtype=np.float64).astype(np.float32), resolution(logits)
        free = centre(logits, mean_map)
        spread = np.sqrt(np.square(free, dtype=np.float64).mean(axis=0))
        spread = np.where(spread > least, spread, np.inf).astype(np.float32)
        sets["raw"].append(select_top_k(without_flat_rows(logits, logits, least), [k])[k])
        sets["centred"].append(select_top_k(without_flat_rows(free / spread, free, least), [k])[k])
    none = np.empty((0, 0, *sets["raw"][0].shape[1:]), dtype=np.uint64)
    chance = k / a.shape[2]
    found = mismatch(sets["centred"], [none, none], [np.empty(0, dtype=np.int64)] * 2, k, [(0, 1)], [chance])
    return ScoresAtK(k, centred_score(found, np.ones(1)), *scores([agreement(*sets["raw"], k)], [chance]))
