"""How large the tensors are that a piece of code makes, and how much they hold together."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Remembers the largest dense tensor that any operation makes.

    Attributes:
        elements: Most elements of one; those of an expanded tensor count as often as they are repeated.
        stored: Most numbers that one keeps; a view counts as what it is a view of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = self.stored = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.elements = max(self.elements, leaf.numel())
                self.stored = max(self.stored, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


class HeldTensors(TorchDispatchMode):
    """Counts what the tensors hold that operations make, each storage once and as long as it lives.

    Attributes:
        now: Bytes that are held.
        peak: Most bytes that were held at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._forget, storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
        return result

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
