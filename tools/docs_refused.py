"""The page of bad input: how much of each kind is tried, and what is said to command lines and values of options.

All of it is read from the tests that try it, so that no count can be stale.
"""

from __future__ import annotations

import ast
import math
from functools import cache
from pathlib import Path

from docs_markup import cell, table

__all__ = ["FAMILIES", "count", "refused_page"]

_TESTS = Path(__file__).resolve().parents[1] / "tests"
_INTRODUCTION = """# Bad input

What is tried, and must end in a message that names the place and the remedy (or in the right result), before anything
is trained, with nothing half-written and no code run. Each number is counted in the tests when this page is made.
"""

#: Kind of input, file of its tests, and the tests, or the tables that a test goes through.
FAMILIES: list[tuple[str, str, tuple[str, ...]]] = [
    ("command lines that cannot be meant", "robustness/test_bad_commands.py",
     ("test_a_mistake_is_one_message_before_training",)),
    ("values of options", "robustness/test_bad_options.py",
     ("test_a_bad_value_is_refused_before_anything_is_read", "test_a_name_that_is_no_text_is_refused")),
    ("runs that lack negatives, labels or a part of the split", "robustness/test_parts_missing.py",
     ("test_a_batch_without_what_the_model_reads", "test_a_search_without_validation_ends_before_it_trains")),
    ("odd tables for `import`, read as they are meant", "robustness/test_broken_files.py", ("RIGHT",)),
    ("broken tables for `import`", "robustness/test_broken_files.py", ("WRONG", "BESIDE")),
    ("odd and broken pictures", "robustness/test_broken_files.py", ("PICTURES",)),
    ("atomic files", "data/test_atomic.py", ("test_what_is_wrong_is_named_with_its_line",)),
    ("feature files", "data/features/test_files.py",
     ("test_ids_that_are_no_tokens", "test_features_that_are_no_matrix", "test_ids_files_that_are_wrong")),
    ("files damaged at random (atomic, features, yaml, checkpoints)", "robustness/test_fuzz.py",
     ("test_atomic_files", "test_feature_files", "test_option_files", "test_checkpoints")),
    ("checkpoints cut off, empty, foreign", "host/test_checkpoint.py", ("test_damaged_files",)),
    ("folders of saved models that were changed", "serving/test_saved.py",
     ("test_a_config_that_was_changed", "test_a_part_that_is_gone_or_another", "test_a_file_that_was_replaced")),
    ("planted code in files, options and names", "robustness/test_payloads.py", ("*",)),
    ("full disks, a file of every kind", "robustness/test_writing.py", ("test_a_full_disk_leaves_the_old_file",)),
    ("full disks during `import`", "robustness/test_broken_files.py",
     ("test_a_full_disk_leaves_nothing_of_an_import",)),
    ("faults of the machine: disk, permission, memory", "robustness/test_bad_commands.py",
     ("test_faults_of_the_machine_are_messages", "test_no_room_is_a_message")),
    ("two processes that write the same thing", "robustness/test_at_once.py", ("*",)),
    ("processes killed and started again (the quick form)", "robustness/test_kill.py",
     ("test_killed_and_started_again",)),
]  # fmt: skip


def refused_page() -> str:
    """How much of each kind is tried, and the tables of command lines and of values."""
    rows = [(kind, file, sum(count(file, name) for name in names)) for kind, file, names in FAMILIES]
    total = sum(number for *_, number in rows)
    commands = [(_text(line), _text(words)) for line, words in _entries("robustness/test_bad_commands.py", "COMMANDS")]
    values = [
        (f"{_text(option)}: {ast.unparse(value)}", _text(words))
        for option, value, words in _entries("robustness/test_bad_options.py", "VALUES")
    ]
    return "\n".join(
        [
            _INTRODUCTION,
            table(
                ["kind", "tried", "by"],
                [*([cell(kind), f"{number:,}", f"`tests/{file}`"] for kind, file, number in rows),
                 ["**all**", f"**{total:,}**", ""]],
            ),
            "What becomes of each table and picture is on [a page of its own](broken-files.md). `benchmarks/kill.py` "
            "is the long form of the kills; [its figures](checkpoints.md) are measured, not counted here.\n",
            "## Command lines\n",
            "`nix` is not there, `folder` is a folder, `binary` is no text, `empty` is empty, and so on.\n",
            table(["command line", "the message says"], [[_code(a), _code(b)] for a, b in commands]),
            "## Values of options\n",
            table(["option", "the message says"], [[_code(a), _code(b)] for a, b in values]),
        ]
    )  # fmt: skip


def count(file: str, name: str) -> int:
    """Number of cases of a test, or of a table; ``*`` is every test of the file.

    Args:
        file: Path under ``tests``.
        name: The test or the table.

    Raises:
        ValueError: There is none, or its cases cannot be counted without running it.
    """
    tests = {node.name: node for node in ast.walk(_tree(file)) if isinstance(node, ast.FunctionDef)}
    if name == "*":
        return sum(count(file, test) for test in tests if test.startswith("test_"))
    if name not in tests:
        return _length(file, ast.Name(name))
    marks = [mark for mark in tests[name].decorator_list if isinstance(mark, ast.Call)]
    given = any(isinstance(mark.func, ast.Name) and mark.func.id == "given" for mark in marks)
    sizes = [_length(file, mark.args[1]) for mark in marks if getattr(mark.func, "attr", "") == "parametrize"]
    return math.prod(sizes) * (_examples(file) if given else 1)


def _length(file: str, node: ast.expr) -> int:
    if isinstance(node, ast.Dict):
        return len(node.keys)
    if isinstance(node, (ast.List, ast.Tuple)):
        return sum(_length(file, e.value) if isinstance(e, ast.Starred) else 1 for e in node.elts)
    if isinstance(node, ast.Name):
        return _length(file, _assigned(file, node.id))
    raise ValueError(f"tests/{file}: {ast.unparse(node)} cannot be counted without running it.")


def _examples(file: str) -> int:
    calls = [node for node in ast.walk(_tree(file)) if isinstance(node, ast.keyword) and node.arg == "max_examples"]
    return int(ast.literal_eval(calls[0].value))


def _entries(file: str, name: str) -> list[list[ast.expr]]:
    entries = _assigned(file, name)
    return [entry.elts for entry in getattr(entries, "elts", ()) if isinstance(entry, ast.Tuple)]


def _assigned(file: str, name: str) -> ast.expr:
    for node in _tree(file).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            return node.value
    raise ValueError(f"tests/{file} has neither a test nor a table {name}.")


def _code(text: str) -> str:
    """A text as it is typed or printed; brackets in it are no links."""
    return f"`{text.replace('|', chr(92) + '|').strip()}`"


def _text(node: ast.expr) -> str:
    """A text of a test, with ``...`` where it puts in what all of them share."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    return str(ast.literal_eval(node))


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((_TESTS / file).read_text(encoding="utf-8"))
