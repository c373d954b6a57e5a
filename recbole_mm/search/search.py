"""Hyper-parameter search on the validation part; nothing here ever sees a test metric."""

from __future__ import annotations

import gc
import glob
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from recbole.config import Config

from recbole_mm.experiment.children import ChildError, Children, run_in_child
from recbole_mm.experiment.fingerprint import ChangedDataError
from recbole_mm.experiment.job import Job, prepare, score_of, train, versions, without_arguments
from recbole_mm.experiment.resume import go_on_in_place
from recbole_mm.experiment.store import Store, digest, to_json
from recbole_mm.files import is_of_disk, write_atomically
from recbole_mm.host.session import begin_session, notes
from recbole_mm.search.plan import Plan, free_space, make_plan
from recbole_mm.search.progress import Progress
from recbole_mm.search.sampler import import_optuna
from recbole_mm.search.space import Space, read_space
from recbole_mm.search.storage import check_storage, open_storage, resolve_storage, unusable, without_password
from recbole_mm.search.trials import ATTEMPTS, Trials, UnsearchableError, settled_trials

if TYPE_CHECKING:
    import optuna

__all__ = ["Plan", "SearchResult", "free_space", "make_plan", "search", "search_task"]


@dataclass
class SearchResult:
    """What a search found.

    Attributes:
        model: Name of the model.
        params: Options of the best trial; empty where nothing was to be searched.
        value: Its validation metric; ``None`` where nothing was to be searched.
        metric: Name of the metric, such as ``recall@20``.
        trials: Every trial: ``index``, ``state``, ``value``, ``params``, ``epochs``, ``seconds``, ``error``.
        study: Name of the study.
        storage: Its database.
        budget: Trials that the search was allowed.

    Example:
        >>> import recbole_mm
        >>> trial = {"index": 0, "state": "complete", "value": 0.25, "params": {"n_layers": 2}, "epochs": 9}
        >>> found = recbole_mm.SearchResult("MMGCN", {"n_layers": 2}, 0.25, "recall@20", [trial])
        >>> found.metric, found.value, found.params
        ('recall@20', 0.25, {'n_layers': 2})
    """

    model: str
    params: dict[str, Any]
    value: float | None
    metric: str | None
    trials: list[dict[str, Any]] = field(default_factory=list)
    study: str = ""
    storage: str = ""
    budget: int = 0


def search(
    plan: Plan,
    store: Store,
    in_process: bool = False,
    say: Callable[[str], None] | None = None,
    children: Children | None = None,
) -> SearchResult:
    """Carry out a plan, or go on with it: with the trial, and the epoch of it, where it was broken off.

    Args:
        plan: The plan.
        store: Where the study and its result are kept, and the states of trials that are not done.
        in_process: Whether to run in this process.
        say: Takes a line per trial.
        children: Gets the process of the search, to end it from another thread.

    Returns:
        The best options and all trials; also in ``search/<study>.json`` of the store.

    Raises:
        ChildError: The search could not be run.
        ValueError: No trial ended with a value, or the database cannot be used.
    """
    if not plan.space:
        return SearchResult(plan.job.model, {}, None, None, [], plan.study, "", plan.trials)
    folder = store.folder / "search"
    folder.mkdir(parents=True, exist_ok=True)
    storage = resolve_storage(plan.storage or f"sqlite:///{folder / 'study.db'}")
    check_storage(storage, plan.study)
    states = folder / "states" / plan.study
    task = {"plan": {**asdict(plan), "storage": storage}, "states": str(states)}
    look: Callable[[], object] = lambda: None  # noqa: E731 - nobody listens
    if say is not None:
        metric = str(plan.job.settings.get("valid_metric", "MRR@10")).lower()
        look = Progress(storage, plan.study, plan.trials, metric, say).update
        look()
    answer = search_task(task, look) if in_process else _in_children(task, plan, storage, folder, look, children)
    result = SearchResult(**answer)
    write_atomically(folder / f"{plan.study}.json", json.dumps(to_json(asdict(result)), indent=1) + "\n")
    shutil.rmtree(states, ignore_errors=True)
    if result.value is None:
        reasons = sorted({str(trial["error"]) for trial in result.trials if trial["error"]})
        raise ValueError(f"No trial of {plan.trials} ended with a value. {'; '.join(reasons)}")
    return result


def _in_children(
    task: Mapping[str, Any],
    plan: Plan,
    storage: str,
    folder: Path,
    look: Callable[[], object],
    children: Children | None,
) -> dict[str, Any]:
    """Run the trials in a process, and in another one where a trial kills it."""
    mark = f"{plan.study}-{socket.gethostname()}-"
    for left in folder.glob(f"{glob.escape(mark)}*"):  # of a search that was killed with its process
        process = left.name[len(mark) :]  # or of another machine, whose name begins with this one's
        if left.is_dir() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    work = folder / f"{mark}{os.getpid()}"  # others may work on the same study
    deaths, settled = 0, 0
    while True:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            answer = dict(run_in_child(search_task, task, work, [plan.job.model], look, children=children))
        except ChildError as error:
            # A trial that kills its process, for lack of memory say, must not take the others along.
            before, settled = settled, _count_settled(storage, plan.study) if error.died else 0
            deaths = 1 if settled > before else deaths + 1
            if not error.died or deaths > 2 * ATTEMPTS:
                raise
        else:
            if answer["value"] is not None:  # else the logs say more about what went wrong
                shutil.rmtree(work, ignore_errors=True)
            return answer


def search_task(task: Mapping[str, Any], after: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run trials of a study until its budget is used up.

    Args:
        task: ``plan``, the fields of :class:`Plan`, and ``states``, a folder for the states of trials.
        after: Called after every trial.

    Returns:
        The fields of :class:`SearchResult`.
    """
    plan = Plan(**{**task["plan"], "job": Job(**task["plan"]["job"])})
    space = _space(plan.space)
    with without_arguments():
        config = Config(model=plan.job.model, dataset=plan.job.dataset, config_dict=dict(plan.job.settings))
    defaults = {name: d.stored(config[name]) for name, d in space.items() if name in config and d.holds(config[name])}
    # Not the study's name: it has a hash of the whole data, and the test part must not move a search.
    points = digest({"dataset": plan.job.dataset, "model": plan.job.model, "space": plan.space})
    bigger, storage = config["valid_metric_bigger"], open_storage(str(plan.storage))
    states = Path(task["states"])
    try:
        trials = Trials(storage, plan.study, bigger, plan.job.seed, defaults, budget=plan.trials, points=points)
        trials.run(lambda trial: _objective(trial, plan.job, space, states), plan.trials, after)
    except import_optuna().exceptions.StorageInternalError as error:
        raise unusable(str(plan.storage), error.__cause__ or error) from error
    done = trials.finished(plan.trials)
    best = trials.best(plan.trials)
    return {
        "model": plan.job.model,
        "params": {} if best is None else dict(best.user_attrs["options"]),
        "value": None if best is None else best.value,
        "metric": str(config["valid_metric"]).lower(),
        "trials": [_summary(trial) for trial in done],
        "study": plan.study,
        "storage": without_password(str(plan.storage)),
        "budget": plan.trials,
    }


def _objective(trial: optuna.Trial, job: Job, space: Space, states: Path) -> float:
    """Train with the options of a trial and return the best validation metric.

    A trial that was broken off goes on from its state, which is kept until the trial has its value.
    """
    options = {name: dimension.sample(name, trial) for name, dimension in space.items()}
    trial.set_user_attr("options", options)
    state = states / f"trial-{trial.user_attrs['index']}"
    try:
        value = _train_trial(trial, Job(**{**asdict(job), "settings": {**job.settings, **options}}), state)
    except Exception as error:
        if not is_of_disk(error):  # else it is run again
            shutil.rmtree(state, ignore_errors=True)
        raise
    finally:
        gc.collect()  # models and loaders refer to each other; many trials share this process
    shutil.rmtree(state, ignore_errors=True)
    return value


def _train_trial(trial: optuna.Trial, job: Job, state: Path) -> float:
    optuna = import_optuna()
    begin = time.perf_counter()
    try:
        prepared = prepare(job, str(state), with_test=False)
    except ChangedDataError as error:
        raise UnsearchableError(str(error)) from error
    trainer = prepared.trainer
    if not prepared.valid_data or not trainer.eval_step:
        raise UnsearchableError(
            "A search compares options on the validation part, and there is none: "
            + ("leave eval_step above 0." if prepared.valid_data else "give eval_args a split with one.")
        )
    reported: set[int] = set()
    go_on_in_place(trainer, versions(), saved=False)

    def after_validation(epoch: int, result: dict[str, float]) -> None:
        trial.set_user_attr("epochs", epoch)
        trial.set_user_attr("seconds", time.perf_counter() - begin + session.earlier[0])
        for point in notes(trainer)["curve"]:  # those before it was broken off, too
            if point["epoch"] not in reported:
                trial.report(score_of(point["valid"], trainer.valid_metric), point["epoch"])
                reported.add(point["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    session = begin_session(trainer)
    training = train(prepared, saved=False, on_validation=after_validation)
    if not training["curve"]:
        raise ValueError(f"it was never validated: eval_step={trainer.eval_step} is more than epochs={trainer.epochs}.")
    return float(training["best_valid_score"])


def _count_settled(storage: str, study: str) -> int:
    return len(settled_trials(open_storage(storage), study))


def _space(content: Mapping[str, Any]) -> Space:
    entries = {name: entry.get("values", entry) for name, entry in content.items()}
    return read_space("the plan", entries)


def _summary(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    return {
        "index": attributes["index"],
        "state": trial.state.name.lower(),
        "value": trial.value,
        "params": attributes.get("options", {}),
        "epochs": attributes.get("epochs"),
        "seconds": attributes.get("seconds"),
        "worker": "{host}:{pid}".format(**attributes["worker"]) if "worker" in attributes else None,
        "error": attributes.get("error"),
    }
