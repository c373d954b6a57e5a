from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recbole_mm.report.statistics import average_users, holm, paired_test, summarize


def test_interval_over_runs_is_students():
    summary = summarize([0.41, 0.42, 0.46])
    low, high = stats.t.interval(0.95, 2, loc=0.43, scale=np.std([0.41, 0.42, 0.46], ddof=1) / math.sqrt(3))
    assert summary.mean == pytest.approx(0.43)
    assert summary.std == pytest.approx(np.std([0.41, 0.42, 0.46], ddof=1))
    assert (summary.low, summary.high) == pytest.approx((low, high))
    assert (summary.runs, summary.over) == (3, "runs")


def test_two_runs_use_the_t_quantile_of_one_degree_of_freedom():
    summary = summarize([1.0, 3.0])
    assert summary.high - summary.mean == pytest.approx(12.706, abs=1e-3)


def test_one_run_takes_its_interval_from_the_users_around_the_reported_mean():
    users = np.array([0.0, 1.0, 0.0, 1.0])
    summary = summarize([0.51], users)
    assert summary.over == "users" and math.isnan(summary.std)
    half = stats.t.ppf(0.975, 3) * users.std(ddof=1) / 2
    assert (summary.low, summary.high) == pytest.approx((0.51 - half, 0.51 + half))


def test_one_run_without_users_has_no_interval():
    summary = summarize([0.5])
    assert summary.over == "" and math.isnan(summary.low) and math.isnan(summary.high)


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="one run at least"):
        summarize([])


def test_paired_test_agrees_with_scipy():
    generator = np.random.default_rng(1)
    baseline = generator.random(60)
    model = baseline + generator.normal(0.05, 0.2, 60)
    result = paired_test(model, baseline)
    assert result.t_p == pytest.approx(stats.ttest_rel(model, baseline).pvalue)
    assert result.wilcoxon_p == pytest.approx(stats.wilcoxon(model - baseline).pvalue)
    difference = model - baseline
    assert result.effect == pytest.approx(difference.mean() / difference.std(ddof=1))
    interval = stats.ttest_rel(model, baseline).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert result.difference == pytest.approx(difference.mean()) and result.users == 60


def test_swapping_model_and_baseline_changes_only_signs():
    generator = np.random.default_rng(2)
    left, right = generator.random(40), generator.random(40)
    forth, back = paired_test(left, right), paired_test(right, left)
    assert forth.t_p == pytest.approx(back.t_p) and forth.wilcoxon_p == pytest.approx(back.wilcoxon_p)
    assert forth.effect == pytest.approx(-back.effect) and forth.difference == pytest.approx(-back.difference)


def test_equal_models_do_not_differ():
    result = paired_test(np.full(5, 0.3), np.full(5, 0.3))
    assert (result.difference, result.t_p, result.wilcoxon_p, result.effect) == (0.0, 1.0, 1.0, 0.0)


def test_a_constant_difference_is_certain():
    result = paired_test(np.array([0.3, 0.5, 0.1, 0.7]), np.array([0.2, 0.4, 0.0, 0.6]))
    assert result.t_p == 0.0 and result.effect == math.inf
    assert paired_test(np.zeros(4), np.ones(4)).effect == -math.inf


def test_one_user_is_not_a_test():
    result = paired_test(np.array([0.3]), np.array([0.1]))
    assert result.difference == pytest.approx(0.2) and math.isnan(result.t_p) and math.isnan(result.effect)


@pytest.mark.parametrize(("left", "right"), [([1.0], [1.0, 2.0]), ([], []), ([[1.0]], [[1.0]])])
def test_different_users_are_refused(left, right):
    with pytest.raises(ValueError, match="same users"):
        paired_test(np.array(left), np.array(right))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="finite"):
        paired_test(np.array([1.0, math.nan]), np.array([1.0, 2.0]))


def test_holm_by_hand():
    # sorted .005 x 4, .01 x 3, .03 x 2, .04 x 1 -> .02, .03, .06, max(.06, .04)
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])


def test_holm_never_exceeds_one_and_ignores_missing_tests():
    assert holm([0.6, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.6, math.nan])[1])
    assert holm([math.nan, 0.04])[1] == pytest.approx(0.04)
    assert holm([]) == []


def test_users_are_averaged_over_the_runs_that_have_them():
    first = np.array(["b", "a"]), np.array([0.0, 1.0])
    second = np.array(["a", "longer"]), np.array([0.5, 0.25])
    users, values = average_users([first, second])
    assert users.tolist() == ["a", "b", "longer"] and values.tolist() == [0.75, 0.0, 0.25]
