"""Makes RecBole stop at a loss or at scores that are NaN or infinite, and say which model, when and why."""

from __future__ import annotations

from typing import Any

from recbole.trainer import Trainer

from recbole_mm import processes
from recbole_mm.host.compiled import compiled
from recbole_mm.host.editing import edit
from recbole_mm.host.health.monitor import monitor_of
from recbole_mm.host.sharing import SharedLoss, total
from recbole_mm.host.wrapping import wrap
from recbole_mm.trainer.finite import check_finite_loss, check_finite_scores

__all__ = ["install"]


def install() -> None:
    """Check losses and scores of every trainer that builds on RecBole's; a second call does nothing.

    RecBole looks for NaN in the loss alone, and ranks whatever a model scores: with all scores NaN, the items come in
    the order of their ids, which many data sets sort by popularity.
    """
    if "_recbole_mm_check" in Trainer._full_sort_batch_eval.__globals__:
        return

    def train_epoch(
        original: Any, self: Any, train_data: Any, epoch_idx: int, loss_func: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        self.training_place, monitor = [epoch_idx, -1], monitor_of(self)
        loss = loss_func or self.model.calculate_loss
        loss_func = compiled(self, loss)
        if processes.world() > 1:
            processes.same_random_state()
            loss_func = SharedLoss(self, loss, getattr(train_data, "times", 1), loss_func)
        try:
            if monitor is None:
                return total(original(self, train_data, epoch_idx, loss_func, *args, **kwargs))
            watched = monitor.watched(loss_func, epoch_idx)
            losses = total(original(self, train_data, epoch_idx, watched, *args, **kwargs))
            monitor.epoch_done(epoch_idx, losses)
            return losses
        finally:
            self.training_place = None

    def check_loss(original: Any, self: Any, loss: Any) -> None:
        place = getattr(self, "training_place", None) or [None, None]
        if place[1] is not None:
            place[1] += 1
        check_finite_loss(self.model, loss, *place)

    wrap(Trainer, "_train_epoch", train_epoch)
    wrap(Trainer, "_check_nan", check_loss)
    for function, name, lines in (
        (Trainer._full_sort_batch_eval, "scores[:, 1:]", ["scores[:, 0] = -np.inf\n"]),
        (
            Trainer._neg_sample_batch_eval,
            "origin_scores",
            [
                "return interaction, origin_scores, positive_u, positive_i\n",
                'col_idx = interaction[self.config["ITEM_ID_',
            ],
        ),
    ):
        check = f'_recbole_mm_check(self.model, {name}, "in the evaluation"); '
        function.__globals__["_recbole_mm_check"] = check_finite_scores
        edit(function, {line: check + line for line in lines})
