"""Everything that a training carries from one epoch to the next, taken out of a trainer and put back.

Parameters and buffers are in the checkpoint anyway. What RecBole leaves out: the states of all random generators, the
optimisers (RecVAE has two), what a model counts or keeps in plain attributes, such as the annealing step of MultiVAE,
and the trainer's own counters.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from recbole.sampler.sampler import AbstractSampler
from torch import nn

from recbole_mm.plain import to_plain

__all__ = ["Baseline", "capture", "generators", "optimizers", "random_state", "restore", "set_random_state"]

_SCALARS = (type(None), bool, int, float, str)
_MODULE = set(vars(nn.Module())) - {"training"}
# What a checkpoint has by name, and what says where and how a trainer works.
_TRAINER = {
    "best_valid_score", "best_valid_result", "cur_step", "start_epoch", "epochs", "saved_model_file", "checkpoint_dir",
    "eval_step", "stopping_step", "learning_rate", "weight_decay", "test_batch_size", "tot_item_num", "item_tensor",
    "valid_metric", "valid_metric_bigger", "pretrain_epochs", "save_step",
}  # fmt: skip


class Baseline:
    """The plain attributes of a trainer and its model before training, so that only what moved need be written.

    A model that is built anew has the rest: graphs and tables of gigabytes among them.

    Args:
        trainer: A trainer that has not begun.
        without: Paths of attributes that count as moved in any case.
    """

    def __init__(self, trainer: Any, without: Iterable[str] = ()) -> None:
        known = ((path, value) for path, value in _attributes(trainer) if path not in without)
        self._before = {path: (value, _mark(value)) for path, value in known}

    def moved(self, trainer: Any) -> dict[str, Any]:
        """Path to value of the attributes that are others now."""
        found = {}
        for path, value in _attributes(trainer):
            if path not in self._before or not _same(self._before[path], value):
                found[path] = value
        return found


def capture(trainer: Any, baseline: Baseline, loaders: Iterable[Any]) -> dict[str, Any]:
    """The state of a training between two epochs, in plain types.

    Args:
        trainer: The trainer.
        baseline: Its attributes before it began.
        loaders: The loaders that it trains and validates on.

    Returns:
        For :func:`restore`.
    """
    states: dict[str, tuple[Any, Any]] = {}
    names: dict[str, str] = {}
    for name, optimizer in optimizers(trainer).items():
        known = next((key for key, (other, _) in states.items() if other is optimizer), None)
        if known is None:
            states[name] = (optimizer, to_plain(optimizer.state_dict(), name))
        names[name] = known or name
    attributes = {}
    for path, value in baseline.moved(trainer).items():
        try:
            attributes[path] = to_plain(value, path)
        except TypeError:  # what cannot be written cannot be a counter either
            continue
    return {
        "random": random_state(trainer, loaders),
        "optimizers": {name: state for name, (_, state) in states.items()},
        "optimizer_names": names,
        "attributes": attributes,
    }


def restore(trainer: Any, state: Mapping[str, Any]) -> None:
    """Put the optimisers and attributes of a captured state back; the random generators come last, on their own.

    Args:
        trainer: A fresh trainer of the same options, with the parameters of the checkpoint.
        state: What :func:`capture` gave, after reading.
    """
    there = optimizers(trainer)
    for name, content in state["optimizers"].items():
        if name in there:
            load_optimizer(there[name], content)
    for name, same in state["optimizer_names"].items():
        if name != same and same in there:
            setattr(trainer, name, there[same])
    owners = {"": trainer, **{f"model.{name}".rstrip("."): module for name, module in trainer.model.named_modules()}}
    for path, value in state["attributes"].items():
        owner, _, name = path.rpartition("/")
        if owner in owners:
            _put(owners[owner], name, value, trainer.device)


def load_optimizer(optimizer: torch.optim.Optimizer, content: Mapping[str, Any]) -> None:
    """Load the moments of an optimiser; its rates stay those of this run, which the caller may have changed."""
    rates = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(content))
    for group, own in zip(optimizer.param_groups, rates):
        group.update({key: own[key] for key in ("lr", "weight_decay") if key in own})


def optimizers(trainer: Any) -> dict[str, Any]:
    """The optimisers and learning rate schedules among the attributes of a trainer and of its model."""
    kinds = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    found = {name: value for name, value in vars(trainer).items() if isinstance(value, kinds)}
    # The ones with names of their own first, so that ``optimizer``, an alias of one of them in RecVAE, refers to it.
    return dict(sorted(found.items(), key=lambda entry: entry[0] == "optimizer"))


def random_state(trainer: Any, loaders: Iterable[Any]) -> dict[str, Any]:
    """State of every random generator that training may draw from, in plain types."""
    device = getattr(trainer, "device", None)
    return {
        "python": to_plain(random.getstate()),
        "numpy": to_plain(np.random.get_state()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if getattr(device, "type", "cpu") == "cuda" else [],
        "own": [_generator_state(generator) for generator in generators(trainer, loaders)],
    }


def set_random_state(state: Mapping[str, Any], trainer: Any, loaders: Iterable[Any]) -> None:
    """Put the state of every random generator back.

    Args:
        state: What :func:`random_state` gave, after reading.
        trainer: The trainer.
        loaders: Its loaders.
    """
    random.setstate(_as_tuples(state["python"]))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    for generator, content in zip(generators(trainer, loaders), state["own"]):
        if isinstance(generator, torch.Generator):
            generator.set_state(content.cpu())
        elif isinstance(generator, random.Random):
            generator.setstate(_as_tuples(content))
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(tuple(content))
        else:
            generator.bit_generator.state = content


def generators(trainer: Any, loaders: Iterable[Any]) -> list[Any]:
    """The generators that loaders, trainer and model hold themselves, each once, in an order that every run shares."""
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    loaders = [loader for loader in loaders if loader is not None]
    inner = [
        part for loader in loaders for part in vars(loader).values() if isinstance(part, torch.utils.data.DataLoader)
    ]
    samplers = [
        part for loader in (*loaders, *inner) for part in vars(loader).values() if isinstance(part, AbstractSampler)
    ]
    found: dict[int, Any] = {}
    for owner in (*loaders, *inner, *samplers, trainer, *trainer.model.modules()):
        for value in vars(owner).values():
            if isinstance(value, kinds):
                found.setdefault(id(value), value)
    return list(found.values())


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return to_plain(generator.getstate())
    if isinstance(generator, np.random.RandomState):
        return to_plain(generator.get_state())
    return to_plain(generator.bit_generator.state)


def _attributes(trainer: Any) -> Iterator[tuple[str, Any]]:
    """Path and value of what a trainer, its model and the model's parts keep in plain attributes."""
    for name, value in vars(trainer).items():
        if name not in _TRAINER and not name.startswith("_") and _is_plain(value):
            yield f"/{name}", value
    other = set(getattr(trainer.model, "other_parameter_name", ()))
    for prefix, module in trainer.model.named_modules():
        owner = f"model.{prefix}".rstrip(".")
        for name, value in vars(module).items():
            if name not in _MODULE and name not in other and name != "training" and _is_plain(value):
                yield f"{owner}/{name}", value
        for name in module._non_persistent_buffers_set:
            yield f"{owner}/{name}", module._buffers.get(name)


def _is_plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, (*_SCALARS, torch.Tensor, np.ndarray, np.generic)):
        return not isinstance(value, nn.Parameter)
    if depth and isinstance(value, Mapping):
        return all(isinstance(key, (*_SCALARS, tuple)) and _is_plain(entry, depth - 1) for key, entry in value.items())
    if depth and isinstance(value, (list, tuple, set)):
        return all(_is_plain(entry, depth - 1) for entry in value)
    return False


def _mark(value: Any) -> Any:
    """What changes when a value is changed in place."""
    if isinstance(value, torch.Tensor):
        return value._version
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data) if value.dtype.kind in "biufc" else None
    if isinstance(value, Mapping):
        return [(key, entry if _is_scalar(entry) else id(entry), _mark(entry)) for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return [(entry if _is_scalar(entry) else id(entry), _mark(entry)) for entry in value]
    return sorted(map(repr, value)) if isinstance(value, set) else None


def _same(before: tuple[Any, Any], value: Any) -> bool:
    known, mark = before
    if _is_scalar(value) or _is_scalar(known):
        return type(known) is type(value) and (known == value or known != known and value != value)
    return known is value and mark == _mark(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (*_SCALARS, np.generic))


def _put(owner: Any, name: str, value: Any, device: Any) -> None:
    if isinstance(owner, nn.Module) and name in owner._buffers:
        owner._buffers[name] = None if value is None else value.to(device)
    else:
        setattr(owner, name, _to(value, device))


def _to(value: Any, device: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, _to(entry, device)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_to(entry, device) for entry in value)
    return value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value
