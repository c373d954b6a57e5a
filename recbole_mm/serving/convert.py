"""Rewrite an old checkpoint so that reading it runs no code: ``convert checkpoint FILE --trust``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_mm.host.checkpoint import convert

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a checkpoint as the command line says.

    Args:
        arguments: The arguments, by default those of the process.

    Returns:
        The exit status: 0, or 1 after an error, which is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m recbole_mm convert checkpoint",
        description="Rewrite a checkpoint of RecBole or of an older recbole_mm, a pickle, as plain data.",
    )
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument("--output", type=Path, help="where the new one goes (default: in its place)")
    parser.add_argument("--trust", action="store_true", help="read the pickle: code that its author put into it is run")
    options = parser.parse_args(arguments)
    try:
        convert(options.file, options.output or options.file, options.trust)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output or options.file}: plain data, which is read without running code")
    return 0


if __name__ == "__main__":
    sys.exit(main())
