"""What RecBole's trainers write: a unique file, whole or not at all, in plain data that RecBole still understands.

RecBole pickles its ``Config``, so that reading a checkpoint can run code. Here a checkpoint has the options as plain
values, and RecBole's ``torch.load`` gets a ``Config`` that is built from them again. Beside what RecBole keeps it has
the data's fingerprint (:mod:`recbole_mm.data.fingerprint`) and the state of the training
(:mod:`recbole_mm.trainer.state`).
"""

from __future__ import annotations

import contextvars
import os
import pickle
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_mm.data.fingerprint import changes, data_fingerprint, pairs_hash
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.saved_config import build_config, plain_config
from recbole_mm.plain import from_plain, to_plain
from recbole_mm.trainer.checkpoint import FORMAT, check_sums, read_checkpoint, read_plain, write_checkpoint

__all__ = [
    "check_data",
    "defaults",
    "for_recbole",
    "no_pickles",
    "nothing_executed",
    "parameters_of",
    "run_suffix",
    "with_defaults",
    "write",
]

_defaults: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("defaults", default={})  # noqa: B039
_checked: contextvars.ContextVar[Any] = contextvars.ContextVar("checked", default=None)
_only_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("only_plain", default=False)
_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("ours", default=False)


def run_suffix() -> str:
    """What makes the name of a run's files its own; drawn from the system, so that no random state moves."""
    return secrets.token_hex(4)


def for_recbole(content: Any) -> Any:
    """What RecBole's own code expects of a checkpoint, from one of ours; anything else as it is."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return content
    found = {key: value if key in ("config", "state_dict") else from_plain(value) for key, value in content.items()}
    found["config"] = build_config(found)
    found["config"]._fingerprint = found.get("fingerprint")
    data = _checked.get()
    if data is not None and found.get("fingerprint"):
        check_data(found["fingerprint"], data, "checkpoint")
    return found


def write(trainer: Any, state: Mapping[str, Any], file: str | os.PathLike[str]) -> None:
    """Write a checkpoint of a trainer; RecBole's own functions call it in place of ``torch.save``.

    Args:
        trainer: The trainer.
        state: What RecBole would write.
        file: Where.
    """
    session = vars(trainer).get("_session")  # of recbole_mm.host.recovery
    fingerprint = session.fingerprint if session else None
    rest = {key: value for key, value in state.items() if key not in ("config", "state_dict", "other_parameter")}
    # The state dict refers to the parameters; whoever reads the file gets those that rank.
    with session.average.ranking() if session else nullcontext() as average:
        write_checkpoint(
            {
                **plain_config(state["config"], (fingerprint or {}).get("modalities")),
                **to_plain(rest),
                "state_dict": parameters_of(state["state_dict"]),
                "other_parameter": _other(state.get("other_parameter")),
                "fingerprint": fingerprint,
                "training": {**session.capture(trainer), "average": to_plain(average)} if session else None,
            },
            file,
        )


def parameters_of(state: Any) -> Any:
    """A state dict in plain types; RecBole's decision trees have the name of a file instead."""
    plain = isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values())
    return state if plain else to_plain(state, "state_dict")


def _other(parts: Mapping[str, Any] | None) -> Any:
    # Modules among them (FDSA, DIN) are parts of the model, so that the state dict has their parameters already.
    if parts is None:
        return None
    return to_plain({key: part for key, part in parts.items() if not isinstance(part, nn.Module)}, "other_parameter")


def check_data(expected: Mapping[str, Any], here: Any, source: str) -> None:
    """Refuse data that are not those of a checkpoint.

    Args:
        expected: The checkpoint's fingerprint.
        here: Fingerprint of the data at hand.
        source: Name of the checkpoint.

    Raises:
        ValueError: They differ; the message says in what.
    """
    found = changes(expected, here)
    if found:
        raise ValueError(
            f"The data are not those that {source} was trained on: {'; '.join(found)}. Its parameters would be used "
            "for others than they were learnt for. Put the files of the training back (the same lines in "
            "the same order), or train again."
        )
    if None not in (expected.get("test"), here.get("test")) and expected["test"] != here["test"]:
        getLogger().warning(
            f"The test part has other interactions than when {source} was trained: a test gives other figures than "
            "then, and lists that leave out what users had leave out other items."
        )


def check_prepared(config: Any, train_data: Any, valid_data: Any, test_data: Any) -> None:
    """Check what RecBole's ``data_preparation`` made for the Config of a checkpoint; others are let through.

    The training part learns what the test part is, so that a checkpoint knows it: nothing else sees both.
    """
    dataset_of(train_data).test_part = pairs_hash(dataset_of(test_data))
    expected = vars(config).get("_fingerprint")
    if expected:
        check_data(expected, data_fingerprint(dataset_of(train_data), dataset_of(valid_data)), "the checkpoint")


@contextmanager
def _holding(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def checking(fingerprint: Mapping[str, Any] | None) -> Iterator[None]:
    """While it lasts, RecBole's code reads checkpoints of data with this fingerprint only."""
    with _holding(_checked, fingerprint):
        yield


@contextmanager
def nothing_executed() -> Iterator[None]:
    """While it lasts, a model that is made reads no pickle, whatever its options name."""
    with _holding(_only_plain, True):
        yield


@contextmanager
def no_pickles() -> Iterator[None]:
    """While it lasts, RecBole's code reads no pickle that could run code, unless the caller trusts it."""
    with _holding(_ours, True):
        yield


@contextmanager
def with_defaults(options: Mapping[str, Any] | None) -> Iterator[None]:
    """While it lasts, a Config takes these options where its caller sets nothing: those of a run that goes on."""
    with _holding(_defaults, options or {}):
        yield


def defaults() -> Mapping[str, Any]:
    """The options of :func:`with_defaults`."""
    return _defaults.get()


def load_for_recbole(load: Any, file: Any, *args: Any, **options: Any) -> Any:
    """``torch.load`` as RecBole's modules call it.

    Args:
        load: The true ``torch.load``.
        file: What to read: a path or a stream.
        *args: Its further arguments.
        **options: Its options. Without ``weights_only`` a file of ours is read as plain data. Any other one is refused
            within :func:`no_pickles`; elsewhere, where RecBole's own functions are called, it is read as RecBole does,
            which may run code that is in it, and said.
    """
    if _only_plain.get():
        raise ValueError(f"{file} would be read while a saved model is loaded, and nothing but its folder is.")
    if not torch.cuda.is_available():
        options.setdefault("map_location", "cpu")  # RecBole names no place, and the file may come from a GPU
    if "weights_only" in options or hasattr(file, "read"):
        options.setdefault("weights_only", False)
        return for_recbole(load(file, *args, **options))
    if zipfile.is_zipfile(file):
        check_sums(Path(file))
    try:
        content = load(file, *args, weights_only=True, **options)
    except (pickle.UnpicklingError, RuntimeError):
        if _ours.get():
            return for_recbole(read_plain(Path(file)))
        getLogger().warning(
            f"{file} is read as a pickle, which runs the code that its author put into it. Convert it once, if you "
            f"know where it comes from: python -m recbole_mm convert checkpoint {file} --trust"
        )
        content = load(file, *args, weights_only=False, **options)
    return for_recbole(content)


def set_options(file: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Write other values of options into a checkpoint.

    Args:
        file: The checkpoint, one of ours.
        options: The values.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    for part in ("config", "options"):
        content[part].update(options)
    write_checkpoint(content, file)


def as_plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint with its options as plain values, also where RecBole pickled its Config."""
    if content.get("format") == FORMAT:
        return dict(content)
    other = _other(content.get("other_parameter"))
    return {**content, **plain_config(content["config"]), "other_parameter": from_plain(other)}


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], trust: bool = False) -> None:
    """Write a checkpoint that RecBole or an older version of this package pickled in plain data.

    Args:
        source: The pickle.
        target: The new file; may be the same.
        trust: Reading a pickle runs the code in it: ``True`` says that you know where it comes from.

    Raises:
        ValueError: Not trusted, or not a checkpoint.
    """
    content = as_plain(read_checkpoint(source, trust))
    rest = {key: value for key, value in content.items() if key not in ("config", "options", "state_dict")}
    rest["other_parameter"] = _other(rest.get("other_parameter"))
    kept = {key: content[key] for key in ("config", "options")}
    write_checkpoint({**kept, **to_plain(rest), "state_dict": parameters_of(content["state_dict"])}, target)
