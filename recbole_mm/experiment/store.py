"""Results on disk: every file appears whole or not at all, and a finished run is never done again."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.alive import is_alive
from recbole_mm.config.shared import FOLDERS
from recbole_mm.experiment.claims import Claims
from recbole_mm.experiment.seal import check_seal, write_seal
from recbole_mm.files import write_atomically
from recbole_mm.locks import InUseError, hold, holder

__all__ = ["InUseError", "Store", "digest", "neutral_settings", "to_json"]

#: Options that say where and how a run is done, not what is computed: another machine's results are the same.
#: ``worker`` and the saved loaders are not among them: they decide which random numbers a batch is drawn with.
_WHERE = {
    *FOLDERS, "checkpoint_dir", "dataset_save_path", "gpu_id", "log_wandb", "save_dataset", "show_progress", "state",
    "use_gpu", "wandb_project",
}  # fmt: skip

# What the next attempt of an interrupted run goes on with.
_OF_AN_ATTEMPT = ("checkpoint", "log", "log_tensorboard", "output")


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

    ``run.json`` is written last, so a run without it was interrupted. It goes on from what it left in ``checkpoint``.

    Args:
        folder: The folder; made if it is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).resolve()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"output: {self.folder} is no folder, and no place for one; name another.") from error
        #: Claims of the processes that share the folder.
        self.claims = Claims(self.folder / "claims")

    def run_folder(self, name: str) -> Path:
        """Folder of a run."""
        return self.folder / "runs" / name

    def start(self, name: str) -> Path:
        """Give a folder to a run.

        Of an attempt that was interrupted its checkpoint and what it printed stay, for the run to go on from; so they
        do where the machine failed, not the run. What a failed one left is removed.

        Args:
            name: Name of the run.

        Returns:
            The folder.
        """
        folder = self.run_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        record = self.load(name)
        kept = _OF_AN_ATTEMPT if record is None or record.get("goes_on") else ()
        for entry in folder.iterdir():
            if entry.name in kept:
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return folder

    def save(self, name: str, record: Mapping[str, Any], users: Mapping[str, np.ndarray] | None = None) -> None:
        """Write a run.

        Args:
            name: Name of the run.
            record: What ``run.json`` holds.
            users: Arrays of ``users.npz``.
        """
        contents = {}
        if users:
            buffer = io.BytesIO()
            arrays: dict[str, Any] = dict(users)
            np.savez_compressed(buffer, **arrays)
            contents["users.npz"] = buffer.getvalue()
        contents["run.json"] = (json.dumps(to_json(record), indent=1) + "\n").encode("ascii")
        folder = self.run_folder(name)
        write_seal(folder, contents)
        for file, content in contents.items():  # run.json last
            write_atomically(folder / file, content)

    def load(self, name: str) -> dict[str, Any] | None:
        """The record of a run, or ``None`` while there is none."""
        file = self.run_folder(name) / "run.json"
        content = _content(file)
        if content is None:
            return None
        try:
            record = json.loads(content.decode("utf-8"))
            check_seal(file, content)
            if not isinstance(record, dict):
                raise TypeError("it is no mapping")
            if record.get("status") == "finished":
                _check_record(record)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{file} is not what this program wrote ({error}); delete {file.parent} to do the run again."
            ) from error
        return record

    def users(self, name: str) -> dict[str, np.ndarray]:
        """The per-user metrics of a run; empty for a run whose metrics have none (such as AUC over all pairs)."""
        file = self.run_folder(name) / "users.npz"
        content = _content(file)
        try:
            check_seal(file, content)
            if content is None:
                return {}
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                found = {key: archive[key] for key in archive.files}
            if len({len(values) for values in found.values()}) > 1:
                raise ValueError("its columns have different lengths")
        except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{file} is not what this program wrote ({error}); delete {file.parent} to do the run again."
            ) from error
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second program from writing into the same folder.

        Raises:
            InUseError: Another living process holds the folder, or one on another machine does.
        """
        with hold(self.folder / ".lock", self.folder, "choose another output folder"):
            holders = self.claims.holders()  # after the lock is there, which workers look for after each claim
            if holders:
                raise InUseError(
                    f"{self.folder} is in use by workers, such as process {holders[0].get('pid')} on "
                    f"{holders[0].get('host')}. Wait for them, join them with --worker, or delete "
                    f"{self.folder / 'claims'} if they are gone."
                )
            yield

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work in the folder beside others that do so, too, but beside nobody who has it for himself.

        Raises:
            InUseError: A living process has locked the folder.
        """
        self.check_shared()
        yield

    def check_shared(self) -> None:
        """Refuse to work in a folder that somebody has for himself.

        Raises:
            InUseError: A living process has locked the folder.
        """
        file = self.folder / ".lock"
        other = holder(file)
        if is_alive(other):
            raise InUseError(
                f"{self.folder} is in use by process {other.get('pid')} on {other.get('host')}, which shares it with "
                f"no worker. Wait for it, start it with --worker, too, or delete {file} if that machine is gone."
            )


def _content(file: Path) -> bytes | None:
    """What a file holds; ``None`` where there is none, or another worker removes it meanwhile to do the run again."""
    try:
        return file.read_bytes() if file.is_file() else None
    except FileNotFoundError:
        return None


def _check_record(record: Mapping[str, Any]) -> None:
    """Refuse the record of a finished run that lacks what a table needs: somebody has edited it."""
    parts: dict[str, Any] = {
        "job": dict,
        "test": dict,
        "split": dict,
        "valid": (dict, type(None)),
        "time": dict,
        "curve": list,
        "slices": (dict, type(None)),
        "health": (dict, type(None)),
    }
    for key, kind in parts.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"its {key!r} is missing or damaged")
    if not record["test"] or any(isinstance(value, (str, bool, list)) for value in record["test"].values()):
        raise ValueError("its 'test' has no metrics")
    if not {"hash", "candidates"} <= set(record["split"]) or not isinstance(record["time"].get("total"), (int, float)):
        raise ValueError("its 'split' or 'time' is damaged")
