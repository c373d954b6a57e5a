"""What an interrupted extraction has done already, kept beside the data set by id."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recbole_mm.files import replacing, write_atomically

__all__ = ["Partial"]


class Partial:
    """Blocks of finished vectors in a folder ``.<stem>.partial``.

    Args:
        stem: The feature file without its suffix.
        settings: Encoder, content and whatever else shapes the vectors; with other settings the blocks are thrown away.
        marks: Id to a mark of its input; what was made of an input with another mark is done again.
    """

    def __init__(self, stem: Path, settings: Mapping[str, object], marks: Mapping[str, str]) -> None:
        self._folder = stem.with_name(f".{stem.name}.partial")
        text = json.dumps({**settings, "marks": True}, sort_keys=True)
        key = hashlib.sha256(text.encode("utf-8")).hexdigest()
        note = self._folder / "settings"
        if self._folder.is_dir() and (not note.is_file() or note.read_text(encoding="utf-8") != key):
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not note.is_file():
            write_atomically(note, key)
        self.vectors: dict[str, np.ndarray] = {}
        self.failed: dict[str, str] = {}
        self._blocks, self._marks = 0, marks
        for left in self._folder.glob(".*.tmp*"):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
        for file in sorted(self._folder.glob("*.npz")):
            with np.load(file, allow_pickle=False) as block:
                for token, mark, vector in zip(block["id"].tolist(), block["mark"].tolist(), block["feature"]):
                    if marks.get(token) == mark:
                        self.vectors[token] = vector
                old = zip(block["failed"].tolist(), block["failed_mark"].tolist(), block["reason"].tolist())
                self.failed.update({token: reason for token, mark, reason in old if marks.get(token) == mark})
            self._blocks = int(file.stem) + 1

    def add(self, ids: list[str], vectors: np.ndarray, failed: Mapping[str, str]) -> None:
        """Keep a block, whole or not at all."""
        file = self._folder / f"{self._blocks:06d}.npz"
        with replacing(file) as temporary:
            np.savez(
                temporary,
                id=np.array(ids, dtype=str),
                feature=vectors,
                mark=np.array([self._marks[token] for token in ids], dtype=str),
                failed=np.array(list(failed), dtype=str),
                failed_mark=np.array([self._marks[token] for token in failed], dtype=str),
                reason=np.array(list(failed.values()), dtype=str),
            )
        self.vectors.update(zip(ids, vectors))
        self.failed.update(failed)
        self._blocks += 1

    def remove(self) -> None:
        """Forget everything; the feature file is written."""
        shutil.rmtree(self._folder)
