"""What a command line may hold, and taking it apart.

Only the standard library is imported, so that `recbole_mm.cli.main` can load this file without the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["FLAGS", "CommandLineError", "Flag", "Request", "check_use", "describe", "parse"]


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


def check_use(flags: Mapping[str, str]) -> None:
    """Refuse flags that would do nothing without, or beside, others.

    Args:
        flags: The flags given.

    Raises:
        CommandLineError: Such a flag; the message names the other.
    """
    for needed, names in _ONLY_WITH.items():
        for name in set(names) & set(flags):
            if not set(needed) & set(flags):
                text = f"--{name}={flags[name]}" if flags[name] else f"--{name}"
                raise CommandLineError(f"{text} does nothing without --{' or --'.join(needed)}.")
    for others, names in _NOT_WITH.items():
        for name in set(names) & set(flags):
            for other in set(others) & set(flags):
                raise CommandLineError(f"--{name} does nothing beside --{other}; leave one of them out.")
