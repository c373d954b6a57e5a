"""Lets a training that was killed go on as if nothing had happened, for every trainer with RecBole's loop.

Before every epoch but the first the whole state goes into ``<name>.last``, beside the best epoch in ``<name>.pth``. It
is written when that costs less than a twentieth of the time since the last one, so that short epochs are not slowed
down; a run that goes on from an earlier epoch computes the same again. The file is removed once the test is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole.trainer.trainer as recbole_trainers
from recbole.trainer import Trainer

from recbole_mm.alive import is_alive, process_note
from recbole_mm.data.fingerprint import data_fingerprint, id_hashes
from recbole_mm.host import checkpoint
from recbole_mm.host.loaders import dataset_of
from recbole_mm.trainer.checkpoint import read_checkpoint
from recbole_mm.trainer.stages import StagedTrainer
from recbole_mm.trainer.state import Baseline, capture, restore, set_random_state

__all__ = ["SHARE", "best_file", "find_unfinished", "last_file", "offer", "resume", "session_of", "trainer_classes"]

#: Largest share of a training's time that goes into ``<name>.last``.
SHARE = 0.05


@dataclass
class Session:
    """What belongs to a trainer while it trains.

    Attributes:
        baseline: Its attributes before it began.
        loaders: Training and validation data.
        fingerprint: Of the data.
        saved: Whether anything is saved.
        file: Where the state between two epochs goes.
        pending: Content of the checkpoint that it goes on from, until it does.
        running: Whether ``fit`` runs.
        written: When ``file`` was written.
        cost: Seconds that took.
    """

    baseline: Baseline
    loaders: tuple[Any, ...] = ()
    fingerprint: dict[str, Any] | None = None
    saved: bool = False
    file: Path = field(default_factory=Path)
    pending: dict[str, Any] | None = None
    source: str = ""
    running: bool = False
    written: float = field(default_factory=time.monotonic)
    cost: float = 0.0

    def capture(self, trainer: Any) -> dict[str, Any]:
        """The state of the trainer now."""
        return capture(trainer, self.baseline, self.loaders)


def session_of(trainer: Any) -> Session | None:
    """The session of a trainer; ``None`` before it trained."""
    found: Session | None = vars(trainer).get("_session")
    return found


def last_file(trainer: Any) -> Path:
    """Where a trainer keeps its state between two epochs."""
    own = getattr(trainer, "resume_file", None)
    return Path(own) if own is not None else Path(trainer.saved_model_file).with_suffix(".last")


def best_file(file: str | os.PathLike[str]) -> Path:
    """The file of the best epoch that belongs to a ``.last``."""
    path = Path(file)
    return path.with_suffix(".pth") if path.suffix == ".last" else path


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
    session = _begin(trainer)
    if session.running:  # a trainer of several stages calls RecBole's fit for each
        return original(trainer, train_data, valid_data, *args, **more)
    saved = args[1] if len(args) > 1 else more.get("saved", True)
    session.loaders = tuple(data for data in (train_data, valid_data) if data)
    session.fingerprint = data_fingerprint(dataset_of(train_data), dataset_of(valid_data) if valid_data else None)
    session.saved, session.file = bool(saved), last_file(trainer)
    pending = session.pending or {}
    if pending.get("fingerprint"):
        checkpoint.check_data(pending["fingerprint"], session.fingerprint, session.source)
    session.running = True
    try:
        with checkpoint.checking(session.fingerprint):
            return original(trainer, train_data, valid_data, *args, **more)
    finally:
        session.running = False


def evaluate(original: Callable[..., Any], trainer: Any, eval_data: Any, *args: Any, **more: Any) -> Any:
    """Around ``evaluate``: once the best epoch was tested, nothing is left to go on with."""
    best = args[0] if args else more.get("load_best_model", True)
    given = args[1] if len(args) > 1 else more.get("model_file")
    session = session_of(trainer)
    ids = None if not eval_data or not given else {"ids": id_hashes(dataset_of(eval_data))}
    with checkpoint.checking(ids):
        result = original(trainer, eval_data, *args, **more)
    if best and not given and session is not None and session.saved and not session.running:
        for file in {session.file, last_file(trainer)} if hasattr(trainer, "resume_file") else {session.file}:
            file.unlink(missing_ok=True)
            for left in file.parent.glob(f".{file.stem}.*.tmp*"):  # of a process that was killed while it wrote
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
    session = _begin(trainer)
    first = trainer.start_epoch
    pending, session.pending = session.pending, None
    if pending is not None and pending.get("training"):
        set_random_state(pending["training"]["random"], trainer, session.loaders)
    begins = False
    if getattr(trainer, "stage_name", None) is not None:
        session.baseline, trainer.pending, stage = Baseline(trainer), None, trainer.pending
        begins = stage is None
        if stage is not None:
            restore(trainer, stage)
            set_random_state(stage["random"], trainer, session.loaders)
    trainer._last_result = None
    for epoch in range(first, end):
        if session.saved and (epoch > first or begins):
            _write(trainer, session, epoch - 1, at_once=epoch == first)
        yield epoch


def _write(trainer: Any, session: Session, done: int, at_once: bool) -> None:
    config, begin = trainer.config, time.monotonic()
    if not config["single_spec"] and config["local_rank"] != 0:
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


def _begin(trainer: Any) -> Session:
    session = session_of(trainer)
    if session is None:
        session = trainer._session = Session(Baseline(trainer))
    return session


def save_checkpoint(trainer: Any, state: dict[str, Any], file: str | os.PathLike[str]) -> None:
    """What RecBole's ``torch.save`` is replaced by."""
    result = vars(trainer).get("_last_result")
    checkpoint.write(trainer, {**state, **({} if result is None else {"best_valid_result": result})}, file)


def valid_epoch(original: Callable[..., Any], trainer: Any, *args: Any, **more: Any) -> Any:
    """Around ``_valid_epoch``: RecBole writes the best epoch before it notes its metrics."""
    score, result = original(trainer, *args, **more)
    trainer._last_result = result
    return score, result


def resume_checkpoint(original: Callable[..., Any], trainer: Any, resume_file: Any) -> None:
    """Around ``resume_checkpoint``: all that one of our files holds; RecBole's own way with RecBole's own files."""
    try:
        resume(trainer, resume_file)
    except NotOursError:
        original(trainer, resume_file)


class NotOursError(ValueError):
    """The checkpoint has no state of a training."""


def resume(trainer: Any, file: str | os.PathLike[str]) -> None:
    """Let a trainer go on where a checkpoint was written.

    Args:
        trainer: A trainer that has not run.
        file: ``<name>.pth`` of the best epoch, or ``<name>.last``; the one of them with more epochs is taken.

    Raises:
        NotOursError: RecBole, or an older version of this package, wrote it.
        ValueError: It cannot be read, or is of another model or size.
    """
    content, source = _latest(Path(file))
    if not content.get("training"):
        raise NotOursError(f"{source} has no state of a training.")
    session = _begin(trainer)
    load_parameters(trainer.model, content, str(source))
    restore(trainer, content["training"])
    trainer.saved_model_file = str(best_file(source))
    trainer.start_epoch, trainer.cur_step = content["epoch"] + 1, content["cur_step"]
    trainer.best_valid_score = content["best_valid_score"]
    trainer.best_valid_result = content.get("best_valid_result")
    session.pending, session.source = content, str(source)
    trainer.logger.info(f"Training goes on from {source} with epoch {trainer.start_epoch}.")


def _latest(path: Path) -> tuple[dict[str, Any], Path]:
    """The content of a checkpoint, or of its ``.last`` where that is further on."""
    last, best = path.with_suffix(".last"), best_file(path)
    if path == last and not best.is_file():
        return read_checkpoint(path), path
    try:
        content = read_checkpoint(best)
    except ValueError:
        if not last.is_file() or path == best:
            raise
        return read_checkpoint(last), last
    if last.is_file():
        try:
            further = read_checkpoint(last)
        except ValueError as error:
            getLogger().warning(f"{error} The best epoch is taken instead.")
        else:
            if further["epoch"] >= content["epoch"]:
                return further, last
    return content, best


def load_parameters(model: Any, content: dict[str, Any], source: str) -> None:
    """Load the parameters of a checkpoint into a model.

    Raises:
        ValueError: They are those of another model, or of other sizes.
    """
    try:
        model.load_state_dict(content["state_dict"])
        model.load_other_parameter(content.get("other_parameter"))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} does not fit {type(model).__name__} with these options and data: {error}. It was written by "
            "another model or version, or it was damaged."
        ) from error


def find_unfinished(config: Any) -> Path | None:
    """The newest run of the same model, data set and options in ``checkpoint_dir`` that was broken off.

    Args:
        config: RecBole's Config of the run that may go on.

    Returns:
        Its ``.last``, or ``None``. A run whose process lives is not taken.
    """
    folder = Path(config["checkpoint_dir"])
    name = config["model"]
    files = [*folder.glob(f"{name}-*.last"), *folder.glob(f"{name}-{config['dataset']}-*-resume.pth")]
    wanted = _comparable(checkpoint.plain_config(config))
    for file in sorted(files, key=lambda found: found.stat().st_mtime, reverse=True):
        try:
            content = read_checkpoint(file)
        except ValueError as error:
            getLogger().warning(f"resume: {error}")
            continue
        modalities = (content.get("fingerprint") or {}).get("modalities")
        here = dict(wanted)
        if modalities is not None:
            here.setdefault("modalities", modalities)
        owner = content.get("process") or {}
        # What this process left itself was broken off: it is here, making the next trainer.
        if _comparable(content) == here and (owner == process_note() or not is_alive(owner)):
            return file
    return None


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    places = {"data_path", "feature_path", "checkpoint_dir", "state", "show_progress", "use_gpu", "gpu_id", "device"}
    return {key: value for key, value in content["config"].items() if key not in places and value is not None}
