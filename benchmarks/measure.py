"""Clocks, peak memory and timed regions of a training step for the speed benchmarks (Linux)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Clock:
    """CPU seconds of this process, or wall seconds of a CUDA device after all its work is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        """Seconds since some fixed moment."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def best_seconds(function: Callable[[], Any], clock: Clock, repeats: int) -> float:
    """Fastest of ``repeats`` runs after one to warm up: what else the machine does can only add to a run."""
    function()
    seconds = []
    for _ in range(repeats):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


class PeakMemory:
    """Megabytes that the process (or the CUDA device) needs at most from now on, above what it holds now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device) / 2**20
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is held now
            self.before = _status("VmRSS")

    def growth(self) -> float:
        """Peak since the object was made, less what was held then."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        return _status("VmHWM") - self.before


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


class Region:
    """Adds up the forward and backward time of every call that passes through :meth:`run`.

    The clock is read by two identity operations in the autograd graph, one on each side of the call. The engine takes
    the newest ready operation first and everything between the two is newer than the first, so nothing else runs there.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.seconds, self._start = clock, 0.0, 0.0

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function and count its time, that of its backward pass too."""
        if not torch.is_grad_enabled():  # part of a backward pass that is being timed already
            return function(*args, **kwargs)
        tracked = [t for t in _tensors((args, kwargs)) if t.requires_grad]
        if tracked:
            replaced = dict(zip(map(id, tracked), _Edge.apply(self, False, *tracked)))
            args, kwargs = _replace((args, kwargs), replaced)
        start = self.clock()
        result = function(*args, **kwargs)
        self.seconds += self.clock() - start
        if isinstance(result, Tensor) and result.requires_grad:
            (result,) = _Edge.apply(self, True, result)
        return result


class _Edge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: Region, starts: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.region, ctx.starts = region, starts
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        region = ctx.region
        if ctx.starts:
            region._start = region.clock()
        else:
            region.seconds += region.clock() - region._start
        return None, None, *gradients


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _replace(value: Any, new: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return new.get(id(value), value)
    if type(value) in (list, tuple):
        return type(value)(_replace(part, new) for part in value)
    if isinstance(value, dict):
        return {key: _replace(part, new) for key, part in value.items()}
    return value


@contextmanager
def graph_region(clock: Clock, network: torch.nn.Module) -> Iterator[Region]:
    """Count the time of all work over edges: our sparse operators, and PyG's message passing in ``network``."""
    from torch_geometric.nn import MessagePassing

    from recbole_mm.nn.graph import segment, sparse

    region = Region(clock)

    def timed(operator: Any) -> Any:
        class Timed:
            @staticmethod
            def apply(*args: Any) -> Any:
                return region.run(operator.apply, *args)

        return Timed

    places = ((sparse, "_Spmm"), (sparse, "_Sddmm"), (segment, "_SegmentSoftmax"))
    operators = [getattr(module, name) for module, name in places]
    layers = [module for module in network.modules() if isinstance(module, MessagePassing)]
    try:
        for (module, name), operator in zip(places, operators):
            setattr(module, name, timed(operator))
        for layer in layers:  # on the instance: PyG writes a propagate of its own for every class
            layer.propagate = partial(region.run, layer.propagate)
        yield region
    finally:
        for (module, name), operator in zip(places, operators):
            setattr(module, name, operator)
        for layer in layers:
            del layer.propagate
