"""The score of a random ranking: exact expectations of RecBole's ranking metrics, without drawing anything."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["RANDOM_METRICS", "random_scores"]

#: The metrics whose expectation is known.
RANDOM_METRICS = ("recall", "mrr", "ndcg", "hit", "precision", "map")


def random_scores(
    metrics: Iterable[str], length: int, candidates: np.ndarray, reachable: np.ndarray, positives: np.ndarray
) -> dict[str, np.ndarray]:
    r"""Expected metrics where each case's candidates are ranked in an order drawn uniformly.

    With :math:`n` candidates of which :math:`c` are positives, and :math:`p \geq c` positives in all,

    .. math::
        P(\text{hit at } i) = \frac{c}{n}, \quad
        P(\text{hits at } i \text{ and } j) = \frac{c (c - 1)}{n (n - 1)}, \quad
        P(\text{none up to } i) = \prod_{j < i} \frac{n - c - j}{n - j},

    for positions up to :math:`n`; everything follows from these by linearity. The denominators are RecBole's: the
    ideal DCG and the average precision count :math:`\min(k, p)` positives.

    Args:
        metrics: Names out of :data:`RANDOM_METRICS`.
        length: Longest list.
        candidates: Number of candidates of each case. Shape ``(n_cases,)``.
        reachable: Positives among them. Shape ``(n_cases,)``.
        positives: All positives, at least one. Shape ``(n_cases,)``.

    Returns:
        Metric to its mean over the cases for lists of 1 to ``length`` items. Shape ``(length,)`` each.

    Example:
        >>> one = np.ones(1, dtype=int)
        >>> random_scores(["hit"], 3, 4 * one, one, one)["hit"].tolist()
        [0.25, 0.5, 0.75]
    """
    # Cases of equal numbers are computed once: there are few, however many users are tested.
    kinds, frequency = np.unique(np.stack([candidates, reachable, positives], axis=1), axis=0, return_counts=True)
    n, c, p = (column[:, None].astype(np.float64) for column in kinds.T)
    rank = np.arange(1, length + 1, dtype=np.float64)[None]
    exists = rank <= n
    hit_here = np.where(exists, c / np.maximum(n, 1), 0.0)
    two_hits = np.where(exists, c * (c - 1) / np.maximum(n * (n - 1), 1), 0.0)
    left = np.maximum(n - rank + 1, 1)
    none_yet = np.cumprod(np.where(exists, np.clip(1 - c / left, 0.0, 1.0), 1.0), axis=1)
    first_here = np.concatenate([np.ones_like(n), none_yet[:, :-1]], axis=1) - none_yet
    relevant = np.minimum(rank, p)
    discount = 1 / np.log2(rank + 1)
    ideal = np.cumsum(discount, axis=1)[0][relevant.astype(int) - 1]
    # Expected precision at a position that is a hit: the hit itself and those before it.
    average_precision = (hit_here + (rank - 1) * two_hits) / rank
    values = {
        "recall": lambda: np.cumsum(hit_here, axis=1) / p,
        "precision": lambda: np.cumsum(hit_here, axis=1) / rank,
        "hit": lambda: 1 - none_yet,
        "mrr": lambda: np.cumsum(first_here / rank, axis=1),
        "ndcg": lambda: np.cumsum(hit_here * discount, axis=1) / ideal,
        "map": lambda: np.cumsum(average_precision, axis=1) / relevant,
    }
    return {metric: np.average(values[metric](), axis=0, weights=frequency) for metric in metrics}
