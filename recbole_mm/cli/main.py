"""The program: finds the command that a command line names, and answers mistakes and Ctrl-C with a message.

A command is a file of this folder with ``HELP`` (what it does), ``FLAGS`` (its arguments, in groups), ``EXAMPLE`` and
``run(request)``, and a line in `COMMANDS`. Its top level imports the standard library only.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from recbole_mm.cli.arguments import check_use, describe
from recbole_mm.cli.catalogue import check_model
from recbole_mm.cli.faults import message_of
from recbole_mm.cli.help import command_help, model_help, program_help
from recbole_mm.cli.malloc import keep_freed_memory
from recbole_mm.cli.request import CommandLineError, Flag, Request, program
from recbole_mm.cli.request import parse as take_apart
from recbole_mm.cli.signals import TerminatedError, terminable

__all__ = [
    "COMMANDS",
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

# Not `from recbole_mm.cli import train`, which imports the package around this folder, and with it torch.
COMMANDS: dict[str, ModuleType] = {
    word: import_module(f"recbole_mm.cli.{'import_tables' if word == 'import' else word}")
    for word in (
        "train",
        "compare",
        "search",
        "export",
        "import",
        "extract",
        "inspect",
        "convert",
        "models",
        "repairs",
        "version",
    )  # fmt: skip
}
"""The commands by the word that names them."""

# Without a word the first of these flags that is given names the command; without any of them one model is trained.
_WITHOUT_WORD = {"models": "compare", "trials": "search", "export": "export", "export_embeddings": "export"}

_TRAIN_OR_RANK = (None, "train", "compare", "search", "export")

FLAGS: dict[str, Flag] = {
    name: flag
    for word in ("train", "compare", "export")
    for group in COMMANDS[word].FLAGS.values()
    for name, flag in group.items()
}
"""The arguments of a command line without a word."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a command line.

    Args:
        argv: The arguments without the name of the program; ``None`` for those of this process.

    Returns:
        Exit status: 0, 2 after a mistake of the caller, 130 after Ctrl-C, 143 after SIGTERM. An unexpected error is
        raised.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    word = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if argv is None and word in _TRAIN_OR_RANK and "--malloc=default" not in arguments:
        keep_freed_memory()  # of a process that is ours
    if word is None:
        return answer(arguments, _without_word)
    command = COMMANDS.get(word)
    if command is None:
        return answer(arguments, lambda request: _unknown(word), word=word)
    if getattr(command, "WORDS", False):
        asked = {"--help", "-h"} & set(arguments) or not arguments
        return answer([], lambda request: command_help(word, command) if asked else command.hand_over(arguments))
    known = {name: flag for group in command.FLAGS.values() for name, flag in group.items()}
    return answer(arguments, lambda request: _with_word(word, command, request), known, word)


def parse(arguments: Sequence[str], known: Mapping[str, Flag] | None = None) -> Request:
    """Take a command line apart, see :func:`recbole_mm.cli.request.parse`.

    Args:
        arguments: The arguments.
        known: The flags of this program; `FLAGS` when not given.
    """
    return take_apart(arguments, FLAGS if known is None else known)


def answer(
    arguments: Sequence[str],
    act: Callable[[Request], int],
    known: Mapping[str, Flag] | None = None,
    word: str | None = None,
) -> int:
    """Do what a command line asks for; mistakes and Ctrl-C end in a message, not in a traceback.

    Args:
        arguments: The arguments.
        act: What to do with them; returns the exit status.
        known: The flags of this program; `FLAGS` when not given.
        word: The command.

    Returns:
        Exit status: that of ``act``, 2 after a mistake of the caller, 130 after Ctrl-C, 143 after SIGTERM.
    """
    known = FLAGS if known is None else known
    positional = getattr(COMMANDS.get(word or ""), "POSITIONAL", None)
    try:
        with terminable():
            return act(take_apart(arguments, known, word, positional))
    except BrokenPipeError:  # the reader of our output has seen enough, as in `... --list-models | head`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - flushed when the interpreter ends
        return 0
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, take_apart(arguments, known, word, positional))
    except Exception as error:
        message = message_of(error)
        if "--debug" in arguments or message is None:
            raise
        name = Path(sys.argv[0]).stem
        print(f"{'recbole-mm' if name == '__main__' else name}: {message}", file=sys.stderr)
        if not isinstance(error, CommandLineError):
            print("(--debug shows where in the code)", file=sys.stderr)
        return 2


def _without_word(request: Request) -> int:
    if "help" in request.flags:
        return model_help(request) if "model" in request.flags else program_help(COMMANDS, FLAGS)
    if "version" in request.flags:
        return int(COMMANDS["version"].run(request))
    if "list-models" in request.flags:
        return int(COMMANDS["models"].list_names())
    check_use(request.flags)
    word = next((word for flag, word in _WITHOUT_WORD.items() if flag in request.flags), "train")
    return int(COMMANDS[word].run(request))


def _with_word(word: str, command: ModuleType, request: Request) -> int:
    if "help" in request.flags:
        return model_help(request) if "model" in request.flags else command_help(word, command)
    if "list-models" in request.flags:
        return int(COMMANDS["models"].list_names())
    for name in request.options:
        # An option of RecBole's may also be an argument of a command that takes no options: --data_path of import.
        takers = {other: module for other, module in COMMANDS.items() if _takes_options(module)}
        owners = [
            other
            for other, module in takers.items()
            if any(name in group and not group[name].option for group in module.FLAGS.values())
        ]
        if owners and _takes_options(command):
            raise CommandLineError(f"--{name} is no argument of {word}; it belongs to {', '.join(owners)}.")
    if request.options and not _takes_options(command):
        raise CommandLineError(f"{word} has no argument --{next(iter(request.options))}; see {word} --help.")
    if _takes_options(command):  # the others have flags of the same names, with meanings of their own
        check_use({**request.flags, **dict.fromkeys(getattr(command, "IMPLIED", ()), "")})
    return int(command.run(request))


def _takes_options(command: ModuleType) -> bool:
    return bool(command.__dict__.get("OPTIONS", True))


def _unknown(word: str) -> int:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise CommandLineError(
        f"{word!r} belongs to no argument and is no command.{hint} Commands are {', '.join(COMMANDS)}; anything else "
        "is written --key=value."
    )


def _interrupted(interrupt: KeyboardInterrupt, request: Request) -> int:
    checkpoint = getattr(interrupt, "checkpoint", None)
    terminated = isinstance(interrupt.__cause__ or interrupt, TerminatedError)
    print("\nTerminated." if terminated else "\nInterrupted.", end=" ", file=sys.stderr)
    if {"models", "trials"} & set(request.flags) or request.word in ("compare", "search"):
        print(f"What is finished is kept. Go on with: {_again(request, {})}", file=sys.stderr)
    elif request.word == "import":
        print("Nothing was written.", file=sys.stderr)
    elif checkpoint is None:
        print("No checkpoint was written yet.", file=sys.stderr)
    else:
        again = _again(request, {"resume": checkpoint})
        print(f"Best epoch so far: {checkpoint}\nGo on with: {again}", file=sys.stderr)
    return 143 if terminated else 130


def _again(request: Request, more: Mapping[str, str]) -> str:
    """The command line once more, as it is typed in a shell; a password in it is not shown."""
    values = {**request.flags, **request.options, **more}
    switches = {key for key, flag in FLAGS.items() if flag.value is None}
    words = [f"--{key}" if key in switches else f"--{key}={text}" for key, text in values.items()]
    line = shlex.join([*([request.word] if request.word else []), *words])
    hidden = re.sub(r"(?<=://)([^/@:\s]*):[^/\s]+(?=@)", r"\1:PASSWORD", line)
    return f"{program()} {hidden}"
