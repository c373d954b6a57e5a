"""Finds the state of a training that was broken off, and puts it back into a fresh trainer."""

from __future__ import annotations

import os
import time
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_mm.alive import is_alive, process_note
from recbole_mm.config.shared import FOLDERS
from recbole_mm.host.saved_config import plain_config
from recbole_mm.host.session import begin_session, best_file, states_of
from recbole_mm.trainer.checkpoint import read_checkpoint
from recbole_mm.trainer.state import restore

__all__ = ["NotOursError", "find_unfinished", "load_parameters", "resume"]


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
    session = begin_session(trainer)
    load_parameters(trainer.model, content, str(source))
    try:
        restore(trainer, content["training"])
        session.restore(content["training"])
        session.average.restore(content["training"].get("average"))
        trainer.start_epoch, trainer.cur_step = content["epoch"] + 1, int(content["cur_step"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{source} was damaged or changed: the state of the training in it cannot be put back "
            f"({type(error).__name__}: {error}). Take another checkpoint, or train again."
        ) from error
    trainer.saved_model_file = str(best_file(source))
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


def find_unfinished(config: Any, patience: float = 0.0) -> Path | None:
    """The newest run of the same model, data set and options in ``checkpoint_dir`` that was broken off.

    Args:
        config: RecBole's Config of the run that may go on.
        patience: Seconds to wait for a process of this machine that still has it to end.

    Returns:
        Its ``.last``, or ``None``. A run whose process lives is not taken.
    """
    wanted = _comparable(plain_config(config))
    for file in states_of(Path(config["checkpoint_dir"]), config["model"], config["dataset"]):
        try:
            content = read_checkpoint(file)
        except FileNotFoundError:  # its run has ended meanwhile
            continue
        except ValueError as error:
            getLogger().warning(f"resume: {error}")
            continue
        modalities = (content.get("fingerprint") or {}).get("modalities")
        here = dict(wanted)
        if modalities is not None:
            here.setdefault("modalities", modalities)
        if _comparable(content) == here and _is_left(content.get("process") or {}, patience):
            return file
    return None


def _is_left(owner: dict[str, Any], patience: float) -> bool:
    # What this process left itself was broken off: it is here, making the next trainer.
    end = time.monotonic() + patience
    while owner != process_note() and is_alive(owner):
        if time.monotonic() >= end or owner.get("host") != process_note()["host"]:
            return False
        time.sleep(0.05)
    return True


def _comparable(content: dict[str, Any]) -> dict[str, Any]:
    places = {*FOLDERS, "checkpoint_dir", "state", "show_progress", "use_gpu", "gpu_id", "device"}
    return {key: value for key, value in content["config"].items() if key not in places and value is not None}
