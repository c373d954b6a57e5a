"""The three stages of MML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from recbole.trainer import trainer as recbole_trainer
from recbole.utils import set_color
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from recbole_mm import processes
from recbole_mm.nn.meta.tasks import TaskTable
from recbole_mm.trainer.fusion_data import FusionData
from recbole_mm.trainer.precision import amp_dtype
from recbole_mm.trainer.stages import Stage, StagedTrainer

__all__ = ["MMLTrainer"]


class MMLTrainer(StagedTrainer):
    """Trains :class:`~recbole_mm.model.mml.mml.MML`: ``meta``, then ``generator``, then ``fusion``.

    Tasks are made from the training rows of RecBole's sequential data set, one per user with at least two rows: the
    last ``query_size`` rows, at most half of them, are the query, the earlier ones the support. A meta-batch is worked
    off in chunks of users (the warm-up: of windows) within ``task_memory_mb``; their gradients add up to those of the
    whole batch, except that the contrast of ``contrastive_weight`` compares the items of a chunk. Negatives are drawn
    here, uniformly from the items with a training interaction except the positive, because RecBole's loader makes
    batches of rows and not of users. The stage ``meta`` is validated on RecBole's validation data, ``fusion`` on the
    cross entropy of the query instances; ``generator`` runs its epochs.
    """

    stage_names = ("meta", "generator", "fusion")

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        sampling = config["train_neg_sample_args"]
        if sampling.get("distribution") != "uniform" or sampling.get("sample_num") != 1 or sampling.get("dynamic"):
            raise ValueError(
                f"MMLTrainer draws one uniform negative per instance, got train_neg_sample_args {sampling}; "
                "leave it at its default."
            )
        if self.enable_scaler:
            raise ValueError("MMLTrainer cannot scale the gradients of inner loops; set enable_scaler to False.")
        self.support: TaskTable
        self.query: TaskTable
        self.fusion_data: FusionData | None = None

    def stages(self, train_data: Any, valid_data: Any) -> Sequence[Stage]:
        """The three stages; fusion by ``weight`` has nothing to train."""
        s, model = self.model.settings, self.model
        self._make_tasks(train_data.dataset)
        meta, generator, fusion = self.stage_names
        fusion_epochs = s.fusion_epochs if s.fusion_method == "attention" else 0
        meta_epochs = s.warmup_epochs + self.config["epochs"] if self.config["epochs"] else 0
        return (
            Stage(
                meta,
                meta_epochs,
                self._enter_meta,
                self._meta_epoch,
                self._rank_validation,
                bigger=self.config["valid_metric_bigger"],
                patience=self.config["stopping_step"],
            ),
            Stage(
                generator,
                s.generator_epochs,
                self._enter_generator,
                self._generator_epoch,
                leave=self._leave_generator,
            ),
            Stage(
                fusion,
                fusion_epochs,
                self._enter_fusion,
                self._fusion_epoch,
                self._fusion_validation,
                bigger=False,
                patience=s.fusion_stopping_step,
                every=1,
                leave=lambda: model.train_only(model.learners),
            ),
        )

    def _make_tasks(self, dataset: Any) -> None:
        model, s = self.model, self.model.settings
        rows = model.rows(dataset.inter_feat)
        self.everything = TaskTable(rows, model.n_users, s.instances)
        # Never more than half of a user's rows, so that short users keep a support set.
        size = np.minimum(s.query_size, np.bincount(rows.user, minlength=model.n_users) // 2)
        self.query = TaskTable(rows, model.n_users, s.instances, size)
        self.support = TaskTable(rows.select(rows.age >= size[rows.user]), model.n_users, s.instances, s.max_support)
        self.task_users = self.query.users
        if len(self.task_users) == 0:
            raise ValueError(
                "MML found no user with three training interactions, so there is no task with support and query."
            )
        self.pool = torch.from_numpy(model.interactions.indices).long().unique()

    def _enter_meta(self) -> torch.optim.Optimizer:
        model, s = self.model, self.model.settings
        model.train_only(model.learners)
        rate = {"id": self.learning_rate, **s.feature_learning_rate}
        groups = [{"params": list(model.learners[name].parameters()), "lr": rate[name]} for name in model.learners]
        return self._build_optimizer(params=groups)

    def _enter_generator(self) -> torch.optim.Optimizer:
        self.model.train_only(self.model.generator)
        return self._build_optimizer(
            params=self.model.generator.parameters(), learning_rate=self.model.settings.generator_learning_rate
        )

    def _leave_generator(self) -> None:
        filled = self.model.fill_cold_items()
        self.model.train_only(self.model.learners)  # as after fusion, which may have nothing to train
        self.logger.info(f"{filled} items without a training interaction got a generated embedding.")

    def _enter_fusion(self) -> torch.optim.Optimizer:
        self.model.train_only(self.model.fusion)
        self.fusion_data = FusionData(self.model, self.support, self.query, self.task_users, self.config["seed"])
        self.logger.info(f"{self.fusion_data}")
        return self._build_optimizer(
            params=self.model.fusion.parameters(), learning_rate=self.model.settings.fusion_learning_rate
        )

    def _meta_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> tuple[float, ...]:
        self.model.train()
        if epoch < self.model.settings.warmup_epochs:
            return self._warmup_epoch(epoch, show_progress)
        return self._task_epoch("meta", epoch, show_progress, self.model.meta_losses, self.model.learners)

    def _warmup_epoch(self, epoch: int, show_progress: bool) -> tuple[float, ...]:
        """One pass over all users without inner loops, all their instances asked."""
        s, model = self.model.settings, self.model
        room = max(int(s.task_memory_mb * 2**20 // model.window_bytes(self.everything.length)), 1)
        users = self.everything.users
        batches, total = users[torch.randperm(len(users))].split(s.meta_batch_size), None
        for batch in self._progress(batches, "warm-up", epoch, show_progress):
            processes.same_random_state()
            self.optimizer.zero_grad()
            whole = self.everything.batch(batch, self.pool, n_candidates=s.n_candidates)
            index, counted = processes.share(len(batch))
            for task in whole.of(index).parts(room):
                weight = (task.target.ne(0).sum() / whole.target.ne(0).sum()).item() if counted else 0.0
                with torch.autocast(self.device.type, amp_dtype(self.config), self.enable_amp):
                    parts = torch.stack([loss.float() for loss in model.plain_losses(task)]) * weight
                parts.sum().backward()
                total = parts.detach() if total is None else total + parts.detach()
            self._step(model.learners)
        self._check_nan(total.sum())
        return tuple(processes.summed(total.tolist()))

    def _generator_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> float:
        # The learners are constants here: no dropout in them.
        self.model.eval()
        return self._task_epoch(
            "generator", epoch, show_progress, lambda *task: (self.model.generator_loss(*task),), self.model.generator
        )[0]

    def _task_epoch(
        self, name: str, epoch: int, show_progress: bool, losses: Any, part: torch.nn.Module
    ) -> tuple[float, ...]:
        """One pass over all tasks; ``losses(support, query)`` are means over the tasks of a chunk."""
        s = self.model.settings
        n_candidates = s.n_candidates if name == "meta" else None  # the generator's negatives are generated, too
        users = self.task_users[torch.randperm(len(self.task_users))]
        total: Tensor | None = None
        for batch in self._progress(users.split(s.meta_batch_size), name, epoch, show_progress):
            processes.same_random_state()
            self.optimizer.zero_grad()
            passes = s.inner_steps if s.meta_order == "second" else 1
            for chunk in self.model.task_chunks(self.support, batch, max(passes, 1)):
                # Every process draws for all users of the chunk, and takes its own.
                index, counted = processes.share(len(chunk))
                support, query = (
                    table.batch(chunk, self.pool, n_candidates=n_candidates).of(index)
                    for table in (self.support, self.query)
                )
                with torch.autocast(self.device.type, amp_dtype(self.config), self.enable_amp):
                    parts = torch.stack([loss.float() for loss in losses(support, query)]) * (counted / len(batch))
                parts.sum().backward()
                total = parts.detach() if total is None else total + parts.detach()
            self._step(part)
        self._check_nan(total.sum())
        return tuple(processes.summed(total.tolist()))

    def _fusion_epoch(self, train_data: Any, epoch: int, show_progress: bool) -> float:
        self.model.train()
        data, size = self.fusion_data, self.model.settings.fusion_batch_size
        total = torch.zeros((), device=self.device)
        order = torch.randperm(data.n_support)
        for index in self._progress(order.split(size), "fusion", epoch, show_progress):
            processes.same_random_state()
            self.optimizer.zero_grad()
            part, counted = processes.share(len(index))
            states, scores, target = data.support(index[part])
            loss = F.cross_entropy(self._fused(states, scores), target) * (counted / len(index))
            loss.backward()
            self._step(self.model.fusion)
            total += loss.detach()
        self._check_nan(total)
        return processes.summed([total.item()])[0]

    def _fused(self, states: Tensor, scores: Tensor) -> Tensor:
        """Fused scores, without those of items that training may not know, which weigh in no normalisation either."""
        known = self.model.known_items
        if known is None:
            return self.model.fusion(states, scores)
        mean = (scores * known).sum(dim=-1, keepdim=True) / known.sum()
        return self.model.fusion(states, torch.where(known, scores, mean)).masked_fill(~known, -torch.inf)

    @torch.no_grad()
    def _fusion_validation(self, valid_data: Any, show_progress: bool) -> tuple[float, dict[str, float]]:
        self.model.eval()
        data, total = self.fusion_data, 0.0
        for index in torch.arange(data.n_query).split(self.model.settings.fusion_batch_size):
            states, scores, target = data.query(index)
            total += F.cross_entropy(self._fused(states, scores), target, reduction="sum").item()
        loss = total / data.n_query
        return loss, {"query cross entropy": loss}

    def _step(self, part: torch.nn.Module) -> None:
        processes.add_gradients(part.parameters())
        if self.clip_grad_norm:
            clip_grad_norm_(part.parameters(), **self.clip_grad_norm)
        self.optimizer.step()

    def _progress(self, batches: Sequence[Tensor], name: str, epoch: int, show: bool) -> Iterator[Tensor]:
        if not show:
            return iter(batches)
        return iter(recbole_trainer.tqdm(batches, ncols=100, desc=set_color(f"{name} {epoch:>5}", "pink")))
