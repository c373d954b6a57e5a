"""A run of a comparison, done in this process or in one of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_mm.experiment.job import Job, train_and_test
from recbole_mm.experiment.store import Store
from recbole_mm.host.checkpoint import set_options
from recbole_mm.host.session import remove_states

__all__ = ["run_task"]


def run_task(task: Mapping[str, Any]) -> None:
    """Train and test one model, and save the run.

    Args:
        task: ``job`` (fields of :class:`~recbole_mm.experiment.job.Job`), ``store`` (folder), ``name`` of the run,
            ``own_process`` and ``keep_checkpoints``.
    """
    store, name = Store(task["store"]), task["name"]
    folder = store.run_folder(name)
    job = Job(**task["job"])
    record, users = train_and_test(job, str(folder / "checkpoint"), task["own_process"])
    if not task["keep_checkpoints"]:
        record["checkpoint"] = None
    elif job.data_seed != job.seed:
        _split_again(Path(record["checkpoint"]), job.data_seed)
    store.save(name, {"status": "finished", **record}, users)
    # Only now: a process that is killed before has everything to go on with.
    if task["keep_checkpoints"]:
        remove_states(folder / "checkpoint")
    else:
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # a trainer of several stages leaves several files


def _split_again(file: Path, seed: int) -> None:
    """Let a checkpoint say which split it belongs to.

    Who loads it splits the data by the seed in its options. With the seed of the run, which is another one where one
    split serves several seeds, the model would be shown and tested on the wrong pairs.
    """
    set_options(file, {"seed": seed})
