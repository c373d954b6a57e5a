"""SIGTERM, which a batch system sends before it kills, is answered as Ctrl-C is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["TerminatedError", "terminable"]

# Seconds after which a signal that was swallowed comes again.
_AGAIN = 0.05


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end with SIGTERM."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`TerminatedError` where SIGTERM arrives while the block lasts.

    A second one while the first is being answered does nothing. Where Python swallows the exception, because the
    signal met a finalizer (``Exception ignored in ...``), it comes again a moment later, and so does Ctrl-C. Only the
    main thread may ask for signals; elsewhere, and where a caller has a handler of its own, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TerminatedError("SIGTERM")

    unraisable = sys.unraisablehook

    def again(swallowed: Any) -> None:
        error = swallowed.exc_value
        if not isinstance(error, KeyboardInterrupt):
            unraisable(swallowed)
            return
        number = signal.SIGTERM if isinstance(error, TerminatedError) else signal.SIGINT
        if number == signal.SIGTERM:
            signal.signal(number, terminate)
        threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()

    signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
