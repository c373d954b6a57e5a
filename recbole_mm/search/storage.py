"""The database of a search: its address, and what to say where it cannot be used."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from recbole_mm.search.sampler import import_optuna

__all__ = ["check_storage", "open_storage", "resolve_storage", "unusable", "without_password"]

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?):///?([^?]*)(\?.*)?")
_PASSWORD = re.compile(r"(?<=:)[^/@]+(?=@)|(?<=password=)[^&]+", re.IGNORECASE)
# What SQLite says of a file that is no database, or only a part of one.
_DAMAGED = ("file is not a database", "malformed", "disk I/O error", "unsupported file format", "no such table")


def resolve_storage(url: str, folder: Path | None = None) -> str:
    """The same database from any folder, so that processes that work in folders of their own share it.

    Args:
        url: Address, such as ``sqlite:///study.db`` or ``postgresql://user@host/name``.
        folder: What a relative path means; the folder of this process when not given.

    Returns:
        The address with an absolute path.

    Raises:
        ValueError: A database in memory, which no other process sees and nothing keeps.

    Example:
        >>> resolve_storage("sqlite:///study.db", Path("/tmp/a"))
        'sqlite:////tmp/a/study.db'
        >>> resolve_storage("postgresql://user@host/name")
        'postgresql://user@host/name'
    """
    found = _SQLITE.fullmatch(url)
    if found is None:
        return url
    kind, path, options = found.groups()
    if path in ("", "/", ":memory:", "/:memory:") or "mode=memory" in (options or ""):
        raise ValueError(f"storage: {url} is a database in memory, which ends with its process; name a file.")
    if not path.startswith("file:"):
        path = str((folder or Path.cwd()) / path)
    return f"{kind}:///{path}{options or ''}"


def without_password(url: str) -> str:
    """The address as it may be written down.

    Example:
        >>> without_password("postgresql://user:se:cret@host/name?password=other")
        'postgresql://user:***@host/name?password=***'
    """
    scheme, mark, rest = url.partition("://")
    return scheme + mark + _PASSWORD.sub("***", rest)


_LOCKED = "database is locked"
# What SQLite says of a disk, where the file itself is all right, and what to do.
_OF_DISK = {
    "database or disk is full": "the disk is full: make room",
    "readonly database": "it cannot be written to: give yourself permission to write it and its folder",
    "unable to open database file": "it cannot be opened: give yourself permission to read and write it and its folder",
}
# How long others may write: trials are written in milliseconds.
_PATIENCE = 60.0


def open_storage(url: str) -> Any:
    """Open the database of a study, and create its tables if it is new.

    Args:
        url: Database, such as ``sqlite:///folder/study.db`` or ``postgresql://user@host/name``.

    Returns:
        Optuna's storage.

    Raises:
        ValueError: It cannot be opened; the message says what to do.
    """
    optuna = import_optuna()
    # SQLite lets one process write at a time; the others wait instead of giving up after five seconds.
    options = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except ImportError as error:
            raise ImportError(
                f"storage: {without_password(url)} needs a package for its kind of database ({error}): pip install it, "
                "such as psycopg2-binary for postgresql, or leave --storage out for a file in the output folder."
            ) from error
        except Exception as error:
            # Two processes that start together may both create the tables; the second then finds them.
            if attempt == 4 or any(word in str(error) for word in (*_DAMAGED[:2], _LOCKED, *_OF_DISK)):
                raise unusable(url, error) from None
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


def check_storage(url: str, study: str) -> None:
    """Read a study from its first to its last trial, so that damage is found before anything runs.

    Args:
        url: Database.
        study: Name of the study, which need not exist.

    Raises:
        ValueError: It cannot be read; the message says what to do.
    """
    storage = open_storage(url)
    try:
        for trial in storage.get_all_trials(storage.get_study_id_from_name(study), deepcopy=False):
            if not isinstance(trial.user_attrs.get("index", 0), int):
                raise ValueError(f"trial {trial.number} has no number in the search")
    except KeyError:
        return
    except Exception as error:
        raise unusable(url, error) from None


def unusable(url: str, error: BaseException) -> ValueError:
    """The error that says why a database cannot be used, and what to do.

    Args:
        url: Database.
        error: What Optuna, or its database, has raised.
    """
    reason = " ".join(str(getattr(error, "orig", None) or error).replace(url, without_password(url)).split())
    found = _SQLITE.fullmatch(url)
    if found is None:
        return ValueError(
            f"storage: the database {without_password(url)} cannot be used ({type(error).__name__}: {reason}). See "
            "that it runs and lets you in, or leave --storage out for a file in the output folder."
        )
    path = Path(found[2])
    if _LOCKED in reason:
        return ValueError(
            f"storage: {path} is locked: another program has had it open for writing for {_PATIENCE:g} seconds. Close "
            "it (a database browser, say), or name another database."
        )
    if not path.parent.is_dir():
        return ValueError(f"storage: there is no folder {path.parent} for the database {path.name}; make it first.")
    for words, remedy in _OF_DISK.items():
        if words in reason:
            return ValueError(
                f"storage: {path}: {remedy}, and start the command again (the trials in it are kept), or name another "
                "database."
            )
    return ValueError(
        f"storage: {path} cannot be used as the database of a search ({reason}): it is damaged, or another kind of "
        "file. Put a copy of it back; or move it away, and the search begins anew (the trials of a finished one are "
        "in search/*.json of its output folder)."
    )
