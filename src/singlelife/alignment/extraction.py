"""What one model says about one pair set: top-k sets as packed bits, raw and position-free, in one pass of the model.

The position-free sets need the mean map over all pairs first. So the logits of each batch are kept, in memory if they
are few and else in a file that has no name and is gone with the process, and are read again when the mean is known.

Extractions are kept on disk, so that a model is run once on a pair set, whoever asks. The name of a file is the
SHA-256 of all that its content depends on: the weights, the method, the blocks, the pair set, the settings and the
format. So nothing in the cache is ever out of date, and any of it may be deleted. Two processes that extract the same
leave one of two equal files.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import (
    Truth,
    common_per_pair,
    holds,
    pack,
    position_map,
    resample,
    select_top_k,
)
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, PairSetError
from singlelife.files import atomic_write, check_room
from singlelife.lives.prepare import default_cache_dir

VARIANTS = ("raw", "position_free")

EXTRACTION_FORMAT = 1  # raised whenever the same logits would give other sets, so that none of before is used

_LOGITS_IN_MEMORY = 512 * 2**20  # bytes; 2,000 pairs of 196 × 196 patches take 307 MB
_PAIRS_AT_ONCE = 16
_SINK_SPREADS = 5.0
_TENSORS = ("raw", "position_free", "mean_map", "sinks")


@dataclass(frozen=True, eq=False)
class Extraction:
    """One model on one pair set of P pairs, at one k.

    Attributes:
        model: what the user called it.
        revision: what its weights are.
        method: how its maps come about.
        layers: which blocks they are of.
        head: which of `logits_by_head`; None for the mean of them.
        pairs_hash: of the pair set.
        k: of the top k.
        grid: rows and columns of patches; N is their product.
        direction: one of `settings.Direction`.
        masked: the sinks were left out before the top k was taken.
        raw, position_free: the sets, uint64 (P, N, ceil(N / 64)), see `score`.
        mean_map: of the logits over all pairs, float32 (N, N); no column of it is left out.
        sinks: which columns are sinks, bool (N,), see `find_sinks`.
        sink_share: the share of all raw matches, before any are left out, that lie on sinks.
    """

    model: str
    revision: str
    method: str
    layers: tuple[int, ...]
    head: int | None
    pairs_hash: str
    k: int
    grid: tuple[int, int]
    direction: str
    masked: bool
    sink_share: float
    raw: np.ndarray
    position_free: np.ndarray
    mean_map: np.ndarray
    sinks: np.ndarray

    @property
    def available(self) -> np.ndarray:
        """The columns that could be chosen, bool (N,)."""
        return ~self.sinks if self.masked else np.ones_like(self.sinks)

    def save(self, path: Path) -> None:
        """Write all of it as safetensors."""
        described = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _TENSORS}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        path.write_bytes(save(tensors, metadata={"extraction": json.dumps(described)}))

    @classmethod
    def load(cls, path: Path) -> "Extraction":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not whole, or not one of these.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                described = json.loads(file.metadata()["extraction"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            described |= {name: tuple(described[name]) for name in ("layers", "grid")}
            loaded = cls(**described, **tensors)
            count = loaded.grid[0] * loaded.grid[1]
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            bits = (len(loaded.raw), count, -(-count // 64))
            expected = {"raw": bits, "position_free": bits, "mean_map": (count, count), "sinks": (count,)}
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no extraction: {error}") from error
        if shapes != expected:
            raise ValueError(f"{path} holds no extraction: shapes {shapes}, where {expected} were expected.")
        return loaded


class _Maps(Protocol):
    def __call__(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor: ...


def extract(
    model: AttentionMapProvider,
    pairs: PairSet,
    ks: Sequence[int],
    config: CasConfig | None = None,
    *,
    grid: tuple[int, int] | None = None,
    folder: Path | None = None,
    logits_in_memory: int = _LOGITS_IN_MEMORY,
    **settings: Any,
) -> dict[int, Extraction]:
    """Run a model over a pair set, once.

    Args:
        ks: of the top k, each from 1 to the number of patches.
        config, settings: `direction`, `sinks` (see `find_sinks`), `batch_size` and `progress` count here. The size of
            batches changes no set but where two logits are equal up to rounding.
        grid: rows and columns of patches that the logits are resampled to; the model's own by default.
        folder: where logits are kept that do not fit into `logits_in_memory` bytes; the temporary one by default.

    Returns:
        By k.

    Raises:
        PairSetError: a k is out of range.
        CheckpointError: the logits are not finite, or there are fewer patches than k that are no sinks.
        LifeError: there is no room on the disk for the logits.
    """
    grid = grid or model.grid
    check_ks(ks, grid)

    def maps(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return model.logits(target, source).unsqueeze(1)

    run = _Run(model, pairs, tuple(ks), grid, CasConfig.of(config, **settings), folder, logits_in_memory)
    return next(run.extractions(maps, [None]))


def extract_heads(
    model: AttentionMapProvider, pairs: PairSet, config: CasConfig, grid: tuple[int, int]
) -> list[Extraction]:
    """As `extract`, of each head of each layer by itself, layer by layer, at the primary k."""
    k = config.k[0]
    check_ks([k], grid)
    run = _Run(model, pairs, (k,), grid, config, None, _LOGITS_IN_MEMORY)
    return [found[k] for found in run.extractions(model.logits_by_head, range(model.num_heads))]


class Weights(Protocol):
    """What a model's extractions depend on; see [`AttentionMapProvider`]."""

    @property
    def revision(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def layers(self) -> tuple[int, ...]: ...


class ExtractionCache:
    """The extractions of any models on one pair set, at one setting.

    Args:
        pairs: the pair set.
        grid: rows and columns of patches that logits are resampled to.
        config: its k, direction and sinks decide what is kept. Files are in the folder `alignment` of its cache.
    """

    def __init__(self, pairs: PairSet, grid: tuple[int, int], config: CasConfig):
        self.folder = Path(config.cache_dir or default_cache_dir()) / "alignment"
        self._pairs, self._grid, self._config = pairs, grid, config

    def path(self, model: Weights, k: int) -> Path:
        """Where a model's extraction is or will be."""
        key = {
            "format": EXTRACTION_FORMAT,
            "revision": model.revision,
            "method": model.method,
            "layers": model.layers,
            "pairs": self._pairs.hash,
            "k": k,
            "grid": self._grid,
            "direction": self._config.direction,
            "sinks": self._config.sinks,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest}.safetensors"

    def load(self, model: Weights, k: int) -> Extraction:
        """An extraction that is here.

        Raises:
            ValueError: there is none that can be read.
        """
        return Extraction.load(self.path(model, k))

    def missing(self, model: Weights) -> list[int]:
        """The ks at which a model has no extraction that can be read, ascending."""

        def is_whole(k: int) -> bool:
            try:
                self.load(model, k)
            except ValueError:
                return False
            return True

        return [k for k in sorted(set(self._config.k)) if not is_whole(k)]

    def fill(self, model: AttentionMapProvider) -> None:
        """Run a model, once, and keep those of its extractions that are missing.

        Raises:
            CheckpointError, PairSetError, LifeError: see `extract`.
        """
        if not (ks := self.missing(model)):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = extract(model, self._pairs, ks, self._config, grid=self._grid, folder=self.folder)
        for k, extraction in found.items():
            with atomic_write(self.path(model, k)) as aside:
                extraction.save(aside)


def check_ks(ks: Sequence[int], grid: tuple[int, int]) -> None:
    """Make sure that so many patches can be chosen.

    Raises:
        PairSetError: they cannot.
    """
    count = grid[0] * grid[1]
    wrong = [k for k in ks if not 1 <= k <= count]
    if wrong or not ks:
        said = ", ".join(map(str, wrong)) or "none"
        raise PairSetError(f"k should be from 1 to the number of patches, {count}; not {said}.")


def find_sinks(mean_map: np.ndarray) -> np.ndarray:
    """The source patches that everything looks at, whatever the views show, bool (M,).

    A column's mean logit, over rows and pairs, stands out from those of the others: it is above their median by more
    than five times their spread, which is 1.4826 times the median distance from the median (the standard deviation, if
    they are normal).
    """
    columns = mean_map.mean(axis=0, dtype=np.float64)
    middle = np.median(columns)
    spread = 1.4826 * np.median(np.abs(columns - middle))
    return columns > middle + max(_SINK_SPREADS * spread, 1e-6 * np.abs(columns).max())


def position_sets(grid: tuple[int, int], k: int) -> np.ndarray:
    """The position map's sets, uint64 (N, ceil(N / 64))."""
    return select_top_k(position_map(grid, grid), [k])[k]


def agreement(a: Extraction, b: Extraction, variant: str) -> np.ndarray:
    """The share of matches that two models have in common, for each pair, float64 (P,), 0 to 1."""
    sets_a, sets_b = getattr(a, variant), getattr(b, variant)
    return common_per_pair(sets_a, sets_b) / (a.k * sets_a.shape[1])


def chance(a: Extraction, b: Extraction | None = None) -> float:
    """What independent maps would score: k / N, or with masked sinks k · |A ∩ B| / (|A| |B|), of the columns A and B
    that each model could choose. Without a second model, against the position map."""
    first = a.available
    second = np.ones_like(first) if b is None else b.available
    return float(a.k * (first & second).sum() / (first.sum() * second.sum()))


def position_agreement(extraction: Extraction, variant: str = "raw") -> np.ndarray:
    """The share of a model's matches that are among the nearest places, for each pair, float64 (P,), 0 to 1."""
    sets = getattr(extraction, variant)
    common = common_per_pair(sets, position_sets(extraction.grid, extraction.k))
    return common / (extraction.k * sets.shape[1])


def truth_counts(extraction: Extraction, true_match: np.ndarray, variant: str) -> np.ndarray:
    """How often the sets hold the true match, for each pair.

    Args:
        true_match: the source patch that shows what each target patch shows, int64 (P, N); -1 where unknown. The
            same matches are looked up in every direction.

    Returns:
        int64 (P, 4): known matches, those found, known matches which the position map does not find, those found.
    """
    pair, target = np.nonzero(true_match >= 0)
    source = true_match[pair, target]
    row, column = (source, target) if extraction.direction == "source-target" else (target, source)
    found = holds(getattr(extraction, variant), pair, row, column)
    large = ~holds(position_sets(extraction.grid, extraction.k)[None], np.zeros_like(pair), row, column)
    return np.stack(
        [
            np.bincount(pair[chosen], minlength=len(true_match))
            for chosen in (np.ones_like(found), found, large, large & found)
        ],
        axis=1,
    )


def truth(extraction: Extraction, true_match: np.ndarray, variant: str) -> Truth | None:
    """`truth_counts` over all pairs; None if no match is known."""
    known, found, large, large_found = map(int, truth_counts(extraction, true_match, variant).sum(axis=0))
    if not known:
        return None
    return Truth(found / known, large_found / large if large else None, known, large)


@dataclass(frozen=True)
class _Run:
    """The arguments of `extract`, and the work."""

    model: AttentionMapProvider
    pairs: PairSet
    ks: tuple[int, ...]
    grid: tuple[int, int]
    config: CasConfig
    folder: Path | None
    logits_in_memory: int

    def extractions(self, maps: _Maps, heads: Sequence[int | None]) -> Iterator[dict[int, Extraction]]:
        """By k, for one head after another of `maps`, which gives (B, heads, n, n) on the model's own grid."""
        count = self.grid[0] * self.grid[1]
        shape = (len(self.pairs), len(heads), count, count)
        with _file_for(int(np.prod(shape)) * 4, self.logits_in_memory, self.folder) as file:
            kept = np.empty(shape if file is None else 0, dtype=np.float32)
            total, done = np.zeros(shape[1:]), 0
            for logits in self._batches(maps):
                for each in logits:  # one by one, so that the mean does not depend on the size of batches
                    total += each
                if file is None:
                    kept[done : done + len(logits)] = logits
                else:
                    file.write(np.ascontiguousarray(logits).data)
                done += len(logits)
            if file is not None:
                file.flush()
                kept = np.memmap(file, np.float32, "r", shape=shape)
            for index, head in enumerate(heads):
                yield self._top_k(kept[:, index], (total[index] / len(self.pairs)).astype(np.float32), head)

    def _batches(self, maps: _Maps) -> Iterator[np.ndarray]:
        """The logits of all pairs, float32 (B, heads, N, N)."""
        name = self.model.name
        settings: dict[str, Any] = {"unit": " pairs", "leave": None, "disable": not self.config.progress}
        with tqdm(total=len(self.pairs), desc=f"Attention of {name}", **settings) as bar:
            for start in range(0, len(self.pairs), self.config.batch_size):
                part = slice(start, start + self.config.batch_size)
                logits = self._directed(maps, self.pairs.target[part], self.pairs.source[part]).numpy()
                if not np.isfinite(logits).all():
                    raise CheckpointError(
                        f"{name} gives attention that is not finite; its training may have diverged."
                    )
                yield logits
                bar.update(len(logits))

    def _directed(self, maps: _Maps, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if self.config.direction == "target-source":
            logits = maps(target, source)
        elif self.config.direction == "source-target":
            logits = maps(source, target)
        else:
            logits = (maps(target, source) + maps(source, target).transpose(-1, -2)) / 2
        return resample(logits.flatten(0, 1), self.model.grid, self.grid).unflatten(0, logits.shape[:2]).float()

    def _top_k(self, kept: np.ndarray, mean_map: np.ndarray, head: int | None) -> dict[int, Extraction]:
        """By k, of logits (P, N, N) whose mean is known."""
        sinks = find_sinks(mean_map)
        masked = self.config.sinks == "mask"
        if masked and max(self.ks) > (left := int((~sinks).sum())):
            raise CheckpointError(
                f"Of the {len(sinks)} patches, {self.model.name} has {left} that are no sinks, which is fewer than k, "
                f"{max(self.ks)}. Keep the sinks, or choose a smaller k."
            )
        count = len(mean_map)
        sets = {
            (variant, k): np.empty((len(self.pairs), count, -(-count // 64)), dtype=np.uint64)
            for variant in VARIANTS
            for k in self.ks
        }
        on_sinks = dict.fromkeys(self.ks, 0)
        for start in range(0, len(kept), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            logits = np.array(kept[part])
            found = select_top_k(logits, self.ks)
            if sinks.any():
                packed_sinks = pack(sinks)
                for k, bits in found.items():
                    on_sinks[k] += int(np.bitwise_count(bits & packed_sinks).sum(dtype=np.int64))
                if masked:
                    found = select_top_k(np.where(sinks, -np.inf, logits), self.ks)
            free = logits - mean_map
            if masked:
                free[..., sinks] = -np.inf
            for variant, bits_by_k in (("raw", found), ("position_free", select_top_k(free, self.ks))):
                for k, bits in bits_by_k.items():
                    sets[variant, k][part] = bits
        return {
            k: Extraction(
                model=self.model.name,
                revision=self.model.revision,
                method=self.model.method,
                layers=self.model.layers,
                head=head,
                pairs_hash=self.pairs.hash,
                k=k,
                grid=self.grid,
                direction=self.config.direction,
                masked=masked,
                sink_share=on_sinks[k] / (len(self.pairs) * count * k),
                raw=sets["raw", k],
                position_free=sets["position_free", k],
                mean_map=mean_map,
                sinks=sinks,
            )
            for k in self.ks
        }


@contextmanager
def _file_for(size: int, in_memory: int, folder: Path | None) -> Iterator[Any]:
    """A file without a name for logits of a size in bytes; None where they fit in memory."""
    if size <= in_memory:
        yield None
        return
    where = Path(folder or tempfile.gettempdir())
    check_room(size, where, "A model's logits on all pairs", "take fewer pairs, or another place (TMPDIR)")
    with tempfile.TemporaryFile(dir=where) as file:
        yield file
