"""Runs that are stopped at a certain moment and resumed, compared with runs that are left alone."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.trainer import Trainer
from torch.optim import optimizer as optimizers

from recbole_mm.experiment import quick_start
from recbole_mm.host import recovery, registry
from tests.options import QUICK

OPTIONS = {**QUICK, "epochs": 3, "train_batch_size": 1024, "embedding_size": 16}
#: Options that make models of ours run in a second, and what RecBole's need beside them.
SMALL: dict[str, dict[str, Any]] = {
    "MCPTR": {"pretrain_epochs": 2, "epochs": 2},
    "MML": {
        "epochs": 1, "warmup_epochs": 1, "generator_epochs": 2, "fusion_epochs": 2, "inner_steps": 1, "adapt_steps": 1,
        "max_support": 10, "query_size": 5, "meta_batch_size": 64, "inner_size": 32, "n_layers": 1,
    },
    "CMBF": {"n_image_layers": 1, "n_text_layers": 1, "n_cross_layers": 1, "epochs": 2},
    "UVCAN": {"epochs": 2},
    "BM3": {"epochs": 2},
}  # fmt: skip


class PowerCutError(BaseException):
    """The machine goes down; nothing catches it."""


@contextmanager
def power_cut(step: int | None = None, place: str | None = None) -> Iterator[list[int]]:
    """Count the optimiser's steps and stop at one of them, or when a method of the trainer is called.

    Args:
        step: The step after which the run stops.
        place: ``evaluate`` or ``_save_checkpoint``: stop within the second call of it; ``test``: within the test.

    Yields:
        A list that holds the number of steps.
    """
    count, calls = [0], [0]

    def counted(*_: Any) -> None:
        count[0] += 1
        if count[0] == step:
            raise PowerCutError

    name = "evaluate" if place == "test" else place
    plain = vars(Trainer)[name] if name else None

    def cut(self: Any, *args: Any, **options: Any) -> Any:
        tested = place == "test" and options.get("load_best_model")
        calls[0] += 1
        if tested:
            raise PowerCutError
        result = plain(self, *args, **options)  # type: ignore[misc]
        if place != "test" and calls[0] == 2:
            raise PowerCutError
        return result

    hook = optimizers.register_optimizer_step_post_hook(counted)
    share, recovery.SHARE = recovery.SHARE, 1e9
    if name:
        setattr(Trainer, name, cut)
    try:
        yield count
    finally:
        hook.remove()
        recovery.SHARE = share
        if name:
            setattr(Trainer, name, plain)


@contextmanager
def trainers() -> Iterator[list[Any]]:
    """The trainers of the runs meanwhile."""
    made: list[Any] = []
    init = Trainer.__init__

    def noted(self: Any, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    Trainer.__init__ = noted
    try:
        yield made
    finally:
        Trainer.__init__ = init


def outcome(model: str, folder: str, resume: str | None = None, **options: Any) -> tuple[dict[str, Any], Any]:
    """Train and test; the results and the parameters, of the best epoch and of the last one."""
    settings = {**OPTIONS, **SMALL.get(model, {}), **options, "checkpoint_dir": folder}
    with trainers() as made:
        result = quick_start.run(model, "mm-toy", config_dict=settings, resume=resume)
    kept = ("best_valid_score", "best_valid_result", "test_result", "split")
    return {key: result[key] for key in kept}, made[-1]


def difference(left: Any, right: Any) -> float:
    """Largest difference between the parameters and losses of two trainers."""
    one, other = left.model.state_dict(), right.model.state_dict()
    assert one.keys() == other.keys()
    gaps = [(one[key].double() - other[key].double()).abs().max().item() for key in one if one[key].numel()]
    assert left.train_loss_dict.keys() == right.train_loss_dict.keys()
    gaps += [abs(left.train_loss_dict[key] - right.train_loss_dict[key]) for key in left.train_loss_dict]
    return max(gaps)


def killed_and_resumed(model: str, folder: Path, points: list[Any], **options: Any) -> dict[str, float]:
    """Kill a run at each point and resume it; largest difference from the run that was left alone, by point.

    Args:
        model: Name of the model.
        folder: Where to work.
        points: Numbers between 0 and 1 (share of the optimiser's steps), or places of :func:`power_cut`.
        **options: Options of the runs.
    """
    with power_cut() as steps:
        expected, whole = outcome(model, str(folder / "whole"), **options)
    found = {}
    for point in points:
        target = str(folder / f"{model}-{point}")
        wanted = {"place": point} if isinstance(point, str) else {"step": max(int(point * steps[0]), 1)}
        # A run may save one epoch only, or take no step; then the power goes in its middle, or before the test.
        for where in (wanted, {"step": max(steps[0] // 2, 1)}, {"place": "test"}):
            shutil.rmtree(target, ignore_errors=True)
            try:
                with power_cut(**where):
                    outcome(model, target, **options)
            except PowerCutError:
                break
        else:
            raise AssertionError(f"{model} was not stopped at {point}")
        torch.rand(3), random.random()
        unfinished = [*Path(target).glob("*.last"), *Path(target).glob("*-resume.pth")]
        with power_cut():
            result, trainer = outcome(model, target, resume="auto", **options)
        assert not unfinished or len(list(Path(target).glob("*.pth"))) == len(list((folder / "whole").glob("*.pth"))), (
            "it began anew"
        )
        gap = difference(whole, trainer)
        found[str(point)] = gap if result == expected else max(gap, 1.0)
    return found


def names() -> list[str]:
    """Our models."""
    return sorted(registry.registered_models())
