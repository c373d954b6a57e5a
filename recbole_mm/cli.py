"""The command line: ``python run_recbole_mm.py --model=MMGCN``.

Nothing but the standard library is imported at the top: ``--help``, ``--list-models`` and mistakes are answered without
waiting for torch and RecBole (`run_recbole_mm.py` loads this file by its path for that reason).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = [
    "ACTIONS",
    "FLAGS",
    "CommandLineError",
    "Flag",
    "Request",
    "answer",
    "check_model",
    "describe",
    "main",
    "parse",
    "program",
]

_PACKAGE = Path(__file__).resolve().parent


class CommandLineError(ValueError):
    """The command line cannot be meant as it is written; the message says what to write."""


@dataclass(frozen=True)
class Flag:
    """An argument that is ours, not an option of RecBole or of a model.

    Attributes:
        help: What it does.
        value: What stands for the value in ``--help``; ``None`` for a switch without one.
        default: Value when it is not given; ``None`` for none.
    """

    help: str
    value: str | None = None
    default: str | None = None


@dataclass(frozen=True)
class Request:
    """A command line taken apart.

    Attributes:
        flags: Arguments of `FLAGS`, as text; a switch is the empty text.
        options: Everything else, options of RecBole and of the models, as text.
        defaults: Values of the flags that were not given and have one.
    """

    flags: dict[str, str]
    options: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> str | None:
        """Value of a flag, or its default."""
        return self.flags.get(name, self.defaults.get(name))

    def number(self, name: str) -> int:
        """Value of a flag that is a whole number."""
        text = self.flag(name) or ""
        if not re.fullmatch(r"-?\d+", text):
            raise CommandLineError(f"--{name}: expected a whole number, got {text!r}.")
        return int(text)

    def files(self) -> list[str]:
        """Option files, which may be separated by blanks or commas."""
        return re.split(r"[,\s]+", self.flags["config_files"].strip(", ")) if "config_files" in self.flags else []


FLAGS: dict[str, Flag] = {
    "model": Flag("the model, ours or one of RecBole's", "NAME"),
    "dataset": Flag("the data set (default: ml-100k)", "NAME"),
    "config_files": Flag("yaml files of options, separated by blanks or commas", "'A.yaml B.yaml'"),
    "resume": Flag("continue the training that wrote this checkpoint", "FILE"),
    "nproc": Flag("processes on this machine, one GPU each (default: 1)", "N", "1"),
    "world_size": Flag("processes on all machines (default: nproc)", "N", "-1"),
    "ip": Flag("address of the first machine (default: localhost)", "ADDRESS", "localhost"),
    "port": Flag("port of the first machine (default: 5678)", "PORT", "5678"),
    "group_offset": Flag("processes on the machines before this one (default: 0)", "N", "0"),
    "models": Flag("compare these models, separated by commas", "A,B,..."),
    "seeds": Flag("number of seeds of a comparison, or the seeds (default: 3)", "N", "3"),
    "baseline": Flag("the model that the others are tested against (default: the last)", "NAME"),
    "trials": Flag("hyper-parameter trials of every model of --models, or of --model", "N", "0"),
    "storage": Flag("database that several machines share for a search", "URL"),
    "search_spaces": Flag("yaml file of search spaces by model", "FILE"),
    "ablate": Flag("compare every multimodal model with itself without each modality, too"),
    "jobs": Flag("runs of a comparison at a time (default: 1)", "N", "1"),
    "split_seed": Flag("one random split for all seeds of a comparison", "N"),
    "keep_checkpoints": Flag("keep the trained models of a comparison"),
    "output": Flag("folder of a comparison or search (default: comparison/DATASET)", "FOLDER"),
    "export": Flag("write the --topk=20 best items of each user: .parquet, .csv or .npz", "FILE"),
    "export_embeddings": Flag("write the user and item embeddings: .npz or .parquet", "FILE"),
    "export_users": Flag("users to export, separated by commas, or @FILE with one a line", "USERS"),
    "export_seen": Flag("leave out 'all' items a user had, or 'history' without test items", "WHICH", "all"),
    "checkpoint": Flag("export this trained model instead of training one", "FILE"),
    "list-models": Flag("print the names of all models"),
    "debug": Flag("show the traceback of every error"),
    "help": Flag("print this text"),
}


# Flags and those without which, or beside which, they would do nothing.
_ONLY_WITH = {
    ("models",): ("seeds", "baseline", "ablate", "jobs", "split_seed", "keep_checkpoints"),
    ("trials",): ("storage", "search_spaces"),
    ("models", "trials"): ("output",),
    ("export", "export_embeddings"): ("export_users", "export_seen", "checkpoint"),
}
_NOT_WITH = {
    ("models", "trials"): ("export", "export_embeddings"),
    ("models", "trials", "checkpoint"): ("resume", "nproc", "world_size", "ip", "port", "group_offset"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a command line.

    Args:
        argv: The arguments without the name of the program; ``None`` for those of this process.

    Returns:
        Exit status: 0, 2 after a mistake of the caller, 130 after Ctrl-C. An unexpected error is raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def act(request: Request) -> int:
        if not {"help", "list-models"} & set(request.flags):
            _check_use(request.flags)
        return next((action for name, action in ACTIONS.items() if name in request.flags), _train)(request)

    return answer(arguments, act)


def answer(arguments: Sequence[str], act: Callable[[Request], int], known: Mapping[str, Flag] | None = None) -> int:
    """Do what a command line asks for; mistakes and Ctrl-C end in a message, not in a traceback.

    Args:
        arguments: The arguments.
        act: What to do with them; returns the exit status.
        known: The flags of this program; `FLAGS` when not given.

    Returns:
        Exit status: that of ``act``, 2 after a mistake of the caller, 130 after Ctrl-C.
    """
    known = FLAGS if known is None else known
    try:
        return act(parse(arguments, known))
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... --list-models | head`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - flushed when the interpreter ends
        return 0
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, parse(arguments, known))
    except Exception as error:
        if "--debug" in arguments or not _expected(error):
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
        if not isinstance(error, CommandLineError):
            print("(--debug shows where in the code)", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str], known: Mapping[str, Flag] | None = None) -> Request:
    """Take a command line apart: ``--key=value`` or ``--key value``, and switches.

    Nothing is dropped silently, as RecBole drops ``--key value``.

    Args:
        arguments: The arguments.
        known: The flags of this program; `FLAGS` when not given.

    Returns:
        Flags and options.

    Raises:
        CommandLineError: A stray word, a missing value, or a key with two different values.
    """
    known = FLAGS if known is None else known
    flags: dict[str, str] = {}
    options: dict[str, str] = {}
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--") or len(argument) == 2 or argument.startswith("--="):
            raise CommandLineError(
                f"{argument!r} belongs to no argument: write --key=value. "
                "A list or several words need quotes, such as --config_files='a.yaml b.yaml' or --topk='[10, 20]'."
            )
        key, equals, value = argument[2:].partition("=")
        if key in known and known[key].value is None:
            if equals:
                raise CommandLineError(f"--{key} takes no value, got {value!r}.")
        elif not equals:
            if not pending or pending[0].startswith("--"):
                raise CommandLineError(f"--{key} needs a value: write --{key}=VALUE.")
            value = pending.pop(0)
        target = flags if key in known else options
        if target.setdefault(key, value) != value:
            raise CommandLineError(f"--{key} is given twice, as {target[key]!r} and as {value!r}; give it once.")
    defaults = {name: flag.default for name, flag in known.items() if flag.default is not None}
    return Request(flags, options, defaults)


def describe(known: Mapping[str, Flag]) -> list[str]:
    """A line of ``--help`` for each flag."""
    return [
        f"  {f'--{name}' if flag.value is None else f'--{name}={flag.value}':32}  {flag.help}"
        for name, flag in known.items()
    ]


def _help(request: Request) -> int:
    print("usage: python run_recbole_mm.py --model=NAME [--dataset=NAME] [--option=value ...]\n")
    print("Train and test a recommender: RecBole's split, trainer and evaluation; our models and RecBole's.\n")
    print("\n".join(describe(FLAGS)))
    print("\nEvery option of RecBole and of the model can be set, such as --epochs=50 --embedding_size=32")
    print("--topk='[10, 20]' --modality_weight=\"{'image': 1, 'text': 0.5}\"; --key value works too.")
    print("Options of every multimodal model (defaults in properties/overall.yaml, those of a model in")
    print("properties/model/NAME.yaml):\n")
    overall = (_sibling("paths.py").properties_dir() / "overall.yaml").read_text(encoding="utf-8")
    for name, default, meaning in re.findall(r"^(\w+): (.*?)\s+# (.*)$", overall, flags=re.MULTILINE):
        print(f"  {f'--{name}={default}':32}  {meaning}")
    return 0


def _list_models(request: Request) -> int:
    ours, families = _models()
    print("recbole_mm:\n  " + "\n  ".join(ours))
    for family, names in families.items():
        print(f"\nRecBole, {family}:\n  " + "\n  ".join(names))
    return 0


def _train(request: Request) -> int:
    name = request.flag("model")
    if name is not None:
        check_model(name)  # a misspelt name need not wait for this import
    from recbole_mm.cli_train import train

    return train(request)


def _compare(request: Request) -> int:
    from recbole_mm.cli_compare import compare

    return compare(request)


def _tune(request: Request) -> int:
    from recbole_mm.cli_compare import tune

    return tune(request)


def _export(request: Request) -> int:
    from recbole_mm.cli_compare import export

    return export(request)


ACTIONS: dict[str, Callable[[Request], int]] = {
    "help": _help,
    "list-models": _list_models,
    "models": _compare,
    "trials": _tune,
    "export": _export,
    "export_embeddings": _export,
}
"""What to do for a flag, tried in this order; a command line without any of them trains one model."""


def program() -> str:
    """How this program was called, for commands that we print."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else "run_recbole_mm.py"
    return f"python {program}" if program.endswith(".py") else Path(program).name


def _check_use(flags: Mapping[str, str]) -> None:
    for needed, names in _ONLY_WITH.items():
        for name in set(names) & set(flags):
            if not set(needed) & set(flags):
                text = f"--{name}={flags[name]}" if flags[name] else f"--{name}"
                raise CommandLineError(f"{text} does nothing without --{' or --'.join(needed)}.")
    for others, names in _NOT_WITH.items():
        for name in set(names) & set(flags):
            for other in set(others) & set(flags):
                raise CommandLineError(f"--{name} does nothing beside --{other}; leave one of them out.")


def _interrupted(interrupt: KeyboardInterrupt, request: Request) -> int:
    checkpoint = getattr(interrupt, "checkpoint", None)
    print("\nInterrupted.", end=" ", file=sys.stderr)
    if {"models", "trials"} & set(request.flags):
        print("What is finished is kept; the same command again goes on.", file=sys.stderr)
    elif checkpoint is None:
        print("No checkpoint was written yet.", file=sys.stderr)
    else:
        values = {**request.flags, **request.options, "resume": checkpoint}
        switches = {key for key, flag in FLAGS.items() if flag.value is None}
        again = [f"--{key}" if key in switches else f"--{key}={text}" for key, text in values.items()]
        print(f"Best epoch so far: {checkpoint}\nGo on with: {program()} {shlex.join(again)}", file=sys.stderr)
    return 130


def _models() -> tuple[list[str], dict[str, list[str]]]:
    """Names of our models, and of RecBole's by family, from file names and file texts."""
    names = _sibling("host/names.py")
    ours = sorted(file.stem for file in (_sibling("paths.py").properties_dir() / "model").glob("*.yaml"))
    families: dict[str, list[str]] = {}
    for folder in sorted(names.recbole_folder().glob("model/*_recommender")):
        stems = {file.stem for file in folder.glob("*.py")}
        families[folder.name.replace("_recommender", "").replace("_", " ")] = sorted(
            (name for name in names.recbole_models() if name.lower() in stems), key=str.lower
        )
    return ours, families


def check_model(name: str) -> None:
    """Refuse a model that neither we nor RecBole have, without importing either."""
    names = _sibling("host/names.py")
    names.registered.update(dict.fromkeys(_models()[0], object))
    try:
        names.check_model_name(name)
    except ValueError as error:
        raise CommandLineError(f"{error} --list-models prints all names.") from error


def _sibling(file: str) -> ModuleType:
    """A module of this package that needs the standard library only, loaded without importing the package."""
    spec = spec_from_file_location(f"_recbole_mm_{Path(file).stem}", _PACKAGE / file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"recbole_mm: {_PACKAGE / file} is missing; install the package again.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _expected(error: Exception) -> bool:
    """Whether the error is a message to the caller: raised on purpose by us or by RecBole, about options or data."""
    if isinstance(error, CommandLineError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename).parts if frames else ()
    kinds: tuple[type[Exception], ...] = (ValueError, FileNotFoundError, NotImplementedError)
    if "configurator.py" in raised_in:
        kinds += (TypeError, RuntimeError, SyntaxError)
    written = isinstance(error, KeyError) and " " in str(error.args[0] if error.args else "")
    return bool({"recbole", "recbole_mm"} & set(raised_in)) and (isinstance(error, kinds) or written)
