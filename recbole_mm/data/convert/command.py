"""Command line of the converters: ``python -m recbole_mm.data.convert mmrec SOURCE TARGET --name NAME``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recbole_mm.data.convert.arguments import make_parser
from recbole_mm.data.convert.mmrec import from_mmrec
from recbole_mm.data.convert.mmrec_export import to_mmrec
from recbole_mm.data.convert.mmrec_layout import COLUMNS
from recbole_mm.data.convert.unisrec_dataset import from_unisrec

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, prog: str = "python -m recbole_mm.data.convert") -> int:
    """Convert a data set as the command line says.

    Args:
        arguments: The arguments, by default those of the process.
        prog: How the program was called.

    Returns:
        The exit status: 0, or 1 after an error, which is printed.
    """
    options = make_parser(prog).parse_args(arguments)
    try:
        if options.command == "mmrec":
            columns = {role: name for role in COLUMNS if (name := getattr(options, f"{role}_column")) is not None}
            report = from_mmrec(
                options.source,
                options.target,
                options.name,
                _files(options.feature, "--feature") if options.feature else None,
                _files(options.user_feature, "--user-feature") if options.user_feature else None,
                columns,
                options.memory_map,
                options.force,
                options.drop_unseen,
            )
        elif options.command == "unisrec":
            width = options.width
            if width is not None and not (width.isdigit() and int(width)):
                raise ValueError(f"--width: expected a whole number of at least 1, got {width!r}.")
            report = from_unisrec(
                options.source,
                options.target,
                options.name,
                options.modality or "text",
                None if width is None else int(width),
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
    if options.command != "to-mmrec":
        print(f"use: --dataset={options.name} --data_path={options.target} --config_files={folder / options.name}.yaml")
    return 0


def _files(pairs: Sequence[str], option: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for pair in pairs:
        modality, equals, file = pair.partition("=")
        if not (modality and equals and file) or modality in files:
            problem = "given twice" if modality in files else "expected MODALITY=FILE such as text=text_feat.npy"
            raise ValueError(f"{option} {pair!r}: {problem}.")
        files[modality] = file
    return files
