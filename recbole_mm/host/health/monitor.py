"""Watches a trainer while it trains, and says in a line each what went wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger
from typing import Any

import torch

from recbole_mm.config.health import health_alarms
from recbole_mm.host.health import final
from recbole_mm.host.health.alarms import FEWEST_EPOCHS, Judged, judge_end, judge_loss, new_history
from recbole_mm.host.health.aside import popularity_score
from recbole_mm.nn.diagnosis import gradient_shares, stored_values

__all__ = ["Monitor", "health_report", "monitor_of", "monitored"]

_NEAR = 0.03
_STEPS_PER_LOOK = 200


class Monitor:
    """What is known of a training, and what it costs to know.

    A step of epochs 2 and 3, and of epochs 5, 9, 17 and so on where there were 200 steps for every look before, is
    looked at: the gradient of each part of the loss. What is kept between two epochs lies in the trainer as
    ``health_history``, which checkpoints hold as they hold its counters, so a resumed training is judged like an
    undisturbed one.

    Args:
        trainer: A RecBole trainer that is about to train.
        train_data: Its training data.
        valid_data: Its validation data, or nothing.
        wanted: Names of the alarms.

    Attributes:
        report: ``alarms`` (name and text), ``measures`` and ``seconds``.
    """

    def __init__(self, trainer: Any, train_data: Any, valid_data: Any, wanted: tuple[str, ...]) -> None:
        self._trainer, self._data, self._wanted = trainer, (train_data, valid_data), wanted
        self._said: set[str] = set()
        self._steps = 0
        self._seconds = 0.0
        self._since = time.process_time()
        model = trainer.model
        if hasattr(model, "begun_at"):  # little happens between a model and its training
            vars(model).setdefault("building_seconds", self._since - model.begun_at)
        self.report: dict[str, Any] = {"alarms": [], "measures": {}, "seconds": 0.0}

    @property
    def _history(self) -> dict[str, Any]:
        history: dict[str, Any] | None = vars(self._trainer).get("health_history")
        stage = getattr(self._trainer, "stage_name", None)
        # Every stage has a loss and a validation of its own; when the last is over, it is the one that counts.
        if history is None or (stage is not None and history["stage"] != stage):
            history = self._trainer.health_history = new_history(stage)
        return history

    def watched(self, loss_function: Callable[[Any], Any], epoch: int) -> Callable[[Any], Any]:
        """A loss function that is looked at in its first step of an epoch, and counted.

        Args:
            loss_function: The model's.
            epoch: Number of the epoch, from 0.
        """
        self._steps = 0

        def watched(interaction: Any) -> Any:
            losses = loss_function(interaction)
            if self._steps == 0:
                self._look_at_step(losses, epoch)
            self._steps += 1
            return losses

        return watched

    def epoch_done(self, epoch: int, losses: Any) -> None:
        """Take the sums of an epoch's losses, as RecBole's ``_train_epoch`` gives them."""
        history = self._history
        self._count_time()
        if not self._steps:  # the trainer has a loop of its own, whose losses are its own
            return
        history["steps"] += self._steps
        history["loss"].append(_first(losses) / self._steps)
        if _looked_at(epoch):
            with self._timed():
                self._look_at_modalities(history["silent"])

    def validated(self, score: Any, result: Any) -> None:
        """Take a validation; a second call for the same epoch does nothing."""
        history, trainer = self._history, self._trainer
        epoch = len(history["loss"])
        known = history["valid"]
        ranked = isinstance(result, dict) and str(trainer.valid_metric).lower() in result
        if not ranked or (known and known[-1][0] == epoch):
            return
        known.append([epoch, float(score)])
        if epoch < FEWEST_EPOCHS:
            return
        with self._timed():
            if history["pop"] is None and {"pop", "loss"} & set(self._wanted):
                history["pop"] = popularity_score(trainer, *self._data)
            self._say(judge_loss(history, trainer.valid_metric_bigger))

    def finish(self) -> None:
        """Look at the trained model, and settle the report."""
        history, trainer = self._history, self._trainer
        measures: dict[str, Any] = {}
        alarms: list[dict[str, str]] = []
        self._count_time()
        if len(history["loss"]) >= FEWEST_EPOCHS:
            with self._timed():
                measures = final.measure(trainer, *self._data, history["seconds"])
                measures.update(popularity_score=history["pop"], gradient_shares=history["shares"][-1:])
                alarms = self._say(judge_end(history, measures, trainer.valid_metric_bigger))
        self.report = {"alarms": alarms, "measures": measures, "seconds": self._seconds}

    def _count_time(self) -> None:
        now = time.process_time()
        history = self._history
        history["seconds"] = history.get("seconds", 0.0) + now - self._since
        self._since = now

    def _look_at_step(self, losses: Any, epoch: int) -> None:
        history = self._history
        if epoch == 0 and history["first"] is None:
            first = losses[0] if isinstance(losses, tuple) else losses
            history["first"] = _untrained(float(first.detach()), getattr(self._trainer.model, "n_items", 0))
        if "gradient" in self._wanted and isinstance(losses, tuple) and len(losses) > 1 and self._is_due(epoch):
            with self._timed():
                parameters = [p for p in self._trainer.model.parameters() if p.requires_grad]
                shares = gradient_shares(losses, parameters)
                if shares is not None:
                    history["shares"].append([epoch, *shares])

    def _is_due(self, epoch: int) -> bool:
        """Each look costs some steps; two are needed, and the last one counts."""
        looks = len(self._history["shares"])
        return _looked_at(epoch) and (looks < 2 or self._history["steps"] >= _STEPS_PER_LOOK * looks)

    def _look_at_modalities(self, silent: dict[str, int]) -> None:
        """The gradients of an epoch's last step are still there when it is done."""
        model = self._trainer.model
        if not getattr(model, "learns_features_in_every_step", True):
            return
        names: Any = getattr(model, "features", None)
        for modality in names.keys() if hasattr(names, "keys") else ():
            own = [p for name, p in model.named_parameters() if modality in name.split(".") and p.requires_grad]
            if own:
                heard = any(p.grad is not None and bool(stored_values(p.grad).any()) for p in own)
                silent[modality] = 0 if heard else silent.get(modality, 0) + 1

    def _say(self, judged: Judged) -> list[dict[str, str]]:
        alarms = [{"name": name, "text": text} for name, text in judged if name in self._wanted]
        for alarm in alarms:
            key = alarm["name"] if alarm["name"] == "loss" else alarm["text"]  # its numbers change from epoch to epoch
            if key not in self._said:
                self._said.add(key)
                getLogger().warning(f"health: {type(self._trainer.model).__name__}: {alarm['text']}")
        return alarms

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - begin


@contextmanager
def monitored(trainer: Any, train_data: Any, valid_data: Any, resumed: bool) -> Iterator[None]:
    """Watch the training that the block does.

    Args:
        trainer: A RecBole trainer.
        train_data: Its training data.
        valid_data: Its validation data, or nothing.
        resumed: Whether it goes on from a checkpoint.
    """
    config = trainer.config
    wanted = health_alarms(config["health"])
    trainer._health = None
    if not wanted or not config["single_spec"] or not isinstance(getattr(trainer, "model", None), torch.nn.Module):
        yield
        return
    if not resumed:
        vars(trainer).pop("health_history", None)
    monitor = trainer._health = Monitor(trainer, train_data, valid_data, wanted)
    yield
    monitor.finish()


def monitor_of(trainer: Any) -> Monitor | None:
    """Who watches a trainer, if anybody."""
    found: Monitor | None = vars(trainer).get("_health")
    return found


def health_report(trainer: Any) -> dict[str, Any] | None:
    """What was found; ``None`` where nobody watched."""
    monitor = monitor_of(trainer)
    return None if monitor is None else monitor.report


def _untrained(first: float, n_items: int) -> float:
    """The loss of a model that knows nothing: ln 2 of pairs, ln n of all items, where the first batch is near."""
    values = (math.log(count) for count in (2, n_items - 1, n_items) if count > 1)
    return next((value for value in values if abs(first - value) < _NEAR * value), first)


def _looked_at(epoch: int) -> bool:
    """The second epoch, the third, the fifth, the ninth and so on."""
    return epoch > 0 and epoch & (epoch - 1) == 0


def _first(losses: Any) -> float:
    return float(losses[0] if isinstance(losses, tuple) else losses)
