"""Training in stages, each with its own optimiser, loop and checkpoint, by the fit loop of RecBole's trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from recbole.trainer import Trainer
from recbole.utils import get_local_time, set_color

from recbole_mm.data.fingerprint import changes, data_fingerprint
from recbole_mm.trainer.checkpoint import check_best_epoch, read_checkpoint
from recbole_mm.trainer.split import check_split

__all__ = ["Stage", "StagedTrainer"]

Loss = Any  # what RecBole's fit loop logs: a number, or a tuple of named parts


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: Name for ``train_stage``, logs and files.
        epochs: Number of epochs; 0 leaves the stage out.
        enter: Freezes and prepares the model, and returns the stage's optimiser.
        train_epoch: ``(train_data, epoch, show_progress)`` to the epoch's loss.
        validate: ``(valid_data, show_progress)`` to a score and a result, as RecBole's ``_valid_epoch``; the best
            epoch's parameters are kept. ``None``: no validation, the last epoch's parameters are kept.
        bigger: Whether a bigger score is better.
        patience: Validations without improvement before the stage ends.
        every: Epochs between validations; ``None`` for RecBole's ``eval_step``.
        leave: Called once the stage's parameters are final.
    """

    name: str
    epochs: int
    enter: Callable[[], torch.optim.Optimizer]
    train_epoch: Callable[[Any, int, bool], Loss]
    validate: Callable[[Any, bool], tuple[float, dict[str, float]]] | None = None
    bigger: bool = True
    patience: int = 10
    every: int | None = None
    leave: Callable[[], None] = lambda: None


class StagedTrainer(Trainer):
    """Runs stages one after another; a subclass lists them in :meth:`stages`.

    The model counts the stages it has behind it in a persistent buffer ``finished_stages`` (a scalar integer), so
    that every checkpoint knows what it is. ``train_stage`` is ``all`` (or what ``all_stages`` says) or the name of one
    stage, which needs the stages before it. ``pre_model_path`` is a checkpoint to go on from: of a finished stage (then
    the next one starts), or a ``<name>-resume.pth``, the state between two epochs
    (:mod:`recbole_mm.host.recovery` writes it, and removes it after the test). Going on from it gives the same
    parameters as a run that was never interrupted. ``resume_checkpoint`` does the same.

    Every stage has the file ``<name>-<stage>.pth``. The trainer's ``saved_model_file`` is the last stage's.
    """

    #: The ``train_stage`` that runs every stage.
    all_stages = "all"
    #: Names of the stages in order.
    stage_names: tuple[str, ...] = ()

    best_valid_score: float
    best_valid_result: dict[str, float] | None
    saved_model_file: str

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        if not config["single_spec"]:
            raise ValueError(
                f"{type(self).__name__} trains in one process, got a distributed run; start it with nproc=1."
            )
        if config["weight_average"]:
            raise ValueError(
                f"weight_average: {config['model']} trains in stages, which keep the parameters of single epochs; "
                "set weight_average to 0."
            )
        name = f"{config['model']}-{config['dataset']}-{get_local_time()}"
        self._base = os.path.join(self.checkpoint_dir, name)
        self._stage: Stage | None = None
        self._saved = True
        self._train_data: Any = None
        self.train_stage: str = config["train_stage"]
        self._continue_from: str | None = config["pre_model_path"]
        #: State of an interrupted stage, for the loop that goes on with it.
        self.pending: dict[str, Any] | None = None

    def stages(self, train_data: Any, valid_data: Any) -> Sequence[Stage]:
        """The stages in order, named as in ``stage_names``."""
        raise NotImplementedError

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], Any] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Run the stages that ``train_stage`` asks for.

        Returns:
            Score and result of the validation data after the last stage.
        """
        self._saved, self._train_data = saved, train_data
        self.eval_collector.data_collect(train_data)  # RecBole's fit does so too, but a call may validate without it
        stages = self.stages(train_data, valid_data)
        interrupted = self._go_on()
        chosen = self._chosen([stage.name for stage in stages], interrupted)
        if not chosen:
            raise ValueError(
                f"pre_model_path: {self._continue_from} has finished every stage, so that nothing is left to train; "
                f"set train_stage to {stages[-1].name} to train on."
            )
        score, result = self.best_valid_score, self.best_valid_result
        for index in chosen:
            stage = stages[index]
            self.saved_model_file = f"{self._base}-{stage.name}.pth"
            if stage.epochs:
                # Trained again, it and what builds on it are unfinished: what is written on the way must say so.
                self.model.finished_stages.fill_(index)
                self._begin(stage, interrupted if interrupted and interrupted["stage"] == stage.name else None)
                if verbose:
                    self.logger.info(set_color(f"stage {stage.name}", "green") + f": {self.start_epoch}/{stage.epochs}")
                # A score that is not the validation metric means nothing to a caller that tunes by it.
                ranked = stage.validate == self._rank_validation
                # The fit loop validates if it is given anything to validate on.
                data = valid_data if ranked else train_data if stage.validate else None
                score, result = super().fit(
                    train_data, data, verbose, saved, show_progress, callback_fn if ranked else None
                )
                if saved and self.best_valid_result is not None:
                    best = read_checkpoint(self.saved_model_file)
                    self.model.load_state_dict(best["state_dict"])
                    self.model.load_other_parameter(best.get("other_parameter"))
                stage.leave()
            self.model.finished_stages.fill_(index + 1)
            self._stage = None
            if saved:
                self._save_checkpoint(stage.epochs - 1, verbose=verbose)
        last = stages[chosen[-1]]
        if valid_data and not (last.epochs and last.validate == self._rank_validation):
            score, result = self._rank_validation(valid_data, show_progress)
            if verbose:
                self.logger.info(set_color("valid result after all stages", "blue") + f": {result}")
        elif not valid_data:  # what a stage chose its epochs by is no validation score
            score, result = -np.inf if self.config["valid_metric_bigger"] else np.inf, None
        self.best_valid_score, self.best_valid_result = score, result
        return score, result

    def _rank_validation(self, valid_data: Any, show_progress: bool) -> tuple[float, dict[str, float]]:
        """RecBole's own validation, for stages that are chosen by ``valid_metric``."""
        return super()._valid_epoch(valid_data, show_progress)

    def _chosen(self, names: Sequence[str], interrupted: dict | None) -> list[int]:
        finished, wanted = int(self.model.finished_stages), self.train_stage
        if wanted == self.all_stages:
            return list(range(finished, len(names)))
        if wanted not in names:
            raise ValueError(f"train_stage: expected {', '.join(names)} or {self.all_stages}, got {wanted!r}.")
        index = names.index(wanted)
        if interrupted and interrupted["stage"] != wanted:
            raise ValueError(
                f"train_stage {wanted}: pre_model_path is a run that was interrupted in the stage "
                f"{interrupted['stage']}; finish that first (train_stage {interrupted['stage']} or {self.all_stages})."
            )
        if finished < index:
            raise ValueError(
                f"train_stage {wanted} needs the stage {names[index - 1]} before it, and the model has finished "
                f"{', '.join(names[:finished]) or 'none'}. Set pre_model_path to its checkpoint, or train_stage to "
                f"{self.all_stages}."
            )
        return [index]

    def resume_checkpoint(self, resume_file: str | os.PathLike[str]) -> None:
        """Let ``fit`` go on from a checkpoint, as ``pre_model_path`` does.

        Args:
            resume_file: Any file of a run; of an interrupted one, its ``<name>-resume.pth`` is taken.
        """
        file = os.fspath(resume_file)
        # <name>-<stage>.pth, or <name>-<stage>-<epoch>.pth
        state = re.sub(r"-[^-]*(-\d+)?\.pth$", "-resume.pth", file)
        self._continue_from = state if os.path.isfile(state) else file

    def _go_on(self) -> dict | None:
        """Load ``pre_model_path``; returns its content if it is the state of an interrupted stage."""
        path = self._continue_from
        if not path:
            return None
        if not os.path.isfile(path):
            raise FileNotFoundError(f"pre_model_path: there is no file {path!r}.")
        checkpoint = read_checkpoint(path)
        self._check_origin(checkpoint)
        interrupted = bool(checkpoint.get("stage"))
        self._check_data(path, checkpoint.get("fingerprint") or {}, interrupted)
        self.model.load_state_dict(self._taken_over(checkpoint))
        self.model.load_other_parameter(checkpoint.get("other_parameter"))
        if not interrupted:
            return None
        return {**checkpoint, "base": os.path.join(os.path.dirname(path), checkpoint["base"])}

    def _check_data(self, path: str, fingerprint: dict[str, Any], interrupted: bool) -> None:
        """Refuse parameters of other ids; an interrupted training goes on with the same features, too."""
        wanted = fingerprint if interrupted else {"ids": fingerprint.get("ids", {})}
        differ = changes(wanted, data_fingerprint(self._train_data.dataset)) if fingerprint else []
        if differ:
            raise ValueError(
                f"pre_model_path: the data are not those that {path} was trained on: {'; '.join(differ)}. Put the "
                "files of that training back, or train the earlier stages again."
            )

    def changed_options(self, origin: Any) -> list[str]:
        """What differs between this run's options and ``origin`` beyond the options in the model's own yaml.

        Args:
            origin: Config of the run that wrote a checkpoint.

        Returns:
            A text for each option.
        """
        return []

    def _check_origin(self, checkpoint: dict) -> None:
        """Refuse a checkpoint that this run cannot go on from; what a stage does not need may differ."""
        check_split(self._continue_from, checkpoint["config"], self.config)

    def _taken_over(self, checkpoint: dict) -> dict[str, Any]:
        """The parameters of a checkpoint that this run goes on from."""
        state: dict[str, Any] = checkpoint["state_dict"]
        return state

    def _begin(self, stage: Stage, interrupted: dict | None) -> None:
        self._stage = stage
        self.optimizer = stage.enter()
        self.epochs, self.start_epoch, self.cur_step = stage.epochs, 0, 0
        self.eval_step = min(stage.every or self.config["eval_step"], stage.epochs)
        self.stopping_step, self.valid_metric_bigger = stage.patience, stage.bigger
        self.best_valid_score = -np.inf if stage.bigger else np.inf
        self.best_valid_result = None
        if interrupted:
            self._base = interrupted["base"]
        self.saved_model_file = f"{self._base}-{stage.name}.pth"
        if interrupted:
            self.pending = interrupted["training"]
            self.start_epoch, self.cur_step = interrupted["epoch"] + 1, interrupted["cur_step"]
            self.best_valid_score = interrupted["best_valid_score"]
            self.best_valid_result = interrupted["best_valid_result"]
            check_best_epoch(interrupted, self.saved_model_file, self.resume_file)

    def _train_epoch(self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False) -> Loss:
        if self._stage is None:  # a single epoch outside of fit is what RecBole's own trainer makes of it
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self.training_place = [epoch_idx, None]  # for the message about a loss that is not finite
        return self._stage.train_epoch(train_data, epoch_idx, show_progress)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        if self._stage is None or self._stage.validate is None:
            return super()._valid_epoch(valid_data, show_progress)
        return self._stage.validate(valid_data, show_progress)

    @property
    def resume_file(self) -> str:
        """Where the state between two epochs is written."""
        return f"{self._base}-resume.pth"

    @property
    def stage_name(self) -> str | None:
        """Name of the stage that runs."""
        return self._stage.name if self._stage else None

    def more_state(self) -> dict[str, Any]:
        """What the state between two epochs has beside that of RecBole's trainers."""
        return {"stage": self.stage_name, "base": os.path.basename(self._base)}

    def _add_train_loss_to_tensorboard(self, epoch_idx: int, losses: Loss, tag: str = "Loss/Train") -> None:
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, f"{tag}/{self._stage.name}" if self._stage else tag)
