"""Writing files: what stands at a path is the old content or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = [
    "WriteError",
    "check_writable",
    "is_of_disk",
    "owner",
    "remove_abandoned",
    "replacing",
    "sync",
    "whole_file",
    "write_atomically",
    "writing",
]

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\w+\.tmp(?:\.\w+)?(?:-\w+)?")
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
_looked_into: set[tuple[int, str]] = set()


class WriteError(OSError):
    """A file could not be written; the message names it and says what to do."""

    for_caller = True


def is_of_disk(error: BaseException) -> bool:
    """Whether an error says something of the disk (full, read-only, not answering), not of what was to be done."""
    return isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno in _OF_DISK)


@contextmanager
def replacing(file: str | os.PathLike[str], remedy: str = "") -> Iterator[Path]:
    """Give a path beside ``file`` to write to, and put what was written in its place once it is on the disk.

    A reader, or a process that is killed or meets a full disk at any moment, finds the previous file until then. An
    error leaves it, and nothing beside it.

    Args:
        file: The file to write; its folder exists.
        remedy: What the message about a full disk advises beside making room.

    Yields:
        The path to write to, with the same ending.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to.
    """
    target = Path(file)
    remove_abandoned(target.parent)
    temporary = target.with_name(f".{target.stem}.{owner()}-{secrets.token_hex(3)}.tmp{target.suffix}")
    try:
        with writing(target, temporary, remedy):
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        with suppress(OSError):  # where the disk can only be read nothing is there, and what is raised already says why
            temporary.unlink()


def owner() -> str:
    """What names of temporary files and folders have of the process that writes them: machine and number."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}-{os.getpid()}"


def remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that are gone left in a folder, killed while they wrote.

    Their temporary files and folders are called ``.NAME.MACHINE-PROCESS-x.tmp``, with the ending of the file. A process
    looks once into every folder that it writes to.

    Args:
        folder: The folder, which need not exist.
    """
    key = (os.getpid(), str(folder.absolute()))
    if key in _looked_into:
        return
    _looked_into.add(key)
    here, alive = owner().partition("-")[0], {}
    for path in folder.glob(".*.tmp*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or found[1] != here:
            continue
        process = int(found[2])
        if process not in alive:
            alive[process] = _is_alive(process)
        if not alive[process]:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_alive(process: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # of another user
        return True


def write_atomically(file: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a text or bytes with :func:`replacing`.

    Args:
        file: Where to write; its folder is made if it is missing.
        content: Text (UTF-8) or bytes.
    """
    path = Path(file)
    with writing(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def check_writable(target: str | os.PathLike[str]) -> None:
    """Refuse a place that cannot be written to, for callers who would work for hours first.

    Args:
        target: The file or folder that is to be written; the folder that it lies in exists.

    Raises:
        WriteError: The folder that it lies in cannot be written to.
    """
    folder = Path(target).absolute().parent
    if not os.access(folder, os.W_OK):
        raise WriteError(f"{target}: {folder} cannot be written to. Make it writable, or choose another place.")


@contextmanager
def whole_file(file: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file for bytes, as ``open(file, "wb")`` does, by :func:`replacing`.

    Args:
        file: The file; its folder exists.

    Yields:
        The stream.
    """
    with replacing(file) as temporary, temporary.open("wb") as stream:
        yield stream


@contextmanager
def writing(target: Path, place: Path, remedy: str = "") -> Iterator[None]:
    """Turn what the system says while ``place`` is written, a file or a folder, into a message about ``target``.

    Errors about other files, which were to be read, stay as they are.

    Args:
        target: What is to be written in the end.
        place: What is written meanwhile.
        remedy: What the message about a full disk advises beside making room.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else place
        if place != named and place not in named.parents and named not in place.parents:
            raise
        found = WriteError(_message(target, error, remedy))
        found.errno = error.errno
        raise found from error


def _message(target: Path, error: OSError, remedy: str) -> str:
    kept = "what was there before is kept" if target.exists() else "nothing is left of it"
    text = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        advice = f"Make {target.parent} writable"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        advice = f"See that the folder {target.parent} is there"
    elif error.errno == errno.EISDIR:
        advice = f"A folder stands at {target}: remove it"
    else:
        advice = "Make room on that disk"
    return f"{target} could not be written ({text}); {kept}. {advice}, or {remedy or 'choose another place'}."


def sync(file: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


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
