"""Command line of the converters: ``python -m recbole_mm.data.convert mmrec SOURCE TARGET --name NAME``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_mm.data.convert.mmrec import from_mmrec
from recbole_mm.data.convert.mmrec_export import to_mmrec
from recbole_mm.data.convert.mmrec_layout import COLUMNS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a data set as the command line says.

    Args:
        arguments: The arguments, by default those of the process.

    Returns:
        The exit status: 0, or 1 after an error, which is printed.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "mmrec":
            columns = {role: getattr(options, role) for role in COLUMNS if getattr(options, role) is not None}
            report = from_mmrec(
                options.source,
                options.target,
                options.name,
                _files(options.feature, "--feature") if options.feature else None,
                _files(options.user_feature, "--user-feature") if options.user_feature else None,
                columns,
                options.memory_map,
                options.force,
            )
        else:
            report = to_mmrec(options.source, options.target, options.name, options.force)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(report))
    folder = options.target / options.name
    print(f"written to {folder}")
    if options.command == "mmrec":
        print(f"use: --dataset={options.name} --data_path={options.target} --config_files={folder / options.name}.yaml")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recbole_mm.data.convert", description="Convert multimodal data sets."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    forward = commands.add_parser("mmrec", help="from the layout of the MMRec toolbox to atomic and feature files")
    backward = commands.add_parser("to-mmrec", help="from atomic and feature files to the layout of the MMRec toolbox")
    for command in (forward, backward):
        command.add_argument("source", type=Path, help="folder to read")
        command.add_argument("target", type=Path, help="folder of data sets; TARGET/NAME is written")
        command.add_argument("--name", required=True, help="name of the data set")
        command.add_argument("--force", action="store_true", help="overwrite the files of an earlier conversion")
    forward.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="MODALITY=FILE",
        help="features of items, row k for item k; default: every other <modality>_feat.npy",
    )
    forward.add_argument(
        "--user-feature",
        action="append",
        default=[],
        metavar="MODALITY=FILE",
        help="features of users, row k for user k; default: every user_<modality>_feat.npy",
    )
    forward.add_argument("--memory-map", action="store_true", help="write .npy with .ids, for matrices of gigabytes")
    for role in COLUMNS:
        forward.add_argument(
            f"--{role}-column", dest=role, metavar="NAME", help=f"name of the {role} column, if it is unusual"
        )
    return parser


def _files(pairs: Sequence[str], option: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for pair in pairs:
        modality, equals, file = pair.partition("=")
        if not (modality and equals and file) or modality in files:
            problem = "given twice" if modality in files else "expected MODALITY=FILE such as text=text_feat.npy"
            raise ValueError(f"{option} {pair!r}: {problem}.")
        files[modality] = file
    return files
