"""How often two rows of an interaction matrix share a column, without anything dense."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

__all__ = ["cooccurrence", "largest_per_row"]

_BLOCK_ROWS, _BLOCK_COUNTS = 2**10, 2**20


def cooccurrence(interactions: sp.spmatrix, top_k: int | None = None, block_rows: int | None = None) -> sp.csr_matrix:
    r"""Count the columns that two rows have in common.

    .. math:: C = B B^\top - \mathrm{diag}(B B^\top), \quad B_{rc} = 1 \text{ if row } r \text{ has column } c

    With users as rows this says how many items two users share; with the transpose, how many users two items share.
    The product is formed a block of rows at a time and cut to ``top_k`` at once, so memory is that of one block (about
    50 MB, unless a single row has more than a million counts) and of the result.

    Args:
        interactions: Interactions, ``(n_rows, n_columns)``; repeated and stored zero entries do not count.
        top_k: How many of the largest counts each row keeps (ties: the smaller id first); ``None`` keeps all.
        block_rows: Rows per block; by default 1,024, and fewer where these have more than a million counts.

    Returns:
        Counts, ``(n_rows, n_rows)``, int32, sorted indices; symmetric only if ``top_k`` is ``None``.

    Raises:
        ValueError: ``top_k`` or ``block_rows`` is not positive.

    Example:
        >>> pairs = sp.csr_matrix([[1, 1, 0], [1, 1, 1], [0, 0, 1]])
        >>> cooccurrence(pairs).toarray().tolist()
        [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
        >>> cooccurrence(pairs, top_k=1).toarray().tolist()
        [[0, 2, 0], [2, 0, 0], [0, 1, 0]]
    """
    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows: expected at least 1, got {block_rows}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}.")
    binary = sp.csr_matrix(interactions, copy=True)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data = np.ones(binary.nnz, dtype=np.int32)  # after dropping zeros: a rating of 0.5 must not round to one
    if binary.shape[0] == 0:
        return sp.csr_matrix((0, 0), dtype=np.int32)
    transposed = binary.T.tocsr()
    starts = _block_starts(binary) if block_rows is None else np.arange(0, binary.shape[0], block_rows)
    blocks = [
        _sorted_counts((binary[start:end] @ transposed).tocsr(), start, top_k)
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), binary.shape[0]])
    ]
    return sp.vstack(blocks, format="csr")


def _block_starts(binary: sp.csr_matrix) -> np.ndarray:
    """First rows of blocks of ``_BLOCK_ROWS`` rows, and of fewer where they have over ``_BLOCK_COUNTS`` counts."""
    degree = np.bincount(binary.indices, minlength=binary.shape[1]).astype(np.int64)
    counts = np.minimum(binary.astype(np.int64) @ degree, binary.shape[0])
    room = np.maximum(counts, _BLOCK_COUNTS // _BLOCK_ROWS)
    block = (np.cumsum(room) - room) // _BLOCK_COUNTS
    return np.flatnonzero(np.diff(block, prepend=-1))


def _sorted_counts(block: sp.csr_matrix, start: int, top_k: int | None) -> sp.csr_matrix:
    """Drop the diagonal, cut to ``top_k`` and sort by column.

    Row, count and column are packed into one integer, because numpy sorts integers several times faster than it finds
    the order of several keys.
    """
    n_rows, n_columns = block.shape
    column_bits, count_bits = n_columns.bit_length(), int(block.data.max(initial=0)).bit_length()
    if n_rows.bit_length() + column_bits + count_bits > 63:
        raise ValueError(f"block_rows: {n_rows} rows of counts do not fit into 64 bits; choose fewer.")
    row = np.repeat(np.arange(n_rows), np.diff(block.indptr))
    column, count = block.indices, block.data.astype(np.int64)
    count[column == row + start] = 0
    columns, counts = (1 << column_bits) - 1, (1 << count_bits) - 1
    if top_k is not None:
        key = ((row << count_bits | (counts - count)) << column_bits) | column
        key.sort()  # within the rows, which come in order already
        key = key[np.arange(len(key)) - block.indptr[row] < top_k]
        row, count, column = (
            key >> (count_bits + column_bits), counts - (key >> column_bits & counts), key & columns
        )  # fmt: skip
    key = ((row << column_bits | column) << count_bits) | count
    key = key[count > 0]
    key.sort()
    pointer = np.concatenate([[0], np.cumsum(np.bincount(key >> (column_bits + count_bits), minlength=n_rows))])
    data = (key & counts).astype(np.int32)
    return sp.csr_matrix((data, key >> count_bits & columns, pointer), shape=block.shape)


def largest_per_row(matrix: sp.csr_matrix, top_k: int) -> sp.csr_matrix:
    """Keep the ``top_k`` largest stored values of each row; of equal values the smaller column first.

    Raises:
        ValueError: ``top_k`` is not positive.
    """
    if top_k < 1:
        raise ValueError(f"top_k: expected at least 1, got {top_k}.")
    if not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    order = np.lexsort((-matrix.data, rows))  # stable: equal values stay in the order of their columns
    rank = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    kept = np.sort(order[rank < top_k])
    pointer = np.concatenate([[0], np.cumsum(np.minimum(lengths, top_k))])
    return sp.csr_matrix((matrix.data[kept], matrix.indices[kept], pointer), shape=matrix.shape)
