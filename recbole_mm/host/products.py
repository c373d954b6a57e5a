"""How a model scores items: by the product of two tables, by a table of some items, or only as RecBole asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from recbole_mm.nn.linear import linear

__all__ = ["Product", "Table", "scores_of"]

_PRODUCTS: dict[Any, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), lambda a, b: (a, b.T)),
    F.linear: lambda a, b: (a, b),
}
_PACKAGES = ("recbole.model.", "recbole_mm.model.")
_plain: WeakSet[type] = WeakSet()  # classes whose scores are no product


class Product(NamedTuple):
    """Scores that are inner products.

    Attributes:
        queries: Shape ``(n_rows, dim)``.
        items: Of the items that are ranked, ``(n_columns, dim)``.
        backend: What computes the product, as in :func:`recbole_mm.nn.linear.linear`.
    """

    queries: Tensor
    items: Tensor
    backend: str

    @property
    def like(self) -> Tensor:
        """Something of the scores' type and device."""
        return self.queries

    def rows(self, start: int, stop: int, out: Tensor) -> None:
        """Write the scores of some rows to ``out``, ``(stop - start, n_columns)``."""
        if self.backend == "torch":
            torch.mm(self.queries[start:stop], self.items.T, out=out)
        else:
            out.copy_(linear(self.queries[start:stop], self.items, backend=self.backend))


class Table(NamedTuple):
    """Scores that a model gives whole.

    Attributes:
        scores: Shape ``(n_rows, n_columns)``.
    """

    scores: Tensor

    @property
    def like(self) -> Tensor:
        """Something of the scores' type and device."""
        return self.scores

    def rows(self, start: int, stop: int, out: Tensor) -> None:
        """Write the scores of some rows to ``out``, ``(stop - start, n_columns)``."""
        out.copy_(self.scores[start:stop])


def scores_of(model: Any, interaction: Any, columns: Tensor | None) -> Product | Table | None:
    """What a batch's scores are made of, without computing more than the items asked for.

    A model of ours says so by ``score_factors`` or ``score_items``. Of RecBole's models, whose ``full_sort_predict``
    mostly ends with a product of two tables, that product is caught: it is answered with a tensor without data, and if
    that is what the function returns, nothing was done to the product but giving it another shape.

    Args:
        model: The model, in evaluation mode.
        interaction: The batch, on the model's device.
        columns: Ids of the items that are ranked, ascending; ``None`` for all.

    Returns:
        The scores; ``None`` where they must be asked for as RecBole does.
    """
    owner = _owner(type(model), "full_sort_predict")
    if owner is None or "full_sort_predict" in vars(model):
        return None
    if _says(type(model), "score_factors", owner):
        pair = model.score_factors(interaction)
        if pair is not None:
            return _product(pair, columns, getattr(model, "dense_backend", "torch"))
    if _says(type(model), "score_items", owner):
        return None if columns is None else Table(model.score_items(interaction, columns).view(-1, len(columns)))
    if type(model) in _plain or not owner.__module__.startswith(_PACKAGES):
        return None
    pair = _caught(model, interaction)
    if pair is None:
        _plain.add(type(model))
    return None if pair is None else _product(pair, columns, "torch")


def _product(pair: tuple[Tensor, Tensor], columns: Tensor | None, backend: str) -> Product:
    queries, items = pair
    return Product(queries, items if columns is None else items[columns], backend)


def _owner(cls: type, name: str) -> type | None:
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def _says(cls: type, name: str, owner: type) -> bool:
    """Whether what a class says of its scores was written for the ``full_sort_predict`` that it has."""
    said = _owner(cls, name)
    return said is not None and issubclass(said, owner)


def _caught(model: Any, interaction: Any) -> tuple[Tensor, Tensor] | None:
    """The tables whose product ``full_sort_predict`` returns; ``None`` if it returns anything else."""
    place = interaction[next(iter(interaction.columns))].device
    state = torch.random.get_rng_state(), torch.cuda.get_rng_state(place) if place.type == "cuda" else None
    catching = _Catching(len(interaction), model.n_items)
    try:
        with catching:
            found = model.full_sort_predict(interaction)
        if catching.returned(found):
            return catching.pair
    except (RuntimeError, NotImplementedError, TypeError):
        pass  # the product was used for something; RecBole's way will tell what is really wrong
    torch.random.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], place)
    return None


class _Catching(TorchFunctionMode):
    """Answers the first product of the shape of all scores with a tensor that has no data."""

    def __init__(self, n_rows: int, n_items: int) -> None:
        super().__init__()
        self.shape = (n_rows, n_items)
        self.pair: tuple[Tensor, Tensor] | None = None
        self.answer: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.answer is None and func in _PRODUCTS and not kwargs and _two_matrices(args):
            queries, items = _PRODUCTS[func](*args)
            if (len(queries), len(items)) == self.shape and queries.is_floating_point():
                self.pair = queries, items
                self.answer = torch.empty(self.shape, dtype=queries.dtype, device="meta")
                return self.answer
        return func(*args, **(kwargs or {}))

    def returned(self, found: Any) -> bool:
        """Whether this is the product, and nothing else was ever done to it."""
        if self.answer is None or not isinstance(found, Tensor) or found.device.type != "meta":
            return False
        same = found.untyped_storage()._cdata == self.answer.untyped_storage()._cdata and found._version == 0
        return same and found.is_contiguous() and found.numel() == self.answer.numel()


def _two_matrices(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and all(isinstance(part, Tensor) and part.dim() == 2 for part in args)
