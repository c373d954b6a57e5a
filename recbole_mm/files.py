"""Writing files: what stands at a path is the old content or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing", "write_atomically"]


@contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``file`` to write to, and put what was written in its place once it is on the disk.

    A reader, or a process that is killed or meets a full disk at any moment, finds the previous file until then. An
    error leaves it, and nothing beside it.

    Args:
        file: The file to write; its folder exists.

    Yields:
        The path to write to, with the same ending.
    """
    target = Path(file)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(3)}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(file: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a text or bytes with :func:`replacing`.

    Args:
        file: Where to write; its folder is made if it is missing.
        content: Text (UTF-8) or bytes.
    """
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """Write the folder's list of names, too, where the system lets one: a power cut keeps the new name then."""
    if os.name != "posix":
        return
    with suppress(OSError):  # some network file systems refuse it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
