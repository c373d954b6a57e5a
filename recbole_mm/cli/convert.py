"""``convert``: data sets of other layouts, read and written."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_mm.cli.request import Flag

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "USAGE", "WORDS", "hand_over"]

HELP = "Convert a data set from or to the layout of the MMRec toolbox, or an old checkpoint."
USAGE = "mmrec|to-mmrec SOURCE TARGET --name NAME [--argument ...], or checkpoint FILE [--trust]"
EXAMPLE = "convert mmrec raw/baby dataset --name baby"
FLAGS = {
    "Layouts": {
        "name": Flag("name of the data set; TARGET/NAME is written", "NAME"),
        "force": Flag("overwrite the files of an earlier conversion"),
    },
    "Of a checkpoint": {
        "trust": Flag("read a pickle of RecBole's, which runs the code in it, and write plain data in its place"),
    },
    "Of mmrec only": {
        "feature": Flag("features of items, row k for item k; may be repeated", "MODALITY=FILE"),
        "user-feature": Flag("features of users, row k for user k; may be repeated", "MODALITY=FILE"),
        "memory-map": Flag("write .npy with .ids, for matrices of gigabytes"),
        "user-column": Flag("name of a column, if it is unusual; also item, rating, time and split", "NAME"),
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

    return main(arguments)
