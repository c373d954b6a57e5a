"""Writes the table of models in README.md: names, ideas and papers from docstrings, what they can do from their tags.

python tools/model_table.py --write
python tools/model_table.py --check
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import recbole_mm
from recbole_mm.host.tags import Tags, tags_of

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- models: written by tools/model_table.py -->", "<!-- end of models -->"


def table() -> str:
    """The table in Markdown: general models by name, then sequential ones."""
    models = {
        name: cls for name, cls in recbole_mm.registered_models().items() if cls.__module__.startswith("recbole_mm.")
    }
    order = sorted(models, key=lambda name: (tags_of(name).sequential, name.lower()))
    lines = ["| model | idea | reads | new items | paper |", "|---|---|---|---|---|"]
    lines += [_line(name, models[name], tags_of(name)) for name in order]
    return "\n".join(lines)


def _line(name: str, cls: type, tags: Tags) -> str:
    summary = (inspect.getmodule(cls).__doc__ or "").strip().splitlines()[0]  # type: ignore[union-attr]
    idea = summary.partition(": ")[2].rstrip(".") + (" (sequential)" if tags.sequential else "")
    # Authors "Title." Venue year.
    found = re.search(r'Reference:\n\s+([^"]*?)\s+"[^"]*"\s+([^"]*?\d{4})\.', inspect.getdoc(cls) or "")
    if found is None or not idea:
        raise ValueError(
            f"{name}: expected 'NAME: idea.' as docstring of its module and a Reference of the form "
            "'Authors \"Title.\" Venue year.' in that of its class."
        )
    authors, venue = (" ".join(part.split()) for part in found.groups())
    paper = f"{authors if authors.endswith('al.') else authors.rstrip('.')}, {venue}"
    yes = "yes" if tags.ranks_new_items else "no"
    return f"| {name} | {idea} | {', '.join(tags.uses)} | {yes} | {paper} |"


def main(arguments: list[str]) -> int:
    """Write or check the table; returns the exit status."""
    if arguments not in (["--write"], ["--check"]):
        print("usage: python tools/model_table.py --write | --check", file=sys.stderr)
        return 2
    before = README.read_text(encoding="utf-8")
    head, _, rest = before.partition(BEGIN)
    after = f"{head}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"
    if arguments == ["--write"]:
        README.write_text(after, encoding="utf-8")
    elif after != before:
        print(
            "README.md: the table of models is not that of the code; python tools/model_table.py --write",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
