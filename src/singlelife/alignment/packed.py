"""Top-k sets as packed bits: the same sets as `cas.top_k`, in a bit for each source patch, compared by counting bits.

A row of M source patches takes ceil(M / 64) words of 64 bits; source patch c is bit c % 64 of word c // 64. So 2,000
pairs of 196 × 196 patches take 12.5 MB.
"""

from collections.abc import Sequence

import numpy as np

_WORD = np.dtype("<u8")  # the order of bytes that files have too
_PAIRS_AT_ONCE = 32  # so that what lies between two steps stays in the processor's cache


def select_top_k(logits: np.ndarray, ks: Sequence[int]) -> dict[int, np.ndarray]:
    """The columns of the k largest logits of each row, for each k. Equal logits are taken in the order of their
    columns, as `cas.top_k` takes them.

    Args:
        logits: floating (..., N, M), no NaN.
        ks: each from 1 to M.

    Returns:
        By k, uint64 (..., N, ceil(M / 64)).

    Raises:
        ValueError: a k is out of range.
    """
    num_columns = logits.shape[-1]
    if not ks or not 1 <= min(ks) <= max(ks) <= num_columns:
        raise ValueError(f"k should be from 1 to the number of source patches, {num_columns}; not {list(ks)}.")
    ordered = np.sort(logits, axis=-1)
    return {k: pack(_largest(logits, ordered[..., num_columns - k, None], k)) for k in ks}


def _largest(logits: np.ndarray, threshold: np.ndarray, k: int) -> np.ndarray:
    """Which columns hold the k largest logits of each row, given the k-th largest, bool (..., N, M)."""
    chosen = logits >= threshold
    crowded = chosen.sum(axis=-1, dtype=np.int32) > k  # several equal the k-th largest: the first of them are taken
    if crowded.any():
        rows, limits = logits[crowded], threshold[crowded]
        above, equal = rows > limits, rows == limits
        left = k - above.sum(axis=-1, keepdims=True)
        chosen[crowded] = above | (equal & (np.cumsum(equal, axis=-1) <= left))
    return chosen


def pack(chosen: np.ndarray) -> np.ndarray:
    """Sets of columns, bool (..., M), as bits, uint64 (..., ceil(M / 64))."""
    num_columns = chosen.shape[-1]
    packed = np.zeros((*chosen.shape[:-1], -(-num_columns // 64) * 8), dtype=np.uint8)
    packed[..., : -(-num_columns // 8)] = np.packbits(chosen, axis=-1, bitorder="little")
    return packed.view(_WORD)


def unpack(bits: np.ndarray, num_columns: int) -> np.ndarray:
    """The opposite of `pack`."""
    return np.unpackbits(bits.view(np.uint8), axis=-1, count=num_columns, bitorder="little").astype(bool)


def common_per_patch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many columns two sets share, for each row: int64 (..., N) of uint64 (..., N, W), which broadcast."""
    return np.bitwise_count(a & b).sum(axis=-1, dtype=np.int64)


def common_per_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many columns the sets of all rows of a pair share, summed over the rows.

    Args:
        a: uint64 (P, N, W).
        b: the same, or (N, W) for one map that stands for all pairs.

    Returns:
        int64 (P,).
    """
    counts = np.empty(len(a), dtype=np.int64)
    for start in range(0, len(a), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        ones = np.bitwise_count(a[part] & (b[part] if b.ndim == 3 else b))
        counts[part] = ones.reshape(len(ones), -1).sum(axis=1, dtype=np.uint32)
    return counts


def rows_per_column(bits: np.ndarray, num_columns: int) -> np.ndarray:
    """How many rows of each pair have a column in their set, int64 (P, M) of uint64 (P, N, W)."""
    counts = np.empty((len(bits), num_columns), dtype=np.int64)
    for start in range(0, len(bits), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        counts[part] = unpack(bits[part], num_columns).sum(axis=1)
    return counts


def holds(bits: np.ndarray, pair: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Whether a column is in a row's set, bool (...), of sets uint64 (P, N, W) and indices (...)."""
    words = bits[pair, row, column // 64]
    return (words >> (column % 64).astype(_WORD)) & 1 == 1
