"""Numbers that tell real features from shuffled, constant or empty ones. Seeded; nothing here trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recbole_mm.nn.graph.bipartite import knn_graph
from recbole_mm.nn.graph.content_knn import nearest_content, neighbour_scores
from recbole_mm.nn.graph.sparse import SparsePattern

__all__ = ["alignment", "content_recall", "describe_matrix", "linear_cka", "neighbour_overlap", "popularity_recall"]

_SAMPLE = 3000
_PAIRS = 20_000
_PERMUTATIONS = 30
CENTRED = 0.5
"""Mean cosine with the common mean from which rows are better centred: all items look alike otherwise."""
LIST = 20
"""Length of the lists whose recall is measured."""


def describe_matrix(matrix: np.ndarray) -> dict[str, Any]:
    """Shape, scale and degenerate parts of a table of vectors.

    Args:
        matrix: Shape ``(n, d)``, float32.

    Returns:
        ``rows``, ``width``, ``norm_mean``, ``norm_spread`` (standard deviation over mean), ``centre`` (mean cosine of
        the rows with their mean), ``constant_columns``, ``zero_rows``, ``duplicate_rows`` (rows equal to an earlier
        one), ``not_finite`` (rows), ``effective_rank`` (exponential of the entropy of the centred singular values), and
        ``feature_norm``, the scaling that these numbers speak for.
    """
    finite = np.isfinite(matrix).all(axis=1)
    rows = matrix[finite].astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    filled = rows[norms > 0]
    spread = float(norms.std() / norms.mean()) if len(filled) else 0.0
    mean = filled.mean(axis=0) if len(filled) else np.zeros(matrix.shape[1])
    unit = filled / np.maximum(np.linalg.norm(filled, axis=1, keepdims=True), 1e-12)
    centre = float((unit @ (mean / max(float(np.linalg.norm(mean)), 1e-12))).mean()) if len(filled) else 0.0
    distinct = len({row.tobytes() for row in matrix[finite]})
    sample = _sampled(filled, _SAMPLE)
    return {
        "rows": int(len(matrix)),
        "width": int(matrix.shape[1]),
        "norm_mean": float(norms.mean()) if len(norms) else 0.0,
        "norm_spread": spread,
        "centre": centre,
        "constant_columns": int((np.ptp(rows, axis=0) == 0).sum()) if len(rows) else 0,
        "zero_rows": int((norms == 0).sum()),
        "duplicate_rows": int(len(rows) - distinct),
        "not_finite": int((~finite).sum()),
        "effective_rank": _effective_rank(sample),
        "feature_norm": "zscore_l2" if centre > CENTRED else "l2" if spread > 0.5 else "none",
    }


def alignment(matrix: np.ndarray, items: np.ndarray, users: np.ndarray, seed: int = 0) -> dict[str, float]:
    r"""Do items that people take together look alike?

    .. math:: z = (c - \bar c_\pi) / s_\pi

    with :math:`c` the mean cosine of pairs of items of one user, and :math:`\bar c_\pi, s_\pi` its mean and standard
    deviation over permutations of the rows. Vectors are centred. Rows that belong to other items, or that say nothing,
    give a z near 0; below 3 is suspicious.

    Args:
        matrix: Vectors, ``(n, d)``.
        items: Row of the item of each interaction, shape ``(n_interactions,)``.
        users: Its user.
        seed: Seed of pairs and permutations.

    Returns:
        ``together``, ``shuffled`` (mean cosines) and ``z``; z is 0 where no user has two items.
    """
    generator = np.random.default_rng(seed)
    order = np.lexsort((generator.random(len(items)), users))
    ordered_items, ordered_users = items[order], users[order]
    beside = (ordered_users[1:] == ordered_users[:-1]) & (ordered_items[1:] != ordered_items[:-1])
    left, right = ordered_items[:-1][beside], ordered_items[1:][beside]
    if len(left) > _PAIRS:
        chosen = generator.choice(len(left), _PAIRS, replace=False)
        left, right = left[chosen], right[chosen]
    if not len(left):
        return {"together": 0.0, "shuffled": 0.0, "z": 0.0}
    unit = _centred(matrix)
    together = _mean_cosine(unit, left, right)
    shuffled = []
    for _ in range(_PERMUTATIONS):
        place = generator.permutation(len(unit))
        shuffled.append(_mean_cosine(unit, place[left], place[right]))
    spread = max(float(np.std(shuffled)), 1e-9)
    return {
        "together": together,
        "shuffled": float(np.mean(shuffled)),
        "z": (together - float(np.mean(shuffled))) / spread,
    }


def linear_cka(left: np.ndarray, right: np.ndarray) -> float:
    r"""Linear centred kernel alignment of two tables with the same rows, in [0, 1].

    .. math:: \|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)

    with centred columns (Kornblith et al., ICML 2019).
    """
    x, y = (side.astype(np.float64) - side.mean(axis=0) for side in (left, right))
    below = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / below) if below > 0 else 0.0


def neighbour_overlap(left: np.ndarray, right: np.ndarray, k: int = 10) -> float:
    """Share of the ``k`` nearest neighbours of a row that two tables with the same rows have in common."""
    k = min(k, len(left) - 1)
    if k < 1:
        return 0.0
    sides = [nearest(side, k) for side in (left, right)]
    return float(sides[0].multiply(sides[1]).sum() / max(min(side.sum() for side in sides), 1))


def nearest(matrix: np.ndarray, k: int) -> sp.csr_matrix:
    """The ``k`` nearest other rows by cosine of the centred rows, as a binary matrix."""
    pattern, _ = knn_graph(torch.from_numpy(_centred(matrix)), k)
    ones = np.ones(pattern.col.numel(), dtype=np.float32)
    shape = (len(matrix), len(matrix))
    return sp.csr_matrix((ones, pattern.col.numpy(), pattern.ptr.numpy()), shape=shape)


def content_recall(matrix: np.ndarray, train: sp.csr_matrix, held_out: sp.csr_matrix, k: int = 50) -> float:
    """Recall@20 of a ranker that knows nothing but the vectors: an item scores by its similarity to the user's items.

    Only the ``k`` nearest neighbours of the candidate count: the model ItemKNNCBF with this modality alone.

    Args:
        matrix: Vectors of all items, rows of zeros for those without, ``(n_items, d)``.
        train: What users had, ``(n_users, n_items)``.
        held_out: What they are to find.
        k: Neighbours.
    """
    table = torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
    parts = {"content": table}, {"content": table.ne(0).any(dim=1)}, {"content": 1.0}
    near, similarity = nearest_content(*parts, min(k, len(matrix) - 1))

    def scores(rows: sp.csr_matrix) -> np.ndarray:
        pairs = rows.tocoo()
        history = SparsePattern.from_pairs(torch.from_numpy(pairs.row), torch.from_numpy(pairs.col), *rows.shape)
        return neighbour_scores(history, near, similarity).numpy()

    return _recall(train, held_out, scores)


def popularity_recall(train: sp.csr_matrix, held_out: sp.csr_matrix) -> float:
    """Recall@20 of the most popular items, the floor of every ranker."""
    count = np.asarray(train.sum(axis=0), dtype=np.float64)
    return _recall(train, held_out, lambda rows: np.repeat(count, rows.shape[0], axis=0))


def _recall(train: sp.csr_matrix, held_out: sp.csr_matrix, score: Any) -> float:
    users = np.flatnonzero(np.diff(held_out.indptr))
    found: list[float] = []
    for start in range(0, len(users), 256):
        block = users[start : start + 256]
        scores = np.asarray(score(train[block]), dtype=np.float64)
        scores[train[block].toarray() > 0] = -np.inf
        length = min(LIST, scores.shape[1])
        best = np.argpartition(-scores, length - 1, axis=1)[:, :length]
        wanted = held_out[block].toarray() > 0
        found += (np.take_along_axis(wanted, best, axis=1).sum(axis=1) / wanted.sum(axis=1)).tolist()
    return float(np.mean(found)) if found else 0.0


def _centred(matrix: np.ndarray) -> np.ndarray:
    centred = matrix.astype(np.float32) - matrix.mean(axis=0, dtype=np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _mean_cosine(unit: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    return float(np.einsum("nd,nd->n", unit[left], unit[right]).mean())


def _sampled(rows: np.ndarray, most: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]


def _effective_rank(rows: np.ndarray) -> float:
    if len(rows) < 2:
        return 0.0
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    total = singular.sum()
    if total <= 0:
        return 0.0
    share = singular[singular > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
