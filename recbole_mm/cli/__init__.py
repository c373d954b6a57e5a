"""What a shell is answered: one file per command, and `main`, which finds the command.

The files of this folder import the standard library only, until a command runs: mistakes and ``--help`` are answered
without waiting for torch and RecBole. `run_recbole_mm.py` therefore loads this folder without the package around it.
"""

from __future__ import annotations

from recbole_mm.cli.main import main

__all__ = ["main"]
