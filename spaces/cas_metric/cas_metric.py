# Copyright 2026 The singlelife authors. Licensed under the Apache License, Version 2.0.
"""The Correspondence Alignment Score (CAS) as a metric of `evaluate`.

It takes what two models look at on the same pairs of views and needs neither torch nor the package that it comes
from, whose numbers it gives to the last digit that the order of sums leaves.
"""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
The Correspondence Alignment Score (CAS): how far two vision models agree about which patch of one view shows what a
patch of the other shows. For each target patch, the k source patches with the largest logits are taken of both models;
the score is the share of these that they have in common, averaged over patches and pairs of views. Two models that
agree about nothing score k / M, where M is the number of source patches.
"""

_CITATION = """\
@article{single_life,
  title   = {Unique Lives, Shared World: Learning from Single-Life Videos},
  journal = {arXiv preprint arXiv:2512.04085},
  year    = {2025}
}
"""

_KWARGS = """\
Two configurations: `logits` (the default) and `top_k`, as in `evaluate.load("cas_metric", "top_k")`.

Args:
    predictions: what the first model looks at, one entry for each pair of views. With `logits`, a row of M floats for
        each of N target patches: how strongly it looks at each source patch (before a softmax or after it: only
        their order counts). With `top_k`, a row of k integers for each target patch: the source patches it looks at
        most, each once, in any order.
    references: the same of the second model, on the same pairs.
    k (`int`, *optional*, defaults to 5): of the top k; with `top_k`, it is the length of the rows.
    position_free (`bool`, *optional*, defaults to `False`): with `logits`, subtract each model's mean map over all
        pairs first, so that the habit of looking at the same place, whatever is seen there, counts for nothing.
    num_source_patches (`int`, *optional*): with `top_k`, M; the number of target patches by default.
    seed (`int`, *optional*, defaults to 0): of the bootstrap.

Returns:
    `dict`: `cas`, 0 to 1; `chance`, k / M; `chance_corrected`, (cas - chance) / (1 - chance), `None` where k = M;
    and `interval`, the 95% bootstrap interval `[low, high]` of `cas` over pairs.

Examples:
    >>> cas = evaluate.load("cas_metric")
    >>> a = [[[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 2.0, 1.0]]]  # one pair of views, two target and four source patches
    >>> b = [[[3.0, 0.0, 2.0, 1.0], [1.0, 3.0, 2.0, 0.0]]]
    >>> cas.compute(predictions=a, references=b, k=2)
    {'cas': 0.75, 'chance': 0.5, 'chance_corrected': 0.5, 'interval': [0.75, 0.75]}
    >>> cas = evaluate.load("cas_metric", "top_k")
    >>> cas.compute(predictions=[[[0, 1], [1, 2]]], references=[[[2, 0], [1, 2]]], num_source_patches=4)
    {'cas': 0.75, 'chance': 0.5, 'chance_corrected': 0.5, 'interval': [0.75, 0.75]}
"""

_CONFIGS = {"default": "float32", "logits": "float32", "top_k": "int64"}
_NAMES = ("predictions", "references")
_RESAMPLES, _RESAMPLES_AT_ONCE = 2000, 250


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class CasMetric(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _CONFIGS:
            raise ValueError(f"There are the configurations logits and top_k, not {self.config_name!r}.")
        rows = datasets.Sequence(datasets.Sequence(datasets.Value(_CONFIGS[self.config_name])))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS,
            features=datasets.Features({"predictions": rows, "references": rows}),
            homepage="https://arxiv.org/abs/2512.04085",
            reference_urls=["https://arxiv.org/abs/2512.04085"],
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        k: int | None = None,
        position_free: bool = False,
        num_source_patches: int | None = None,
        seed: int = 0,
    ) -> dict:
        arrays = _arrays(predictions, references, np.int64 if self.config_name == "top_k" else np.float32)
        if self.config_name == "top_k":
            if position_free:
                raise ValueError("position_free takes logits: nothing can be subtracted from a top k.")
            if k not in (None, arrays[0].shape[2]):
                raise ValueError(f"The rows hold {arrays[0].shape[2]} patches each, and k is {k}.")
            k = arrays[0].shape[2]
            num_columns = arrays[0].shape[1] if num_source_patches is None else num_source_patches
            sets = [_listed(top, name, num_columns) for name, top in zip(_NAMES, arrays, strict=True)]
        else:
            if num_source_patches is not None:
                raise ValueError("num_source_patches is for the configuration top_k; logits have as many columns.")
            k, num_columns = 5 if k is None else k, arrays[0].shape[2]
            if not 1 <= k <= num_columns:
                raise ValueError(f"k should be from 1 to the number of source patches, {num_columns}; not {k}.")
            sets = [_largest(logits, name, k, position_free) for name, logits in zip(_NAMES, arrays, strict=True)]
        per_pair = (sets[0] & sets[1]).sum(axis=(1, 2)) / (k * sets[0].shape[1])
        cas, chance = float(per_pair.mean()), k / num_columns
        return {
            "cas": cas,
            "chance": chance,
            "chance_corrected": None if chance >= 1 else (cas - chance) / (1 - chance),
            "interval": _interval(per_pair, seed),
        }


def _arrays(predictions: list, references: list, dtype: type) -> list[np.ndarray]:
    """Nested lists as arrays (P, N, M) or (P, N, k)."""
    arrays = []
    for name, values in zip(_NAMES, (predictions, references), strict=True):
        try:
            array = np.asarray(values, dtype=dtype)
        except ValueError as error:  # ragged
            raise ValueError(
                f"The {name} have rows of different lengths, or pairs of different numbers of rows."
            ) from error
        if array.ndim != 3 or not array.size:
            raise ValueError(
                f"The {name} should be pairs of views × target patches × source patches, and none of these 0; they "
                f"have the shape {array.shape}."
            )
        arrays.append(array)
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"predictions and references differ in shape: {arrays[0].shape} and {arrays[1].shape}.")
    return arrays


def _largest(logits: np.ndarray, name: str, k: int, position_free: bool) -> np.ndarray:
    """Which columns are among the top k, bool (P, N, M)."""
    if np.isnan(logits).any():
        raise ValueError(f"The {name} hold NaN.")
    if position_free:
        logits = logits - logits.mean(axis=0, dtype=np.float64).astype(np.float32)
    # Equal logits are taken in the order of their columns.
    return _chosen(np.argsort(-logits, axis=-1, kind="stable")[..., :k], logits.shape[2])


def _listed(top: np.ndarray, name: str, num_columns: int) -> np.ndarray:
    """The same of lists of columns (P, N, k)."""
    if top.min() < 0 or top.max() >= num_columns:
        raise ValueError(
            f"The {name} hold patch {top.max() if top.max() >= num_columns else top.min()}, and there are "
            f"{num_columns} source patches (num_source_patches), from 0."
        )
    chosen = _chosen(top, num_columns)
    if not (chosen.sum(axis=-1) == top.shape[2]).all():
        raise ValueError(f"A row of the {name} holds a patch twice.")
    return chosen


def _chosen(top: np.ndarray, num_columns: int) -> np.ndarray:
    chosen = np.zeros((*top.shape[:-1], num_columns), dtype=bool)
    np.put_along_axis(chosen, top, True, axis=-1)
    return chosen


def _interval(per_pair: np.ndarray, seed: int) -> list[float]:
    """The 95% interval of the mean, of bootstrap resamples of the pairs."""
    generator, count = np.random.default_rng(seed), len(per_pair)
    means = []
    for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES_AT_ONCE)
        means.append(drawn @ per_pair / count)
    return [float(each) for each in np.quantile(np.concatenate(means), [0.025, 0.975])]
