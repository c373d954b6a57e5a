"""Importing tables: what comes out, and what is refused without leaving anything behind."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import yaml
import zstandard
from recbole.config import Config
from recbole.data import create_dataset

import recbole_mm  # noqa: F401 - Config finds the data set's own yaml
from recbole_mm.data.convert.columns import classify
from recbole_mm.data.convert.tables import import_tables

CLICKS = "customer,sku,ts\nu1,007,2024-05-01\nu1,1e5,2024-05-02\nu2,1.0,2024-05-03\nu2,007,2024-05-04\n"


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def rows(folder, name, suffix="inter"):
    return pd.read_csv(folder / name / f"{name}.{suffix}", sep="\t", dtype=str, keep_default_na=False)


def load(name, path, model="BPR", **options):
    quiet = {"data_path": str(path), "state": "ERROR", "show_progress": False, "use_gpu": False}
    return create_dataset(Config(model=model, dataset=name, config_dict={**quiet, **options}))


def test_ids_stay_as_they_are_written(write, tmp_path):
    report = import_tables("shop", write("clicks.csv", CLICKS), data_path=tmp_path / "data")
    found = rows(tmp_path / "data", "shop")
    assert list(found) == ["user_id:token", "item_id:token", "timestamp:float"]
    assert found["item_id:token"].tolist() == ["007", "1e5", "1.0", "007"]
    assert found["timestamp:float"].tolist()[0] == "1714521600"
    assert (report.users, report.items, report.interactions) == (2, 3, 4)
    assert "user is customer, item is sku, time is ts" in str(report)
    dataset = load("shop", tmp_path / "data")
    assert set(dataset.field2id_token["item_id"][1:]) == {"007", "1e5", "1.0"}
    assert dataset.inter_num == 4 and "timestamp" in dataset.inter_feat.columns


@pytest.mark.parametrize(
    "form",
    ["csv", "tsv", "semicolon", "bom_crlf", "gz", "zst", "jsonl", "parquet", "frame", "index", "quoted"],
)
def test_every_form_gives_the_same_files(form, write, tmp_path):
    frame = pd.read_csv(write("x.csv", CLICKS), dtype=str)
    sources = {
        "csv": lambda: write("clicks.csv", CLICKS),
        "tsv": lambda: write("clicks.tsv", CLICKS.replace(",", "\t")),
        "semicolon": lambda: write("clicks.txt", CLICKS.replace(",", ";")),
        "bom_crlf": lambda: write("clicks.csv", b"\xef\xbb\xbf" + CLICKS.replace("\n", "\r\n").encode()),
        "gz": lambda: write("clicks.csv.gz", gzip.compress(CLICKS.encode())),
        "zst": lambda: write("clicks.csv.zst", zstandard.compress(CLICKS.encode())),
        "jsonl": lambda: write("clicks.jsonl", "\n".join(json.dumps(r) for r in frame.to_dict("records"))),
        "frame": lambda: frame.assign(ts=pd.to_datetime(frame.ts)),
        "index": lambda: write("clicks.csv", frame.to_csv()),
        "quoted": lambda: write(
            "clicks.csv", '"customer","sku","ts"\n' + CLICKS.partition("\n")[2].replace("u1", '"u1"')
        ),
    }
    if form == "parquet":
        source = tmp_path / "clicks.parquet"
        pytest.importorskip("pyarrow")
        frame.to_parquet(source)
    else:
        source = sources[form]()
    import_tables("shop", source, data_path=tmp_path / form)
    import_tables("shop", write("plain.csv", CLICKS), data_path=tmp_path / "plain")
    assert (tmp_path / form / "shop" / "shop.inter").read_bytes() == (
        tmp_path / "plain" / "shop" / "shop.inter"
    ).read_bytes()


@pytest.mark.parametrize(
    ("times", "seconds", "unit"),
    [
        (["1714521600", "1714608000"], 1714521600, "seconds"),
        (["1714521600000", "1714608000000"], 1714521600, "milliseconds"),
        (["19844", "19845"], 1714521600, "days"),
        (["20240501", "20240502"], 1714521600, "dates"),
        (["202405010000", "202405021030"], 1714521600, "dates"),
        (["20240501000000", "20240502103000"], 1714521600, "dates"),
        (["2024-05-01T00:00:00Z", "2024-05-02 10:00:00"], 1714521600, "dates"),
        (["3", "9"], 3, "no known unit"),
    ],
)
def test_times_become_seconds(times, seconds, unit, write, tmp_path):
    text = "user,item,time\n" + "".join(f"u,i{k},{time}\n" for k, time in enumerate(times))
    report = import_tables("shop", write("clicks.csv", text), data_path=tmp_path)
    assert float(rows(tmp_path, "shop")["timestamp:float"][0]) == seconds and unit in str(report)


def test_items_users_texts_and_vectors(write, tmp_path):
    pytest.importorskip("pyarrow")
    products = pd.DataFrame(
        {
            "sku": ["007", "1e5", "1.0", "new"],
            "price": ["1.5", "", "2", "3"],
            "code": ["01", "02", "01", "02"],
            "tags": ["red|blue", "red", "", "light blue|red"],
            "description": ["a long text about it, with many words and more"] * 4,
        }
    )
    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32))
    write("e.txt", "007\n1e5\n1.0\nnew\n")
    report = import_tables(
        "shop",
        write("clicks.csv", CLICKS),
        items=products,
        users=pd.DataFrame({"customer": ["u1", "u2"], "age": ["20", "30"]}),
        vectors={"image": f"{tmp_path / 'e.npy'},{tmp_path / 'e.txt'}"},
        data_path=tmp_path,
    )
    item = rows(tmp_path, "shop", "item")
    assert list(item) == ["item_id:token", "price:float", "code:token", "tags:token_seq"]
    assert item["tags:token_seq"].tolist() == ["red blue", "red", "", "light_blue red"]
    texts = pd.read_parquet(tmp_path / "shop" / "shop.text.parquet")
    assert list(texts) == ["item_id", "description"] and texts.item_id.tolist() == ["007", "1e5", "1.0", "new"]
    assert report.new_items == 1 and "4 x 4, 3 of 3 items have one" in str(report)
    settings = yaml.safe_load((tmp_path / "shop" / "shop.yaml").read_text())
    assert settings["load_col"]["user"] == ["user_id", "age"]
    dataset = load("shop", tmp_path, "MMGCN")
    assert dataset.user_feat is not None and "tags" in dataset.item_feat.columns
    assert list(dataset.features.item) == ["image"]


def test_columns_of_one_name_stay_apart(write, tmp_path):
    products = pd.DataFrame({"sku": ["007", "1e5"], "land": ["de", "fr"], "rating": [3, 4], "item_rating": [1, 2]})
    users = pd.DataFrame({"customer": ["u1", "u2"], "land": ["us", "de"]})
    report = import_tables("shop", write("clicks.csv", CLICKS), items=products, users=users, data_path=tmp_path)
    assert "user table: land is written as user_land" in str(report)
    settings = yaml.safe_load((tmp_path / "shop" / "shop.yaml").read_text())
    assert settings["load_col"]["item"] == ["item_id", "land", "item_rating", "item_rating_2"]
    dataset = load("shop", tmp_path)
    assert set(dataset.field2id_token["user_land"][1:]) == {"us", "de"}
    dataset.build()


def test_a_split_becomes_benchmark_files(write, tmp_path):
    texts = {"train": "u1,a\nu2,b\n", "valid": "u1,b\n", "test": "u1,z\nu2,a\n"}
    parts = {part: write(f"{part}.csv", "user,item\n" + text) for part, text in texts.items()}
    report = import_tables("shop", **parts, data_path=tmp_path)
    assert "test: 1 of 2 rows are of 0 users and 1 items that training lacks; kept" in str(report)
    assert len(rows(tmp_path, "shop", "test.inter")) == 2 and len(rows(tmp_path, "shop")) == 5
    import_tables("shop", **parts, data_path=tmp_path, drop_unseen=True, replace=True)
    assert len(rows(tmp_path, "shop", "test.inter")) == 1
    assert load("shop", tmp_path).benchmark_filename_list == ["train", "valid", "test"]


def test_what_is_dropped_of_a_split_is_nowhere(write, tmp_path):
    """Neither in the numbers of the report, nor in the texts, nor known to the tables of items."""
    texts = {"train": "u2,a,one\nu1,b,two\n", "valid": "u1,b,three\nu3,y,four\n", "test": "u1,z,five\nu2,a,six\n"}
    parts = {part: write(f"{part}.csv", "user,item,said\n" + text) for part, text in texts.items()}
    items = write("items.csv", "item,price\na,1\nb,2\ny,3\nz,4\n")
    report = import_tables("shop", **parts, items=items, reviews=["said"], data_path=tmp_path, drop_unseen=True)
    assert (report.users, report.items, report.interactions, report.new_items) == (2, 2, 4, 2)
    assert report.repeated == 2 and report.short_users == 2
    assert "item table: 4 items, 2 without an interaction; 0 have no row" in report.notes
    said = pd.read_parquet(tmp_path / "shop" / "shop.inter_text.parquet")
    assert said["said"].tolist() == ["one", "two", "three", "six"]
    assert rows(tmp_path, "shop").to_numpy().tolist() == [["u2", "a"], ["u1", "b"], ["u1", "b"], ["u2", "a"]]


def test_rows_without_an_id_are_counted(write, tmp_path):
    text = "user,item\nu1,a\n,b\nu2,NA\nu3,\nu4,a\n"
    report = import_tables("shop", write("clicks.csv", text), data_path=tmp_path)
    assert report.interactions == 2 and sum(report.skipped.values()) == 3
    assert "'NA', which RecBole reads as missing" in str(report) and "user id empty" in str(report)


def test_vectors_of_an_id_that_is_left_out_are_left_out(write, tmp_path):
    """Else the product would come back as a new one."""
    np.savez(tmp_path / "v.npz", id=np.array(["a", "NA", "b", "new"]), feature=np.eye(4, dtype=np.float32))
    clicks = write("clicks.csv", "user,item\nu1,a\nu2,NA\nu3,b\n")
    report = import_tables("shop", clicks, vectors={"image": str(tmp_path / "v.npz")}, data_path=tmp_path)
    assert report.skipped["vectors image: ids that RecBole reads as missing"] == 1
    with np.load(tmp_path / "shop" / "shop.item.image.npz") as written:
        assert written["id"].tolist() == ["a", "b", "new"]
        np.testing.assert_array_equal(written["feature"], np.eye(4)[[0, 2, 3]])


def test_a_modality_that_no_model_could_hold_is_refused(write, tmp_path):
    np.savez(tmp_path / "v.npz", id=np.array(["a"]), feature=np.ones((1, 2)))
    clicks = write("clicks.csv", "user,item\nu1,a\n")
    with pytest.raises(ValueError, match="modality 'type': torch's modules use this name"):
        import_tables("shop", clicks, vectors={"type": str(tmp_path / "v.npz")}, data_path=tmp_path)
    assert not (tmp_path / "shop").exists()


BROKEN = {
    "empty": ("", "is empty"),
    "one column": ("user\nu1\n", "separates the first line"),
    "no header": ("u1,5,100\nu2,6,101\n", "should name the columns"),
    "no user": ("a,item\nx,y\n", "which column is the user"),
    "no item": ("user,b\nx,y\n", "which column is the item"),
    "twice": ("user,user,item\nx,y,z\n", "'user' is there 2 times"),
    "header only": ("user,item\n", "has no interaction"),
    "too many cells": ("user,item\nu,i\nu,i,x\n", "Expected 2 fields in line 3, saw 3"),
    "open quote": ('user,item\nu,i\n"u,i\nu,i\n', "EOF inside string"),
    "line break in an id": ('user,item\n"u\n1",i\n', "tab, a line break"),
    "tab in an id": ("user,item\nu\t1,i\n", "tab, a line break"),
    "latin1": ("user,item\nu\xe9,i\n".encode("latin-1"), "line 2: expected text in UTF-8"),
    "utf16": ("user,item\nu,i\n".encode("utf-16"), "UTF-16"),
    "zero bytes": (b"user,item\n\0\0,i\n", "zero bytes"),
    "impossible date": ("user,item,time\nu,i,2024-02-30\nu,j,2024-02-01\n", "row 1 '2024-02-30'"),
    "mixed dates": ("user,item,time\nu,i,2024-02-01\nu,j,1714521600\n", "row 1 '2024-02-01'"),
    "mixed units": ("user,item,time\nu,i,1714521600\nu,j,1714521600000\n", "row 2 '1714521600000'"),
    "american dates": ("user,item,time\nu,i,05/31/2024\n", "time_format"),
    "comma in a rating": ('user,item,rating\nu,i,"4,5"\n', "row 1 '4,5'"),
    "label": ("user,item,label\nu,i,maybe\n", "row 1 'maybe'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_tables_are_refused_and_nothing_is_written(kind, write, tmp_path):
    content, words = BROKEN[kind]
    with pytest.raises((ValueError, KeyError), match=words.replace("(", r"\(")):
        import_tables("shop", write("clicks.csv", content), data_path=tmp_path / "data")
    assert not list((tmp_path / "data").glob("**/*"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.parquet", b"PAR1 but not really", "no complete parquet"),
        ("x.csv.gz", gzip.compress(CLICKS.encode() * 9, mtime=0)[:60], "copy it again"),
        ("x.csv.gz", b"no gzip", "copy it again"),
        ("x.jsonl", '{"user": 1}\n{"user": \n', "line 2: no JSON"),
        ("x.jsonl", "[1]\n", "expected an object"),
        ("x.xlsx", b"PK", "expected a file that ends in"),
    ],
)
def test_broken_files_are_refused(name, content, words, write, tmp_path):
    with pytest.raises(ValueError, match=words):
        import_tables("shop", write(name, content), data_path=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_further_refusals(write, tmp_path):
    clicks = write("clicks.csv", CLICKS)
    items = pd.DataFrame({"sku": ["007", "007"], "price": ["1", "2"]})
    for arguments, error, words in [
        ({"user": "custmer"}, KeyError, "Did you mean"),
        ({"user": "sku"}, ValueError, "which column is the item"),
        ({"items": items}, ValueError, "rows that differ"),
        ({"types": {"colour": "token"}}, KeyError, "no table of items"),
        ({"types": {"price": "number"}, "items": items}, ValueError, "expected one of token"),
        ({"vectors": {"image": "nowhere.xyz"}}, ValueError, "MATRIX.npy,IDS.txt"),
        ({"train": clicks}, ValueError, "not both"),
    ]:
        with pytest.raises(error, match=words):
            import_tables("shop", clicks, data_path=tmp_path / "data", **arguments)
    for name in ("../x", "", "a b", ".hidden"):
        with pytest.raises(ValueError, match="no name for a data set"):
            import_tables(name, clicks, data_path=tmp_path / "data")
    import_tables("shop", clicks, data_path=tmp_path / "data")
    with pytest.raises(FileExistsError, match="replace"):
        import_tables("shop", clicks, data_path=tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["shop"]
    report = import_tables("other", clicks, items=items, duplicates="last", data_path=tmp_path / "data")
    assert "1 further rows" in str(report) and rows(tmp_path / "data", "other", "item")["price:float"].tolist() == ["2"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", ""], "float"),
        (["007", "008"], "token"),
        (["a|b", "c|d", "a"], "token_seq"),
        ([["a", "b"], ["c"]], "token_seq"),
        ([["1", "2"], ["3", "4"]], "float_seq"),
        ([f"Red shirt number {k}" for k in range(20)], "text"),
        (["red", "blue"] * 10, "token"),
        (["", ""], "drop"),
    ],
)
def test_kinds_of_columns(cells, kind):
    assert classify("x", pd.Series(cells, dtype=object)).kind == kind


def test_float_ids_of_a_frame_are_whole_again(tmp_path):
    frame = pd.DataFrame({"user": [1.0, 2.0, np.nan], "item": [7, 8, 9]})
    import_tables("shop", frame, data_path=tmp_path)
    assert rows(tmp_path, "shop")["user_id:token"].tolist() == ["1", "2"]


def test_products_without_a_click_are_known_without_a_flag(write, tmp_path):
    """Those of the table, and those that only the vectors know; a table of clicks alone has none."""
    np.savez(tmp_path / "v.npz", id=np.array(["007", "new-by-vector"]), feature=np.ones((2, 3), dtype=np.float32))
    import_tables(
        "shop", write("c.csv", CLICKS), items=write("p.csv", "sku,price\n007,1\nnew-by-table,2\n"),
        vectors={"image": f"{tmp_path / 'v.npz'}"}, data_path=tmp_path / "data",
    )  # fmt: skip
    assert {"new-by-table", "new-by-vector"} <= set(load("shop", tmp_path / "data").field2id_token["item_id"])
    import_tables("plain", write("c.csv", CLICKS), data_path=tmp_path / "data")
    assert "new_items" not in (tmp_path / "data" / "plain" / "plain.yaml").read_text()
