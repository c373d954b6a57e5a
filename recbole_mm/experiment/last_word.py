"""How a process of its own says why it leaves no answer: its files are of no use where their disk is full."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

__all__ = ["LastWord", "say_last_word"]

_LONGEST = 4_000  # more than a pipe takes at once would wait for a reader


class LastWord:
    """The parent's side of a pipe for a single message.

    Attributes:
        passed: What the child inherits: the end to write to, on systems where a process can be given one.
    """

    def __init__(self) -> None:
        self.passed: tuple[int, ...] = ()

    def __enter__(self) -> LastWord:
        if os.name == "posix":
            self._read, written = os.pipe()
            os.set_blocking(self._read, False)  # a process that the child leaves behind may hold the other end
            self.passed = (written,)
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.passed:
            os.close(end)
            os.close(self._read)

    def read(self) -> dict[str, Any] | None:
        """What a child that has ended said, if anything."""
        said = b""
        if self.passed:
            with suppress(BlockingIOError):
                said = os.read(self._read, 16 * _LONGEST)
        return json.loads(said) if said else None


def say_last_word(end: int, error: str, of_machine: bool) -> None:
    """Say to the parent what an answer would say.

    Args:
        end: The end of the pipe that the parent passed.
        error: What went wrong.
        of_machine: Whether the machine failed and not the task.
    """
    word: Mapping[str, Any] = {"error": error[:_LONGEST], "of_machine": of_machine}
    os.write(end, json.dumps(word).encode("ascii"))
