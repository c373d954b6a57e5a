"""Training from the command line: what `recbole_mm.cli.main` does once torch and RecBole may be imported."""

from __future__ import annotations

import ast
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recbole.config import configurator
from recbole.utils import ModelType, get_model
from recbole.utils import argument_list as lists

from recbole_mm.cli.main import CommandLineError, Request, check_model, program
from recbole_mm.config import SHARED_OPTIONS, check_command_line, read_options
from recbole_mm.experiment.quick_start import checkpoint_origin, run
from recbole_mm.host.names import registered
from recbole_mm.slicing.result import slice_table, split_result

__all__ = ["config_arguments", "experiment", "train", "train_here"]

# The families differ in split, metrics and loss; a sequential baseline trains with cross entropy, without negatives.
_BASELINES = {
    ModelType.GENERAL: (["--model=LightGCN"], ["--model=BPR"]),
    ModelType.SEQUENTIAL: tuple([f"--model={name}", "--train_neg_sample_args=None"] for name in ("SASRec", "GRU4Rec")),
    ModelType.CONTEXT: (["--model=DeepFM"], ["--model=FM"]),
}


def train(request: Request) -> int:
    """Train and test one model, print its metrics, and say how to compare them.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: An unknown option, or a value that its option does not allow.
    """
    train_here(request)
    return 0


def train_here(request: Request) -> dict[str, Any]:
    """Do what :func:`train` does and return the result of :func:`recbole_mm.run`."""
    name, dataset, in_files = experiment(request)
    with config_arguments(name, request.options, in_files) as options:
        result = run(
            name,
            dataset,
            config_file_list=request.files(),
            config_dict=options,
            nproc=request.number("nproc"),
            world_size=request.number("world_size"),
            ip=request.flag("ip") or "",
            port=request.flag("port") or "",
            group_offset=request.number("group_offset"),
            resume=request.flag("resume"),
        )
    print(_report(name, dataset, result))
    print(f"compare with: {_comparison(name, dataset, request)}")
    return result


def experiment(request: Request) -> tuple[str, str, dict[str, Any]]:
    """Model, data set and options in files that a command line asks for.

    Model and data set come from the arguments, else from the option files, else from the checkpoint to resume; without
    any of them the data set is ml-100k.

    Raises:
        CommandLineError: No model, or one that does not exist.
        FileNotFoundError: An option file or the checkpoint is not there.
    """
    in_files = {key: value for file in request.files() for key, value in read_options(file).items()}
    origin = checkpoint_origin(request.flags["resume"]) if "resume" in request.flags else (None, None)
    name = request.flag("model") or in_files.get("model") or origin[0]
    if name is None:
        raise CommandLineError("Which model? Pass --model=NAME, such as --model=MMGCN; --list-models prints the names.")
    check_model(name)
    return name, request.flag("dataset") or in_files.get("dataset") or origin[1] or "ml-100k", in_files


@contextmanager
def config_arguments(model: str, options: Mapping[str, str], in_files: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Check options of the command line and leave them where RecBole's ``Config`` reads them: in ``sys.argv``.

    Args:
        model: Name of the model.
        options: The options, as text.
        in_files: What the option files set.

    Yields:
        For ``config_dict``: options that ``Config`` would not read in ``sys.argv`` (their value has an equals sign),
        and ``eval_batch_size: auto`` for RecBole's own models, which would rank user by user otherwise.

    Raises:
        CommandLineError: A value that RecBole cannot read.
        ValueError: An unknown option.
    """
    check_command_line(set(options))
    options = {key: _in_python(key, text) for key, text in options.items()}
    for key, text in options.items():
        _check_value(key, text)
    rest: dict[str, Any] = {key: text for key, text in options.items() if "=" in text}
    if model not in registered and "eval_batch_size" not in {*options, *in_files}:
        rest["eval_batch_size"] = "auto"
    before = sys.argv
    sys.argv = before[:1] + [f"--{key}={text}" for key, text in options.items() if key not in rest]
    try:
        yield rest
    finally:
        sys.argv = before


def _report(model: str, dataset: str, result: Mapping[str, Any]) -> str:
    columns = [split_result(result[key] or {})[0] for key in ("best_valid_result", "test_result")]
    # RecBole has rounded the values already (metric_decimal_place); show them all with the most places one of them has.
    places = max(
        (len(str(float(value)).partition(".")[2]) for column in columns for value in column.values()), default=0
    )
    lines = [f"\n{model} on {dataset}", f"{'':16}{'validation':>12}{'test':>12}"]
    for metric in columns[1] or columns[0]:
        cells = (f"{column[metric]:.{places}f}" if metric in column else "-" for column in columns)
        lines.append(f"{metric:16}" + "".join(f"{cell:>12}" for cell in cells))
    sliced = slice_table(result["test_result"] or {}, places)
    if sliced:
        lines += ["\ntest by slice, and what a random ranking of the same candidates is expected to score", sliced, ""]
    return "\n".join([*lines, f"checkpoint: {result['checkpoint'] or '(none written)'}"])


def _comparison(model: str, dataset: str, request: Request) -> str:
    """The command that trains a baseline of the same family, so on the same split and with the same evaluation."""
    same = {*lists.general_arguments, *lists.evaluation_arguments, *lists.dataset_arguments, "epochs", "stopping_step"}
    same = same - set(SHARED_OPTIONS) | {"slices", "slice_tail"}
    baselines = _BASELINES.get(get_model(model).type, _BASELINES[ModelType.GENERAL])
    arguments = [*next(baseline for baseline in baselines if baseline[0] != f"--model={model}"), f"--dataset={dataset}"]
    if "config_files" in request.flags:
        arguments.append(f"--config_files={request.flags['config_files']}")
    arguments += [f"--{key}={text}" for key, text in request.options.items() if key in same]
    return f"{program()} {shlex.join(arguments)}"


class _Names(dict[str, str]):
    """A namespace in which every name stands for itself."""

    def __missing__(self, name: str) -> str:
        return name


def _in_python(key: str, text: str) -> str:
    """A value in RecBole's notation, in which ``[image, text]`` and ``~``, as ``--help`` has them, would be texts."""
    if text == "~" and key in SHARED_OPTIONS:
        return "None"
    if not text.startswith(("[", "{")):
        return text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            value = eval(text, {"__builtins__": {}}, _Names())
            return repr(value) if isinstance(value, (list, dict)) else text
        except Exception:
            return text
    return text


def _check_value(key: str, text: str) -> None:
    """Refuse a value that RecBole cannot read: it evaluates every value as Python and forgives only some errors."""
    try:
        eval(text, dict(vars(configurator)))
    except (NameError, SyntaxError, TypeError):
        return  # RecBole takes the text as it is
    except Exception as error:
        quoted = shlex.quote(f"--{key}={text!r}")
        raise CommandLineError(
            f"--{key}={text}: RecBole evaluates values as Python, and this one fails ({type(error).__name__}: "
            f"{error}). If it is meant as a text, quote it: {quoted}"
        ) from error
