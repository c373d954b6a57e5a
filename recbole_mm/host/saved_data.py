"""Reading the data sets and loaders that RecBole has saved, without running what a file asks for.

RecBole pickles them (``save_dataset``, ``save_dataloaders``) and reads them back whenever a file of that name lies in
``checkpoint_dir``, asked or not; a pickle can call any function. Here it can make objects of the classes that such
files hold, and call the few functions that put arrays, tables and tensors together.
"""

from __future__ import annotations

import enum
import io
import pickle
import sys
from collections.abc import Callable
from typing import IO, Any

import torch
from recbole.data.dataset import Dataset
from recbole.model.abstract_recommender import AbstractRecommender

__all__ = ["load"]

_PACKAGES = ("recbole", "recbole_mm")
"""Their classes may be made; none of their functions may be called, and no ``__init__`` runs."""

_CLASSES = {
    ("numpy", "ndarray"), ("pandas", "Index"), ("pandas", "RangeIndex"), ("pandas", "Series"),
    ("pandas.arrays", "ArrowStringArray"), ("pandas.arrays", "StringArray"),
    ("pandas.core.frame", "DataFrame"), ("pandas.core.series", "Series"),
    ("pandas.core.indexes.base", "Index"), ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "SingleBlockManager"),
    ("pandas.core.arrays.string_arrow", "ArrowStringArray"), ("torch", "Tensor"),
    ("torch.utils.data.sampler", "RandomSampler"), ("torch.utils.data.sampler", "SequentialSampler"),
    ("torch.utils.data.sampler", "BatchSampler"), ("torch.utils.data.distributed", "DistributedSampler"),
}  # fmt: skip

_CALLED = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "slice"), ("builtins", "range"),
    ("builtins", "bytearray"), ("builtins", "complex"), ("builtins", "list"), ("builtins", "dict"), ("builtins", "int"),
    ("_codecs", "encode"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"),
    ("pandas._libs.internals", "_unpickle_block"), ("pandas.core.indexes.base", "_new_Index"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    ("pyarrow.lib", "_restore_array"), ("pyarrow.lib", "type_for_alias"), ("pyarrow.lib", "py_buffer"),
    ("pyarrow.lib", "chunked_array"), ("pyarrow.lib", "ChunkedArray"),
    ("scipy.sparse._csr", "csr_matrix"), ("scipy.sparse._coo", "coo_matrix"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("pandas.core.internals.managers", "BlockManager"), ("recbole_mm.data.dataset", "_SharedFeatures"),
    ("logging", "getLogger"), ("torch", "device"), ("torch", "Size"), ("numpy", "dtype"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"),
    ("pandas", "DataFrame"), ("pandas", "StringDtype"), ("pandas.core.arrays.string_", "StringDtype"),
}  # fmt: skip


def load(file: IO[bytes]) -> Any:
    """What ``pickle.load`` would return for a file that holds a data set or loaders.

    Args:
        file: The open file.

    Raises:
        ValueError: The file is damaged, or asks for something else; nothing of that was run.
    """
    try:
        return _Unpickler(file).load()
    except _RefusedError as refused:
        raise ValueError(
            f"{file.name} is no saved data set or loader of RecBole's alone: it asks for {refused}, which a file may "
            "not. Nothing of it was run. Delete the file, a run writes it anew (save_dataset, save_dataloaders), or "
            "choose another checkpoint_dir."
        ) from None
    except Exception as error:  # whatever bytes that are no pickle lead to
        raise ValueError(
            f"{file.name} is damaged or of other versions of the libraries ({type(error).__name__}: {error}). Delete "
            "the file, a run writes it anew (save_dataset, save_dataloaders)."
        ) from error


class _RefusedError(Exception):
    """What a file asks for and may not have."""


_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined] # only it shows what is called


class _Unpickler(_InPython):
    """Makes objects without their ``__init__`` and calls what is on the list, nothing else."""

    dispatch: dict[int, Any] = dict(_InPython.dispatch)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.called: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        """A class or function that such files hold."""
        asked = module, name
        if asked in _OURS or asked in _CALLED:
            found = _OURS.get(asked) or super().find_class(module, name)
            self.called.append(found)
            return found
        if asked in _CLASSES:
            return super().find_class(module, name)
        package = module.partition(".")[0]
        # A module that is not imported yet is code of the file's choice, unless it is the host's or ours.
        if "." not in name and (package in _PACKAGES or module in sys.modules):
            found = super().find_class(module, name)
            if isinstance(found, type) and (
                found.__module__.partition(".")[0] in _PACKAGES or issubclass(found, (AbstractRecommender, Dataset))
            ):
                return found
        raise _RefusedError(f"{module}.{name}")

    def load_reduce(self) -> None:
        """A call: of what is on the list, or of an enumeration's class."""
        function = self.stack[-2]
        allowed = any(function is known for known in self.called)
        if not allowed and not (isinstance(function, type) and issubclass(function, enum.Enum)):
            raise _RefusedError(f"a call of {function!r}")
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_build(self) -> None:
        """The state of an object that was made here; never of a class, a function or a module."""
        if isinstance(self.stack[-2], (type, type(sys), type(load))):
            raise _RefusedError(f"a change of {self.stack[-2]!r}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def _no_instance(self) -> None:
        raise _RefusedError("an instruction of old pickles")

    for _code in (pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID):
        dispatch[_code[0]] = _no_instance


def _bound_method(owner: Any, name: str) -> Callable[..., Any]:
    """A method of an object of RecBole's or ours, as loaders hold those of their data set; it is not called here.

    Or a member of an enumeration, which Python 3.11.0 to 3.11.3 pickle in this way.
    """
    if isinstance(owner, enum.EnumMeta) and name in owner.__members__:
        return owner.__members__[name]
    found = getattr(owner, name)
    own = type(owner).__module__.partition(".")[0] in _PACKAGES or isinstance(owner, Dataset)
    if not own or name.startswith("__") or getattr(found, "__self__", None) is not owner:
        raise _RefusedError(f"getattr of {type(owner).__name__}.{name}")
    return found


def _storage(data: bytes) -> Any:
    """The numbers of a tensor, read as plain data."""
    return torch.load(io.BytesIO(data), weights_only=True)


_OURS = {("builtins", "getattr"): _bound_method, ("torch.storage", "_load_from_bytes"): _storage}
"""What is called in place of functions that could do more."""
