"""Memory that a step frees is kept for the next one: glibc hands large blocks back to the system at once."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping

__all__ = ["VARIABLES", "keep_freed_memory"]

_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_LARGE, _ALL = 2**30, 2**31 - 1

VARIABLES = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE), "MALLOC_TRIM_THRESHOLD_": str(_ALL)}
"""The same for the processes that this one starts: glibc reads them when a program begins."""


def keep_freed_memory(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let glibc serve blocks below 1 GiB from memory that was freed, and keep what is freed.

    Blocks above 32 MB are otherwise mapped anew for every step, and the system fills each page with zeros when it is
    first touched. The process then holds its peak until it ends.

    Args:
        environment: Variables that processes started later get; those of this process if not given.

    Returns:
        Whether it was done: not on other systems than Linux with glibc, and not where the caller has set one of
        glibc's own variables or another allocator.
    """
    environment = os.environ if environment is None else environment
    chosen = any(name.startswith("MALLOC_") for name in environment) or "malloc" in environment.get("LD_PRELOAD", "")
    if sys.platform != "linux" or chosen or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - absent from other libraries, which have a mallopt that does nothing
        done = library.mallopt(_MAP, _LARGE) == 1 and library.mallopt(_TRIM, _ALL) == 1
    except (AttributeError, OSError):
        return False
    if done:
        environment.update(VARIABLES)
    return done
