"""Trials of a search, shared by any number of processes: each is run once, an interrupted one again.

A study has a budget of trials numbered from 0. What trial ``k`` samples depends on the seed, on ``k`` and on the
finished trials, not on when or where it is run; so a search that was killed and started again ends where an undisturbed
one does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from recbole_mm.alive import is_alive, process_note
from recbole_mm.files import is_of_disk
from recbole_mm.search.sampler import import_optuna, make_sampler

if TYPE_CHECKING:
    import optuna

__all__ = ["Trials", "UnsearchableError", "settled_trials"]

BEAT_SECONDS = 30.0
STALE_SECONDS = 150.0
POLL_SECONDS = 2.0
ATTEMPTS = 5


class UnsearchableError(ValueError):
    """No trial could have a value, whatever its options; the search ends."""


def settled_trials(storage: Any, name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study that are done, for a process that runs none; none for a study that does not exist yet."""
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False)
    except KeyError:
        return []
    return [trial for trial in trials if _is_settled(trial)]


class Trials:
    """The trials of one study, from the point of view of one process.

    Args:
        storage: Optuna's storage.
        name: Name of the study.
        bigger: Whether a larger value is better.
        seed: Seed of the sampler.
        defaults: Values of trial 0, where an option's own default lies in its search space.
        warmup: Epochs that a trial has before it may be pruned.
        budget: Trials that the search is allowed, which says how many of them only explore.
        points: What the sampled points depend on beside the seed; the study's name where not given.
    """

    def __init__(
        self,
        storage: Any,
        name: str,
        bigger: bool,
        seed: int,
        defaults: Mapping[str, Any] | None = None,
        warmup: int = 5,
        budget: int = 20,
        points: str | None = None,
    ) -> None:
        optuna = import_optuna()
        self._optuna = optuna
        self._storage = storage
        self._bigger = bigger
        self._beats: dict[int, tuple[Any, float]] = {}
        self.study = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            direction="maximize" if bigger else "minimize",
            sampler=make_sampler(seed, points or name, dict(defaults or {}), budget),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=warmup),
        )
        self._id = storage.get_study_id_from_name(name)

    def run(
        self, objective: Callable[[optuna.Trial], float], budget: int, after: Callable[[], object] = lambda: None
    ) -> None:
        """Run trials until the budget is used up, by this process or by others.

        A trial whose objective raises is kept as failed, with the reason, and counts. A disk or a database that is
        full or does not answer, or :class:`UnsearchableError`, ends the search instead, and the trial is run again by
        the next one. A trial that was given to another process meanwhile, because this one was silent for too long (a
        sleeping machine), is left to that process.

        Args:
            objective: Runs one trial: takes what it needs from it and returns the value, or raises ``TrialPruned``.
            budget: Number of trials of the whole study.
            after: Called after every trial.
        """
        while (trial := self._claim(budget)) is not None:
            states = self._optuna.trial.TrialState
            value, state, reason = None, states.COMPLETE, ""
            with self._beating(trial):
                try:
                    value = float(objective(trial))
                except self._optuna.TrialPruned:
                    state = states.PRUNED
                except BaseException as error:
                    own = isinstance(error, UnsearchableError) or self._is_of_machine(error)
                    if own or not isinstance(error, Exception):
                        # Ctrl-C, a full disk, or a split without validation, is no fault of the options. This process
                        # may live on, so that nobody else would find the trial abandoned.
                        self._abandon(trial)
                        raise
                    state, reason = states.FAIL, f"{type(error).__name__}: {error}"
            if value is not None and value != value:
                value, state, reason = None, states.FAIL, "the validation metric is not a number"
            try:
                if reason:
                    trial.set_user_attr("error", reason)
                self.study.tell(trial, value, state=state)
            except (RuntimeError, ValueError):
                if not self._storage.get_trial(trial._trial_id).state.is_finished():
                    raise
            after()

    def finished(self, budget: int | None = None) -> list[optuna.trial.FrozenTrial]:
        """Trials that are done (complete, pruned, or failed for good), in their order.

        Args:
            budget: Leaves out what an earlier search with a larger budget did beyond this one.
        """
        done = [trial for trial in self.study.get_trials(deepcopy=False) if _is_settled(trial)]
        done = [trial for trial in done if budget is None or trial.user_attrs["index"] < budget]
        return sorted(done, key=lambda trial: int(trial.user_attrs["index"]))

    def best(self, budget: int | None = None) -> optuna.trial.FrozenTrial | None:
        """The best complete trial within the budget; of equal ones the first."""
        complete = [trial for trial in self.finished(budget) if trial.state == self._optuna.trial.TrialState.COMPLETE]
        sign = 1.0 if self._bigger else -1.0
        return max(complete, key=lambda t: (sign * t.value, -int(t.user_attrs["index"])), default=None)  # type: ignore[operator]

    def _claim(self, budget: int) -> optuna.Trial | None:
        """The next trial for this process, or ``None`` when the budget is used up."""
        while True:
            index, busy, options = self._next_index(budget)
            if index is None:
                if not busy:
                    return None
                time.sleep(POLL_SECONDS)
                continue
            # The note goes in with the trial itself. Trials are numbered as they are written, so of two processes that
            # claim the same index both see the lower number, and the higher one gives way.
            template = self._optuna.trial.create_trial(
                state=self._optuna.trial.TrialState.RUNNING,
                user_attrs={"index": index, "worker": process_note()},
                system_attrs={"fixed_params": options} if options else {},  # as Optuna's enqueue_trial has it
            )
            identity = self._storage.create_new_trial(self._id, template_trial=template)
            trial = self._optuna.Trial(self.study, identity)
            if not any(
                other.number < trial.number and other.user_attrs.get("index") == index and self._counts(other)
                for other in self.study.get_trials(deepcopy=False)
            ):
                return trial
            trial.set_user_attr("given_up", True)
            self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _next_index(self, budget: int) -> tuple[int | None, bool, dict[str, Any]]:
        """The first trial of the budget that nobody has done or is doing.

        Returns:
            Its number, whether others are still at work, and its options where it was interrupted: it goes on with
            them whatever was found out meanwhile.
        """
        taken: set[int] = set()
        busy = False
        interrupted: dict[int, list[Any]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            index = int(trial.user_attrs.get("index", -1))
            if _is_settled(trial):
                taken.add(index)
            elif trial.state == self._optuna.trial.TrialState.RUNNING:
                if self._is_running(trial):
                    taken.add(index)
                    busy = busy or index < budget
                    continue
                self._abandon(trial)
                interrupted.setdefault(index, []).append(trial)
            elif trial.user_attrs.get("interrupted"):
                interrupted.setdefault(index, []).append(trial)
        given_up = {index for index, trials in interrupted.items() if _deaths(trials) >= ATTEMPTS}
        found = next((i for i in range(budget) if i not in taken and i not in given_up), None)
        known = [trial.params for trial in interrupted.get(-1 if found is None else found, ()) if _is_sampled(trial)]
        return found, busy, dict(known[-1]) if known else {}

    def _counts(self, trial: optuna.trial.FrozenTrial) -> bool:
        running = trial.state == self._optuna.trial.TrialState.RUNNING and self._is_running(trial)
        return running or _is_settled(trial)

    def _is_running(self, trial: optuna.trial.FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker", {})
        if worker.get("host") == socket.gethostname():
            return is_alive(worker)
        # Another machine cannot be asked, and its clock may differ: its trial lives while its beat changes.
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        before = self._beats.get(trial.number)
        if before is None or before[0] != beat:
            self._beats[trial.number] = (beat, now)
            return True
        return now - before[1] < STALE_SECONDS

    def _abandon(self, trial: optuna.trial.FrozenTrial | optuna.Trial) -> None:
        """Mark a trial that nobody runs any more."""
        try:
            self._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            self._storage.set_trial_state_values(trial._trial_id, state=self._optuna.trial.TrialState.FAIL)
        except RuntimeError:  # Optuna's way to say that somebody else has marked it meanwhile
            pass
        except self._optuna.exceptions.StorageInternalError:  # a full disk; once this process is gone it is found out
            pass

    def _is_of_machine(self, error: BaseException) -> bool:
        """Whether an error would have met any options: they are tried again."""
        return is_of_disk(error) or isinstance(error, self._optuna.exceptions.StorageInternalError)

    @contextmanager
    def _beating(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell other machines every now and then that a trial is being run."""
        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(BEAT_SECONDS):
                count += 1
                with suppress(Exception):  # a database out of reach for a moment; the next beat tries again
                    trial.set_user_attr("beat", count)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _is_settled(trial: optuna.trial.FrozenTrial) -> bool:
    state = trial.state.name
    done = state in ("COMPLETE", "PRUNED") or (state == "FAIL" and "error" in trial.user_attrs)
    return done and "index" in trial.user_attrs


def _is_sampled(trial: optuna.trial.FrozenTrial) -> bool:
    return "options" in trial.user_attrs


def _deaths(trials: list[optuna.trial.FrozenTrial]) -> int:
    """How often in a row a trial was interrupted without having got further than before."""
    furthest, count = 0, 0
    for trial in trials:
        epochs = int(trial.user_attrs.get("epochs", 0))
        furthest, count = (epochs, 1) if epochs > furthest else (furthest, count + 1)
    return count
