"""``import``: a table of clicks becomes a data set, with products, vectors and a split if there are any."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from recbole_mm.cli.arguments import BRIEF
from recbole_mm.cli.request import CommandLineError, Flag, Request, program

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "POSITIONAL", "USAGE", "run"]

HELP = (
    "Make a data set of a table of clicks (csv, tsv, jsonl, parquet, also packed), with tables of items and users, "
    "vectors that exist already, and a split that exists already."
)
USAGE = "NAME --interactions=FILE [--argument=value ...], or NAME --layout=LAYOUT --source=FOLDER"
EXAMPLE = "import shop --interactions=clicks.csv --items=products.csv --vectors=image=emb.npy,ids.txt"
FLAGS = {
    "A folder that others publish": {
        "layout": Flag(
            "amazon2023, cornac, elliot, microlens, movielens, unisrec, or your own as a yaml of tables and columns",
            "LAYOUT",
        ),
        "source": Flag("the folder", "FOLDER"),
    },
    "Tables": {
        "interactions": Flag("the clicks", "FILE"),
        "items": Flag("the products, a row each", "FILE"),
        "users": Flag("the users, a row each", "FILE"),
        **{
            part: Flag(f"the {title} part of a split that exists already", "FILE")
            for part, title in (("train", "training"), ("valid", "validation"), ("test", "test"))
        },
        "vectors": Flag(
            "MATRIX.npy,IDS.txt, FILE.npz, TABLE.parquet:COLUMN or a folder; may be repeated", "MODALITY=...", many=True
        ),
    },
    "Columns (found by their usual names when not given)": {
        role: Flag(meaning, "COLUMN")
        for role, meaning in (
            ("user", "the user of a click"),
            ("item", "the item"),
            ("time", "when it was: dates, or seconds, milliseconds or days since 1970"),
            ("rating", "a rating"),
            ("label", "a label, 0 or 1"),
        )
    },
    "How to read them": {
        "types": Flag("token, token_seq, float, float_seq, text or drop; may be repeated", "COLUMN=TYPE", many=True),
        "keep": Flag(
            "rows of the clicks to keep, such as event=purchase|like; with source=web after a comma, both have to hold",
            "COLUMN=VALUES",
            many=True,
        ),
        "reviews": Flag("columns of text in the clicks to keep for `extract --entity=inter`", "A,B"),
        "time_format": Flag("how dates are written where they are not in ISO form, such as %d.%m.%Y", "FORMAT"),
        "separator": Flag("what separates columns, where it is not to be found out; tab for a tab", "CHARACTER"),
        "header": Flag("names of the columns, where the file of clicks has no header line", "A,B,C"),
        "duplicates": Flag("rows of one product or user that differ: error, first or last", "WHICH", "error"),
        "drop_unseen": Flag("drop validation and test rows of users or items that training lacks"),
    },
    "What is written": {
        "data_path": Flag("folder of data sets; FOLDER/NAME is written (default: dataset)", "FOLDER", "dataset"),
        "replace": Flag("overwrite a data set of this name"),
    },
    "General": BRIEF,
}
#: It has no options of RecBole, and one word of its own.
OPTIONS = False
POSITIONAL = "NAME"


def run(request: Request) -> int:
    """Import tables, and print what was read, kept and left out and the command that trains on the data set.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        FileNotFoundError: A file is missing.
        FileExistsError: There is a data set of this name, and no ``--replace``.
        KeyError: A column that was named is not there.
        ValueError: A table is damaged, or a value is not what its column needs.
    """
    flags = request.flags
    if "NAME" not in flags:
        raise CommandLineError("Which name shall the data set have? Write import NAME --interactions=FILE.")
    if "layout" in flags and "source" not in flags:
        raise CommandLineError("--layout needs --source=FOLDER, the folder with the files of that layout.")
    if "source" in flags and "layout" not in flags:
        raise CommandLineError("--source does nothing without --layout, which says what the folder holds.")
    if flags.get("layout") == "unisrec":
        return _unisrec(request)
    vectors, types = _pairs(flags.get("vectors", ""), "vectors"), _pairs(flags.get("types", ""), "types")
    from recbole_mm.data.convert.columns import NO_CONTENT
    from recbole_mm.data.convert.layouts import import_layout
    from recbole_mm.data.convert.published import Found
    from recbole_mm.data.convert.tables import import_tables

    same = ("interactions", "items", "users", "train", "valid", "test", "user", "item", "time", "rating", "label")
    folder = str(request.flag("data_path"))
    arguments: dict[str, Any] = {
        **{key: flags.get(key) for key in (*same, "time_format")},
        "vectors": vectors,
        "types": types,
        "keep": _conditions(flags.get("keep", "")),
        "separator": {"tab": "\t", "\\t": "\t"}.get(flags.get("separator", ""), flags.get("separator")),
        "header": [name.strip() for name in flags["header"].split(",")] if "header" in flags else None,
        "reviews": [name.strip() for name in flags["reviews"].split(",")] if "reviews" in flags else None,
        "drop_unseen": "drop_unseen" in flags,
        "replace": "replace" in flags,
        "data_path": folder,
        "progress": sys.stderr.isatty(),
    }
    if "layout" in flags:  # which has a choice of its own for duplicates
        duplicates = flags.get("duplicates")
        report, found = import_layout(
            flags["NAME"], flags["layout"], flags["source"], **arguments, duplicates=duplicates
        )
    else:
        duplicates = str(request.flag("duplicates"))
        report, found = import_tables(flags["NAME"], **arguments, duplicates=duplicates), Found({})
    print(report)
    place = [f"--data_path={folder}"] if "data_path" in flags else []
    texts = {
        entity: [column.name for column in columns if column.kind == "text" and column.reason not in NO_CONTENT]
        for entity, columns in report.columns.items()
    }
    texts["inter"] = arguments["reviews"] or []
    for entity in ("item", "user", "inter"):
        content = [f"--text={','.join(texts[entity])}"] if texts.get(entity) else []
        content += [f"--image={found.pictures}"] if entity == "item" and found.pictures else []
        if content:
            words = ["extract", report.name, *([] if entity == "item" else [f"--entity={entity}"]), *content, *place]
            print(f"make features of it: {program()} {shlex.join(words)}")
    command = [f"--model={'MMGCN' if report.vectors else 'LightGCN'}", f"--dataset={report.name}", *place]
    print(f"train with it: {program()} {shlex.join(command)}")
    return 0


def _unisrec(request: Request) -> int:
    """The UniSRec family comes with everything: there is no table whose columns could be told."""
    flags = request.flags
    others = sorted(set(flags) - {"NAME", "layout", "source", "data_path", "replace", "debug"})
    if others:
        raise CommandLineError(f"--{others[0]} does nothing with --layout=unisrec, whose files say everything.")
    from recbole_mm.data.convert.unisrec_dataset import from_unisrec

    folder = Path(str(request.flag("data_path")))
    print(*from_unisrec(Path(flags["source"]), folder, flags["NAME"], force="replace" in flags), sep="\n")
    settings = folder / flags["NAME"] / f"{flags['NAME']}.yaml"
    command = ["--model=SASRecContent", f"--dataset={flags['NAME']}", f"--config_files={settings}"]
    command += [f"--data_path={folder}"] if "data_path" in flags else []
    print(f"train with it: {program()} {shlex.join(command)}")
    return 0


def _pairs(text: str, flag: str) -> dict[str, str]:
    """``image=a.npy,ids.txt text=b.npz`` as a mapping; a blank belongs to a value unless a new pair follows.

    A line is an argument of its own, whose first word is a name.
    """
    pairs: dict[str, str] = {}
    for pair in (pair for line in text.splitlines() for pair in re.split(r"\s+(?=[^\s=/\\]+=)", line.strip())):
        key, equals, value = pair.partition("=")
        if pair and not (key and equals and value):
            expected = "image=emb.npy,ids.txt" if flag == "vectors" else "price=float"
            raise CommandLineError(
                f"--{flag}: expected NAME=VALUE such as {expected}, the name without a blank, got {pair!r}."
            )
        if pairs.setdefault(key, value) != value:
            raise CommandLineError(f"--{flag}: {key} is given twice, as {pairs[key]!r} and as {value!r}.")
    pairs.pop("", None)
    return pairs


def _conditions(text: str) -> dict[str, list[str]]:
    """``event=purchase|like,source=web`` as columns and values; a comma belongs to a value unless a column follows.

    A line is an argument of its own.
    """
    conditions: dict[str, list[str]] = {}
    for condition in (part for line in text.splitlines() for part in re.split(r",(?=[^,=|]+=)", line)):
        column, _, rest = (word.strip() for word in condition.partition("="))
        values = [value.strip() for value in rest.split("|")]
        if not (column and all(values)):
            raise CommandLineError(
                f"--keep: expected COLUMN=VALUE or COLUMN=VALUE|VALUE, such as event=purchase|like, got {condition!r}."
            )
        if conditions.setdefault(column, values) != values:
            raise CommandLineError(f"--keep: {column} is given twice; write {column}=A|B for rows of either value.")
    return conditions
