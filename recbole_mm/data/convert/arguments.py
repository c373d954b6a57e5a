"""The arguments of the converters; the standard library only, so that their help does not wait for anything else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

__all__ = ["BOTH", "MMREC", "ROLES", "UNISREC", "Argument", "make_parser"]

#: Columns whose unusual names can be told, as in `recbole_mm.data.convert.mmrec_layout`, which imports more than this.
ROLES = ("user", "item", "rating", "time", "split")


class Argument(NamedTuple):
    """An argument of a converter.

    Attributes:
        name: Its name.
        help: What it does.
        value: What stands for its value; ``None`` for a switch.
        many: Whether it may be repeated.
        required: Whether it must be given.
    """

    name: str
    help: str
    value: str | None = None
    many: bool = False
    required: bool = False


BOTH = (
    Argument("name", "name of the data set; TARGET/NAME is written", "NAME", required=True),
    Argument("force", "overwrite the files of an earlier conversion"),
)
"""Arguments of all data sets."""

MMREC = (
    Argument("feature", "item features, row k for item k (default: other <modality>_feat.npy)", "MODALITY=FILE", True),
    Argument(
        "user-feature", "user features, row k for user k (default: user_<modality>_feat.npy)", "MODALITY=FILE", True
    ),
    Argument("drop_unseen", "leave out validation and test rows of items that training never sees"),
    Argument("memory-map", "write .npy with .ids, for matrices of gigabytes"),
    *(Argument(f"{role}-column", f"name of the {role} column, if it is unusual", "NAME") for role in ROLES),
)
"""Arguments of ``mmrec`` alone."""

UNISREC = (
    Argument("modality", "name of the modality of the vectors (default: text)", "NAME"),
    Argument("width", "width of the vectors, which the files do not tell: their size is checked", "N"),
)
"""Arguments of ``unisrec`` alone."""


def make_parser(prog: str) -> argparse.ArgumentParser:
    """The parser of ``mmrec``, ``unisrec`` and ``to-mmrec``, each ``SOURCE TARGET --name NAME``.

    Args:
        prog: How the program was called.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Convert multimodal data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    forward = commands.add_parser("mmrec", help="from the layout of the MMRec toolbox to atomic and feature files")
    backward = commands.add_parser("to-mmrec", help="from atomic and feature files to the layout of the MMRec toolbox")
    family = commands.add_parser("unisrec", help="from the layout of the UniSRec family: histories and raw vectors")
    for command, arguments in ((forward, (*BOTH, *MMREC)), (family, (*BOTH, *UNISREC)), (backward, BOTH)):
        command.add_argument("source", type=Path, help="folder to read")
        command.add_argument("target", type=Path, help="folder of data sets; TARGET/NAME is written")
        for argument in arguments:
            if argument.value is None:
                command.add_argument(f"--{argument.name}", action="store_true", help=argument.help)
                continue
            repeated = " (may be repeated)" if argument.many else ""
            command.add_argument(
                f"--{argument.name}",
                action="append" if argument.many else "store",
                default=[] if argument.many else None,
                metavar=argument.value,
                required=argument.required,
                help=argument.help + repeated,
            )
    return parser
