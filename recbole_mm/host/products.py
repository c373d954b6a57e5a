"""How a model scores items: by the product of two tables, by a table of some items, or only as RecBole asks.

A model of ours says which it is. RecBole's models do not, but most of them end ``full_sort_predict`` with the product
of a table of queries and one of items. That product is caught while the function runs, and it is used only where it
provably is what the function returns (:class:`_ProductCatcher`); in all other cases RecBole asks the model itself.
"""

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

#: What multiplies two matrices, with how its arguments give the two tables, ``(n_rows, dim)`` and ``(n_items, dim)``.
_MULTIPLIES: dict[Any, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), lambda a, b: (a, b.T)),
    F.linear: lambda a, b: (a, b),
}
#: Whose classes are caught: what others do with a product (such as writing to its ``.data``) could pass unnoticed.
_PACKAGES = ("recbole.model.", "recbole_mm.model.")
#: Classes that were seen to return anything but a product; they are not tried again.
_no_product: WeakSet[type] = WeakSet()


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
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.queries)

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
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.scores)

    @property
    def like(self) -> Tensor:
        """Something of the scores' type and device."""
        return self.scores

    def rows(self, start: int, stop: int, out: Tensor) -> None:
        """Write the scores of some rows to ``out``, ``(stop - start, n_columns)``."""
        out.copy_(self.scores[start:stop])


def scores_of(model: Any, interaction: Any, columns: Tensor | None) -> Product | Table | None:
    """What a batch's scores are made of, without computing more than the items asked for.

    Args:
        model: The model, in evaluation mode.
        interaction: The batch, on the model's device.
        columns: Ids of the items that are ranked, ascending; ``None`` for all.

    Returns:
        The scores; ``None`` where they must be asked for as RecBole does.
    """
    cls = type(model)
    owner = _definer(cls, "full_sort_predict")
    if owner is None or "full_sort_predict" in vars(model):
        return None
    if _speaks_for(cls, "score_factors", owner):
        factors = model.score_factors(interaction)
        if factors is not None:
            return _product(factors, columns, getattr(model, "dense_backend", "torch"))
    if _speaks_for(cls, "score_items", owner):
        return None if columns is None else Table(model.score_items(interaction, columns).view(-1, len(columns)))
    # RecBole's base of models for labels counts no items: such a model scores pairs.
    if cls in _no_product or not owner.__module__.startswith(_PACKAGES) or not hasattr(model, "n_items"):
        return None
    factors = _catch_factors(model, interaction)
    if factors is None:
        _no_product.add(cls)
        return None
    return _product(factors, columns, "torch")


def _product(factors: tuple[Tensor, Tensor], columns: Tensor | None, backend: str) -> Product:
    queries, items = factors
    return Product(queries, items if columns is None else items[columns], backend)


def _definer(cls: type, name: str) -> type | None:
    """The class that a method comes from."""
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def _speaks_for(cls: type, name: str, owner: type) -> bool:
    """Whether what a class says of its scores was written for the ``full_sort_predict`` that it has, of ``owner``."""
    definer = _definer(cls, name)
    return definer is not None and issubclass(definer, owner)


def _catch_factors(model: Any, interaction: Any) -> tuple[Tensor, Tensor] | None:
    """The tables whose product ``full_sort_predict`` returns; ``None`` if it returns anything else.

    Where it does, the model is asked once more by RecBole, and must then draw the same random numbers.
    """
    device = interaction[next(iter(interaction.columns))].device
    state = torch.random.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    catcher = _ProductCatcher(len(interaction), model.n_items)
    try:
        with catcher:
            found = model.full_sort_predict(interaction)
        if catcher.is_stand_in(found):
            return catcher.factors
    except (RuntimeError, NotImplementedError, TypeError):
        pass  # what was done to the product needs its numbers; or RecBole's way will tell what is really wrong
    torch.random.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    return None


class _ProductCatcher(TorchFunctionMode):
    """Keeps the factors of the first product that has the shape of all scores, and answers it with a stand-in.

    The stand-in is a tensor of that shape without data (on torch's device ``meta``). Whatever computes with it makes
    another tensor, writing to it raises the version that torch counts, and reading a number from it is an error. So a
    function that returns the memory of the stand-in, whole, in order and at version 0, has done nothing to the product
    but to view it in another shape, as with ``.view(-1)``: its scores are the product.

    Args:
        n_rows: Number of rows of the scores.
        n_items: Number of items, the padding included.
    """

    def __init__(self, n_rows: int, n_items: int) -> None:
        super().__init__()
        self.shape = (n_rows, n_items)
        self.factors: tuple[Tensor, Tensor] | None = None
        self.stand_in: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.stand_in is None and func in _MULTIPLIES and not kwargs and _two_matrices(args):
            queries, items = _MULTIPLIES[func](*args)
            if (len(queries), len(items)) == self.shape and queries.is_floating_point():
                self.factors = queries, items
                self.stand_in = torch.empty(self.shape, dtype=queries.dtype, device="meta")
                return self.stand_in
        return func(*args, **(kwargs or {}))

    def is_stand_in(self, found: Any) -> bool:
        """Whether this is the stand-in's memory, to which nothing was done."""
        if self.stand_in is None or not isinstance(found, Tensor) or found.device.type != "meta":
            return False
        same = found.untyped_storage()._cdata == self.stand_in.untyped_storage()._cdata and found._version == 0
        return same and found.is_contiguous() and found.numel() == self.stand_in.numel()


def _two_matrices(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and all(isinstance(part, Tensor) and part.dim() == 2 for part in args)
