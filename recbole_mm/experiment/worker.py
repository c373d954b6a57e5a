"""What a process of its own does: ``python -m recbole_mm.experiment.worker task.json``."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import recbole_mm  # noqa: F401 - makes the models known
from recbole_mm.experiment.processes import die_with_parent, error_text
from recbole_mm.experiment.store import to_json
from recbole_mm.files import write_atomically

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Do the task in a file and leave the answer beside it.

    The file names the function that does it, so that this room knows none of those above it.

    Args:
        arguments: The file of the task.

    Returns:
        Exit status 0, also for a task that failed: the answer has the reason, the output its traceback.
    """
    file = Path(arguments[0]).resolve()
    task = json.loads(file.read_text(encoding="utf-8"))
    die_with_parent(task["parent"])
    for module in task["modules"]:
        importlib.import_module(module)
    answer: dict[str, Any]
    try:
        function = getattr(importlib.import_module(task["module"]), task["function"])
        answer = {"result": function(task["task"])}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": error_text(error)}
    write_atomically(file.with_name("answer.json"), json.dumps(to_json(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
