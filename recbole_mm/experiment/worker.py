"""What a process of its own does: ``python -m recbole_mm.comparison.worker task.json``."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import recbole_mm  # noqa: F401 - makes the models known
from recbole_mm.comparison.tasks import TASKS
from recbole_mm.experiment.processes import die_with_parent, error_text
from recbole_mm.experiment.store import to_json, write_atomically

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Do the task in a file and leave the answer beside it.

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
        answer = {"result": TASKS[task["do"]](task)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": error_text(error)}
    write_atomically(file.with_name("answer.json"), json.dumps(to_json(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
