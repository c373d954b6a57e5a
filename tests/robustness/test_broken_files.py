"""Broken, odd and hostile files of import and extract: a message or the right result, and nothing half-written."""

from __future__ import annotations

import gzip
import io
import resource
import signal
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_mm.cli.main import main
from recbole_mm.data.convert.tables import import_tables
from recbole_mm.extract.extract import extract

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("pyarrow")


def cut_parquet() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"user": ["u"] * 50, "item": [f"i{k}" for k in range(50)]}).to_parquet(buffer)
    return buffer.getvalue()[:-20]


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def zst(text: str) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(text.encode()))


def other_bytes(content: bytes) -> bytes:
    """With another byte in the middle."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


GOOD = "user,item\nu1,a\nu2,b\n"
LONG = "x" * 200_000

#: Case to the file of clicks, its content, and the item ids that must come out, in order.
RIGHT: dict[str, tuple[str, str | bytes, list[str]]] = {
    "semicolons in a .csv": ("c.csv", "user;item\nu1;a\nu2;b\n", ["a", "b"]),
    "tabs in a .csv": ("c.csv", "user\titem\nu1\ta\nu2\tb\n", ["a", "b"]),
    "bars in a .txt": ("c.txt", "user|item\nu1|a\nu2|b\n", ["a", "b"]),
    "commas in a .tsv": ("c.tsv", GOOD, ["a", "b"]),
    "byte order mark": ("c.csv", "\ufeff" + GOOD, ["a", "b"]),
    "byte order mark, quoted header": ("c.csv", '\ufeff"user","item"\n"u1","a"\n', ["a"]),
    "Windows line ends": ("c.csv", GOOD.replace("\n", "\r\n"), ["a", "b"]),
    "line ends of old Macs": ("c.csv", GOOD.replace("\n", "\r"), ["a", "b"]),
    "no line end at the end": ("c.csv", GOOD.rstrip("\n"), ["a", "b"]),
    "blank lines": ("c.csv", "user,item\n\nu1,a\n\nu2,b\n\n", ["a", "b"]),
    "leading zeros": ("c.csv", "user,item\nu,007\nu,7\n", ["007", "7"]),
    "ids like numbers": (
        "c.csv",
        "user,item\nu,1e5\nu,1.0\nu,100000\nu,0x1F\nu,1_0\n",
        ["1e5", "1.0", "100000", "0x1F", "1_0"],
    ),
    "ids of 20 digits": ("c.csv", "user,item\nu,12345678901234567890\n", ["12345678901234567890"]),
    "ids like dates and truth": ("c.csv", "user,item\nu,2024-01-01\nu,True\n", ["2024-01-01", "True"]),
    "ids that mean missing": ("c.csv", "user,item\nu,NA\nu,null\nu,nan\nu,a\n", ["a"]),
    "empty ids": ("c.csv", "user,item\n,a\nu,\nu,b\n", ["b"]),
    "unicode ids": (
        "c.csv",
        "user,item\nü,日本 語\nu,🎈\nu,e\u0301\nu,\u00e9\n",
        ["日本 語", "🎈", "e\u0301", "\u00e9"],
    ),
    "quotes and separators in ids": (
        "c.csv",
        'user,item\nu,"a,b"\nu,"say ""hi"""\nu,it\'s\n',
        ["a,b", 'say "hi"', "it's"],
    ),
    "line break in a column that is not used": ("c.csv", 'user,item,note\nu,a,"one\ntwo"\nu,b,x\n', ["a", "b"]),
    "a cell of 200,000 letters": ("c.csv", f"user,item,note\nu,a,{LONG}\nu,b,x\n", ["a", "b"]),
    "columns with blanks around": ("c.csv", " user , item \nu,a\n", ["a"]),
    "upper case columns": ("c.csv", "User ID,Item-Id\nu,a\n", ["a"]),
    "times with zones": (
        "c.csv",
        "user,item,time\nu,a,2024-05-01T12:00:00Z\nu,b,2024-05-01T12:00:00+02:00\n",
        ["a", "b"],
    ),
    "numbers in json": (
        "c.jsonl",
        '{"user": 1, "item": 1.0}\n{"user": 2, "item": 12345678901234567890}\n',
        ["1.0", "12345678901234567890"],
    ),
    "null in json": ("c.jsonl", '{"user": "u", "item": null}\n{"user": "u", "item": "a"}\n', ["a"]),
    "whole numbers as floats in parquet": ("c.parquet", parquet(user=[1.0, 2.0, None], item=[7, 8, 9]), ["7", "8"]),
    "long whole numbers beside a missing one in parquet": (
        "c.parquet",
        parquet(user=["u", "u", "u"], item=pd.array([1234567890123456789, 1234567890123456788, None], dtype="Int64")),
        ["1234567890123456789", "1234567890123456788"],
    ),
    "texts as bytes in parquet": (
        "c.parquet",
        parquet(user=["u", "v"], item=[b"a", "\u00fc".encode()]),
        ["a", "\u00fc"],
    ),
    "a separator named as Excel does": ("c.csv", "\ufeffsep=;\r\nuser;item\r\nu1;a\r\nu2;b\r\n", ["a", "b"]),
    "blanks behind commas": ("c.csv", 'user, item, note\nu1, a, "x, y"\nu2, b, z\n', ["a", "b"]),
    "a key that only the last line has": (
        "c.jsonl",
        '{"user": "u", "item": "a"}\n' * 300 + '{"user": "u", "item": "b", "rating": 3}\n',
        ["b"],
    ),
    "packed": ("c.csv.gz", gzip.compress(GOOD.encode()), ["a", "b"]),
    "packed in several parts": ("c.csv.zst", zst(GOOD[:14]) + zst(GOOD[14:]), ["a", "b"]),
    "days since 1970": ("c.csv", "user,item,time\nu,a,19844\nu,b,19845\n", ["a", "b"]),
}

#: Case to the file of clicks, its content, and words of the message.
WRONG: dict[str, tuple[str, str | bytes, str]] = {
    "blanks between columns": ("c.csv", "user item\nu1 a\nu2 b\n", "separates the first line"),
    "two colons between columns": ("c.csv", "user::item\nu1::a\n", "separates the first line"),
    "no file": ("none/x.csv", "", "no file"),
    "a column that is not there": ("c.csv", "user,product\nu,\n", "no interaction"),
    "columns twice": ("c.csv", "user,item,item\nu,a,b\n", "'item' is there 2 times"),
    "a row too long": ("c.csv", "user,item\nu,a\nu,b,c\n", "Expected 2 fields in line 3"),
    "a quote that is never closed": ("c.csv", 'user,item\nu,a\nu,"b\nu,c\n', "EOF inside string"),
    "a line break in an id": ("c.csv", 'user,item\nu,"a\nb"\n', "line break"),
    "latin letters of old programs": ("c.csv", "user,item\nu,é\n".encode("latin-1"), "expected text in UTF-8"),
    "UTF-16 of a spreadsheet": ("c.csv", GOOD.encode("utf-16"), "UTF-16"),
    "dates and seconds mixed": ("c.csv", "user,item,time\nu,a,2024-05-01\nu,b,1714521600\n", "row 1 '2024-05-01'"),
    "two forms of dates": ("c.csv", "user,item,time\nu,a,2024-05-01\nu,b,01.05.2024\n", "row 2 '01.05.2024'"),
    "a date that does not exist": ("c.csv", "user,item,time\nu,a,2023-02-29\n", "row 1 '2023-02-29'"),
    "a rating in words": ("c.csv", "user,item,rating\nu,a,good\n", "row 1 'good'"),
    "an infinite rating": ("c.csv", "user,item,rating\nu,a,inf\n", "row 1 'inf'"),
    "parquet cut off": ("c.parquet", cut_parquet(), "no complete parquet"),
    "csv called parquet": ("c.parquet", GOOD, "no complete parquet"),
    "parquet without rows": ("c.parquet", parquet(user=[], item=[]), "no interaction"),
    "lists for ids": ("c.parquet", parquet(user=["u"], item=[["a", "b"]]), "a list"),
    "gzip cut off": ("c.csv.gz", gzip.compress(GOOD.encode() * 50, mtime=0)[:40], "copy it again"),
    "zstandard cut off": ("c.csv.zst", zst(GOOD * 40_000)[:-60], "its end is missing"),
    "csv called zstandard": ("c.csv.zst", GOOD, "copy it again"),
    "gzip with other bytes": ("c.csv.gz", other_bytes(gzip.compress(GOOD.encode() * 4000, mtime=0)), "copy it again"),
    "years for times": ("c.csv", "user,item,time\nu,a,2020\nu,b,2021\n", "look like years"),
    "days of a spreadsheet": ("c.csv", "user,item,time\nu,a,44197\nu,b,44198\n", "as spreadsheets count them"),
    "days and hours of a spreadsheet": ("c.csv", "user,item,time\nu,a,44197.5\n", "as spreadsheets count them"),
    "a date for never": ("c.csv", "user,item,time\nu,a,9999-12-31\nu,b,2024-05-01\n", "row 1 '9999-12-31'"),
    "files one behind the other": ("c.csv", GOOD + "\ufeff" + GOOD, "row 3: the names of the columns"),
    "a quotation mark that two lines share": (
        "c.tsv",
        'user\titem\tnote\nu\ta\t"x\nu\tb\ty" z\nu\tc\tz\n',
        "line 2: a value begins",
    ),
    "a label in words": ("c.csv", "user,item,label\nu,a,ja\n", "write 1 or 0"),
    "bytes that are no text": ("c.parquet", parquet(user=["u"], item=[b"\xff\xd8"]), "bytes that are no UTF-8"),
    "the padding as an id": ("c.csv", "user,item\nu,[PAD]\n", "calls the empty place of a list"),
    "csv called gzip": ("c.csv.gz", GOOD, "copy it again"),
    "one json list": ("c.json", '[{"user": "u", "item": "a"}]', "expected an object"),
    "json cut off": ("c.jsonl", '{"user": "u", "item": "a"}\n{"user": "u", "it', "line 2: no JSON"),
    "a page of html": ("c.csv", "<!doctype html><html><body>Not found</body></html>\n", "separates the first line"),
    "a spreadsheet": ("c.xlsx", b"PK\3\4", "ends in"),
    "zero bytes": ("c.csv", b"user,item\nu,\0\n", "zero bytes"),
}

#: Case to further arguments with files, and words of the message.
BESIDE: dict[str, tuple[dict[str, str | bytes], dict[str, Any], str]] = {
    "products without the column of ids": (
        {"p.csv": "name,price\nx,1\n"},
        {"items": "p.csv"},
        "which column is the item",
    ),
    "products twice": ({"p.csv": "item,price\na,1\na,2\n"}, {"items": "p.csv"}, "several rows that differ"),
    "a price in words": (
        {"p.csv": "item,price\na,cheap\n"},
        {"items": "p.csv", "types": {"price": "float"}},
        "'cheap' of 'a'",
    ),
    "a kind that is none": (
        {"p.csv": "item,price\na,1\n"},
        {"items": "p.csv", "types": {"price": "int"}},
        "expected one of token",
    ),
    "products with other ids than the clicks": (
        {"p.csv": "item,price\n1,1\n"},
        {"items": "p.csv"},
        "none of the 1 ids",
    ),
    "users with other ids than the clicks": ({"p.csv": "user,age\n1,1\n"}, {"users": "p.csv"}, "none of the 1 ids"),
    "products with pictures inside": (
        {"p.parquet": parquet(item=["a"], image=[{"bytes": b"\xff\xd8"}])},
        {"items": "p.parquet"},
        "--types=image=drop",
    ),
    "vectors and ids of two lengths": (
        {"e.npy": npy(np.ones((3, 2))), "i.txt": "a\nb\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "one id for each row",
    ),
    "vectors as a pickle": (
        {"e.npy": npy(np.array([{"a": 1}], dtype=object)), "i.txt": "a\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "plain array",
    ),
    "vectors with NaN": (
        {"e.npy": npy(np.full((2, 2), np.nan)), "i.txt": "a\nb\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "NaN",
    ),
    "vectors with an id twice": (
        {"e.npy": npy(np.ones((2, 2))), "i.txt": "a\na\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "twice",
    ),
    "vectors of no product": (
        {"e.npy": npy(np.ones((2, 2))), "i.txt": "x\ny\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "none of",
    ),
    "vectors cut off": (
        {"e.npy": npy(np.ones((20, 20)))[:300], "i.txt": "a\n"},
        {"vectors": {"image": "e.npy,i.txt"}},
        "plain array",
    ),
    "a split without its test part": (
        {"t.csv": GOOD, "v.csv": GOOD},
        {"train": "t.csv", "valid": "v.csv"},
        "test missing",
    ),
}


def put(files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        file = Path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def left(folder: str = "dataset") -> list[str]:
    """Everything under a folder, hidden or not."""
    return sorted(str(path) for path in Path(folder).rglob("*"))


def test_the_tables_are_as_long_as_they_are_said_to_be() -> None:
    assert len(RIGHT) + len(WRONG) + len(BESIDE) + len(PICTURES) > 70


@pytest.mark.parametrize("case", RIGHT)
def test_odd_tables_are_read_as_they_are_meant(case: str) -> None:
    name, content, expected = RIGHT[case]
    put({name: content})
    import_tables("d", name)
    found = pd.read_csv("dataset/d/d.inter", sep="\t", dtype=str, keep_default_na=False)
    assert found["item_id:token"].tolist() == expected
    assert left() == ["dataset/d", "dataset/d/d.inter", "dataset/d/d.yaml"]


@pytest.mark.parametrize("case", WRONG)
def test_broken_tables_end_in_a_message(case: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    name, content, words = WRONG[case]
    if content:
        put({name: content})
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    assert main(["import", "d", f"--interactions={name}"]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and Path(name).name in error
    assert left() == []


@pytest.mark.parametrize("case", BESIDE)
def test_broken_files_beside_the_clicks_end_in_a_message(case: str) -> None:
    files, arguments, words = BESIDE[case]
    put({"c.csv": GOOD, **files})
    clicks = {} if "train" in arguments else {"interactions": "c.csv"}
    with pytest.raises((ValueError, KeyError), match=words):
        import_tables("d", **clicks, **arguments)
    assert left() == []


@pytest.mark.parametrize("case", ["header only", "cut off"])
def test_a_data_set_that_is_there_outlives_a_failed_import(case: str) -> None:
    put({"c.csv": GOOD, "bad.csv": {"header only": "user,item\n", "cut off": 'user,item\nu,"a\n'}[case]})
    import_tables("d", "c.csv")
    before = {path: Path(path).read_bytes() for path in left() if Path(path).is_file()}
    with pytest.raises(ValueError):
        import_tables("d", "bad.csv", replace=True)
    assert {path: Path(path).read_bytes() for path in left() if Path(path).is_file()} == before


def test_what_a_person_would_want_to_know_is_said() -> None:
    put({"c.csv": GOOD, "t.csv": "user,item\nu1,a\nu2,c\n", "odd.csv": "user,item\nu1,a\u200b\nu1,a\n"})
    split = import_tables("split", train="c.csv", valid="t.csv", test="c.csv")
    assert "test: 2 of 2 rows are pairs of a user and an item that training has" in str(split)
    assert "valid: 1 of 2 rows are pairs" in str(split)
    found = str(import_tables("odd", "odd.csv"))
    assert "1 item ids hold characters that do not show, such as 'a\\u200b'" in found
    put({"odd.csv": "user;item\nu1 ;4,00638E+12\nu1;1e5\n"})
    found = str(import_tables("cut", "odd.csv"))
    assert "1 user ids begin or end with a blank, such as 'u1 '" in found
    assert "1 item ids are long numbers that a spreadsheet or a float cut short, such as '4,00638E+12'" in found
    with pytest.raises(ValueError, match="drop_unseen does nothing without a split"):
        import_tables("d", "c.csv", drop_unseen=True)


def test_a_number_that_no_integer_holds_stays_what_it_is() -> None:
    import_tables("d", pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "rating": [1e30, 3]}))
    assert pd.read_csv("dataset/d/d.inter", sep="\t")["rating:float"].tolist() == [1e30, 3]


def test_a_column_that_is_to_be_dropped_is_not_read() -> None:
    put({"p.parquet": parquet(item=["a", "z"], image=[{"bytes": b"\xff\xd8"}] * 2)})
    clicks = pd.DataFrame({"user": ["u"], "item": ["a"]})
    report = import_tables("d", clicks, items="p.parquet", types={"image": "drop"})
    assert report.new_items == 1 and "image drop (as you said)" in str(report)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond a size, as on a disk that is full: the system refuses the write."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("what", ["clicks", "products", "texts", "vectors"])
def test_a_full_disk_leaves_nothing_of_an_import(what: str) -> None:
    many = range(4000)
    clicks = pd.DataFrame({"user": ["u"] * 50, "item": [str(k) for k in range(50)]})
    arguments: dict[str, Any] = {}
    if what == "clicks":
        clicks = pd.DataFrame({"user": ["u"] * 4000, "item": [f"item {k}" for k in many]})
    if what == "products":
        arguments["items"] = pd.DataFrame({"item": [str(k) for k in many], "price": [k / 7 for k in many]})
    if what == "texts":
        words = np.random.default_rng(0).integers(0, 10**9, 4000).astype(str)
        arguments["items"] = pd.DataFrame({"item": [str(k) for k in many], "title": words}).iloc[:3000]
        arguments["types"] = {"title": "text"}
    if what == "vectors":
        put({"e.npy": npy(np.random.default_rng(0).random((50, 300))), "i.txt": "\n".join(map(str, range(50)))})
        arguments["vectors"] = {"image": "e.npy,i.txt"}
    with small_disk(20_000), pytest.raises(OSError):
        import_tables("d", clicks, **arguments)
    assert left() == []
    import_tables("d", clicks, **arguments)


ENCODER = """
import numpy as np

class Mean:
    name, dim, fingerprint, calls, fail_at = "mean", 3, "0", 0, None

    def encode(self, inputs):
        Mean.calls += 1
        if Mean.calls == Mean.fail_at:
            raise MemoryError("no memory left")
        return np.stack([np.asarray(picture, dtype=np.float32).reshape(-1, 3).mean(axis=0) for picture in inputs])
"""
RED = (255, 0, 0)


def red(mode: str, suffix: str, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, RED).convert(mode).save(buffer, suffix, **options)
    return buffer.getvalue()


def deep() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def animated(suffix: str) -> bytes:
    return red("RGB", suffix, save_all=True, append_images=[Image.new("RGB", (40, 30), (0, 0, 255))])


def bomb() -> bytes:
    """A small file that says it is 60,000 x 60,000 pixels."""
    whole = bytearray(red("L", "PNG", (2, 2)))
    whole[16:24] = (60_000).to_bytes(4, "big") * 2
    whole[29:33] = zlib.crc32(bytes(whole[12:29])).to_bytes(4, "big")
    return bytes(whole)


#: Case to the picture, and its mean colour or words of the reason why it has no vector.
PICTURES: dict[str, tuple[bytes, tuple[int, int, int] | str]] = {
    "cmyk": (red("CMYK", "JPEG"), RED),
    "palette": (red("P", "GIF"), RED),
    "one bit": (red("RGB", "PNG", (1, 1)), RED),
    "16 bit": (deep(), (255, 255, 255)),
    "animated gif": (animated("GIF"), RED),
    "animated png": (animated("PNG"), RED),
    "animated webp": (animated("WEBP"), RED),
    "wide": (red("RGB", "PNG", (3000, 2)), RED),
    "cut off jpeg": (red("RGB", "JPEG", (400, 300))[:500], "damaged"),
    "cut off png": (red("RGB", "PNG", (400, 300))[:120], "damaged"),
    "empty": (b"", "not a picture"),
    "html": (b"<!doctype html><title>404</title>", "not a picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "huge": (bomb(), "more than 100,000,000 pixels"),
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A data set with a picture of every case, and an encoder that gives the mean colour."""
    put({"mean_colour.py": ENCODER, **{f"p/{case}.img": content for case, (content, _) in PICTURES.items()}})
    import_tables("shop", pd.DataFrame({"user": "u", "item": list(PICTURES)}))
    monkeypatch.syspath_prepend(tmp_path)
    import mean_colour  # type: ignore[import-not-found]

    yield mean_colour.Mean
    sys.modules.pop("mean_colour", None)


def run(**options: Any) -> Any:
    return extract("shop", image="p/{item_id}.img", encoder="mean_colour:Mean", **options)[0]


def test_every_picture_is_seen_or_named(shop: Any) -> None:
    made = run()
    with np.load("dataset/shop/shop.item.image.npz") as file:
        found = dict(zip(file["id"].tolist(), file["feature"]))
    for case, (_, expected) in PICTURES.items():
        if isinstance(expected, str):
            assert case not in found and expected in made.failed[case], (case, made.failed.get(case))
        else:
            assert np.abs(found[case] - expected).max() < 8, (case, found[case])
    assert not [path for path in left() if Path(path).name.startswith(".")]


def test_pictures_with_another_naming_are_described(shop: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"none of the 14 files is there.*p has 16 bit.img"):
        extract("shop", image="p/{item_id}.jpg", encoder="mean_colour:Mean")
    put({"q/IMG_1.jpg": b"x"})
    with pytest.raises(FileNotFoundError, match=r"q has IMG_1.jpg"):
        extract("shop", image="q/{item_id}.*", encoder="mean_colour:Mean")
    assert not [path for path in left() if "image" in path]


def test_an_encoder_that_fails_in_the_middle_goes_on(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_mm.extract.extract._BLOCK", 1)
    monkeypatch.setattr(shop, "fail_at", 3)
    with pytest.raises(RuntimeError, match="The encoder mean failed .MemoryError: no memory left.*first 2 of"):
        run(batch_size=1)
    assert not [path for path in left() if path.endswith((".npz", ".npy", ".json")) and "/." not in path]
    calls = shop.calls
    assert run(batch_size=1).rows == 8 and shop.calls == calls + 6
    assert not [path for path in left() if Path(path).name.startswith(".")]


def test_a_full_disk_leaves_no_feature_file(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    before = {path: Path(path).read_bytes() for path in left() if Path(path).is_file()}
    with small_disk(300), pytest.raises(OSError):
        run(replace=True)
    after = {path: Path(path).read_bytes() for path in left() if Path(path).is_file() and "/.shop" not in path}
    assert after == before
    assert run(replace=True).rows == 8
    assert not [path for path in left() if Path(path).name.startswith(".")]
