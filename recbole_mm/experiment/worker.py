"""What a process of its own does: ``python -m recbole_mm.experiment.worker``, with the task as its input."""

from __future__ import annotations

import importlib
import json
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import recbole_mm  # noqa: F401 - makes the models known
from recbole_mm.experiment.children import die_with_parent, error_text, is_of_machine
from recbole_mm.experiment.last_word import say_last_word
from recbole_mm.experiment.store import to_json
from recbole_mm.files import write_atomically

__all__ = ["main"]


def main(orders: IO[str] | None = None) -> int:
    """Do the task that is read and leave the answer in the folder where the process was started.

    The task names the function that does it, so that this room knows none of those above it.

    Args:
        orders: Where the task is read from; the standard input when not given.

    Returns:
        Exit status 0, also for a task that failed: the answer has the reason, the output its traceback.
    """
    # Ctrl-C reaches every process of a terminal; the parent decides what is to be ended.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Path.cwd()
    task = json.loads((sys.stdin if orders is None else orders).read())
    die_with_parent(task["parent"])
    for module in task["modules"]:
        importlib.import_module(module)
    answer: dict[str, Any]
    try:
        function = getattr(importlib.import_module(task["module"]), task["function"])
        answer = {"result": function(task["task"])}
    except Exception as error:
        with suppress(OSError):  # a full disk takes no traceback
            traceback.print_exc()
        answer = {"error": error_text(error), "of_machine": is_of_machine(error)}
    try:
        write_atomically(folder / "answer.json", json.dumps(to_json(answer)))
    except OSError as error:
        if not task.get("last_word"):
            raise
        reason = answer if "error" in answer else {"error": error_text(error), "of_machine": True}
        say_last_word(task["last_word"][0], **reason)
    return 0


if __name__ == "__main__":
    sys.exit(main())
