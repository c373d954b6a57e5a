"""``extract``: from texts, pictures and sounds to feature files."""

from __future__ import annotations

import sys
from typing import Any

from recbole_mm.cli.arguments import BRIEF
from recbole_mm.cli.request import CommandLineError, Flag, Request, program

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "POSITIONAL", "USAGE", "run"]

HELP = "Turn texts, pictures and sounds of a data set into feature files. Needs recbole-mm[extract]."
USAGE = "NAME [--text=COLUMNS] [--image=PATTERN] [--argument=value ...]"
EXAMPLE = "extract shop --text=title,description --image='pictures/{item_id}.jpg'"
FLAGS = {
    "What to extract": {
        "text": Flag("columns of text, separated by commas", "COLUMNS"),
        "image": Flag("picture files, such as 'pictures/{item_id}.jpg'; .* for any suffix", "PATTERN"),
        "audio": Flag("sound files (needs recbole-mm[audio] and an --encoder)", "PATTERN"),
        "entity": Flag("whose content: item, user, or inter for reviews (default: item)", "ENTITY", "item"),
        "modality": Flag("name of the modality (default: text, image or audio)", "NAME"),
    },
    "How": {
        "encoder": Flag(
            "default, sentence-transformers:NAME, transformers:FOLDER, timm:NAME[@FILE], onnx:FILE, module:function",
            "WORD",
            "default",
        ),
        "patches": Flag("several vectors for each input, such as parts of a picture"),
        "device": Flag("cpu, cuda, ... (default: a GPU where there is one)", "DEVICE", "auto"),
        "batch_size": Flag("inputs at a time (default: 32)", "N", "32"),
        "workers": Flag("threads that read files (default: 2)", "N", "2"),
        "dtype": Flag("float32 or float16 in the file (default: float32)", "TYPE", "float32"),
    },
    "Files": {
        "data_path": Flag("folder of data sets (default: dataset)", "FOLDER", "dataset"),
        "replace": Flag("overwrite feature files that are there"),
    },
    "General": BRIEF,
}
#: It has no options of RecBole, and one word of its own.
OPTIONS = False
POSITIONAL = "NAME"


def run(request: Request) -> int:
    """Extract, and print what became of each kind of content.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: See :func:`recbole_mm.extract.extract.extract` for all errors.
    """
    if "NAME" not in request.flags:
        raise CommandLineError("Extract for which data set? Write extract NAME --text=COLUMNS.")
    from recbole_mm.extract.extract import extract

    options: dict[str, Any] = {word: request.flags.get(word) for word in ("text", "image", "audio", "modality")}
    options.update({word: request.flag(word) for word in ("entity", "encoder", "device", "dtype", "data_path")})
    options.update({word: request.number(word) for word in ("batch_size", "workers")})
    options.update({word: word in request.flags for word in ("patches", "replace")})
    made = extract(request.flags["NAME"], **options, progress=sys.stderr.isatty())
    print(*made, sep="\n")
    if options["entity"] == "item":  # an inspection looks at features of items alone
        where = f" --data_path={request.flags['data_path']}" if "data_path" in request.flags else ""
        print(f"look at them: {program()} inspect {request.flags['NAME']}{where}")
    return 0
