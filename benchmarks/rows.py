"""What benchmarks are called with, and what they append to files of JSON lines: a measurement a line.

``python tools/result_tables.py add NAME FILE ...`` makes a table of such files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.experiment.store import neutral_settings, to_json

__all__ = ["append", "models_parser", "read", "read_command_line"]


def append(file: Path, row: Mapping[str, Any], options: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Append a measurement.

    Args:
        file: A file of JSON lines; made where it is missing.
        row: ``model``, ``dataset`` and ``metrics`` at least; ``variant``, ``seed``, ``split`` and ``protocol`` where
            there are any.
        options: The options that are not defaults.
        device: What it was measured on.

    Returns:
        The row as it was written, with commit, machine and date.
    """
    whole = {
        **row,
        "options": neutral_settings(options),
        "commit": commit(),
        "machine": machine(torch.device(device)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(to_json(whole)) + "\n")
    return whole


def read(file: Path) -> list[dict[str, Any]]:
    """The measurements so far."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def models_parser(description: str, models: str, dataset: str) -> argparse.ArgumentParser:
    """The arguments of a benchmark that trains models on a data set, one after the other.

    Args:
        description: What it measures.
        models: Their names by default, separated by commas.
        dataset: The data set by default.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--models", default=models)
    parser.add_argument("--dataset", default=dataset)
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    return parser


def read_command_line(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments of a benchmark, and the options of RecBole or of a model, ``--key=value``, that came with them.

    Those options alone stay on the command line, where RecBole looks for them.
    """
    arguments, rest = parser.parse_known_args()
    sys.argv = sys.argv[:1] + rest
    return arguments, dict(text.removeprefix("--").partition("=")[::2] for text in rest)
