"""Locks: a file beside what only one process may write at a time, with a note of who does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_mm.alive import is_alive, process_note

__all__ = ["InUseError", "hold", "holder"]

# How long a lock may be empty: its owner, if it lives, is between making it and filling it.
_EMPTY_SECONDS = 5.0


class InUseError(RuntimeError):
    """Another process writes what this one wants to write."""

    for_caller = True


@contextmanager
def hold(file: Path, what: object, instead: str) -> Iterator[None]:
    """Keep other processes from writing something while the block lasts. The lock of a process that is gone is none.

    Args:
        file: The lock; its folder exists.
        what: What is written, for the message.
        instead: What the caller may do but wait, for the message: ``choose another folder``.

    Raises:
        InUseError: Another living process has it, or one on another machine.
    """
    note = json.dumps(process_note())
    while True:
        try:
            _take(file, note)
            break
        except FileExistsError:
            other = holder(file)
            if is_alive(other):
                raise InUseError(
                    f"{what} is in use by process {other.get('pid')} on {other.get('host')}. Wait for it, {instead}, "
                    f"or delete {file} if that machine is gone."
                ) from None
            _remove_dead(file, other)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _take(file: Path, note: str) -> None:
    handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(note)
    except OSError:  # a full disk
        file.unlink(missing_ok=True)
        raise


def holder(file: Path) -> dict[str, Any]:
    """The note in a lock; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # gone meanwhile, or killed between making the file and filling it
        return {}
    return content if isinstance(content, dict) else {}


def _remove_dead(file: Path, other: Mapping[str, Any]) -> None:
    """Remove a lock that nobody holds, but not one that another program has put in its place meanwhile."""
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        if not other and time.time() - file.stat().st_mtime < _EMPTY_SECONDS:
            time.sleep(0.1)
            return
        os.rename(file, aside)
    except FileNotFoundError:
        return
    if is_alive(holder(aside)):
        os.rename(aside, file)
    else:
        aside.unlink()
