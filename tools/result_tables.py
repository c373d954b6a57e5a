"""Measured tables: one CSV file a table in benchmarks/results, and the Markdown tables that are read from them.

python tools/result_tables.py add NAME FOLDER [FOLDER ...] [--commit=HASH]    from the outputs of comparisons
python tools/result_tables.py add NAME FILE.jsonl [FILE.jsonl ...]            from what benchmarks appended to files
python tools/result_tables.py --write
python tools/result_tables.py --check

A row of a CSV is a model (or a variant of it) on a data set: its metrics with 95 % intervals, what it cost, and what it
was measured with: commit, hash of the split, options, seeds, machine and date. Other measurements (``way_in.py``,
``new_items.py``) write their own columns beside these, with ``-`` for what does not apply. A Markdown file shows a
table between two lines, which say what of it:

    <!-- results: NAME columns=model,recall@20,ndcg@20,epoch_seconds -->
    <!-- results: NAME rows=model across=dataset value=recall@20 -->
    <!-- end of results -->
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # noqa: F401  it repairs what RecBole needs repaired

# isort: split
import pandas as pd

from recbole_mm.experiment.store import neutral_settings
from recbole_mm.files import write_atomically
from tools import result_markdown
from tools.result_rows import joined, rows_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: What every row says about how it was measured.
PROVENANCE = ("dataset", "split", "seeds", "options", "commit", "machine", "date")
_BLOCK = re.compile(r"<!-- results: (?P<spec>[^>]*?) -->\n.*?<!-- end of results -->", flags=re.DOTALL)
_DROPPED = re.compile(r"_(difference|difference_low|difference_high|effect|p_t|p_wilcoxon)(_holm)?$")
_TEXTS = ["variant", "interval", "reference", "params", "failure"]


def add(name: str, folders: Sequence[str | Path], commit: str | None = None) -> Path:
    """Make the CSV of a table from what comparisons or benchmarks left.

    Args:
        name: Name of the table.
        folders: Output folders of comparisons, one or more data sets; or files of JSON lines.
        commit: Of runs that do not know theirs, because no checkout was at hand.

    Returns:
        The file.

    Raises:
        FileNotFoundError: A folder is no output of a comparison.
        ValueError: A file is none of measurements, two folders have the same data set, split and model, or a name is no
            file name.
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name: expected letters, digits, '.', '_' and '-', got {name!r}.")
    files = [Path(folder) for folder in folders if str(folder).endswith(".jsonl")]
    frames = [_read(Path(folder), commit) for folder in folders if Path(folder) not in files]
    frames += [rows_of(files)] if files else []
    table = pd.concat(frames, ignore_index=True)
    same = [key for key in ("dataset", "protocol", "split", "model", "variant", "options") if key in table]
    repeated = table[table.duplicated(same)]
    if len(repeated):
        raise ValueError(f"{repeated.iloc[0]['model']} on {repeated.iloc[0]['dataset']} is in two of the folders.")
    measured = [column for column in table if column not in PROVENANCE]
    file = RESULTS / f"{name}.csv"
    write_atomically(file, table[[*measured, *PROVENANCE]].to_csv(index=False, lineterminator="\n"))
    return file


def _read(folder: Path, commit: str | None) -> pd.DataFrame:
    """The table of a comparison, with what each row was measured with."""
    if not (folder / "compare.json").is_file():
        raise FileNotFoundError(f"{folder} is not the output of a comparison: it has no compare.json.")
    about = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "table.csv", dtype=dict.fromkeys(_TEXTS, str))
    table[_TEXTS] = table[_TEXTS].fillna("")
    table = table[[column for column in table if not _DROPPED.search(column)]]
    files = sorted(folder.glob("runs/*/run.json"))
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for file, record in zip(files, records):  # of a run that was made before runs kept their day
        record.setdefault("date", time.strftime("%Y-%m-%d", time.gmtime(file.stat().st_mtime)))
    records = [record for record in records if record.get("status") == "finished"]
    rows = []
    for model in table["model"]:
        mine = [record for record in records if record["job"]["model"] == model]
        settings = neutral_settings(about["settings"].get(model, {}))
        rows.append(
            {
                "dataset": about["dataset"],
                "split": joined(entry["hash"] for entry in about["splits"].values()),
                "seeds": " ".join(map(str, about["seeds"])),
                "options": json.dumps({**about["shared"], **settings}, sort_keys=True),
                "commit": joined(record.get("commit") or commit for record in mine),
                "machine": joined(_machine(record.get("machine") or {}) for record in mine),
                "date": joined(record.get("date") for record in mine),
                "validation_fall": max((largest_fall(record) for record in mine), default=None),
            }
        )
    return pd.concat([table, pd.DataFrame(rows, index=table.index)], axis=1)


def largest_fall(record: Mapping[str, Any], settled: int = 5) -> float:
    """By what share the validation score fell from one validation to the next, at most.

    Args:
        record: Of a run.
        settled: Falls until this epoch do not count.
    """
    metric = record["valid_metric"].lower()
    scores = [entry["valid"][metric] for entry in record["curve"] if entry["epoch"] > settled]
    return max((1 - after / before for before, after in zip(scores, scores[1:]) if before > 0), default=0.0)


def _machine(machine: Mapping[str, Any]) -> str:
    """Without the name of the host, which tells a reader nothing."""
    return f"{machine['device']} ({machine['threads']} threads)" if machine else ""


def read(name: str) -> pd.DataFrame:
    """The CSV of a table.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It lacks a column that says how it was measured.
    """
    file = RESULTS / f"{name}.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{file.relative_to(RESULTS.parents[1])} is missing; make it with add {name} FOLDER.")
    table = pd.read_csv(file, dtype=dict.fromkeys(PROVENANCE, str))
    missing = [column for column in PROVENANCE if column not in table]
    if missing:
        raise ValueError(f"{file.name} lacks {', '.join(missing)}.")
    return table


def markdown(spec: str) -> str:
    """The table that a marker asks for.

    Args:
        spec: Name of the CSV, then ``columns=...``, or ``rows=... across=... value=...``, and
            ``where=column:value`` to choose rows.

    Raises:
        ValueError: An unknown key or column.
    """
    name, *settings = spec.split()
    asked = dict(setting.partition("=")[::2] for setting in settings)
    table = read(name)
    unknown = set(asked) - {"columns", "rows", "across", "value", "where"}
    first = "model" if "model" in table else str(table.columns[0])
    named = [*asked.get("columns", first).split(","), *(asked[k] for k in ("rows", "across", "value") if k in asked)]
    named += [part.partition(":")[0] for part in asked.get("where", first).split(",")]
    unknown |= set(named) - set(table)
    if unknown:
        raise ValueError(f"results: {spec}: unknown {', '.join(sorted(unknown))}; there is {', '.join(table)}.")
    for part in asked.get("where", "").split(","):
        column, colon, value = part.partition(":")
        if colon:
            table = table[table[column].astype(str) == value]
    columns = asked.get("columns", first).split(",")
    lines = result_markdown.pivot(table, asked) if "across" in asked else result_markdown.rows(table, columns)
    return "\n".join([*lines, "", result_markdown.measured(table, name)])


def documents() -> list[Path]:
    """The Markdown files that show a table."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")]
    return sorted(file for file in files if _BLOCK.search(file.read_text(encoding="utf-8")))


def rendered(text: str) -> str:
    """The text of a file with its tables written anew."""
    return _BLOCK.sub(
        lambda block: f"<!-- results: {block['spec']} -->\n{markdown(block['spec'])}\n<!-- end of results -->", text
    )


def main(arguments: Sequence[str]) -> int:
    """Add, write or check; returns the exit status."""
    if len(arguments) > 2 and arguments[0] == "add":
        commits = [text.partition("=")[2] for text in arguments if text.startswith("--commit=")]
        folders = [text for text in arguments[2:] if not text.startswith("--commit=")]
        print(f"written to {add(arguments[1], folders, *commits)}; show it with --write")
        return 0
    if list(arguments) not in (["--write"], ["--check"]):
        print(
            "usage: python tools/result_tables.py add NAME FOLDER ... [--commit=HASH] | --write | --check",
            file=sys.stderr,
        )
        return 2
    stale = []
    for file in documents():
        before = file.read_text(encoding="utf-8")
        after = rendered(before)
        if after != before:
            stale.append(file)
            if list(arguments) == ["--write"]:
                write_atomically(file, after)
    if stale and list(arguments) == ["--check"]:
        names = ", ".join(str(file.relative_to(ROOT)) for file in stale)
        print(
            f"{names}: tables are not those of benchmarks/results; python tools/result_tables.py --write",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
