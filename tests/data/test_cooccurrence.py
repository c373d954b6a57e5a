from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recbole_mm.data.cooccurrence import cooccurrence, largest_per_row

MATRICES = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(0, 1)
)


def reference(matrix: np.ndarray, top_k: int | None) -> list[dict[int, int]]:
    """Pairs of rows one by one; of equal counts the smaller id first."""
    rows = []
    for left in range(len(matrix)):
        counts = {}
        for right in range(len(matrix)):
            common = sum(1 for a, b in zip(matrix[left], matrix[right]) if a and b)
            if left != right and common:
                counts[right] = common
        best = sorted(counts, key=lambda other, counts=counts: (-counts[other], other))[:top_k]
        rows.append({other: counts[other] for other in best})
    return rows


def as_rows(matrix: sp.csr_matrix) -> list[dict[int, int]]:
    return [dict(zip(row.indices.tolist(), row.data.tolist())) for row in map(matrix.getrow, range(matrix.shape[0]))]


@given(matrix=MATRICES, top_k=st.one_of(st.none(), st.integers(1, 4)), block=st.integers(1, 10))
def test_equals_counting_pair_by_pair(matrix: np.ndarray, top_k: int | None, block: int) -> None:
    found = cooccurrence(sp.csr_matrix(matrix), top_k, block_rows=block)
    assert found.shape == (len(matrix), len(matrix))
    assert as_rows(found) == reference(matrix, top_k)
    assert found.has_sorted_indices
    assert found.dtype == np.int32


def test_ties_keep_the_smaller_ids() -> None:
    matrix = sp.csr_matrix(np.ones((6, 3)))
    kept = cooccurrence(matrix, top_k=2)
    assert [sorted(row) for row in as_rows(kept)] == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 1]]


def test_repeated_and_weighted_interactions_count_once() -> None:
    matrix = sp.csr_matrix(([5.0, 3.0, 0.0, 0.5, 2.0], [0, 0, 1, 0, 1], [0, 3, 5]), shape=(2, 2))
    assert matrix.nnz == 5  # item 0 twice for the first user
    before = matrix.toarray()
    assert cooccurrence(matrix).toarray().tolist() == [[0, 1], [1, 0]]  # the rating 0.0 is no interaction
    assert np.array_equal(matrix.toarray(), before)


def test_more_than_255_common_columns() -> None:
    assert cooccurrence(sp.csr_matrix(np.ones((2, 300), dtype=np.int8)))[0, 1] == 300


def test_rows_without_interactions_and_no_rows_at_all() -> None:
    assert cooccurrence(sp.csr_matrix((4, 3)), top_k=2).nnz == 0
    assert cooccurrence(sp.csr_matrix((0, 3))).shape == (0, 0)


def test_blocks_are_cut_by_their_counts_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = sp.random(40, 20, density=0.2, format="csr", random_state=0)
    expected = cooccurrence(matrix, top_k=5, block_rows=40)
    for size in (1, 30, 500):
        monkeypatch.setattr("recbole_mm.data.cooccurrence._BLOCK_COUNTS", size)
        assert (cooccurrence(matrix, top_k=5) != expected).nnz == 0


def test_memory_is_bounded_where_everybody_shares_something() -> None:
    matrix = sp.csr_matrix(np.ones((3000, 1), dtype=np.float32))
    tracemalloc.start()
    try:
        cooccurrence(matrix, top_k=5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 70e6, "1024 rows of counts take 138 MB"


def test_sizes_below_one_are_refused() -> None:
    matrix = sp.csr_matrix(np.ones((2, 2)))
    with pytest.raises(ValueError, match="top_k: expected at least 1, got 0"):
        cooccurrence(matrix, top_k=0)
    with pytest.raises(ValueError, match="block_rows: expected at least 1, got 0"):
        cooccurrence(matrix, block_rows=0)


def test_largest_per_row_keeps_values_and_positions() -> None:
    matrix = sp.csr_matrix(np.array([[0.5, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    assert largest_per_row(matrix, 2).toarray().tolist() == [[0, 0, 2, 2], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert largest_per_row(matrix, 1).toarray().tolist() == [[0, 0, 2, 0], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_equal_values_keep_the_smaller_column_whatever_their_order() -> None:
    unsorted = sp.csr_matrix((np.array([1, 1, 1]), np.array([2, 0, 1]), np.array([0, 3])), shape=(1, 3))
    assert largest_per_row(unsorted, 2).toarray().tolist() == [[1, 1, 0]]
