"""What benchmarks append to files of JSON lines: a measurement a line, with what it was measured with.

``python tools/result_tables.py add NAME FILE ...`` makes a table of such files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.experiment.store import neutral_settings, to_json

__all__ = ["append", "given_options", "read"]


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


def given_options(arguments: Iterable[str]) -> dict[str, str]:
    """Arguments ``--key=value`` that are options of RecBole or of a model."""
    return dict(text.removeprefix("--").partition("=")[::2] for text in arguments)
