"""pyarrow gives the frame of RecBole's reader to the last bit, or is not asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.data import create_dataset

from recbole_mm.data.atomic import read_header
from recbole_mm.host import fast_csv
from tests.data.support import random_pairs, write_inter

pytest.importorskip("pyarrow")

HEADER = "user_id:token\ttags:token_seq\tprice:float\tvector:float_seq"


def by_pandas(path: Path, columns: list[str], separator: str = "\t") -> pd.DataFrame:
    """What RecBole asks for."""
    header = read_header(path, separator)
    kinds = {
        f"{name}:{kind}": np.float64 if kind == "float" else str for name, kind in header.items() if name in columns
    }
    return pd.read_csv(path, delimiter=separator, usecols=list(kinds), dtype=kinds, encoding="utf-8", engine="python")


def compare(path: Path, columns: list[str] | None = None, separator: str = "\t") -> pd.DataFrame | None:
    """The frame of pyarrow, which must be the other one if there is one."""
    header = read_header(path, separator)
    columns = list(header) if columns is None else columns
    found = fast_csv.read(path, header, columns, separator, "utf-8")
    if found is not None:
        expected = by_pandas(path, columns, separator)
        pd.testing.assert_frame_equal(found, expected, check_exact=True, check_freq=True)
        for name in found:
            assert found[name].dtype == expected[name].dtype
            assert (
                getattr(found[name].array, "_pa_array", pd).__class__
                is getattr(expected[name].array, "_pa_array", pd).__class__
            )
            if found[name].dtype == np.float64:
                assert found[name].to_numpy().tobytes() == expected[name].to_numpy().tobytes()
            else:
                values, others = found[name].tolist(), expected[name].tolist()
                assert [type(value) for value in values] == [type(value) for value in others]
    return found


def write(folder: Path, *rows: str, header: str = HEADER, ending: str = "\n") -> Path:
    path = folder / "d.item"
    path.write_bytes((ending.join([header, *rows]) + ending).encode())
    return path


def test_every_type_with_empty_missing_and_foreign_values(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "u1\ta b\t1.50\t.5 1e3",
        "\t\t\t",
        "NA\tNA\tNA\tNA",
        "None\tn/a\tnull\tnan x",
        "ü 漢字\t👍 b\t-0.0\t1",
        " u2 \t  \t123456789012.25\t ",
        "",
        "001\tna\t0\t-1",
        "'q'\t<NA>\t-17\t#N/A",
    )
    found = compare(path)
    assert found is not None and len(found) == 8
    assert found["user_id:token"].isna().sum() == 3 and found["price:float"].isna().sum() == 3
    assert compare(path, ["vector", "user_id"]).columns.tolist() == ["user_id:token", "vector:float_seq"]


@pytest.mark.parametrize("whole", [True, False])
def test_columns_of_whole_numbers_and_of_others(tmp_path: Path, whole: bool) -> None:
    numbers = ["0", "5", "-12", "999999999999999", "" if whole else "0.1", "100000000000000", "1" if whole else "-7.0"]
    assert compare(write(tmp_path, *(f"u\t\t{number}\t" for number in numbers))) is not None


@pytest.mark.parametrize("separator", [",", ";", "|"])
def test_other_separators(tmp_path: Path, separator: str) -> None:
    rows = [row.replace("\t", separator) for row in ("u1\tx\t1\t2", "u2\t\t2.5\t")]
    assert compare(write(tmp_path, *rows, header=HEADER.replace("\t", separator)), separator=separator) is not None


@pytest.mark.parametrize(
    "row",
    [
        'u1\t"a b"\t1\t2', 'u"1\t\t1\t2', "u1\ta\r\t1\t2", "u\0\t\t1\t2",  # marks that readers take in their ways
        "u1\t\t0.1234567890123456\t", "u1\t\t1e3\t", "u1\t\tinf\t", "u1\t\t 1\t", "u1\t\t+1\t", "u1\t\t-0\t",
        "u1\t\t.5\t", "u1\t\tTrue\t", "u1\t\tx\t", "u1\t\t1_000\t",
        "u1\t\t1", "u1\t\t1\t2\t3", " ", "[PAD]\t\t1\t2", HEADER,  # no row of four values
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [2**20, 7])
def test_what_might_be_read_otherwise_is_left_to_the_other_reader(
    tmp_path: Path, row: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_csv, "_CHUNK", chunk)
    assert compare(write(tmp_path, "u0\t\t1\t2", row)) is None
    assert compare(write(tmp_path, "u0\t\t1\t2")) is not None


def test_files_of_another_kind_are_left_too(tmp_path: Path) -> None:
    assert compare(write(tmp_path, "u1", " ", header="user_id:token")) is None
    assert compare(write(tmp_path, "u0\t\t1\t2", ending="\r\n")) is None
    assert compare(write(tmp_path)) is None
    header = read_header(write(tmp_path, "u0\t\t1\t2"))
    assert fast_csv.read(tmp_path / "d.item", header, list(header), "\t", "latin-1") is None
    assert fast_csv.read(tmp_path / "d.item", header, list(header), "\t+", "utf-8") is None
    (tmp_path / "d.item").write_bytes(HEADER.encode() + b"\nu\xff\t\t1\t\n")
    assert fast_csv.read(tmp_path / "d.item", header, list(header), "\t", "utf-8") is None


VALUES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters='\t\n\r"\0'), max_size=4)
NUMBERS = st.one_of(
    st.decimals(-(10**6), 10**6, places=3).map(str),
    st.integers(-(10**15), 10**15).map(str),
    st.sampled_from(["", "nan"]),
)


@given(st.lists(st.tuples(VALUES, VALUES, NUMBERS, VALUES), min_size=1, max_size=8))
def test_any_table(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]) -> None:
    path = write(tmp_path_factory.mktemp("any"), *("\t".join(row) for row in rows))
    compare(path)


def frames(folder: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> tuple[Any, list[Any]]:
    """The data set of RecBole, and what pyarrow was asked for."""
    asked: list[Any] = []
    original = fast_csv.read
    monkeypatch.setattr(fast_csv, "read", lambda *a: asked.append(original(*a) if fast else None) or asked[-1])
    quiet = {"data_path": str(folder), "state": "ERROR", "show_progress": False, "load_col": None}
    data = create_dataset(Config("BPR", "tiny", config_dict=quiet))
    monkeypatch.setattr(fast_csv, "read", original)
    return data, asked


def test_a_data_set_is_the_same_and_the_slow_reader_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inter(tmp_path / "tiny", "tiny", random_pairs())
    items = [f"i{k}\tred {k}\t{k}.5\t1.5 {k}" for k in range(15)] + ["i77\t\t\t"]
    header = HEADER.replace("user_id", "item_id")
    (tmp_path / "tiny" / "tiny.item").write_text("\n".join([header, *items, ""]), encoding="utf-8")
    theirs, asked = frames(tmp_path, monkeypatch, fast=False)
    assert asked == [None, None]
    monkeypatch.setattr(pd, "read_csv", lambda *a, **k: pytest.fail("the slow reader"))
    ours, asked = frames(tmp_path, monkeypatch, fast=True)
    assert all(frame is not None for frame in asked)
    for part in ("inter_feat", "item_feat"):
        pd.testing.assert_frame_equal(getattr(ours, part), getattr(theirs, part), check_exact=True)
    assert ours.field2token_id == theirs.field2token_id and ours.field2seqlen == theirs.field2seqlen
