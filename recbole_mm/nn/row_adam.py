"""Adam that updates only those rows of a table that a step reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowAdam"]


class RowAdam(torch.optim.Adam):
    r"""``torch.optim.Adam`` whose parameters with sparse gradients are updated row by row.

    For a row :math:`r` that the gradient :math:`g` holds, at step :math:`t` of its table,

    .. math::
        g_r &\leftarrow g_r + \lambda \theta_r, \qquad
        m_r \leftarrow \beta_1 m_r + (1 - \beta_1) g_r, \qquad v_r \leftarrow \beta_2 v_r + (1 - \beta_2) g_r^2, \\
        \theta_r &\leftarrow \theta_r - \eta_t \frac{m_r}{\sqrt{v_r} + \epsilon}, \qquad
        \eta_t = \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t},

    and all other rows keep parameters and moments. Adam lets moments of a row that is not read decay, and moves the row
    by what is left of its momentum; here both wait until the row is read again. That is ``torch.optim.SparseAdam``,
    which takes neither dense parameters beside it nor ``weight_decay``. Parameters with dense gradients get Adam's own
    step, and the state has Adam's form, so that checkpoints are the same.

    Args:
        params: Parameters or groups of them, as for ``torch.optim.Adam``.
        lr: :math:`\eta`.
        weight_decay: :math:`\lambda`; it acts on a row when the row is read.
        fused: Adam's fused form for the dense gradients.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3, 1))
        >>> torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
        >>> RowAdam([table], lr=0.5).step()
        >>> table.detach().flatten()
        tensor([1.0000, 0.5000, 1.0000])
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, fused: bool | None = None) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` as for ``torch.optim.Adam``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = [(p, g, p.grad) for g in self.param_groups for p in g["params"] if _is_sparse(p)]
        for parameter, group, gradient in sparse:
            self._update_rows(parameter, group, gradient.coalesce())
            parameter.grad = None  # Adam refuses these
        super().step()
        for parameter, _, gradient in sparse:
            parameter.grad = gradient
        return loss

    def _update_rows(self, parameter: Tensor, group: dict[str, Any], gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        if group["weight_decay"]:
            values = values.add(parameter.index_select(0, rows), alpha=group["weight_decay"])
        first, second = group["betas"]
        mean = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - first)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(second).addcmul_(values, values, value=1 - second)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        step = float(state["step"])
        rate = group["lr"] * math.sqrt(1 - second**step) / (1 - first**step)
        # Copied and not added: index_add_ goes through rows one by one.
        new = parameter.index_select(0, rows).addcdiv_(mean, square.sqrt_().add_(group["eps"]), value=-rate)
        parameter.index_copy_(0, rows, new)


def _is_sparse(parameter: Tensor) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse
