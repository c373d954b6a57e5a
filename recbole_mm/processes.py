"""Several processes that do one training together: who this one is, and what they tell each other.

Every process goes through the same steps with the same random numbers. What they divide (the rows of a batch, the
batches of an evaluation) they add up or put together again; everything else each of them computes for itself, alike.
Without a group every function answers for a single process.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "Place",
    "add_gradients",
    "gathered",
    "is_writer",
    "join",
    "leave",
    "place",
    "place_of_environment",
    "prepare",
    "rank",
    "same",
    "same_random_state",
    "share",
    "summed",
    "wait",
    "world",
]

# Gradients of fewer numbers are sent together, in pieces of at most as many bytes.
_ALONE, _PIECE = 2**20, 32 * 2**20


@dataclass(frozen=True)
class Place:
    """Which of several processes this is.

    Attributes:
        rank: Its number among all, from 0. Number 0 writes the files.
        world: How many there are.
        local_rank: Its number among those of this machine, which is that of its device.
        local_world: How many there are on this machine.
        address: Where they meet: ``tcp://host:port`` or, under torchrun, ``env://``.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str


_place: Place | None = None
_host: Any = None  # the group of what the processors send each other; gradients on GPUs go through the default group


def place_of_environment() -> Place | None:
    """The place that ``torchrun`` gives to a process in its environment; ``None`` for a process that it did not start.

    Raises:
        ValueError: Only some of the variables are set.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(f"torchrun: expected the variables {', '.join(names)}, got none of {', '.join(missing)}.")
    numbers = [int(os.environ[name]) for name in names[:4]]
    return Place(numbers[0], numbers[1], numbers[2], numbers[3], "env://")


def prepare(where: Place | None) -> None:
    """Tell this process which of several it is; :func:`join` connects them."""
    global _place
    _place = where


def place() -> Place | None:
    """What :func:`prepare` was told."""
    return _place


def join(cuda: bool) -> None:
    """Meet the other processes; a second call does nothing.

    Args:
        cuda: Whether parameters lie on a CUDA device: they are added up by NCCL then, and by gloo on a processor.
    """
    global _host
    if _place is None or _host is not None:
        return
    options: dict[str, Any] = {"backend": "cpu:gloo,cuda:nccl" if cuda else "gloo", "init_method": _place.address}
    dist.init_process_group(rank=_place.rank, world_size=_place.world, **options)
    _host = dist.new_group(backend="gloo") if cuda else dist.group.WORLD


def leave() -> None:
    """Part from the others; this process knows still which of them it was."""
    global _host
    if _host is not None:
        _host = None
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process."""
    return 0 if _place is None else _place.rank


def world() -> int:
    """How many processes are connected; 1 for a single one."""
    return 1 if _host is None or _place is None else _place.world


def is_writer() -> bool:
    """Whether this process writes checkpoints, logs and curves."""
    return rank() == 0


def wait() -> None:
    """Go on once all have come here."""
    if world() > 1:
        dist.barrier(group=_host)


def same(value: Any) -> Any:
    """The value that the first process has; it must be one that can be pickled."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_host)
    return values[0]


def gathered(value: Any) -> list[Any]:
    """The values of all processes in their order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=_host)
    return values


def summed(numbers: Sequence[float]) -> list[float]:
    """Sums over the processes, in double precision."""
    if world() == 1:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total, group=_host)
    return [float(number) for number in total]


def share(n: int, of: int | None = None) -> tuple[Tensor, int]:
    """The rows that a process takes of ``n``: every ``world``-th.

    Args:
        n: Number of rows, at least 1.
        of: Number of the process; this one if not given.

    Returns:
        Their places, and how many of them count: a process that none is left for gets the first row, which counts
        nothing, so that its loss is a number and its gradient has a place in the sum.
    """
    first = 0 if world() == 1 else rank() if of is None else of
    index = torch.arange(min(first, n), n, world())
    return (index, len(index)) if len(index) else (torch.zeros(1, dtype=torch.long), 0)


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over the processes.

    A parameter that has a gradient in one of them gets one in all; one that has none anywhere keeps none, which an
    optimizer treats otherwise than zeros.

    Raises:
        ValueError: A sparse gradient.
    """
    if world() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    there = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32)
    dist.all_reduce(there, group=_host)
    pending: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter, count in zip(trained, there.tolist()):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        if gradient.layout != torch.strided:
            raise ValueError("Several processes cannot add up sparse gradients; use a dense embedding or one process.")
        if gradient.numel() >= _ALONE and gradient.is_contiguous():
            dist.all_reduce(gradient)
            continue
        waiting = pending.setdefault((gradient.dtype, gradient.device), [])
        if sum(entry.nbytes for entry in waiting) + gradient.nbytes > _PIECE:
            _add_together(waiting)
            waiting.clear()
        waiting.append(gradient)
    for waiting in pending.values():
        _add_together(waiting)


def _add_together(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
        gradient.copy_(part.view_as(gradient))


def same_random_state() -> None:
    """Give every process the state that the random generators of the first one have: Python's, numpy's and torch's."""
    if world() == 1:
        return
    state: Any = None
    if is_writer():
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        state = random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda
    python, numpy, processor, cuda = same(state)
    if not is_writer():
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(processor)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
