"""Which commit of this package a result was computed with, where it runs from a checkout."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

__all__ = ["commit"]

_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def commit() -> str | None:
    """Short hash of the checkout's commit, with ``-dirty`` after it where files differ from it.

    An installed package has none: the repository that its environment may lie in is another one.
    """
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user that it does not trust
        return None
    return found.stdout.strip() or None
