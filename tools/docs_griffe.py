"""Docstrings as mkdocstrings understands them: our ``Example:`` is its ``Examples:``; formulas as in `docs_markup`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from griffe import Extension, Object

sys.path.insert(0, str(Path(__file__).parent))  # mkdocstrings loads this file by its path
from docs_markup import docstring

__all__ = ["Docstrings"]


class Docstrings(Extension):
    """Rewrites the docstrings that are read; `griffe` calls it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = docstring(text)
