"""What a comparison says of rows that RecBole leaves out because an id reads as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.protocol import make_protocol
from tests.options import QUICK

ROWS = [(f"u{user}", f"i{item}") for user in range(12) for item in range(user % 3, 12, 2)]


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = ["user_id:token\titem_id:token", *("\t".join(row) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


def test_the_note_is_on_the_terminal_and_in_the_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tiny", "tiny.inter", [ROWS[0], ("NaN", "i1"), *ROWS[1:20], ("u1", ""), *ROWS[20:]])
    options = {**QUICK, "data_path": str(tmp_path), "epochs": 1, "load_col": {"inter": ["user_id", "item_id"]}}
    table = compare(["Pop", "BPR"], "tiny", config_dict=options, seeds=1, in_process=True)
    note = "2 rows of tiny.inter (line 3, 23): user_id or item_id reads as missing"
    assert [note in line for line in table.attrs["notes"]].count(True) == 1
    assert note in (tmp_path / "comparison" / "tiny" / "table.md").read_text()
    assert f"Note: {note}" in capsys.readouterr().out


def test_every_file_of_a_given_split_is_looked_at(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write(tmp_path / "tiny", f"tiny.{part}.inter", ROWS)
    write(tmp_path / "tiny", "tiny.valid.inter", [*ROWS, ("None", "null")])
    options = {**QUICK, "data_path": str(tmp_path), "benchmark_filename": ["train", "valid", "test"]}
    notes = [note for note in make_protocol(["Pop"], "tiny", None, options).notes if "reads as missing" in note]
    assert len(notes) == 1 and notes[0].startswith(f"1 row of tiny.valid.inter (line {len(ROWS) + 2}): ")


def test_a_file_that_cannot_be_read_is_left_to_the_runs(tmp_path: Path) -> None:
    write(tmp_path / "tiny", "tiny.inter", ROWS)
    (tmp_path / "tiny" / "tiny.inter").write_bytes(b"user_id\titem\n\xff\xfe\t1\n")
    options = {**QUICK, "data_path": str(tmp_path)}
    assert not any("missing" in note for note in make_protocol(["Pop"], "tiny", None, options).notes)
