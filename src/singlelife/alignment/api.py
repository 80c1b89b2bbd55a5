"""Alignment by name: what the command line and three lines of Python ask for.

from singlelife import cas, cas_curve, cas_matrix

cas("runs/sim_1", "runs/sim_2", pairs="sim_test")
cas_matrix(["runs/sim_1", "runs/sim_2", "runs/sim_3"], pairs="sim_test")
cas_curve("runs/sim_1", "runs/sim_2", controls=["runs/sim_still"], pairs="sim_test")
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from singlelife.alignment.align import align_models, group_of
from singlelife.alignment.attention import AttentionMapProvider, load_model
from singlelife.alignment.compare import CasResult, compare
from singlelife.alignment.matrix import CasMatrix
from singlelife.alignment.pair_sets import PairSet, resolve_pair_set
from singlelife.alignment.runs import models_of_runs
from singlelife.alignment.trajectory import CasCurve, trajectory
from singlelife.errors import CheckpointError

Model = str | Path | AttentionMapProvider


def cas(
    a: Model,
    b: Model,
    *,
    pairs: str | Path | PairSet = "sim_test",
    k: int | Sequence[int] = 5,
    direction: str = "target-source",
    sinks: str = "keep",
    method: str | None = None,
    layers: Sequence[int] | None = None,
    heads: str = "mean",
    views: str = "plain",
    num_pairs: int = 384,
    image_size: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> CasResult:
    """The Correspondence Alignment Score of two models, raw and position-free, with what is needed to read it.

    Args:
        a, b: run folders, local checkpoints, Hub ids, `"untrained:PRESET@SEED"`, or models that are loaded already.
        pairs: what `--pairs` takes, or a pair set.
        k: of the top k. Of several, the first is the one that all is said of.
        direction: `"target-source"`, `"source-target"` or `"reciprocal"`.
        sinks: `"keep"`, or `"mask"` the source patches that a model looks at whatever the views show.
        method: `"cross-attention"`, `"feature-correlation"` or `"decoder-correlation"`; see `load_model` for the
            default.
        layers: the blocks to take maps of, from 0, or from -1 backwards.
        heads: `"mean"` over them, or `"each"` of A with each of B too.
        views, num_pairs, seed: how pairs are drawn from a life; the seed is of the bootstrap too.
        image_size: side of the views in pixels; the larger of what the two models take by default.
        batch_size: pairs at once.
        device: where the models run.
        cache_dir: of prepared lives.

    Raises:
        SingleLifeError: there is no such model or life, or they cannot be compared.
    """
    models = [
        load_model(str(each), device, method=method, layers=layers) if isinstance(each, str | Path) else each
        for each in (a, b)
    ]
    if not isinstance(pairs, PairSet):
        pairs = resolve_pair_set(
            str(pairs),
            views=views,
            num_pairs=num_pairs,
            seed=seed,
            image_size=image_size or max(model.image_size for model in models),
            cache_dir=cache_dir,
        )
    return compare(
        models[0],
        models[1],
        pairs,
        k=k,
        direction=direction,
        sinks=sinks,
        heads=heads,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )


def cas_matrix(
    models: Sequence[str | Path],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    pairs: str | Path | PairSet = "sim_test",
    k: int | Sequence[int] = 5,
    direction: str = "target-source",
    sinks: str = "keep",
    method: str | None = None,
    layers: Sequence[int] | None = None,
    by_layer: bool = False,
    contrast: bool = False,
    views: str = "plain",
    num_pairs: int = 384,
    image_size: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "cpu",
    cache_dir: Path | None = None,
    progress: bool = True,
) -> CasMatrix:
    """The scores of n models, two by two, with their statistics. Each model is run once on a pair set, ever.

    Args:
        models: as in `cas`, but by name.
        groups: the names of the models of each group; models that are in none are grouped by the data set of the life
            that their name tells of.
        by_layer: also score layer by layer.
        contrast: also compare pooled features by linear CKA, mutual nearest neighbours and RSA.
        cache_dir: of prepared lives, and of the models' extractions.
        pairs, k, direction, sinks, method, layers, views, num_pairs, image_size, seed, batch_size, device: see `cas`.

    Raises:
        SingleLifeError: no model can be compared, a group holds what is not compared, or there is no such life. Models
            that fail are in `CasMatrix.failed`, and the others are compared.
    """
    names = [str(model) for model in models]
    grouped = {str(model): group for group, members in (groups or {}).items() for model in members}
    if unknown := sorted(set(grouped) - set(names)):
        raise CheckpointError(f"The groups name {', '.join(unknown)}, which is not among the models to compare.")

    def pair_set(size: int) -> PairSet:
        if isinstance(pairs, PairSet):
            return pairs
        return resolve_pair_set(
            str(pairs), views=views, num_pairs=num_pairs, seed=seed, image_size=size, cache_dir=cache_dir
        )

    return align_models(
        names,
        lambda name, some: load_model(name, device, method=method, layers=some),
        pair_set,
        groups=[grouped.get(name) or group_of(name) for name in names],
        ks=[k] if isinstance(k, int) else list(k),
        direction=direction,
        sinks=sinks,
        layers=layers,
        by_layer=by_layer,
        contrast=contrast,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        cache_dir=cache_dir,
        progress=progress,
    )


def cas_curve(
    runs: str | Path | Sequence[str | Path],
    reference: str | Path,
    *,
    controls: Sequence[str | Path] = (),
    **settings: Any,
) -> CasCurve:
    """How alignment with a reference grows: over the checkpoints of one run, or over runs on more and more hours.

    Args:
        runs: the folder of one, whose every saved checkpoint is scored, or of several that were trained on different
            `--hours`, whose finished models are.
        reference: what they are compared with, such as a model of another life.
        controls: models that should not align, such as an untrained one and one of a still camera: what their scores
            reach is the level to clear.
        settings: of `cas_matrix`, but for groups, by_layer and contrast.

    Raises:
        SingleLifeError: a folder is no run, the runs do not differ in hours, or the reference cannot be compared.
    """
    by, models = models_of_runs([runs] if isinstance(runs, str | Path) else runs)
    return trajectory(
        lambda names: cas_matrix(names, **settings), by, models, str(reference), [str(control) for control in controls]
    )
