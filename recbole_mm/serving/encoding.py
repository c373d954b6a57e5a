"""A value as JSON beside safetensors: the structure in one file that people can read, the numbers in the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_mm.plain import from_plain, to_plain

__all__ = ["join", "read_json", "read_tensors", "separate", "write_tensors"]

_TENSOR, _TUPLE, _MAP = "$tensor", "$tuple", "$map"
_NARROW = 1024  # a shorter tensor of whole numbers is not worth the trouble


def separate(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Take the tensors and arrays out of a value.

    Args:
        value: The value, of types that :func:`recbole_mm.plain.to_plain` knows.
        name: Begin of the tensors' names.
        tensors: Gets the tensors.

    Returns:
        What JSON can hold, with the names of the tensors in their places.
    """
    return _separate(to_plain(value, name), name, tensors)


def join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that :func:`separate` was given.

    Raises:
        ValueError: A tensor that is named is not there.
    """
    return from_plain(_join(value, tensors))


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, which may be read by whom every other new file may."""
    file.touch()
    mode = file.stat().st_mode
    # Two names of one memory, such as tied weights, are refused by safetensors; copies are not.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, file)
    file.chmod(mode)  # safetensors leaves its file to the owner, and who serves a model is often somebody else


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which holds numbers and nothing that could be executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; the folder is not whole.")
    try:
        return dict(load_file(file, device="cpu"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} is no safetensors file ({error}); it was damaged or replaced.") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file with a mapping.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: {file.parent} is no folder that recbole_mm.save wrote.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not what recbole_mm.save wrote ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not what recbole_mm.save wrote: expected a mapping.")
    return content


def _separate(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise TypeError(f"{name}: a {value.layout} tensor cannot be written to a safetensors file.")
        wide = value.dtype == torch.int64 and value.numel() >= _NARROW
        narrow = wide and int(value.min()) >= -(2**31) and int(value.max()) < 2**31
        tensors[name] = value.to(torch.int32) if narrow else value
        return {_TENSOR: name, **({"dtype": "int64"} if narrow else {})}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith((_TENSOR, _TUPLE, _MAP)) for key in value):
            return {key: _separate(entry, f"{name}.{key}", tensors) for key, entry in value.items()}
        pairs = ([key, entry] for key, entry in value.items())
        return {
            _MAP: [
                [_separate(p, f"{name}.{n}.{k}", tensors) for k, p in enumerate(pair)] for n, pair in enumerate(pairs)
            ]
        }
    if isinstance(value, (list, tuple)):
        entries = [_separate(entry, f"{name}.{index}", tensors) for index, entry in enumerate(value)]
        return {_TUPLE: entries} if isinstance(value, tuple) else entries
    if isinstance(value, bytes):
        raise TypeError(f"{name}: bytes cannot be written to a JSON file.")
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, Mapping):
        if _TENSOR in value:
            if value[_TENSOR] not in tensors:
                raise ValueError(f"the tensor {value[_TENSOR]!r} is missing; the folder is not whole.")
            tensor = tensors[value[_TENSOR]]
            return tensor.to(torch.int64) if value.get("dtype") == "int64" else tensor
        if _TUPLE in value:
            return tuple(_join(entry, tensors) for entry in value[_TUPLE])
        if _MAP in value:
            return {_join(key, tensors): _join(entry, tensors) for key, entry in value[_MAP]}
        return {key: _join(entry, tensors) for key, entry in value.items()}
    if isinstance(value, list):
        return [_join(entry, tensors) for entry in value]
    return value
