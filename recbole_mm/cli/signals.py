"""SIGTERM, which a batch system sends before it kills, is answered as Ctrl-C is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TerminatedError", "terminable"]


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end with SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`TerminatedError` where SIGTERM arrives while the block lasts.

    A second one while the first is being answered does nothing. Only the main thread may ask for signals; elsewhere,
    and where a caller has a handler of its own, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TerminatedError("SIGTERM")

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
