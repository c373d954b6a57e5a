"""Model, data set, files and options of a command line, read in one way for every command that runs something."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml
from recbole.utils import get_model

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, KEEP, MODEL, SEARCH, TRUST
from recbole_mm.cli.catalogue import check_model
from recbole_mm.cli.request import CommandLineError, Request
from recbole_mm.config import check_command_line, check_read, read_options
from recbole_mm.experiment.quick_start import checkpoint_origin
from recbole_mm.host.literals import literal
from recbole_mm.host.names import registered

__all__ = ["Experiment", "arguments_of", "read_experiment", "search_spaces"]

_FLAGS = {*MODEL, *EXPERIMENT, *TRUST, *SEARCH, *GENERAL, *KEEP}


@dataclass(frozen=True)
class Experiment:
    """What a command line asks to run.

    Attributes:
        model: Name of the model; of a comparison the first one.
        dataset: Name of the data set.
        files: The option files.
        in_files: What they set.
        options: Options of the command line, as text.
        models: All models of a comparison.
    """

    model: str
    dataset: str
    files: list[str]
    in_files: dict[str, Any]
    options: dict[str, str]
    models: tuple[str, ...] = ()


def read_experiment(request: Request, models: Sequence[str] = ()) -> Experiment:
    """Read what a command line asks to run.

    Model and data set come from the arguments, else from the option files, else from the checkpoint to resume; without
    any of them the data set is ml-100k.

    Args:
        request: The command line.
        models: The models, where the command has read them already.

    Raises:
        CommandLineError: No model, or one that does not exist.
        FileNotFoundError: An option file or the checkpoint is not there.
    """
    files = request.files()
    in_files = {key: value for file in files for key, value in read_options(file).items()}
    checkpoint = request.flags.get("resume", "auto")
    origin = (None, None) if checkpoint == "auto" else checkpoint_origin(checkpoint)
    name = (models[0] if models else None) or request.flag("model") or in_files.get("model") or origin[0]
    if name is None:
        raise CommandLineError("Which model? Pass --model=NAME, such as --model=MMGCN; --list-models prints the names.")
    check_model(name, request)
    dataset = request.flag("dataset") or in_files.get("dataset") or origin[1] or "ml-100k"
    return Experiment(name, dataset, files, in_files, dict(request.options), tuple(models) or (name,))


def search_spaces(request: Request) -> dict[str, Any] | None:
    """What the file of ``--search_spaces`` holds; ``None`` without one."""
    file = request.flags.get("search_spaces")
    return None if file is None else read_options(file)


@contextmanager
def arguments_of(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Check options of the command line and leave them where RecBole's ``Config`` reads them: in ``sys.argv``.

    Args:
        experiment: What is to be run.

    Yields:
        For ``config_dict``: options that ``Config`` would not read in ``sys.argv`` (their value has an equals sign),
        and ``eval_batch_size: auto`` for RecBole's own models, which would rank user by user otherwise.

    Raises:
        CommandLineError: A value that RecBole cannot read.
        ValueError: An unknown option.
    """
    check_command_line(set(experiment.options), registered.get(experiment.model), _FLAGS)
    check_read(experiment.options, {name: get_model(name) for name in experiment.models or (experiment.model,)})
    options = {key: _in_python(key, text) for key, text in experiment.options.items()}
    rest: dict[str, Any] = {key: text for key, text in options.items() if "=" in text}
    if experiment.model not in registered and "eval_batch_size" not in {*options, *experiment.in_files}:
        rest["eval_batch_size"] = "auto"
    before = sys.argv
    sys.argv = before[:1] + [f"--{key}={text}" for key, text in options.items() if key not in rest]
    try:
        yield rest
    finally:
        sys.argv = before


def _in_python(key: str, text: str) -> str:
    """A value in RecBole's notation, in which ``[image, text]`` and ``~``, as ``--help`` has them, would be texts."""
    if text == "~":
        return "None"
    if not text.startswith(("[", "{")):
        return repr(text) if key == "gpu_id" and "," in text else text  # 0,1 would be a tuple, and no device
    try:
        literal(text)
        return text
    except SyntaxError:
        pass
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    _check_blanks(key, text, value)
    return repr(_plain(value)) if isinstance(value, (list, dict)) else text


def _check_blanks(key: str, text: str, value: Any) -> None:
    """Without a blank behind its colon ``image:2`` is a name with no value."""
    for entry, given in value.items() if isinstance(value, dict) else ():
        if given is None and isinstance(entry, str) and ":" in entry:
            name, _, rest = entry.partition(":")
            shown = f"{name}: {rest or 'VALUE'}"
            raise CommandLineError(
                f"--{key}: {entry!r} lacks a blank behind the colon: {shown}. Put the whole value in quotes, as in "
                f"--{key}='{{{shown}}}'."
            )
        _check_blanks(key, text, given)


def _plain(value: Any) -> Any:
    """What yaml read, with the texts in it that spell numbers in Python's way as these."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    try:
        return literal(value) if isinstance(value, str) else value
    except SyntaxError:
        return value
