"""The two stages of MCPTR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from recbole.trainer import PretrainTrainer

from recbole_mm import processes
from recbole_mm.config.shared import check_count
from recbole_mm.data.features.pretrained import write_pretrained
from recbole_mm.model.mcptr.finetune import FinetuneConfig
from recbole_mm.trainer.stages import Stage, StagedTrainer

__all__ = ["MCPTRTrainer"]


class MCPTRTrainer(StagedTrainer, PretrainTrainer):
    """Trains :class:`~recbole_mm.model.mcptr.mcptr.MCPTR`: ``pretrain``, then ``finetune``.

    Pre-training runs ``pretrain_epochs`` epochs without validation and keeps the last one in ``<name>-pretrain.pth``
    (every ``save_step`` epochs in ``<name>-pretrain-<epoch>.pth``, too, from which fine-tuning can start as from the
    last one). Then the model's encoders are replaced by RecBole's own recommender, with the tables that they give as
    its embeddings and an optimiser of its own; it is trained for ``epochs`` epochs as any model of RecBole is, and
    ``<name>-finetune.pth`` is the best of them.
    """

    all_stages = "both"
    stage_names = ("pretrain", "finetune")

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        for key in ("pretrain_epochs", "save_step"):
            check_count(key, config[key])

    def stages(self, train_data: Any, valid_data: Any) -> Sequence[Stage]:
        """The two stages."""
        pretrain, finetune = self.stage_names
        return (
            Stage(
                pretrain,
                self.pretrain_epochs,
                self._enter_pretraining,
                self._pretraining_epoch,
                leave=self._leave_pretraining,
            ),
            Stage(
                finetune,
                self.config["epochs"],
                self._enter_finetuning,
                self._plain_epoch,
                self._rank_validation,
                bigger=self.config["valid_metric_bigger"],
                patience=self.config["stopping_step"],
            ),
        )

    def pretrain(
        self, train_data: Any, verbose: bool = True, show_progress: bool = False
    ) -> tuple[float, dict[str, float] | None]:
        """Run the first stage alone, as ``train_stage: pretrain`` does.

        Returns:
            RecBole's pair of best validation score and result, which pre-training does not have.
        """
        wanted, self.train_stage = self.train_stage, "pretrain"
        try:
            return self.fit(train_data, None, verbose, show_progress=show_progress)
        finally:
            self.train_stage = wanted

    def changed_options(self, origin: Any) -> list[str]:
        """Options of the fine-tuned recommender that differ from those of ``origin``, defaults included.

        They are RecBole's, not MCPTR's: ``n_layers`` of LightGCN changes no shape, so that parameters of two layers
        would go on as those of four.
        """
        there, here = (
            {"finetune_model": config["finetune_model"], **_finetune_options(config)}
            for config in (origin, self.config)
        )
        if there["finetune_model"] != here["finetune_model"]:  # what else differs follows from that
            there, here = ({"finetune_model": options["finetune_model"]} for options in (there, here))
        return [f"{key}: {there[key]!r} there, {here[key]!r} here" for key in sorted(here) if there[key] != here[key]]

    def _check_origin(self, checkpoint: dict) -> None:
        super()._check_origin(checkpoint)
        if not any(key.startswith("recommender.") for key in checkpoint["state_dict"]):
            return  # one pre-training serves any fine-tuning
        changed = self.changed_options(checkpoint["config"])
        if changed:
            raise ValueError(
                f"pre_model_path: fine-tuning began with other options ({'; '.join(changed)}). Go on with the same "
                "options, or fine-tune anew from the checkpoint of the stage pretrain (<name>-pretrain.pth)."
            )

    def _enter_pretraining(self) -> torch.optim.Optimizer:
        if self.model.stage != "pretrain":
            raise ValueError(
                "train_stage pretrain: pre_model_path is a checkpoint of fine-tuning, where there are no encoders to "
                "pre-train; give that of the stage pretrain, or none."
            )
        return self._build_optimizer(params=self.model.pretraining_groups(self.learning_rate))

    def _enter_finetuning(self) -> torch.optim.Optimizer:
        if self.model.stage == "pretrain":
            self.model.start_finetuning()
        return self._build_optimizer(
            params=self.model.recommender.parameters(), learning_rate=self.model.finetune_learning_rate
        )

    def _plain_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> Any:
        return PretrainTrainer._train_epoch(self, train_data, epoch, show_progress=show_progress)

    def _pretraining_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> Any:
        loss = self._plain_epoch(train_data, epoch, show_progress)
        if self._saved and self.save_step and (epoch + 1) % self.save_step == 0:
            file, finished = self.saved_model_file, self.model.finished_stages
            finished.fill_(1)  # it is a whole pre-training of that many epochs
            try:
                self.save_pretrained_model(epoch, f"{self._base}-pretrain-{epoch + 1}.pth")
            finally:
                finished.fill_(0)
                self.saved_model_file = file  # which RecBole sets to the numbered one
        return loss

    def _leave_pretraining(self) -> None:
        folder = self.model.pretrained_feature_path
        if folder is not None and processes.is_writer():
            self.model.eval()
            for file in write_pretrained(self.model, self._train_data.dataset, folder):
                self.logger.info(f"The pre-trained table is in {file}.")


def _finetune_options(config: Any) -> dict[str, Any]:
    """Every option of the fine-tuned recommender with the value that it has in a run."""
    return dict(FinetuneConfig(config, config["finetune_model"], config["embedding_size"]))
