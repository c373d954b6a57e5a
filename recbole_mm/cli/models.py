"""``models``: which models there are, and the files of options that come with them."""

from __future__ import annotations

from recbole_mm.cli.arguments import GENERAL, entry
from recbole_mm.cli.catalogue import experiments, model_names
from recbole_mm.cli.request import Request

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "list_names", "run"]

HELP = "List the models, ours and RecBole's, and the files of options for special purposes."
EXAMPLE = "models"
FLAGS = {"General": {name: GENERAL[name] for name in ("debug", "help")}}
OPTIONS = False


def run(request: Request) -> int:
    """Print the models and the packaged files of options.

    Args:
        request: The command line.

    Returns:
        Exit status 0.
    """
    list_names()
    print("\nFiles of options, for --config_files:")
    for name, meaning in experiments().items():
        print("\n".join(entry(name, meaning)))
    return 0


def list_names() -> int:
    """Print the names of all models, a line each."""
    ours, families = model_names()
    print("recbole_mm:\n  " + "\n  ".join(ours))
    for family, names in families.items():
        print(f"\nRecBole, {family}:\n  " + "\n  ".join(names))
    return 0
