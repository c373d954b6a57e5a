"""The hashes of a run's files, kept beside them: an edited or damaged file is told from the one that was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from recbole_mm.files import write_atomically

__all__ = ["check_seal", "write_seal"]

_NAME = "sha256"


def write_seal(folder: Path, contents: dict[str, bytes]) -> None:
    """Keep the hashes of files that are about to be written; those that are there now stay good until then.

    Args:
        folder: Their folder.
        contents: Name to content.
    """
    lines = [f"{_hash(content)}  {name}" for name, content in contents.items()]
    present = [folder / name for name in contents if (folder / name).is_file()]
    lines += [f"{_hash(file.read_bytes())}  {file.name}" for file in present]
    write_atomically(folder / _NAME, "\n".join(dict.fromkeys(lines)) + "\n")


def check_seal(file: Path, content: bytes | None) -> None:
    """Compare what a file held with its hash; a folder of an older version has none.

    Args:
        file: The file.
        content: What was read of it; ``None`` where it is not there.

    Raises:
        ValueError: It has another content than was written.
    """
    try:
        seal = file.with_name(_NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    pairs = [line.split() for line in seal.splitlines()]
    good = {pair[0] for pair in pairs if len(pair) == 2 and pair[1] == file.name}
    if good and content is None:
        raise ValueError("it is missing")
    if good and content is not None and _hash(content) not in good:
        raise ValueError("it was changed since it was written")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
