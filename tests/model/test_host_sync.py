"""A step of training asks a CUDA device for no number: the processor would wait for all that is under way."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_mm.host.registry import registered_models
from tests.model.conftest import build

#: Operations whose result a CUDA device must hand to the processor before it can go on: numbers, and sizes that depend
#: on the data.
WAITS = {
    "aten._local_scalar_dense", "aten.nonzero", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive",
    "aten.masked_select", "aten.is_nonzero", "aten.equal", "aten.bincount", "aten.repeat_interleave",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts them, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function).rsplit(".", 1)[0]
        by_mask = name in ("aten.index", "aten.index_put", "aten.index_put_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        if name in WAITS or (by_mask and name == "aten.index"):
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def step(model: Any, batch: Any) -> None:
    losses = model.calculate_loss(batch)
    (sum(losses) if isinstance(losses, tuple) else losses).backward()


def test_what_waits_is_counted() -> None:
    values = torch.tensor([1.0, 0.0])
    with Waits() as waits:
        values.unique()
        values[values > 0]
        float(values.sum())
        values.nonzero()
        values * 2
    assert sum(waits.found.values()) >= 4 and "aten._local_scalar_dense" in waits.found


#: Operations that wait in a step of the models that have any: distinct rows of a batch, their masks, and the edges of
#: those rows.
KNOWN = {
    "BM3": 1, "CMBF": 3, "HCGCN": 3, "MCPTR": 4, "MGAT": 7, "MGCN": 3, "MMGCL": 4, "MML": 1, "SASRecContent": 2,
    "SLMRec": 3, "SMORE": 3, "UniSRec": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(registered_models()))
def test_a_step_waits_for_no_number(name: str) -> None:
    """On the processor, by the operations; a new model must not wait at all."""
    built = build(name)
    built.model.train()
    batch = built.batch(64)
    step(built.model, batch)  # what is made once is made
    with Waits() as waits:
        step(built.model, batch)
    assert sum(waits.found.values()) <= KNOWN.get(name, 0), dict(waits.found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", sorted(registered_models()))
def test_a_step_on_a_device_does_not_synchronise(name: str) -> None:
    """By torch's own count, with the optimizer's step."""
    built = build(name, device="cuda", use_gpu=True)
    built.model.train()
    optimizer, batch = torch.optim.Adam(built.model.parameters()), built.batch(64)
    step(built.model, batch)
    optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step(built.model, batch)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [str(warning.message) for warning in said if "synchroniz" in str(warning.message)]
    assert len(found) <= KNOWN.get(name, 0), found
