"""``python -m recbole_mm.data.convert`` converts data sets from the shell."""

from __future__ import annotations

import sys

from recbole_mm.data.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
