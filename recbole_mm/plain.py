"""Values as plain data, so that ``torch.load(..., weights_only=True)`` reads them: nothing in the file is executed.

A checkpoint holds more than tensors: numpy and scipy matrices of RecBole's memory-based models, states of random
generators, sets. They are written as mappings with the key ``$`` and rebuilt by :func:`from_plain`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

__all__ = ["from_plain", "readable", "to_plain"]

_KIND = "$"
_PARTS = {
    "csr": ("data", "indices", "indptr"),
    "csc": ("data", "indices", "indptr"),
    "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
}


def to_plain(value: Any, where: str = "") -> Any:
    """A value in types that ``weights_only=True`` allows.

    Args:
        value: The value.
        where: What it is, for the message.

    Returns:
        Tensors, numbers, texts, lists, tuples and mappings.

    Raises:
        TypeError: It has a part that is none of these, nor an array, a matrix or a set of them.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes)) and not isinstance(value, np.generic):
        return value.name if isinstance(value, Enum) else value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _array(value, where)
    if sp.issparse(value):
        kind = value.format if value.format in _PARTS else "coo"
        part = value.asformat(kind)
        arrays = {name: _array(getattr(part, name), where) for name in _PARTS[kind]}
        matrix = isinstance(value, sp.spmatrix)
        return {_KIND: "sparse", "format": value.format, "kind": kind, "matrix": matrix, "shape": part.shape, **arrays}
    if isinstance(value, Mapping):
        if _KIND in value:
            raise TypeError(f"{where}: a mapping with the key {_KIND!r} cannot be written.")
        items = ((to_plain(key, where), to_plain(entry, f"{where}[{key!r}]")) for key, entry in value.items())
        return OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if isinstance(value, (list, tuple)):
        entries = [to_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, (set, frozenset)):
        return {_KIND: type(value).__name__, "items": [to_plain(entry, where) for entry in sorted(value, key=repr)]}
    if isinstance(value, torch.device):
        return {_KIND: "device", "name": str(value)}
    raise TypeError(f"{where or 'value'}: a {type(value).__name__} cannot be written as plain data.")


def from_plain(value: Any) -> Any:
    """The value that :func:`to_plain` was given."""
    if isinstance(value, Mapping):
        kind = value.get(_KIND)
        if kind == "array":
            return _from_array(value)
        if kind == "sparse":
            parts = [_from_array(value[name]) for name in _PARTS[value["kind"]]]
            data, rest = parts[0], parts[1:]
            inner = (data, (rest[0], rest[1])) if value["kind"] == "coo" else (data, *rest)
            classes = {"matrix": f"{value['kind']}_matrix", "array": f"{value['kind']}_array"}
            built = getattr(sp, classes["matrix" if value["matrix"] else "array"])(inner, shape=tuple(value["shape"]))
            return built.asformat(value["format"])
        if kind in ("set", "frozenset"):
            return {"set": set, "frozenset": frozenset}[kind](from_plain(entry) for entry in value["items"])
        if kind == "device":
            return torch.device(value["name"])
        items = ((key, from_plain(entry)) for key, entry in value.items())
        return OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(entry) for entry in value)
    return value


def readable(value: Any) -> Any:
    """An option in plain types that a reader understands; what has none, such as a class, becomes its text."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {readable(key): readable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(readable(entry) for entry in value) if type(value) in (list, tuple) else list(value)
    if isinstance(value, (set, frozenset)):
        return [readable(entry) for entry in sorted(value, key=repr)]
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _array(array: np.ndarray, where: str) -> dict[str, Any]:
    if array.dtype.kind in "OUS":
        items = [to_plain(entry, where) for entry in array.ravel().tolist()]
        return {_KIND: "array", "dtype": array.dtype.str, "shape": array.shape, "items": items}
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{where or 'value'}: an array of {array.dtype} cannot be written as plain data.")
    bits = torch.from_numpy(np.frombuffer(np.ascontiguousarray(array).tobytes(), dtype=np.uint8).copy())
    return {_KIND: "array", "dtype": array.dtype.str, "shape": array.shape, "bytes": bits}


def _from_array(value: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
    if "items" in value:
        array = np.empty(len(value["items"]), dtype=dtype)
        array[:] = [from_plain(entry) for entry in value["items"]]
        return array.reshape(shape)
    return np.frombuffer(value["bytes"].cpu().numpy().tobytes(), dtype=dtype).reshape(shape).copy()
