"""The average of a model's parameters over its training, which ranks in their place where it does so better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    r"""Polynomial-decay average of the trained parameters over the epochs (Shamir and Zhang, 2013).

    After epoch :math:`t = 1, 2, \dots`, with :math:`\theta_t` the parameters and :math:`s` the share,

    .. math:: m_t = m_{t-1} + \frac{\eta}{t - 1 + \eta} (\theta_t - m_{t-1}), \qquad \eta = \frac{1}{s} - 1,

    so that what :math:`m_t` averages is :math:`s t` epochs old in the mean, however long an epoch and a training are.
    With :math:`s = 1/2` it is the plain mean of all epochs. Steps of a constant rate circle around what they look for,
    and learn few pairs by heart; their mean circles less and remembers the time before. Where a training still moves
    in one direction it lags behind: hence a validation looks at both, and the better one ranks. It costs a pass over
    the parameters an epoch. Buffers are not averaged, and the training itself goes on with :math:`\theta_t`.

    Args:
        model: The model that is trained.
        share: The option ``weight_average``, :math:`s`: from 0 (nothing is averaged and nothing changes) to 0.5.
        exchanged: Called with the model whenever its parameters and the average have changed places.

    Attributes:
        ranks: Whether the average ranks; as long as nobody has compared the two, it does.
    """

    def __init__(self, model: Any, share: float, exchanged: Callable[[Any], object] = lambda model: None) -> None:
        self._model, self._share, self._exchanged = model, share, exchanged
        self._mean: dict[str, Tensor] = {}
        self._epochs = 0
        self._is_behind = False
        self.ranks = True

    def begin(self) -> None:
        """A training begins, or goes on; an epoch that was broken off does not count."""
        self._is_behind = False

    def begin_epoch(self) -> None:
        """An epoch begins, whose parameters count once anybody asks for the average, or the next one begins."""
        self._catch_up()
        self._is_behind = self._share > 0

    @property
    def differs(self) -> bool:
        """Whether there is an average, of more than one epoch."""
        self._catch_up()
        return self._epochs > 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it lasts the model has the average as its parameters."""
        self._catch_up()
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @contextmanager
    def ranking(self) -> Iterator[dict[str, Any] | None]:
        """While it lasts the model has the parameters that rank.

        Yields:
            For :meth:`restore`: ``epochs``, ``ranks``, and the ``other`` parameters, of the training or their average.
            ``None`` where nothing is averaged.
        """
        self._catch_up()
        state = {"epochs": self._epochs, "ranks": self.ranks, "other": self._mean}
        if self._mean and self.ranks:
            with self.applied():
                yield state
        else:
            yield state if self._mean else None

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what :meth:`ranking` gave, in a model that has the parameters that rank.

        Args:
            state: ``None``, where nothing was averaged.
        """
        if state is None:
            return
        parameters = self._trained()
        self._mean = {name: value.to(parameters[name].device, copy=True) for name, value in state["other"].items()}
        self._epochs, self.ranks = int(state["epochs"]), bool(state["ranks"])
        if self.ranks:
            self._exchange()
        if not self._share:  # this run does not want it
            self._forget()

    def finish(self) -> None:
        """Leave in the model what ranks, and forget the average."""
        self._catch_up()
        if self.ranks:
            self._exchange()
        self._forget()

    def _forget(self) -> None:
        self._mean, self._epochs, self.ranks = {}, 0, True

    def _catch_up(self) -> None:
        if self._is_behind:
            self._is_behind = False
            self._move()

    @torch.no_grad()
    def _move(self) -> None:
        decay = 1 / self._share - 1
        step = decay / (self._epochs + decay)
        for name, parameter in self._trained().items():
            if name in self._mean:
                self._mean[name].lerp_(parameter, step)
            else:
                self._mean[name] = parameter.detach().clone()
        self._epochs += 1

    @torch.no_grad()
    def _exchange(self) -> None:
        """The model's parameters and the average change places."""
        parameters = self._trained()
        for name, mean in self._mean.items():
            value = parameters[name].detach().clone()
            parameters[name].copy_(mean)  # in place, so that optimisers know it and representations are made anew
            mean.copy_(value)
        if self._mean:
            self._exchanged(self._model)

    def _trained(self) -> dict[str, nn.Parameter]:
        named = self._model.named_parameters() if isinstance(self._model, nn.Module) else ()
        return {name: parameter for name, parameter in named if parameter.requires_grad}
