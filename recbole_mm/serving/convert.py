"""Rewrite an old checkpoint so that reading it runs no code, or make a folder for ``recbole_mm.load`` of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_mm.host.checkpoint import convert
from recbole_mm.host.saved_config import PLACES
from recbole_mm.serving.saved import save

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
        description="Make a folder for recbole_mm.load of a checkpoint, or, without DIR, rewrite one of RecBole or of "
        "an older recbole_mm, a pickle, as plain data.",
    )
    parser.add_argument("file", type=Path, help="the checkpoint")
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR", help="the folder that is made")
    parser.add_argument("--with-features", action="store_true", help="with DIR: copy the feature files into it")
    for place in ("data-path", "feature-path"):
        parser.add_argument(f"--{place}", help=f"with DIR: the option {place.replace('-', '_')}, if the data moved")
    parser.add_argument("--output", type=Path, help="where the new one goes (default: in its place)")
    parser.add_argument("--trust", action="store_true", help="read the pickle: code that its author put into it is run")
    options = parser.parse_args(arguments)
    places = {key: value for key in PLACES if (value := getattr(options, key, None)) is not None}
    if options.folder is None and (places or options.with_features):
        parser.error("--with-features, --data-path and --feature-path say how DIR is made, which is not given")
    if options.folder is not None and options.output is not None:
        parser.error("--output is for a checkpoint that is rewritten; with DIR there is none")
    try:
        if options.folder is not None:
            save(options.file, options.folder, options.with_features, places, options.trust)
            print(f"{options.folder}: the model, for recbole_mm.load({str(options.folder)!r})")
            return 0
        convert(options.file, options.output or options.file, options.trust)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output or options.file}: plain data, which is read without running code")
    return 0


if __name__ == "__main__":
    sys.exit(main())
