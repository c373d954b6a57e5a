"""Compares models: one protocol, several seeds, equal search budgets, statistics, files and figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.comparison.protocol import Protocol, make_protocol
from recbole_mm.comparison.runs import Runs
from recbole_mm.config.numbers import is_whole
from recbole_mm.config.ranges import check_ranges
from recbole_mm.config.refusals import mapping, refuse
from recbole_mm.experiment.ablation import CONTENT_MODEL
from recbole_mm.experiment.children import model_modules
from recbole_mm.experiment.store import Store
from recbole_mm.host.names import check_model_name
from recbole_mm.host.registry import registered_models
from recbole_mm.report.render import markdown
from recbole_mm.report.summary import Report
from recbole_mm.search.sampler import import_optuna

__all__ = ["compare"]


def compare(
    models: Sequence[str | type],
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 3,
    baseline: str | None = None,
    trials: int = 0,
    storage: str | None = None,
    output: str | Path | None = None,
    ablate: bool = False,
    model_settings: Mapping[str, Mapping[str, Any]] | None = None,
    search_spaces: Mapping[str, Mapping[str, Any] | str] | None = None,
    split_seed: int | None = None,
    jobs: int = 1,
    in_process: bool = False,
    keep_checkpoints: bool = False,
    worker: bool = False,
    verbose: bool = True,
) -> pd.DataFrame:
    """Compare models of ours, of RecBole's and of your own under one protocol.

    Every run is RecBole's own: with the same model, seed and options ``run_recbole`` gives the same metrics. Filtering,
    split, candidates, mask, metrics and evaluator are the same for every model; where a model's split would differ, it
    is left out with the reason, never compared. Means come with standard deviations and 95 % intervals over the seeds,
    and with paired tests over the users against a baseline (t and Wilcoxon, Holm-corrected).

    Everything is written as it comes into ``output``: one folder per run (JSON, per-user metrics), ``table.csv``,
    ``table.md``, ``table.tex``, pictures and ``report.html``, a page of all. Called again, finished runs are read, not
    repeated.

    Args:
        models: Names (or classes) of the models.
        dataset: Name of the data set.
        config_file_list: Files of options, as for RecBole.
        config_dict: Options for every model. ``--key=value`` arguments of the running script come on top.
        seeds: The seeds, or how many: then counted from the option ``seed`` (2020 by default).
        baseline: The model that the others are tested against; the last one when not given.
        trials: Hyper-parameter trials per model, the same for all, before its runs; 0 for no search.
        storage: Database of the searches, shared by several machines; without it a SQLite file in ``output``.
        output: Folder of the results; ``comparison/<dataset>`` when not given.
        ablate: Whether to retrain every multimodal model without each modality, and to test it with each modality's
            rows permuted. ItemKNNCBF, which ranks by the features alone, joins where the protocol stays the same:
            with all modalities, and with each alone.
        model_settings: Options of single models: ``{"LightGCN": {"n_layers": 3}}``.
        search_spaces: Search spaces of single models, or their files, instead of ``properties/search/<model>.yaml``.
        split_seed: Seed of a random split. By default every seed splits anew, as in RecBole; after a search it is the
            first seed, because the other splits would test on what the search has seen.
        jobs: Runs at a time. More than one makes the measured times longer.
        in_process: Whether to run in this process. By default each run has its own, so that its peak memory is its own
            and a crash ends nothing else.
        keep_checkpoints: Whether to keep the trained models.
        worker: Whether to share the runs with other processes, on this or on other machines, that call this with the
            same arguments and the same ``output``. Each run is claimed by one of them; one that dies gives it back
            (:mod:`recbole_mm.experiment.claims` says when). All return the table of all runs.
        verbose: Whether to print what happens.

    Returns:
        One row per model and variant, see :func:`~recbole_mm.report.table.make_table`; ``attrs`` has ``splits``
        (seed to hash), ``notes`` and ``output``.

    Raises:
        ValueError: A model that does not exist, a worker without processes of its own (``in_process``), or options
            that contradict each other.
        ImportError: ``trials`` without Optuna.
        RuntimeError: Another process is writing into ``output``.

    Example:
        >>> import recbole_mm
        >>> models, options = ["MMGCN", "BPR"], {"epochs": 1}
        >>> table = recbole_mm.compare(models, "mm-toy", config_dict=options, seeds=2, in_process=True, verbose=False)
        >>> table["model"].tolist()
        ['MMGCN', 'BPR']
        >>> sorted(table.attrs["splits"])
        [2020, 2021]
    """
    names = _names(models)
    if not isinstance(dataset, str):
        refuse("dataset", "a name", dataset)
    mapping("{BPR: {learning_rate: [0.001, 0.01]}}")("search_spaces", search_spaces)
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline: {baseline!r} is not among the compared models {', '.join(names)}.")
    for key in sorted(set(search_spaces or {}) - set(names)):
        raise ValueError(f"search_spaces: {key!r} is not among the compared models {', '.join(names)}.")
    for key, number, least in (("jobs", jobs, 1), ("trials", trials, 0)):
        if not is_whole(number, least):
            raise ValueError(f"{key}: expected {least} at least, got {number!r} ({type(number).__name__}).")
    if worker and in_process:
        raise ValueError(
            "worker: a run that another worker has taken over is ended, so it needs a process of its own; leave out "
            "in_process."
        )
    if trials:
        import_optuna()
    if not in_process:
        model_modules(names)
    protocol = make_protocol(names, dataset, config_file_list, config_dict, model_settings)
    baseline = baseline or names[-1]
    if ablate:
        arguments = (dataset, config_file_list, config_dict, model_settings)
        names, protocol = _with_content_model(names, protocol, lambda more: make_protocol(more, *arguments))
    chosen = _seeds(seeds, protocol.seed)
    if split_seed is not None:
        check_ranges({"split_seed": split_seed})
    if split_seed is None and trials:
        split_seed = chosen[0]
    store = Store(output if output is not None else Path("comparison") / dataset)
    say = _print if verbose else lambda text: None
    with store.shared() if worker else store.lock():
        runs = Runs(names, protocol, store, chosen, split_seed, ablate, jobs, in_process, keep_checkpoints, say)
        runs.claims = store.claims if worker else None
        report = Report(runs, baseline, trials)
        runs.after_run = report.write
        for note in protocol.notes:
            say(f"Note: {note}")
        if trials and worker and storage is None:
            say("Note: the searches share a file of the folder; on several machines they need a database (--storage).")
        if trials:
            runs.search_all(trials, storage, search_spaces or {})
        runs.run_all()
        table = report.write()
        report.draw()
        say(f"\n{markdown(table, report.notes())}\nResults are in {store.folder}")
        return table


def _print(text: str) -> None:
    print(text, flush=True)


def _with_content_model(
    names: list[str], protocol: Protocol, make: Callable[[list[str]], Protocol]
) -> tuple[list[str], Protocol]:
    """Names and protocol with the model that ranks by features alone, unless it would change how others are run."""
    if CONTENT_MODEL in names or not set(names) & set(registered_models()):
        return names, protocol
    more = [*names[:-1], CONTENT_MODEL, names[-1]]
    try:
        with_it = make(more)
    except ValueError:  # such as labels of ratings, on which it cannot be trained
        return names, protocol
    same = (with_it.shared, with_it.mask_seen) == (protocol.shared, protocol.mask_seen)
    if not same or CONTENT_MODEL in with_it.failures:
        return names, protocol
    with_it.notes.append(
        f"{CONTENT_MODEL} belongs to the ablation: it ranks by the features alone, all of them and each by itself, so "
        "it says whether they know anything about taste."
    )
    return more, with_it


def _names(models: Sequence[str | type]) -> list[str]:
    if isinstance(models, str):
        raise ValueError(f"models: expected a list of names, got the text {models!r}; write [{models!r}].")
    models = list(models) if isinstance(models, Iterable) else [models]
    if not all(isinstance(model, (str, type)) for model in models):
        raise ValueError(f"models: expected a list of names or classes, got {models!r}.")
    names = [model if isinstance(model, str) else model.__name__ for model in models]
    for name in names:
        check_model_name(name)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"models: expected at least one name and each once, got {names}.")
    return names


_MOST_SEEDS = 1000


def _seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    number = isinstance(seeds, int) and not isinstance(seeds, bool)
    if number and seeds > _MOST_SEEDS:  # type: ignore[operator]
        raise ValueError(
            f"seeds: expected a number of runs up to {_MOST_SEEDS:,}, got {seeds:,}; seeds by name are a list, such as "
            "[2020, 2021] or [2020] (--seeds=2020,2021 or --seeds='[2020]')."
        )
    named = seeds if isinstance(seeds, Iterable) else ()
    chosen = [first + step for step in range(seeds)] if number else list(named)  # type: ignore[arg-type]
    if not chosen or not all(is_whole(seed, -math.inf, math.inf) for seed in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds: expected a positive number of seeds, or a list of different integers, got {seeds!r}.")
    for seed in chosen:
        check_ranges({"seed": seed})
    return chosen
