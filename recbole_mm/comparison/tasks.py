"""The tasks of a comparison, done in this process or in one of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_mm.comparison.execute import Job, train_and_test
from recbole_mm.comparison.search import search_task
from recbole_mm.comparison.store import Store

__all__ = ["TASKS", "run_task"]


def run_task(task: Mapping[str, Any]) -> None:
    """Train and test one model, and save the run.

    Args:
        task: ``job`` (fields of :class:`~recbole_mm.comparison.execute.Job`), ``store`` (folder), ``name`` of the run,
            ``own_process`` and ``keep_checkpoints``.
    """
    store, name = Store(task["store"]), task["name"]
    folder = store.run_folder(name)
    record, users = train_and_test(Job(**task["job"]), str(folder / "checkpoint"), task["own_process"])
    if not task["keep_checkpoints"]:
        Path(record["checkpoint"]).unlink(missing_ok=True)
        if (folder / "checkpoint").is_dir() and not os.listdir(folder / "checkpoint"):
            (folder / "checkpoint").rmdir()
        record["checkpoint"] = None
    store.save(name, {"status": "finished", **record}, users)


TASKS: dict[str, Callable[[Mapping[str, Any]], Any]] = {"run": run_task, "search": search_task}
