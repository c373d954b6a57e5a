"""``version``: which version of what is installed."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from recbole_mm.cli.arguments import BRIEF
from recbole_mm.cli.request import Request

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "run"]

HELP = "Print the version of this program, and of what it runs on."
EXAMPLE = "version"
FLAGS = {"General": BRIEF}
OPTIONS = False


def run(request: Request) -> int:
    """Print the versions.

    Args:
        request: The command line.

    Returns:
        Exit status 0.
    """
    text = (Path(__file__).resolve().parents[1] / "__init__.py").read_text(encoding="utf-8")
    own = re.search(r'^ *__version__ = "(.*)"', text, flags=re.MULTILINE)
    found = []
    for name in ("recbole", "torch", "torch-geometric"):
        try:
            found.append(f"{name} {installed(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    print(f"recbole-mm {own[1] if own else '?'} ({', '.join(found)}, Python {platform.python_version()})")
    return 0
