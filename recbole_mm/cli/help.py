"""The texts of ``--help``: of the program, of a command, of a model."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from types import ModuleType

from recbole_mm.cli.arguments import describe, entry
from recbole_mm.cli.catalogue import Option, check_model, experiments, option_file, read_options_file, shared_options
from recbole_mm.cli.request import Flag, Request, program

__all__ = ["command_help", "model_help", "program_help"]


def program_help(commands: Mapping[str, ModuleType], flags: Mapping[str, Flag]) -> int:
    """Print the commands, every argument that needs no command before it, and the options of multimodal models."""
    print(f"usage: {program()} [COMMAND] --model=NAME [--dataset=NAME] [--option=value ...]\n")
    print("Train, test and compare recommenders: RecBole's split, trainer and evaluation; our models and RecBole's.\n")
    print(f"Commands ({program()} COMMAND --help is about one; without a command a model is trained):\n")
    for word, command in commands.items():
        print("\n".join(entry(word, command.HELP, column=14)))
    print("\nArguments:\n\n" + "\n".join(describe(flags)))
    print("\nEvery option of RecBole and of the model can be set, such as --epochs=50 --embedding_size=32")
    print("--topk='[10, 20]' --modality_weight=\"{'image': 1, 'text': 0.5}\"; --key value works too.")
    print("--model=NAME --help lists the options of a model. Every multimodal model has these:\n")
    for option in shared_options():
        print(f"  {f'--{option.name}={option.default}':32}  ({option.kind}) {option.meaning}")
    print("\nFiles of options that come with the package, for --config_files:\n")
    for name, meaning in experiments().items():
        print("\n".join(entry(name, meaning)))
    return 0


def command_help(word: str, command: ModuleType) -> int:
    """Print what a command does, its arguments in groups, and an example that runs."""
    usage = getattr(command, "USAGE", "[--argument=value ...]")
    print(f"usage: {program()} {word} {usage}\n")
    print(textwrap.fill(command.HELP, 98))
    for title, flags in command.FLAGS.items():
        print(f"\n{title}:")
        print("\n".join(describe(flags)))
    if getattr(command, "OPTIONS", True):
        print(
            "\nAny option of RecBole or of the model may follow, such as --epochs=50 --learning_rate=0.01; the options"
        )
        print(f"of a model: {program()} --model=NAME --help")
    print(f"\nExample:\n  {program()} {command.EXAMPLE}")
    return 0


def model_help(request: Request) -> int:
    """Print the options of the model of ``--model`` with default, type and meaning, from its file of options."""
    name = request.flags["model"]
    check_model(name, request)
    file = option_file(name)
    options = read_options_file(file) if file is not None else _of_caller(name)
    print(f"{name}: its options, as --option=value, with their defaults" + (f" ({file})" if file else ""))
    if not options:
        print("\n  none that a file describes")
    section = ""
    for option in options:
        if option.section != section:
            section = option.section
            print(f"\n{section}")
        elif option is options[0]:
            print()
        kind = f"({option.kind}) " if option.kind else ""
        print("\n".join(entry(f"--{option.name}={option.default}", kind + option.meaning)))
    print(
        "\nOptions of every multimodal model, of the data and of the training: see --help, and RecBole's documentation."
    )
    return 0


def _of_caller(name: str) -> list[Option]:
    """Options of a model that ``--import`` has registered with default options."""
    defaults = sys.modules.get("recbole_mm.host.defaults")
    given = defaults.properties_of(name) if defaults is not None else {}
    return [Option(key, str(value), type(value).__name__, "") for key, value in given.items()]
