"""Which point a trial of a search tries."""

from __future__ import annotations

import hashlib
import math
from types import ModuleType
from typing import Any

__all__ = ["import_optuna", "make_sampler"]

#: Steps of the sequences, one an option: fractional parts of the golden ratio and of roots of primes.
_STEPS = tuple(x % 1 for x in ((1 + 5**0.5) / 2, *(p**0.5 for p in (2, 3, 7, 13, 23, 11, 19, 31))))


def import_optuna() -> ModuleType:
    """Optuna, an optional requirement.

    Raises:
        ImportError: It is not installed; the message says how to get it.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Hyper-parameter search (trials > 0) needs Optuna, which is not installed: pip install "
            "'recbole-mm[search]', or pip install optuna."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def make_sampler(seed: int, name: str, defaults: dict[str, Any], budget: int) -> Any:
    r"""Trial 0 tries the defaults, the next ones explore, the others are what Optuna's TPE suggests.

    Exploring trials follow a sequence of low discrepancy: along option :math:`j`, trial :math:`k` lies at the quantile
    :math:`\{s_j + k \alpha_j\}` of its range, with irrational steps :math:`\alpha_j` and shifts :math:`s_j` of the
    study.
    So even three of them look into the lower and the upper half of a range, and no two studies try the same points.
    They are half of the budget, at least three and at most ten. A trial depends on its place in the budget and on
    finished trials only.

    Args:
        seed: Seed of the run.
        name: Stands for model, data set and space.
        defaults: Values of trial 0.
        budget: Trials of the search.

    Returns:
        A sampler of Optuna.
    """
    optuna = import_optuna()
    startup = min(max(budget // 2, 3), 10)

    class Sampler(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        def before_trial(self, study: Any, trial: Any) -> None:
            self._index = int(trial.user_attrs["index"])
            self._options: list[str] = []
            seed_of_trial = (_hash(f"{seed} {name}") + self._index) % 2**32
            self._tpe = optuna.samplers.TPESampler(seed=seed_of_trial, n_startup_trials=startup)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            self._options.append(param_name)
            if self._index == 0 and param_name in defaults:
                return defaults[param_name]
            if self._index > startup:
                return self._tpe.sample_independent(study, trial, param_name, param_distribution)
            step = _STEPS[(len(self._options) - 1) % len(_STEPS)]
            place = (_hash(f"{seed} {name} {param_name}") / 2**32 + self._index * step) % 1
            value = _value_at(optuna, param_distribution, place)
            if self._index == 1 and len(self._options) == 1 and value == defaults.get(param_name):
                value = _value_at(optuna, param_distribution, (place + 0.5) % 1)  # trial 1 is not trial 0 again
            return value

    return Sampler()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _value_at(optuna: ModuleType, distribution: Any, place: float) -> Any:
    """The value of a distribution at a quantile in [0, 1)."""
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return distribution.choices[int(place * len(distribution.choices))]
    low, high = distribution.low, distribution.high
    whole = isinstance(distribution, optuna.distributions.IntDistribution)
    if distribution.log:
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    elif distribution.step is not None:  # every value has an equal part of [0, 1)
        value = low + distribution.step * int(place * (round((high - low) / distribution.step) + 1))
    else:
        value = low + place * (high - low)
    return min(max(round(value) if whole else value, low), high)
