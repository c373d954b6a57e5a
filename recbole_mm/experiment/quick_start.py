"""Train and test a model in one call; RecBole's ``run_recbole`` does the work."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from logging import getLogger
from typing import Any

from recbole.quick_start import run_recbole
from recbole.utils import ModelType

from recbole_mm import processes
from recbole_mm.config.metrics import check_topk, settle_valid_metric
from recbole_mm.config.numbers import LARGEST, is_whole
from recbole_mm.config.protocol import mask_note
from recbole_mm.config.reading import check_sources, read_options
from recbole_mm.config.refusals import refuse
from recbole_mm.experiment.capabilities import capability_notes
from recbole_mm.experiment.launch import free_port, launch, together
from recbole_mm.experiment.own_models import imported_modules
from recbole_mm.experiment.resume import AUTO, alone_on, checkpoint_options, checkpoint_origin, continue_from
from recbole_mm.experiment.split import describe_split, never_had, unmeasured
from recbole_mm.host.checkpoint import no_pickles, with_defaults
from recbole_mm.host.health.monitor import health_report
from recbole_mm.host.recovery import offer
from recbole_mm.host.sharing import same_names
from recbole_mm.host.watching import watch_run
from recbole_mm.processes import Place

__all__ = ["Interrupted", "checkpoint_origin", "device_option", "run"]


class Interrupted(KeyboardInterrupt):
    """Training was stopped with Ctrl-C.

    Attributes:
        checkpoint: File of the best epoch so far, if there is one.

    Example:
        >>> import recbole_mm
        >>> try:
        ...     result = recbole_mm.run("MMGCN", "mm-toy", config_dict={"epochs": 1})
        ... except recbole_mm.Interrupted as interrupt:
        ...     result = recbole_mm.run("MMGCN", "mm-toy", config_dict={"epochs": 1}, resume=interrupt.checkpoint)
    """

    def __init__(self, checkpoint: str | None) -> None:
        super().__init__(f"interrupted; last checkpoint: {checkpoint}")
        self.checkpoint = checkpoint

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would make it of its message, and put that into another one.
        return type(self), (self.checkpoint,)


def run(
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: str | None = None,
    group_offset: int = 0,
    resume: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train and test a model of ours, of RecBole's or of your own (registered) on a data set.

    The arguments are those of RecBole's ``run``. Options come, as there, from the defaults, then ``config_file_list``,
    then ``config_dict``, then ``--key=value`` arguments of the running script. Two things differ: without the option
    ``gpu_id`` the devices are those of ``CUDA_VISIBLE_DEVICES`` (RecBole overwrites that variable with its default,
    ``0``), and several processes, of which each takes its part of every batch and every evaluation, do what one does:
    with the same ``train_batch_size`` the same steps and the same metrics, up to rounding, on GPUs and on processors.

    Runs in several threads do not get each other's options, data, trainer or checkpoint, but they share what RecBole
    keeps once per process: the random generators, so that neither run can be repeated, and the log. Give each a
    ``checkpoint_dir`` of its own, and use processes, as ``recbole_mm.compare`` does, where results must be repeatable.

    Args:
        model: Name or class of the model.
        dataset: Name of the data set.
        config_file_list: Files of options.
        config_dict: Options; not changed.
        saved: Whether to write checkpoints. Without them the test uses the last epoch, not the best.
        nproc: Processes on this machine, one GPU each where there are any. Under ``torchrun`` it stays 1: the process
            is one of those that it has started.
        world_size: Processes on all machines; -1 for ``nproc``.
        ip: Address of the first machine.
        port: Port of the first machine; a free one where all processes are on this machine, else 5678.
        group_offset: Number of processes on the machines before this one.
        resume: Checkpoint of the same model and data set to continue from: all its options hold unless one is set here.
            ``auto`` is the newest unfinished run of the same options in ``checkpoint_dir``, or a new one.

    Returns:
        RecBole's result (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``) and
        ``checkpoint``, the file of the best epoch (``None`` where nothing was saved), ``config``, the options of the
        run after all defaults, ``split``, the hash of its split as a comparison prints it, ``unmeasured``, a sentence
        for each part of the split that is empty, and ``health``, what was found wrong (``alarms``) and measured,
        ``None`` with ``health: off``.

    Raises:
        ChildError: One of several processes died; those that are left are ended.
        ValueError: Too few GPUs for ``nproc``, an option file that holds no options, or a checkpoint of another model,
            data set or size.
        FileNotFoundError: An option file or the checkpoint is not there.
        Interrupted: Ctrl-C; names the checkpoint.

    Example:
        >>> import recbole_mm
        >>> result = recbole_mm.run("MMGCN", "mm-toy", config_dict={"epochs": 1, "topk": [5, 10]})
        >>> print(result["test_result"]["recall@5"] <= result["test_result"]["recall@10"])
        True
        >>> result["checkpoint"][:12], result["config"]["topk"]
        ('saved/MMGCN-', [5, 10])
    """
    check_sources(config_file_list, config_dict)
    for key, value, kinds in (("model", model, (str, type)), ("dataset", dataset, (str,))):
        if value is not None and not isinstance(value, kinds):  # None: a file of options names it
            refuse(key, "a name" if key == "dataset" else "a name or a class", value)
    for key, number in (("nproc", nproc), ("world_size", world_size), ("group_offset", group_offset)):
        if not is_whole(number, -LARGEST):
            refuse(key, "a whole number", number)
    files = [str(file) for file in config_file_list or []]
    in_files = {key for file in files for key in read_options(file)}
    options = dict(config_dict or {})
    options.update(device_option({*in_files, *options}, nproc))
    job = functools.partial(_run_here, model=model, dataset=dataset, config_file_list=files, saved=saved, resume=resume)
    job = functools.partial(job, config_dict=options)
    if nproc == 1 and world_size <= 0 and not group_offset:  # with one, others are meant, and _places asks for them
        where = processes.place_of_environment()
        result: dict[str, Any] = job() if where is None else together(job, where)
        return result
    places = _places(nproc, world_size, ip, port, group_offset)
    return dict(launch(job, places, imported_modules()) or {})


def device_option(known: set[str], nproc: int = 1) -> dict[str, str]:
    """The option ``gpu_id`` where nobody sets it: the devices of ``CUDA_VISIBLE_DEVICES``.

    RecBole overwrites that variable with its own default ``0``, which may be somebody else's device.

    Args:
        known: Options that are set in files and dicts.
        nproc: Processes, one device each.
    """
    if "gpu_id" in known or any(text.startswith("--gpu_id=") for text in sys.argv[1:]):
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return {"gpu_id": visible}
    return {"gpu_id": ",".join(str(device) for device in range(nproc))} if nproc > 1 else {}


def _run_here(
    model: str | type,
    dataset: str,
    config_file_list: list[str],
    config_dict: dict[str, Any],
    saved: bool,
    resume: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    about: dict[str, Any] = {}

    def describe(config: Any, *loaders: Any) -> None:
        options = {**config.final_config_dict}
        if options.get("cold_start") is not None:
            options["cold_start"] = dict(options["cold_start"])
        split = describe_split(*loaders)
        about.update(config=options, split=split["hash"], unmeasured=unmeasured(split, options))
        for text in about["unmeasured"]:
            getLogger().warning(f"{text[0].upper()}{text[1:]}")
        if options.get("mask_validation") is False and (
            options["repeatable"] or options["MODEL_TYPE"] == ModelType.SEQUENTIAL
        ):
            getLogger().warning(mask_note(False, masks=False))
        asked = options.get("cold_start"), options.get("slices"), never_had(loaders) > 0
        for note in capability_notes([config.model_class], *asked):
            getLogger().warning(note)

    def prepare(trainer: Any) -> None:
        file = None if resume is None else continue_from(trainer, resume)
        if file is not None:
            held.enter_context(alone_on(file))
        same_names(trainer)

    known = checkpoint_options(resume) if resume is not None and str(resume) != AUTO else None
    watching = watch_run(data=describe, before=_check_evaluation, after=prepare)
    held = ExitStack()
    with held, with_defaults(known), no_pickles(), watching as trainers:
        try:
            result = run_recbole(model, dataset, config_file_list, config_dict, saved)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(_checkpoint(trainers)) from interrupt
        health = health_report(trainers[-1]) if trainers else None
        return {**result, "checkpoint": _checkpoint(trainers), **about, "health": health}


def _check_evaluation(config: Any, model: Any) -> None:
    """Find out before training what RecBole finds out after the first epoch."""
    if config["eval_step"] > 0:
        metric, note = settle_valid_metric(config.final_config_dict, "valid_metric" in config.external_config_dict)
        if note:
            getLogger().warning(note)
            config["valid_metric"] = metric
            config["valid_metric_bigger"] = metric.lower() not in ("rmse", "mae", "logloss")
    if hasattr(model, "n_items"):
        check_topk(config.final_config_dict, model.n_items)


def _checkpoint(trainers: list[Any]) -> str | None:
    return offer(trainers[-1]) if trainers else None


def _places(nproc: int, world_size: int, ip: str, port: str | None, offset: int) -> list[Place]:
    """The processes to start here, of all that there are."""
    if nproc < 1:
        raise ValueError(f"nproc: expected a positive number of processes, got {nproc}.")
    world = nproc if world_size <= 0 else world_size
    if not 0 <= offset <= world - nproc:
        raise ValueError(
            f"group_offset: {nproc} processes here, after {offset} on other machines, are more than world_size={world} "
            "in all. world_size counts the processes of all machines."
        )
    here = world == nproc and ip == "localhost"
    address = f"tcp://{ip}:{port or (free_port() if here else 5678)}"
    return [Place(offset + number, world, number, nproc, address) for number in range(nproc)]
