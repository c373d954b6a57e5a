"""Claims on runs in a folder that several machines share: each run is done by one worker at a time.

A claim is a file that one process alone can make (``O_EXCL``, which file systems and NFS from version 3 on guarantee).
While its worker lives the file grows by a byte every `BEAT_SECONDS`. One that has not grown for `STALE_SECONDS`, by the
clock of whoever looks, is dead; on the same machine the process itself is asked. The next claim on the run is another
file, with the next number, which again one process alone can make: nothing is ever taken away from somebody between a
look and a deed. A worker that was only asleep finds that its file is gone, and leaves the run to the other.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from recbole_mm.alive import is_alive, process_note
from recbole_mm.files import writing

__all__ = ["BEAT_SECONDS", "STALE_SECONDS", "Claim", "Claims", "LostError"]

BEAT_SECONDS = 30.0
#: More than the minute for which NFS may show an old state, and a few beats.
STALE_SECONDS = 150.0


class LostError(BaseException):
    """The run was given to another worker, because this one was silent for too long."""


class Claims:
    """The claims in a folder, from the point of view of one process.

    Args:
        folder: The folder; made with the first claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str) -> Claim | None:
        """Claim a run; ``None`` while another worker has it.

        Whoever gets the claim looks once more whether the run was done meanwhile.

        Args:
            name: Name of the run.

        Raises:
            WriteError: The disk is full; no claim is left.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        files = self._files(name)
        if files and not self._is_dead(files[-1]):
            return None
        number = int(files[-1].name.rpartition(".")[2]) + 1 if files else 1
        file = self._folder / f"{name}.{number}"
        note = json.dumps({**process_note(), "claim": secrets.token_hex(8)}) + "\n"
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:  # another worker was faster
            return None
        try:
            with writing(file, file), os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(note)
        except OSError:  # a claim that names nobody would keep the run from everybody until it is stale
            file.unlink(missing_ok=True)
            raise
        for old in files:
            old.unlink(missing_ok=True)
        return Claim(file, note)

    def holders(self) -> list[dict[str, Any]]:
        """Who may be at work: the notes of claims that are not known to be dead."""
        if not self._folder.is_dir():
            return []
        files = sorted(self._folder.glob("*.*"))
        return [_note(_read(file)) for file in files if not self._is_dead(file)]

    def _files(self, name: str) -> list[Path]:
        found = [file for file in self._folder.glob(f"{name}.*") if file.name[len(name) + 1 :].isdigit()]
        return sorted(found, key=lambda file: int(file.name.rpartition(".")[2]))

    def _is_dead(self, file: Path) -> bool:
        content = _read(file)
        if content is None:  # given back this moment
            return True
        note, now = _note(content), time.monotonic()
        if note.get("host") == socket.gethostname():
            return not is_alive(note)
        with self._lock:
            before = self._seen.get(file)
            if before is None or before[0] != len(content):
                self._seen[file] = (len(content), now)
                return False
        return now - before[1] >= STALE_SECONDS


class Claim:
    """A claim of this process, which shows that it lives until the block ends, and is given back then.

    Args:
        file: Its file.
        note: What the file begins with.
    """

    def __init__(self, file: Path, note: str) -> None:
        self._file, self._note = file, note
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def __enter__(self) -> Claim:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._is_mine():
            self._file.unlink(missing_ok=True)

    def check(self) -> None:
        """Make sure that the run is still this process's.

        Raises:
            LostError: It is not.
        """
        if self._lost.is_set():
            raise LostError

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            try:
                if not self._is_mine():
                    self._lost.set()
                    return
                with open(self._file, "r+b") as stream:  # a file that is gone must not be made again
                    stream.seek(0, os.SEEK_END)
                    stream.write(b".")
            except FileNotFoundError:
                self._lost.set()
                return
            except OSError:  # the drive does not answer for a moment; the next beat tries again
                continue

    def _is_mine(self) -> bool:
        content = _read(self._file)
        return content is not None and content.startswith(self._note)


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _note(content: str | None) -> dict[str, Any]:
    """What a claim says of its worker; nothing while it is being written."""
    first: Iterator[str] = iter((content or "").splitlines())
    try:
        note = json.loads(next(first, ""))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
