"""``convert``: data sets of other layouts, read and written."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_mm.cli.request import Flag, program, sibling

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "USAGE", "WORDS", "hand_over"]

HELP = "Convert a data set from or to the layout of the MMRec toolbox, or an old checkpoint."
USAGE = "mmrec|to-mmrec SOURCE TARGET --name NAME [--argument ...], or checkpoint FILE [DIR] [--trust]"
EXAMPLE = "convert mmrec raw/baby dataset --name baby"
_ARGUMENTS = sibling("data/convert/arguments.py")
#: Of the data sets as their parser has them, for the help; they are read there.
FLAGS = {
    **{
        title: {argument.name: Flag(argument.help, argument.value, many=argument.many) for argument in arguments}
        for title, arguments in (("Data sets, both ways", _ARGUMENTS.BOTH), ("Data sets, from MMRec", _ARGUMENTS.MMREC))
    },
    "Of a checkpoint": {
        "with-features": Flag("with DIR, which becomes a folder for recbole_mm.load: copy the feature files into it"),
        "data-path": Flag("with DIR: folder of the data sets, if they have moved", "FOLDER"),
        "feature-path": Flag("with DIR: folder of the feature files, if they have moved", "FOLDER"),
        "trust": Flag("read a pickle of RecBole's, which runs the code in it"),
    },
}
#: It has no options of RecBole, and reads its own words.
OPTIONS = False
WORDS = True


def hand_over(arguments: Sequence[str]) -> int:
    """Let the converters answer."""
    if arguments[:1] == ["checkpoint"]:
        from recbole_mm.serving.convert import main as checkpoint

        return checkpoint(arguments[1:])
    from recbole_mm.data.convert.command import main

    return main(arguments, f"{program()} convert")
