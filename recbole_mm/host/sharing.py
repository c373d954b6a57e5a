"""How RecBole's trainers and loaders work in several processes: each takes its part of a batch and of an evaluation.

RecBole's own way shuffles and draws otherwise than one process does, averages metrics that were rounded, and needs
CUDA. Here RecBole believes in one process: every process has the same loaders, draws the same batches and negatives,
and takes its rows of each; gradients are summed with the shares of the rows as weights, so a step is that of one
process with the whole batch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import recbole.trainer.trainer as recbole_trainers
import torch
from recbole.config import Config
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recbole_mm import processes
from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap
from recbole_mm.plain import from_plain
from recbole_mm.trainer.precision import amp_dtype
from recbole_mm.trainer.state import random_state, set_random_state

__all__ = ["SharedLoss", "evaluated_here", "install", "same_names", "total"]

#: What a process collects of an evaluation, which belongs together with what the others have.
COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")
# Gradients of a batch and of its parts that differ by less differ by rounding.
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6


def install() -> None:
    """Let RecBole's trainers work in several processes; calling it again does nothing."""
    if "_recbole_mm_add" in vars(recbole_trainers):
        return
    vars(recbole_trainers).update(
        _recbole_mm_add=processes.add_gradients, _recbole_mm_here=evaluated_here, _recbole_mm_dtype=amp_dtype
    )
    backward = "scaler.scale(loss + sync_loss).backward()"
    added = f"{backward}; _recbole_mm_add(self.model.parameters())"
    casts = "enabled=self.enable_amp"
    edit(Trainer._train_epoch, {backward: added, casts: f"{casts}, dtype=_recbole_mm_dtype(self.config)"})
    batches = "enumerate(iter_data)"
    edit(Trainer.evaluate, {batches: "enumerate(_recbole_mm_here(self, eval_data, iter_data))"})
    wrap(Config, "_init_device", _init_device)
    wrap(recbole_trainers, "get_tensorboard", _get_tensorboard)


class SharedLoss:
    """A loss of which every process computes its part.

    The rows of a batch are divided where that gives the gradient of the whole batch. It does not where rows meet each
    other in the loss, as in a contrast within the batch; then every process computes the whole, and nothing is gained
    but the evaluation. Which it is, is found out at the first batch (``process_batch: auto``), by computing both
    without dropout.

    Args:
        trainer: The trainer.
        function: The loss of an interaction: a number or a tuple of parts.
        times: How often the loader repeats the rows of a batch, once for each negative.
        run: What computes it, if not the function itself: what a compiler has made of it.
    """

    def __init__(
        self, trainer: Any, function: Callable[[Any], Any], times: int, run: Callable[[Any], Any] | None = None
    ) -> None:
        self._trainer, self._function, self._times = trainer, function, times
        self._run = run or function
        known = vars(trainer).setdefault("_sharing", {})
        self._known: dict[Any, bool] = known
        self._key = (getattr(function, "__name__", ""), getattr(trainer, "stage_name", None))

    def __call__(self, interaction: Any) -> Any:
        """The loss of this process's part, weighted so that the sum over the processes is that of the batch."""
        if not self._divides(interaction):
            return _scaled(self._run(interaction), 1 / processes.world())
        processes.same_random_state()  # a part may have drawn more numbers than another
        part, weight = self._part(interaction, processes.rank())
        return _scaled(self._run(part), weight)

    def _divides(self, interaction: Any) -> bool:
        if self._key not in self._known:
            wanted = self._trainer.config["process_batch"] or "auto"
            reason = "process_batch is whole" if wanted == "whole" else None
            if wanted == "auto":
                if _rows(interaction, self._times) < 2 * processes.world():
                    return False  # too few to tell; the next batch decides
                reason = processes.same(self._why_not(interaction) if processes.is_writer() else None)
            how = "its part of a batch" if reason is None else f"the whole batch ({reason})"
            self._trainer.logger.info(f"{processes.world()} processes: each computes the loss of {how}.")
            self._known[self._key] = reason is None
        return self._known[self._key] and _even(interaction)

    def _part(self, interaction: Any, rank: int) -> tuple[Any, float]:
        """A process's rows, and their share of the batch; negatives stay with their positives."""
        n = _rows(interaction, self._times)
        index, counted = processes.share(n, rank)
        times = len(interaction) // n
        places = (torch.arange(times)[:, None] * n + index).flatten()
        return interaction[places], counted / n

    def _why_not(self, interaction: Any) -> str | None:
        """Why the batch cannot be divided; ``None`` where it can."""
        model: nn.Module = self._trainer.model
        name = getattr(self._function, "__name__", "")
        if getattr(self._function, "__self__", None) is not model:
            return "its loss is no method of the model"
        if not _even(interaction):
            return "its columns have different lengths"
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            return "batch normalisation"
        state = from_plain(random_state(self._trainer, ()))
        try:
            whole = self._gradients(name, [(interaction, 1.0)], state)
            parts = self._gradients(name, [self._part(interaction, rank) for rank in range(processes.world())], state)
        except Exception as error:  # a loss that cannot be computed without dropout, say: the training will tell
            return f"its parts cannot be tried: {type(error).__name__}: {error}"
        finally:
            set_random_state(state, self._trainer, ())
        if not whole:
            return "it has no gradient"  # it counts, and has to count every row
        return None if _equal(whole, parts) else "its rows depend on each other"

    def _gradients(self, name: str, parts: list[tuple[Any, float]], state: Any) -> dict[str, torch.Tensor]:
        """The weighted sum of the gradients of some parts, without dropout, and without a trace in the model."""
        model: Any = _without_dropout(self._trainer.model)
        for part, weight in parts:
            set_random_state(state, self._trainer, ())
            losses = getattr(model, name)(part)
            loss: Any = sum(losses) if isinstance(losses, tuple) else losses
            (loss * weight).backward()
        return {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


def total(losses: Any) -> Any:
    """Sums of an epoch's losses over the processes."""
    if processes.world() == 1 or losses is None:
        return losses
    return tuple(processes.summed(losses)) if isinstance(losses, tuple) else processes.summed([losses])[0]


def evaluated_here(trainer: Any, loader: Any, batches: Any) -> Any:
    """The batches of an evaluation that this process ranks; together they have all, in order.

    Args:
        trainer: The trainer.
        loader: The loader.
        batches: The loader, or its progress bar.
    """
    if processes.world() == 1:
        return batches
    trainer.eval_collector.is_shared = True
    n, world = len(loader), processes.world()
    first, last = (rank * n // world for rank in (processes.rank(), processes.rank() + 1))
    if isinstance(loader, FullSortEvalDataLoader):  # makes its batches without a random number
        return _progress(batches, loader, map(loader.collate_fn, islice(loader.batch_sampler, first, last)))
    return _all(batches, first, last)


def _progress(bar: Any, loader: Any, own: Iterator[Any]) -> Iterator[Any]:
    for batch in own:
        yield batch
        if bar is not loader:
            bar.update(processes.world())


def _all(batches: Any, first: int, last: int) -> Iterator[Any]:
    """Some of the batches, where all must be made because they draw candidates."""
    for place, batch in enumerate(batches):
        if first <= place < last:
            yield batch


def joined(collector: Any, struct: Any, cases: Any) -> tuple[Any, list[Any]]:
    """What all processes have collected of an evaluation.

    Args:
        collector: RecBole's collector of this process.
        struct: Its data.
        cases: What else it has kept.

    Returns:
        The data of all, and what all have kept.
    """
    if not vars(collector).get("is_shared"):
        return struct, [] if cases is None else [cases]
    collector.is_shared = False
    found = processes.gathered(({key: struct.get(key) for key in COLLECTED if key in struct}, cases))
    for key in {key for part, _ in found for key in part}:
        struct.set(key, torch.cat([part[key] for part, _ in found if key in part]))
    return struct, [kept for _, kept in found if kept is not None]


def same_names(trainer: Any) -> None:
    """Let all processes know the files that the first one writes."""
    for name in ("saved_model_file", "_base"):
        if name in vars(trainer):
            setattr(trainer, name, processes.same(vars(trainer)[name]))


def _init_device(original: Callable[..., None], config: Any) -> None:
    """RecBole's choice of a device among those of this process, and the meeting with the others."""
    place, final = processes.place(), config.final_config_dict
    if place is None:
        original(config)
        return
    devices = str(final["gpu_id"]).strip("()[] ").replace(" ", "").split(",")
    final["gpu_id"] = devices[min(place.local_rank, len(devices) - 1)]
    original(config)
    cuda = final["device"].type == "cuda"
    if cuda and place.local_world > len(devices):
        raise ValueError(
            f"gpu_id: {place.local_world} processes on this machine need as many devices, one each, got "
            f"{', '.join(devices)}. Name them (gpu_id=0,1), or start fewer processes; gpu_id='' is the processor."
        )
    processes.join(cuda)
    if not processes.is_writer():
        final.update(state="error", show_progress=False, log_wandb=False, save_dataset=False, save_dataloaders=False)


class _Silent:
    """In place of a writer of curves in the processes that write none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _get_tensorboard(original: Callable[..., Any], logger: logging.Logger) -> Any:
    return original(logger) if processes.is_writer() else _Silent()


def _rows(interaction: Any, times: int) -> int:
    return len(interaction) // times if times and len(interaction) % times == 0 else len(interaction)


def _even(interaction: Any) -> bool:
    return all(len(column) == len(interaction) for column in interaction.interaction.values())


def _scaled(losses: Any, weight: float) -> Any:
    return tuple(loss * weight for loss in losses) if isinstance(losses, tuple) else losses * weight


def _without_dropout(model: nn.Module) -> nn.Module:
    """A copy of a model that computes its training loss without dropout; constant tables are not copied."""
    constant = {
        id(buffer): buffer
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    }
    twin = copy.deepcopy(model, constant)
    twin.zero_grad(set_to_none=True)
    twin.eval()
    for module in twin.modules():
        if isinstance(module, nn.RNNBase):  # cuDNN has no gradient of one that is not in training
            module.training, module.dropout = True, 0.0
    return twin


def _equal(whole: dict[str, torch.Tensor], parts: dict[str, torch.Tensor]) -> bool:
    if whole.keys() != parts.keys():
        return False
    largest = max((float(value.abs().max()) for value in whole.values() if value.numel()), default=0.0)
    return all(
        float((value - parts[key]).abs().max()) <= _RELATIVE * float(value.abs().max()) + _ABSOLUTE * largest
        for key, value in whole.items()
        if value.numel()
    )
