"""What is said about a search while it runs: a line per trial as it ends, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from recbole_mm.experiment.remaining import duration
from recbole_mm.search.storage import open_storage
from recbole_mm.search.trials import settled_trials

__all__ = ["Progress"]


class Progress:
    """Watches a study through its database, so that trials of other processes and machines are seen, too.

    Args:
        url: Database of the study.
        study: Its name.
        budget: Number of trials of the whole search.
        metric: Name of the validation metric.
        say: Takes a line for the user.

    Example:
        A line is ``trial 2/20 complete: valid recall@10 0.2143, best so far; learning_rate=0.01 (12 s); about 4 min
        left``. Options are named where they differ from those of the first trial.
    """

    def __init__(self, url: str, study: str, budget: int, metric: str, say: Callable[[str], None]) -> None:
        self._url, self._study, self._budget, self._metric, self._say = url, study, budget, metric, say
        self._storage: Any = None
        self._seen: dict[int, Any] = {}
        self._started = time.monotonic()
        self._before: int | None = None

    def update(self) -> None:
        """Say what has ended since the last call; the first call finds what earlier searches have left."""
        try:
            self._storage = self._storage or open_storage(self._url)
            found = settled_trials(self._storage, self._study)
        except Exception:  # a database out of reach for a moment must not end the search; the next look tries again
            return
        trials = [trial for trial in found if trial.user_attrs["index"] < self._budget]
        new = [trial for trial in trials if trial.user_attrs["index"] not in self._seen]
        for trial in sorted(new, key=lambda trial: int(trial.user_attrs["index"])):
            self._seen[int(trial.user_attrs["index"])] = trial
            self._say(self._line(trial) + (self._left() if self._before is not None else ", done before"))
        if self._before is None:
            self._before = len(self._seen)

    def _line(self, trial: Any) -> str:
        index, attributes = int(trial.user_attrs["index"]), trial.user_attrs
        line = f"trial {index + 1}/{self._budget} {trial.state.name.lower()}"
        if trial.value is not None:
            line += f": valid {self._metric} {trial.value:.4f}{self._best(trial)}"
        elif attributes.get("error"):
            line += f": {attributes['error']}"
        options = self._changed(attributes.get("options", {}))
        return line + (f"; {options}" if options else "") + _seconds(trial)

    def _best(self, trial: Any) -> str:
        bigger = self._storage.get_study_directions(self._storage.get_study_id_from_name(self._study))[0].name
        complete = {index: t.value for index, t in self._seen.items() if t.state.name == "COMPLETE"}
        if not complete:
            return ""
        choose = max if bigger == "MAXIMIZE" else min
        best = choose(complete.values())
        index = min(index for index, value in complete.items() if value == best)
        return ", best so far" if index == int(trial.user_attrs["index"]) else f", best {best:.4f} of trial {index + 1}"

    def _changed(self, options: Mapping[str, Any]) -> str:
        first = self._seen[0].user_attrs.get("options", {}) if 0 in self._seen else {}
        own = self._seen.get(0) is not None and options == first
        shown = {key: value for key, value in options.items() if own or key not in first or value != first[key]}
        return ", ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()
        )

    def _left(self) -> str:
        done, left = len(self._seen) - (self._before or 0), self._budget - len(self._seen)
        if not left:
            return ""
        return f"; about {duration((time.monotonic() - self._started) / done * left)} left"


def _seconds(trial: Any) -> str:
    begin, end = trial.datetime_start, trial.datetime_complete
    return "" if begin is None or end is None else f" ({duration((end - begin).total_seconds())})"
