"""Objects in the cells of a table: their parts are columns, and no object is an id."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from recbole_mm.data.convert.columns import NO_CONTENT, classify
from recbole_mm.data.convert.objects import part, part_names
from recbole_mm.data.convert.tables import import_tables

EVENTS = [
    {"user": {"id": "u1", "country": "FR"}, "item": {"id": "007"}, "at": {"ms": 1714521600000}},
    {"user": {"id": "u1", "country": "DE"}, "item": {"id": "008"}, "at": {"ms": 1714521601000}},
    {"user": {"id": "u2", "country": "DE"}, "item": {"id": "007"}, "at": {"ms": 1714521602000}},
]
TRACKS = [
    {"id": "007", "artist": {"name": "Ann", "id": 9007199254740993}, "title": "One"},
    {"id": "008", "artist": None, "title": "Two"},
]


def jsonl(file: Path, records: list[dict]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def parquet(file: Path, records: list[dict]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return file


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_parts_of_objects_are_ids_times_and_columns(write, tmp_path):
    clicks, tracks = (
        write(tmp_path / name, rows)
        for name, rows in (("e." + write.__name__, EVENTS), ("t." + write.__name__, TRACKS))
    )
    report = import_tables(
        "log", clicks, items=tracks, time="at.ms", types={"artist.id": "token"}, data_path=tmp_path / "data"
    )
    assert (report.users, report.items, report.interactions) == (2, 2, 3)  # u1 is one user in two countries
    assert "user is user.id, item is item.id" in str(report) and "left out" not in str(report)
    rows = pd.read_csv(tmp_path / "data/log/log.inter", sep="\t", dtype=str)
    assert rows["item_id:token"].tolist() == ["007", "008", "007"]
    assert rows["timestamp:float"].tolist() == ["1714521600", "1714521601", "1714521602"]
    items = pd.read_csv(tmp_path / "data/log/log.item", sep="\t", dtype=str, keep_default_na=False)
    assert items["artist_id:token"].tolist() == ["9007199254740993", ""]  # more digits than a float has
    assert [c.kind for c in report.columns["item"] if c.name == "artist"] == ["text"]
    assert "such as artist." in str(report)


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv", "frame"])
def test_an_object_is_no_id(form, tmp_path):
    records = [{"user": {"name": "Ann", "country": "FR"}, "item": "7"}]
    if form == "frame":
        source: object = pd.DataFrame(records)
    elif form == "csv":
        source = tmp_path / "clicks.csv"
        pd.DataFrame([{**records[0], "user": json.dumps(records[0]["user"])}]).to_csv(source, index=False)
    else:
        source = {"jsonl": jsonl, "parquet": parquet}[form](tmp_path / f"clicks.{form}", records)
    with pytest.raises(ValueError, match="1 user id.s. are objects, such as row 1 .*--user=user.id"):
        import_tables("log", source, data_path=tmp_path / "data")
    assert not (tmp_path / "data" / "log").exists()


def test_ids_in_braces_stay(tmp_path):
    clicks = pd.DataFrame({"user": ["{3f2504e0-4f89}", "{x}"], "item": ["a", "b"]})
    assert import_tables("braces", clicks, data_path=tmp_path).users == 2


def test_a_key_with_dots_comes_first():
    record = {"a.b": {"c": 1}, "a": {"b": {"c": 2}, "d": 3}, "user.id": "u"}
    assert list(part_names(record)) == ["a.b.c", "a.d", "a.b.c"]
    assert part(record, "a.d") == 3 and part(record, "user.id") == "u" and part(record, "a.x") is None
    assert part({"a.b": {"c": 1}}, "a.b.c") == 1


def test_a_table_of_products_may_call_its_ids_id_or_as_the_clicks_do(tmp_path):
    clicks = pd.DataFrame({"user": ["a", "b"], "artikel": ["1", "2"]})
    products = pd.DataFrame({"nummer": ["1", "2"], "colour": ["red", "blue"]})
    with pytest.raises(ValueError, match="which column is the item.*call it artikel, as the clicks do"):
        import_tables("shop", clicks, items=products, item="artikel", data_path=tmp_path)
    report = import_tables(
        "shop", clicks, items=products.rename(columns={"nummer": "ID"}), item="artikel", data_path=tmp_path
    )
    assert "item table: ID is the item" in str(report)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([f"{k:03}.JPG" for k in range(20)], "names of files"),
        ([f"{k:02}.10.2023" for k in range(1, 21)], "dates"),
        ([f"2023-10-{k:02} 08:00" for k in range(1, 21)], "dates"),
        ([json.dumps({"number": k}) for k in range(20)], "objects"),
        ([f"https://x.org/{k}" for k in range(20)], "web addresses"),
    ],
)
def test_texts_that_an_encoder_makes_nothing_of(cells, reason):
    column = classify("x", pd.Series(cells, dtype=object))
    assert (column.kind, column.reason) == ("text", reason) and reason in NO_CONTENT


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["24.12.2023 08:05", "01.02.2024 09:00"], r"time_format='%d.%m.%Y %H:%M' \("),
        (["12/24/2023", "01/02/2024"], r"time_format='%m/%d/%Y' \("),
        (["01/02/2024"], r"time_format='%d/%m/%Y' or '%m/%d/%Y' \("),
        (["yesterday"], r"time_format='%d/%m/%Y %H:%M' \("),
    ],
)
def test_dates_that_are_not_in_iso_form_get_the_form_that_fits(cells, form, tmp_path):
    clicks = pd.DataFrame({"user": "a", "item": "b", "time": cells})
    with pytest.raises(ValueError, match=form):
        import_tables("dates", clicks, data_path=tmp_path)
