"""Model-agnostic meta-learning over plain functions, the inner loops of all tasks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

__all__ = ["adapt", "straight_through", "task_losses"]

Parameters = Mapping[str, Tensor]
TaskLoss = Callable[..., Tensor]


def adapt(
    loss: TaskLoss,
    start: Parameters,
    data: Sequence[Tensor],
    steps: int,
    learning_rate: float,
    shared: Sequence[Tensor] = (),
    second_order: bool = False,
) -> dict[str, Tensor]:
    r"""Gradient descent from a common start, separately for every task.

    .. math:: \phi^0_\tau = \theta, \qquad
              \phi^{s+1}_\tau = \phi^s_\tau - \eta\, \nabla_{\phi} L_\tau(\phi^s_\tau), \qquad s < S

    The tasks are vectorised (``vmap`` of ``grad``), so that ``T`` tasks cost ``S`` batched passes and not ``S T`` small
    ones. The result is that of a loop over the tasks.

    Args:
        loss: ``loss(parameters, *data_of_one_task, *shared)``, a scalar. Dropout inside it differs between tasks.
        start: :math:`\theta`, name to tensor; never written to.
        data: Tensors with a leading task dimension ``T``.
        steps: :math:`S`; 0 returns the start.
        learning_rate: :math:`\eta`.
        shared: Further arguments that all tasks have in common.
        second_order: Keep the graph, so that the result is differentiable in ``start`` and in everything else the loss
            depends on. Otherwise the result is detached.

    Returns:
        Name to tensor ``(T, ...)``: the adapted parameters of every task.

    Example:
        >>> square = lambda parameters, target: (parameters["x"] - target).square() / 2
        >>> adapt(square, {"x": torch.tensor(1.0)}, [torch.tensor([0.0, 1.0])], steps=5, learning_rate=0.1)
        {'x': tensor([0.5905, 1.0000])}
    """
    n_tasks = data[0].shape[0]
    fixed = (0,) * len(data) + (None,) * len(shared)
    with torch.set_grad_enabled(second_order):
        adapted: Parameters = {name: tensor.expand(n_tasks, *tensor.shape) for name, tensor in start.items()}
        for step in range(steps):
            # All tasks start from the same parameters: the first pass need not stack copies of them.
            first = step == 0
            gradient = vmap(grad(loss), in_dims=(None if first else 0, *fixed), randomness="different")
            slope = gradient(dict(start) if first else adapted, *data, *shared)
            adapted = {name: tensor - learning_rate * slope[name] for name, tensor in adapted.items()}
    return dict(adapted) if second_order else {name: tensor.detach() for name, tensor in adapted.items()}


def straight_through(start: Parameters, adapted: Parameters) -> dict[str, Tensor]:
    r"""The adapted values, with the gradient of the start: first-order MAML.

    A loss at :math:`\phi_\tau` of every task then sends :math:`\sum_\tau \nabla_{\phi_\tau} L` to ``start``, as if
    :math:`\partial \phi / \partial \theta` were the identity.

    Args:
        start: Parameters that receive the gradient.
        adapted: Result of :func:`adapt` without ``second_order``.

    Returns:
        Name to tensor ``(T, ...)``.

    Example:
        >>> theta = torch.tensor(1.0, requires_grad=True)
        >>> phi = straight_through({"x": theta}, {"x": torch.tensor([0.5, 0.25])})["x"]
        >>> phi.square().sum().backward()
        >>> phi.detach(), theta.grad
        (tensor([0.5000, 0.2500]), tensor(1.5000))
    """
    return {name: _Replace.apply(start[name], tensor) for name, tensor in adapted.items()}


def task_losses(loss: TaskLoss, adapted: Parameters, data: Sequence[Tensor], shared: Sequence[Tensor] = ()) -> Tensor:
    """The loss of every task at its own parameters, differentiable. Shape ``(T,)``.

    Args:
        loss: As in :func:`adapt`.
        adapted: Parameters with a leading task dimension.
        data: Tensors with a leading task dimension.
        shared: Further arguments that all tasks have in common.

    Returns:
        Shape ``(T,)``.

    Example:
        >>> square = lambda parameters, target: (parameters["x"] - target).square() / 2
        >>> task_losses(square, {"x": torch.tensor([1.0, 3.0])}, [torch.tensor([1.0, 1.0])])
        tensor([0., 2.])
    """
    in_dims = (0, *[0] * len(data), *[None] * len(shared))
    return vmap(loss, in_dims=in_dims, randomness="different")(dict(adapted), *data, *shared)


class _Replace(torch.autograd.Function):
    """Forward: the stacked replacement, bit for bit; backward: the sum over tasks, to the original."""

    @staticmethod
    def forward(ctx: object, original: Tensor, replacement: Tensor) -> Tensor:
        return replacement.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient.sum(dim=0), None
