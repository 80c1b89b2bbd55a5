"""n models on one pair set: each is run once, and what it says is kept."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
from tqdm.auto import tqdm

from singlelife.alignment.attention import UNTRAINED, AttentionMapProvider
from singlelife.alignment.compare import coarser
from singlelife.alignment.contrast import contrast as contrast_of
from singlelife.alignment.contrast import pooled_features
from singlelife.alignment.extraction import VARIANTS, check_ks
from singlelife.alignment.extraction_cache import ExtractionCache
from singlelife.alignment.matrix import AtK, CasMatrix, Failure, Part, at_k, cell_chances, means, per_pair_scores
from singlelife.alignment.pair_sets import PairSet
from singlelife.errors import CheckpointError, SingleLifeError
from singlelife.lives.registry import SHUFFLED, life_names, registered_life

_LOG = logging.getLogger(__name__)

# The model of a name, with the maps of some of its blocks, or of those that are taken by default.
Loader = Callable[[str, Sequence[int] | None], AttentionMapProvider]


@dataclass(frozen=True)
class _Header:
    """What is known of a model once it was loaded; it takes no memory."""

    revision: str
    method: str
    layers: tuple[int, ...]
    grid: tuple[int, int]
    image_size: int

    @classmethod
    def of(cls, model: AttentionMapProvider) -> "_Header":
        return cls(model.revision, model.method, model.layers, model.grid, model.image_size)


def align_models(
    names: Sequence[str],
    load: Loader,
    pair_set: Callable[[int], PairSet],
    *,
    groups: Sequence[str] | None = None,
    ks: Sequence[int] = (5,),
    direction: str = "target-source",
    sinks: str = "keep",
    layers: Sequence[int] | None = None,
    by_layer: bool = False,
    contrast: bool = False,
    image_size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> CasMatrix:
    """Score n models two by two.

    A model is in memory only while it is looked at: first for its grid, and then to be run, if it has not been before.

    Args:
        names: of the models, each once.
        load: loads one.
        pair_set: makes the pair set, of views of a side in pixels.
        groups: of each model; those of `group_of` by default.
        ks: of the top k; the first is the one that is told of first.
        direction, sinks: see `extraction.extract`.
        layers: the blocks to take maps of.
        by_layer: also score layer by layer, at the first k. Each layer is a run of each model.
        contrast: also compare pooled features as is done elsewhere, see `contrast`.
        image_size: side of the views in pixels; the largest that a model takes by default.
        seed: of the bootstrap and the permutation test.
        cache_dir: the extractions are in its folder `alignment`.

    Raises:
        CheckpointError: no model can be compared, or one is named twice.
        PairSetError: a k is out of range.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise CheckpointError(f"Named twice: {', '.join(twice)}. Each model is compared once.")
    ordered_ks = sorted(set(ks))
    group = dict(zip(names, groups or map(group_of, names), strict=True))
    work = _Work(load, layers, batch_size, progress)
    work.open(names)
    grid = coarser([header.grid for header in work.headers.values()])
    check_ks(ks, grid)
    pairs = pair_set(image_size or max(header.image_size for header in work.headers.values()))
    cache = ExtractionCache(pairs, grid=grid, direction=direction, sinks=sinks, cache_dir=cache_dir)
    work.run(cache, ordered_ks)
    pooled = work.pool(pairs, cache.folder) if contrast else None

    left = list(work.headers)
    true_match = pairs.true_match(grid).numpy()
    bins = {of: values for of in ("gap", "overlap") if (values := getattr(pairs, of)) is not None}
    at: dict[int, AtK] = {}
    mean_maps: tuple[np.ndarray, ...] = ()
    for k in ordered_ks:
        found = [replace(cache.load(work.headers[name], k), model=name) for name in left]
        at[k] = at_k(found, [group[name] for name in left], true_match, bins, seed)
        mean_maps = tuple(each.mean_map for each in found)
    return CasMatrix(
        models=tuple(left),
        groups=tuple(group[name] for name in left),
        revisions=tuple(header.revision for header in work.headers.values()),
        methods=tuple(header.method for header in work.headers.values()),
        layers=tuple(header.layers for header in work.headers.values()),
        pairs=pairs.name,
        pairs_hash=found[0].pairs_hash,
        num_pairs=len(pairs),
        grid=grid,
        direction=direction,
        sinks=sinks,
        k=ks[0],
        at_k=at,
        contrast=None if pooled is None else contrast_of(pooled),
        by_layer=_by_layer(work, cache, group, ks[0], seed) if by_layer else (),
        failed=tuple(work.failed),
        mean_maps=mean_maps,
        num_run=work.num_run,
    )


@dataclass
class _Work:
    """Models are taken one by one. One that fails is noted in `failed` and is no longer in `headers`."""

    load: Loader
    layers: Sequence[int] | None
    batch_size: int
    progress: bool
    headers: dict[str, _Header] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)
    num_run: int = 0

    def open(self, names: Sequence[str]) -> None:
        """Load each model for what there is to know of it."""

        def look_at(name: str) -> None:
            self.headers[name] = _Header.of(self.load(name, self.layers))

        self._each(names, "Opening models", look_at)

    def run(self, cache: ExtractionCache, ks: Sequence[int]) -> None:
        """Run each model that is not in the cache at all ks."""

        def run_one(name: str) -> None:
            missing = cache.missing(self.headers[name], ks)
            if missing:
                model = self.load(name, self.layers)
                self.headers[name] = _Header.of(model)  # a run that is under way may have gone on in between
                cache.fill(model, missing, batch_size=self.batch_size, progress=self.progress)
                self.num_run += 1

        self._each(list(self.headers), "Running models", run_one)

    def pool(self, pairs: PairSet, folder: Path) -> list[np.ndarray]:
        """The pooled features of each model that is left."""
        pooled: dict[str, np.ndarray] = {}

        def pool_one(name: str) -> None:
            pooled[name] = pooled_features(
                self.headers[name],
                lambda: self.load(name, self.layers),
                pairs,
                batch_size=self.batch_size,
                folder=folder,
            )

        self._each(list(self.headers), "Pooling features", pool_one)
        return [pooled[name] for name in self.headers]

    def _each(self, names: Sequence[str], what: str, work: Callable[[str], None]) -> None:
        for name in tqdm(names, what, unit=" models", leave=False, disable=not self.progress):
            try:
                work(name)
                continue
            except SingleLifeError as error:
                self.failed.append(Failure(name, str(error)))
            except Exception as error:  # whatever one model does, the others' results are kept
                _LOG.exception("The model %s failed.", name)
                self.failed.append(Failure(name, f"{type(error).__name__}: {error}"))
            self.headers.pop(name, None)
        if not self.headers:
            reasons = "\n".join(f"  {each.model}: {each.error}" for each in self.failed)
            raise CheckpointError(f"No model can be compared:\n{reasons}")


def _by_layer(work: _Work, cache: ExtractionCache, group: dict[str, str], k: int, seed: int) -> tuple[Part, ...]:
    """The scores of the models layer by layer. Those of models with other numbers of layers are taken at the same
    relative depth."""
    depths = {name: header.layers[-1] + 1 for name, header in work.headers.items()}
    num_steps = min(depths.values())
    parts = []
    for step in range(num_steps):
        layer = {name: round(step * (depth - 1) / max(num_steps - 1, 1)) for name, depth in depths.items()}
        at_layer = _Work(_OneLayer(work.load, layer), None, work.batch_size, work.progress)
        at_layer.headers = {name: replace(work.headers[name], layers=(layer[name],)) for name in work.headers}
        at_layer.run(cache, [k])
        work.failed += [Failure(each.model, f"layer {layer[each.model]}: {each.error}") for each in at_layer.failed]
        work.num_run += at_layer.num_run
        found = [cache.load(header, k) for header in at_layer.headers.values()]
        if len(found) > 1:
            groups = [group[name] for name in at_layer.headers]
            raw, free = (
                means(per_pair_scores(found, variant), cell_chances(found), groups, seed) for variant in VARIANTS
            )
            chosen = [layer[name] for name in at_layer.headers]
            parts.append(Part("layer", min(chosen), max(chosen), len(found[0].raw), raw, free))
    return tuple(parts)


@dataclass(frozen=True)
class _OneLayer:
    """Loads models with the maps of one layer of each."""

    load: Loader
    layer: dict[str, int]

    def __call__(self, name: str, _: Sequence[int] | None) -> AttentionMapProvider:
        return self.load(name, [self.layer[name]])


def group_of(name: str) -> str:
    """The data set of the life that a model's name tells of, as `ORG/singlelife-wt3`, `runs/sim_1` and
    `runs/sim_1_seed1/checkpoint-200` do; where there is none, the model is a group of its own."""
    if name.startswith(UNTRAINED):
        return "untrained"
    for word in reversed(PurePath(name.partition("@")[0]).parts):
        if word.removeprefix("singlelife-").startswith(SHUFFLED):
            return "controls"
        named = [
            life
            for life in map(registered_life, life_names())
            if any(re.match(re.escape(each) + r"(?![A-Za-z0-9])", word) for each in (life.name, life.repository_name))
        ]
        if named:
            return max(named, key=lambda life: len(life.name)).dataset
    return name
