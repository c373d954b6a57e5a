"""What the pages of the documentation are written with: docstrings as Markdown, formulas as MathML.

Browsers draw MathML by themselves, so that the pages need no script from anywhere.
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latex2mathml.converter import convert

__all__ = ["cell", "docstring", "mathml", "render", "sections", "shown", "table"]

_ROLE = r":(?:class|func|meth|attr|mod|data):<code>~?(?:[\w.]*\.)?(\w+)</code>"
_BLOCK = re.compile(r"^\.\. math::(.*(?:\n(?:[ \t]+\S.*))*(?:\n\n(?:[ \t]+\S.*\n?)+)?)", flags=re.MULTILINE)


def mathml(tex: str, block: bool = False) -> str:
    """A formula as MathML.

    Args:
        tex: The formula in LaTeX.
        block: Whether it stands in a paragraph of its own.

    Returns:
        HTML.

    Raises:
        ValueError: A command of LaTeX that the converter does not know would stand on the page as it is written.
    """
    lines = rf"\begin{{split}}{tex}\end{{split}}" if "&" in tex or r"\\" in tex else tex
    out: str = convert(lines, display="block" if block else "inline")
    if re.search(r"\\|&(?!#)", re.sub(r"<[^>]*>", "", out)):
        raise ValueError(f"latex2mathml does not know something in this formula, write it in another way: {tex}")
    return out


def render(page: str) -> str:
    """A page of HTML with its formulas drawn and the roles of its docstrings as plain names.

    Args:
        page: HTML that still has ``:math:<code>...</code>``, as Markdown makes it of docstrings.
    """
    page = re.sub(r":math:<code>(.*?)</code>", lambda m: mathml(html.unescape(m[1])), page, flags=re.DOTALL)
    page = re.sub(
        r":displaymath:<code>(.*?)</code>", lambda m: mathml(html.unescape(m[1]), True), page, flags=re.DOTALL
    )
    return re.sub(_ROLE, r"<code>\1</code>", page)


def sections(thing: Any) -> dict[str, str]:
    """The parts of a docstring by title (``Reference``, ``Note``, ...); the text before them has the title ``""``.

    Args:
        thing: A class or function.
    """
    pieces = re.split(r"^([A-Z][a-z]+):\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    found = {"": pieces[0].strip()}
    for title, text in zip(pieces[1::2], pieces[2::2]):
        found[title] = inspect.cleandoc(text)
    return found


def docstring(text: str) -> str:
    """A part of a docstring as Markdown: each displayed formula a paragraph that :func:`render` draws."""

    def paragraph(found: re.Match[str]) -> str:
        return f"\n:displaymath:`{' '.join(found[1].split())}`\n"

    return _BLOCK.sub(paragraph, text).replace("``", "`")


def cell(text: Any) -> str:
    """A text that may stand in a cell of a table of Markdown."""
    return str(text).replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*").replace("\n", " ")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Args:
        head: Titles of the columns.
        rows: The cells, in Markdown.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def shown(output: Mapping[str, Any]) -> str:
    """What a cell of a notebook showed, as Markdown: a table, a picture or text.

    Args:
        output: An output in the format of notebooks.
    """
    data = output.get("data") or {"text/plain": output.get("text", "")}
    texts = {kind: text if isinstance(text, str) else "".join(text) for kind, text in data.items()}
    if "image/png" in texts:
        picture = texts["image/png"].replace("\n", "")
        return f'<p class="shown"><img alt="What the cell above shows" src="data:image/png;base64,{picture}"></p>'
    if "text/html" in texts:
        plain = re.sub(r' (?:border|class|style)="[^"]*"', "", texts["text/html"])
        found = re.search(r"<table>.*</table>", plain, flags=re.DOTALL)
        if found:
            compact = re.sub(r">\s+<", "><", found[0])
            return f'<div class="shown">{compact}</div>'
    return f"```{{.text .shown}}\n{texts.get('text/plain', '').rstrip()}\n```"
