"""Continue a training from its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import calculate_valid_score
from recbole.utils.argument_list import dataset_arguments

from recbole_mm import processes
from recbole_mm.alive import is_alive, process_note
from recbole_mm.config.names import read_keys
from recbole_mm.config.shared import FOLDERS
from recbole_mm.host.checkpoint import as_plain
from recbole_mm.host.defaults import properties_of
from recbole_mm.host.names import recbole_folder
from recbole_mm.host.resumption import find_unfinished, load_parameters
from recbole_mm.host.saved_config import build_config
from recbole_mm.host.session import best_file, keep_state, notes
from recbole_mm.locks import InUseError, hold
from recbole_mm.plain import from_plain
from recbole_mm.trainer.checkpoint import check_best_epoch, read_checkpoint
from recbole_mm.trainer.state import random_state, set_random_state

__all__ = ["AUTO", "alone_on", "checkpoint_options", "checkpoint_origin", "continue_from", "go_on_in_place"]

#: In place of a checkpoint: the newest unfinished run of the same options, or a new one.
AUTO = "auto"

# Options that shape the training, not the model: they may change when it goes on.
_TRAINING = {
    "learning_rate", "train_batch_size", "eval_batch_size", "stopping_step", "epochs", "weight_decay", "train_stage",
    "pre_model_path", "pretrain_epochs", "save_step", "finetune_learning_rate", "pretrained_feature_path", "learner",
    "eval_step", "clip_grad_norm", "valid_metric", "metrics", "topk",
}  # fmt: skip
# How long the process of a broken off run may take to notice that its parent is gone.
_PATIENCE = 5.0
_REPORTED = ("valid_metric", "metrics", "topk")


def checkpoint_origin(file: str | os.PathLike[str]) -> tuple[str, str]:
    """Names of the model and the data set that a checkpoint belongs to."""
    config = _read(file)["config"]
    return config["model"], config["dataset"]


def checkpoint_options(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Every option of the run that wrote a checkpoint, defaults included, for the run that goes on.

    Options that decide where the files of the run go are among them; the device is not.
    """
    content = as_plain(_read(file))
    return dict(content.get("options") or {})


def continue_from(trainer: Any, file: str | os.PathLike[str]) -> Path | None:
    """Let a fresh trainer go on where a checkpoint was written, exactly as if it had never stopped.

    Parameters, optimiser, random generators, epoch, best score and patience are those of the checkpoint, or of the
    ``.last`` beside it, which is further on.

    Args:
        trainer: A trainer that has not run.
        file: The checkpoint, or ``auto`` for the newest unfinished run of the same options in ``checkpoint_dir``; where
            there is none the training starts anew.

    Returns:
        The file that was read; ``None`` where the training starts anew.

    Raises:
        FileNotFoundError: There is no such file.
        InUseError: Another process trains into it.
        ValueError: Not a checkpoint of this model, data set and options, or no epoch is left to train.
    """
    if str(file) == AUTO:
        found = processes.same(find_unfinished(trainer.config) if processes.is_writer() else None)
        if found is None:
            getLogger().info(f"resume: no unfinished run in {trainer.config['checkpoint_dir']}; a new one starts.")
            return None
        file = found
    checkpoint = _read(file)
    origin = build_config(checkpoint, os.fspath(file)) if isinstance(checkpoint["config"], dict) else None
    origin = checkpoint["config"] if origin is None else origin
    staged = hasattr(trainer, "stages")
    _check(trainer.config, origin, file, trainer.changed_options if staged else None)
    if not checkpoint.get("fingerprint"):
        getLogger().warning(f"{file} does not say which data it was trained on; make sure that they are the same.")
    _say_changes(trainer.config, origin, file)
    trainer.resume_checkpoint(str(file))
    if staged:  # a trainer of several stages knows what is left
        return Path(file)
    # A run that was killed between its last epoch and the end of its test has still to be tested.
    untested = Path(file).with_suffix(".last").is_file()
    if trainer.start_epoch >= trainer.epochs and not untested:
        raise ValueError(
            f"resume: {file} was written after epoch {trainer.start_epoch - 1} and epochs={trainer.epochs}, so there "
            f"is nothing left to train. Pass epochs above {trainer.start_epoch}."
        )
    other_metrics = any(trainer.config[key] != origin[key] for key in _REPORTED)
    if other_metrics or trainer.best_valid_result is None:
        _rate_best_epoch(trainer, best_file(file))
    return Path(file)


@contextmanager
def alone_on(file: str | os.PathLike[str]) -> Iterator[None]:
    """While it lasts, no other process goes on from a checkpoint: two would write one file.

    Raises:
        InUseError: Another process does, or still trains the run.
    """
    path, instead = Path(file), "copy the file and resume the copy"
    if processes.is_writer():
        trains: dict[str, Any] | None = None
        with suppress(FileNotFoundError, ValueError):  # a damaged state was left aside with a warning
            trains = read_checkpoint(path.with_suffix(".last")).get("process")
        if trains and trains != process_note() and is_alive(trains):
            raise InUseError(
                f"resume: process {trains.get('pid')} on {trains.get('host')} still trains {path}. Wait for it, or end "
                "it first."
            )
        with hold(path.with_name(f".{best_file(path).stem}.lock"), f"resume: {path}", instead):
            yield
    else:
        yield


def go_on_in_place(trainer: Any, made_with: Mapping[str, Any], saved: bool = True) -> bool:
    """Let a run whose ``checkpoint_dir`` is its own go on where it was broken off, and keep its state there.

    What is there and cannot be gone on from (damaged, of other options, made with other versions, without its best
    epoch) is removed.

    Args:
        trainer: A trainer that has not run.
        made_with: Versions of everything that takes part in the result; with others the run starts anew.
        saved: Whether the best epoch is kept in a file, to be tested.

    Returns:
        Whether it goes on.
    """
    file = find_unfinished(trainer.config, patience=_PATIENCE)
    if file is not None:
        why = _why_not(file, made_with, saved)
        if why:
            getLogger().warning(f"{why} The run starts anew.")
            file = None
    folder = Path(trainer.config["checkpoint_dir"])
    if file is not None:
        continue_from(trainer, file)
    elif folder.is_dir():
        for left in folder.iterdir():
            if left.suffix in (".pth", ".last"):
                left.unlink()
    keep_state(trainer)
    notes(trainer)["made_with"] = dict(made_with)
    return file is not None


def _why_not(file: Path, made_with: Mapping[str, Any], saved: bool) -> str:
    """Why a run cannot go on from its state; empty where it can."""
    content = read_checkpoint(file)
    kept = (content.get("training") or {}).get("notes") or {}
    if kept.get("made_with") != dict(made_with):
        return f"{file} was written with other versions."
    if saved:
        of_stage = f"{content['base']}-{content['stage']}.pth" if content.get("stage") else best_file(file).name
        try:
            check_best_epoch(content, file.with_name(of_stage), file)
        except (FileNotFoundError, ValueError) as error:
            return str(error)
    return ""


def _rate_best_epoch(trainer: Any, file: Path) -> None:
    """Let the best epoch be evaluated before training goes on: under another metric its score is another one."""
    fit = trainer.fit

    def fit_on(train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        if valid_data and trainer.eval_step > 0 and file.is_file():
            random = from_plain(random_state(trainer, (train_data, valid_data)))
            now = {name: value.clone() for name, value in trainer.model.state_dict().items()}
            other = trainer.model.other_parameter()
            load_parameters(trainer.model, read_checkpoint(file), str(file))
            trainer.eval_collector.data_collect(train_data)
            result = trainer.evaluate(valid_data, load_best_model=False)
            trainer.best_valid_result = result
            trainer.best_valid_score = calculate_valid_score(result, trainer.valid_metric)
            trainer.model.load_state_dict(now)
            trainer.model.load_other_parameter(other)
            set_random_state(random, trainer, (train_data, valid_data))
        return fit(train_data, valid_data, *args, **kwargs)

    trainer.fit = fit_on


def _read(file: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return read_checkpoint(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"resume: there is no checkpoint {os.fspath(file)!r} in {Path.cwd()}.") from None
    except ValueError as error:
        raise ValueError(f"resume: {error}") from error


def _say_changes(config: Any, origin: Any, file: str | os.PathLike[str]) -> None:
    """Name the options that this run has otherwise than the run before it."""
    for key in sorted((_TRAINING - {"eval_batch_size"}) & set(config.final_config_dict)):
        if config[key] != origin[key]:
            getLogger().warning(f"resume: {key} is {config[key]!r} from here on; {file} has {origin[key]!r}.")


def _check(
    config: Any, origin: Mapping[str, Any], file: str | os.PathLike[str], changed: Callable[[Any], list[str]] | None
) -> None:
    for key in ("model", "dataset"):
        if config[key] != origin[key]:
            raise ValueError(
                f"resume: {os.fspath(file)} is a checkpoint of {key} {origin[key]!r}, but this run has {config[key]!r}."
            )
    # With another split the parameters would have been trained on what is tested now.
    keys = {"embedding_size", "seed", "repeatable", "eval_args", "contrastive_weight", "contrastive_temperature"}
    yaml = recbole_folder() / "properties" / "model" / f"{config['model']}.yaml"
    keys |= set(properties_of(config["model"])) | (read_keys(yaml) if yaml.is_file() else set())
    different = [
        f"{key}: {origin[key]!r} there, {config[key]!r} here"
        for key in sorted((keys | set(dataset_arguments)) - _TRAINING - set(FOLDERS))
        if config[key] != origin[key] and not (key == "modalities" and config[key] is None)
    ]
    if changed is not None:
        different += [text for text in changed(origin) if text not in different]
    if different:
        raise ValueError(
            f"resume: the options differ from those of {os.fspath(file)} ({'; '.join(different)}). Continue with the "
            "same options, or start a new training."
        )
