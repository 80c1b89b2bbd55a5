"""Run one model on one pair set, once: its top-k sets as packed bits, raw and centred.

The centred sets need the mean map over all pairs first. So the logits of each batch are kept, in memory if they are
few and otherwise in a file without a name that disappears with the process, and are read again once the mean is known.
A second, short pass over some pairs gives the sets without each group of heads, which `null` needs for its interval.

Extractions are kept on disk, so that a model runs only once on a pair set. The name of a file is the SHA-256 of
everything that its content depends on. So nothing in the cache is ever out of date, and any of it may be deleted.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from singlelife.alignment.score import (
    Truth,
    centre,
    holds,
    pack,
    position_map,
    resample,
    resolution,
    select_top_k,
    without_flat_rows,
)
from singlelife.alignment.settings import CasConfig
from singlelife.errors import CheckpointError, PairSetError
from singlelife.files import atomic_write, check_room
from singlelife.lives.registry import default_cache_dir

VARIANTS = ("raw", "centred")
SWAPPED = ("source-target", "transposed")  # directions in which rows are source patches

EXTRACTION_FORMAT = 2  # raised when the same logits would give other sets, so that older files are not used

_LOGITS_IN_MEMORY = 512 * 2**20  # bytes; 2,000 pairs of 196 × 196 patches take 307 MB
_MAPS_AT_ONCE = 16
_SINK_SPREADS = 5.0
_GROUPS = 8  # of heads
_PAIRS_OF_PARTS = 64
_PARTS_IN_MEMORY = 256 * 2**20  # bytes
_TENSORS = ("raw", "centred", "parts", "some", "mean_map", "spread", "sinks")


@dataclass(frozen=True, eq=False)
class Extraction:
    """One model on one pair set of P pairs, at one k.

    Attributes:
        model: as the user named it.
        revision, method, layers: see [`AttentionMapProvider`].
        grid: rows and columns of patches; N is their product.
        masked: the sinks were left out before the top k was taken.
        raw, centred: the sets, uint64 (P, N, ceil(N / 64)), see `score`; empty where a row has no top k, or the pair
            has a view of one colour.
        parts: centred sets of some pairs, without each of G groups of heads, uint64 (G, p, N, ceil(N / 64)); G is 0
            for a model with one map.
        some: where these pairs are in the pair set's order of time, int64 (p,).
        mean_map: the mean logits over all pairs, float32 (N, N), with all columns.
        spread: what centred logits are divided by, float32 (N, N).
        sinks: which columns are sinks, bool (N,), see `find_sinks`.
        sink_share: the share of raw matches that lie on sinks, before any are left out.
    """

    model: str
    revision: str
    method: str
    layers: tuple[int, ...]
    k: int
    grid: tuple[int, int]
    direction: str
    masked: bool
    sink_share: float
    raw: np.ndarray
    centred: np.ndarray
    parts: np.ndarray
    some: np.ndarray
    mean_map: np.ndarray
    spread: np.ndarray
    sinks: np.ndarray

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        described = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _TENSORS}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        path.write_bytes(save(tensors, metadata={"extraction": json.dumps(described)}))

    @classmethod
    def load(cls, path: Path) -> "Extraction":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is incomplete, or holds no extraction.
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
    """What is known about a model that was loaded, without its weights. See [`AttentionMapProvider`]."""

    revision: str
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    image_size: int

    @classmethod
    def of(cls, model: AttentionMapProvider) -> "ModelHeader":
        """The header of a model."""
        return cls(model.revision, model.method, model.layers, model.grid, model.image_size)


def extract_once(
    model: ModelHeader,
    load: Callable[[], AttentionMapProvider],
    pairs: PairSet,
    config: CasConfig,
    grid: tuple[int, int],
    *,
    keep: bool = True,
) -> dict[int, Extraction]:
    """As `extract`, at all ks of the settings. The model is loaded and run only if the cache lacks an extraction.

    Args:
        keep: use the folder `alignment` of the cache.
    """

    def path(model: ModelHeader, k: int) -> Path:
        key = {"format": EXTRACTION_FORMAT, "pairs": pairs.hash, "k": k, "grid": grid}
        key |= {name: getattr(model, name) for name in ("revision", "method", "layers")}
        key |= {name: getattr(config, name) for name in ("direction", "maps", "sinks")}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return Path(config.cache_dir or default_cache_dir()) / "alignment" / f"{digest}.safetensors"

    ks = sorted(set(config.k))
    if keep:
        with suppress(ValueError):
            return {k: Extraction.load(path(model, k)) for k in ks}
    loaded = load()
    found = extract(loaded, pairs, ks, config, grid=grid)
    model = ModelHeader.of(loaded)  # a run in progress may have saved newer weights since
    for k, extraction in found.items() if keep else ():
        path(model, k).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path(model, k)) as aside:
            extraction.save(aside)
    return found


def check_ks(ks: Sequence[int], grid: tuple[int, int]) -> None:
    """Check that each k is between 1 and the number of patches.

    Raises:
        PairSetError: a k is not.
    """
    count = grid[0] * grid[1]
    if wrong := [str(k) for k in ks if not 1 <= k <= count]:
        raise PairSetError(f"k should be from 1 to the number of patches, {count}; not {', '.join(wrong)}.")


def find_sinks(mean_map: np.ndarray) -> np.ndarray:
    """The source patches that all target patches look at, whatever the views show, bool (M,).

    The mean logit of such a column, over rows and pairs, is above the median of all columns by more than five times
    their spread, which is 1.4826 times the median distance from the median (the standard deviation, if they are
    normal).
    """
    columns = mean_map.mean(axis=0, dtype=np.float64)
    middle = np.median(columns)
    spread = 1.4826 * np.median(np.abs(columns - middle))
    return columns > middle + max(_SINK_SPREADS * spread, 1e-6 * np.abs(columns).max())


def position_sets(grid: tuple[int, int], k: int) -> np.ndarray:
    """The position map's sets, uint64 (N, ceil(N / 64))."""
    return select_top_k(position_map(grid, grid), [k], ties="first")[k]


def chance(a: Extraction, b: Extraction | None = None) -> float:
    """What independent maps would score: k / N, or with masked sinks k · |A ∩ B| / (|A| |B|), where A and B are the
    columns that each model can choose. Without a second model, the chance against the position map."""
    first = ~(a.sinks & a.masked)
    second = np.ones_like(first) if b is None else ~(b.sinks & b.masked)
    return float(a.k * (first & second).sum() / (first.sum() * second.sum()))


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
    row, column = (source, target) if extraction.direction in SWAPPED else (target, source)
    found = holds(getattr(extraction, variant), pair, row, column)
    large = ~holds(position_sets(extraction.grid, extraction.k)[None], np.zeros_like(pair), row, column)
    at_large = float(found[large].mean()) if large.any() else None
    return Truth(float(found.mean()), at_large, len(found), int(large.sum()))


def counted(
    extractions: Sequence[Extraction], pairs: PairSet, true_match: np.ndarray, patches: str
) -> list[Extraction]:
    """Extractions of one direction, with only the sets that count: for co-visible patches or even views, the sets of
    rows whose true match (see `truth`) is known.

    Raises:
        PairSetError: no true match is known.
    """
    if patches == "all" and not pairs.even:
        return list(extractions)
    pair, target = np.nonzero(true_match >= 0)
    if not len(pair):
        raise PairSetError(f"--patches co-visible: no true match is known for the pairs {pairs.name}. Leave it out.")
    rows = np.zeros((*true_match.shape, 1), dtype=np.uint64)
    rows[pair, true_match[pair, target] if extractions[0].direction in SWAPPED else target] = ~np.uint64(0)
    return [
        replace(
            each,
            raw=each.raw & rows,
            centred=each.centred & rows,
            parts=each.parts & rows[pairs.order[each.some]],
        )
        for each in extractions
    ]


def extract(
    model: AttentionMapProvider,
    pairs: PairSet,
    ks: Sequence[int],
    config: CasConfig | None = None,
    *,
    grid: tuple[int, int] | None = None,
    **settings: Any,
) -> dict[int, Extraction]:
    """Run a model over a pair set once, and again over some of the pairs for its heads.

    Args:
        ks: the sizes of the top k, each from 1 to the number of patches.
        config, settings: `direction`, `maps`, `sinks` (see `find_sinks`), `batch_size` and `progress` count here. The
            batch size changes a set only where two logits are equal up to rounding.
        grid: rows and columns of patches to resample the logits to; the model's own by default.

    Returns:
        The extractions by k.

    Raises:
        PairSetError: a k is out of range.
        CheckpointError: the logits are not finite, or fewer than k patches are not sinks.
        LifeError: there is no room on the disk for the logits.
    """
    config, grid = replace(config or CasConfig(), **settings), grid or model.grid
    (found,) = extract_each(model, pairs, ks, config, grid, "mean")
    some, sets = _parts(model, pairs, ks, config, grid, found[ks[0]].sinks)
    return {k: replace(each, some=some, parts=sets[k]) for k, each in found.items()}


def extract_each(
    model: AttentionMapProvider, pairs: PairSet, ks: Sequence[int], config: CasConfig, grid: tuple[int, int], by: str
) -> list[dict[int, Extraction]]:
    """As `extract`, without parts: for each of the `"blocks"` or `"heads"` alone, or only for their `"mean"`."""
    check_ks(ks, grid)
    heads = {"mean": 1, "blocks": len(model.layers)}.get(by, model.num_heads)
    count, num_pairs, blank = grid[0] * grid[1], len(pairs), pairs.blank
    with tempfile.SpooledTemporaryFile(_LOGITS_IN_MEMORY) as file:
        if (size := 4 * num_pairs * heads * count**2) > _LOGITS_IN_MEMORY:
            where = Path(tempfile.gettempdir())
            check_room(size, where, "A model's logits on all pairs", "take fewer pairs, or another place (TMPDIR)")
            file.rollover()
        total, least, number = np.zeros((heads, count, count)), 0.0, 0
        for logits in _batches(model, pairs, np.arange(num_pairs), config, grid, by):
            for each in logits:  # one by one, so that the mean does not depend on the size of batches
                total += 0 if blank[number] else each
                number += 1
            least = max(least, resolution(logits))
            file.write(np.ascontiguousarray(logits).data)

        def stored() -> Iterator[tuple[slice, np.ndarray]]:
            file.seek(0)
            at_once = max(1, _MAPS_AT_ONCE // heads)
            for start in range(0, num_pairs, at_once):
                part = slice(start, min(start + at_once, num_pairs))
                read = file.read(4 * (part.stop - start) * heads * count**2)
                yield part, np.frombuffer(read, np.float32).reshape(-1, heads, count, count)

        left = max(1, num_pairs - int(blank.sum()))
        mean_maps = (total / left).astype(np.float32)
        squares = np.zeros_like(total)
        for part, logits in stored():
            squares += np.square(centre(logits[~blank[part]], mean_maps), dtype=np.float64).sum(axis=0)
        spreads = _spread(squares / left, least)
        sinks = np.stack([find_sinks(each) for each in mean_maps])
        if config.sinks == "mask" and max(ks) > (some := int((~sinks).sum(axis=1).min())):
            raise CheckpointError(
                f"Of the {count} patches, only {some} are not sinks of {model.name}, fewer than k, {max(ks)}. "
                "Keep the sinks, or choose a smaller k."
            )
        hidden = sinks[:, None] & (config.sinks == "mask")
        shape = (num_pairs, heads, count, -(-count // 64))
        sets = {(variant, k): np.empty(shape, dtype=np.uint64) for variant in VARIANTS for k in ks}
        on_sinks = {k: np.zeros(heads, dtype=np.int64) for k in ks}
        for part, logits in stored():
            shown = ~blank[part].reshape(-1, 1, 1, 1)
            for k, bits in select_top_k(logits, ks, ties="first").items():
                on_sinks[k] += np.bitwise_count(bits & pack(sinks)[:, None]).sum(axis=(0, 2, 3), dtype=np.int64)
            raw = without_flat_rows(logits, logits, least)
            for variant, maps in zip(VARIANTS, (raw, _centred(logits, mean_maps, spreads, least)), strict=True):
                for k, bits in select_top_k(np.where(hidden, np.float32(-np.inf), maps), ks).items():
                    sets[variant, k][part] = bits * shown

    def extraction(k: int, head: int) -> Extraction:
        return Extraction(
            model=model.name,
            revision=model.revision,
            method=model.method,
            layers=model.layers,
            k=k,
            grid=grid,
            direction=config.direction,
            masked=config.sinks == "mask",
            sink_share=int(on_sinks[k][head]) / (num_pairs * count * k),
            raw=np.ascontiguousarray(sets["raw", k][:, head]),
            centred=np.ascontiguousarray(sets["centred", k][:, head]),
            parts=np.empty((0, 0, *shape[2:]), dtype=np.uint64),
            some=np.empty(0, dtype=np.int64),
            mean_map=mean_maps[head],
            spread=spreads[head],
            sinks=sinks[head],
        )

    return [{k: extraction(k, head) for k in ks} for head in range(heads)]


def _spread(variances: np.ndarray, least: float) -> np.ndarray:
    """The standard deviations, float32; infinite where they are no more than rounding."""
    spread = np.sqrt(variances)
    return np.where(spread > least, spread, np.inf).astype(np.float32)


def _centred(logits: np.ndarray, mean_map: np.ndarray, spread: np.ndarray, least: float) -> np.ndarray:
    """Centred logits, with rows of 0 where nothing but rounding is left."""
    free = centre(logits, mean_map)
    return without_flat_rows(free / spread, free, least)


def _parts(
    model: AttentionMapProvider,
    pairs: PairSet,
    ks: Sequence[int],
    config: CasConfig,
    grid: tuple[int, int],
    sinks: np.ndarray,
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Centred sets of some pairs, without each of up to 8 groups of the model's heads: see `null.Mismatch`."""
    groups, count = min(_GROUPS, model.num_heads), grid[0] * grid[1]
    shown = np.flatnonzero(~pairs.blank[pairs.order])
    wanted = min(len(shown), _PAIRS_OF_PARTS, max(8, _PARTS_IN_MEMORY // (4 * groups * count**2)))
    some = shown[np.linspace(0, len(shown) - 1, wanted, dtype=int)]
    if groups < 2 or wanted < 2:
        return some, {k: np.empty((0, wanted, count, -(-count // 64)), dtype=np.uint64) for k in ks}
    without, least, start = np.empty((groups, wanted, count, count), dtype=np.float32), 0.0, 0
    for logits in _batches(model, pairs, pairs.order[some], config, grid, "heads"):
        total = logits.sum(axis=1)
        for group in range(groups):
            own = logits[:, group::groups]
            without[group, start : start + len(logits)] = (total - own.sum(axis=1)) / (logits.shape[1] - own.shape[1])
        start += len(logits)
        least = max(least, resolution(logits))
    sets: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for each in without:
        mean_map = each.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = _spread(np.square(centre(each, mean_map), dtype=np.float64).mean(axis=0), least)
        maps = _centred(each, mean_map, spread, least)
        for k, bits in select_top_k(np.where(sinks & (config.sinks == "mask"), -np.inf, maps), ks).items():
            sets[k].append(bits)
    return some, {k: np.stack(each) for k, each in sets.items()}


def _batches(
    model: AttentionMapProvider,
    pairs: PairSet,
    chosen: np.ndarray,
    config: CasConfig,
    grid: tuple[int, int],
    by: str,
) -> Iterator[np.ndarray]:
    """The logits of chosen pairs on a grid and in a direction, float32 (B, blocks or heads or 1, N, N)."""

    def maps(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        if by == "mean" and config.maps == "logits" and config.sinks != "zeroco":
            return model.logits(target, source).unsqueeze(1)
        found = model.logits_by_head(target, source)
        if config.maps == "softmax":
            found = found.softmax(dim=-1)
        if by != "heads":
            found = found.unflatten(1, (len(model.layers), -1)).mean(dim=2)
        if config.sinks == "zeroco":
            found = torch.cat([found.amin(dim=(-1, -2), keepdim=True).expand_as(found[..., :1]), found[..., 1:]], -1)
        return found.mean(dim=1, keepdim=True) if by == "mean" else found

    at_once = config.batch_size
    if by != "mean":
        bytes_of_a_pair = 4 * model.num_heads * (model.grid[0] * model.grid[1]) ** 2
        at_once = max(1, min(at_once, _PARTS_IN_MEMORY // bytes_of_a_pair))
    settings: dict[str, Any] = {"unit": " pairs", "leave": None, "disable": not config.progress}
    with tqdm(total=len(chosen), desc=f"Attention of {model.name}", **settings) as bar:
        for start in range(0, len(chosen), at_once):
            part = torch.from_numpy(chosen[start : start + at_once])
            target, source = pairs.target[part], pairs.source[part]
            logits = maps(source, target) if config.direction == "source-target" else maps(target, source)
            if config.direction == "transposed":
                logits = logits.transpose(-1, -2)
            elif config.direction == "reciprocal":
                logits = (logits + maps(source, target).transpose(-1, -2)) / 2
            resampled = resample(logits.flatten(0, 1), model.grid, grid).unflatten(0, logits.shape[:2])
            found = resampled.float().numpy()
            if not np.isfinite(found).all():
                raise CheckpointError(
                    f"{model.name} gives attention that is not finite; its training may have diverged."
                )
            yield found
            bar.update(len(found))
