"""The score against its definition, read off patch by patch, and the properties that a score must have."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singlelife.alignment.score import (
    agreement,
    bootstrap,
    centre,
    holds,
    pack,
    position_map,
    resample,
    select_top_k,
    unpack,
)

from .providers import centred, score_of, top_k

shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 9), st.integers(0, 2**32 - 1))


def logits_of(shape: tuple[int, int, int, int], levels: int | None = None) -> np.ndarray:
    """Random logits (pairs, N, M); with few `levels`, many of them are equal."""
    *shape, seed = shape
    generator = np.random.default_rng(seed)
    return (generator.integers(levels, size=shape) if levels else generator.normal(size=shape)).astype(np.float32)


def definition(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """|TopK_a(p) ∩ TopK_b(p)| / k, mean over pairs and patches."""

    def top(row: list[float]) -> set[int]:
        return set(sorted(range(len(row)), key=lambda column: (-row[column], column))[:k])

    shares = [
        len(top(row_a) & top(row_b)) / k
        for pair_a, pair_b in zip(a.tolist(), b.tolist(), strict=True)
        for row_a, row_b in zip(pair_a, pair_b, strict=True)
    ]
    return sum(shares) / len(shares)


@given(shapes, st.integers(0, 2**32 - 1), st.data())
def test_the_raw_score_is_the_papers_formula(shape, other_seed, data):
    a, b = logits_of(shape), logits_of((*shape[:3], other_seed))
    k = data.draw(st.integers(1, shape[2]))
    result = score_of(a, b, k).raw
    assert result.cas == pytest.approx(definition(a, b, k), abs=1e-6)
    assert result.chance == k / shape[2]
    assert score_of(a, np.arctan(a.astype(np.float64)) * 3 - 1, k).raw.cas == 1  # only the order counts
    assert result.low <= result.cas + 1e-9 and result.cas <= result.high + 1e-9
    assert score_of(b, a, k).raw == result


def test_position_map_looks_at_the_nearest_patches():
    top = top_k(torch.from_numpy(position_map((8, 8), (8, 8))), 5)
    assert top[:, 0].tolist() == list(range(64))  # the same place first
    assert set(top[27].tolist()) == {27, 19, 35, 26, 28}  # then above, below, left, right
    assert set(top_k(torch.from_numpy(position_map((8, 8), (4, 4))), 1)[[0, 1, 8, 9], 0].tolist()) == {0}
    wide = top_k(torch.from_numpy(position_map((2, 4), (2, 4))), 3)  # on the unit square, columns are closer together
    assert set(wide[1].tolist()) == {0, 1, 2}


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 1000))
def test_resampling_keeps_what_is_linear_in_place(rows, columns, seed):
    """Halving both grids averages neighbours, so logits that are linear in place keep their values at the centres."""
    weights = np.random.default_rng(seed).normal(size=(2, 2))

    def linear(grid: tuple[int, int]) -> torch.Tensor:
        y, x = np.meshgrid(*[(np.arange(count) + 0.5) / count for count in grid], indexing="ij")
        places = np.stack([y.ravel(), x.ravel()], axis=-1)
        return torch.from_numpy((places @ weights) @ np.ones((2, len(places))) + (places @ weights[::-1]).sum(1))[None]

    fine, coarse = (4 * rows, 4 * columns), (2 * rows, 2 * columns)
    got = resample(linear(fine), fine, coarse).reshape(*coarse, *coarse)
    inside = np.s_[1:-1, 1:-1, 1:-1, 1:-1]  # the antialiasing filter is cut off at the border
    torch.testing.assert_close(got[inside], linear(coarse).reshape(*coarse, *coarse)[inside])


set_shapes = st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(2, 140))
seeds = st.integers(0, 2**32 - 1)


@given(set_shapes, seeds, st.data(), st.sampled_from([None, 1, 3, 20]))
def test_sets_are_those_of_the_definition(shape, seed, data, levels):
    logits = logits_of((*shape, seed), levels)
    ks = data.draw(st.lists(st.integers(1, shape[2]), min_size=1, max_size=3))
    first, none = (select_top_k(logits, ks, ties=ties) for ties in ("first", "none"))
    for k, bits in first.items():
        assert bits.shape == (*shape[:2], -(-shape[2] // 64)) and bits.dtype == np.uint64
        plain = np.zeros(shape, dtype=bool)
        np.put_along_axis(plain, top_k(torch.from_numpy(logits), k).numpy(), True, axis=-1)
        np.testing.assert_array_equal(unpack(bits, shape[2]), plain)
        # More than two equal logits about the k-th place, or all, are no top k.
        ordered = np.sort(logits, axis=-1)[..., ::-1]
        equal = (logits == ordered[..., k - 1 : k]).sum(axis=-1)
        tied = (ordered[..., k - 1] == ordered[..., min(k, shape[2] - 1)]) & (k < shape[2])
        tied &= (equal > 2) | (equal == shape[2])
        np.testing.assert_array_equal(unpack(none[k], shape[2]), plain & ~tied[..., None])


@given(set_shapes, seeds, seeds, st.data(), st.sampled_from([None, 3]))
def test_agreement_is_the_overlap_of_the_rows_that_both_have(shape, seed, other, data, levels):
    k = data.draw(st.integers(1, shape[2]))
    a, b = (select_top_k(logits_of((*shape, each), levels), [k])[k] for each in (seed, other))
    first, second = unpack(a, shape[2]), unpack(b, shape[2])
    for pair, found in enumerate(agreement(a, b, k)):
        rows = first[pair].any(axis=-1) & second[pair].any(axis=-1)
        expected = (first & second)[pair][rows].sum() / (k * rows.sum()) if rows.any() else np.nan
        np.testing.assert_equal(found, expected)


@given(seeds, seeds, st.sampled_from([2, 8, 40]))
def test_centred_logits_forget_a_fixed_map_and_what_a_pair_likes(seed, other, num_pairs):
    """Exactly, in what float32 can hold: whole numbers, and means over powers of two or in float64."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_pairs, 6, 9))
    habit, liked = np.random.default_rng(other).normal(size=(6, 9)), generator.normal(size=(num_pairs, 1, 9))

    def of(maps: np.ndarray) -> np.ndarray:
        free = centre(maps, maps.mean(axis=0))
        return free / np.sqrt(np.square(free).mean(axis=0))

    for changed in (logits + 5 * habit, logits + 5 * liked, 3 * logits):
        np.testing.assert_allclose(of(changed), of(logits), atol=1e-9)
    np.testing.assert_allclose(of(logits), centred(torch.from_numpy(logits)).numpy(), atol=1e-9)


@given(st.integers(1, 300), seeds)
def test_bits_are_read_as_they_were_written(num_columns, seed):
    chosen = np.random.default_rng(seed).random((2, 3, num_columns)) < 0.3
    bits = pack(chosen)
    np.testing.assert_array_equal(unpack(bits, num_columns), chosen)
    pair, row, column = np.indices(chosen.shape)
    np.testing.assert_array_equal(holds(bits, pair, row, column), chosen)
    assert int(np.bitwise_count(bits).sum()) == chosen.sum()  # nothing beyond the last column


def test_minus_zero_equals_zero_and_infinities_are_in_order():
    logits = np.array([[0.0, -0.0, 0.0, -np.inf, np.inf]], dtype=np.float32)
    found = select_top_k(logits, [1, 2, 3, 4], ties="first")
    assert [np.flatnonzero(unpack(found[k], 5)[0]).tolist() for k in (1, 2, 3, 4)] == [
        [4], [0, 4], [0, 1, 4], [0, 1, 2, 4],
    ]  # fmt: skip


def test_columns_are_resampled_together():
    """The difference of two columns that differ by a constant is certain, however the columns themselves vary."""
    values = np.random.default_rng(0).random((50, 1))
    low, high = bootstrap(np.column_stack([values + 1 - values]))
    assert low == high == pytest.approx(1)


def test_intervals_hold_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    low, high = bootstrap(generator.normal(size=(200, 1000)))
    assert 0.92 < ((low < 0) & (high > 0)).mean() < 0.97
