"""Tells one state of a data set's files from another."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_mm.data.features.files import search_folders
from recbole_mm.paths import dataset_atomic_dir

__all__ = ["ChangedDataError", "check_unchanged", "fingerprint", "run_fingerprint"]

_WHOLE = 256 * 2**20  # of larger files the two ends count


class ChangedDataError(ValueError):
    """The files of the data are others than when the comparison, or the search, began."""


def fingerprint(dataset: str, folder: Path, feature_path: str | None) -> str:
    """Hash of the data set's files, so that results of other data are not taken for finished runs."""
    state = hashlib.sha256()
    folders = search_folders(dataset, str(folder), dataset_atomic_dir(), feature_path)
    names = f"{glob.escape(dataset)}.*"
    files = {file for place in (folder, *folders) for file in Path(place).glob(names) if file.is_file()}
    for file in sorted(files, key=lambda found: (found.name, str(found))):
        size = file.stat().st_size
        state.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if size > _WHOLE:
                state.update(stream.read(_WHOLE // 2))
                stream.seek(-_WHOLE // 2, 2)
            state.update(stream.read())
    return state.hexdigest()[:16]


def run_fingerprint(dataset: str, settings: Mapping[str, Any]) -> str:
    """Hash of all data that a run reads: those of its data set, and of the data sets that it is pre-trained on.

    Args:
        dataset: Name of the data set.
        settings: Options of the run, with ``data_path``.
    """
    more = settings.get("pretrain_datasets") or []
    names = [dataset, *([more] if isinstance(more, str) else more)]
    found = [fingerprint(name, Path(settings["data_path"]) / name, settings.get("feature_path")) for name in names]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def check_unchanged(dataset: str, settings: Mapping[str, Any], expected: str | None) -> None:
    """Refuse files that have changed since a run was planned: its result would be kept as one of the old ones.

    Args:
        dataset: Name of the data set.
        settings: As for :func:`run_fingerprint`.
        expected: The hash that the files had then; ``None`` for any.

    Raises:
        ChangedDataError: They have another one.
    """
    if expected is None:
        return
    found = run_fingerprint(dataset, settings)
    if found != expected:
        raise ChangedDataError(
            f"the files of the data set {dataset} have changed since this began (their hash was {expected} and is "
            f"{found}), and results of the old ones and of these are not comparable. Put the old files back, or start "
            "the command again: it does all runs on the new ones."
        )
