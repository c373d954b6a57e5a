"""Packed files, read as they are; one that is cut off or damaged is never taken for a shorter one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

__all__ = ["DAMAGED", "SUFFIXES", "unpacked"]

_OPEN: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_BLOCK = 1 << 17
#: Suffixes of packed files.
SUFFIXES = (*_OPEN, "zst")
#: What is raised while a damaged file is unpacked.
DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, lzma.LZMAError, zlib.error)


def unpacked(path: Path, kind: str, below: IO[bytes]) -> Any:
    """The content of a packed file, as a stream of bytes.

    Args:
        path: The file, for messages.
        kind: One of :data:`SUFFIXES`.
        below: The open file.

    Raises:
        ImportError: A ``.zst`` file without its package.
    """
    if kind != "zst":
        return _OPEN[kind](below)
    try:
        import zstandard
    except ImportError as error:
        raise ImportError(f"{path}: reading .zst needs zstandard: pip install zstandard.") from error
    return io.BufferedReader(_Frames(below, zstandard), _BLOCK)


class _Frames(io.RawIOBase):
    """The frames of a ``.zst`` file. The package's own stream ends without a word where the file was cut off."""

    def __init__(self, below: IO[bytes], zstandard: Any) -> None:
        super().__init__()
        self._below, self._zstandard = below, zstandard
        self._frame: Any = None
        self._ready = b""
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        while not self._ready:
            block = self._left or self._below.read(_BLOCK)
            self._left = b""
            if not block:
                if self._frame is not None:
                    raise EOFError("its end is missing")
                return 0
            self._ready = self._more(block)
        size = min(len(room), len(self._ready))
        room[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _more(self, block: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            found: bytes = self._frame.decompress(block)
        except self._zstandard.ZstdError as error:
            raise OSError(str(error)) from error
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return found
