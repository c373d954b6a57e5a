"""Checkpoint files: written whole or not at all, and read without executing what is in them."""

from __future__ import annotations

import os
import pickle
import types
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

from recbole_mm.files import replacing
from recbole_mm.plain import from_plain

__all__ = [
    "FORMAT",
    "PARTS",
    "Options",
    "check_best_epoch",
    "check_sums",
    "read_checkpoint",
    "read_plain",
    "trusting",
    "write_checkpoint",
]

_trust: ContextVar[bool] = ContextVar("recbole_mm_trust", default=False)

#: What says that a file is one of ours.
FORMAT = "recbole_mm 1"
# What torch says of a file that could not be written; its own check of the place in the file fails on a full disk.
_FULL = ("write", "file", "No space", "PytorchStreamWriter", "stream", "inline_container")
#: Without these no file is a checkpoint of a trainer.
PARTS = ("config", "epoch", "state_dict")

# What a plain file may name, for pickles that torch's own reader does not take because of their protocol.
_ALLOWED = {
    ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_sparse_tensor"), ("torch", "Size"), ("_codecs", "encode"),
    ("torch.serialization", "_get_layout"),
}  # fmt: skip


def write_checkpoint(content: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Write plain content (see :mod:`recbole_mm.plain`); the previous file stays until the new one is on the disk.

    Args:
        content: The content.
        file: The file; its folder exists.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to; the previous file is untouched.
    """
    with replacing(file, "choose another folder with checkpoint_dir") as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            cause = error.__cause__ or error.__context__
            if isinstance(cause, OSError):
                raise cause from error
            if any(word in str(error) for word in _FULL):
                raise OSError("the disk took only a part of it, most likely because it is full") from error
            raise


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """While it lasts, pickles are read, which runs the code in them: the caller has said that they may be.

    Args:
        trust: ``False`` changes nothing.
    """
    token = _trust.set(trust or _trust.get())
    try:
        yield
    finally:
        _trust.reset(token)


def read_checkpoint(file: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint without executing anything of it.

    Args:
        file: The file.
        trust: Whether to read a pickle of RecBole's (or of an older version of this package), which runs whatever code
            its author put into it.

    Returns:
        Its content, on the CPU; ``config`` is a mapping, or RecBole's own object in a pickle of RecBole's.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A folder, an empty or damaged file, one of another kind, or a pickle that is not trusted.
    """
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a checkpoint is a file, such as {path / 'MODEL-....pth'}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r} in {Path.cwd()}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} cannot be read as a checkpoint: it is empty. Take another one, or train again.")
    content = read_plain(path, trust or _trust.get())
    if not isinstance(content, dict) or not set(PARTS) <= set(content):
        raise ValueError(
            f"{path} is not a checkpoint that RecBole's trainer wrote: it has no {', '.join(_missing(content))}."
        )
    made_by = content.get("format")
    if made_by != FORMAT:
        if made_by is not None:
            raise ValueError(f"{path} has the format {made_by!r}, which another version writes; here it is {FORMAT!r}.")
        return content
    _check_kinds(content, path)
    try:
        for key in set(content) - {"config", "state_dict", "format"}:
            content[key] = from_plain(content[key])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(path, error) from error
    content["config"] = Options(content["config"])
    return content


def _check_kinds(content: Mapping[str, Any], path: Path) -> None:
    """What somebody has edited would be missed in the middle of something else."""
    kinds: dict[str, tuple[type, ...]] = {
        "config": (dict,),
        "options": (dict, type(None)),
        "fingerprint": (dict, type(None)),
        "training": (dict, type(None)),
        "process": (dict, type(None)),
        "epoch": (int,),
    }
    wrong = [key for key, kind in kinds.items() if key in content and not isinstance(content[key], kind)]
    config, known = content["config"], content.get("fingerprint")
    if not wrong:
        wrong += [f"config[{key}]" for key in ("model", "dataset", "data_path") if not isinstance(config.get(key), str)]
    if isinstance(known, dict):
        parts = ("ids", "split", "columns", "features")
        wrong += [f"fingerprint[{key}]" for key in parts if not isinstance(known.get(key, {}), dict)]
    if wrong:
        raise ValueError(
            f"{path} was damaged or changed: {', '.join(wrong)} is not what was written. Take another checkpoint, or "
            "train again."
        )


class Options(dict):
    """The options in a checkpoint, read as RecBole's Config is: an option that is not there is ``None``."""

    def __missing__(self, key: str) -> None:
        return None


def _missing(content: Any) -> list[str]:
    return [part for part in PARTS if not isinstance(content, dict) or part not in content]


def check_best_epoch(content: Mapping[str, Any], best: str | os.PathLike[str], source: str | os.PathLike[str]) -> None:
    """Refuse to go on where the best epoch so far is lost: it would be missed after all the rest of the training.

    Args:
        content: The state between two epochs.
        best: The file of the best epoch.
        source: The file of the state.

    Raises:
        FileNotFoundError: The file of the best epoch is not there.
        ValueError: It cannot be read.
    """
    if content.get("best_valid_result") is None or Path(best) == Path(source):
        return
    about = f"{source} goes on with a run that kept its best parameters in {os.fspath(best)}"
    try:
        read_checkpoint(best)
    except FileNotFoundError:
        raise FileNotFoundError(f"{about}, which is not there. Put that file back, or train again.") from None
    except ValueError as error:
        raise ValueError(f"{about}, and {error}") from error


def read_plain(path: Path, trust: bool | None = None) -> Any:
    """What ``torch.save`` wrote, without executing anything of it.

    Args:
        path: The file.
        trust: Whether a pickle is read all the same; by default within :func:`trusting` only.

    Raises:
        ValueError: A damaged file, or a pickle that is not trusted.
    """
    trust = _trust.get() if trust is None else trust
    if not zipfile.is_zipfile(path):
        kind = "it is no archive as torch.save writes it"
        if path.read_bytes()[:2] == b"PK":
            kind = "its end is missing, so that it was cut off while it was written or copied"
        raise ValueError(f"{path} cannot be read as a checkpoint: {kind}. Take another one, or train again.")
    check_sums(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    except Exception as error:
        raise _damaged(path, error) from error
    named: set[str] = set()
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_plain_pickle(named))
    except pickle.UnpicklingError as error:
        if not named:
            raise _damaged(path, error) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if trust:
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise _damaged(path, error) from error
    raise ValueError(
        f"{path} is a pickle that runs code when it is read ({', '.join(sorted(named))}), as RecBole and older "
        "versions of recbole_mm write it. If you know where it comes from, convert it once: python -m recbole_mm "
        f"convert checkpoint {path} --trust (or add --trust to this command, which reads it as it is)"
    )


def check_sums(path: Path) -> None:
    """Compare the parts of an archive with the sums in it, which torch does not do: one other bit is another parameter.

    Raises:
        ValueError: A part has other bytes than were written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise _damaged(path, error) from error
    if bad is not None:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged ({bad} has other bytes than were written). Take "
            "another one, or train again."
        )


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as a checkpoint: it is damaged ({type(error).__name__}: {error}). Take another one, or "
        "train again."
    )


def _plain_pickle(named: set[str]) -> types.ModuleType:
    """A pickle module that reads plain data of any protocol and notes everything else that the file names."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype)):
                return super().find_class(module, name)
            named.add(f"{module}.{name}")
            raise pickle.UnpicklingError(f"{module}.{name}")

    restricted = types.ModuleType("plain_pickle")
    restricted.Unpickler = Unpickler  # type: ignore[attr-defined]
    restricted.load = lambda stream, **options: Unpickler(stream, **options).load()  # type: ignore[attr-defined]
    return restricted
