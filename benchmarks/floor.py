"""Lower bounds of a training step and of a full ranking, from rates that are measured in the same process."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.measure import Clock, best_seconds
from recbole_mm.nn.topk import top_columns

__all__ = ["ranking_floor", "step_floor"]

_SIDE, _NUMBERS, _ROWS = 1024, 2**25, 64


def rates(clock: Clock) -> tuple[float, float]:
    """Operations a second of a square float32 product, the faster library's, and bytes a second of a copy."""
    left, right = (torch.randn(_SIDE, _SIDE, device=clock.device) for _ in range(2))
    products = [best_seconds(lambda: left @ right, clock, 5)]
    if clock.device.type == "cpu" and torch.backends.mkldnn.is_available():
        call = torch.ops.mkldnn._linear_pointwise
        products.append(best_seconds(lambda: call(left, right, None, "none", [], ""), clock, 5))
    source, target = (torch.zeros(_NUMBERS, device=clock.device) for _ in range(2))
    return 2 * _SIDE**3 / min(products), 2 * 4 * _NUMBERS / best_seconds(lambda: target.copy_(source), clock, 3)


def step_floor(network: Any, batch: Any, clock: Clock) -> dict[str, float]:
    """What a step takes at least: dense products at the measured rate, and bytes at the measured bandwidth.

    The bytes are those that no implementation saves: parameters read in both directions and written, their gradients
    written and read, Adam's two moments read and written, tables without gradients read in both directions. Sparse
    products are counted by these bytes alone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network.zero_grad(set_to_none=True)
    # torch does not know what oneDNN's product costs.
    there = torch.backends.mkldnn.is_available()
    known = {torch.ops.mkldnn._linear_pointwise: _product_operations} if there else {}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        loss = network.calculate_loss(batch)
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
    size = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    tables = sum(t.numel() * t.element_size() for t in network.buffers() if t.is_floating_point())
    operations, moved = counter.get_total_flops(), 9 * size + 2 * tables
    per_second, bandwidth = rates(clock)
    return {
        "floor_seconds": operations / per_second + moved / bandwidth,
        "gigaflop": operations / 1e9,
        "gigaflop_a_second": per_second / 1e9,
        "gigabytes_a_second": bandwidth / 1e9,
    }


def _product_operations(rows: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Of ``rows @ weight.T``, of which the counter gives the shapes."""
    return 2 * rows.numel() * weight[0]


def ranking_floor(users: torch.Tensor, items: torch.Tensor, k: int, clock: Clock) -> float:
    """Seconds of a bare full ranking by inner products: product, mask, lists and hits, some users at a time.

    The product is torch's or oneDNN's, whichever is faster; a masked pair and a positive for each user.
    """
    n = len(users)
    column = torch.randint(1, len(items), (n,))
    call = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None

    def bare(fast: bool) -> None:
        out = torch.empty(_ROWS, len(items))
        lists = []
        for start in range(0, n, _ROWS):
            part = users[start : start + _ROWS]
            if fast and call:
                scores = call(part, items, None, "none", [], "")
            else:
                scores = torch.mm(part, items.T, out=out[: len(part)])
            scores[:, 0] = -torch.inf
            scores[torch.arange(len(part)), column[start : start + _ROWS]] = -torch.inf
            lists.append(top_columns(scores, k))
        (torch.cat(lists) == column.unsqueeze(1)).sum()

    with torch.no_grad():
        return min(best_seconds(partial(bare, fast), clock, 2) for fast in (False, True))
