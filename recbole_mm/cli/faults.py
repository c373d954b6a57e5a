"""Which errors are answered with a message, and what it says; any other one is a defect and shows where it is."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from recbole_mm.cli.request import CommandLineError

__all__ = ["message_of"]

_REMEDIES = {
    errno.ENOSPC: "The disk is full: make room, or name another folder.",
    errno.EDQUOT: "The disk quota is used up: make room, or name another folder.",
    errno.EACCES: "There is no permission: change it, or name another folder.",
    errno.EPERM: "There is no permission: change it, or name another folder.",
    errno.EROFS: "The file system can only be read: name another folder.",
    errno.EISDIR: "This is a folder, where a file is expected.",
    errno.ENOTDIR: "A file stands where a folder is expected.",
    errno.EEXIST: "There is a file of this name already, where a folder is expected.",
    errno.ENOENT: "There is no such file.",
    errno.ENAMETOOLONG: "The name is too long.",
    errno.EMFILE: "Too many files are open (ulimit -n).",
    errno.ELOOP: "This is a link that leads to itself: name another place.",
    errno.EIO: "The disk or network drive does not answer.",
    errno.ESTALE: "The network drive has changed meanwhile.",
}
_ANOTHER = "name another folder"
# RecBole always writes there, below the folder where the command was started; no option says otherwise.
_LOGS = ("log", "log_tensorboard")
_START_ELSEWHERE = "start the command in a folder that can be written to (RecBole always logs to ./log)"


def message_of(error: Exception) -> str | None:
    """What to tell the caller.

    Args:
        error: What was raised.

    Returns:
        The message; ``None`` for an error that nobody raised on purpose.
    """
    if isinstance(error, OSError):
        fault = _of_the_machine(error)
        if fault is not None:
            return fault
    if not _expected(error):
        return _of_memory(error) or _of_recboles_model(error)
    return str(error.args[0] if isinstance(error, KeyError) else error)


def _of_the_machine(error: OSError) -> str | None:
    if error.errno not in _REMEDIES or type(error).__module__ != "builtins":
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name]
    if not names and error.errno == errno.ENOENT and not _has_folder():
        return "The folder in which the command was started is gone: start it in another one."
    if not names and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE):
        return None
    remedy = _REMEDIES[error.errno]
    if _ANOTHER in remedy and any(_is_of_a_log(name) for name in names):
        remedy = remedy.replace(_ANOTHER, _START_ELSEWHERE)
    return f"{' and '.join(names) + ': ' if names else ''}{error.strerror}. {remedy}"


def _has_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _is_of_a_log(name: str) -> bool:
    path = Path(os.path.abspath(name))
    return any(folder in (path, *path.parents) for folder in map(Path.cwd().joinpath, _LOGS))


def _of_memory(error: Exception) -> str | None:
    """A tensor or array for which there is no room, or whose size no machine could have."""
    text = str(error).splitlines()[0] if str(error) else ""
    known = ("allocate memory", "out of memory", "Storage size calculation overflowed", "Overflow when unpacking long")
    if not isinstance(error, (MemoryError, RuntimeError, TypeError, ValueError)):
        return None
    if not isinstance(error, MemoryError) and not any(words in str(error) for words in known):
        return None
    return (
        f"There is not enough memory ({text or type(error).__name__}). Take a smaller train_batch_size, "
        "eval_batch_size or embedding_size, or features of fewer columns; graph_batch: sampled helps on large graphs."
    )


def _of_recboles_model(error: Exception) -> str | None:
    """A model of RecBole's that lacks a package, or cannot be built with the values it was given."""
    frames = traceback.extract_tb(error.__traceback__)
    models = [frame for frame in frames if {"recbole", "model"} <= set(Path(frame.filename).parts)]
    if not models:
        return None
    name = Path(models[0].filename).stem
    if isinstance(error, ModuleNotFoundError):
        return f"RecBole's model {name} needs the package {error.name}: pip install {error.name}"
    if models[0].name == "__init__" and isinstance(error, (ValueError, TypeError)):
        return f"RecBole's model {name} cannot be built with these options: {error}"
    return None


def _expected(error: Exception) -> bool:
    """Whether it is raised on purpose by us or by RecBole, about options or data."""
    if isinstance(error, CommandLineError) or getattr(error, "for_caller", False):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename).parts if frames else ()
    kinds: tuple[type[Exception], ...] = (ValueError, FileNotFoundError, FileExistsError, NotImplementedError)
    if "configurator.py" in raised_in:
        kinds += (TypeError, RuntimeError, SyntaxError)
    written = isinstance(error, KeyError) and " " in str(error.args[0] if error.args else "")
    missing = isinstance(error, ImportError) and "pip install" in str(error)
    # Torch's own, such as one of shapes, seem to be raised where it is called; ours have the statement there.
    stated = bool(frames) and "recbole_mm" in raised_in and (frames[-1].line or "").startswith("raise ")
    ours = stated and isinstance(error, (OSError, RuntimeError))
    return bool({"recbole", "recbole_mm"} & set(raised_in)) and (isinstance(error, kinds) or written or missing or ours)
