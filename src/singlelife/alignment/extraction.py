"""What one model says about one pair set: top-k sets as packed bits, raw and position-free, in one pass of the model.

The position-free sets need the mean map over all pairs first. So the logits of each batch are kept, in memory if they
are few and else in a file that has no name and is gone with the process, and are read again when the mean is known.

Extractions are kept on disk, so that a model is run once on a pair set, whoever asks. The name of a file is the
SHA-256 of all that its content depends on. So nothing in the cache is ever out of date, and any of it may be deleted.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm.auto import tqdm

from singlelife.alignment.models import AttentionMapProvider
from singlelife.alignment.pair_sets import PairSet
from singlelife.alignment.score import Truth, common_per_pair, holds, pack, position_map, resample, select_top_k
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, PairSetError
from singlelife.files import atomic_write, check_room
from singlelife.lives.registry import default_cache_dir

VARIANTS = ("raw", "position_free")

EXTRACTION_FORMAT = 1  # raised whenever the same logits would give other sets, so that none of before is used

_LOGITS_IN_MEMORY = 512 * 2**20  # bytes; 2,000 pairs of 196 × 196 patches take 307 MB
_MAPS_AT_ONCE = 16
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
            return cls(**described, **tensors)
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} holds no extraction: {error}") from error


@dataclass(frozen=True)
class ModelHeader:
    """What is known of a model once it was loaded; it takes no memory. See [`AttentionMapProvider`]."""

    revision: str
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    image_size: int

    @classmethod
    def of(cls, model: AttentionMapProvider) -> "ModelHeader":
        """That of a model."""
        return cls(model.revision, model.method, model.layers, model.grid, model.image_size)


class ExtractionCache:
    """The extractions of any models on one pair set, on a grid of rows and columns of patches, at one setting.

    Files are in the folder `alignment` of the cache that the settings name.
    """

    def __init__(self, pairs: PairSet, grid: tuple[int, int], config: CasConfig):
        self.folder = Path(config.cache_dir or default_cache_dir()) / "alignment"
        self._pairs, self._grid, self._config = pairs, grid, config

    def load(self, model: ModelHeader, k: int) -> Extraction:
        """An extraction that is here.

        Raises:
            ValueError: there is none that can be read.
        """
        return Extraction.load(self._path(model, k))

    def fill(self, model: ModelHeader, load: Callable[[], AttentionMapProvider]) -> ModelHeader:
        """Load a model and run it, unless its extractions at all ks are here. Returns what it was when it ran.

        Raises:
            CheckpointError, PairSetError, LifeError: see `extract`.
        """
        ks = sorted(set(self._config.k))
        try:
            for k in ks:
                self.load(model, k)
        except ValueError:
            loaded = load()
            model = ModelHeader.of(loaded)
            self.folder.mkdir(parents=True, exist_ok=True)
            for k, extraction in extract(loaded, self._pairs, ks, self._config, grid=self._grid).items():
                with atomic_write(self._path(model, k)) as aside:
                    extraction.save(aside)
        return model

    def _path(self, model: ModelHeader, k: int) -> Path:
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


def check_ks(ks: Sequence[int], grid: tuple[int, int]) -> None:
    """Make sure that so many patches can be chosen.

    Raises:
        PairSetError: they cannot.
    """
    count = grid[0] * grid[1]
    if wrong := [str(k) for k in ks if not 1 <= k <= count]:
        raise PairSetError(f"k should be from 1 to the number of patches, {count}; not {', '.join(wrong)}.")


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
    first = ~(a.sinks & a.masked)
    second = np.ones_like(first) if b is None else ~(b.sinks & b.masked)
    return float(a.k * (first & second).sum() / (first.sum() * second.sum()))


def position_agreement(extraction: Extraction) -> np.ndarray:
    """The share of a model's raw matches that are among the nearest places, for each pair, float64 (P,), 0 to 1."""
    common = common_per_pair(extraction.raw, position_sets(extraction.grid, extraction.k))
    return common / (extraction.k * extraction.raw.shape[1])


def truth(extraction: Extraction, true_match: np.ndarray, variant: str) -> Truth | None:
    """How often the sets hold the true match; None if no match is known.

    Args:
        true_match: the source patch that shows what each target patch shows, int64 (P, N); -1 where unknown. The
            same matches are looked up in every direction.
    """
    pair, target = np.nonzero(true_match >= 0)
    if not len(pair):
        return None
    source = true_match[pair, target]
    row, column = (source, target) if extraction.direction == "source-target" else (target, source)
    found = holds(getattr(extraction, variant), pair, row, column)
    large = ~holds(position_sets(extraction.grid, extraction.k)[None], np.zeros_like(pair), row, column)
    at_large = float(found[large].mean()) if large.any() else None
    return Truth(float(found.mean()), at_large, len(found), int(large.sum()))


def extract(
    model: AttentionMapProvider,
    pairs: PairSet,
    ks: Sequence[int],
    config: CasConfig | None = None,
    *,
    grid: tuple[int, int] | None = None,
    **settings: Any,
) -> dict[int, Extraction]:
    """Run a model over a pair set, once.

    Args:
        ks: of the top k, each from 1 to the number of patches.
        config, settings: `direction`, `sinks` (see `find_sinks`), `batch_size` and `progress` count here. The size of
            batches changes no set but where two logits are equal up to rounding.
        grid: rows and columns of patches that the logits are resampled to; the model's own by default.

    Returns:
        By k.

    Raises:
        PairSetError: a k is out of range.
        CheckpointError: the logits are not finite, or there are fewer patches than k that are no sinks.
        LifeError: there is no room on the disk for the logits.
    """
    return _extract(model, pairs, ks, replace(config or CasConfig(), **settings), grid or model.grid)[0]


def extract_heads(
    model: AttentionMapProvider, pairs: PairSet, config: CasConfig, grid: tuple[int, int]
) -> list[Extraction]:
    """As `extract`, of each head of each layer by itself, layer by layer, at the primary k."""
    k = config.k[0]
    return [found[k] for found in _extract(model, pairs, [k], config, grid, True)]


def _extract(
    model: AttentionMapProvider,
    pairs: PairSet,
    ks: Sequence[int],
    config: CasConfig,
    grid: tuple[int, int],
    by_head: bool = False,
) -> list[dict[int, Extraction]]:
    """By k, of each head by itself, or of their mean alone."""
    check_ks(ks, grid)
    heads, count, num_pairs = model.num_heads if by_head else 1, grid[0] * grid[1], len(pairs)
    with tempfile.SpooledTemporaryFile(_LOGITS_IN_MEMORY) as file:
        if (size := 4 * num_pairs * heads * count**2) > _LOGITS_IN_MEMORY:
            where = Path(tempfile.gettempdir())
            check_room(size, where, "A model's logits on all pairs", "take fewer pairs, or another place (TMPDIR)")
            file.rollover()
        total = np.zeros((heads, count, count))
        for logits in _batches(model, pairs, config, grid, by_head):
            for each in logits:  # one by one, so that the mean does not depend on the size of batches
                total += each
            file.write(np.ascontiguousarray(logits).data)
        file.seek(0)

        mean_maps = (total / num_pairs).astype(np.float32)
        sinks = np.stack([find_sinks(each) for each in mean_maps])
        masked, left = config.sinks == "mask", int((~sinks).sum(axis=1).min())
        if masked and max(ks) > left:
            raise CheckpointError(
                f"Of the {count} patches, {model.name} has {left} that are no sinks, which is fewer than k, {max(ks)}."
                " Keep the sinks, or choose a smaller k."
            )
        shape = (num_pairs, heads, count, -(-count // 64))
        sets = {(variant, k): np.empty(shape, dtype=np.uint64) for variant in VARIANTS for k in ks}
        on_sinks = {k: np.zeros(heads, dtype=np.int64) for k in ks}
        at_once = max(1, _MAPS_AT_ONCE // heads)
        for start in range(0, num_pairs, at_once):
            part = slice(start, min(start + at_once, num_pairs))
            read = file.read(4 * (part.stop - start) * heads * count**2)
            logits = np.frombuffer(read, np.float32).reshape(-1, heads, count, count)
            found = select_top_k(logits, ks)
            for k, bits in found.items():
                on_sinks[k] += np.bitwise_count(bits & pack(sinks)[:, None]).sum(axis=(0, 2, 3), dtype=np.int64)
            free = logits - mean_maps
            if masked:
                found = select_top_k(np.where(sinks[:, None], -np.inf, logits), ks)
                free = np.where(sinks[:, None], -np.inf, free)
            for variant, bits_by_k in (("raw", found), ("position_free", select_top_k(free, ks))):
                for k, bits in bits_by_k.items():
                    sets[variant, k][part] = bits

    def extraction(k: int, head: int) -> Extraction:
        return Extraction(
            model=model.name,
            revision=model.revision,
            method=model.method,
            layers=model.layers,
            pairs_hash=pairs.hash,
            k=k,
            grid=grid,
            direction=config.direction,
            masked=masked,
            sink_share=int(on_sinks[k][head]) / (num_pairs * count * k),
            raw=np.ascontiguousarray(sets["raw", k][:, head]),
            position_free=np.ascontiguousarray(sets["position_free", k][:, head]),
            mean_map=mean_maps[head],
            sinks=sinks[head],
        )

    return [{k: extraction(k, head) for k in ks} for head in range(heads)]


def _batches(
    model: AttentionMapProvider, pairs: PairSet, config: CasConfig, grid: tuple[int, int], by_head: bool
) -> Iterator[np.ndarray]:
    """The logits of all pairs on a grid and in a direction, float32 (B, heads, N, N)."""

    def maps(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return model.logits_by_head(target, source) if by_head else model.logits(target, source).unsqueeze(1)

    settings: dict[str, Any] = {"unit": " pairs", "leave": None, "disable": not config.progress}
    with tqdm(total=len(pairs), desc=f"Attention of {model.name}", **settings) as bar:
        for start in range(0, len(pairs), config.batch_size):
            part = slice(start, start + config.batch_size)
            target, source = pairs.target[part], pairs.source[part]
            if config.direction == "target-source":
                logits = maps(target, source)
            elif config.direction == "source-target":
                logits = maps(source, target)
            else:
                logits = (maps(target, source) + maps(source, target).transpose(-1, -2)) / 2
            resampled = resample(logits.flatten(0, 1), model.grid, grid).unflatten(0, logits.shape[:2])
            found = resampled.float().numpy()
            if not np.isfinite(found).all():
                raise CheckpointError(
                    f"{model.name} gives attention that is not finite; its training may have diverged."
                )
            yield found
            bar.update(len(found))
