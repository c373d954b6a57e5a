"""Searches the hyper-parameters of one model, under the protocol that a comparison would give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.store import Store
from recbole_mm.search.sampler import import_optuna
from recbole_mm.search.search import SearchResult, free_space, make_plan, search

__all__ = ["tune"]


def tune(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    trials: int = 20,
    storage: str | None = None,
    space: Mapping[str, Any] | str | Path | None = None,
    output: str | Path | None = None,
    in_process: bool = False,
    verbose: bool = True,
) -> SearchResult:
    """Search the hyper-parameters of a model by its validation metric.

    Trial 0 has the model's defaults, as far as they lie in the space, the next ones explore it evenly, the others are
    chosen by Optuna's TPE; a trial that is worse than the median of the others at the same epoch is pruned. An option
    that the caller sets is not searched. Started again, a search goes on where it was stopped; several processes or
    machines with the same ``storage`` share the trials.

    Args:
        model: Name of a model of ours, of RecBole's or a registered one.
        dataset: Name of the data set.
        config_file_list: Files of options, as for RecBole.
        config_dict: Options.
        trials: Number of trials of the whole study.
        storage: Database such as ``postgresql://user@host/name``; without it a SQLite file in ``output``.
        space: What is searched, or its file; without it ``properties/search/<model>.yaml``.
        output: Folder of the results; ``comparison/<dataset>`` when not given.
        in_process: Whether to run in this process instead of one of its own.
        verbose: Whether to print a line per trial as it ends, and an estimate of the time left.

    Returns:
        The best options and all trials.

    Raises:
        ImportError: Optuna is not installed.
        FileNotFoundError: No search space is known for the model.
        ValueError: An option that the model does not have, or that is set and searched, or no trial ended with a value.

    Example:
        >>> import recbole_mm
        >>> space, options = {"n_layers": [1, 2]}, {"epochs": 1}
        >>> how = {"trials": 2, "space": space, "in_process": True, "verbose": False}
        >>> found = recbole_mm.tune("MMGCN", "mm-toy", config_dict=options, **how)
        >>> found.params["n_layers"] in (1, 2), len(found.trials)
        (True, 2)
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"trials: expected 1 at least, got {trials!r}.")
    import_optuna()
    protocol = make_protocol([model], dataset, config_file_list, config_dict)
    if model in protocol.failures:
        raise ValueError(f"{model}: {protocol.failures[model]}")
    store = Store(output if output is not None else Path("comparison") / dataset)
    settings = protocol.settings[model]
    job = Job(model, dataset, settings, protocol.seed, protocol.seed, data=protocol.data[model])
    plan = make_plan(job, protocol.data[model], free_space(model, space, settings), trials, storage)
    return search(plan, store, in_process, (lambda line: print(line, flush=True)) if verbose else None)
