"""The expected score of a random ranking is the mean over all rankings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from recbole.evaluator.register import metrics_dict

from recbole_mm.slicing.floor import RANDOM_METRICS, random_scores

LENGTH = 7


def over_all_rankings(metric, n, c, p):
    """RecBole's metric of every placement of c positives among n candidates, averaged."""
    lists = []
    for places in itertools.combinations(range(n), c):
        row = np.zeros(max(n, LENGTH), dtype=bool)
        row[list(places)] = True
        lists.append(row[:LENGTH])
    hits = np.array(lists)
    calculate = metrics_dict[metric]({"metric_decimal_place": 10, "topk": [LENGTH]}).metric_info
    arguments = (hits,) if metric in ("hit", "mrr", "precision") else (hits, np.full(len(hits), p))
    return calculate(*arguments).mean(axis=0)


def expected(metric, n, c, p):
    return random_scores([metric], LENGTH, *(np.array([value]) for value in (n, c, p)))[metric]


@pytest.mark.parametrize("metric", RANDOM_METRICS)
@pytest.mark.parametrize(("n", "c"), [(9, 1), (9, 3), (8, 8), (7, 2), (4, 2), (3, 3), (1, 1), (9, 0)])
def test_equals_the_mean_over_all_rankings(metric, n, c):
    np.testing.assert_allclose(
        expected(metric, n, c, max(c, 1)), over_all_rankings(metric, n, c, max(c, 1)), atol=1e-12
    )


@pytest.mark.parametrize("metric", RANDOM_METRICS)
def test_positives_that_are_no_candidates_lower_the_score_and_count_in_the_denominators(metric):
    np.testing.assert_allclose(expected(metric, 9, 2, 5), over_all_rankings(metric, 9, 2, 5), atol=1e-12)


def test_cases_are_averaged_with_equal_weight():
    numbers = np.array([[9, 9, 20], [2, 2, 1], [3, 3, 1]])
    each = [expected("ndcg", *column) for column in numbers.T]
    np.testing.assert_allclose(random_scores(["ndcg"], LENGTH, *numbers)["ndcg"], np.mean(each, axis=0), atol=1e-15)


def test_without_candidates_nothing_is_hit():
    zero, one = np.zeros(1, dtype=int), np.ones(1, dtype=int)
    for values in random_scores(RANDOM_METRICS, LENGTH, zero, zero, one).values():
        assert (values == 0).all()
