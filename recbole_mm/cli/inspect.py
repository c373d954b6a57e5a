"""``inspect``: are the features of a data set real?"""

from __future__ import annotations

import json
from pathlib import Path

from recbole_mm.cli.arguments import BRIEF
from recbole_mm.cli.request import CommandLineError, Flag, Request

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "POSITIONAL", "USAGE", "run"]

HELP = (
    "Measure whether the features of a data set are real and belong to its items: text here, and one page of HTML "
    "(needs recbole-mm[report])."
)
USAGE = "NAME [--argument=value ...]"
EXAMPLE = "inspect mm-toy"
FLAGS = {
    "What to inspect": {
        "data_path": Flag("folder of data sets (default: dataset)", "FOLDER", "dataset"),
        "images": Flag("picture files for the page (default: those that `extract` noted)", "PATTERN"),
        "seed": Flag("of samples and permutations (default: 0)", "N", "0"),
    },
    "What to write": {
        "output": Flag("the page (default: NAME-features.html)", "FILE"),
        "format": Flag("text, with the page, or json for machines (default: text)", "FORMAT", "text"),
        "strict": Flag("exit with status 1 where something looks wrong"),
    },
    "General": BRIEF,
}
#: It has no options of RecBole, and one word of its own.
OPTIONS = False
POSITIONAL = "NAME"


def run(request: Request) -> int:
    """Inspect a data set, print what was found and write the page.

    Args:
        request: The command line.

    Returns:
        Exit status 0; 1 with ``--strict`` where something looks wrong.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        FileNotFoundError: There is no such data set, or it has no feature file.
    """
    name, form = request.flags.get("NAME"), request.flag("format")
    if name is None:
        raise CommandLineError("Inspect which data set? Write inspect NAME.")
    if form not in ("text", "json"):
        raise CommandLineError(f"--format: expected text or json, got {form!r}.")
    for flag in {"output", "images"} & set(request.flags) if form == "json" else ():
        raise CommandLineError(
            f"--{flag} is about the page, which --format=json does not write; leave one of them out."
        )
    from recbole_mm.report.inspection.inspect import inspect
    from recbole_mm.report.inspection.page import write_page

    where = str(request.flag("data_path"))
    found = inspect(name, data_path=where, seed=request.number("seed"), pictures=request.flags.get("images"))
    if form == "json":
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print(found)
        print(f"page: {write_page(found, Path(request.flags.get('output') or f'{name}-features.html'))}")
    return 1 if "strict" in request.flags and found.warnings else 0
