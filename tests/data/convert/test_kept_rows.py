"""Rows that an import keeps by what stands in a column: what counts as the same, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from recbole_mm.data.convert import kept_rows, reading, streams
from recbole_mm.data.convert.kept_rows import _form
from recbole_mm.data.convert.layouts import import_layout
from recbole_mm.data.convert.tables import import_tables

COLUMNS = ("user", "item", "time", "event", "source")
ROWS = [
    ("u1", "i1", "2024-05-01", "view", "web"),
    ("u1", "", "no date", "view", "app"),
    ("u2", "i2", "2024-05-02", "purchase", "web"),
    ("u2", "[PAD]", "2024-05-02", "view", "web"),
    ("u3", "i1", "2024-05-03", " like", "app"),
    ("u1", "i3", "2024-05-04", "purchase", "app"),
]


def csv(rows=ROWS, separator=","):
    return "".join(separator.join(row) + "\n" for row in (COLUMNS, *rows))


def events(name="events.csv", rows=ROWS):
    Path(name).write_text(csv(rows), encoding="utf-8")
    return name


def pairs(name="log"):
    rows = pd.read_csv(f"dataset/{name}/{name}.inter", sep="\t", dtype=str)
    return list(zip(rows["user_id:token"], rows["item_id:token"]))


def source(form):
    """The same log in another form; jsonl and parquet have the kind within an object."""
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    nested = [{**dict(zip(COLUMNS[:3], row)), "meta": {"event": row[3]}} for row in ROWS]
    file = Path(f"events.{form}")
    if form == "frame":
        return frame.assign(event=frame.event.astype("category"))
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested), file)
    elif form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in nested), encoding="utf-8")
    else:
        text = csv(separator="\t" if form == "tsv" else ",").encode()
        file.write_bytes(zstandard.compress(text) if form.endswith("zst") else text)
    return str(file)


@pytest.mark.parametrize("form", ["csv", "tsv", "csv.zst", "jsonl", "parquet", "frame"])
def test_rows_left_out_are_not_looked_at_in_any_form(form, monkeypatch):
    monkeypatch.setattr(streams, "CHUNK_ROWS", 2)  # of which the second has one row left, and the first none
    monkeypatch.setattr(reading, "CHUNK_ROWS", 2)
    column = "meta.event" if form in ("jsonl", "parquet") else "event"
    report = import_tables("log", source(form), keep={column: ["purchase", "like"]})
    assert pairs() == [("u2", "i2"), ("u3", "i1"), ("u1", "i3")]
    assert report.kept == {column: {"purchase": 2, "like": 1}}
    assert (report.rows_read, report.interactions, report.users, report.items) == (6, 3, 3, 3)
    assert report.skipped == {f"interactions: {column} is not purchase or like": 3}
    assert f"keep {column}: purchase 2, like 1; others are view 3" in str(report) and "--keep" not in str(report)
    with pytest.raises(ValueError, match="no date"):
        import_tables("other", source(form), keep={column: ["view"]})


def test_all_columns_have_to_hold_and_a_row_is_left_out_once():
    report = import_tables("log", events(), keep={"event": ["purchase"], "source": "web"}, reviews=["source"])
    assert pairs() == [("u2", "i2")] and report.kept == {"event": {"purchase": 2}, "source": {"web": 3}}
    assert list(report.skipped.values()) == [4, 1] and report.to_dict()["kept"] == report.kept
    assert pd.read_parquet("dataset/log/log.inter_text.parquet")["source"].tolist() == ["web"]
    assert "columns left out" not in str(report)


def test_the_parts_of_a_split_are_filtered_alike():
    parts = {
        "train": events("train.csv"),
        "valid": events("valid.csv", ROWS[:4]),  # has no like
        "test": events("test.csv", ROWS[2:]),
    }
    report = import_tables("log", **parts, keep={"event": ["purchase", "like"]})
    assert (report.interactions, report.rows_read, report.kept) == (7, 14, {"event": {"purchase": 5, "like": 2}})
    with pytest.raises(ValueError, match=r"^valid.csv, column event: no row has 'like' \(keep\)"):
        import_tables("other", **parts, keep={"event": ["like"]})
    with pytest.raises(ValueError, match=r"^train.csv, valid.csv, test.csv, column event: no row has 'liked'"):
        import_tables("other", **parts, keep={"event": ["purchase", "liked"]})


def test_a_column_may_be_a_role_too():
    table = pd.DataFrame({"user": ["a", "b", "b"], "item": ["x", "x", "y"], "rating": ["5", "4.0", "bad"]})
    assert import_tables("log", table, keep={"rating": [4, 5]}).kept == {"rating": {"4": 1, "5": 1}}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("+2.50", "2.5", True),
        ("true", "1", True),
        ("False", "0.0", True),
        ("-1", "1", False),
        ("007", "7", False),
        ("10", "1", False),
        ("9007199254740993", "9007199254740992", False),
        ("Purchase", "purchase", False),
        ("", "0", False),
    ],
)
def test_what_is_the_same_value(one, other, same):
    assert (_form(one) == _form(other)) is same


@pytest.mark.parametrize("asked", [True, 1, 1.0, "1", "true", "TRUE"])
@pytest.mark.parametrize(
    "cells", [[True, False, None], [1.0, 0.0, None], [1, 0, 0], ["true", "false", ""], ["1.0", "0", "no"]]
)
def test_booleans_and_numbers_of_typed_tables(cells, asked):
    table = pd.DataFrame({"user": ["a", "b", "c"], "item": ["x", "y", "z"], "bought": cells})
    import_tables("log", table, keep={"bought": [asked]})
    assert pairs() == [("a", "x")]


def test_empty_cells_lists_and_times():
    days = pd.to_datetime(["2024-05-01 10:00", None, None])
    table = pd.DataFrame(
        {"user": ["a", "b", "c"], "item": ["x", "y", "z"], "cancelled": days, "tags": [["p", "q"]] * 3}
    )
    report = import_tables("log", table, keep={"cancelled": [""], "tags": ["p, q"]})
    assert pairs() == [("b", "y"), ("c", "z")]
    assert "keep cancelled: (empty) 2; others are 2024-05-01 10:00:00 1" in str(report)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ({"evnt": ["view"]}, KeyError, r"no column 'evnt' \(keep\). Did you mean 'event'\? It has user, item"),
        ({"event": []}, ValueError, "keep: event has no value; give those"),
        ({"event": None}, ValueError, "keep: event has no value; give those"),
        (
            {"event": ["purchase", "Likes"]},
            ValueError,
            r"^events.csv, column event: no row has 'Likes' \(keep\). Did you mean 'like'\? "
            r"The most frequent values: view 3, purchase 2, like 1.$",
        ),
        ({"event": "purchase,like"}, ValueError, r"no row has 'purchase,like' .* \(--keep='event=a\|b'\)"),
        (
            {"event": ["like"], "source": ["web"]},
            ValueError,
            r"leaves none of 6 rows, since none has all that was asked for \(event: like 1; source: web 3\)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(keep, error, message):
    with pytest.raises(error, match=message):
        import_tables("log", events(), keep=keep)
    assert not Path("dataset/log").exists()


def test_of_many_values_few_are_in_memory(monkeypatch):
    monkeypatch.setattr(kept_rows, "_COUNTED", 3)
    rows = [(f"u{k}", "i", "2024-05-01", "view", f"s{k}") for k in range(9)]
    report = import_tables("log", events(rows=[*rows, rows[0]]), keep={"source": ["s0", "s7"]})
    assert report.kept == {"source": {"s0": 2, "s7": 1}} and report.skipped.popitem()[1] == 7
    assert len(str(report).split("others are ")[1].splitlines()[0].split(", ")) == 2


def test_a_log_of_events_is_told_how_to_keep_some():
    good = [row for row in ROWS if row[1].startswith("i")] + [("u9", "i1", "2024-05-01", "view", "app")]
    expected = "(event: view 2, purchase 2, like 1); --keep='event=purchase' takes some"
    report = import_tables("log", events(rows=good))
    assert f"events.csv: all kinds of event count as interactions {expected}" in str(report)
    assert report.interactions == len(good) and "columns left out: event, source" in str(report)
    split = import_tables("split", train=events(rows=good), valid=events(rows=good), test=events(rows=good))
    assert [note for note in split.notes if "all kinds" in note and "(event: view 6, purchase 6, like 3)" in note]


@pytest.mark.parametrize(
    ("column", "values", "proposed"),
    [
        ("Event Type", ["view", "cart"] * 20 + ["view"], "--keep='Event Type=cart'"),
        ("behaviour", ["pv", "buy", "fav", "buy"] * 10, "--keep='behaviour=buy'"),
        ("action", ["a"] * 40, None),  # one kind
        ("action", [f"a{k}" for k in range(21)], None),  # too many kinds
        ("action", ["it's", "a|b"], None),  # none that could be given as it is shown
        ("action", [b"\xff", b"\xfe"], None),  # no texts, and none of the import's business
        ("colour", ["red", "blue"], None),
    ],
)
def test_which_columns_look_like_kinds_of_events(column, values, proposed):
    frame = pd.DataFrame({"user": [f"u{k}" for k in range(len(values))], "item": "i", column: values})
    frame.to_parquet("events.parquet")
    for table in (frame, "events.parquet"):
        notes = str(import_tables("log", table, replace=True))
        assert (proposed in notes) if proposed else ("--keep" not in notes)


def test_kinds_within_objects():
    rows = [{"user": {"id": k, "type": "ab"[k]}, "item": "x", "event": {"type": "vp"[k]}} for k in range(2)]
    Path("e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "(event.type: v 1, p 1)" in str(import_tables("log", "e.jsonl"))
    del rows[0]["event"], rows[1]["event"]
    Path("e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "--keep" not in str(import_tables("log", "e.jsonl", replace=True))  # a type of users is no kind of event


def test_layouts_have_it_and_what_is_given_wins(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    events(folder / "events.csv")
    own = tmp_path / "own.yaml"
    own.write_text("interactions: events.csv\nkeep: {event: [purchase, like], source: app}\n", encoding="utf-8")
    assert import_layout("a", str(own), folder)[0].interactions == 2
    assert import_layout("b", str(own), folder, keep={"event": ["purchase"]})[0].interactions == 1
    own.write_text("interactions: events.csv\nkeep: event\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"keep: expected names and values such as \{event: \[purchase\]\}"):
        import_layout("c", str(own), folder)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,5.0,1588687728\n1,2,1.0,1588687728\n")
    assert import_layout("d", "movielens", folder, keep={"rating": ["5"]})[0].interactions == 1
