"""A command line taken apart, and what every command asks of it.

Only the standard library is imported here, as in all files of this folder that answer ``--help`` and mistakes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ["CommandLineError", "Flag", "Request", "parse", "program", "sibling", "words"]

_PACKAGE = Path(__file__).resolve().parents[1]


class CommandLineError(ValueError):
    """The command line cannot be meant as it is written; the message says what to write."""


@dataclass(frozen=True)
class Flag:
    """An argument that is ours, not an option of RecBole or of a model.

    Attributes:
        help: What it does.
        value: What stands for the value in ``--help``; ``None`` for a switch without one.
        default: Value when it is not given; ``None`` for none.
        many: Whether it may be repeated; its values are put together, a line each.
        option: Whether a switch has the name of an option of RecBole's, which is meant where it is given a value.
    """

    help: str
    value: str | None = None
    default: str | None = None
    many: bool = False
    option: bool = False


@dataclass(frozen=True)
class Request:
    """A command line taken apart.

    Attributes:
        flags: Arguments that are ours, as text; a switch is the empty text.
        options: Everything else, options of RecBole and of the models, as text.
        defaults: Values of the flags that were not given and have one.
        word: The command, where the caller named it.
    """

    flags: dict[str, str]
    options: dict[str, str]
    defaults: dict[str, str] = field(default_factory=dict)
    word: str | None = None

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
        """Option files, which may be separated by blanks or commas.

        A name such as ``experiment/cold-users`` is the packaged file, wherever the package is installed.
        """
        names = re.split(r"[,\s]+", self.flags.get("config_files", "").strip(", "))
        return [_option_file(name) for name in names if name]


def parse(
    arguments: Sequence[str], known: Mapping[str, Flag], word: str | None = None, positional: str | None = None
) -> Request:
    """Take a command line apart: ``--key=value`` or ``--key value``, and switches.

    Nothing is dropped silently, as RecBole drops ``--key value``.

    Args:
        arguments: The arguments, without the command.
        known: The arguments that are ours.
        word: The command.
        positional: Name of the one word that needs no ``--key``, which becomes a flag; ``None`` for none.

    Returns:
        Flags and options.

    Raises:
        CommandLineError: A stray word, a missing value, or a key with two different values.
    """
    flags: dict[str, str] = {}
    options: dict[str, str] = {}
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        if argument == "-h":
            argument = "--help"
        if positional is not None and not argument.startswith("-") and positional not in flags:
            flags[positional] = argument
            continue
        if not argument.startswith("--") or len(argument) == 2 or argument.startswith("--="):
            raise CommandLineError(
                f"{argument!r} belongs to no argument: write --key=value. "
                "A list or several words need quotes, such as --config_files='a.yaml b.yaml' or --topk='[10, 20]'."
            )
        key, equals, value = argument[2:].partition("=")
        flag = known.get(key)
        if flag is not None and flag.option and equals:
            flag = None
        if flag is not None and flag.value is None:
            if equals:
                raise CommandLineError(f"--{key} takes no value, got {value!r}.")
        elif not equals:
            if not pending or pending[0].startswith("--"):
                raise CommandLineError(f"--{key} needs a value: write --{key}=VALUE.")
            value = pending.pop(0)
        if not value.strip() and (flag is None or flag.value is not None) and key != "gpu_id":
            raise CommandLineError(
                f"--{key}= has no value (is it a shell variable that is not set?); give one or leave it out."
            )
        target = options if flag is None else flags
        if flag is not None and flag.many and key in flags:
            value = f"{flags.pop(key)}\n{value}"
        if target.setdefault(key, value) != value:
            raise CommandLineError(f"--{key} is given twice, as {target[key]!r} and as {value!r}; give it once.")
    defaults = {name: entry.default for name, entry in known.items() if entry.default is not None}
    return Request(flags, options, defaults, word)


def words(text: str) -> list[str]:
    """Names separated by commas or blanks, with or without brackets around them.

    Example:
        >>> words("[MMGCN, BPR]")
        ['MMGCN', 'BPR']
    """
    return [word for word in re.split(r"[,\s]+", text.strip("[]() ")) if word]


def program() -> str:
    """How this program was called, for commands that we print."""
    called = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("run_recbole_mm.py")
    if called.name == "__main__.py":
        return f"python -m {called.parent.name}"
    return f"python {called}" if called.suffix == ".py" else called.name


def sibling(file: str) -> ModuleType:
    """A copy of a module of this package that needs the standard library only, made without importing the package.

    Args:
        file: Its path within the package.
    """
    name = "_recbole_mm_" + Path(file).with_suffix("").as_posix().replace("/", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, _PACKAGE / file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"recbole_mm: {_PACKAGE / file} is missing; install the package again.")
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs: its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def _option_file(name: str) -> str:
    """The file, or the one of that name that comes with the package; a name of neither is for its reader to refuse."""
    if Path(name).is_file():
        return name
    folder: Path = sibling("paths.py").properties_dir()
    inside = name[len("properties/") :] if name.startswith("properties/") else name
    for candidate in (folder / inside, folder / f"{inside}.yaml"):
        if candidate.is_file() and folder.resolve() in candidate.resolve().parents:
            return str(candidate)
    return name
