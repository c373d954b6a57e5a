"""How often two rows of an interaction matrix share a column, without anything dense."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

__all__ = ["cooccurrence", "largest_per_row"]


def cooccurrence(interactions: sp.spmatrix, top_k: int | None = None, block_rows: int = 1024) -> sp.csr_matrix:
    r"""Count the columns that two rows have in common.

    .. math:: C = B B^\top - \mathrm{diag}(B B^\top), \quad B_{rc} = 1 \text{ if row } r \text{ has column } c

    With users as rows this says how many items two users share; with the transpose, how many users two items share.
    The product is formed a block of rows at a time and cut to ``top_k`` at once, so memory is that of one block and of
    the result.

    Args:
        interactions: Interactions, ``(n_rows, n_columns)``; repeated and stored zero entries do not count.
        top_k: How many of the largest counts each row keeps (ties: the smaller id first); ``None`` keeps all.
        block_rows: Rows per block.

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
    if block_rows < 1:
        raise ValueError(f"block_rows: expected at least 1, got {block_rows}.")
    binary = sp.csr_matrix(interactions, copy=True)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data = np.ones(binary.nnz, dtype=np.int32)  # after dropping zeros: a rating of 0.5 must not round to one
    transposed = binary.T.tocsr()
    blocks = []
    for start in range(0, binary.shape[0], block_rows):
        block = (binary[start : start + block_rows] @ transposed).tocsr()
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        block.data[block.indices == rows + start] = 0
        block.eliminate_zeros()
        block.sort_indices()
        blocks.append(block if top_k is None else largest_per_row(block, top_k))
    if not blocks:
        return sp.csr_matrix((0, 0), dtype=np.int32)
    return sp.vstack(blocks, format="csr")


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
