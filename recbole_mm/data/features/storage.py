"""Where a prepared table is kept: in memory, or in a scratch file that is mapped into it."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["new_table"]


def new_table(shape: tuple[int, ...], dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Tensor:
    """A table of zeros.

    Args:
        shape: Its shape.
        dtype: Its type.
        folder: For a table larger than memory: where to make a scratch file that holds the numbers. The file has no
            name, so it is gone with the table, however the process ends; the system reads pages of it as they are
            asked for, and drops them again where memory is short.

    Returns:
        An ordinary tensor on the CPU.

    Raises:
        ValueError: The folder is none, or has no room.
    """
    if folder is None or 0 in shape:
        return torch.zeros(shape, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    place = Path(folder).expanduser()
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process without a word
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ValueError(
            f"feature_disk: {place} cannot take a scratch file of {size / 2**20:,.0f} MiB ({error.strerror}); name an "
            "existing folder on a disk with that much room, or ~ to keep features in memory."
        ) from error
    return torch.frombuffer(mapped, dtype=torch.uint8).view(dtype).view(shape)
