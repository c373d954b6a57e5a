"""Writing folders: the files of a conversion appear all together or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recbole_mm.files import owner, remove_abandoned, sync, writing
from recbole_mm.locks import hold

__all__ = ["replacing_folder"]


@contextmanager
def replacing_folder(target: Path, force: bool, report: list[str], option: str = "--force") -> Iterator[Path]:
    """A temporary folder whose files move to ``target`` once all of them are written; nothing moves on an error.

    They move in one step where ``target`` has no file yet, else one by one. One process at a time writes to a folder;
    the next one is told who does.

    Args:
        target: Folder that gets the files; it is made if it is missing.
        force: Whether files may be overwritten. Files of other names stay.
        report: Gets a line that names the files that stay.
        option: What the message calls ``force``.

    Yields:
        The folder to write to.

    Raises:
        FileExistsError: ``target`` has files, and not ``force``.
        InUseError: Another process writes to ``target``.
        WriteError: The disk is full, or the folder cannot be written to.
    """
    if target.is_symlink() and not target.exists():
        raise FileExistsError(f"{target} is a link that leads nowhere; remove it, or choose another name.")
    refused = FileExistsError(f"{target} is not empty; remove it or pass {option} to overwrite its files.")
    if _is_filled(target) and not force:
        raise refused
    with ExitStack() as stack:
        beside = Path(os.path.abspath(target))
        with writing(target, beside.parent):
            beside.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(beside.parent)
            stack.enter_context(hold(beside.with_name(f".{beside.name}.lock"), target, "choose another name"))
            folder = beside.with_name(f".{beside.name}.{owner()}-{secrets.token_hex(4)}.tmp")
            folder.mkdir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if _is_filled(target) and not force:  # by another process, meanwhile
            raise refused
        with writing(target, folder):
            yield folder
            for path in folder.rglob("*"):  # files in folders within it, too
                if path.is_file():
                    sync(path)
            _move(folder, target, report)


def _is_filled(folder: Path) -> bool:
    return folder.exists() and any(folder.iterdir())


def _move(folder: Path, target: Path, report: list[str]) -> None:
    """Put the files in their place: in one step, where nothing stands there."""
    if not target.is_symlink() and not _is_filled(target):
        os.replace(folder, target)
        return
    left = sorted(path.name for path in target.iterdir() if not (folder / path.name).exists())
    for path in sorted(folder.iterdir()):
        os.replace(path, target / path.name)
    if left:
        report.append(f"left as they were in {target}: {', '.join(left)}")
