"""Lets a training that was killed go on as if nothing had happened, for every trainer with RecBole's loop.

Before every epoch but the first the whole state goes into ``<name>.last``, beside the best epoch in ``<name>.pth``. It
is written when that costs less than a twentieth of the time since the last one, so that short epochs are not slowed
down; a run that goes on from an earlier epoch computes the same again. The file is removed once the test is done.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import recbole.trainer.trainer as recbole_trainers
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score

from recbole_mm import processes
from recbole_mm.alive import process_note
from recbole_mm.data.fingerprint import changes, data_fingerprint, id_hashes
from recbole_mm.host import checkpoint
from recbole_mm.host.health.monitor import monitor_of, monitored
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.resumption import NotOursError, resume
from recbole_mm.host.session import Session, begin_session, last_file, session_of
from recbole_mm.plain import from_plain
from recbole_mm.trainer.checkpoint import check_best_epoch, read_checkpoint
from recbole_mm.trainer.stages import StagedTrainer
from recbole_mm.trainer.state import Baseline, random_state, restore, set_random_state

__all__ = ["SHARE", "offer", "trainer_classes"]

#: Largest share of a training's time that goes into ``<name>.last``.
SHARE = 0.05


def offer(trainer: Any) -> str | None:
    """The file of a trainer's best epoch, or of its state between two epochs; one that can be read."""
    if getattr(trainer, "saved_model_file", None) is None:
        return None
    for file in (Path(trainer.saved_model_file), last_file(trainer)):
        try:
            read_checkpoint(file)
        except (FileNotFoundError, ValueError):
            continue
        return str(file)
    return None


def trainer_classes() -> list[type]:
    """RecBole's trainers with a loop, and ours."""
    found = [cls for cls in vars(recbole_trainers).values() if isinstance(cls, type) and issubclass(cls, Trainer)]
    return [*found, StagedTrainer]


def fit(original: Callable[..., Any], trainer: Any, train_data: Any, valid_data: Any = None, *args: Any, **more: Any):  # type: ignore[no-untyped-def] # noqa: ANN201
    """Around ``fit`` of every trainer: know its data, and check those of a checkpoint that it goes on from."""
    session = begin_session(trainer)
    if session.running:  # a trainer of several stages calls RecBole's fit for each
        return original(trainer, train_data, valid_data, *args, **more)
    saved = args[1] if len(args) > 1 else more.get("saved", True)
    session.loaders = tuple(data for data in (train_data, valid_data) if data)
    session.fingerprint = data_fingerprint(dataset_of(train_data), dataset_of(valid_data) if valid_data else None)
    _check_same_data(session.fingerprint)
    session.saved, session.file = bool(saved), last_file(trainer)
    pending = session.pending or {}
    if pending.get("fingerprint"):
        checkpoint.check_data(pending["fingerprint"], session.fingerprint, session.source)
    if pending and saved:
        check_best_epoch(pending, trainer.saved_model_file, session.source)
    session.running = True
    session.average.begin()
    session.start()
    try:
        resumed = bool(pending) or getattr(trainer, "pending", None) is not None
        with checkpoint.checking(session.fingerprint), monitored(trainer, train_data, valid_data, resumed):
            result = original(trainer, train_data, valid_data, *args, **more)
            session.average.finish()
            return result
    finally:
        session.running = False


def _check_same_data(fingerprint: dict[str, Any]) -> None:
    """Refuse a training of several processes that do not read the same files."""
    first, *others = processes.gathered(fingerprint)
    for number, other in enumerate(others, 1):
        differ = changes(first, other)
        if differ:
            raise ValueError(
                f"Process {number} has other data than process 0: {'; '.join(differ)}. All machines need the same "
                "files of the data set and of its features."
            )


def evaluate(original: Callable[..., Any], trainer: Any, eval_data: Any, *args: Any, **more: Any) -> Any:
    """Around ``evaluate``: once the best epoch was tested, nothing is left to go on with."""
    best = args[0] if args else more.get("load_best_model", True)
    given = args[1] if len(args) > 1 else more.get("model_file")
    session = session_of(trainer)
    ids = None if not eval_data or not given else {"ids": id_hashes(dataset_of(eval_data))}
    with checkpoint.checking(ids):
        if session is not None and session.validating and session.average.differs:
            return _better(lambda: original(trainer, eval_data, *args, **more), trainer, session)
        result = original(trainer, eval_data, *args, **more)
    done = best and not given and session is not None and not session.running
    if done and session is not None and session.saved and not session.kept and processes.is_writer():
        for file in {session.file, last_file(trainer)} if hasattr(trainer, "resume_file") else {session.file}:
            file.unlink(missing_ok=True)
            run = file.stem.removesuffix("-resume")  # a trainer of several stages has a file for each
            for left in file.parent.glob(f".{glob.escape(run)}*.tmp*"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
    return result


def epochs(trainer: Any, end: int) -> Iterator[int]:
    """The epochs of RecBole's loop; between two of them nothing is under way.

    Args:
        trainer: The trainer, which may go on from a checkpoint.
        end: Number of epochs.

    Yields:
        The numbers of the epochs.
    """
    session = begin_session(trainer)
    first = trainer.start_epoch
    pending, session.pending = session.pending, None
    if pending is not None and pending.get("training"):
        set_random_state(pending["training"]["random"], trainer, session.loaders)
    begins = False
    if getattr(trainer, "stage_name", None) is not None:
        # What the stages before have made is in the parameters, or made again; the losses are only noted.
        session.baseline = Baseline(trainer, without=("/train_loss_dict",))
        trainer.pending, stage = None, trainer.pending
        begins = stage is None
        if stage is not None:
            restore(trainer, stage)
            session.restore(stage)
            set_random_state(stage["random"], trainer, session.loaders)
    trainer._last_result = None
    for epoch in range(first, end):
        if (session.saved or session.kept) and (epoch > first or begins):
            _write(trainer, session, epoch - 1, at_once=epoch == first)
        if session.running:  # pre-training by RecBole's trainers has no fit, and nobody who ranks by its average
            session.average.begin_epoch()
        yield epoch


def _write(trainer: Any, session: Session, done: int, at_once: bool) -> None:
    config, begin = trainer.config, time.monotonic()
    if not processes.is_writer() or (not config["single_spec"] and config["local_rank"] != 0):
        return
    if not at_once and (begin - session.written) * SHARE < session.cost:
        return
    state = {
        "config": config,
        "epoch": done,
        "cur_step": trainer.cur_step,
        "best_valid_score": trainer.best_valid_score,
        "best_valid_result": trainer.best_valid_result,
        "state_dict": trainer.model.state_dict(),
        "other_parameter": trainer.model.other_parameter(),
        "optimizer": trainer.optimizer.state_dict(),
        **getattr(trainer, "more_state", dict)(),
    }
    file = last_file(trainer) if hasattr(trainer, "resume_file") else session.file
    checkpoint.write(trainer, {**state, "process": process_note()}, file)
    session.written = time.monotonic()
    session.cost = session.written - begin


def save_checkpoint(trainer: Any, state: dict[str, Any], file: str | os.PathLike[str]) -> None:
    """What RecBole's ``torch.save`` is replaced by."""
    result = vars(trainer).get("_last_result")
    if processes.is_writer():
        checkpoint.write(trainer, {**state, **({} if result is None else {"best_valid_result": result})}, file)
    processes.wait()  # the others may read it next


def valid_epoch(original: Callable[..., Any], trainer: Any, *args: Any, **more: Any) -> Any:
    """Around ``_valid_epoch``: RecBole writes the best epoch before it notes its metrics."""
    session = begin_session(trainer)
    session.validating = True
    try:
        score, result = original(trainer, *args, **more)
    finally:
        session.validating = False
    trainer._last_result = result
    monitor = monitor_of(trainer)
    if monitor is not None:
        monitor.validated(score, result)
    return score, result


def _better(evaluate: Callable[[], Any], trainer: Any, session: Session) -> Any:
    """Validate the parameters and their average, on the same candidates; the better one ranks from now on."""
    state = from_plain(random_state(trainer, session.loaders))
    ours = evaluate()
    set_random_state(state, trainer, session.loaders)
    with session.average.applied():
        averages = evaluate()
    if ours is None:  # RecBole's answer to an empty validation part
        return ours
    score, other = (calculate_valid_score(result, trainer.valid_metric) for result in (ours, averages))
    session.average.ranks = other > score if trainer.valid_metric_bigger else other < score
    counts = "average" if session.average.ranks else "latest"
    trainer.logger.info(f"weight_average: average {other:.4f}, latest {score:.4f}: the {counts} counts.")
    return averages if session.average.ranks else ours


def resume_checkpoint(original: Callable[..., Any], trainer: Any, resume_file: Any) -> None:
    """Around ``resume_checkpoint``: all that one of our files holds; RecBole's own way with RecBole's own files."""
    try:
        resume(trainer, resume_file)
    except NotOursError:
        original(trainer, resume_file)
