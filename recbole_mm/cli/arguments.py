"""Arguments that several commands share, which of them need each other, and how they are listed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from recbole_mm.cli.request import CommandLineError, Flag

__all__ = ["BRIEF", "EXPERIMENT", "GENERAL", "KEEP", "MODEL", "SEARCH", "TRUST", "check_use", "describe"]

MODEL = {"model": Flag("the model, ours or one of RecBole's", "NAME")}

EXPERIMENT = {
    "dataset": Flag("the data set (default: ml-100k)", "NAME"),
    "config_files": Flag("yaml files of options, separated by blanks or commas", "'A.yaml B.yaml'"),
    "import": Flag("your own models: python files or modules, separated by commas", "FILE.py"),
}

TRUST = {"trust": Flag("read a checkpoint that is a pickle of RecBole's, which runs the code in it")}

SEARCH = {
    "storage": Flag("database that several machines share for a search", "URL"),
    "search_spaces": Flag("yaml file of search spaces by model", "FILE"),
}

GENERAL = {
    "verbose": Flag("show RecBole's log on the terminal, not only in its file"),
    "debug": Flag("show the traceback of every error"),
    "malloc": Flag("keep: memory that a step frees is kept for the next; default: as the system has it", "HOW", "keep"),
    "help": Flag("print this text; with --model=NAME the options of that model"),
}

#: Of a command that trains nothing.
BRIEF = {"debug": GENERAL["debug"], "help": Flag("print this text")}

KEEP = {
    "save_model": Flag("write the trained model as a folder for recbole_mm.load, which needs no data", "DIR"),
    "with_features": Flag("with --save_model: copy the feature files into the folder"),
}

# Flags and those without which, or beside which, they would do nothing.
_ONLY_WITH = {
    ("models",): ("seeds", "baseline", "ablate", "jobs", "split_seed", "keep_checkpoints", "worker"),
    ("trials",): ("storage", "search_spaces"),
    ("models", "trials"): ("output",),
    ("resume", "checkpoint"): ("trust",),
    ("export", "export_embeddings"): ("export_users", "export_items", "export_seen", "checkpoint"),
    ("save_model",): ("with_features",),
    ("nproc", "world_size"): ("ip", "port", "group_offset"),
}
_NOT_WITH = {
    ("models", "trials"): ("export", "export_embeddings"),
    ("models", "trials", "checkpoint"): ("resume", "save_model", "nproc", "world_size", "ip", "port", "group_offset"),
}


def check_use(flags: Mapping[str, str]) -> None:
    """Refuse flags that would do nothing without, or beside, others.

    Args:
        flags: The flags given.

    Raises:
        CommandLineError: Such a flag; the message names the other.
    """
    if flags.get("malloc", "keep") not in ("keep", "default"):
        raise CommandLineError(f"--malloc: expected keep or default, got {flags['malloc']!r}.")
    for needed, names in _ONLY_WITH.items():
        for name in set(names) & set(flags):
            if not set(needed) & set(flags):
                text = f"--{name}={flags[name]}" if flags[name] else f"--{name}"
                raise CommandLineError(f"{text} does nothing without --{' or --'.join(needed)}.")
    for others, names in _NOT_WITH.items():
        for name in set(names) & set(flags):
            for other in set(others) & set(flags):
                raise CommandLineError(f"--{name} does nothing beside --{other}; leave one of them out.")


def describe(known: Mapping[str, Flag]) -> list[str]:
    """A line of ``--help`` for each flag."""
    return [
        f"  {f'--{name}' if flag.value is None else f'--{name}={flag.value}':32}  {flag.help}"
        for name, flag in known.items()
    ]


def entry(left: str, text: str, column: int = 34, width: int = 118) -> list[str]:
    """A name and its meaning, side by side and wrapped."""
    lines = textwrap.wrap(text, width - column) or [""]
    if len(left) + 4 > column:
        return [f"  {left}", *(" " * column + line for line in lines)]
    return [f"  {left}".ljust(column) + lines[0], *(" " * column + line for line in lines[1:])]
