"""Packed sets against the plain definition, patch by patch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from singlelife.alignment.score import overlap, top_k
from singlelife.alignment.score import (
    common_per_pair,
    common_per_patch,
    holds,
    pack,
    select_top_k,
    unpack,
)

shapes = st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(2, 140))
seeds = st.integers(0, 2**32 - 1)


def logits_of(shape: tuple[int, ...], seed: int, levels: int | None = None) -> np.ndarray:
    """Random float32 logits; with few `levels`, many of them are equal."""
    generator = np.random.default_rng(seed)
    if levels:
        return generator.integers(-levels, levels, shape).astype(np.float32)
    return generator.normal(size=shape).astype(np.float32)


def python_set(row: list[float], k: int) -> set[int]:
    return set(sorted(range(len(row)), key=lambda column: (-row[column], column))[:k])


@given(shapes, seeds, st.data(), st.sampled_from([None, 1, 3]))
def test_sets_are_those_of_the_definition_and_of_python(shape, seed, data, levels):
    shape = (min(shape[0], 3), *shape[1:])
    logits = logits_of(shape, seed, levels)
    ks = data.draw(st.lists(st.integers(1, shape[2]), min_size=1, max_size=3))
    for k, bits in select_top_k(logits, ks).items():
        assert bits.shape == (*shape[:2], -(-shape[2] // 64)) and bits.dtype == np.uint64
        chosen = unpack(bits, shape[2])
        plain = np.zeros(shape, dtype=bool)
        np.put_along_axis(plain, top_k(torch.from_numpy(logits), k).numpy(), True, axis=-1)
        np.testing.assert_array_equal(chosen, plain)
        for row, found in zip(logits.reshape(-1, shape[2]).tolist(), chosen.reshape(-1, shape[2]), strict=True):
            assert set(np.flatnonzero(found).tolist()) == python_set(row, k)


@given(shapes, seeds, seeds, st.data(), st.sampled_from([None, 3]))
def test_overlap_of_bits_is_overlap_of_lists(shape, seed, other, data, levels):
    k = data.draw(st.integers(1, shape[2]))
    logits = [logits_of(shape, each, levels) for each in (seed, other)]
    a, b = (select_top_k(each, [k])[k] for each in logits)
    plain = overlap(*(top_k(torch.from_numpy(each), k) for each in logits))
    np.testing.assert_array_equal((common_per_patch(a, b) / k).astype(np.float32), plain.numpy())
    np.testing.assert_array_equal(common_per_pair(a, b), common_per_patch(a, b).sum(axis=1))
    np.testing.assert_array_equal(common_per_pair(a, b[0]), common_per_patch(a, b[0]).sum(axis=1))
    np.testing.assert_array_equal(common_per_pair(a, a), np.full(shape[0], k * shape[1]))


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
    found = select_top_k(logits, [1, 2, 3, 4])
    assert [np.flatnonzero(unpack(found[k], 5)[0]).tolist() for k in (1, 2, 3, 4)] == [
        [4], [0, 4], [0, 1, 4], [0, 1, 2, 4],
    ]  # fmt: skip


@pytest.mark.parametrize("ks", [[0], [5], [2, 9], []])
def test_k_out_of_range_is_refused(ks):
    with pytest.raises(ValueError, match="k should be from 1 to the number of source patches, 4"):
        select_top_k(np.zeros((2, 3, 4), np.float32), ks)
