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

_PACKAGE = Path(__file__).resolve().parents[1]


def _sibling(file: str, name: str | None = None) -> ModuleType:
    """A module of this package that needs the standard library only, loaded without importing the package.

    Args:
        file: Its path within the package.
        name: Under which a later import shall find this one; not given for a copy of its own.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name or f"_recbole_mm_{Path(file).stem}", _PACKAGE / file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"recbole_mm: {_PACKAGE / file} is missing; install the package again.")
    module = module_from_spec(spec)
    if name is not None:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# Known by its name from here on, it is imported without the package.
_sibling("cli/arguments.py", "recbole_mm.cli.arguments")

from recbole_mm.cli.arguments import (  # noqa: E402
    FLAGS,
    CommandLineError,
    Flag,
    Request,
    check_use,
    describe,
    parse,
)


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
            check_use(request.flags)
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
    from recbole_mm.cli.train import train

    return train(request)


def _compare(request: Request) -> int:
    from recbole_mm.cli.compare import compare

    return compare(request)


def _tune(request: Request) -> int:
    from recbole_mm.cli.compare import tune

    return tune(request)


def _export(request: Request) -> int:
    from recbole_mm.cli.compare import export

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
