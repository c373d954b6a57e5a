"""``python -m recbole_mm``: the same program as ``recbole-mm``."""

from __future__ import annotations

import sys

from recbole_mm.cli.main import main

if __name__ == "__main__":
    # So far the package is a shell (see its first lines). Whoever needs more than the command line imports all of it.
    if "register" not in vars(sys.modules["recbole_mm"]):
        del sys.modules["recbole_mm"]
    sys.exit(main())
