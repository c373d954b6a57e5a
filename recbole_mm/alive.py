"""Whether the process that left a note still runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

__all__ = ["is_alive", "process_note"]


def process_note() -> dict[str, Any]:
    """What identifies this process among all that ever ran, to be left where others may ask `is_alive`."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_alive(holder: Mapping[str, Any]) -> bool:
    """Whether the process that left this note still runs; ``True`` where another machine cannot be asked."""
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    started = _started(int(holder.get("pid", -1)))
    return started is not None and started == holder.get("started")


def _started(pid: int) -> float | None:
    """When a process began; ``None`` if it is gone."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.is_file():
            # Ticks since the machine started. The time of day, which psutil gives, is another one after the clock was
            # set, and a process that lives would be taken for dead.
            return float(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
        return process.create_time()
    except (psutil.NoSuchProcess, OSError, ValueError):
        return None
