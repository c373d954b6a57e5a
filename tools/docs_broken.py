"""The page of damaged and odd files, made of the tables of the test that tries them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docs_markup import cell, table

__all__ = ["broken_page"]

_TEST = Path(__file__).resolve().parents[1] / "tests" / "robustness" / "test_broken_files.py"
_INTRODUCTION = """# Odd and broken files

Each of these files is tried by `tests/robustness/test_broken_files.py`. Odd ones are read as they are meant; broken
ones end in a message that names the place and the remedy, and nothing half-written is left, on a full disk neither.
"""


def broken_page() -> str:
    """What `import` and `extract` make of odd and broken files."""
    cases = dict(_tables())
    wrong = [(case, words) for name in ("WRONG", "BESIDE") for case, words in cases[name]]
    return "\n".join(
        [
            _INTRODUCTION,
            "## Read as they are meant\n",
            table(["tables of clicks", "products that come out"], [[cell(a), cell(b)] for a, b in cases["RIGHT"]]),
            "## Refused\n",
            table(["tables and vectors", "the message says"], [[cell(a), cell(b)] for a, b in wrong]),
            "## Pictures\n",
            table(["picture", "what becomes of it"], [[cell(a), cell(b)] for a, b in cases["PICTURES"]]),
        ]
    )


def _tables() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for node in ast.parse(_TEST.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values)
            yield node.target.id, [(str(ast.literal_eval(key)), _last(value)) for key, value in pairs if key]


def _last(value: ast.expr) -> str:
    """The last entry of a case: what comes out, or words of the message."""
    last = value.elts[-1] if isinstance(value, ast.Tuple) else value
    if isinstance(last, ast.Constant):
        return str(last.value)
    return ", ".join(ast.literal_eval(last)) if isinstance(last, ast.List) else "read"
