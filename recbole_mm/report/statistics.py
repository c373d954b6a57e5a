"""Means with intervals over repeated runs, and paired tests over users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["PairedTest", "Summary", "average_users", "holm", "paired_test", "summarize"]


@dataclass(frozen=True)
class Summary:
    """A metric over repeated runs.

    Attributes:
        mean: Mean over the runs.
        std: Standard deviation over the runs (divisor n - 1); NaN for a single run.
        low: Lower end of the 95 % interval; NaN where there is nothing to estimate it from.
        high: Upper end.
        runs: Number of runs.
        over: What the interval is over: ``runs`` or, for a single run, ``users``; empty without an interval.
    """

    mean: float
    std: float
    low: float
    high: float
    runs: int
    over: str


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two models over the same users.

    Attributes:
        difference: Mean difference, model minus baseline.
        low: Lower end of the 95 % interval of the difference (Student's t).
        high: Upper end.
        t_p: p-value of the paired t-test, two-sided.
        wilcoxon_p: p-value of the Wilcoxon signed-rank test, two-sided.
        effect: Cohen's d of the differences: their mean divided by their standard deviation.
        users: Number of users.
    """

    difference: float
    low: float
    high: float
    t_p: float
    wilcoxon_p: float
    effect: float
    users: int


def summarize(values: Sequence[float], users: np.ndarray | None = None, level: float = 0.95) -> Summary:
    r"""Mean, standard deviation and interval of one metric.

    With two runs or more the interval is Student's over the runs,

    .. math:: \bar x \pm t_{n-1} \, s / \sqrt n,

    so it says how far another seed may take the mean. One run says nothing about other seeds; its interval is then over
    the users, the same formula applied to their values.

    Args:
        values: The metric of each run.
        users: Values of the users, for a single run.
        level: Coverage of the interval.

    Returns:
        The summary.

    Raises:
        ValueError: No value at all.

    Example:
        >>> summary = summarize([1.0, 2.0, 3.0])
        >>> summary.mean, summary.std, round(summary.low, 3), summary.over
        (2.0, 1.0, -0.484, 'runs')
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("summarize expects the metric of one run at least, got none.")
    mean = float(data.mean())
    if data.size > 1:
        return Summary(mean, float(data.std(ddof=1)), *_interval(data, level), int(data.size), "runs")
    if users is not None and users.size > 1:
        half = _half_width(np.asarray(users, dtype=np.float64), level)
        return Summary(mean, math.nan, mean - half, mean + half, 1, "users")
    return Summary(mean, math.nan, math.nan, math.nan, 1, "")


def average_users(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the runs of each user's value.

    Args:
        runs: For each run, user tokens and their values, both ``(users of the run,)``. A random split may leave a user
            without test items in one of them.

    Returns:
        The distinct user tokens, sorted, and the mean over the runs that have the user.

    Example:
        >>> runs = [(np.array(["a", "b"]), np.array([1.0, 0.0])), (np.array(["a"]), np.array([0.0]))]
        >>> average_users(runs)[1].tolist()
        [0.5, 0.0]
    """
    tokens = np.concatenate([run[0] for run in runs])
    users, position, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    total = np.bincount(position.ravel(), weights=np.concatenate([run[1] for run in runs]), minlength=len(users))
    return users, total / counts


def paired_test(model: np.ndarray, baseline: np.ndarray, level: float = 0.95) -> PairedTest:
    """Test whether a model's per-user metric differs from the baseline's.

    The t-test is about the mean difference, the quantity in the table. The Wilcoxon test makes no assumption about the
    shape of the differences; users without a difference take no part in it (Wilcoxon's own rule).

    Args:
        model: Metric of each user under the model. Shape ``(users,)``.
        baseline: The same users under the baseline. Shape ``(users,)``.
        level: Coverage of the interval of the difference.

    Returns:
        The tests. Equal models have p = 1 and effect 0; with fewer than two users everything but the difference is NaN.

    Raises:
        ValueError: Shapes differ, no user, or a value is not finite.
    """
    ours, theirs = np.asarray(model, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1 or ours.size == 0:
        raise ValueError(f"paired_test expects two vectors of the same users, got shapes {ours.shape}, {theirs.shape}.")
    difference = ours - theirs
    if not np.isfinite(difference).all():
        raise ValueError("paired_test expects finite metrics, got NaN or infinity.")
    mean, n = float(difference.mean()), int(difference.size)
    if n < 2:
        return PairedTest(mean, math.nan, math.nan, math.nan, math.nan, math.nan, n)
    if not difference.any():
        return PairedTest(0.0, 0.0, 0.0, 1.0, 1.0, 0.0, n)
    spread = float(difference.std(ddof=1))
    # Rounding alone separates equal differences by about 1e-16 of their size.
    if spread <= 1e-12 * np.abs(difference).max():
        t_p, effect = 0.0, math.copysign(math.inf, mean)
    else:
        t_p, effect = float(stats.ttest_rel(ours, theirs).pvalue), mean / spread
    wilcoxon = stats.wilcoxon(difference, zero_method="wilcox", alternative="two-sided")
    return PairedTest(mean, *_interval(difference, level), t_p, float(wilcoxon.pvalue), effect, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that keep the chance of any false finding among all of them below the level.

    Args:
        p_values: Raw p-values; NaN (no test) stays NaN and does not count.

    Returns:
        Adjusted p-values in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(raw.shape, math.nan)
    tested = np.flatnonzero(~np.isnan(raw))
    order = tested[np.argsort(raw[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(raw[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def _interval(data: np.ndarray, level: float) -> tuple[float, float]:
    mean, half = float(data.mean()), _half_width(data, level)
    return mean - half, mean + half


def _half_width(data: np.ndarray, level: float) -> float:
    quantile = stats.t.ppf(0.5 + level / 2, data.size - 1)
    return float(quantile * data.std(ddof=1) / math.sqrt(data.size))
