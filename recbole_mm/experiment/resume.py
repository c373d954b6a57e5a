"""Continue a training from its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recbole.utils.argument_list import dataset_arguments

from recbole_mm.config.names import read_keys
from recbole_mm.host.names import recbole_folder
from recbole_mm.paths import properties_dir

__all__ = ["checkpoint_origin", "continue_from"]

# Options of a model's yaml that shape the training, not the model: they may change when it goes on.
_TRAINING = {
    "learning_rate", "train_batch_size", "eval_batch_size", "stopping_step", "epochs", "weight_decay", "train_stage",
    "pre_model_path", "pretrain_epochs", "save_step", "finetune_learning_rate", "pretrained_feature_path",
}  # fmt: skip


def checkpoint_origin(file: str | os.PathLike[str]) -> tuple[str, str]:
    """Names of the model and the data set that a checkpoint belongs to."""
    config = _read(file)["config"]
    return config["model"], config["dataset"]


def continue_from(trainer: Any, file: str | os.PathLike[str]) -> None:
    """Let a fresh trainer go on where a checkpoint was written: parameters, optimiser, epoch, best score and patience.

    RecBole's ``resume_checkpoint`` does that, except for three things added here. It would load a checkpoint of other
    options as far as tensors fit; it would overwrite the checkpoint of a finished training with one of epoch -1; and
    it forgets the metrics of the best epoch, so that a run without further progress reports none: they are evaluated
    anew.

    Args:
        trainer: A trainer that has not run.
        file: The checkpoint. As everywhere in RecBole it is a pickle: load only files that you trust.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint of this model, data set and options, or no epoch is left to train.
    """
    checkpoint = _read(file)
    staged = hasattr(trainer, "stages")
    _check(trainer.config, checkpoint["config"], file, trainer.changed_options if staged else None)
    if staged:  # a trainer of several stages knows what is left and keeps more than RecBole
        trainer.resume_checkpoint(file)
        return
    done = checkpoint["epoch"] + 1
    if done >= trainer.epochs:
        raise ValueError(
            f"resume: {file} was written after epoch {checkpoint['epoch']} and epochs={trainer.epochs}, so there is "
            f"nothing left to train. Pass epochs above {done}."
        )
    trainer.resume_checkpoint(str(file))
    fit = trainer.fit

    def fit_on(train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        if valid_data and trainer.eval_step > 0:
            trainer.eval_collector.data_collect(train_data)
            trainer.best_valid_result = trainer.evaluate(valid_data, load_best_model=False)
        return fit(train_data, valid_data, *args, **kwargs)

    trainer.fit = fit_on


def _read(file: str | os.PathLike[str]) -> dict[str, Any]:
    if not Path(file).is_file():
        raise FileNotFoundError(f"resume: there is no checkpoint {os.fspath(file)!r} in {Path.cwd()}.")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ValueError(f"resume: {os.fspath(file)} cannot be read as a checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or not {"config", "epoch", "state_dict", "optimizer"} <= set(checkpoint):
        raise ValueError(f"resume: {os.fspath(file)} is not a checkpoint that RecBole's trainer wrote.")
    return checkpoint


def _check(
    config: Any, origin: Any, file: str | os.PathLike[str], changed_options: Callable[[Any], list[str]] | None
) -> None:
    for key in ("model", "dataset"):
        if config[key] != origin[key]:
            raise ValueError(
                f"resume: {os.fspath(file)} is a checkpoint of {key} {origin[key]!r}, but this run has {config[key]!r}."
            )
    # With another split the parameters would have been trained on what is tested now.
    keys = {"embedding_size", "seed", "repeatable", "eval_args", "contrastive_weight", "contrastive_temperature"}
    for folder in (properties_dir(), recbole_folder() / "properties"):
        yaml = folder / "model" / f"{config['model']}.yaml"
        keys |= read_keys(yaml) if yaml.is_file() else set()
    different = [
        f"{key}: {origin[key]!r} there, {config[key]!r} here"
        for key in sorted((keys | set(dataset_arguments)) - _TRAINING)
        if config[key] != origin[key]
    ]
    if changed_options is not None:
        different += [text for text in changed_options(origin) if text not in different]
    if different:
        raise ValueError(
            f"resume: the options differ from those of {os.fspath(file)} ({'; '.join(different)}). Continue with the "
            "same options, or start a new training."
        )
