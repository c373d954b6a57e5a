"""Results on disk: every file appears whole or not at all, and a finished run is never done again."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.alive import is_alive, process_note
from recbole_mm.files import write_atomically

__all__ = ["Store", "digest", "neutral_settings", "to_json"]

#: Options that say where and how a run is done, not what is computed: another machine's results are the same.
#: ``worker`` and the saved loaders are not among them: they decide which random numbers a batch is drawn with.
_WHERE = {
    "checkpoint_dir", "data_path", "dataset_save_path", "feature_path", "gpu_id", "log_wandb", "save_dataset",
    "show_progress", "state", "use_gpu", "wandb_project",
}  # fmt: skip

# How long a lock may be empty: its owner, if it lives, is between making it and filling it.
_EMPTY_SECONDS = 5.0


def to_json(value: Any) -> Any:
    """The same value in types that JSON has; NaN and infinity become ``None``, which every reader understands."""
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        entries = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [to_json(entry) for entry in entries]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def neutral_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that say where a run is done, such as ``gpu_id``."""
    return {key: value for key, value in settings.items() if key not in _WHERE}


def digest(content: Any, length: int = 12) -> str:
    """Short hash of a value made of mappings, lists, texts and numbers; the order of keys does not matter."""
    text = json.dumps(to_json(content), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:length]


class Store:
    """A folder of results.

    ========================  ==========================================================================================
    ``runs/<name>/run.json``  one run: options, versions, seed, split hash, validation curve, test metrics, time, memory
    ``runs/<name>/users.npz`` its metrics for every test user
    ``runs/<name>/output``    what it printed
    ``search/``               the studies and the best hyper-parameters
    ========================  ==========================================================================================

    ``run.json`` is written last, so a run without it was interrupted and is done again from the start.

    Args:
        folder: The folder; made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def run_folder(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / name

    def start(self, name: str) -> Path:
        """Give an empty folder to a run; what an interrupted or failed attempt left there is removed."""
        folder = self.run_folder(name)
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def save(self, name: str, record: Mapping[str, Any], users: Mapping[str, np.ndarray] | None = None) -> None:
        """Write a run.

        Args:
            name: Name of the run.
            record: What ``run.json`` holds.
            users: Arrays of ``users.npz``.
        """
        if users:
            buffer = io.BytesIO()
            arrays: dict[str, Any] = dict(users)
            np.savez_compressed(buffer, **arrays)
            write_atomically(self.run_folder(name) / "users.npz", buffer.getvalue())
        write_atomically(self.run_folder(name) / "run.json", json.dumps(to_json(record), indent=1) + "\n")

    def load(self, name: str) -> dict[str, Any] | None:
        """The record of a run, or ``None`` while there is none."""
        file = self.run_folder(name) / "run.json"
        if not file.is_file():
            return None
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} is not what this program wrote ({error}); delete it to do the run again."
            ) from error
        if not isinstance(record, dict):
            raise ValueError(f"{file} is not what this program wrote; delete it to do the run again.")
        return record

    def users(self, name: str) -> dict[str, np.ndarray]:
        """The per-user metrics of a run; empty for a run whose metrics have none (such as AUC over all pairs)."""
        file = self.run_folder(name) / "users.npz"
        if not file.is_file():
            return {}
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second program from writing into the same folder.

        Raises:
            RuntimeError: Another living process holds the folder, or one on another machine does.
        """
        file = self.folder / ".lock"
        note = json.dumps(process_note())
        while True:
            try:
                with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w", encoding="utf-8") as stream:
                    stream.write(note)
                break
            except FileExistsError:
                other = _holder(file)
                if is_alive(other):
                    raise RuntimeError(
                        f"{self.folder} is in use by process {other.get('pid')} on {other.get('host')}. Wait for it, "
                        f"choose another output folder, or delete {file} if that machine is gone."
                    ) from None
                _remove_dead(file, other)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _remove_dead(file: Path, holder: Mapping[str, Any]) -> None:
    """Remove a lock that nobody holds, but not one that another program has put in its place meanwhile."""
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        if not holder and time.time() - file.stat().st_mtime < _EMPTY_SECONDS:
            time.sleep(0.1)
            return
        os.rename(file, aside)
    except FileNotFoundError:
        return
    if is_alive(_holder(aside)):
        os.rename(aside, file)
    else:
        aside.unlink()


def _holder(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # gone meanwhile, or killed between making the file and filling it
        return {}
    return content if isinstance(content, dict) else {}
