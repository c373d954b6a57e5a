"""``repairs``: what RecBole needs to run on the libraries installed here."""

from __future__ import annotations

from recbole_mm.cli.arguments import BRIEF, entry
from recbole_mm.cli.request import Request

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "run"]

HELP = "List the repairs of RecBole 1.2.1, and which of them the libraries installed here make necessary."
EXAMPLE = "repairs"
FLAGS = {"General": BRIEF}
OPTIONS = False


def run(request: Request) -> int:
    """Print each repair, whether it was needed, and why it exists.

    Args:
        request: The command line.

    Returns:
        Exit status 0.
    """
    from recbole_mm.host.compat import installed_repairs, repair_reasons
    from recbole_mm.host.editing import versions

    print(versions() + "\n")
    needed, reasons = installed_repairs(), repair_reasons()
    for name, done in needed.items():
        print("\n".join(entry(f"{name:20} {'needed' if done else 'not needed'}", reasons[name], column=38)))
    return 0
