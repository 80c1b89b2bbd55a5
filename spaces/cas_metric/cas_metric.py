# Copyright 2026 The singlelife authors. Licensed under the Apache License, Version 2.0.
"""The Correspondence Alignment Score (CAS) as a metric of `evaluate`.

It takes what two models look at on the same pairs of views. It needs neither torch nor the package `singlelife`, and
gives the same numbers as the package, up to rounding.
"""

import datasets
import evaluate
import numpy as np
from scipy.stats import t as student_t

_DESCRIPTION = """\
The Correspondence Alignment Score (CAS): how far two vision models agree about which patch of one view shows what a
patch of the other shows. For each target patch, take the k source patches with the largest logits in each model; the
score is the share of these that the models have in common, averaged over patches and pairs of views. The centred score
first removes habits of place and popular patches. Compare it with its null: the same two models with their pairs
mismatched. The centred score of two models that share nothing is about its null, and their raw score about k / M,
where M is the number of source patches.
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
    references: the same for the second model, on the same pairs.
    k (`int`, *optional*, defaults to 5): the number of strongest matches; with `top_k`, the length of the rows.
    num_source_patches (`int`, *optional*): with `top_k`, M; the number of target patches by default.
    seed (`int`, *optional*, defaults to 0): of the bootstrap.

Give the pairs in the order of time if they have one: mismatched pairs then come from another time.

Returns:
    `dict`. With `logits`: `centred`, 0 to 1; `null`; `excess`, centred less null, 0 for models that share nothing;
    `excess_interval`, its 95% interval `[low, high]` over pairs; `p_value`, the share of mismatches that score as
    high, at least 1 / (their number + 1); all `None` where they are not defined. `notes`, sentences on what is
    undefined, left out or rough. With both: `cas`, the raw score, 0 to 1; `chance`, k / M; `chance_corrected`,
    (cas - chance) / (1 - chance), `None` if k = M; and `interval`, the 95% bootstrap interval of `cas` over pairs.

Examples:
    >>> cas = evaluate.load("cas_metric")
    >>> a = [[[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 2.0, 1.0]]]  # one pair of views, two target and four source patches
    >>> b = [[[3.0, 0.0, 2.0, 1.0], [1.0, 3.0, 2.0, 0.0]]]
    >>> found = cas.compute(predictions=a, references=b, k=2)
    >>> found["cas"], found["centred"]
    (0.75, None)
    >>> cas = evaluate.load("cas_metric", "top_k")
    >>> cas.compute(predictions=[[[0, 1], [1, 2]]], references=[[[2, 0], [1, 2]]], num_source_patches=4)
    {'cas': 0.75, 'chance': 0.5, 'chance_corrected': 0.5, 'interval': [0.75, 0.75]}
"""

_CONFIGS = {"default": "float32", "logits": "float32", "top_k": "int64"}
_NAMES = ("predictions", "references")
_RESAMPLES, _RESAMPLES_AT_ONCE = 2000, 250
_FEW_PAIRS, _MOST_SHIFTS = 16, 99


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS)
class CasMetric(evaluate.Metric):
    """See the description."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in _CONFIGS:
            raise ValueError(f"The configurations are logits and top_k, not {self.config_name!r}.")
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
        num_source_patches: int | None = None,
        seed: int = 0,
    ) -> dict:
        arrays = _arrays(predictions, references, np.int64 if self.config_name == "top_k" else np.float32)
        leading: dict = {}
        if self.config_name == "top_k":
            if k not in (None, arrays[0].shape[2]):
                raise ValueError(f"The rows hold {arrays[0].shape[2]} patches each, but k is {k}.")
            k = arrays[0].shape[2]
            num_columns = arrays[0].shape[1] if num_source_patches is None else num_source_patches
            sets = [_listed(top, name, num_columns) for name, top in zip(_NAMES, arrays, strict=True)]
        else:
            if num_source_patches is not None:
                raise ValueError("num_source_patches is for the configuration top_k; logits have a column for each.")
            k, num_columns = 5 if k is None else k, arrays[0].shape[2]
            if not 1 <= k <= num_columns:
                raise ValueError(f"k should be from 1 to the number of source patches, {num_columns}; not {k}.")
            for name, logits in zip(_NAMES, arrays, strict=True):
                if np.isnan(logits).any():
                    raise ValueError(f"The {name} hold NaN.")
            leading = _centred_score([_centred(logits) for logits in arrays], k)
            sets = [_largest(_without_flat_rows(logits, logits, _least(logits)), k) for logits in arrays]
        per_pair = _agreement(*sets, k)
        cas, chance = _number(_mean(per_pair)), k / num_columns
        corrected = None if chance >= 1 or cas is None else (cas - chance) / (1 - chance)
        interval = None if cas is None else _interval(np.where(np.isnan(per_pair), cas, per_pair), seed)
        return leading | {"cas": cas, "chance": chance, "chance_corrected": corrected, "interval": interval}


def _arrays(predictions: list, references: list, dtype: type) -> list[np.ndarray]:
    """Nested lists as arrays (P, N, M) or (P, N, k)."""
    arrays = []
    for name, values in zip(_NAMES, (predictions, references), strict=True):
        try:
            array = np.asarray(values, dtype=dtype)
        except ValueError as error:  # ragged
            raise ValueError(
                f"The {name} have rows of different lengths, or pairs with different numbers of rows."
            ) from error
        if array.ndim != 3 or not array.size:
            raise ValueError(
                f"The {name} should have the shape pairs of views × target patches × source patches, with at least "
                f"one of each, not {array.shape}."
            )
        arrays.append(array)
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"predictions and references differ in shape: {arrays[0].shape} and {arrays[1].shape}.")
    return arrays


def _least(logits: np.ndarray) -> float:
    """The difference of logits that counts as rounding."""
    return 1e-5 * float(np.abs(logits).max())


def _without_flat_rows(logits: np.ndarray, varying: np.ndarray, least: float) -> np.ndarray:
    return np.where((np.ptp(varying, axis=-1) <= least)[..., None], np.float32(0), logits)


def _centred(logits: np.ndarray) -> np.ndarray:
    """Subtract the mean map, then each column's mean in its pair, and divide by the spread of each cell over pairs."""
    free = logits - logits.mean(axis=0, dtype=np.float64).astype(np.float32)
    free -= free.mean(axis=-2, keepdims=True)
    spread, least = np.sqrt(np.square(free, dtype=np.float64).mean(axis=0)), _least(logits)
    return _without_flat_rows(free / np.where(spread > least, spread, np.inf).astype(np.float32), free, least)


def _centred_score(maps: list[np.ndarray], k: int) -> dict:
    """The centred score of two models, and its null: the score with the pairs shifted by an eighth of them or more."""
    first, second = (_largest(each, k) for each in maps)
    count, own = len(first), _agreement(first, second, k)
    least = max(1, count // 8)
    every = np.arange(least, min(count, count - least + 1))
    shifts = every[np.unique(np.linspace(0, len(every) - 1, min(_MOST_SHIFTS, len(every)), dtype=int))]
    names = ("centred", "null", "excess", "excess_interval", "p_value")
    if not len(shifts):
        return dict.fromkeys(names) | {"notes": [f"One pair has no centred score. Give at least {_FEW_PAIRS} pairs."]}
    others = np.stack([_agreement(first, np.roll(second, -shift, axis=0), k) for shift in shifts])
    back = np.stack([np.roll(each, shift) for each, shift in zip(others, shifts, strict=True)])
    centred, null = _number(_mean(own)), _number(_mean(_mean(others, axis=1)))
    notes = []
    if count < _FEW_PAIRS:
        notes.append(
            f"{count} pairs are few: the centred score is rough, and p is at least {1 / (len(shifts) + 1):.2g}. "
            f"Give at least {_FEW_PAIRS} pairs."
        )
    if excluded := 1 - float((first.any(axis=-1) & second.any(axis=-1)).mean()):
        notes.append(f"{excluded:.2%} of the centred rows have no top k in one of the models. They are left out.")
    if centred is None or null is None:
        return dict.fromkeys(names) | {
            "notes": [*notes, "A model that gives the same map for all pairs has no score."]
        }
    parts = own - (_mean(others, axis=0) + _mean(back, axis=0) - _mean(others))
    margin, excess = _margin(np.where(np.isnan(parts), _mean(parts), parts)), centred - null
    reached = int((_mean(others, axis=1) >= centred - 1e-9).sum())
    interval, p_value = [excess - margin, excess + margin], (1 + reached) / (1 + len(shifts))
    return dict(zip(names, (centred, null, excess, interval, p_value), strict=True)) | {"notes": notes}


def _margin(excess: np.ndarray) -> float:
    """Half the 95% interval of the mean of values in order, from blocks of consecutive ones."""
    count, block = len(excess), max(1, round(len(excess) ** (1 / 3)))
    means = np.convolve(np.concatenate([excess, excess[: block - 1]]), np.full(block, 1 / block), mode="valid")
    variance = np.square(means - excess.mean()).mean() * block / (count - block)
    return float(student_t.ppf(0.975, max(1.0, count / block - 1)) * np.sqrt(variance))


def _largest(logits: np.ndarray, k: int) -> np.ndarray:
    """Which columns are among the top k, bool (P, N, M); none if more than two logits tie for the k-th place, or all
    are equal. If two tie, the first column wins."""
    chosen = _chosen(np.argsort(-logits, axis=-1, kind="stable")[..., :k], logits.shape[2])
    last = np.min(np.where(chosen, logits, np.inf), axis=-1, keepdims=True)
    number = (logits == last).sum(axis=-1, keepdims=True)
    crowded = (logits >= last).sum(axis=-1, keepdims=True) > k
    return chosen & ~(crowded & ((number > 2) | (number == logits.shape[2])))


def _agreement(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """The share of matches in common in each pair, over the rows where both have a top k; NaN if there are none."""
    rows = (first.any(axis=-1) & second.any(axis=-1)).sum(axis=1)
    common = (first & second).sum(axis=(1, 2))
    return np.divide(common, k * rows, out=np.full(len(rows), np.nan), where=rows > 0)


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """The mean of the values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values)
    count, total = known.sum(axis=axis), np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _listed(top: np.ndarray, name: str, num_columns: int) -> np.ndarray:
    """Which columns are listed, bool (P, N, M), from lists of columns (P, N, k)."""
    if top.min() < 0 or top.max() >= num_columns:
        raise ValueError(
            f"The {name} hold patch {top.max() if top.max() >= num_columns else top.min()}, but there are "
            f"{num_columns} source patches (num_source_patches), counted from 0."
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
    """The 95% interval of the mean, from bootstrap resamples of the pairs."""
    generator, count = np.random.default_rng(seed), len(per_pair)
    means = []
    for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES_AT_ONCE)
        means.append(drawn @ per_pair / count)
    return [float(each) for each in np.quantile(np.concatenate(means), [0.025, 0.975])]
