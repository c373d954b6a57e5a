"""The stages of UniSRec."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from recbole.trainer import Trainer

from recbole_mm.config.shared import check_count
from recbole_mm.trainer.pretraining_data import MixedRows, read_training_part, stack_features
from recbole_mm.trainer.split import check_split
from recbole_mm.trainer.stages import Stage, StagedTrainer

__all__ = ["UniSRecTrainer"]


class UniSRecTrainer(StagedTrainer):
    """Trains :class:`~recbole_mm.model.unisrec.unisrec.UniSRec`: ``pretrain``, then one kind of fine-tuning.

    ``train_stage: both`` runs ``pretrain`` and then ``finetune_stage``. A single ``inductive_ft`` or
    ``transductive_ft`` goes on from ``pre_model_path``, or is trained from scratch without one; after pre-training the
    encoder is frozen (``freeze_encoder``). Pre-training runs ``pretrain_epochs`` epochs without validation over the
    mixed training rows of ``pretrain_datasets``, by default those of the run's own data set.

    ``pre_model_path`` may be of another data set: its adaptors and encoder are taken over, its items are not. Where it
    has read rows of this one, they must have been of the same split.
    """

    all_stages = "both"
    stage_names = ("pretrain", "inductive_ft", "transductive_ft")

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        check_count("pretrain_epochs", config["pretrain_epochs"])
        self.pretrain_epochs: int = config["pretrain_epochs"]
        self._mixed: MixedRows | None = None
        self._same_data = True

    def stages(self, train_data: Any, valid_data: Any) -> Sequence[Stage]:
        """The three stages, of which fine-tuning is one or the other."""
        pretrain, *kinds = self.stage_names
        first = Stage(
            pretrain,
            self.pretrain_epochs,
            self._enter_pretraining,
            self._pretraining_epoch,
            leave=self._leave_pretraining,
        )
        return (
            first,
            *(
                Stage(
                    kind,
                    self.config["epochs"],
                    partial(self._enter_finetuning, kind),
                    self._plain_epoch,
                    self._rank_validation,
                    bigger=self.config["valid_metric_bigger"],
                    patience=self.config["stopping_step"],
                    leave=self._leave_finetuning,
                )
                for kind in kinds
            ),
        )

    def _chosen(self, names: Sequence[str], interrupted: dict | None) -> list[int]:
        wanted, finished = self.train_stage, int(self.model.finished_stages)
        if wanted == self.all_stages:
            last = names.index(self.model.finetune_stage)
            chosen = [index for index in (0, last) if index >= finished]
        elif wanted in names:
            chosen = [names.index(wanted)]
        else:
            raise ValueError(f"train_stage: expected {', '.join(names)} or {self.all_stages}, got {wanted!r}.")
        if interrupted and (not chosen or interrupted["stage"] != names[chosen[0]]):
            raise ValueError(
                f"train_stage {wanted}: pre_model_path is a run that was interrupted in the stage "
                f"{interrupted['stage']}; finish that first (train_stage {interrupted['stage']})."
            )
        return chosen

    def _enter_pretraining(self) -> torch.optim.Optimizer:
        model, names = self.model, self.model.pretrain_datasets
        model.start("pretrain")
        if names is not None:
            own, parts, banks = self.config["dataset"], [], []
            for name in names:
                part, bank = (
                    (self._train_data.dataset, model.features)
                    if name == own
                    else read_training_part(name, self.config, model)
                )
                parts.append(part)
                banks.append(bank)
            model.pretrain_features = stack_features(banks).to(model.seen.device)
            self._mixed = MixedRows(parts, self.config["train_batch_size"])
        return self._build_optimizer()

    def _pretraining_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> Any:
        rows = train_data if self._mixed is None else self._mixed
        return Trainer._train_epoch(self, rows, epoch, show_progress=show_progress)

    def _leave_pretraining(self) -> None:
        self.model.pretrain_features, self._mixed = None, None
        self.model.pretrained.fill_(True)

    def _enter_finetuning(self, kind: str) -> torch.optim.Optimizer:
        model = self.model
        model.start(kind)
        model.encoder.requires_grad_(not (model.freeze_encoder and bool(model.pretrained)))
        return self._build_optimizer(params=[p for p in model.parameters() if p.requires_grad])

    def _plain_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> Any:
        return Trainer._train_epoch(self, train_data, epoch, show_progress=show_progress)

    def _leave_finetuning(self) -> None:
        self.model.encoder.requires_grad_(True)

    def _check_origin(self, checkpoint: dict) -> None:
        origin, own = checkpoint["config"], self.config["dataset"]
        self._same_data = origin["dataset"] == own
        if not self._same_data and checkpoint.get("stage"):
            raise ValueError(
                f"pre_model_path: a run on {origin['dataset']} was interrupted in the stage {checkpoint['stage']}; "
                "finish it there before another data set goes on from it."
            )
        if self._same_data or own in (origin["pretrain_datasets"] or ()):
            check_split(self._continue_from, _On(origin, own), self.config)

    def _check_data(self, path: str, fingerprint: dict[str, Any], interrupted: bool) -> None:
        if self._same_data:  # the ids of other items mean nothing here
            super()._check_data(path, fingerprint, interrupted)

    def _taken_over(self, checkpoint: dict) -> dict[str, Any]:
        """Parameters to go on from: all of them, or those that do not belong to the items of another data set."""
        state = dict(checkpoint["state_dict"])
        self._check_adaptors(state)
        if not self._same_data:
            state.pop("item_embedding.weight", None)
            state["finished_stages"] = torch.ones_like(state["finished_stages"])
            state["pretrained"] = torch.ones_like(state["pretrained"])
        return state

    def _check_adaptors(self, state: dict[str, Any]) -> None:
        own = {key: tuple(value.shape) for key, value in self.model.adaptor.state_dict().items()}
        there = {key[8:]: tuple(value.shape) for key, value in state.items() if key.startswith("adaptor.")}
        if own != there:
            differ = sorted({key.split(".")[0] for key in own.keys() ^ there.keys()}) or sorted(
                f"{key}: {there[key]} there, {own[key]} here" for key in own if own[key] != there[key]
            )
            raise ValueError(
                f"pre_model_path: the adaptors of {self._continue_from} are of other modalities or widths "
                f"({'; '.join(differ)}). Use the same modalities (option modalities), n_experts and embedding_size; "
                "for vectors of another width, pre-train and fine-tune with project_to."
            )


class _On:
    """A Config as if it were of another data set."""

    def __init__(self, config: Any, dataset: str) -> None:
        self._config, self._dataset = config, dataset

    def __getitem__(self, key: str) -> Any:
        return self._dataset if key == "dataset" else self._config[key]
