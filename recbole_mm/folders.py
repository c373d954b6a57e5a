"""Writing folders: the files of a conversion appear all together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_mm.files import owner, remove_abandoned, sync, writing

__all__ = ["replacing_folder"]


@contextmanager
def replacing_folder(target: Path, force: bool, report: list[str], option: str = "--force") -> Iterator[Path]:
    """A temporary folder whose files move to ``target`` once all of them are written; nothing moves on an error.

    Args:
        target: Folder that gets the files; it is made if it is missing.
        force: Whether files may be overwritten. Files of other names stay.
        report: Gets a line that names the files that stay.
        option: What the message calls ``force``.

    Yields:
        The folder to write to.

    Raises:
        FileExistsError: ``target`` has files, and not ``force``.
        WriteError: The disk is full, or the folder cannot be written to.
    """
    if target.exists() and any(target.iterdir()) and not force:
        raise FileExistsError(f"{target} is not empty; remove it or pass {option} to overwrite its files.")
    with writing(target, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.{owner()}-", suffix=".tmp", dir=target.parent))
    try:
        with writing(target, folder):
            yield folder
            written = sorted(folder.iterdir())
            for path in folder.rglob("*"):  # files in folders within it, too
                if path.is_file():
                    sync(path)
        target.mkdir(exist_ok=True)
        left = sorted(path.name for path in target.iterdir() if not (folder / path.name).exists())
        for path in written:
            os.replace(path, target / path.name)
        if left:
            report.append(f"left as they were in {target}: {', '.join(left)}")
    finally:
        shutil.rmtree(folder)
