"""``convert``: data sets of other layouts, read and written."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_mm.cli.request import Flag, program, sibling

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "USAGE", "WORDS", "hand_over"]

HELP = "Convert a data set of the MMRec toolbox or the UniSRec family, or an old checkpoint."
USAGE = "mmrec|unisrec|to-mmrec SOURCE TARGET --name NAME [--argument ...], or checkpoint FILE [DIR] [--trust]"
EXAMPLE = "convert mmrec raw/baby dataset --name baby"
_ARGUMENTS = sibling("data/convert/arguments.py")
#: Of the data sets as their parser has them, for the help; they are read there.
FLAGS = {
    **{
        title: {argument.name: Flag(argument.help, argument.value, many=argument.many) for argument in arguments}
        for title, arguments in (
            ("Data sets, both ways", _ARGUMENTS.BOTH),
            ("Data sets, from MMRec", _ARGUMENTS.MMREC),
            ("Data sets, from UniSRec", _ARGUMENTS.UNISREC),
        )
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

    status = main(arguments, f"{program()} convert")
    if status == 0 and arguments[:1] == ["unisrec"]:
        _inspect(arguments)
    return status


def _inspect(arguments: Sequence[str]) -> None:
    """Say whether the vectors belong to the items: nothing in the files of the UniSRec family does."""
    from recbole_mm.report.inspection.inspect import inspect

    options = _ARGUMENTS.make_parser(f"{program()} convert").parse_args(arguments)
    found = inspect(options.name, data_path=options.target)
    for modality, numbers in found.modalities.items():
        print(
            f"{modality}: alignment z {numbers['alignment']['z']:.1f} of items that one user had, against shuffled rows"
        )
    for line in found.warnings:
        print(f"WARNING: {line}")
